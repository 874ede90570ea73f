"""chunkinfer and its peers on the same work: speed, memory, and distance from the network on the whole volume.

    python benchmarks/peers.py                     # markdown on stdout; about forty minutes on two cores
    python benchmarks/peers.py --quick             # MONAI and chunkinfer, one patch, one volume; about four minutes
    python benchmarks/peers.py --python monai=PATH --python nnunet=PATH --python chunkflow=PATH

Real electron microscopy, FIB-25 sample 1, and a network trained on its neighbour, from ../shared; volumes larger than
the image are mirrored. The peers run by the scripts in ../shared/peers, from a .npy to a zarr (chunkflow: until the
result is in memory), as their manuals say, with torch in float32. Each needs libraries of its own: --python says which
Python has them (monai: MONAI and dask; nnunet: nnU-Net and torch-em; chunkflow); a peer without them is left out, and
the table says so. chunkinfer runs from a zarr to a zarr; planning, compiling and checks are in its time, in a process
that has compiled nothing before.

Every run has a process of its own, the same cores and the same number of threads, and C libraries at their defaults.
Every peer runs every patch on the first volume, in turn; the fastest one within the memory limit is its patch for all
volumes. chunkinfer is told the limit and chooses itself; blended, it takes MONAI's patch. Peak memory is that of all
processes of a run together, libraries included, looked at ten times a second. Needs a machine that does nothing else:
MONAI runs again at the end, to show how steady it was. Ratios hold within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peers import reporting
from peers.comparing import compare, open_result
from peers.contestants import HERE, OURS, PEERS, USUAL, Contestant, Ours, Peer, Work, missing
from peers.reporting import Record, Row
from peers.running import run

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared"
IMAGE = SHARED / "data" / "fib25" / "sample1_image.npy"
MODEL = SHARED / "models" / "fib25_affinity.pt"

SLOWER = 1.2
"""A patch is given up when it has taken this many times as long as the peer's best."""

GIB = 1 << 30


@dataclass
class Bench:
    """All runs of one benchmark."""

    asked: argparse.Namespace
    folder: Path
    """For volumes, references and results."""
    pythons: dict[str, str]
    records: list[Record] = field(default_factory=list)
    patches: dict[str, int] = field(default_factory=dict)
    """The patch of every peer, once it is chosen."""

    @property
    def limit(self) -> int:
        """Bytes that a patch's run may take to be chosen, and that chunkinfer is told."""
        return int(self.asked.memory_gib * GIB)

    def run(self, who: Contestant, side: int, patch: int | None, turn: int = 0, stop: float | None = None) -> Record:
        """Run a contestant once, compare its result, and write the record down."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        work = Work(
            self.folder / f"volume-{side}.npy", self.asked.model, self.folder / "scaled.pt", patch, self.asked.overlap,
            self.asked.threads, self.limit, out,
        )  # fmt: skip
        python = sys.executable if isinstance(who, Ours) else self.pythons[who.environment]
        told = f"{who.key}, {side}^3" + (f", patch {patch}" if patch else "")
        say(f"{told} ...")
        outcome = self.start(who.command(python, work), f"{who.key}-{side}-{patch or 'own'}-{turn}", stop)
        record = Record(who.key, side, patch, turn, outcome.seconds, outcome.peak, why=outcome.why, found=outcome.found)
        if outcome.found is not None:
            record = self.compared(record, out, outcome.found)
        elif stop is not None and outcome.seconds > stop:
            record = replace(record, why=f"slower; stopped after {stop:.0f} s")
        shutil.rmtree(out)
        say(f"{told}: {record}")
        self.records.append(record)
        self.write()
        return record

    def start(self, command: list[str], name: str, stop: float | None = None) -> Any:
        """Run a command; nothing that was compiled or measured before is there for it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            return run(
                command,
                self.asked.out / f"{name}.log",
                timeout=min(self.asked.timeout, stop or self.asked.timeout),
                memory=int(self.asked.machine_gib * GIB),
                cores=self.asked.threads,
                extra={"XDG_CACHE_HOME": cache},
            )

    def compared(self, record: Record, out: Path, found: dict[str, Any]) -> Record:
        """The record with its speed and its errors."""
        wall = float(found["wall_s"])
        record = replace(record, wall=wall, speed=record.side**3 / wall)
        try:
            errors = compare(open_result(out), self.folder / f"reference-{record.side}")
        except (OSError, ValueError) as error:
            return replace(record, why=f"its result cannot be read: {error}")
        return replace(record, largest=errors.largest, mean=errors.mean, flipped=errors.flipped)

    def choose(self, peers: list[Peer], side: int) -> None:
        """Every patch for every peer, in turn; the fastest that keeps within the limit is its patch."""
        for patch in self.asked.patches:
            for peer in peers:
                best = self.best(peer, side)
                self.run(peer, side, patch, stop=best and SLOWER * best.seconds)
        for peer in peers:
            if best := self.best(peer, side):
                self.patches[peer.key] = best.patch or 0

    def best(self, peer: Peer, side: int) -> Record | None:
        """The fastest run of a peer so far, within the limit."""
        fit = [r for r in self.records if r.key == peer.key and r.side == side and not r.why and r.peak <= self.limit]
        return max(fit, key=lambda r: r.speed, default=None)

    def patch_of(self, who: Contestant) -> int | None:
        """The patch to run with; None where it is the contestant's own choice."""
        if isinstance(who, Peer):
            return self.patches[who.key]
        return self.patches.get("monai", self.asked.patches[0]) if who.blended else None

    def compete(self, who: list[Contestant]) -> None:
        """Everyone on every volume, in turn, and as often as was asked for."""
        for turn in range(self.asked.repeats):
            for side in self.asked.sides:
                for contestant in who if turn % 2 == 0 else reversed(who):
                    done = isinstance(contestant, Peer) and turn == 0 and side == self.asked.sides[0]
                    if not done:  # choosing a patch was the first turn
                        self.run(contestant, side, self.patch_of(contestant), turn)

    def rows(self, who: list[Contestant], side: int) -> list[Row]:
        """One row for each contestant on a volume."""
        found = []
        for one in who:
            patch = self.patch_of(one)
            mine = [r for r in self.records if (r.key, r.side, r.patch) == (one.key, side, patch) and r.turn >= 0]
            found.append(reporting.row_of(one.name, one.precision, isinstance(one, Ours), mine))
        return found

    def write(self) -> None:
        """Everything so far, so that an end in between loses nothing."""
        text = json.dumps([record.as_json() for record in self.records], indent=1)
        (self.asked.out / "records.json").write_text(text)


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def prepare(bench: Bench) -> dict[str, Any]:
    """Volumes and references, made in a process of their own: they take more memory than the runs."""
    asked = bench.asked
    say("volumes and references ...")
    places = ["--image", str(asked.image), "--model", str(asked.model), "--folder", str(bench.folder)]
    sides = ["--sides", *map(str, asked.sides), "--whole", str(asked.whole), "--threads", str(asked.threads)]
    outcome = bench.start([sys.executable, str(HERE / "prepare.py"), *places, *sides], "prepare")
    if outcome.found is None:
        sys.exit(f"The volumes and references could not be made: {outcome.why}.")
    return dict(outcome.found)


def network_alone(bench: Bench) -> dict[str, Any] | str:
    """What kernels.py finds, or why it found nothing."""
    say("the network alone ...")
    asked = bench.asked
    places = ["--model", str(asked.model), "--image", str(asked.image), "--threads", str(asked.threads)]
    command = [sys.executable, str(HERE / "kernels.py"), *places, "--patches", *map(str, asked.patches)]
    outcome = bench.start(command, "kernels")
    (asked.out / "kernels.json").write_text(json.dumps(outcome.found))
    return outcome.found or outcome.why


def report(bench: Bench, who: list[Contestant], absent: dict[str, str], made: dict[str, Any]) -> str:
    """The tables and what they mean, but for the network alone."""
    asked = bench.asked
    first = asked.sides[0]
    parts = [
        f"FIB-25 sample 1, uint8; overlap {asked.overlap}; {asked.threads} threads; at most {asked.memory_gib:g} GiB. "
        f"{processor()}; torch {made['torch']}{versions(bench)}."
    ]
    before: list[Row] | None = None
    for side in asked.sides:
        rows = bench.rows(who, side)
        base = next((row for one, row in zip(who, rows, strict=True) if one.key == "monai" and not row.why), None)
        seconds = made["seconds"].get(str(side))
        compared = (
            f"compared with the network on the whole volume at once, which takes {seconds:.1f} s in torch"
            if seconds
            else "compared in boxes of 96^3, one at each end and one at the centre among them"
        )
        parts += [f"### {side}^3 voxels", f"{compared[0].upper()}{compared[1:]}."]
        parts.append(reporting.results(rows, base, bench.limit, before))
        planned = [r.found["plan_s"] for r in bench.records if r.side == side and r.found and "plan_s" in r.found]
        if planned:
            parts.append(
                f"In that, before its first block, chunkinfer took {', '.join(f'{s:.1f}' for s in planned)} s."
            )
        before = rows
    if absent:
        parts.append("\n".join(f"- {name} did not run: {why}." for name, why in absent.items()))
    if again := next((r for r in bench.records if r.turn < 0 and not r.why), None):
        then = next(r for r in bench.records if (r.key, r.side, r.patch) == (again.key, again.side, again.patch))
        parts.append(f"MONAI ran again at the end, at {again.speed / then.speed:.2f} times its speed at the start.")
    names = {one.key: one.name for one in who if isinstance(one, Peer)}
    if names and len(asked.patches) > 1:
        chosen = [r for r in bench.records if r.side == first and r.turn == 0 and r.key in names]
        parts += [f"### The peers' patches, on {first}^3", reporting.patches(names, chosen, bench.patches, bench.limit)]
    return "\n\n".join(parts)


def versions(bench: Bench) -> str:
    """Of the peers, as they tell them."""
    told = {r.key: r.found.get("version") or r.found.get("dask") for r in bench.records if r.found}
    return "".join(f"; {key} {version}" for key, version in told.items() if version and key in USUAL)


def processor() -> str:
    """The processor's name and its widest instructions for matrices."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "processor unknown"
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in told.get("flags", "").split()]
    return f"{told.get('model name', 'processor unknown')} ({', '.join(wide)})"


def report_alone(found: dict[str, Any] | str) -> str:
    """The network alone, in words and a table."""
    if isinstance(found, str):
        return f"### The network alone\n\nNot measured: {found}."
    peaks = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name}" for name, value in found["peaks"].items())
    flops = next((row["flops_per_voxel"] for row in found["rows"] if "flops_per_voxel" in row), 0)
    return (
        f"### The network alone\n\nOn patches in memory, input voxels; {flops / 1e3:.1f} kFLOP per voxel. The peak is "
        f"that of a product of large matrices: {peaks}.\n\n{reporting.kernels(found['rows'])}"
    )


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="ENVIRONMENT=PATH",
        help="the Python of monai, nnunet or chunkflow; by default the one that runs this",
    )
    parser.add_argument("--peers", nargs="*", default=list(USUAL), choices=[p.key for p in PEERS])
    parser.add_argument("--ours", nargs="*", default=[o.key for o in OURS], choices=[o.key for o in OURS])
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[248, 496], help="voxels along each axis of the volumes"
    )
    parser.add_argument("--patches", type=int, nargs="+", default=[64, 96, 128, 160])
    parser.add_argument("--overlap", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-gib", type=float, default=6, help="limit by which patches are chosen")
    parser.add_argument("--machine-gib", type=float, default=18, help="memory at which any run is killed")
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which any run is killed")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; medians if more than one")
    parser.add_argument("--whole", type=int, default=248, help="side up to which the network runs on the whole at once")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "peers", help="for records, logs, the plot")
    parser.add_argument("--plot", type=Path, help="where the plot goes instead")
    parser.add_argument("--scratch", type=Path, help="folder for volumes and results, which are removed")
    parser.add_argument("--quick", action="store_true", help="MONAI and chunkinfer, patch 96, the first volume")
    parser.add_argument("--image", type=Path, default=IMAGE, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, default=MODEL, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.quick:
        asked.peers, asked.patches, asked.sides = ["monai"], [96], asked.sides[:1]
    asked.patches = [n for n in asked.patches if n <= asked.sides[0]]
    asked.threads = min(asked.threads, len(os.sched_getaffinity(0)))
    return asked


def main() -> None:
    asked = options()
    if absent := [str(p.relative_to(SHARED.parent)) for p in (asked.image, asked.model) if not p.exists()]:
        sys.exit(f"This benchmark reads {', '.join(absent)} beside the repository: real data, which is not part of it.")
    pythons = dict.fromkeys(("monai", "nnunet", "chunkflow"), sys.executable)
    pythons.update(pair.split("=", 1) for pair in asked.python)
    asked.out.mkdir(parents=True, exist_ok=True)
    wanted = [p for p in PEERS if p.key in asked.peers]
    reasons = {p.name: why for p in wanted if (why := missing(p, pythons[p.environment]))}
    peers = [p for p in wanted if p.name not in reasons]
    for name, why in reasons.items():
        say(f"{name} does not take part: {why}")
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        bench = Bench(asked, Path(folder), pythons)
        made = prepare(bench)
        bench.choose(peers, asked.sides[0])
        reasons |= {p.name: "no patch fits the limit, or it failed" for p in peers if p.key not in bench.patches}
        who: list[Contestant] = [p for p in peers if p.key in bench.patches]
        who += [o for o in OURS if o.key in asked.ours]
        bench.compete(who)
        monai = next((one for one in who if one.key == "monai"), None)
        if monai and not asked.quick:
            bench.run(monai, asked.sides[0], bench.patch_of(monai), turn=-1)
        alone = network_alone(bench)
    print(f"{report(bench, who, reasons, made)}\n\n{report_alone(alone)}")
    reporting.plot({side: bench.rows(who, side) for side in asked.sides}, asked.plot or asked.out / "peers.png")
    say(f"records, logs and the plot are in {asked.out}" + (f"; the plot is {asked.plot}" if asked.plot else ""))


if __name__ == "__main__":
    main()
