"""`edge-actors cloud monitor`: what devices send, as it comes."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, Final

import click

from runtime.cli.options import common_options

WAIT_S: Final = 10  # of one question for more
FROM_NOW_ON: Final = -1


@click.command()
@click.option("--device", metavar="DEVICE", help="Of this device and its modules alone.")
@click.option("--properties", is_flag=True, help="Show properties of messages, too.")
@click.option("--all", "from_start", is_flag=True, help="Begin with the oldest that the hub still has.")
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Stop after that time.  [default: at Ctrl-C]",
)
@common_options
def monitor(
    device: str | None, properties: bool, from_start: bool, for_s: float | None, home: Path, as_json: bool
) -> None:
    """Show what devices and modules send, one line each, until Ctrl-C. With --json one object a line."""
    from runtime.iothub.owner import Cloud, device_path

    cloud = Cloud(home)
    if device is not None:
        cloud.get(device_path(device))  # a misspelled one would show nothing for ever
    ends_s = None if for_s is None else time.monotonic() + for_s
    after = 0 if from_start else FROM_NOW_ON
    try:
        while True:
            left_s = WAIT_S if ends_s is None else max(0, min(WAIT_S, round(ends_s - time.monotonic())))
            answer = cloud.get("/messages/events", f"&after={after}&waitSeconds={left_s}")
            after = answer["after"]
            for event in answer["events"]:
                if device in (None, _device_of(event)):
                    click.echo(_json_line(event) if as_json else _line(event, properties))
            if ends_s is not None and time.monotonic() >= ends_s:
                return
    except KeyboardInterrupt:
        return


def _device_of(event: dict[str, Any]) -> str:
    return str(event["annotations"]["iothub-connection-device-id"])


def _json_line(event: dict[str, Any]) -> str:
    text = _text(event)
    body = {"bodyBase64": event["body"]} if text is None else {"body": text}
    return json.dumps({**{name: value for name, value in event.items() if name != "body"}, **body})


def _line(event: dict[str, Any], properties: bool) -> str:
    annotations = event["annotations"]
    at = annotations["iothub-enqueuedtime"].partition(".")[0].replace("T", " ")
    module = annotations.get("iothub-connection-module-id")
    sender = _device_of(event) + (f"/{module}" if module else "")
    text = _text(event)
    body = f"({len(base64.b64decode(event['body']))} bytes that are no text)" if text is None else text
    line = f"{at}  {sender}  {_printable(body)}"
    if properties:
        pairs = {**event["systemProperties"], **event["properties"]}
        line += "".join(f"  {_printable(name)}={_printable(value or '')}" for name, value in pairs.items())
    return line


def _text(event: dict[str, Any]) -> str | None:
    try:
        return base64.b64decode(event["body"]).decode()
    except UnicodeDecodeError:
        return None


def _printable(text: str) -> str:
    """Return text that stays in its line, whatever a device put into it."""
    return "".join(character if character.isprintable() else " " for character in text)
