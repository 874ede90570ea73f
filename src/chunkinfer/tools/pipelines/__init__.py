"""Pipelines: operators, networks and stores in one chain of words, or in one file.

>>> from chunkinfer import Pipeline                                         # doctest: +SKIP
>>> Pipeline.from_yaml(open("pipeline.yaml").read(), trust=True).run()                # doctest: +SKIP

======================  ==========================================================================
module                  purpose
======================  ==========================================================================
pipeline                the steps as a value; what they declare; running them
words, files            from the words of a command line; to and from YAML
commands, parameters    each step's command, out of its function's signature and docstring
objects                 segment, components and mesh as steps
looking                 show and view as steps; what is refused of the last steps before anything runs
======================  ==========================================================================
"""
