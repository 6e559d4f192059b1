"""`edge-actors cloud method`: a direct method of a device or module."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json


@click.command()
@click.argument("device_id", metavar="DEVICE")
@click.argument("name", metavar="METHOD")
@click.option("--module", metavar="MODULE", help="A method of this module of the device.")
@click.option("--payload", metavar="JSON", help="What the method gets; what is not JSON is sent as text.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(5, 300),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the answer.",
)
@click.option(
    "--connect-timeout",
    "connect_timeout_s",
    type=click.IntRange(0, 300),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a device that is not connected.",
)
@common_options
def method(
    device_id: str,
    name: str,
    module: str | None,
    payload: str | None,
    timeout_s: int,
    connect_timeout_s: int,
    home: Path,
    as_json: bool,
) -> None:
    """Call METHOD of DEVICE and show its answer, as JSON: the device's own status, and a payload."""
    from runtime.cli.cloud.files import json_or_text
    from runtime.iothub.owner import ANSWER_LIMIT_S, Cloud, twin_path

    body = {
        "methodName": name,
        "payload": None if payload is None else json_or_text(payload),
        "responseTimeoutInSeconds": timeout_s,
        "connectTimeoutInSeconds": connect_timeout_s,
    }
    path = twin_path(device_id, module) + "/methods"
    print_json(Cloud(home).call("POST", path, body, timeout_s=connect_timeout_s + timeout_s + ANSWER_LIMIT_S))
