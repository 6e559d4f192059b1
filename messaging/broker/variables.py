"""The variables of `mqttBroker.authorizations`, with the values that are documented for them.

Source: spec sheet broker.md section 4.2
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

IDENTITY: Final = "iot:identity"  # of the client: iothub-hostname/device or iothub-hostname/device/module
DEVICE_ID: Final = "iot:device_id"  # of the client
MODULE_ID: Final = "iot:module_id"  # of the client; a device that is no module has none
CLIENT_ID: Final = "mqtt:client_id"
THIS_DEVICE_ID: Final = "iot:this_device_id"  # of the edge
VARIABLES: Final = (IDENTITY, DEVICE_ID, MODULE_ID, CLIENT_ID, THIS_DEVICE_ID)

_VARIABLE: Final = re.compile(r"\{\{([^{}]*)\}\}")
_WILDCARD: Final = re.compile("[+#]")


def unknown_variable(text: str) -> str | None:
    """Return the first `{{…}}` in `text` that is no variable, or None."""
    return next((found[0] for found in _VARIABLE.finditer(text) if found[1] not in VARIABLES), None)


def filled_in(text: str, values: Mapping[str, str]) -> str | None:
    """Return `text` with the values of a client in place of its variables.

    Returns:
        None when a value is empty, so that a rule about modules says nothing of devices, or has a wildcard:
        a client must not widen a rule by its name.
    """
    if "{{" not in text:
        return text
    used = {values[name] for name in _VARIABLE.findall(text)}
    if "" in used or any(map(_WILDCARD.search, used)):
        return None
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def without_variables(text: str) -> str:
    """Return `text` with a name in place of each variable: what can be checked before there is a client."""
    return _VARIABLE.sub("x", text)
