"""A plan as text and as HTML: a table of axes, and facts below it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.support import html

if TYPE_CHECKING:
    from chunkinfer.tiling.plan.memory import Terms
    from chunkinfer.tiling.plan.plan import Plan


def human_bytes(size: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"


def human_time(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.3g} h"


def as_sum(terms: Terms) -> str:
    """``total = a + b + ...``."""
    listed = " + ".join(f"{human_bytes(size)} {name}" for name, size in terms)
    return f"{human_bytes(sum(size for _, size in terms))} = {listed}"


def text(plan: Plan) -> str:
    """For terminals and logs."""
    table = _table(plan)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
    lines += [f"{name + ':':<20}{value}" for name, value in _facts(plan)]
    return "\n".join(lines)


def as_html(plan: Plan) -> str:
    """For notebooks."""
    head, *body = _table(plan)
    return html.table(head, body) + html.facts(_facts(plan))


def _table(plan: Plan) -> list[list[str]]:
    step = "clean zone" if plan.lattice.exact else "stride"
    rows = [["axis", "voxels", "period", "context", "patch", step, "patches", "block", "halo", "output", "chunk"]]
    units = plan.layout.shards or (0,) * (1 + len(plan.axes))
    for d, (name, a) in enumerate(zip(plan.axes, plan.lattice.axes, strict=True)):
        padded = f"{a.size}" + (f" (+{a.padded - a.size})" if a.padded > a.size else "")
        context = "{} + {}".format(*plan.context[d]) if plan.context else "unbounded"
        row = [name, padded, a.contract.period, context, a.patch, a.step, len(a.starts), plan.block[d]]
        row += ["{} + {}".format(*plan.halo[d]), a.output, plan.layout.chunks[1 + d]]
        if plan.layout.shards:
            row.append(units[1 + d])
        rows.append([str(cell) for cell in row])
    if plan.layout.shards:
        rows[0].append("shard")
    return rows


def _facts(plan: Plan) -> list[tuple[str, str]]:
    traffic, voxels, out = plan.traffic, prod(plan.lattice.shape), prod(plan.lattice.output)
    volume = voxels * plan.channels_in * np.dtype(plan.dtype_in).itemsize
    better = f"; the best patch found computes {plan.best:.0%} of that" if plan.best < 0.99 else ""
    whole = f"; whole chunks cost {1 / plan.freest - 1:.0%} of the work" if plan.freest < 0.995 else ""
    on_device = [("memory on the GPU", as_sum(plan.device_memory()))] if plan.device_memory() else []
    return [
        ("model", f"{plan.model}, {plan.channels_in} -> {plan.network_channels} channels, "
         + (f"output {plan.network_output}, " if plan.network_output else "") + f"digest {plan.digest[:12]}"),
        *([("not resumable", f'{plan.doubt}; infer(volume, model, version="v1") vouches')] if plan.doubt else []),
        *([("augmentation", plan.augmentation)] if plan.augmentation else []),
        ("verdict", plan.verdict),
        ("engine", f"{plan.engine}: {plan.engine_why}"),
        *([("cpu engine", f"{plan.cpu_engine}, fp32, on workers that declare no GPU: rounding differs by block")]
          if plan.cpu_engine else []),
        *_precision(plan),
        ("same bits for", f"any cut, with this network, engine, patch, batch of {plan.batch}, {plan.precision}, "
         f"{plan.threads} thread(s) a kernel, on {plan.device}, and the same version of the engine"),
        ("values", f"{plan.dtype_in}, {plan.normalize} -> {plan.dtype}"),
        *([("output steps", ", ".join(f"{k} {v}" for k, v in plan.output.items()))] if plan.output else []),
        *([("skipped", _skips(plan.skips))] if plan.skips else []),
        ("volume", f"{voxels:,} voxels, {human_bytes(volume)}"),
        ("output", f"{out:,} voxels x {plan.channels_out} channels, {human_bytes(traffic.written_bytes)}"),
        ("blocks", f"{len(plan.grid):,}, one task each, {plan.slots} in flight per process"),
        ("patches", f"{plan.patches:,}, {plan.recompute:.2f} patch voxels per voxel of the volume{whole}{better}"),
        ("arithmetic", f"{plan.flops_per_voxel:,.0f} FLOP per output voxel, {plan.flops_per_voxel * out:.3g} in all"
         if plan.forward.flops else "not known: the network can only be called, and its memory is assumed"),
        ("reads", f"{human_bytes(traffic.read_bytes)} "
         + (f"in {traffic.read_requests:,} requests" if traffic.read_requests else "from memory")
         + f", {plan.read_amplification:.2f} times the volume"),
        ("writes", f"{human_bytes(traffic.written_bytes)} before compression in {traffic.write_requests:,} requests"),
        ("memory per process", as_sum(plan.memory())),
        *on_device,
        *_limits(plan),
        *_estimate(plan),
    ]  # fmt: skip


def _precision(plan: Plan) -> list[tuple[str, str]]:
    if plan.precision == "fp32":
        return []
    if plan.check is None:
        return [("precision", f"{plan.precision}, not checked: this process has no GPU")]
    verdict = "more than" if plan.check.excess(plan.tolerance) else "within"
    refused = ": running it is refused" if verdict == "more than" else ""
    return [("precision", f"{plan.check}; {verdict} the {plan.tolerance:g} allowed{refused}")]


def _skips(skips: dict[str, Any]) -> str:
    left_out = []
    if mask := skips.get("mask"):
        left_out.append(f"voxels outside of {mask['source'].get('url') or 'the mask'}")
    if skips["empty"] is not None:
        what = "are all equal" if skips["empty"] == "constant" else f"are all {skips['empty']:g}"
        left_out.append(f"those of patches whose stored voxels {what}")
    return f"{' and '.join(left_out)}; {skips['fill']:g} is stored there"


def _limits(plan: Plan) -> list[tuple[str, str]]:
    known = [
        f"{human_bytes(limit)} {whose}"
        for limit, whose in ((plan.limit, "of a process"), (plan.device_limit, "of its GPU"))
        if limit is not None
    ]
    verdict = "fits" if plan.fits else "does not fit: running it is refused"
    return [("memory limit", f"{' and '.join(known)}; {verdict}")] if known else []


def _unmeasured(patches: int) -> str:
    return f"; there was no time to measure {patches} of the patches" if patches else ""


def _estimate(plan: Plan) -> list[tuple[str, str]]:
    found, speed = plan.estimate, plan.speed
    if found is None or speed is None:
        return [("speed", "not measured: calibrate=True does, in a minute at most")]
    seconds = human_time(found.seconds)
    facts = [
        ("speed", f"{found.voxels_per_second / 1e6:.3g} Mvoxel/s of output per process, measured on {speed.where}: "
         f"{human_time(speed.batch_seconds)} a batch with {plan.kernels} kernel(s), "
         f"{human_time(speed.transfer_seconds)} to read and write a block{_unmeasured(speed.unmeasured)}"),
        ("time", f"{seconds} on {plan.workers} worker(s), {human_time(found.block_seconds)} a block"),
    ]  # fmt: skip
    if plan.max_block_minutes is not None and found.block_seconds > 60 * plan.max_block_minutes:
        facts.append(
            ("walltime", f"a block takes longer than max_block_minutes={plan.max_block_minutes:g}: a preempted one is "
             f"lost work; choose a smaller block= or patch=")
        )  # fmt: skip
    if found.energy_kwh is not None:
        facts.append(("energy", f"{found.energy_kwh:.3g} kWh of the devices"))
    if found.cost is not None:
        facts.append(("cost", f"{found.cost:,.2f} at the given prices"))
    return facts
