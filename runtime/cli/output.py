"""What commands print: tables of words and JSON. Light on purpose; `rich` is for the live picture alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print a value as JSON for programs to read."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: two blanks between columns, numbers to the right, nothing behind the last column."""
    for line in table_lines(columns, rows):
        click.echo(line)


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of `print_table`."""
    kept = [tuple(row) for row in rows]
    cells = [tuple(columns), *(tuple(map(_cell, row)) for row in kept)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [bool(kept) and all(isinstance(row[i], int) for row in kept) for i in range(len(columns))]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]


def printable(text: str) -> str:
    """Return text that stays on its line and in its cell, whatever a module put into it."""
    return "".join(character if character.isprintable() else " " for character in text)


def _cell(value: object) -> str:
    return printable("" if value is None else str(value))
