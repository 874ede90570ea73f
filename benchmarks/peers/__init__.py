"""Parts of benchmarks/peers.py: who takes part, how a run is measured, what its result is compared with."""
