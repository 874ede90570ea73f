"""A pipeline has three forms, words, a value and YAML, and what is wrong with any of them is said."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import PipelineError, UntrustedModel, VolumeError
from chunkinfer.tools.cli import main
from chunkinfer.tools.pipelines.commands import commands
from chunkinfer.tools.pipelines.pipeline import Pipeline
from chunkinfer.volumes.operators import OPERATORS

CHAIN = "open em.zarr normalize --percentile 1 99 infer model.pt2 quantize save aff.precomputed"


def parsed(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Commands and plain parameters of the steps after ``open em.zarr``."""
    steps = Pipeline.from_words(["open", "em.zarr", *text.split()]).steps[1:]
    return [(step.command, dict(step.parameters)) for step in steps]


def test_a_chain_is_a_list_of_steps() -> None:
    assert parsed(CHAIN.removeprefix("open em.zarr ")) == [
        ("normalize", {"percentile": [1, 99]}),
        ("infer", {"model": "model.pt2"}),
        ("quantize", {}),
        ("save", {"url": "aff.precomputed"}),
    ]


@pytest.mark.parametrize(
    ("words", "command", "parameters"),
    [
        ("cast uint8", "cast", {"dtype": "uint8"}),
        ("threshold -0.5", "threshold", {"value": -0.5}),
        ("gaussian 1.5 --unit physical", "gaussian", {"sigma": 1.5, "unit": "physical"}),
        ("gaussian 0,1.5,1e1", "gaussian", {"sigma": [0, 1.5, 10.0]}),
        ("downsample 1,2,2 --method=mode", "downsample", {"factors": [1, 2, 2], "method": "mode"}),
        ("crop z=0:100,y=10:500", "crop", {"box": {"z": [0, 100], "y": [10, 500]}}),
        ("crop :100", "crop", {"box": [[None, 100]]}),
        ("crop 0:9,5:", "crop", {"box": [[0, 9], [5, None]]}),
        ("pad z=0:8,x=4", "pad", {"width": {"z": [0, 8], "x": 4}}),
        ("channels 0,2", "channels", {"which": [0, 2]}),
        ("channels 1", "channels", {"which": 1}),
        ("transpose xyz", "transpose", {"axes": "xyz"}),
        ("normalize --range 0 255", "normalize", {"range": [0, 255]}),
        ("normalize --range 0,255 --no-sections", "normalize", {"range": [0, 255], "sections": False}),
        ("normalize --sections", "normalize", {"sections": True}),
        ("multiply 2.5", "multiply", {"other": 2.5}),
        ("maskout labels.zarr --remove 3", "maskout", {"labels": "labels.zarr", "remove": [3]}),
        ("maskout labels.zarr --remove 3 5", "maskout", {"labels": "labels.zarr", "remove": [3, 5]}),
        ("apply own:f --halo 1 --strength 0.5", "apply", {"function": "own:f", "halo": 1, "strength": 0.5}),
        ("infer m.pt2 --patch 20,64,64 --argmax --mask t.zarr", "infer",
         {"model": "m.pt2", "patch": [20, 64, 64], "argmax": True, "mask": "t.zarr"}),
        ("infer m.pt2 --normalize 0 255 --memory 4GiB", "infer",
         {"model": "m.pt2", "normalize": [0, 255], "memory": "4GiB"}),
        ("save out.zarr --pyramid --shards 64,64,64", "save", {"url": "out.zarr", "pyramid": True, "shards": [64] * 3}),
        ("save out.zarr --pyramid 3 --no-shards", "save", {"url": "out.zarr", "pyramid": 3, "shards": False}),
        ("show out.png --position 1,2,3", "show", {"out": "out.png", "position": [1, 2, 3]}),
        ("view --other b --size 800 600 --screenshot a.png", "view",
         {"other": "b", "size": [800, 600], "screenshot": "a.png"}),
    ],
)  # fmt: skip
def test_words_of_a_step(words: str, command: str, parameters: dict[str, Any]) -> None:
    assert parsed(words) == [(command, parameters)]
    assert parsed(f"{words} save out2.zarr") == [(command, parameters), ("save", {"url": "out2.zarr"})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gausian 1.5", "no such operator: gausian; did you mean gaussian"),
        ("gaussian 1.5 2", "no such operator: 2"),
        ("gaussian", "gaussian needs sigma"),
        ("gaussian save out.zarr", "sigma is float | Sequence.float., not 'save'"),
        ("threshold 0.5 --unti physical", "threshold takes no 'unti'"),
        ("gaussian 2 --unti physical", "did you mean unit"),
        ("normalize --range", "Nothing follows --range"),
        ("maskout labels.zarr", "maskout needs remove"),
        ("invert --from image", "no earlier step has that name"),
        ("invert --as a invert --as a", "Two steps are called a"),
        ("invert --as image open b.zarr --from image", "open works on no volume"),
        ("save out.zarr --as image", "only passes its volume on"),
        ("show out.png --as image", "only passes its volume on"),
        ("show", "show needs out"),
        ("view --browser /bin/sh", "view takes no 'browser'"),
        ("save out.zarr --pyramid x", "no such operator: x"),
    ],
)
def test_what_is_wrong_with_words_is_said(words: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        parsed(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", "not YAML"),
        ("[1, 2]", "no list of steps"),
        ("step: []", "no list of steps"),
        ("steps: []", "no steps"),
        ("{steps: [{open: a}], plugin: []}", "'plugin'; did you mean plugins"),
        ("{steps: [{open: a}], plugins: own}", "not a list of module:function"),
        ("steps: [{open: a, save: b}]", "is not one step"),
        ("steps: [{save: b}]", "begins with save"),
        ("steps: [{open: a}, {gausian: 1}]", "did you mean gaussian"),
        ("steps: [{open: a}, {gaussian: {sigma: 1, unti: voxels}}]", "did you mean unit"),
        ("steps: [{open: a}, {gaussian: {sigma: {z: 1}}}]", "sigma is float"),
        ("steps: [{open: a}, {normalize: {sections: 3}}]", "sections is bool, not 3"),
        ("steps: [{open: a}, {downsample: [1, two]}]", "factors is int"),
        ("steps: [{open: a}, {invert: 3}]", "invert takes no argument"),
        ("steps: [{open: a}, {invert: {as: [b]}}]", "are names"),
        ("steps: [{open: a}, !!python/object/apply:os.system [true]]", "not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.from_yaml(text)


def test_an_error_tells_the_step() -> None:
    with pytest.raises(PipelineError) as raised:
        parsed("invert threshold")
    assert raised.value.__notes__ == ["in step 3: threshold"]


def test_files_may_be_short_or_long() -> None:
    short = "steps: [{open: em.zarr}, invert, {gaussian: 1.5}, {downsample: [1, 2, 2]}]"
    long = """
    steps:
    - open: {url: em.zarr}
    - invert: {}
    - gaussian: {sigma: 1.5, unit: null}
    - downsample: {factors: [1, 2, 2]}
    """
    words = "open em.zarr invert gaussian 1.5 downsample 1,2,2"
    assert Pipeline.from_yaml(short) == Pipeline.from_yaml(long) == Pipeline.from_words(words.split())


numbers = st.integers(-99, 999) | st.floats(-1e6, 1e6)
names = st.from_regex(r"[a-z]{1,8}\.zarr", fullmatch=True)
spans = st.tuples(st.none() | st.integers(0, 99), st.none() | st.integers(0, 99)).map(list)


def some(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional)


STEPS = st.one_of(
    st.tuples(st.just("gaussian"), some({"sigma": numbers | st.lists(numbers, min_size=2, max_size=3)},
                                        unit=st.sampled_from(["voxels", "physical"]))),
    st.tuples(st.just("normalize"), some({}, range=st.lists(numbers, min_size=1, max_size=2), sections=st.booleans())),
    st.tuples(st.just("crop"), some({"box": st.dictionaries(st.sampled_from("zyx"), spans, min_size=1)
                                     | st.lists(spans, min_size=1, max_size=3)})),
    st.tuples(st.just("multiply"), some({"other": numbers | names})),
    st.tuples(st.just("maskout"), some({"labels": names, "remove": st.lists(st.integers(0, 9), min_size=1)},
                                       fill=numbers)),
    st.tuples(st.just("open"), some({"url": names}, level=st.integers(0, 3),
                                    voxel_size=st.lists(numbers, min_size=3, max_size=3))),
    st.tuples(st.just("save"), some({"url": names}, pyramid=st.booleans() | st.integers(1, 4), overwrite=st.booleans(),
                                    chunks=st.lists(st.integers(1, 64), min_size=3, max_size=4))),
    st.tuples(st.just("argmax"), some({})),
)  # fmt: skip


@given(steps=st.lists(STEPS, max_size=5), linked=st.data())
def test_words_and_files_say_the_same(steps: list[tuple[str, dict[str, Any]]], linked: st.DataObject) -> None:
    entries: list[Any] = [{"open": "em.zarr"}]
    names: list[str] = []
    for number, (command, parameters) in enumerate(steps):
        entry = dict(parameters)
        if command != "open" and names and linked.draw(st.booleans()):
            entry["from"] = linked.draw(st.sampled_from(names))
        if command != "save" and linked.draw(st.booleans()):
            names.append(f"v{number}")
            entry["as"] = names[-1]
        entries.append({command: entry})
    pipeline = Pipeline.from_yaml(yaml.safe_dump({"steps": entries}))
    assert [(s.command, s.parameters) for s in pipeline.steps[1:]] == steps
    assert Pipeline.from_words(pipeline.to_words()) == pipeline
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


# ---- code, and steps of one's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("infer: net.pt2", True),
        ("infer: {model: net.pt}", True),
        ("infer: {'model': 'net.onnx#.pt2'}", True),
        ("infer: 'net.pt2#.onnx'", False),  # a path: its suffix is .onnx, and so it is opened
        ("infer: 's3://nets/net.pt2#sha256=00.onnx'", True),
        ("infer: net.onnx", False),
        ("infer: 'https://nets/net.onnx#sha256=00'", False),
        ("infer: net.xml", False),
        ("apply: 'os:system'", True),
        ("apply: {function: 'os:system'}", True),
        ("invert", False),
    ],
)
def test_code_in_a_file_needs_trust(step: str, code: bool) -> None:
    text = f"steps: [{{open: em.zarr}}, {step if step == 'invert' else '{' + step + '}'}]"
    assert len(Pipeline.from_yaml(text, trust=True).steps) == 2
    if not code:
        assert len(Pipeline.from_yaml(text).steps) == 2
        return
    with pytest.raises(UntrustedModel, match="--trust"):
        Pipeline.from_yaml(text)


def test_plugins_of_a_file_are_not_imported_without_trust(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UntrustedModel, match="hostile:f"):
        Pipeline.from_yaml("{plugins: ['hostile:f'], steps: [{open: em.zarr}]}")
    with pytest.raises(SystemExit, match="it ran"):
        Pipeline.from_yaml("{plugins: ['hostile:f'], steps: [{open: em.zarr}]}", trust=True)


@pytest.mark.usefixtures("at_home")
def test_plugins_are_steps() -> None:
    plugins = ("own:brighter", "own:smoothed")
    words = "open em.zarr brighter --by 5 --twice smoothed --strength 0.5 --halo 1 --dtype float32"
    pipeline = Pipeline.from_words(words.split(), plugins)
    assert dict(pipeline.steps[1].parameters) == {"by": 5, "twice": True}
    assert dict(pipeline.steps[2].parameters) == {"strength": 0.5, "halo": 1, "dtype": "float32"}
    assert Pipeline.from_yaml(pipeline.to_yaml(), trust=True) == pipeline
    assert commands(plugins)["brighter"].parameters[0].help == "The number."
    with pytest.raises(PipelineError, match="smoothed takes no 'strenght'; did you mean strength"):
        Pipeline.from_words(["open", "em.zarr", "smoothed", "--strenght", "1"], plugins)
    with pytest.raises(VolumeError, match="cannot be imported"):
        Pipeline.from_words(["open", "em.zarr"], ["own:absent"])
    with pytest.raises(PipelineError, match="would hide the command add"):
        Pipeline.from_words(["open", "em.zarr"], ["operator:add"])


def test_entry_points_are_steps(at_home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed: a folder with metadata on the path."""
    installed = at_home / "own_operators-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-operators\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[chunkinfer.operators]\nshinier = own:brighter\n")
    monkeypatch.syspath_prepend(str(at_home))
    commands.cache_clear()
    try:
        assert dict(Pipeline.from_yaml("steps: [{open: a}, {shinier: {by: 2}}]").steps[1].parameters) == {"by": 2}
    finally:
        commands.cache_clear()


# ---- help ----------------------------------------------------------------------------------------------------------


def shown(*words: str) -> str:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return " ".join(result.output.split())


@pytest.mark.parametrize("name", [*OPERATORS, "open", "infer", "save", "show", "view"])
def test_every_step_explains_every_parameter(name: str) -> None:
    command = commands()[name]
    assert command.summary
    for parameter in command.parameters:
        assert parameter.help, f"{name}: the docstring says nothing of {parameter.name}"
    text = shown("operators", name)
    assert " ".join(command.summary.split()) in text
    signature = inspect.signature(command.function).parameters
    assert all(p.name in signature for p in command.parameters)
    assert all((p.name.upper() if p.argument else p.option) in text for p in command.parameters)


def test_help_on_a_chain() -> None:
    overview = shown("open", "--help")
    assert all(name in overview for name in commands())
    assert "--dry-run" in overview
    assert shown("open", "em.zarr", "gaussian", "--help") == shown("operators", "gaussian")
    assert shown("operators") == overview
    assert "open" in shown("--help")
    with pytest.raises(PipelineError, match="did you mean gaussian"):
        shown("operators", "gaussan")


def test_a_chain_is_printed_as_a_file() -> None:
    result = CliRunner().invoke(main, [*CHAIN.split(), "--yaml"], catch_exceptions=False)
    assert Pipeline.from_yaml(result.output, trust=True) == Pipeline.from_words(CHAIN.split())
