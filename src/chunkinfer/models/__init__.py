"""What a network is: the Model contract, the torch adapter, and the tracer that reads a network's context from it.

`receptive_field` states the context of any network: traced, or probed where nobody can look into it.
"""

from chunkinfer.models.field import ReceptiveField
from chunkinfer.models.model import Model, deliver, open_model
from chunkinfer.models.receptive import receptive_field

__all__ = ["Model", "ReceptiveField", "deliver", "open_model", "receptive_field"]
