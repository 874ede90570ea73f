"""What a network is: the Model contract, the torch adapter, and the tracer that reads a network's context from it."""

from chunkinfer.models.model import Model, open_model

__all__ = ["Model", "open_model"]
