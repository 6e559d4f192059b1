"""`edge-actors cloud send`: a cloud-to-device message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json


@click.command()
@click.argument("device_id", metavar="DEVICE")
@click.argument("text", metavar="TEXT")
@click.option("--property", "pairs", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option(
    "--expiry",
    "expiry_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long it waits for the device.  [default: 3600]",
)
@click.option(
    "--ack",
    type=click.Choice(("none", "positive", "negative", "full")),
    default="none",
    show_default=True,
    help="Of which outcome there is to be a feedback record.",
)
@click.option("--content-type", metavar="TYPE", help="Such as application/json.")
@common_options
def send(
    device_id: str,
    text: str,
    pairs: tuple[str, ...],
    expiry_s: float | None,
    ack: str,
    content_type: str | None,
    home: Path,
    as_json: bool,
) -> None:
    """Send TEXT to DEVICE. It waits in the hub until the device takes it, or it expires."""
    import base64
    import time

    from messaging.time_text import iso_utc
    from runtime.iothub.owner import Cloud, device_path

    body: dict[str, Any] = {
        "body": base64.b64encode(text.encode()).decode(),
        "properties": _properties(pairs),
        "systemProperties": {} if content_type is None else {"contentType": content_type},
        "ack": ack,
    }
    if expiry_s is not None:
        body["expiryTimeUtc"] = iso_utc(time.time() + expiry_s)
    queued = Cloud(home).call("POST", device_path(device_id) + "/messages/devicebound", body)
    if as_json:
        print_json({"deviceId": device_id, **queued})
    else:
        click.echo(f"message {queued['messageId']} waits for {device_id}")


def _properties(pairs: tuple[str, ...]) -> dict[str, str]:
    from messaging.errors import ConfigError

    properties: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--property: {pair!r} is not NAME=VALUE")
        if name in properties:
            raise ConfigError(f"--property: {name!r} is there twice")
        properties[name] = value
    return properties
