"""Chunks that are encoded here, as tensorstore reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import DestinationError
from chunkinfer.stores import disk
from chunkinfer.stores.disk import write_files
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.formats.precomputed.compressed_segmentation import encode_row, room_for


def decoded(content: bytes, shape: tuple[int, ...], dtype: Any, block: tuple[int, int, int]) -> np.ndarray:
    """By tensorstore: one chunk (c, z, y, x)."""
    size = list(shape[:0:-1])
    store = ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": "memory://",
            "multiscale_metadata": {
                "type": "segmentation",
                "data_type": np.dtype(dtype).name,
                "num_channels": shape[0],
            },
            "scale_metadata": {
                "key": "k", "size": size, "chunk_size": size, "resolution": [1, 1, 1],
                "encoding": "compressed_segmentation", "compressed_segmentation_block_size": list(block[::-1]),
            },
        },
        create=True,
        context=ts.Context(),
    ).result()  # fmt: skip
    store.kvstore[f"k/0-{size[0]}_0-{size[1]}_0-{size[2]}"] = content
    return np.asarray(store.read().result().T)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 11), st.integers(1, 11), st.integers(1, 20)),
    start=st.tuples(*[st.integers(0, 3)] * 3),
    block=st.sampled_from([(8, 8, 8), (4, 8, 16), (1, 1, 1)]),
    dtype=st.sampled_from(["u4", "u8"]),
    chunk=st.integers(1, 20),
    labels=st.sampled_from([1, 2, 3, 5, 17, 300, 2**31]),
    seed=st.integers(0, 2**32 - 1),
)
def test_tensorstore_reads_what_is_packed(
    shape: Any, start: Any, block: Any, dtype: str, chunk: int, labels: int, seed: int
) -> None:
    larger = (shape[0], *(n + a for n, a in zip(shape[1:], start, strict=True)))
    array = np.random.default_rng(seed).integers(0, labels, larger).astype(dtype)
    array += np.array(2**40 if dtype == "u8" else 7, dtype)
    contents = packed(array, start, shape[1:], chunk, block)
    assert len(contents) == -(-shape[3] // chunk)
    z, y, x = start
    for i, words in enumerate(contents):
        part = array[:, z:, y:, x + i * chunk :][..., :chunk]
        assert np.array_equal(decoded(words.tobytes(), part.shape, dtype, block), part)


def packed(labels: Any, start: Any, shape: Any, chunk: int, block: Any) -> Any:
    words = room_for(len(labels), labels.itemsize, (*shape[:2], chunk), block)
    return encode_row(labels, start, shape, chunk, block, np.empty((-(-shape[2] // chunk), words), "u4"))


def test_tables_beyond_the_reach_of_a_header_are_refused() -> None:
    shape, block = (64, 256, 272), (1, 1, 1)
    labels = np.arange(np.prod(shape), dtype="u8").reshape(1, *shape)
    with pytest.raises(DestinationError, match="too many different labels") as caught:
        packed(labels, (0, 0, 0), shape, 272, block)
    assert "chunks=(64, 64, 64)" in str(caught.value)


# Files


@given(
    sizes=st.lists(st.sampled_from([0, 1, 4097, disk.LARGE - 1, disk.LARGE, disk.LARGE + 1]), max_size=9),
    seed=st.integers(0, 99),
)
def test_files_hold_what_they_were_given(tmp_path_factory: Any, sizes: list[int], seed: int) -> None:
    folder = tmp_path_factory.mktemp("files") / "made" / "here"
    rng = np.random.default_rng(seed)
    contents = {str(i): rng.integers(0, 256, n, "u1") for i, n in enumerate(sizes)}
    write_files(str(folder), contents.items())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: content.tobytes() for name, content in contents.items()
    }


def test_blocks_of_several_threads_share_writers(tmp_path: Path) -> None:
    def write(folder: int) -> None:
        write_files(str(tmp_path / str(folder)), ((str(i), np.full(folder + i, i, "u1")) for i in range(99)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    for folder in range(8):
        assert [(tmp_path / str(folder) / str(i)).stat().st_size for i in range(99)] == [folder + i for i in range(99)]


FORKED = """
    import os, sys
    import numpy as np
    from chunkinfer.stores.disk import write_files

    write_files(sys.argv[1], [("a", np.zeros(9, "u1"))])
    child = os.fork()
    if not child:
        write_files(sys.argv[1], [("b", np.zeros(9, "u1"))])
        os._exit(0)
    sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_process_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(FORKED), tmp_path], check=True, timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_view_is_stored_in_c_order(tmp_path: Path) -> None:
    array = np.arange(5 * 40 * 3000, dtype="<u4").reshape(5, 40, 3000)[1:4, ::2, 7:].transpose(2, 0, 1)
    write_files(str(tmp_path), [("a", array)])
    assert (tmp_path / "a").read_bytes() == array.tobytes()


def test_a_file_system_that_wants_the_cache_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "ALIGNMENT", 24)  # no address or length that a disk takes
    content = np.resize(np.arange(251, dtype="u1"), disk.LARGE + 1)
    write_files(str(tmp_path), [("a", content)])
    assert (tmp_path / "a").read_bytes() == content.tobytes()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in the way").mkdir()
    with pytest.raises(IsADirectoryError):
        write_files(str(tmp_path), [("in the way", np.zeros(9, "u1"))])
    assert [path.name for path in tmp_path.iterdir()] == ["in the way"]


def test_readers_meet_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    contents = [np.full(disk.LARGE, value, "u1") for value in range(2)]
    write_files(str(tmp_path), [("a", contents[0])])
    seen, stop = set[bytes](), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add((tmp_path / "a").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(40):
        write_files(str(tmp_path), [("a", contents[i % 2])])
    stop.set()
    reader.join()
    assert seen <= {content.tobytes() for content in contents}
    assert os.listdir(tmp_path) == ["a"]


def test_negative_offsets_in_the_names_of_chunks(tmp_path: Path) -> None:
    array = np.arange(6 * 5 * 4, dtype="u1").reshape(6, 5, 4)
    stored = create(
        tmp_path / "v",
        ArraySpec(
            format="precomputed",
            shape=array.shape,
            dtype="u1",
            dims=("z", "y", "x"),
            chunks=(4, 4, 4),
            voxel_size=dict.fromkeys("zyx", 1.0),
            offset={"z": -7, "y": 0, "x": 3},
            encoding="raw",
        ),
    )
    stored.write((slice(0, 6), slice(0, 5), slice(0, 4)), array)
    (scale,) = [path for path in (tmp_path / "v").iterdir() if path.is_dir() and path.name[0] != "."]
    assert sorted(path.name for path in scale.iterdir()) == [
        "3-7_0-4_-3--1", "3-7_0-4_-7--3", "3-7_4-5_-3--1", "3-7_4-5_-7--3"
    ]  # fmt: skip
    assert np.array_equal(stored[:], array)
