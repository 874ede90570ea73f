"""The ledger: what it lists, after any crash, on any store, and how few objects it takes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import DestinationError
from chunkinfer.runs.record import ledger as module
from chunkinfer.runs.record.ledger import FAN, Ledger
from chunkinfer.runs.record.segments import LONGEST, ROWS, Entry, Finished, Segment
from chunkinfer.stores.files import Files


class Crash(Exception):
    """The process is gone."""


class Stored(Files):
    """A folder in memory, whose owner dies at a given change; deletions at the same time happen in any order."""

    def __init__(self, seed: int = 0) -> None:
        self.objects: dict[str, bytes] = {}
        self.left: float = float("inf")
        self.changes = 0
        self.random = random.Random(seed)
        object.__setattr__(self, "url", "memory")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def read(self, name: str) -> bytes | None:
        return self.objects.get(name)

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        return [self.objects.get(name) for name in names]

    def list(self) -> list[str]:
        return sorted(self.objects)

    def write(self, name: str, content: bytes) -> None:
        self._change()
        self.objects[name] = content

    def delete(self, name: str) -> None:
        self._change()
        self.objects.pop(name, None)

    def delete_many(self, names: Sequence[str]) -> None:
        for name in self.random.sample(list(names), len(names)):
            self.delete(name)

    def _change(self) -> None:
        if self.left <= 0:
            raise Crash
        self.left -= 1
        self.changes += 1


def entries(blocks: Iterable[int], checksum: int = 0, engine: str = "torch") -> list[Entry]:
    return [Entry(block, checksum + block, 0.25, engine) for block in blocks]


def listed(done: Finished) -> set[int]:
    return set(np.flatnonzero(done.flags).tolist())


# ---- what it lists ---------------------------------------------------------------------------------------------------


def test_what_was_added_is_finished_with_its_checksum_seconds_and_engine(files: Files) -> None:
    ledger = Ledger(files)
    assert ledger.header() is None
    ledger.begin({"computation": "infer-1", "seeds": [1, 2]})
    ledger.add([Entry(7, 0xFFFFFFFF, 12.5, "openvino"), Entry(2, 5, 0.125)])
    ledger.add([Entry(11, 17, 1e6, "torch")])
    ledger.add([])
    for again in (ledger, Ledger(files)):
        assert again.header() == {"computation": "infer-1", "seeds": [1, 2]}
        done = again.done(12)
        assert listed(done) == {2, 7, 11}
        assert done.count == 3
        assert np.array_equal(done.known, done.flags)
        assert done.checksums[[2, 7, 11]].tolist() == [5, 0xFFFFFFFF, 17]
        assert done.seconds[[2, 7, 11]].tolist() == [0.125, 12.5, LONGEST]
        assert [done.engines[i] for i in done.engine[[2, 7, 11]]] == ["", "openvino", "torch"]
        assert done.history[:, 2].tolist() == [2, 1]
        ledger.compact()
    assert sum(name.startswith("done-") for name in files.list()) == 1


def test_a_block_that_was_computed_again_has_its_new_checksum() -> None:
    ledger = Ledger(Stored())
    for i in range(3 * FAN):
        ledger.add(entries([5, 100 + i], checksum=i))
    assert Ledger(ledger.files).done(1000).checksums[5] == 3 * FAN - 1 + 5


def test_forgotten_blocks_are_not_finished_any_more(files: Files) -> None:
    ledger = Ledger(files)
    ledger.forget([1])
    for first in range(0, 100, 10):
        ledger.add(entries(range(first, first + 10)))
    ledger.forget([0, 55, 99, 1000])
    assert listed(Ledger(files).done(100)) == set(range(100)) - {0, 55, 99}
    ledger.add(entries([55], checksum=3))
    assert Ledger(files).done(100).checksums[55] == 58
    ledger.forget(range(100))
    assert Ledger(files).done(100).count == 0


def test_blocks_beyond_the_grid_are_left_out() -> None:
    ledger = Ledger(Stored())
    ledger.add(entries([3, 9, 10, 10**9]))
    assert listed(ledger.done(10)) == {3, 9}
    assert len(ledger.done(0).flags) == 0


def test_failures_are_those_of_the_last_run(files: Files) -> None:
    ledger = Ledger(files)
    assert ledger.failures() == {}
    ledger.failed({12: "OutputError: NaN", 3: "RuntimeError: " + "x" * 1000})
    assert list(Ledger(files).failures()) == [3, 12]
    assert ledger.failures()[12] == "OutputError: NaN"
    ledger.failed({})
    assert Ledger(files).failures() == {}


def test_a_new_run_forgets_what_an_earlier_one_did(files: Files) -> None:
    ledger = Ledger(files)
    ledger.begin({"run": 1})
    for i in range(3):
        ledger.add(entries([i]))
    ledger.failed({9: "x"})
    ledger.report({"blocks": 3})
    assert ledger.last_report() == {"blocks": 3}
    Ledger(files).begin({"run": 2})
    assert Ledger(files).header() == {"run": 2}
    assert Ledger(files).done(10).count == 0
    assert Ledger(files).failures() == {}


# ---- ledgers of earlier versions -------------------------------------------------------------------------------------


def old_segment(runs: list[list[int]]) -> bytes:
    return json.dumps({"runs": runs, "crc32": zlib.crc32(json.dumps(runs).encode())}).encode()


def test_a_ledger_without_checksums_is_read_and_added_to(files: Files) -> None:
    files.write("ledger.json", json.dumps({"computation": "infer-1"}, indent=1).encode())
    files.write("done-000000.json", old_segment([[0, 4], [8, 8]]))
    files.write("done-000003.json", old_segment([[6, 6]]))
    ledger = Ledger(files)
    assert ledger.header() == {"computation": "infer-1"}
    done = ledger.done(10)
    assert listed(done) == {0, 1, 2, 3, 4, 6, 8}
    assert not done.known.any()
    ledger.add(entries([4, 5], checksum=10))
    ledger.compact()
    assert files.list() == ["done-00000000-00000004-" + files.list()[0][-12:], "ledger.json"]
    done = Ledger(files).done(10)
    assert listed(done) == {0, 1, 2, 3, 4, 5, 6, 8}
    assert np.flatnonzero(done.known).tolist() == [4, 5]


# ---- damage ----------------------------------------------------------------------------------------------------------


@given(
    which=st.integers(0, 2),
    at=st.integers(0, 10**6),
    bits=st.integers(1, 255),
    kind=st.sampled_from(["flipped", "cut short", "cut and flipped"]),
)
def test_any_damage_to_a_segment_is_refused_with_its_name(which: int, at: int, bits: int, kind: str) -> None:
    store = Stored()
    ledger = Ledger(store)
    for i in range(3):
        ledger.add(entries(range(10 * i, 10 * i + 7), engine=f"engine {i}"))
    name = sorted(store.objects)[which]
    whole = store.objects[name]
    at %= len(whole)
    flipped = b"" if kind == "cut short" else bytes([whole[at] ^ bits])
    store.objects[name] = whole[:at] + flipped + (whole[at + 1 :] if kind == "flipped" else b"")
    with pytest.raises(DestinationError, match="checksum") as caught:
        Ledger(store).done(100)
    assert name in str(caught.value)
    assert len(caught.value.ways) == 2
    del store.objects[name]  # the first way out
    assert Ledger(store).done(100).count == 14


@given(at=st.integers(0, 10**6), bits=st.integers(1, 255))
def test_damage_to_a_table_is_refused_or_harms_nothing(at: int, bits: int) -> None:
    store, header = Stored(), {"computation": "infer-1", "crc32": "no", "nested": {"a": [1, 2.5, None], "ü": "é"}}
    ledger = Ledger(store)
    ledger.begin(header)
    ledger.failed({3: "x"})
    for name, read in (("ledger.json", ledger.header), ("failed.json", ledger.failures)):
        whole, sound = store.objects[name], read()
        i = at % len(whole)
        store.objects[name] = whole[:i] + bytes([whole[i] ^ bits]) + whole[i + 1 :]
        with suppress(DestinationError):
            found = read() or {}
            assert {k: v for k, v in found.items() if sound and k in sound} == sound


# ---- crashes ---------------------------------------------------------------------------------------------------------

BLOCKS = 12

STEPS = st.one_of(
    st.tuples(st.just("add"), st.sets(st.integers(0, BLOCKS - 1), max_size=4)),
    st.tuples(st.just("add"), st.sets(st.integers(0, BLOCKS - 1), min_size=1, max_size=1)),
    st.tuples(st.just("forget"), st.sets(st.integers(0, BLOCKS - 1), max_size=3)),
    st.tuples(st.sampled_from(["compact", "reopen", "failed", "begin"]), st.just(set())),
)


@given(
    steps=st.lists(STEPS, max_size=40),
    lives=st.lists(st.integers(0, 25), max_size=4),
    fan=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_any_crash_leaves_a_readable_ledger_that_lists_nothing_that_was_not_added(
    steps: list[tuple[str, set[int]]], lives: list[int], fan: int, seed: int
) -> None:
    """The ledger is reopened after each crash and the steps go on; ``lives`` are numbers of changes until the next."""
    store = Stored(seed)
    ledger = Ledger(store)
    certain: dict[int, int] = {}  # block -> checksum: recorded by a call that returned
    allowed: dict[int, set[int]] = {}  # block -> checksums that a call tried to record
    waiting = iter(lives)
    store.left = next(waiting, float("inf"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FAN", fan)
        for number, (kind, blocks) in enumerate(steps):
            crashed = False
            if kind == "add":
                for block in blocks:
                    allowed.setdefault(block, set()).add(100 * number)
                before = {block: certain.pop(block) for block in blocks & certain.keys()}
            elif kind in ("forget", "begin"):
                gone = blocks if kind == "forget" else set(range(BLOCKS))
                certain = {block: crc for block, crc in certain.items() if block not in gone}
            try:
                if kind == "add":
                    ledger.add([Entry(block, 100 * number) for block in blocks])
                elif kind == "forget":
                    ledger.forget(blocks)
                elif kind == "failed":
                    ledger.failed({number: "line"})
                elif kind == "begin":
                    ledger.begin({"number": number})
                elif kind == "compact":
                    ledger.compact()
                else:
                    ledger = Ledger(store)
            except Crash:
                crashed = True
                store.left = next(waiting, float("inf"))
                ledger = Ledger(store)
            if not crashed and kind == "add":
                certain |= dict.fromkeys(blocks, 100 * number)
                allowed |= {block: {100 * number} for block in blocks}
            elif crashed and kind == "add":
                assert before.keys() <= listed(Ledger(store).done(BLOCKS))
            elif not crashed and kind in ("forget", "begin"):
                allowed = {block: crcs for block, crcs in allowed.items() if block not in gone}
            done = Ledger(store).done(BLOCKS)
            assert certain.keys() <= listed(done) <= allowed.keys()
            assert all(done.checksums[block] == crc for block, crc in certain.items())
            assert all(int(done.checksums[block]) in allowed[block] for block in listed(done))
            if kind == "begin" and not crashed:
                assert ledger.header() == {"number": number}


@pytest.mark.parametrize("call", ["compact", "forget", "begin"])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_crash_left_of_a_merge_never_comes_back(call: str, seed: int) -> None:
    """Every place where a call can be cut short: segments that it replaced and did not delete are still there."""
    for changes in range(20):
        store = Stored(seed)
        for block in range(5):
            Ledger(store).add(entries([block]))
        store.left = changes
        with suppress(Crash):
            getattr(Ledger(store), call)(*{"forget": [[0, 4]], "begin": [{}]}.get(call, []))
        store.left = float("inf")
        Ledger(store).add(entries([9]))
        Ledger(store).forget([1, 4])
        assert {2, 3, 9} - listed(Ledger(store).done(10)) == ({2, 3} if call == "begin" and changes else set())
        assert not listed(Ledger(store).done(10)) & {1, 4}
        Ledger(store).begin({"run": 2})
        assert Ledger(store).done(10).count == 0
        assert sorted(store.objects) == ["ledger.json"]


@given(positions=st.sets(st.integers(0, 2**40)), checksums=st.randoms(use_true_random=False))
def test_a_segment_is_what_was_packed(positions: set[int], checksums: random.Random) -> None:
    rows = [Entry(p, checksums.getrandbits(32), p % 7 / 4, f"engine {p % 3}") for p in positions]
    checksums.shuffle(rows)
    segment = Segment.unpacked(Segment.of_entries(rows, (1.0, 2.5, len(rows))).packed())
    assert segment.positions.tolist() == sorted(positions)
    by_position = {row.position: row for row in rows}
    for i, position in enumerate(segment.positions.tolist()):
        row = by_position[position]
        assert segment.checksums[i] == row.checksum
        assert segment.seconds[i] == row.seconds
        assert segment.engines[segment.engine[i]] == row.engine
    assert segment.history.tolist() == [[1.0, 2.5, len(rows)]]


# ---- size and speed --------------------------------------------------------------------------------------------------


def test_objects_stay_few_however_long_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAN", 4)
    store = Stored()
    ledger, most = Ledger(store), 0
    calls = 4**4
    for i in range(calls):
        ledger.add(entries([i]))
        most = max(most, len(store.objects))
    assert most <= 3 * 4 + 1  # three per power of four that was not reached yet
    assert store.changes <= calls * (1 + 1 + 2 / 3)  # each is written once, deleted once, and merged in tens
    assert Ledger(store).done(calls).count == calls


def test_history_tells_runs_apart_and_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1e9]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    store = Stored()
    for run in range(3):
        ledger = Ledger(store)
        ledger.done(10**6)
        for i in range(200):
            clock[0] += 0.5
            ledger.add(entries([200 * run + i, 10**5]))
        clock[0] += 3600
    ledger.compact()
    history = Ledger(store).done(10**6).history
    assert len(history) <= 2 * ROWS
    assert history[:, 2].sum() == 1200
    assert np.all(history[1:, 0] >= history[:-1, 1])
    breaks = np.flatnonzero(history[1:, 0] != history[:-1, 1])
    assert (history[breaks + 1, 0] - history[breaks, 1]).tolist() == [3600.0, 3600.0]
    assert np.diff(history[:, :2], axis=1).sum() == 300.0


WRITER = """
import sys
from chunkinfer.stores.files import Files; from chunkinfer.runs.record import ledger
from chunkinfer.runs.record.segments import Entry
ledger.FAN = 4
written = ledger.Ledger(Files(sys.argv[1]))
print("ready", flush=True)
for i in range(150):
    written.add([Entry(i, i)])
written.compact()
"""


@pytest.mark.slow
@pytest.mark.smoke
def test_a_reader_beside_the_writer_never_sees_fewer_blocks(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen, looks = 0, 0
        while writer.poll() is None:
            with suppress(DestinationError):  # it changed ten times: this one writes a hundred times faster than a run
                done = Ledger(Files(str(tmp_path))).done(150)
                assert done.count >= seen
                assert np.array_equal(done.checksums[: done.count], np.arange(done.count))
                seen, looks = done.count, looks + 1
    assert writer.returncode == 0
    assert looks > 3
    assert Ledger(Files(str(tmp_path))).done(150).count == 150


def test_a_hundred_thousand_blocks_are_opened_at_once(tmp_path: Path) -> None:
    ledger = Ledger(Files(str(tmp_path)))
    for first in range(0, 10**5, 2000):
        ledger.add(entries(range(first, first + 2000)))
    start = time.perf_counter()
    done = Ledger(Files(str(tmp_path))).done(10**5)
    assert time.perf_counter() - start < 1
    assert done.count == 10**5
    assert len(ledger.files.list()) < 2 * FAN
