"""Digests of what tensors hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from chunkinfer.errors import ModelError

PIECE = 1 << 24
"""Bytes that one thread digests at a time."""

THREADS = 4


class Contents:
    """Digests of tensors, each taken once. It keeps the tensors, and believes that nobody changes them meanwhile."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[torch.Tensor, str]] = {}

    def digest(self, tensor: torch.Tensor) -> str:
        """Of the tensor's values, shape and dtype; strides and devices don't matter."""
        if id(tensor) not in self._known:
            self.add([tensor])
        return self._known[id(tensor)][1]

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take the digests of many tensors, in threads where they are large."""
        fresh = list({id(t): t for t in tensors if id(t) not in self._known}.values())
        parts = [list(_pieces(t)) for t in fresh]
        flat = [piece for pieces in parts for piece in pieces]
        if sum(len(p) for p in flat) > PIECE:
            with ThreadPoolExecutor(THREADS) as pool:
                digests = iter(list(pool.map(_sha256, flat)))
        else:
            digests = iter(map(_sha256, flat))
        for tensor, pieces in zip(fresh, parts, strict=True):
            text = f"{tensor.dtype} {tuple(tensor.shape)} {' '.join(next(digests) for _ in pieces)}"
            self._known[id(tensor)] = tensor, hashlib.sha256(text.encode()).hexdigest()[:32]


def _sha256(data: Any) -> str:
    # Processors have instructions for it: 2.5 times as fast as blake2b.
    return hashlib.sha256(data).hexdigest()


def _pieces(tensor: torch.Tensor) -> Iterator[Any]:
    """The bytes of a tensor, in its own order of axes."""
    if tensor.is_meta or isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        raise without_values(tensor)
    if type(tensor).__name__ == "FakeTensor":  # an example's shape, which exported programs keep
        yield b"fake"
        return
    with torch.no_grad():
        tensor = tensor.detach()
        if tensor.is_quantized:
            yield _scales(tensor)
            tensor = tensor.int_repr()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = tensor.view(torch.uint8).numpy() if tensor.numel() else b""
    yield from (data[start : start + PIECE] for start in range(0, max(len(data), 1), PIECE))


def _scales(tensor: torch.Tensor) -> bytes:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{tensor.q_scale().hex()} {tensor.q_zero_point()}".encode()
    axis = tensor.q_per_channel_axis()
    scales, zeros = tensor.q_per_channel_scales().tolist(), tensor.q_per_channel_zero_points().tolist()
    return f"{axis} {scales} {zeros}".encode()


def without_values(tensor: torch.Tensor) -> ModelError:
    """A weight that holds no numbers."""
    if tensor.is_meta:
        return ModelError(
            "A weight of the network is on torch's meta device: it has a shape and no values.",
            "The network was built without data, and its weights were not loaded.",
            [
                'model.to_empty(device="cpu").load_state_dict(torch.load("weights.pt", weights_only=True))',
                'model.load_state_dict(torch.load("weights.pt", weights_only=True), assign=True)',
            ],
        )
    return ModelError(
        "A layer of the network has no weights yet.",
        "Lazy layers make them when they first see an input.",
        [
            "run it once, a network of volumes with model(torch.zeros(1, 1, 32, 32, 32))",
            "build it from layers whose channels are given",
        ],
    )
