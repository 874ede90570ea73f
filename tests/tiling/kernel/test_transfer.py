"""Transfers on a device that is played: it computes on the CPU, each piece of work as late or as early as it may.

Work that does not wait for what it needs runs too early here, on memory that holds something else, and the numbers are
wrong. Memory is given away as soon as CUDA's allocator would, so a tensor that was dropped while a stream still used it
is overwritten.
"""

from __future__ import annotations

import ctypes
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chunkinfer.tiling.kernel.transfer import BUFFERS, Buffer, Cuda, OnDevice, Transfers, buffer_bytes, transfers

Array = NDArray[Any]
POISON = 0xAB


class Mark:
    """Something that a stream reaches."""

    def __init__(self, stream: PlayedStream) -> None:
        self.stream, self.reached = stream, False


class PlayedEvent:
    def __init__(self, cuda: Played) -> None:
        self.cuda, self.mark = cuda, None

    cuda: Played
    mark: Mark | None

    def record(self, stream: PlayedStream) -> None:
        self.mark = stream.mark()

    def synchronize(self) -> None:
        with self.cuda.lock:
            if self.mark is not None:
                self.mark.stream.run_until(self.mark)


class PlayedStream:
    """Work in order: functions, marks to reach, and marks of other streams to wait for."""

    def __init__(self, cuda: Played) -> None:
        self.cuda = cuda
        self.work: deque[Callable[[], None] | tuple[str, Mark]] = deque()

    def push(self, work: Callable[[], None] | tuple[str, Mark]) -> None:
        with self.cuda.lock:
            self.work.append(work)
            self.cuda.drift()

    def mark(self) -> Mark:
        mark = Mark(self)
        self.push(("reach", mark))
        return mark

    def wait_event(self, event: PlayedEvent) -> None:
        if event.mark is not None:
            self.push(("wait", event.mark))

    def wait_stream(self, stream: PlayedStream) -> None:
        self.push(("wait", stream.mark()))

    def step(self) -> bool:
        """Do the next piece of work, unless it waits for another stream."""
        match self.work[0] if self.work else None:
            case None:
                return False
            case ("wait", Mark(reached=False)):
                return False
            case ("reach", Mark() as mark):
                mark.reached = True
            case work if callable(work):
                work()
        self.work.popleft()
        return True

    def run_until(self, mark: Mark) -> None:
        while not mark.reached:
            if not self.step():
                _, other = self.work[0]  # type: ignore[misc]
                other.stream.run_until(other)


class Played(Cuda):
    """A device. Nothing runs before somebody waits for it, but for what ``eager`` lets run at random.

    Memory on the device is reused as CUDA's caching allocator does: at once by the stream that it belongs to, and after
    the work of the streams that were recorded.
    """

    def __init__(self, eager: float = 0.0, seed: int = 0) -> None:
        self.lock = threading.RLock()
        self.eager, self.random = eager, random.Random(seed)
        self.streams: list[PlayedStream] = []
        self.default = self.stream()
        self.memory: list[Array] = []  # never freed, so that work on memory given away fails in the numbers alone
        self.free: list[tuple[PlayedStream, Array, list[Mark]]] = []
        self.shared: dict[int, set[PlayedStream]] = {}
        self.locked = self.most_locked = 0
        self._own = threading.local()

    def drift(self) -> None:
        while self.random.random() < self.eager:
            self.random.choice(self.streams).step()

    def stream(self) -> PlayedStream:
        self.streams.append(PlayedStream(self))
        return self.streams[-1]

    def current(self) -> PlayedStream:
        return getattr(self._own, "stream", self.default)

    @contextmanager
    def use(self, stream: PlayedStream) -> Iterator[None]:
        before, self._own.stream = self.current(), stream
        try:
            yield
        finally:
            self._own.stream = before

    def event(self) -> PlayedEvent:
        return PlayedEvent(self)

    def page_locked(self, size: int) -> torch.Tensor:
        def give_up() -> None:
            self.locked -= 1
            block[:] = POISON  # somebody else's now

        with self.lock:
            block = np.full(max(1, size), POISON, np.uint8)
            self.memory.append(block)
            owned = block[:]
            if size:
                self.locked += 1
                self.most_locked = max(self.most_locked, self.locked)
                weakref.finalize(owned, give_up)
            return torch.from_numpy(owned)[:size]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size, stream = prod(shape) * dtype.itemsize, self.current()
        with self.lock:
            block = self._reused(size, stream)
            owned = block[:]
            weakref.finalize(owned, self._drop, block, stream)
            return torch.from_numpy(owned)[:size].view(dtype).reshape(shape)

    def _reused(self, size: int, stream: PlayedStream) -> Array:
        for number, (owner, block, marks) in enumerate(self.free):
            if owner is stream and block.nbytes == max(1, size) and all(mark.reached for mark in marks):
                del self.free[number]
                return block
        self.memory.append(np.full(max(1, size), POISON, np.uint8))
        return self.memory[-1]

    def _drop(self, block: Array, owner: PlayedStream) -> None:
        with self.lock:
            shared = self.shared.pop(block.ctypes.data, set())
            self.free.append((owner, block, [stream.mark() for stream in shared]))

    def share(self, tensor: torch.Tensor, stream: PlayedStream) -> None:
        self.shared.setdefault(tensor.data_ptr(), set()).add(stream)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.launch(lambda a, b: a.copy_(b), target, source)

    def launch(self, kernel: Callable[..., Any], *tensors: torch.Tensor) -> None:
        """Queue a kernel. Like one of CUDA it knows addresses, and keeps no tensor alive."""
        addresses = [address_of(tensor) for tensor in tensors]
        self.current().push(lambda: kernel(*addresses))


def address_of(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor at the same address, which keeps nothing alive."""
    assert tensor.is_contiguous()
    if not tensor.nbytes:
        return torch.empty_like(tensor)
    raw: Any = (ctypes.c_uint8 * tensor.nbytes).from_address(tensor.data_ptr())
    return torch.from_numpy(np.ctypeslib.as_array(raw)).view(tensor.dtype).reshape(tensor.shape)


class Tripling:
    """A network: triples and adds one, in int64."""

    def __init__(self, cuda: Played) -> None:
        self.cuda = cuda

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        between, result = (self.cuda.empty(tuple(block.shape), torch.int64) for _ in range(2))
        self.cuda.launch(lambda a, b: a.copy_(b.to(a.dtype) * 3), between, block)
        self.cuda.launch(lambda a, b: a.copy_(b + 1), result, between)
        return result


def blocks_of(sizes: list[int], dtype: Any = np.uint8) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 200, (1, n, 3), np.uint8).astype(dtype) for n in sizes]


def interleaved(moves: Transfers, cuda: Played, blocks: list[Array], order: random.Random) -> bool:
    """Whether every block comes back right, when uploads, kernels and downloads follow each other in any order."""
    network, waiting = Tripling(cuda), list(enumerate(blocks))
    uploaded: list[tuple[int, OnDevice]] = []
    computed: list[tuple[int, OnDevice]] = []
    results: dict[int, Array] = {}
    while len(results) < len(blocks):
        stage = order.choice([s for s in (waiting, uploaded, computed) if s])
        number, what = stage.pop(order.randrange(len(stage)))
        if stage is waiting:
            uploaded.append((number, moves.upload(what)))
        elif stage is uploaded:
            computed.append((number, moves.compute(network, what)))
        else:
            results[number] = moves.download(what)
        del what
    return all(np.array_equal(results[n], block.astype(np.int64) * 3 + 1) for n, block in enumerate(blocks))


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    buffers=st.integers(1, 3),
    eager=st.sampled_from([0.0, 0.3, 0.7]),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=150)
def test_every_order_gives_the_right_numbers(sizes: list[int], buffers: int, eager: float, seed: int) -> None:
    cuda = Played(eager, seed)
    moves = Transfers("cuda", buffers, cuda)
    assert interleaved(moves, cuda, blocks_of(sizes), random.Random(seed))
    assert cuda.most_locked <= buffers


class DoesNotWaitForTheUpload(Transfers):
    def ready(self, uploaded: OnDevice) -> torch.Tensor:
        self._cuda.share(uploaded.tensor, self._cuda.current())  # type: ignore[union-attr]
        return uploaded.tensor


class DoesNotKeepTheUpload(Transfers):
    def ready(self, uploaded: OnDevice) -> torch.Tensor:
        self._cuda.current().wait_event(uploaded.event)  # type: ignore[union-attr]
        return uploaded.tensor


class DoesNotWaitForTheKernel(Transfers):
    def done(self, tensor: torch.Tensor) -> OnDevice:
        return OnDevice(tensor, self._cuda.event())  # type: ignore[union-attr]


class WaitsForAnotherStream(Transfers):
    def compute(self, kernel: Callable[[torch.Tensor], torch.Tensor], uploaded: OnDevice) -> OnDevice:
        with self.compute_stream():
            result = kernel(self.ready(uploaded))
        return self.done(result)


@pytest.mark.parametrize(
    "faulty", [DoesNotWaitForTheUpload, DoesNotKeepTheUpload, DoesNotWaitForTheKernel, WaitsForAnotherStream]
)
def test_the_played_device_shows_what_is_not_waited_for(faulty: type[Transfers]) -> None:
    def right(seed: int) -> bool:
        cuda = Played(0.3, seed)
        return interleaved(faulty("cuda", 2, cuda), cuda, blocks_of([5] * 12), random.Random(seed))

    assert not all(right(seed) for seed in range(20))


def test_the_played_device_shows_a_buffer_that_is_used_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Buffer, "copied", property(lambda self: Played().event(), lambda self, event: None), False)
    cuda = Played()
    moves = Transfers("cuda", 1, cuda)
    first, second = (moves.upload(block) for block in blocks_of([4, 4]))
    results = [moves.download(moves.compute(Tripling(cuda), block)) for block in (first, second)]
    assert not np.array_equal(results[0], blocks_of([4, 4])[0].astype(np.int64) * 3 + 1)


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads take turns five hundred times as often as usual: what two of them may not do at a time shows."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 500)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("eager", [0.0, 0.5])
def test_threads_do_not_block_each_other(kernels: int, eager: float, switching_often: None) -> None:
    """As `Network` does it: slots upload before they wait for a place, and download after they gave it back."""
    cuda = Played(eager)
    moves, network = Transfers("cuda", cuda=cuda), Tripling(cuda)
    places, most, running = threading.BoundedSemaphore(kernels), 0, 0

    def task(block: Array) -> Array:
        nonlocal most, running
        uploaded = moves.upload(block)
        with places:
            running += 1
            most = max(most, running)
            computed = pool.submit(moves.compute, network, uploaded).result(timeout=20)
            computed.wait()
            running -= 1
        return moves.download(computed)

    blocks = blocks_of([3 + n % 5 for n in range(60)])
    with ThreadPoolExecutor(kernels) as pool, ThreadPoolExecutor(3) as slots:
        results = [f.result(timeout=60) for f in [slots.submit(task, block) for block in blocks]]
    for block, result in zip(blocks, results, strict=True):
        assert np.array_equal(result, block.astype(np.int64) * 3 + 1)
    assert most <= kernels
    assert cuda.most_locked <= BUFFERS
    assert len(cuda.streams) == 3 + kernels  # the default one, up, down, and one of each kernel's thread


def test_an_upload_does_not_wait_for_the_device() -> None:
    cuda = Played()
    Transfers("cuda", 2, cuda).upload(blocks_of([4])[0])
    assert any(stream.work for stream in cuda.streams)


def test_a_second_block_is_uploaded_and_a_first_downloaded_while_a_kernel_runs() -> None:
    cuda = Played()
    moves, network = Transfers("cuda", 2, cuda), Tripling(cuda)
    first, second, third = blocks_of([4, 5, 6])
    done = moves.compute(network, moves.upload(first))
    done.wait()
    running = moves.compute(network, moves.upload(second))
    moves.upload(third).wait()
    moves.download(done)
    assert running.event is not None
    assert not running.event.mark.reached  # type: ignore[attr-defined]


def test_what_the_thread_queued_before_comes_before_the_kernel() -> None:
    """Weights are prepared on the default stream, which CUDA does not order before others."""
    cuda = Played()
    moves = Transfers("cuda", 2, cuda)
    weight = cuda.empty((1,), torch.int64)
    cuda.launch(lambda w: w.fill_(7), weight)

    def kernel(block: torch.Tensor) -> torch.Tensor:
        result = cuda.empty(tuple(block.shape), torch.int64)
        cuda.launch(lambda a, b, w: a.copy_(b * w), result, block, weight)
        return result

    (block,) = blocks_of([4])
    assert np.array_equal(moves.download(moves.compute(kernel, moves.upload(block))), block.astype(np.int64) * 7)


def test_buffers_are_used_again_and_grow() -> None:
    cuda = Played()
    moves = Transfers("cuda", 1, cuda)
    for size in (100, 90, 128, 40, 129):
        moves.upload(np.zeros(size, np.uint8))
    made = [block.nbytes for block in cuda.memory if block.nbytes in (buffer_bytes(100), buffer_bytes(129))]
    assert made.count(128) == 2  # a buffer, and the voxels of the block of 128
    assert made.count(256) == 1
    assert cuda.most_locked == 1


def test_a_kernel_that_fails_leaves_the_next_one_alone() -> None:
    cuda = Played()
    moves = Transfers("cuda", 1, cuda)
    (block,) = blocks_of([4])
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            moves.compute(lambda _: 1 // 0, moves.upload(block))  # type: ignore[arg-type,return-value]
        result = moves.download(moves.compute(Tripling(cuda), moves.upload(block)))
        assert np.array_equal(result, block.astype(np.int64) * 3 + 1)


FORMS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda a: a,
    "transposed": lambda a: a.transpose(2, 0, 1),
    "strided": lambda a: a[:, 1::2],
    "reversed": lambda a: a[:, ::-1],
    "read-only": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "empty": lambda a: a[:, :0],
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "uint16", "uint64", "float16", "float32", "float64"])
def test_any_array_comes_back(device: str, form: str, dtype: str) -> None:
    moves = Transfers(device, cuda=Played())
    array = FORMS[form](blocks_of([6], dtype)[0])
    result = moves.download(moves.compute(lambda tensor: tensor, moves.upload(array)))
    assert result.dtype == np.dtype(dtype)
    assert np.array_equal(result, array)


def test_a_cpu_copies_nothing() -> None:
    moves = transfers("cpu")
    assert transfers("cpu") is moves
    for array in (blocks_of([4])[0], blocks_of([4])[0].T, blocks_of([4])[0][:, 1:3]):
        uploaded = moves.upload(array)
        uploaded.wait()
        assert np.shares_memory(moves.download(moves.compute(lambda tensor: tensor, uploaded)), array)


def test_a_download_is_the_callers_own() -> None:
    cuda = Played()
    moves = Transfers("cuda", 1, cuda)
    first, second = (moves.download(moves.done(moves.upload(block).tensor)) for block in blocks_of([4, 4]))
    assert first.flags.owndata
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize(("size", "locked"), [(0, 0), (1, 1), (2, 2), (3, 4), (128, 128), (129, 256)])
def test_torch_locks_powers_of_two(size: int, locked: int) -> None:
    assert buffer_bytes(size) == locked


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_gives_back_what_it_was_given() -> None:
    moves = Transfers("cuda")
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 255, (1, 60 + n % 7, 300, 300), np.uint8) for n in range(40)]
    places = threading.BoundedSemaphore(2)

    def kernel(block: torch.Tensor) -> torch.Tensor:
        value = block.float()
        for _ in range(50):
            value = value + 1
        return value

    def task(block: Array) -> Array:
        uploaded = moves.upload(block)
        with places:
            computed = pool.submit(moves.compute, kernel, uploaded).result()
        del uploaded
        return moves.download(computed)

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(3) as slots:
        for block, result in zip(blocks, slots.map(task, blocks), strict=True):
            assert np.array_equal(result, block.astype(np.float32) + 50)
