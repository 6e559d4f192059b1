"""The product's link over AMQP: many identities on one connection, tokens, ways to the cloud."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from msgspec.structs import replace

from actors.upstream.connection import CloudAccess, CloudConnection, Fault
from actors.upstream.protocol import UpstreamProtocol
from messaging.amqp import cbs
from messaging.amqp.addresses import LinkProperties
from messaging.amqp.codec import AmqpMessage
from messaging.amqp.conditions import Refusal
from messaging.identity import Identity
from messaging.message import Message
from messaging.topics import Feature
from runtime.faults.line import Line
from runtime.iothub.amqp import devices
from runtime.upstream.connections import UpstreamConnections
from runtime.upstream.shared import CloudTimes
from tests.fakes.cloud_observer import LIMIT_S, ObservedConnection
from tests.integration.cloud import AMQP_PORT, WEB_PORT
from tests.integration.cloud_worlds import StandInWorld, connect

EVERYTHING = frozenset({Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D})
IDENTITIES = 20


@pytest.fixture
def world() -> Iterator[StandInWorld]:
    with StandInWorld(protocol=UpstreamProtocol.AMQP) as stand_in:
        yield stand_in


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Audiences of the tokens that the stand-in is shown."""
    audiences: list[str] = []
    parse = cbs.parse_put_token

    def parse_and_keep(
        request: AmqpMessage, now_s: float, *, services: bool = False
    ) -> cbs.PutToken | Refusal:
        audiences.append(str(request.application_properties["name"]))
        return parse(request, now_s, services=services)

    monkeypatch.setattr(cbs, "parse_put_token", parse_and_keep)
    return audiences


def message(number: int) -> Message:
    return Message("/messages/", {}, {}, b"%d" % number)


def scope(world: StandInWorld, children: int) -> CloudAccess:
    """Make an edge with children that have no keys; return the access of its hub."""
    world.cloud.create("edge", capabilities={"iotEdge": True})
    device_scope = world.cloud.call(world.cloud.hub.find(Identity("edge"))).device_scope
    x509 = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "A" * 40}}
    for number in range(children):
        world.cloud.create(f"leaf{number}", authentication=x509, parentScopes=[device_scope])
    world.cloud.create("edge/$edgeHub", if_match="*", authentication={"type": "sas"})
    return world.access("edge/$edgeHub")


def open_as(world: StandInWorld, access: CloudAccess) -> tuple[CloudConnection, ObservedConnection]:
    observer = ObservedConnection()
    connection = world.connections.make(access, observer)
    connection.want(EVERYTHING)
    connection.open()
    observer.next("connected")
    return connection, observer


def test_twenty_identities_share_one_connection_and_do_not_notice_that_one_is_disabled(
    world: StandInWorld,
) -> None:
    names = [f"t{number}" for number in range(IDENTITIES)]
    for name in names:
        world.cloud.create(name)
    opened = {name: connect(world, name, want=EVERYTHING) for name in names}
    disabled = names[7]

    for number in range(100):
        for connection, _ in opened.values():
            connection.send(number, message(number))
        if number == 50:
            world.refuse(disabled)

    for name, (_, observer) in opened.items():
        if name != disabled:
            assert [observer.next("done")[0] for _ in range(100)] == list(range(100))
            assert observer.is_quiet()
    *told, (_, fault) = opened[disabled][1].until("lost")
    kinds = [call[0] for call in told]
    assert kinds == ["done"] * kinds.count("done") + ["failed"] * kinds.count("failed")
    assert [call[1] for call in told] == list(range(len(told)))
    assert fault.kind is Fault.UNAUTHORIZED
    assert (world.line.accepted, world.line.connections) == (1, 1)
    for name in names:
        if name != disabled:
            assert [int(each.body) for each in world.taken(name)] == list(range(100))
            world.patch_desired(name, {"a": 1})
            assert opened[name][1].next("desired_changed")


def test_whoever_was_disabled_comes_back_over_the_same_connection(world: StandInWorld) -> None:
    connection, observer = connect(world, "d1")
    connect(world, "d2")
    world.refuse("d1")
    observer.next("lost")
    connection.open()
    assert observer.next("lost")[0].kind is Fault.UNAUTHORIZED

    world.cloud.create("d1", if_match="*", status="enabled")
    connection = world.connections.make(world.access("d1"), observer)
    connection.open()
    observer.next("connected")
    connection.send(1, message(1))

    assert observer.next("done") == (1, b"")
    assert world.line.accepted == 1


def test_the_hub_of_an_edge_shows_one_token_for_all_its_children(
    world: StandInWorld, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chains: list[tuple[str, ...]] = []
    parse = devices.parse_link_properties

    def parse_and_keep(properties: dict[str, object]) -> LinkProperties:
        found = parse(properties)
        chains.append(found.auth_chain)
        return found

    monkeypatch.setattr(devices, "parse_link_properties", parse_and_keep)
    edge_hub = scope(world, children=3)
    own, own_observer = open_as(world, edge_hub)
    children = [
        open_as(world, replace(edge_hub, identity=Identity(f"leaf{number}"), signer=edge_hub.identity))
        for number in range(3)
    ]

    for number, (connection, observer) in enumerate(children):
        connection.send(1, message(number))
        assert observer.next("done") == (1, b"")
    own.get_twin(2)

    assert own_observer.next("done")[0] == 2
    assert [world.taken(f"leaf{number}")[0].body for number in range(3)] == [b"0", b"1", b"2"]
    assert shown == [f"{world.host_name}/devices/edge/modules/$edgeHub"]
    assert set(chains) == {(), ("leaf0", "edge"), ("leaf1", "edge"), ("leaf2", "edge")}
    assert world.line.accepted == 1


def test_a_child_that_is_disabled_is_no_matter_to_the_other_children(world: StandInWorld) -> None:
    edge_hub = scope(world, children=2)
    (_, gone), (connection, observer) = (
        open_as(world, replace(edge_hub, identity=Identity(f"leaf{number}"), signer=edge_hub.identity))
        for number in range(2)
    )

    world.refuse("leaf0")

    assert gone.next("lost")[0].kind is Fault.UNAUTHORIZED
    connection.send(1, message(1))
    assert observer.next("done") == (1, b"")


@pytest.mark.slow
def test_tokens_are_renewed_over_the_same_links_while_messages_flow(shown: list[str]) -> None:
    times = CloudTimes(token_life_s=12.0)
    with StandInWorld(times=times, protocol=UpstreamProtocol.AMQP) as world:
        opened = {name: connect(world, name, want=EVERYTHING) for name in ("d1", "d1/m1", "d2")}
        sent = 0
        first_ends_s = time.monotonic() + times.token_life_s
        while time.monotonic() < first_ends_s + 1.0:
            for connection, observer in opened.values():
                connection.send(sent, message(sent))
                assert observer.next("done") == (sent, b"")
            sent += 1

        assert sorted(shown.count(audience) for audience in set(shown)) == [2, 2, 2]
        for name in opened:
            assert [int(each.body) for each in world.taken(name)] == list(range(sent))
            if "/" not in name:
                world.send_c2d(name, Message("", {}, {}, b"after"))
                came, taken = opened[name][1].next("message_received")
                assert came.body == b"after"
                taken(True)
        assert (world.line.accepted, world.line.connections) == (1, 1)
        assert all(observer.is_quiet() for _, observer in opened.values())


def test_a_key_that_is_changed_ends_its_own_identity_alone(world: StandInWorld) -> None:
    _, observer = connect(world, "d1")
    other, other_observer = connect(world, "d2")
    keys = {"primaryKey": "A" * 43 + "=", "secondaryKey": "B" * 43 + "="}

    world.cloud.create("d1", if_match="*", authentication={"type": "sas", "symmetricKey": keys})

    assert observer.next("lost")[0].kind is Fault.UNAUTHORIZED
    connection, observer = connect(world, "d1")
    connection.send(1, message(1))
    assert observer.next("done") == (1, b"")
    other.send(1, message(1))
    assert other_observer.next("done") == (1, b"")
    assert world.line.accepted == 1


def test_the_connection_is_closed_with_the_last_identity_and_made_again_for_the_next(
    world: StandInWorld,
) -> None:
    first, _ = connect(world, "d1")
    second, _ = connect(world, "d2")
    first.close()
    assert world.line.connections == 1

    second.close()
    _wait_for(lambda: world.line.connections == 0)
    connection, observer = connect(world, "d1")
    connection.send(1, message(1))

    assert observer.next("done") == (1, b"")
    assert world.line.accepted == 2


def test_unless_a_protocol_is_named_the_link_takes_web_socket_where_nothing_else_gets_through(
    world: StandInWorld,
) -> None:
    world.cut()
    with (
        Line((world.host_name, WEB_PORT), (world.cloud.address, WEB_PORT)) as web,
        closing(UpstreamConnections(UpstreamProtocol.AMQP_ELSE_WS)) as connections,
    ):
        reached = threading.Event()
        connections.probe(world.host_name, reached.set)
        assert reached.wait(LIMIT_S)
        observer = ObservedConnection()
        connection = connections.make(world.access("d1"), observer)
        connection.open()
        observer.next("connected")
        connection.send(1, message(1))

        assert observer.next("done") == (1, b"")
        assert web.accepted >= 1

        web.cut()
        observer.until("lost")
        world.restore()
        connection.open()
        observer.next("connected")
        assert world.line.accepted == 1


def test_where_nothing_gets_through_the_first_way_is_named(world: StandInWorld) -> None:
    world.cut()
    observer = ObservedConnection()
    with closing(UpstreamConnections(UpstreamProtocol.AMQP_ELSE_WS)) as connections:
        connections.make(world.access("d1"), observer).open()
        (fault,) = observer.next("lost")

    assert fault.reason == f"nothing listens at '{world.host_name}:{AMQP_PORT}' (connection refused)"


def test_a_link_that_is_told_another_protocol_changes_to_it() -> None:
    with StandInWorld(protocol=UpstreamProtocol.MQTT) as world:
        connection, observer = connect(world, "d1")
        assert isinstance(world.connections, UpstreamConnections)
        with Line((world.host_name, AMQP_PORT), (world.cloud.address, AMQP_PORT)) as amqp:
            world.connections.speak(UpstreamProtocol.AMQP)
            (fault,) = observer.next("lost")
            connection.close()
            again, again_observer = connect(world, "d1")
            again.send(1, message(1))

            assert (fault.kind, fault.reason) == (Fault.UNREACHABLE, "the link speaks Amqp from now on")
            assert again_observer.next("done") == (1, b"")
            assert (world.line.accepted, amqp.accepted) == (1, 1)


def _wait_for(condition: object) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)
