"""Ways to run a network, one a file, behind one contract."""

from chunkinfer.engines.cache import user_cache
from chunkinfer.engines.contract import Engine, Run, Setup

__all__ = ["Engine", "Run", "Setup", "user_cache"]
