"""verify on real stores: every damage is found and named, nothing else is; a repair gives the undisturbed output."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin

import chunkinfer as ci
import chunkinfer.tiling.plan.resolve as make_module
from chunkinfer.api.verify import _look
from chunkinfer.errors import (
    DestinationError,
    ModelError,
    OutputInUse,
    PlanError,
    SettingsDiffer,
    SourceError,
    UntrustedModel,
)
from chunkinfer.geometry.boxes import Box
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.schedule.storing import checksum
from chunkinfer.stores import failures
from chunkinfer.stores.files import Files
from chunkinfer.tiling.plan.blocks import Budget
from chunkinfer.tools import cli
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.probes import convolution

FORMATS: dict[str, dict[str, Any]] = {
    "zarr3 in shards": {"format": "zarr3", "chunks": (1, 8, 8, 8)},
    "zarr3": {"format": "zarr3", "chunks": (1, 16, 16, 16), "shards": False},
    "zarr2": {"format": "zarr2", "chunks": (1, 16, 16, 16)},
    "precomputed": {"format": "precomputed", "chunks": (1, 16, 16, 16)},
    "precomputed in shards": {"format": "precomputed", "chunks": (1, 8, 8, 8), "shards": (1, 16, 16, 16)},
    "precomputed, jpeg": {"format": "precomputed", "chunks": (1, 16, 16, 16), "encoding": "jpeg"},
}
"""Each block, of 16 voxels per axis, is one file."""


@pytest.fixture
def volume(tmp_path: Path) -> str:
    values = np.random.default_rng(0).integers(1, 255, (40, 32, 32)).astype(np.uint8)
    zarr.create_array(tmp_path / "volume.zarr", data=values, chunks=(16, 16, 16), dimension_names=["z", "y", "x"])
    return str(tmp_path / "volume.zarr")


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = str(tmp_path / "net.pt")
    torch.jit.save(torch.jit.script(torch.nn.Sequential(convolution(), torch.nn.Sigmoid()).eval()), path)
    return path


@pytest.fixture
def make(volume: str, model: str, tmp_path: Path) -> Callable[..., Path]:
    """Stores the network's result: 12 blocks."""

    def run(name: str = "out", dtype: str = "uint8", **settings: Any) -> Path:
        result = ci.infer(ci.open_volume(volume), model, patch=18, block=16, dtype=dtype)
        ci.save(result, tmp_path / name, progress=False, **settings)
        return tmp_path / name

    return run


def files_of(output: Path) -> list[Path]:
    """Chunks or shards, not metadata."""
    inside = (path for path in output.rglob("*") if path.is_file() and ".chunkinfer" not in path.parts)
    return sorted(
        p for p in inside if p.name not in ("zarr.json", ".zarray", ".zattrs", ".zgroup", "info", "provenance")
    )


def differing(output: Path, expected: np.ndarray[Any, Any]) -> set[Box]:
    """Blocks that cannot be read, or not as expected: found without any checksum."""
    found, source = set(), open_source(output)
    for z in range(0, 40, 16):
        for y in (0, 16):
            for x in (0, 16):
                box = Box((0, z, y, x), (1, min(z + 16, 40), y + 16, x + 16))
                try:
                    same = np.array_equal(source[box.slices], expected[box.slices])
                except SourceError:
                    same = False
                if not same:
                    found.add(box)
    return found


QUICK = ("zarr3 in shards", "precomputed in shards")


@pytest.mark.parametrize("layout", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FORMATS])
def test_damage_is_found_and_repaired(layout: str, make: Callable[..., Path], model: str) -> None:
    output = make(**FORMATS[layout])
    expected = ci.open_volume(output).values
    assert differing(output, expected) == set()
    sound = ci.verify(output)
    assert sound.ok
    assert (sound.checked, sound.unknown, sound.torn) == (12, 0, ())

    parts = files_of(output)
    assert len(parts) == 12
    truncated, deleted, swapped, flipped = parts[1], parts[4], parts[6], parts[9]
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    deleted.unlink()
    shutil.copy(parts[3], swapped)
    data = bytearray(flipped.read_bytes())
    data[len(data) // 3] ^= 0x10
    flipped.write_bytes(data)

    torn = ci.verify(output)
    assert not torn.ok
    assert {t.box for t in torn.torn} == differing(output, expected)
    assert len(torn.torn) == 4
    kinds = {t.what.partition(":")[0] for t in torn.torn}
    assert {"missing chunk"} < kinds <= {"missing chunk", "other voxels", "unreadable"}
    # A shard of precomputed names its chunks, so another block's holds none of this one's.
    assert ("was written with these" in str(torn)) == (layout != "precomputed in shards")

    repaired = ci.verify(output, repair=True, model=model, progress=False)
    assert repaired.ok
    assert len(repaired.torn) == 4
    assert repaired.run is not None
    assert (repaired.run.computed, repaired.run.skipped) == (4, 8)
    assert np.array_equal(ci.open_volume(output).values, expected)
    assert ci.verify(output).torn == ()


@pytest.mark.parametrize(("layout", "dtype"), [("zarr3 in shards", "float16"), ("zarr2", "float32")])
def test_nothing_is_found_in_what_is_sound(layout: str, dtype: str, make: Callable[..., Path]) -> None:
    found = ci.verify(make(dtype=dtype, **FORMATS[layout]))
    assert found.ok
    assert found.bytes == 40 * 32 * 32 * np.dtype(dtype).itemsize
    assert "all right" in str(found)
    assert "all right" in found._repr_html_()


def test_the_recorded_checksum_is_that_of_the_voxels(make: Callable[..., Path]) -> None:
    output = make(**FORMATS["zarr3"])
    done = Ledger(Files(str(output))).done(12)
    assert done.known.all()
    values = zarr.open_array(output, mode="r")[:]
    assert done.checksums[0] == checksum(values[:, :16, :16, :16])
    assert done.checksums[11] == checksum(values[:, 32:, 16:, 16:])


def test_a_copy_is_repaired_from_its_source(volume: str, tmp_path: Path) -> None:
    output = tmp_path / "copy.zarr"
    ci.save(ci.open_volume(volume), output, progress=False, chunks=(16, 16, 16), shards=False)
    files_of(output)[2].unlink()
    assert len(ci.verify(output).torn) == 1
    assert ci.verify(output, repair=True, progress=False).ok
    assert np.array_equal(ci.open_volume(output).values, ci.open_volume(volume).values)


def test_a_crop_of_a_level_is_repaired_from_what_the_ledger_names(volume: str, model: str, tmp_path: Path) -> None:
    part = ci.open_volume(volume, box=(slice(3, 38), slice(0, 32), slice(5, 30)), missing="fill")
    output = tmp_path / "out.zarr"
    ci.save(ci.infer(part, model, overlap=4, patch=12, normalize=(3, 17.5), exchange=True), output, progress=False)
    expected = ci.open_volume(output).values
    files_of(output)[0].unlink()
    assert ci.verify(output, repair=True, model=model, progress=False).ok
    assert np.array_equal(ci.open_volume(output).values, expected)


def test_a_model_that_only_the_ledger_names_needs_trust(make: Callable[..., Path], model: str) -> None:
    output = make(**FORMATS["zarr3"])
    files_of(output)[0].unlink()
    with pytest.raises(UntrustedModel, match="names the model file") as caught:
        ci.verify(output, repair=True)
    assert len(caught.value.ways) == 2
    assert len(ci.verify(output).torn) == 1  # nothing was forgotten
    assert Ledger(Files(str(output))).done(12).count == 12
    assert ci.verify(output, repair=True, trust=True, progress=False).ok


def test_another_model_or_volume_is_refused_before_anything_changes(
    make: Callable[..., Path], model: str, volume: str, tmp_path: Path
) -> None:
    output = make(**FORMATS["zarr3"])
    files_of(output)[0].unlink()
    with pytest.raises(ModelError, match="digest"):
        ci.verify(output, repair=True, model=convolution())
    shutil.copytree(volume, tmp_path / "other.zarr")
    with pytest.raises(SettingsDiffer, match=r"other\.zarr"):
        ci.verify(output, repair=True, model=model, volume=tmp_path / "other.zarr", progress=False)
    assert ci.verify(output, repair=True, model=model, volume=volume, progress=False).ok


def test_what_no_ledger_can_name_is_given_as_it_was_saved(model: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 255, (16, 16, 16)).astype(np.uint8)
    result = ci.infer(values, model, patch=10, block=8)
    ci.save(result, tmp_path / "out.zarr", progress=False, shards=False, chunks=(1, 8, 8, 8))
    expected = ci.open_volume(tmp_path / "out.zarr").values
    files_of(tmp_path / "out.zarr")[3].unlink()
    with pytest.raises(DestinationError, match="in no store"):
        ci.verify(tmp_path / "out.zarr", repair=True, model=model)
    assert ci.verify(tmp_path / "out.zarr", repair=True, volume=result, progress=False).ok
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, expected)


def test_blocks_of_earlier_versions_are_read_at_least(make: Callable[..., Path]) -> None:
    output = make(**FORMATS["zarr3"])
    for name in (output / ".chunkinfer").glob("done-*"):
        name.unlink()
    runs = [[0, 9]]
    record = {"runs": runs, "crc32": zlib.crc32(json.dumps(runs).encode())}
    (output / ".chunkinfer" / "done-000000.json").write_text(json.dumps(record))
    found = ci.verify(output)
    assert found.ok
    assert (found.finished, found.checked, found.unknown) == (10, 10, 10)
    files_of(output)[1].unlink()
    (torn,) = ci.verify(output).torn
    assert torn.what.startswith("missing chunk")


def test_a_sample_is_as_large_as_asked(make: Callable[..., Path]) -> None:
    output = make(**FORMATS["zarr3"])
    assert ci.verify(output, sample=5).checked == 5
    assert ci.verify(output, sample=0.5).checked == 6
    assert ci.verify(output, sample=1000).checked == 12
    for wrong in (0, -1, 2.5, True, float("nan")):
        with pytest.raises(PlanError, match="sample="):
            ci.verify(output, sample=wrong)


class Seen(SchedulerPlugin):
    """Keeps the keys of tasks that were finished."""

    keys: ClassVar[set[str]] = set()

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == "memory":
            self.keys.add(str(key))


def test_blocks_are_read_where_the_workers_are(make: Callable[..., Path], model: str) -> None:
    output = make(**FORMATS["zarr3"])
    files_of(output)[7].unlink()
    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp") as cluster,
        Client(cluster) as client,
    ):
        cluster.scheduler.add_plugin(Seen())
        assert len(ci.verify(output, client=client).torn) == 1
        assert any("_look" in key for key in Seen.keys)
        assert ci.verify(output, repair=True, model=model, progress=False).ok


def test_an_array_that_was_replaced_is_told(make: Callable[..., Path], tmp_path: Path) -> None:
    output = make(**FORMATS["zarr3"])
    ledger = shutil.copytree(output / ".chunkinfer", tmp_path / "kept")
    ci.save(np.zeros((8, 8, 8), np.uint8), output, overwrite=True, progress=False)
    shutil.rmtree(output / ".chunkinfer")
    shutil.copytree(ledger, output / ".chunkinfer")
    with pytest.raises(DestinationError, match="its ledger speaks of"):
        ci.verify(output)


class Broken:
    """A destination whose store fails with a status."""

    def __init__(self, status: str) -> None:
        self.status = status

    def read(self, box: Any) -> Any:
        error = RuntimeError(f"{self.status}: so it is")
        raise failures.unread_box("s3://bucket/out.zarr", ((0, 1),), error) from error


@pytest.mark.parametrize(("status", "torn"), [("DATA_LOSS", True), ("NOT_FOUND", True), ("UNAVAILABLE", False),
                                              ("PERMISSION_DENIED", False), ("DEADLINE_EXCEEDED", False)])  # fmt: skip
def test_a_store_that_does_not_answer_is_no_damage(status: str, torn: bool) -> None:
    blocks = [(5, (slice(0, 1),), 0)]
    if torn:
        ((position, size, what, _),) = _look(Broken(status), blocks)  # type: ignore[arg-type]
        assert (position, size) == (5, 0)
        assert what
    else:
        with pytest.raises(SourceError, match="so it is"):
            _look(Broken(status), blocks)  # type: ignore[arg-type]


def test_an_output_that_is_being_written_is_not_repaired(make: Callable[..., Path], model: str) -> None:
    output = make(**FORMATS["zarr3"])
    files_of(output)[0].unlink()
    with Lease(Files(str(output)), every=0.2), pytest.raises(OutputInUse):
        ci.verify(output, repair=True, model=model, progress=False)
    assert Ledger(Files(str(output))).done(12).count == 12


def test_the_command(make: Callable[..., Path], model: str) -> None:
    output = make(**FORMATS["zarr3"])
    assert CliRunner().invoke(cli.main, ["verify", str(output)]).exit_code == 0
    files_of(output)[3].unlink()
    found = CliRunner().invoke(cli.main, ["verify", str(output)])
    assert found.exit_code == 2
    assert "[0:1, 0:16, 16:32, 16:32]: missing chunk" in found.output
    mended = CliRunner().invoke(cli.main, ["verify", str(output), "--repair", "--model", model])
    assert mended.exit_code == 0, mended.output
    assert "1 torn blocks, 1 of them computed again" in mended.output


@pytest.mark.slow
def test_damage_on_s3(s3: str, volume: str, model: str) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    output = f"{s3}/out.zarr"
    ci.save(ci.infer(ci.open_volume(volume), model, patch=18, block=16), output, progress=False)
    expected = ci.open_volume(output).values
    assert ci.status(output).complete
    assert ci.verify(output).ok
    keys = [c["Key"] for c in client.list_objects_v2(Bucket="ledgers", Prefix="out.zarr/c/")["Contents"]]
    client.delete_object(Bucket="ledgers", Key=keys[2])
    client.copy_object(Bucket="ledgers", Key=keys[5], CopySource={"Bucket": "ledgers", "Key": keys[4]})
    found = ci.verify(output)
    assert sorted(t.what.partition(":")[0] for t in found.torn) == ["missing chunk", "other voxels"]
    assert ci.verify(output, repair=True, model=model, progress=False).ok
    assert np.array_equal(ci.open_volume(output).values, expected)


def test_a_repair_takes_the_patches_that_the_plan_chose(
    volume: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two patches that share an axis have other zones than their size alone gives."""
    source, output = ci.open_volume(volume), tmp_path / "halves"
    with monkeypatch.context() as tight:
        tight.setattr(make_module, "_budget", lambda *_: Budget(activations=300_000))
        plan = ci.plan(source, model)
        assert any(axis.halved for axis in plan.lattice.axes)
        ci.save(ci.infer(source, model), output, progress=False)
    expected = ci.open_volume(output).values
    files_of(output)[0].unlink()
    repaired = ci.verify(output, repair=True, trust=True, progress=False)
    assert repaired.ok
    assert len(repaired.torn) == 1
    assert np.array_equal(ci.open_volume(output).values, expected)
