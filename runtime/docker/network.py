"""The bridge network of an edge: its containers find each other and the hub there."""

from __future__ import annotations

import json
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from messaging.errors import EnvironmentFault
from runtime.docker.engine import HOME_LABEL
from runtime.storage.atomic_file import make_private_folder, write_private_file

if TYPE_CHECKING:  # heavy
    from docker import APIClient


def network_name(home_id: str) -> str:
    """Return the name of the network of an edge."""
    return f"edge-actors-{home_id}"


def ensure_network(client: APIClient, home_id: str, marker: Path, making: AbstractContextManager[Any]) -> str:
    """Make the network unless it is there; return the address at which this machine stands in it.

    Args:
        client: Of the engine.
        home_id: Of the edge.
        marker: File of the home that says that there are containers, written before anything is made.
        making: Held by one thread at a time while it makes or writes something: many containers are
            started at once.

    Raises:
        EnvironmentFault: the network has no address for us, or the home cannot be written.
    """
    from docker.errors import NotFound

    name = network_name(home_id)
    try:
        network = client.inspect_network(name)
    except NotFound:
        with making:
            network = _made(client, name, home_id, marker)
    gateway = _gateway(network)
    if _read(marker).get("gateway") != gateway:
        with making:
            _remember(marker, name, gateway)
    return gateway


def _made(client: APIClient, name: str, home_id: str, marker: Path) -> dict[str, Any]:
    """Return the network, made unless somebody else has made it by now."""
    from docker.errors import APIError

    found = client.networks(names=[name])
    if not any(one["Name"] == name for one in found):
        _remember(marker, name, None)  # before there is anything that `down` would have to find
        try:
            client.create_network(name, driver="bridge", labels={HOME_LABEL: home_id}, check_duplicate=True)
        except APIError as exc:
            if exc.status_code != 409:  # made by another process meanwhile
                raise
    network: dict[str, Any] = client.inspect_network(name)
    return network


def remembered_gateway(marker: Path) -> str | None:
    """Return the gateway address of an earlier run, if this machine has it at the moment."""
    gateway = _read(marker).get("gateway")
    if not isinstance(gateway, str):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((gateway, 0))
        except OSError:
            return None
    return gateway


def _read(marker: Path) -> dict[str, Any]:
    try:
        content = json.loads(marker.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(marker: Path, network: str, gateway: str | None) -> None:
    make_private_folder(marker.parent)
    write_private_file(marker, json.dumps({"network": network, "gateway": gateway}).encode())


def _gateway(network: dict[str, Any]) -> str:
    for part in network["IPAM"]["Config"] or ():
        # IPv6 comes after it when the engine has both.
        if part.get("Gateway") and ":" not in part["Gateway"]:
            return str(part["Gateway"]).partition("/")[0]
    raise EnvironmentFault(
        f"network {network['Name']} of Docker Engine has no IPv4 gateway address; "
        f"remove it and start again: `docker network rm {network['Name']}`"
    )
