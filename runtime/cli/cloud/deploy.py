"""`edge-actors cloud deploy`: a deployment manifest for one edge device."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json


@click.command()
@click.argument("device_id", metavar="DEVICE")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@common_options
def deploy(device_id: str, file: Path, home: Path, as_json: bool) -> None:
    """Give edge device DEVICE the deployment manifest in FILE.

    Modules that it names are made where they are missing, and their desired properties become those that it
    has. Other modules stay as they are. A relative working folder of a process module counts from the folder
    of FILE.
    """
    from runtime.cli.cloud.files import read_json_object
    from runtime.iothub.edge_manifest import content_of
    from runtime.iothub.owner import Cloud, device_path

    wanted = content_of(read_json_object(file, "deployment"), file)
    Cloud(home).call("POST", device_path(device_id) + "/applyConfigurationContent", wanted)
    modules = sorted(wanted["modulesContent"])
    if as_json:
        print_json({"deviceId": device_id, "modules": modules})
    else:
        click.echo(f"deployed to {device_id}: {', '.join(modules)}")
