"""`edge-actors cloud query`: twins in IoT Hub's query language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table

TWIN_COLUMNS = ("deviceId", "moduleId", "status", "connectionState", "tags")


@click.command()
@click.argument("text", metavar="QUERY")
@common_options
def query(text: str, home: Path, as_json: bool) -> None:
    """Ask for twins: "SELECT * FROM devices WHERE tags.site = 'north'".

    FROM devices, or devices.modules. With SELECT * a table of the most important; --json has all.
    """
    from runtime.iothub.owner import Cloud

    found: list[dict[str, Any]] = []
    kind = "Raw"
    for rows, item_type in Cloud(home).pages(text):
        found += rows
        kind = item_type
    if as_json:
        print_json(found)
        return
    seen = dict.fromkeys(name for row in found for name in row)
    columns = [name for name in TWIN_COLUMNS if name in seen] if kind == "Twin" else list(seen)
    if columns:
        print_table(
            [name.upper() for name in columns], ([_cell(row.get(name)) for name in columns] for row in found)
        )


def _cell(value: object) -> object:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
