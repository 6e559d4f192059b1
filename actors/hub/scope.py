"""The tree of edges that a device stands in, as its scopes tell it. Pure.

Source: spec sheet hub-protocols.md sections 1.2, 5.4 and 5.6
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actors.hub.identity import HubIdentity

SCOPE: Final = "ms-azure-iot-edge://"  # before the id of an edge, a "-" and digits


def device_of_scope(scope: str) -> str:
    """Return the id of the edge that a scope belongs to, "" for what is no scope."""
    return scope.removeprefix(SCOPE).rpartition("-")[0] if scope.startswith(SCOPE) else ""


def edges_above(identity: str, known: Mapping[str, HubIdentity]) -> tuple[str, ...]:
    """Return the devices below which an identity stands, the nearest first; for a module its own device, too.

    Only those of whom `known` tells the scope: an edge that was made anew is not above who was below the one
    before.
    """
    device_id, slash, _ = identity.partition("/")
    found = [device_id] if slash else []
    to_look_at = [device_id]
    for each in to_look_at:
        device = known.get(each)
        for scope in device.parent_scopes if device is not None else ():
            parent = device_of_scope(scope)
            above = known.get(parent)
            if above is not None and above.device_scope == scope and parent not in to_look_at:
                to_look_at.append(parent)
                found.append(parent)
    return tuple(found)
