"""The hub's head against several clients that send whatever they like: what must hold after each step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.addresses import IDENTITIES, MQTT, ROUTER, STORE
from actors.heads.intake import CLIENT_CREDIT_BYTES
from actors.heads.mqtt_sessions import MOST_FILTER_BYTES, MOST_FILTERS
from messaging.mqtt.packets import (
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
)
from tests.actors.whole_hub import CONNACK, INPUT, LEAF, PUBACK, PUBLISH, A, B, HubWorld, Peer
from tests.fakes.message_db import MemoryMessageDb
from tests.messaging.mqtt import strategies

ROUTES = {
    "up": "FROM /messages/* WHERE NOT IS_DEFINED($nowhere) AND $body.skip = NULL INTO $upstream",
    "ab": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/b/inputs/in")',
    "all": 'FROM /messages/* INTO BrokeredEndpoint("/modules/b/inputs/all")',
}
REFUSALS = {1, 2, 3, 5}  # 4 is never said: it ends an SDK client for good and means a malformed name
MOST_PEERS = 6

clients = st.sampled_from([A, B, LEAF])
bags = st.sampled_from(
    [
        "",
        "a=1&b=2",
        "%24.mid=m1",
        "$.ct=application%2Fjson&$.ce=utf-8",
        "x=%F0%9F%98%80",
        "=&=",
        "%zz",
        "a=1&a=2",
    ]
)
BODIES = {
    "skip": b'{"skip":1}',
    "deep": b"[" * 40,
    "at the limit": b"x" * 262_000,
    "over the limit": b"x" * 262_136,
}
bodies = st.one_of(st.binary(max_size=12), st.sampled_from(sorted(BODIES)))
qualities = st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 2])
mostly = st.sampled_from([True, True, True, True, False])
odd_names = st.one_of(
    st.sampled_from(
        ["", "/", "h/D/?api-version=V", "h/edge1/a/?", "h/edge1/a/?api-version=2021-04-12&x=%zz"]
    ),
    st.text(max_size=30),
)


class HostileClients(RuleBasedStateMachine):
    """Connections open and close, send legal and illegal bytes, stop reading; the disk fails and heals."""

    def __init__(self) -> None:
        super().__init__()
        self.world = HubWorld(ROUTES)
        self.peers: list[Peer] = []
        self.published: dict[Peer, list[tuple[int, bytes, bool]]] = {}  # by connection: QoS 1, in order
        self.given: dict[Peer, list[int]] = {}  # packet ids to acknowledge
        self.unclear: set[Peer] = set()
        self.stored: set[bytes] = set()
        self.unread: set[Peer] = set()
        self.number = 0

    # what clients do

    @precondition(lambda self: len(self.peers) < MOST_PEERS and self.world.listener.handler is not None)
    @rule()
    def opens(self) -> None:
        self.peers.append(self.world.open())

    @precondition(lambda self: len(self.peers) < MOST_PEERS and self.world.listener.handler is not None)
    @rule(client=clients, clean=st.booleans(), filters=st.sampled_from([(INPUT,), (), ("f/1", INPUT)]))
    def joins(self, client: str, clean: bool, filters: tuple[str, ...]) -> None:
        """A client as it should be; from here on it may turn bad."""
        self.peers.append(self.world.open())
        self._send(self.peers[-1], self.world.connect_packet(client, clean=clean).encode())
        for topic_filter in filters:
            self._send(self.peers[-1], Subscribe(1, ((topic_filter, 1),)).encode())

    @rule(data=st.data(), client=clients, clean=st.booleans(), right=mostly, will=st.booleans())
    def connects(self, data: st.DataObject, client: str, clean: bool, right: bool, will: bool) -> None:
        if self.peers:
            last_words = Will(self.world.topic_of(client), b"gone", 1, False) if will else None
            key = b"k" * 32 if right else b"x" * 32
            packet = self.world.connect_packet(client, clean=clean, key=key, will=last_words)
            self._send(self._some(data), packet.encode())

    @rule(data=st.data(), client_id=st.one_of(clients, st.text(max_size=20)), user_name=odd_names)
    def connects_oddly(self, data: st.DataObject, client_id: str, user_name: str) -> None:
        if self.peers:
            try:
                packet = Connect(client_id, True, 0, user_name=user_name, password=b"SharedAccessSignature x")
                self._send(self._some(data), packet.encode())
            except ValueError:
                pass  # a text that MQTT cannot carry
            except Exception as exc:
                if type(exc).__name__ != "LocalProtocolError":
                    raise

    @rule(
        data=st.data(), many=st.lists(st.tuples(bags, bodies, st.integers(0, 2), st.booleans()), max_size=5)
    )
    def publishes(self, data: st.DataObject, many: list[tuple[str, bytes | str, int, bool]]) -> None:
        if not self.peers:
            return
        peer = self._some(data)
        packets: list[Packet] = []
        for bag, body, qos, own in many:
            self.number += 1
            if isinstance(body, str):
                body = BODIES[body]
            client_id = peer.client.client_id if own and peer.client.client_id else A
            unique = b"%d:" % self.number + body if not body.startswith(b"{") else body
            packet_id = self.number % 65_535 + 1 if qos else 0
            topic = f"{self.world.topic_of(client_id)}{bag}" if "/" in client_id or client_id else "x"
            packets.append(Publish(topic, unique, qos, packet_id))
        self._send(peer, *[p.encode() for p in packets], published=packets)

    @rule(data=st.data(), packets=st.lists(strategies.from_client, max_size=4))
    def sends_legal_packets(self, data: st.DataObject, packets: list[Packet]) -> None:
        if self.peers:
            self._send(
                self._some(data),
                *[packet.encode() for packet in packets],
                published=[packet for packet in packets if isinstance(packet, Publish)],
            )

    @rule(data=st.data(), garbage=st.binary(max_size=60), cut=st.integers(0, 40))
    def sends_garbage(self, data: st.DataObject, garbage: bytes, cut: int) -> None:
        if self.peers:
            peer = self._some(data)
            self._send(peer, self.world.connect_packet(A).encode()[:cut] + garbage)
            self.unclear.add(peer)  # who knows what the bytes meant

    @rule(data=st.data(), number=st.integers(1, 130), long=st.booleans())
    def subscribes(self, data: st.DataObject, number: int, long: bool) -> None:
        if self.peers:
            tail = "x" * 20_000 if long else ""
            filters = (
                (INPUT, number % 2),
                (f"f/{number}{tail}", 1),
                ("devices/edge1/messages/devicebound/#", 1),
            )
            self._send(self._some(data), Subscribe(number, filters[: number % 3 + 1]).encode())

    @rule(data=st.data(), number=st.integers(1, 130))
    def unsubscribes(self, data: st.DataObject, number: int) -> None:
        if self.peers:
            self._send(self._some(data), Unsubscribe(number, (INPUT, f"f/{number}")).encode())

    @rule(data=st.data(), made_up=st.lists(st.integers(1, 65_535), max_size=3))
    def acknowledges(self, data: st.DataObject, made_up: list[int]) -> None:
        if self.peers:
            peer = self._some(data)
            ids = self.given.pop(peer, []) + made_up
            self._send(peer, *[PubAck(packet_id).encode() for packet_id in ids])

    @rule(data=st.data())
    def pings(self, data: st.DataObject) -> None:
        if self.peers:
            self._send(self._some(data), PingReq().encode())

    @rule(data=st.data())
    def says_goodbye(self, data: st.DataObject) -> None:
        if self.peers:
            self._send(self._some(data), Disconnect().encode())

    @rule(data=st.data())
    def is_gone(self, data: st.DataObject) -> None:
        if self.peers:
            peer = self.peers.pop(data.draw(st.integers(0, len(self.peers) - 1)))
            peer.gone()
            self._look(peer)

    @rule(data=st.data())
    def stops_reading_or_starts_again(self, data: st.DataObject) -> None:
        if self.peers:
            peer = self._some(data)
            if peer in self.unread:
                self.unread.discard(peer)
                peer.handler.writing_resumed(peer.client)
            elif not peer.transport.closed:
                self.unread.add(peer)
                peer.handler.writing_paused(peer.client)
            self.world.system.run()

    # what else happens

    @rule(trouble=st.sampled_from(["", "", "", "", "full", "failing"]))
    def the_disk_changes(self, trouble: str) -> None:
        self.world.disk.full, self.world.disk.failing = trouble == "full", trouble == "failing"

    @rule(seconds=st.sampled_from([0.1, 0.1, 0.1, 1.0, 1.0, 6.0, 31.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.system.advance(seconds)

    # helpers

    def _some(self, data: st.DataObject) -> Peer:
        return self.peers[data.draw(st.integers(0, len(self.peers) - 1), label="connection")]

    def _send(self, peer: Peer, *packets: bytes, published: list[Any] = []) -> None:  # noqa: B006
        if peer.transport.closed or not peer.transport.reading:
            return
        mine = self.published.setdefault(peer, [])
        for packet in published:
            if packet.qos == 1:
                mine.append((packet.packet_id, packet.payload, self._is_good(peer, packet)))
        peer.send(*packets)

    def _is_good(self, peer: Peer, packet: Publish) -> bool:
        """Whether the message is telemetry of this client, so that its acknowledgement promises something."""
        name = peer.client.client_id
        plain = {self.world.topic_of(name) + bag for bag in ("", "a=1&b=2", "%24.mid=m1")} if name else set()
        return packet.topic in plain and len(packet.payload) < 200_000

    def _look(self, peer: Peer) -> None:
        """Check everything that a connection was sent since the last look."""
        known = peer not in self.unclear
        mine = self.published.get(peer, [])
        for kind, body in peer.received():
            if kind == CONNACK:
                assert body[1] == 0 or body[1] in REFUSALS
            elif kind == PUBACK and known:
                packet_id = int.from_bytes(body, "big")
                while mine and mine[0][0] != packet_id:
                    raise AssertionError(f"PUBACK {packet_id} where {mine[0][0]} was due")
                assert mine, f"PUBACK {packet_id} for nothing"
                _, payload, is_good = mine.pop(0)
                assert not is_good or payload in self.stored
                event("a message was acknowledged")
            elif kind == PUBLISH:
                event("a message was delivered")
                topic_end = 2 + int.from_bytes(body[:2], "big")
                self.given.setdefault(peer, []).append(int.from_bytes(body[topic_end : topic_end + 2], "big"))

    # what must hold

    @invariant()
    def what_was_sent_is_true(self) -> None:
        self.stored |= self.world.bodies()
        for peer in self.peers:
            self._look(peer)
        for peer in [peer for peer in self.peers if peer.transport.closed]:
            self.peers.remove(peer)
            self.unread.discard(peer)

    @invariant()
    def no_actor_has_failed(self) -> None:
        for address in (STORE, ROUTER, IDENTITIES, MQTT):
            cell = self.world.system.cells[address]
            assert cell.failures == 0, cell.last_error

    @invariant()
    def what_is_kept_is_bounded_and_belongs_to_somebody(self) -> None:
        head = self.world.head
        alive = set(head._clients.values())
        assert {peer.client for peer in self.peers if not peer.transport.closed} == alive
        assert set(head._by_identity.values()) <= alive
        assert {client for _, client in head._deliveries._attached.all()} <= alive
        assert {client for client, _ in head._intake._batches.values()} <= alive
        assert head._intake._paused <= alive
        assert head._intake.unanswered_bytes == sum(client.unanswered_bytes for client in alive)
        for client in alive:
            assert 0 <= client.unanswered_bytes <= CLIENT_CREDIT_BYTES + 1_000_000
            attached = {endpoint for endpoint, owner in head._deliveries._attached.all() if owner is client}
            assert {endpoint for endpoint, *_ in client.in_flight.values()} <= attached
            assert len(client.subscriptions) <= MOST_FILTERS
            assert sum(map(len, client.subscriptions)) <= MOST_FILTER_BYTES

    @invariant()
    def the_ledger_is_balanced(self) -> None:
        assert MemoryMessageDb(self.world.disk).ledger().imbalances() == []

    def teardown(self) -> None:
        self.world.disk.full = self.world.disk.failing = False
        for peer in self.peers:
            peer.gone()
        self.world.system.advance(60.0)
        head = self.world.head
        assert head.describe() == {"connections": 0, "clients": (), "attached": (), "unanswered_bytes": 0}
        assert head._waiting == {}
        assert head._intake._batches == {}
        self.no_actor_has_failed()
        self.the_ledger_is_balanced()


TestHostileClients = HostileClients.TestCase
TestHostileClients.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # finding a smaller example takes minutes: by hand, below
)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
class TestHostileClientsLong(HostileClients.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=2000, stateful_step_count=80, deadline=None)
