"""Tables of the inspector: drawn on a terminal, plain lines where somebody else reads them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.output import print_json, printable, table_lines

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown at one moment: rows below columns, and remarks below those."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    remarks: Sequence[str] = ()


def show(look: Callable[[], tuple[Picture, Any]], as_json: bool, every_s: float | None) -> None:
    """Show what `look` returns, as a table or as JSON; again and again until Ctrl-C with `every_s`.

    Args:
        look: Returns the picture, and the same as a JSON value.
        as_json: Whether to show that value; one line for each look when there are several.
        every_s: How often; None for once.
    """
    if every_s is None:
        picture, value = look()
        if as_json:
            print_json(value)
        else:
            _show_once(picture)
    elif as_json:
        while True:
            click.echo(json.dumps(look()[1], ensure_ascii=False))
            time.sleep(every_s)
    elif sys.stdout.isatty():
        _show_live(look, every_s)
    else:
        while True:
            _print_lines(look()[0])
            click.echo()
            time.sleep(every_s)


def _show_once(picture: Picture) -> None:
    if not sys.stdout.isatty():
        _print_lines(picture)
        return
    from rich.console import Console

    Console().print(_drawn(picture))


def _show_live(look: Callable[[], tuple[Picture, Any]], every_s: float) -> None:
    from rich.live import Live

    with Live(_drawn(look()[0]), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(_drawn(look()[0]), refresh=True)


def _print_lines(picture: Picture) -> None:
    for line in (*table_lines(picture.columns, picture.rows), *picture.remarks):
        click.echo(line)


def _drawn(picture: Picture) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(str("" if cell is None else cell)) for cell in row] for row in picture.rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for at, column in enumerate(picture.columns):
        numeric = bool(picture.rows) and all(isinstance(row[at], int) for row in picture.rows)
        # What a narrow terminal has no room for is cut off at its edge: squeezed columns say nothing at all.
        width = max(len(column), *(len(row[at]) for row in cells)) if cells else len(column)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True, min_width=width)
    for row in cells:
        table.add_row(*map(Text, row))
    return Group(table, *(Text(printable(remark), style="dim") for remark in picture.remarks))
