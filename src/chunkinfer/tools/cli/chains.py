"""Chains of steps: open, run, operators, and the help of steps."""

from __future__ import annotations

from typing import Any

import click

from chunkinfer.tools.cli.options import RUNNING, client_of, subscribers, until_ctrl_c


@click.command("open", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="URL [OPTIONS] STEP [OPTIONS] ... save URL")
@click.option("--plugin", "plugins", multiple=True, help="module:function, a step of your own; it is code.")
@RUNNING
def open_(words: tuple[str, ...], plugins: tuple[str, ...], **given: Any) -> None:
    """Open a volume, take it through a chain of steps, and save it, in one pass.

    Every option of a step comes after its name. --as NAME names a step's result, and --from NAME works on it. Options
    of the run may stand anywhere.
    """
    from chunkinfer.tools.pipelines.commands import commands
    from chunkinfer.tools.pipelines.pipeline import Pipeline

    if helped := {"-h", "--help"}.intersection(words):
        table = commands(plugins)
        before = ["open", *words[: min(words.index(word) for word in helped)]]
        named = [word for word in before if word in table]
        click.echo(_help_of(table[named[-1]]) if len(before) > 1 else _overview(table))
        return
    _run(Pipeline.from_words(["open", *words], plugins), **given)


@click.command("run")
@click.argument("file")
@click.option("--output", "outputs", multiple=True, help="Instead of the file's; once for each save, in their order.")
@click.option("--trust", is_flag=True, help="Run the code that the file names: .pt2 models, plugins, functions.")
@RUNNING
def run_file(file: str, outputs: tuple[str, ...], trust: bool, **given: Any) -> None:
    """Run the pipeline in FILE, a path or URL of YAML; also .chunkinfer/pipeline.yaml beside an output.

    A file says what is read, written and, with overwrite, deleted: look with --dry-run before you run a stranger's.
    """
    from chunkinfer.tools.pipelines.files import read_file
    from chunkinfer.tools.pipelines.pipeline import Pipeline

    pipeline = Pipeline.from_yaml(read_file(file), trust=trust)
    _run(pipeline.with_outputs(outputs) if outputs else pipeline, **given)


@click.command()
@click.argument("name", required=False)
@click.option("--plugin", "plugins", multiple=True, help="module:function, a step of your own; it is code.")
def operators(name: str | None, plugins: tuple[str, ...]) -> None:
    """List the steps of a chain, or show what the one called NAME takes."""
    from chunkinfer.tools.pipelines.commands import command, commands

    table = commands(plugins)
    click.echo(_overview(table) if name is None else _help_of(command(table, name)))


def _run(pipeline: Any, dry_run: bool, as_yaml: bool, log: str | None, metrics: int | None, **given: Any) -> None:
    """Run a pipeline, or print what it is."""
    if as_yaml:
        click.echo(pipeline.to_yaml(), nl=False)
    elif dry_run:
        click.echo(pipeline.plan())
    else:
        from chunkinfer.support.picture import Picture
        from chunkinfer.tools.viewers.viewing import View

        with client_of(given) as client:
            made = pipeline.run(client=client, events=subscribers(log, metrics))
        views = [one for one in made if isinstance(one, View)]
        for one in made:
            click.echo(one.path if isinstance(one, Picture) else one.url if isinstance(one, View) else one)
        if views:
            until_ctrl_c()
        for each in views:
            each.close()


def _help_of(command: Any) -> str:
    """What a step takes."""
    from chunkinfer.tools.pipelines.looking import CHECKS

    shown = click.HelpFormatter(max_width=110)
    shown.write_usage(command.name, command.usage.removeprefix(command.name).strip())
    shown.write_paragraph()
    shown.write_text(command.summary)
    arguments = [(p.name.upper(), p.help) for p in command.arguments]
    options = [(_option(p), p.help) for p in command.parameters if not p.argument]
    links = [("--as NAME", "Name the result for later steps.")] if command.name not in CHECKS else []
    links += [("--from NAME", "Work on the result of that name.")] if command.name != "open" else []
    for title, rows in (("Arguments", arguments), ("Options", [*options, *links])):
        if rows:
            with shown.section(title):
                shown.write_dl(rows, col_max=34)
    return shown.getvalue().rstrip()


def _option(parameter: Any) -> str:
    """``--sections / --no-sections``, or with the name of its value and its default."""
    if parameter.kinds == {"bool"}:
        return f"{parameter.option} / --no-{parameter.option[2:]}"
    value = f" [{parameter.name.upper()}]" if parameter.flag else f" {parameter.name.upper()}"
    default = "" if parameter.default in (None, False) else f" ({parameter.default})"
    return f"{parameter.option}{value}{'...' if parameter.several else ''}{default}"


def _overview(table: Any) -> str:
    """The steps of a chain, and the options of the run."""
    shown = click.HelpFormatter(max_width=110)
    shown.write_usage("chunkinfer open", "URL [OPTIONS] STEP [OPTIONS] ... save URL [OPTIONS]")
    shown.write_paragraph()
    shown.write_text(
        "A chain of steps is one lazy graph and one pass. --as NAME names a step's result, --from NAME works on it. "
        "Help on a step: chunkinfer operators STEP."
    )
    with shown.section("Steps"):
        shown.write_dl([(c.usage.removesuffix(" [OPTIONS]"), c.summary) for c in table.values()], col_max=34)
    with shown.section("Options of the run"):
        context = click.Context(open_)
        shown.write_dl([r for p in open_.params if (r := p.get_help_record(context)) and r[0].startswith("-")])
    return shown.getvalue().rstrip()
