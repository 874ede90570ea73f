"""Ways to run a network, one a file, behind one contract."""

from chunkinfer.engines.contract import Engine, Run, Setup

__all__ = ["Engine", "Run", "Setup"]
