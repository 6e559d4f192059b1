"""`edge-actors cloud twin`: show a twin; set desired properties and tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json


@click.group()
def twin() -> None:
    """Show a twin; set desired properties and tags."""


@twin.command("get")
@click.argument("device_id", metavar="DEVICE")
@click.option("--module", metavar="MODULE", help="The twin of this module of the device.")
@common_options
def get_twin(device_id: str, module: str | None, home: Path, as_json: bool) -> None:
    """Show the twin of DEVICE, as JSON."""
    from runtime.iothub.owner import Cloud, twin_path

    print_json(Cloud(home).get(twin_path(device_id, module)))


@twin.command("set")
@click.argument("device_id", metavar="DEVICE")
@click.argument("desired", nargs=-1, metavar="[NAME=VALUE]…")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="A tag; may be given several times.")
@click.option("--module", metavar="MODULE", help="The twin of this module of the device.")
@common_options
def set_twin(
    device_id: str,
    desired: tuple[str, ...],
    tags: tuple[str, ...],
    module: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Set desired properties of DEVICE, and tags; what is not named stays. Shows the twin afterwards.

    A VALUE is JSON, or else text; an empty one removes the property. Dots lead into objects:
    `location.room=lab`.
    """
    from messaging.errors import ConfigError
    from runtime.cli.cloud.files import properties
    from runtime.iothub.owner import Cloud, twin_path

    if not desired and not tags:
        raise ConfigError(
            "nothing to set; name a desired property as NAME=VALUE, or a tag with --tag NAME=VALUE"
        )
    patch: dict[str, Any] = {}
    if desired:
        patch["properties"] = {"desired": properties(desired, "desired property")}
    if tags:
        patch["tags"] = properties(tags, "--tag")
    print_json(Cloud(home).call("PATCH", twin_path(device_id, module), patch))
