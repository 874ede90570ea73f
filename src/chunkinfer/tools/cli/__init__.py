"""The command line: the same words as in Python. Each command parses and calls one public function.

=============  ===================================================================
module         commands
=============  ===================================================================
runs           infer, plan, field, demo
chains         open, run, operators: chains of steps
checks         audit, status, verify
stored         copy, delete, info, pyramid
objects        segment, evaluate, statistics, contacts, majority
shapes         mesh
looking        view, show, thumbnails
options        what commands share: types of parameters, groups of options
advice         what errors advise, as options
=============  ===================================================================

Only click is imported with the package: chunkinfer and torch are in the commands that need them.
"""

from __future__ import annotations

import os
import sys

import click

from chunkinfer.errors import ChunkinferError, RunPaused
from chunkinfer.tools.cli import chains, checks, looking, objects, runs, shapes, stored
from chunkinfer.tools.cli.advice import in_options, options_of

COMMANDS = (
    runs.infer, runs.plan, runs.field, runs.demo,
    chains.open_, chains.run_file, chains.operators,
    checks.audit, checks.status, checks.verify,
    stored.copy, stored.delete, stored.info, stored.pyramid,
    objects.segment, objects.evaluate, objects.statistics, objects.contacts, objects.majority,
    shapes.mesh,
    looking.view, looking.show, looking.thumbnails,
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="chunkinfer")
def main() -> None:
    """Run a convolutional network over an image volume of any size: exact, block by block, on dask."""


for command in COMMANDS:
    main.add_command(command)


def _with_malloc_settings() -> None:
    """Start this process anew with the settings under which kernels are fastest: glibc reads them at the start only.

    Whoever has set one of them is left alone, and so is every other system.
    """
    from chunkinfer.support.allocator import ENVIRONMENT

    if sys.platform != "linux" or ENVIRONMENT.keys() & os.environ.keys():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ENVIRONMENT})


def told_to_a_shell(error: ChunkinferError, options: frozenset[str]) -> ChunkinferError:
    """The same error, whose ways are options of the command that was given."""
    return ChunkinferError(error.what, error.means, [in_options(way, options) for way in error.ways])


def run() -> None:
    """Entry point: errors of this library are shown without a traceback and end with code 1."""
    _with_malloc_settings()
    try:
        main()
    except ChunkinferError as error:
        notes = "".join(f"\n  ({note})" for note in getattr(error, "__notes__", ()))
        told = told_to_a_shell(error, options_of(sys.argv[1:], COMMANDS))
        click.echo(f"{type(error).__name__}: {told}{notes}", err=True)
        sys.exit(130 if isinstance(error, RunPaused) else 1)
