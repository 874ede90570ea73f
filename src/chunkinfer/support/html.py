"""What notebooks show of results: tables in HTML, escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

LEFT = "style='text-align:left'"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and what they are."""
    cells = (f"<tr><th {LEFT}>{escape(name)}</th><td {LEFT}>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table with a line of heads."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
