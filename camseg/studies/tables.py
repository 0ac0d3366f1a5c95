"""Tables of strings, as studies print them and write them down."""

from collections.abc import Sequence
from typing import TypeAlias

Table: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Columns, and rows of as many cells."""


def as_markdown(table: Table) -> str:
    """A table as Markdown, the first column to the left, the others to the right."""
    columns, rows = table
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
