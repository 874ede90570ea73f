"""What a network is: the Model contract, the torch adapter, and the tracer that reads a network's context from it.

`receptive_field` states the context of any network: traced, or probed where nobody can look into it.
"""
