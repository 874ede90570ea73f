"""Blocks to the device and results back, while other blocks compute.

::

    the task's thread    upload ──┐                                          ┌── download
    upload stream                 copy ──event──┐                            │
    the kernel's stream                         └─ gather, network, blend ──event
    download stream                                                          └── copy

A block travels whole and as it is stored: a quarter of the bytes for uint8, and no voxel twice. It goes through
page-locked host memory, because only from there the copy runs beside the host and the kernels. Page-locking is slow and
takes memory from everybody else, so a few buffers are kept and used again.

On a CPU nothing is copied, and the same calls pass tensors on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]

BUFFERS = 2
"""Page-locked buffers of a process: one for each direction. They are held only while a copy runs, never while a kernel
does, so more blocks in flight don't need more."""

_transfers: dict[str, Transfers] = {}
_lock = threading.Lock()


class Event(Protocol):
    """A point in the work of a stream."""

    def record(self, stream: Any) -> None:
        """Put it behind all work that the stream was given so far."""

    def synchronize(self) -> None:
        """Block the calling thread until it is reached; at once where it was never recorded."""


class Stream(Protocol):
    """A queue of work on the device; queues run beside each other."""

    def wait_event(self, event: Any) -> None:
        """Later work of this stream starts after the event."""

    def wait_stream(self, stream: Any) -> None:
        """Later work of this stream starts after what the other was given so far."""


class Cuda:
    """All that transfers ask of CUDA, so that a test can stand in for it."""

    def stream(self) -> Stream:
        """A new queue of work."""
        import torch

        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def current(self) -> Stream:
        """The calling thread's stream."""
        import torch

        return torch.cuda.current_stream()

    def use(self, stream: Any) -> AbstractContextManager[Any]:
        """Make a stream the calling thread's."""
        import torch

        return torch.cuda.stream(stream)

    def event(self) -> Event:
        """A new event; who waits for it sleeps, instead of keeping a core busy that compresses chunks."""
        import torch

        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def page_locked(self, size: int) -> torch.Tensor:
        """Page-locked bytes on the host."""
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory on the device, which is the current stream's until another is recorded."""
        import torch

        return torch.empty(shape, dtype=dtype, device="cuda")

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy on the current stream."""
        target.copy_(source, non_blocking=True)

    def share(self, tensor: torch.Tensor, stream: Any) -> None:
        """Keep a tensor's memory, once it is dropped, until the stream has done what it was given by then."""
        tensor.record_stream(stream)


@dataclass(frozen=True)
class OnDevice:
    """A tensor on the device, and when its values are there."""

    tensor: torch.Tensor
    event: Event | None
    """Reached once the values are there; None on a CPU, where they are."""

    def wait(self) -> None:
        """Block the calling thread until the values are there."""
        if self.event is not None:
            self.event.synchronize()


class Transfers:
    """Moves arrays to a device and back; every thread may call every method.

    Parameters
    ----------
    device
        cpu or cuda.
    buffers
        Page-locked buffers at most.
    cuda
        What stands for CUDA; a test gives its own.
    """

    def __init__(self, device: str, buffers: int = BUFFERS, cuda: Cuda | None = None) -> None:
        self._cuda = cuda or Cuda() if device == "cuda" else None
        self._own = threading.local()
        if self._cuda is not None:
            self._buffers = Buffers(self._cuda, buffers)
            # One each way: copies of both directions run beside each other, and none waits behind the other's.
            self._up, self._down = self._cuda.stream(), self._cuda.stream()

    def upload(self, array: Array) -> OnDevice:
        """Start to copy an array to the device, in its own dtype; returns while the copy runs.

        Not to be written: on a CPU the tensor is the array's own memory, where torch can take it.
        """
        import torch

        if self._cuda is None:
            return OnDevice(torch.from_numpy(_plain(array)), None)
        dtype = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
        with self._buffers.take(array.nbytes) as buffer, self._cuda.use(self._up):
            staged = buffer.view(array.shape, dtype)
            np.copyto(staged.numpy(), array)
            tensor = self._cuda.empty(array.shape, dtype)
            self._cuda.copy(tensor, staged)
            del staged  # whoever takes the buffer next may grow it: what it was would stay page-locked beside it
            buffer.copied.record(self._up)
            ready = self._cuda.event()
            ready.record(self._up)
        return OnDevice(tensor, ready)

    @contextmanager
    def compute_stream(self) -> Iterator[None]:
        """Compute on the calling thread's own stream: kernels of several threads run beside each other.

        What the thread's stream was given before, such as the network's weights, comes first.
        """
        if self._cuda is None:
            yield
            return
        if not hasattr(self._own, "stream"):
            self._own.stream = self._cuda.stream()
        stream: Stream = self._own.stream
        stream.wait_stream(self._cuda.current())
        with self._cuda.use(stream):
            yield

    def ready(self, uploaded: OnDevice) -> torch.Tensor:
        """The tensor, for the current stream, which waits for it; the calling thread does not."""
        if self._cuda is not None:
            stream = self._cuda.current()
            stream.wait_event(uploaded.event)
            self._cuda.share(uploaded.tensor, stream)
        return uploaded.tensor

    def done(self, tensor: torch.Tensor) -> OnDevice:
        """A tensor that the current stream's work so far computes, to be downloaded by any thread."""
        if self._cuda is None:
            return OnDevice(tensor, None)
        event = self._cuda.event()
        event.record(self._cuda.current())
        return OnDevice(tensor, event)

    def compute(self, kernel: Callable[[torch.Tensor], torch.Tensor], uploaded: OnDevice) -> OnDevice:
        """Queue a kernel on the calling thread's own stream: `compute_stream`, `ready` and `done` in one."""
        with self.compute_stream():
            return self.done(kernel(self.ready(uploaded)))

    def download(self, computed: OnDevice) -> Array:
        """Wait until a tensor is computed, and copy it to the host; blocks the calling thread alone.

        The array is the caller's own. A page-locked buffer in its place would save a copy within the host, and be kept
        from other blocks for as long as a slow store takes. On a CPU the array is the tensor's memory.
        """
        tensor = computed.tensor
        if self._cuda is None:
            return tensor.numpy()
        # The thread waits and not the stream: a buffer held while a kernel runs, or a stream that waits for one, would
        # keep back the results of others.
        computed.wait()
        with self._buffers.take(tensor.nbytes) as buffer, self._cuda.use(self._down):
            staged = buffer.view(tuple(tensor.shape), tensor.dtype)
            self._cuda.copy(staged, tensor)
            buffer.copied.record(self._down)
            buffer.copied.synchronize()  # the tensor is kept by the caller, and may go from here on
            result = staged.numpy().copy()
            del staged  # as above
            return result


class Buffers:
    """At most ``limit`` page-locked buffers, made and grown as they are needed."""

    def __init__(self, cuda: Cuda, limit: int) -> None:
        self._places = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle = [Buffer(cuda) for _ in range(limit)]

    @contextmanager
    def take(self, size: int) -> Iterator[Buffer]:
        """A buffer of at least ``size`` bytes that nothing reads or writes; waits until one is free."""
        with self._places:
            with self._lock:  # the smallest that is large enough; otherwise the smallest, which grows
                chosen = min(self._idle, key=lambda b: (b.size < size, b.size))
                self._idle.remove(chosen)
            try:
                chosen.copied.synchronize()
                chosen.grow(size)
                yield chosen
            finally:
                with self._lock:
                    self._idle.append(chosen)


class Buffer:
    """Page-locked memory. Who takes it waits for `copied`, who lets a copy run in it records that."""

    def __init__(self, cuda: Cuda) -> None:
        self.copied = cuda.event()
        self._cuda = cuda
        self._memory = cuda.page_locked(0)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._memory.nbytes

    def grow(self, size: int) -> None:
        """Make room for ``size`` bytes."""
        if self.size < size:
            self._memory = self._cuda.page_locked(0)  # given up first: both together may be more than there is
            self._memory = self._cuda.page_locked(buffer_bytes(size))

    def view(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The first bytes as a tensor."""
        return self._memory[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def buffer_bytes(size: int) -> int:
    """Bytes that are page-locked for ``size``: torch takes powers of two."""
    return 1 << (size - 1).bit_length() if size else 0


def transfers(device: str) -> Transfers:
    """This process's transfers to its device."""
    with _lock:
        if device not in _transfers:
            _transfers[device] = Transfers(device)
        return _transfers[device]


def _plain(array: Array) -> Array:
    """The array as torch takes it without a copy or a warning; a copy of a read-only, reversed or byte-swapped one."""
    plain = array.flags.writeable and array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    return array if plain else np.array(array, array.dtype.newbyteorder("="), order="C")
