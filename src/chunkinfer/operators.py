"""Operators by the name under which users import them: ``import chunkinfer.operators as op``."""

from chunkinfer.volumes.operators import *
from chunkinfer.volumes.operators import __all__ as __all__
