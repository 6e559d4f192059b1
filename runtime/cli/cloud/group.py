"""`edge-actors cloud`: the IoT Hub stand-in, and what `az iot` does with a real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from runtime.cli.lazy_group import Entry, LazyGroup

_HERE = "runtime.cli.cloud."
COMMANDS: Final[Mapping[str, Entry]] = {
    "run": Entry(_HERE + "run", "run", "Run the IoT Hub stand-in until Ctrl-C."),
    "device": Entry(_HERE + "device", "device", "Make, list, show, disable, enable and delete devices."),
    "deploy": Entry(_HERE + "deploy", "deploy", "Give an edge device a deployment manifest."),
    "twin": Entry(_HERE + "twin", "twin", "Show a twin; set desired properties and tags."),
    "query": Entry(_HERE + "query", "query", "Ask for twins in IoT Hub's query language."),
    "method": Entry(_HERE + "method", "method", "Call a direct method of a device or module."),
    "send": Entry(_HERE + "send", "send", "Send a message to a device."),
    "monitor": Entry(_HERE + "monitor", "monitor", "Show what devices send, as it comes."),
    "enrollment": Entry(
        _HERE + "enrollment", "enrollment", "Keep the enrollments of the provisioning service."
    ),
    "certificate": Entry(_HERE + "certificate", "certificate", "Keep the CAs that sign device certificates."),
    "connection-string": Entry(
        _HERE + "connection_string",
        "connection_string",
        "Show with what a service, a device or a module connects.",
    ),
}


@click.group(cls=LazyGroup, entries=COMMANDS)
def cloud() -> None:
    """An IoT Hub on this machine, for SDKs and edges alike; and what there is to do with it.

    It stands in for Azure IoT Hub and its Device Provisioning Service. Its state is in the folder `cloud` of
    the home.
    """
