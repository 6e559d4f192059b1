"""Where a deployment wants the hub to listen: the PortBindings of edgeHub's createOptions.

The hub is no container here, so nothing maps one port to another: it listens on the host's port itself.

Source: spec sheet agent.md section 1.1; Docker Engine API v1.41, HostConfig.PortBindings
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

ALL_ADDRESSES: Final = "0.0.0.0"
MQTT: Final = "8883/tcp"
WEB: Final = "443/tcp"
AMQP: Final = "5671/tcp"


class BoundPort(Struct, frozen=True):
    """An address of this machine and a port at which the deployment wants the hub to be reached."""

    host: str
    port: int


class HubPorts(Struct, frozen=True):
    """What is bound; None where the deployment does not say. `problems` are fit to be shown."""

    mqtt: tuple[BoundPort, ...] | None = None
    web: tuple[BoundPort, ...] | None = None
    amqp: tuple[BoundPort, ...] | None = None
    problems: tuple[str, ...] = ()


def hub_ports(create_options: str) -> HubPorts:
    """Read the bindings of edgeHub's ports from its createOptions, as JSON text.

    As for Docker, a binding without an address means all of them. One that makes no sense is left out with a
    word about it: it shall not keep a hub from serving.
    """
    bindings = _get(_get(json.loads(create_options), "HostConfig"), "PortBindings")
    if not isinstance(bindings, Mapping):
        return HubPorts()
    found: dict[str, tuple[BoundPort, ...]] = {}
    problems: list[str] = []
    for name, entries in bindings.items():
        port, _, protocol = str(name).partition("/")
        name = f"{port}/{protocol or 'tcp'}"
        if name not in (MQTT, WEB, AMQP):
            problems.append(f"port {name} is none of the hub's; it serves {MQTT}, {AMQP} and {WEB}")
            continue
        found[name] = tuple(dict.fromkeys(_bound(name, entries, problems)))
    return HubPorts(found.get(MQTT) or None, found.get(WEB) or None, found.get(AMQP) or None, tuple(problems))


def _bound(name: str, entries: Any, problems: list[str]) -> Iterator[BoundPort]:
    for entry in entries if isinstance(entries, list) else ():
        text = str(_get(entry, "HostPort") or name.partition("/")[0])
        host = str(_get(entry, "HostIp") or ALL_ADDRESSES)
        try:
            address = str(ipaddress.ip_address(host))
            if not text.isdecimal() or not 0 < int(text) < 65536:
                raise ValueError
        except ValueError:
            problems.append(
                f"port {name}: '{host}' with port '{text}' is no address of this machine; left out"
            )
            continue
        yield BoundPort(address, int(text))


def _get(options: Any, wanted: str) -> Any:
    """Return a property whatever its case, as Docker does; None when there is none."""
    if not isinstance(options, Mapping):
        return None
    folded = wanted.casefold()
    return next((value for name, value in options.items() if name.casefold() == folded), None)
