"""On the command line, ways out are options of the command that was given."""

from __future__ import annotations

import pytest

from chunkinfer.tools.cli import COMMANDS, main
from chunkinfer.tools.cli.advice import in_options, options_of

INFER = options_of(["infer", "em.zarr", "out.zarr"], COMMANDS)


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("patch=(20, 256, 256)", "--patch 20,256,256"),
        ("normalize=(0, 65535) gives value / 65535", "--normalize 0,65535 gives value / 65535"),
        ("leave overlap= out for exact tiling", "leave --overlap out for exact tiling"),
        ("blend: infer(volume, model, patch=(16, 16), overlap=(4, 4))", "blend: --patch 16,16 --overlap 4,4"),
        ('memory="16 GiB"', "--memory '16 GiB'"),
        ("start anew: save(array, url, overwrite=True)", "start anew: --overwrite"),
        ('keep it: infer(volume, model, precision="fp32")', "keep it: --precision fp32"),
        ("max_block_minutes=30", "--max-block-minutes 30"),
        ("patch={'z': 8}, or more", "--patch z=8, or more"),
        ("blend patches of this size instead: overlap=0", "blend patches of this size instead: --overlap 0"),
        # what a shell has no words for
        ("normalize=lambda array: array / 4095.0", None),
        ("infer(volume[1:], model)", None),
        ("infer(volume.isel(t=0), model)", None),
        ('pip install "chunkinfer[view]"', None),
        ("volume.rename({'Z': 'z'})", None),
        ("show(chunkinfer.open_volume(url, level=1))", None),
    ],
)
def test_arguments_become_options(way: str, line: str | None) -> None:
    assert in_options(way, INFER) == (way if line is None else line)
    assert in_options(way, options_of(["--help"], COMMANDS)) == way


def test_every_command_is_known() -> None:
    for name, command in main.commands.items():
        assert options_of([name, "a", "b"], COMMANDS) <= {p.name for p in command.params}
