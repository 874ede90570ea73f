"""Chains run: the same bits as the Python calls, nothing in a dry run, and again from what lies beside the output."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.errors import ChunkinferError, MissingExtra, PipelineError, SourceError, SourceNotFound
from chunkinfer.tools import cli
from chunkinfer.tools.cli import main
from chunkinfer.tools.pipelines.pipeline import Pipeline
from chunkinfer.tools.viewers import browser
from chunkinfer.tools.viewers.viewing import View


def do(words: str) -> str:
    """Run ``chunkinfer`` in this process."""
    result = CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def chain(words: str) -> Pipeline:
    """The pipeline that words name."""
    return Pipeline.from_words(words.split())


def same(url: str, expected: object) -> None:
    """What is stored equals what a lazy volume computes: values, type, axes and positions."""
    stored, wanted = ci.open_volume(url), expected.compute()  # type: ignore[attr-defined]
    assert stored.dtype == wanted.dtype
    assert stored.dims == wanted.dims
    for d in ("z", "y", "x"):
        np.testing.assert_allclose(stored[d], wanted[d])
    np.testing.assert_array_equal(stored.values, wanted.values)


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.usefixtures("at_home")
def test_a_chain_in_a_process_of_its_own_equals_the_calls() -> None:
    words = "open em.zarr normalize --percentile 1 99 infer unet.pt2 quantize save aff.zarr"
    command = [sys.executable, "-m", "chunkinfer.tools.cli", *words.split()]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert "exact" in ran.stdout
    same("aff.zarr", op.quantize(ci.infer(op.normalize(ci.open_volume("em.zarr"), percentile=(1, 99)), "unet.pt2")))


@pytest.mark.usefixtures("at_home")
def test_a_chain_is_the_graph_of_the_calls() -> None:
    """So all that holds of operators in Python holds of a chain: one read of the source, one task per block."""
    image = ci.open_volume("em.zarr")
    smooth = op.gaussian(op.normalize(image, range=(0, 255)), (0, 1, 1))
    before = chain("open em.zarr normalize --range 0 255 gaussian 0,1,1").lazy()[-1]
    after = chain("open em.zarr normalize --range 0 255 gaussian 0,1,1 infer unet.pt2 quantize").lazy()[-1]
    assert before.data.name == smooth.data.name
    assert after.data.name == op.quantize(ci.infer(smooth, "unet.pt2")).data.name


@pytest.mark.usefixtures("at_home")
def test_named_volumes() -> None:
    do(
        "open em.zarr --as image gaussian 2 --as smooth "
        "open tissue.zarr --as tissue "
        "combine smooth subtract --from image mask tissue --fill 7 save sharp.zarr "
        "threshold 20 --from smooth save bright.zarr"
    )
    image = ci.open_volume("em.zarr")
    smooth = op.gaussian(image, 2)
    same("sharp.zarr", op.mask(op.combine(image, smooth, "subtract"), "tissue.zarr", fill=7))
    same("bright.zarr", op.threshold(smooth, 20))
    for name in ("sharp", "bright"):
        do(f"run {name}.zarr/.chunkinfer/pipeline.yaml --output {name}-again.zarr")
        same(f"{name}-again.zarr", ci.open_volume(f"{name}.zarr"))


def test_provenance_leads_to_its_output_only_and_is_replayed_elsewhere(
    at_home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(
        "open em.zarr --as image gaussian 2 --as smooth save smooth.zarr --overwrite open tissue.zarr "
        "multiply image save first.zarr threshold 100 --from smooth multiply tissue.zarr save second.zarr"
    )
    kept = Path("second.zarr/.chunkinfer/pipeline.yaml").read_text()
    steps = Pipeline.from_yaml(kept).steps
    assert [step.command for step in steps] == ["open", "gaussian", "threshold", "multiply", "save"]
    assert steps[0].parameters["url"] == str(at_home / "em.zarr")
    assert steps[3].parameters["other"] == str(at_home / "tissue.zarr")
    first = Pipeline.from_yaml(Path("first.zarr/.chunkinfer/pipeline.yaml").read_text())
    assert [step.command for step in first.steps] == ["open", "open", "multiply", "save"]
    assert "overwrite" not in Path("smooth.zarr/.chunkinfer/pipeline.yaml").read_text()

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    files = [at_home / f"{name}.zarr/.chunkinfer/pipeline.yaml" for name in ("first", "second", "smooth")]
    monkeypatch.chdir(elsewhere)
    for file in files:
        output = file.parents[1].name
        do(f"run {file} --output {output}")
        again = ci.open_volume(at_home / output)
        same(output, again)
        assert Path(output, ".chunkinfer/pipeline.yaml").read_text() == file.read_text().replace(
            f"{at_home}/{output}", f"{elsewhere}/{output}"
        )
    assert "0 computed" in do(f"run {files[0]}")  # to its own output: complete


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.usefixtures("at_home")
def test_what_follows_a_save_and_what_opens_it_again() -> None:
    pipeline = chain(
        "open em.zarr gaussian 1 save smooth.zarr open ./smooth.zarr threshold 90 save t.zarr "
        "multiply smooth.zarr save m.zarr"
    )
    assert " 4  open ./smooth.zarr\n      z 24, y 40, x 48; float32" in pipeline.plan()  # which is not stored yet
    assert not Path("smooth.zarr").exists()
    pipeline.run(progress=False)
    smooth = op.gaussian(ci.open_volume("em.zarr"), 1)
    same("t.zarr", op.threshold(smooth, 90))
    same("m.zarr", op.multiply(op.threshold(smooth, 90), smooth))
    kept = Pipeline.from_yaml(Path("m.zarr/.chunkinfer/pipeline.yaml").read_text())
    assert [step.command for step in kept.steps] == ["open", "threshold", "multiply", "save"]

    for name in ("smooth", "t", "m"):
        shutil.move(f"{name}.zarr", f"{name}-before.zarr")
    pipeline.with_outputs(["a.zarr", "b.zarr", "c.zarr"]).run(progress=False)
    assert not Path("smooth.zarr").exists()
    same("c.zarr", ci.open_volume("m-before.zarr"))


def test_a_dry_run_reads_no_voxel(at_home: Path) -> None:
    """The image's chunks are gone: whatever reads one fails."""
    image = Path(shutil.copytree("em.zarr", "hollow.zarr"))
    shutil.rmtree(image / "c")
    text = do(
        "open hollow.zarr --missing error normalize --percentile 1 99 gaussian 2 infer unet.pt2 --precision bf16 "
        "--calibrate --max-block-minutes 5 median --size 1,3,3 quantize downsample 1,2,2 channels 0,2 crop z=4:20 "
        "save aff.ome.zarr --pyramid 2 --dry-run"
    )
    assert "limits: found in a first pass over the volume" in text
    assert "halo: z 8, y 8, x 8" in text
    assert "halo: y 1, x 1" in text
    assert "precision bf16: measured when it runs" in text
    assert "verdict:            exact" in text
    assert "c 2, z 16, y 20, x 24; uint8; voxel size 40 x 8 x 8 nm; origin 7, 0, 0" in text
    assert not Path("aff.ome.zarr").exists()
    with pytest.raises(SourceError):  # it is the dry run that reads nothing
        chain("open hollow.zarr --missing error normalize").lazy()
    pipeline = Path("p.yaml")
    pipeline.write_text(do("open hollow.zarr gaussian 2 save g.zarr --yaml"))
    assert "halo: z 8, y 8, x 8" in do("run p.yaml --dry-run")


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("save out.precomputed --encoding png", "encoding"),
        ("cast float32 save out.precomputed --encoding jpeg", "jpeg"),
        ("cast float64 save out.precomputed", "data type"),
        ("save out.zarr --format hdf5", "format of an output"),
        ("save out.zarr --chunks 7,7", "chunks"),
        ("save out.precomputed --chunks 8,8,8 --shards 24,8,8", "Shards of"),
        ("save out.zarr --format zarr2 --chunks 8,8,8 --shards 16,16,16", "Shards of|no shards"),
        ("save out.zarr --compression lzma", "compression"),
        ("save out.zarr --pyramid", "no place for coarser levels"),
        ("infer unet.pt2 --block 12,20,24 save out.zarr --chunks 3,7,20,24", "not a whole number"),
        ("save em.zarr", "what this run reads"),
        ("invert open tissue.zarr save own.py", "is a file"),
        ("save other.zarr", "holds an array already"),
        ("save .", "holds no array|what this run reads"),
        ("save s3://me:secret@bucket/out.zarr", "credentials"),
        ("show slices.jpg", "does not end in .png"),
        ("view --screenshot /home/me/.profile", "does not end in .png"),
        ("show slices.png --kind labels", "not a way to show"),
        ("cast float32 view --kind segmentation", "labels are integers|integers"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(words: str, message: str, home: Path) -> None:
    shutil.copytree(home / "tissue.zarr", "other.zarr", ignore=shutil.ignore_patterns(".chunkinfer"))
    before = sorted(os.listdir())
    with pytest.raises(ChunkinferError, match=message) as raised:
        chain(f"open em.zarr {words}").plan()
    assert "in step" in raised.value.__notes__[0]
    assert sorted(os.listdir()) == before


@pytest.mark.usefixtures("at_home")
def test_a_dry_run_takes_what_a_run_began_for_one_that_goes_on() -> None:
    words = "open em.zarr normalize quantize save out.precomputed --chunks 8,8,8 --pyramid 1"
    do(words)
    assert "uint8" in do(f"{words} --dry-run")
    assert "0 computed" in do(words)
    assert "uint8" in do(f"{words} --overwrite --dry-run")
    assert ci.open_volume("out.precomputed").shape == (24, 40, 48)


@pytest.mark.usefixtures("at_home")
def test_slices_of_what_a_chain_would_give() -> None:
    """The volume goes on behind it, and other slices are not computed."""
    pytest.importorskip("matplotlib")
    words = "open em.zarr gaussian 1 show slices.png --position 5,20,9 threshold 100 save t.zarr"
    do(f"{words} --dry-run")
    assert not Path("slices.png").exists()
    said = do(words)
    assert said.startswith("slices.png\n")
    smooth = op.gaussian(ci.open_volume("em.zarr"), 1)
    assert Path("slices.png").read_bytes() == ci.show(smooth, position=(5, 20, 9)).png
    same("t.zarr", op.threshold(smooth, 100))
    kept = Pipeline.from_yaml(Path("t.zarr/.chunkinfer/pipeline.yaml").read_text())
    assert [step.command for step in kept.steps] == ["open", "gaussian", "threshold", "save"]
    do("open em.zarr save hollow.zarr --chunks 12,20,24 --no-shards")
    shutil.rmtree("hollow.zarr/c/0")
    with pytest.raises(SourceError):
        do("open hollow.zarr --missing error show a.png")
    do("open hollow.zarr --missing error crop z=12:24 show b.png")


@pytest.mark.usefixtures("at_home")
def test_a_chain_is_viewed() -> None:
    pytest.importorskip("neuroglancer")
    words = "open em.zarr --as image infer unet.pt2 view --other image --position 10,20,30 threshold 0.5 save t.zarr"
    viewed, report = chain(words).run(progress=False)
    assert isinstance(viewed, View)
    with viewed:
        assert [layer["name"] for layer in viewed.state["layers"]] == ["image", "affinities"]
    assert report.blocks >= 1  # type: ignore[union-attr]
    failing = "open em.zarr view open tissue.zarr apply own:smoothed save t2.zarr"
    stopped: list[View] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(View, "close", lambda self, close=View.close: stopped.append(self) or close(self))
        with pytest.raises(ChunkinferError, match="was declared"):
            chain(failing).run(progress=False)
    assert len(stopped) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_a_chain_is_viewed_until_ctrl_c_and_drawn_by_a_browser() -> None:
    pytest.importorskip("neuroglancer")
    command = [sys.executable, "-u", "-m", "chunkinfer.tools.cli", "open", "em.zarr", "gaussian", "1", "view"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, ends = process.stdout.readline().strip(), process.stdout.readline()
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"neuroglancer" in page.read().lower()
        assert ends == "Ctrl-C ends it.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    try:
        browser.found(None)
    except MissingExtra:
        pytest.skip("no Chromium or Chrome is installed")
    assert do("open em.zarr infer unet.pt2 view --screenshot shot.png --size 300 200") == "shot.png\n"
    image = pytest.importorskip("PIL.Image").open("shot.png")
    assert image.size == (300, 200)
    assert len(image.convert("RGB").getcolors(100_000)) > 50


@pytest.mark.usefixtures("at_home")
def test_what_is_wrong_further_on_is_found_before_a_first_pass() -> None:
    shutil.copytree("em.zarr", "hollow.zarr")
    shutil.rmtree("hollow.zarr/c")
    words = "open hollow.zarr --missing error normalize downsample 1,2 save out.zarr"
    with pytest.raises(ValueError, match="factors") as raised:
        chain(words).run()
    assert raised.value.__notes__ == ["in step 3: downsample 1,2"]
    with pytest.raises(ValueError, match="factors"):
        chain("open em.zarr save copy.zarr downsample 1,2 save small.zarr").run()
    assert not Path("copy.zarr").exists()


@pytest.mark.usefixtures("at_home")
def test_networks_in_a_row_and_levels_of_what_was_saved() -> None:
    pipeline = chain("open em.zarr infer unet.pt2 channels 0 infer unet.pt2 --patch 24,16,48")
    text = pipeline.plan()
    assert text.count("verdict:            exact") == 2
    assert "       y      40" in text.partition("channels 0")[2]
    twice = chain("open em.zarr save em.ome.zarr --pyramid 1 open em.ome.zarr --level 1 save coarse.zarr")
    with pytest.raises(PipelineError, match="not there yet"):
        twice.plan()
    twice.run(progress=False)
    same("coarse.zarr", ci.open_volume("em.ome.zarr", level=1))


@pytest.mark.usefixtures("at_home")
def test_own_steps_run_and_are_kept() -> None:
    do("open em.zarr --plugin own:brighter brighter --by 5 save a.zarr --plugin own:smoothed")
    assert "smoothed" not in Path("a.zarr/.chunkinfer/pipeline.yaml").read_text()
    same("a.zarr", op.add(ci.open_volume("em.zarr"), 5))
    do("run a.zarr/.chunkinfer/pipeline.yaml --trust --output b.zarr")
    same("b.zarr", ci.open_volume("a.zarr"))
    do("open em.zarr smoothed --strength 0.5 --halo 1 --dtype float32 save c.zarr --plugin own:smoothed")
    do("open em.zarr apply own:smoothed --strength 0.5 --halo 1 --dtype float32 save d.zarr")
    same("d.zarr", ci.open_volume("c.zarr"))
    image = ci.open_volume("em.zarr").values.astype("f4")
    wide = np.pad(image, [(0, 0), (0, 0), (1, 1)], mode="edge")
    np.testing.assert_array_equal(ci.open_volume("c.zarr"), image + 0.5 * (wide[..., 2:] + wide[..., :-2]))


@pytest.mark.usefixtures("at_home")
def test_runs_that_cannot_be() -> None:
    with pytest.raises(PipelineError, match="saves nothing"):
        chain("open em.zarr invert").run()
    with pytest.raises(PipelineError, match="saves 1 volumes, and 2 outputs"):
        chain("open em.zarr save a.zarr").with_outputs(["a", "b"])
    with pytest.raises(SourceNotFound, match="no pipeline file"):
        do("run absent.yaml")


@pytest.mark.usefixtures("at_home")
def test_errors_on_the_command_line_are_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chunkinfer.tools.cli._with_malloc_settings", lambda: None)  # it would start this process anew
    monkeypatch.setattr(sys, "argv", ["chunkinfer", "open", "em.zarr", "crop", "z=0:99", "save", "out.zarr"])
    with pytest.raises(SystemExit, match="1"):
        cli.run()
    said = capsys.readouterr().err
    assert "VolumeError: " in said
    assert "(in step 2: crop z=0:99)" in said


@pytest.mark.usefixtures("at_home")
def test_a_chain_tells_its_log() -> None:
    do("open em.zarr invert save out.zarr --log run.jsonl")
    assert "run ended" in Path("run.jsonl").read_text()


def test_credentials_are_not_kept(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    words = "open https://me:wJalrXUtnFEMI@host/em.zarr save out.zarr --encoding wJalrXUtnFEMI"
    text = chain(words).provenance(1)
    assert "wJalrXUtnFEMI" not in text
    assert str(at_home / "out.zarr") in text


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_a_chain_runs_on_a_cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are processes of their own, which find the user's module on their path."""
    monkeypatch.setenv("PYTHONPATH", str(home))
    with ci.clusters.local(workers=2) as cluster:
        address = cluster.scheduler_address
        do(
            "open em.zarr normalize smoothed --halo 1 --dtype float32 infer unet.pt2 quantize save aff.zarr "
            f"--plugin own:smoothed --scheduler {address}"
        )
    from own import smoothed  # type: ignore[import-not-found]

    image = op.apply(op.normalize(ci.open_volume("em.zarr")), smoothed, halo=1, dtype="f4")
    same("aff.zarr", op.quantize(ci.infer(image, "unet.pt2")))


@pytest.mark.smoke
@pytest.mark.slow
def test_a_chain_from_bucket_to_bucket(s3_server: str, at_home: Path) -> None:
    """Its provenance is in the bucket, and replayed from there."""
    import obstore

    store = obstore.store.S3Store("chains", endpoint=s3_server, region="us-east-1", client_options={"allow_http": True})
    _make_bucket(s3_server, "chains")
    do("open em.zarr invert save s3://chains/inverted.zarr")
    kept = bytes(obstore.get(store, "inverted.zarr/.chunkinfer/pipeline.yaml").bytes()).decode()
    assert "s3://chains/inverted.zarr" in kept
    do("run s3://chains/inverted.zarr/.chunkinfer/pipeline.yaml --output again.zarr")
    same("again.zarr", op.invert(ci.open_volume("em.zarr")))


def _make_bucket(server: str, name: str) -> None:
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
