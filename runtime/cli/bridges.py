"""How the bridges of the MQTT broker are, for `edge-actors topics` and `edge-actors list`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from runtime.cli.running import RunningEdge

LIST_LIMIT_S: Final = 1.0  # `list` is about modules: it does not wait for a hub that starts


BRIDGE_HEADS: Final = ("BRIDGE", "STATE", "QUEUED", "SENT", "DROPPED", "RECEIVED", "")


def bridge_row(bridge: Mapping[str, Any]) -> tuple[object, ...]:
    """Return a bridge as a line of a table."""
    return (
        bridge["endpoint"],
        bridge["status"],
        bridge["queued"],
        bridge["sent"],
        bridge["dropped"],
        bridge["received"],
        remarks(bridge),
    )


def remarks(bridge: Mapping[str, Any]) -> str:
    """Return where the other broker is, since when, and all that is wrong."""
    where = bridge["address"]
    if bridge["connectedSince"]:
        where = f"{where} since {bridge['connectedSince']}"
    refused = [f"it refuses subscriptions to {', '.join(bridge['refused'])}"] if bridge["refused"] else []
    if bridge["connectedSince"] and bridge["unanswered"]:
        refused.append(f"it has not answered yet to subscriptions to {', '.join(bridge['unanswered'])}")
    return "; ".join(filter(None, (where, bridge["error"], *refused, *bridge["problems"])))


def bridge_lines(bridges: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each bridge, for people: how it is, and what waits."""
    lines = []
    for bridge in bridges:
        waits = f", {bridge['queued']} messages wait" if bridge["queued"] else ""
        dropped = f", {bridge['dropped']} dropped" if bridge["dropped"] else ""
        lines.append(
            f"bridge {bridge['endpoint']}: {bridge['status']}{waits}{dropped}, {bridge['sent']} sent: "
            f"{remarks(bridge)}"
        )
    return lines


def bridges_of(edge: RunningEdge, home: Path) -> tuple[Mapping[str, Any], ...]:
    """Return how the bridges are; none without a broker, or while the hub does not answer."""
    from actors.addresses import BRIDGES
    from actors.broker.bridge_messages import Bridges, ListBridges
    from actors.hub import config
    from messaging.errors import EnvironmentFault
    from runtime.home import Home

    path = Home(home).hub_config
    if not path.exists() or config.decode(path.read_bytes(), str(path)).broker is None:
        return ()
    try:
        return edge.ask(BRIDGES, ListBridges(), Bridges, LIST_LIMIT_S).bridges
    except EnvironmentFault:
        return ()
