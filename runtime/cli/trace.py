"""`edge-actors trace`: where did this message go, when, and by which routes?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table


@click.command()
@click.argument("message_id", metavar="MESSAGE_ID")
@common_options
def trace(message_id: str, home: Path, as_json: bool) -> None:
    """Show the way of a recent message through the hub: each hop with its time, and the routes that took it.

    MESSAGE_ID is the message id that its sender gave it: `message_id` in the Azure SDKs, `$.mid` in an MQTT
    topic, `$messageId` in a route. The hub remembers some ten thousand messages with an id, until it is
    restarted. A message without one cannot be found again; `edge-actors ledger` counts it all the same.
    """
    from actors.addresses import ROUTER, STORE
    from actors.hub.trail import Hops, TraceRouting, TraceStorage, in_order
    from messaging.errors import ConfigError
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        routing = edge.ask(ROUTER, TraceRouting(message_id), Hops)
        storage = edge.ask(STORE, TraceStorage(message_id), Hops)
    hops = in_order((*routing.hops, *storage.hops))
    if not hops:
        raise ConfigError(f"there is no message with id {message_id[:200]!r} {_remembered(routing)}")
    if as_json:
        print_json({"messageId": message_id, "hops": hops})
        return
    print_table(("TIME", "HOP", ""), ((_time(hop["at_s"]), hop["hop"], told(hop)) for hop in hops))


def _remembered(routing: Any) -> str:
    if not routing.messages:
        return (
            "in the hub's memory: since the hub was started no message had an id; a sender sets it with "
            "`message_id` in the Azure SDKs, or `$.mid` in an MQTT topic"
        )
    return (
        f"among the last {routing.messages} that had one, since {_time(routing.since_s)}; "
        "only a message whose sender gave it an id (`message_id`, `$.mid`) can be traced"
    )


def _time(at_s: float) -> str:
    milliseconds = int(at_s * 1000) % 1000
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at_s))}.{milliseconds:03}"


def told(hop: Mapping[str, Any]) -> str:
    """Return what a hop says besides its name."""
    endpoint = hop.get("endpoint", "")
    match hop["hop"]:
        case "received":
            return f"from {hop['from']}, source {hop['source']}"
        case "routed":
            return f"to {endpoint} by route '{hop['route']}'"
        case "unrouted":
            return "no route took it"
        case "poison":
            return f"dropped: {endpoint} can never take it"
        case "gone":
            return f"for {endpoint} it waits no longer: it expired or was dropped, see `edge-actors ledger`"
        case _:
            return f"for {endpoint}" if hop["hop"] in ("stored", "waiting") else f"to {endpoint}"
