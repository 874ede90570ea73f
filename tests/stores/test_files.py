"""Conditional writes: of several that try, one succeeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from chunkinfer.stores.files import Files

RACER = """
import sys
from chunkinfer.stores.files import Files
files = Files(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    name, version = line.split()
    print(int(files.write_if(name, sys.argv[2].encode(), bytes.fromhex(version)) is not None), flush=True)
"""

COUNTER = """
import sys
from chunkinfer.stores.files import Files
files, won = Files(sys.argv[1]), 0
while won < int(sys.argv[2]):
    content, version = files.read_versioned("counter")
    won += files.write_if("counter", str(int(content or 0) + 1).encode(), version) is not None
"""


def test_an_object_is_written_if_its_version_is_the_one_that_was_read(files: Files) -> None:
    content, absent = files.read_versioned("lease.json")
    assert content is None
    first = files.write_if("lease.json", b"mine", absent)
    assert first is not None
    assert files.write_if("lease.json", b"yours", absent) is None
    assert files.read_versioned("lease.json") == (b"mine", first)
    second = files.write_if("lease.json", b"mine again", first)
    assert second not in (None, first)
    assert files.write_if("lease.json", None, first) is None
    assert files.read("lease.json") == b"mine again"
    assert second is not None
    gone = files.write_if("lease.json", None, second)
    assert gone is not None
    assert files.read("lease.json") is None
    assert files.write_if("lease.json", b"yours", gone) is not None


def test_many_objects_at_a_time(files: Files) -> None:
    for i in range(20):
        files.write(f"part-{i}", bytes([i]))
    assert files.read_many(["part-3", "nothing", "part-1"]) == [b"\3", None, b"\1"]
    files.delete_many([f"part-{i}" for i in range(1, 20)] + ["nothing"])
    assert files.list() == ["part-0"]


def test_of_two_processes_that_race_for_a_write_one_wins(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        winners = []
        for i in range(20):
            version = files.read_versioned(f"lease-{i}")[1]
            for racer in racers[:: 1 if i % 2 else -1]:
                assert racer.stdin is not None
                racer.stdin.write(f"lease-{i} {version.hex()}\n")
                racer.stdin.flush()
            won = [int(racer.stdout.readline()) for racer in racers if racer.stdout is not None]
            assert sum(won) == 1
            winners.append(won.index(1))
            assert files.read(f"lease-{i}") == (b"one", b"two")[winners[-1]]
        assert set(winners) == {0, 1}  # it was a race
    finally:
        for racer in racers:
            racer.communicate(timeout=60)


def test_no_increment_of_a_counter_is_lost(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNTER, str(tmp_path), "30"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert Files(str(tmp_path)).read("counter") == b"60"
