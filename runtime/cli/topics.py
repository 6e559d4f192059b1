"""`edge-actors topics`: who subscribes to what at the MQTT broker, and how much goes where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from runtime.cli.bridges import BRIDGE_HEADS, bridge_row
from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table


@click.command()
@common_options
def topics(home: Path, as_json: bool) -> None:
    """Show topics of the MQTT broker, the busiest first, its clients and what they subscribe to, its bridges.

    IoT Hub topics are not among them: routes take those, see `edge-actors routes` and `edge-actors ledger`.
    The numbers count from the start of the hub; rates are those of the last second. A message that found a
    client's queue full counts as dropped. Those of bridges count from the day they were made.
    """
    from actors.addresses import BRIDGES, BROKER
    from actors.broker.bridge_messages import Bridges, ListBridges
    from actors.broker.topics import DescribeTopics, Topics
    from runtime.cli.running import running_edge

    _refuse_without_broker(home)
    with running_edge(home) as edge:
        about = edge.ask(BROKER, DescribeTopics(), Topics).about
        bridges = edge.ask(BRIDGES, ListBridges(), Bridges).bridges
    if as_json:
        print_json(about | {"bridges": bridges})
        return
    click.echo(
        f"{about['published']} messages published, {about['sent']} sent to subscribers, "
        f"{about['dropped']} dropped; {about['retained']} retained"
    )
    if about["notRetained"]:
        click.echo(f"{about['notRetained']} were not retained: there is no room for more")
    if about["topics"]:
        click.echo()
        print_table(("TOPIC", "MESSAGES", "PER S"), map(_topic_row, about["topics"]))
        _more(about["moreTopics"], "topics")
    if about["clients"]:
        click.echo()
        heads = ("CLIENT", "STATE", "PUBLISHED", "SENT", "IN FLIGHT", "WAITING", "DROPPED", "SUBSCRIBES TO")
        print_table(heads, map(_client_row, about["clients"]))
        _more(about["moreClients"], "clients")
    if bridges:
        click.echo()
        print_table(BRIDGE_HEADS, map(bridge_row, bridges))


def _refuse_without_broker(home: Path) -> None:
    from actors.hub import config
    from messaging.errors import ConfigError
    from runtime.home import Home

    path = Home(home).hub_config
    if path.exists() and config.decode(path.read_bytes(), str(path)).broker is None:
        raise ConfigError(
            "the MQTT broker of this edge is off; an `mqttBroker` section in the desired properties of "
            "'$edgeHub' (schemaVersion 1.2) switches it on"
        )


def _topic_row(topic: Mapping[str, Any]) -> tuple[object, ...]:
    return topic["topic"], topic["messages"], f"{topic['perSecond']:,.0f}"


def _client_row(client: Mapping[str, Any]) -> tuple[object, ...]:
    state = "connected" if client["connected"] else "away"
    filters = [f"{name} ({qos})" for name, qos in client["filters"].items()]
    if client["moreFilters"]:
        filters.append(f"{client['moreFilters']} more")
    return (
        client["client"],
        state,
        client["published"],
        client["sent"],
        client["inFlight"],
        client["waiting"],
        client["dropped"],
        ", ".join(filters),
    )


def _more(count: int, what: str) -> None:
    if count:
        click.echo(f"and {count} {what} more")
