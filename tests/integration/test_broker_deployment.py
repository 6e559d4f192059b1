"""The broker's rules on their way from the cloud to a running edge: taken, refused, changed, switched off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging import sas
from messaging.connection_string import parse_connection_string
from messaging.mqtt.packets import PubAck, Publish, SubAck, Subscribe
from tests.actors.manifests import HUB
from tests.integration.broker_world import CONNECT, statement
from tests.integration.cloud_site import EDGE, LIMIT_S, Site
from tests.integration.edge_process import free_port
from tests.integration.mqtt_client import MqttClient
from tests.waiting import wait_for, wait_until

LEAF = "leaf"
NEWS = statement("publish", on=["news/#"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def deploy(site: Site, *statements: dict[str, Any]) -> None:
    broker = ((*HUB, "mqttBroker"), {"authorizations": list(statements)})
    site.deploy({}, ((*HUB, "schemaVersion"), "1.2"), broker)


def reported(site: Site, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until something holds of what `$edgeHub` has reported of its desired properties."""

    def found() -> dict[str, Any] | None:
        twin = site.twin("$edgeHub")
        status: dict[str, Any] = twin["reported"].get("lastDesiredStatus", {})
        is_last = twin["reported"].get("lastDesiredVersion") == twin["desired"]["$version"]
        return status if is_last and holds(status) else None

    def so_far() -> str:
        return f"{site.twin('$edgeHub')['reported']}\n{site.edge.log.read_text()}"

    return wait_for(found, so_far, LIMIT_S)


def connected(site: Site, port: int, connection_string: str) -> MqttClient:
    """Connect as the leaf once the edge knows it and its policy lets it."""
    found = parse_connection_string(connection_string)
    audience = sas.audience_of(found.host_name, found.identity)
    token = sas.make_token(audience, sas.decode_key(found.shared_access_key), int(time.time()) + 3600)

    def let_in() -> MqttClient | None:
        try:
            return MqttClient.connect(port, LEAF, token, found.host_name)
        except (AssertionError, OSError):
            return None

    return wait_for(let_in, site.edge.log.read_text, LIMIT_S)


def publish(client: MqttClient, topic: str) -> None:
    client.send(Publish(topic, b"1", 1, 7))
    assert client.receive(PubAck).packet_id == 7


def wait_until_granted(client: MqttClient, topic_filter: str) -> None:
    """Subscribe until the rules allow it."""

    def is_granted() -> bool:
        client.send(Subscribe(8, ((topic_filter, 1),)))
        return client.receive(SubAck).return_codes == (1,)

    wait_until(is_granted, f"{topic_filter} is granted", LIMIT_S)


AT = "$.mqttBroker.authorizations"
BAD: list[tuple[list[dict[str, Any]], str]] = [
    (
        [CONNECT, statement("pub", on=["news/#"]), statement("publish", on=["a/#/b"])],
        f"{AT}: Error validating authorization policy: Statement 1: Unknown mqtt operation: mqtt:pub. "
        "List of supported operations: mqtt:publish, mqtt:subscribe, mqtt:connect "
        f"(at {AT}[1].allow[0].operations[0]); "
        "Statement 2: Allow: Resource (topic filter) is invalid: a/#/b",
    ),
    (
        [CONNECT, statement("publish", on=["a/{{iot:foo}}"])],
        f"Statement 1: Invalid variable name: {{{{iot:foo}}}} (at {AT}[1].allow[0].resources[0])",
    ),
    ([CONNECT, {"identities": LEAF}], f"{AT}[1].identities: expected an array of identities, got a string"),
]


@pytest.mark.slow
def test_rules_come_with_the_deployment_and_bad_ones_leave_those_before_in_force(site: Site) -> None:
    deploy(site, CONNECT, NEWS)
    port = free_port()
    site.start(EDGE_ACTORS_PLAIN_LISTEN=f"127.0.0.1:{port}")
    leaf = site.cloud.ask("device", "create", LEAF, "--parent", EDGE)["connectionString"]
    good = reported(site, lambda status: status.get("code") == 200)
    client = connected(site, port, leaf)
    publish(client, "news/1")

    told = []
    for statements, _ in BAD:
        deploy(site, *statements)
        told.append(reported(site, lambda status: status.get("code") == 400)["description"])
        publish(client, "news/2")
    deploy(site, CONNECT, NEWS, statement("subscribe", on=["more"]))
    repaired = reported(site, lambda status: status.get("code") == 200)
    wait_until_granted(client, "more")
    publish(client, "news/3")
    deploy(site, NEWS)
    cut_off = client.wait_for_end(LIMIT_S)
    site.deploy({}, ((*HUB, "schemaVersion"), "1.2"))
    without_a_broker = connected(site, port, leaf)  # there is no rule that lets it

    assert good["description"] == repaired["description"] == ""
    for (_, expected), description in zip(BAD, told, strict=True):
        assert description.startswith("Error while parsing desired properties - $edgeHub, version ")
        assert expected in description
    assert cut_off
    publish(without_a_broker, "news/4")  # dropped, as before
