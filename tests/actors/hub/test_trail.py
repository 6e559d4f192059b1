"""The trail of messages with an id: in a whole hub, and what is kept of it."""

from __future__ import annotations

from typing import Any

import pytest

from actors.addresses import ROUTER, STORE
from actors.agent_hub_messages import SetRoutes
from actors.hub.router import RouterActor
from actors.hub.trail import Hops, RoutingTrail, StorageTrail, TraceRouting, TraceStorage, Way
from actors.store.messages import DeleteSession
from actors.store.store import StoreActor
from actors.store.stored import Match, Run, Segment, position_of
from messaging.kinds import kind_named
from messaging.message import encode_header
from messaging.mqtt.packets import PubAck, Publish
from messaging.upstream_queues import upstream_queue
from tests.actors.whole_hub import DEVICE, INPUT, LEAF, A, B, HubWorld

ROUTES = {
    "toB": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/b/inputs/in")',
    "up": "FROM /messages/modules/a/* WHERE level = 'hot' INTO $upstream",
}
TO_B = f"{DEVICE}/b/in"


class TracedHub(HubWorld):
    def __init__(self, routes: dict[str, str] = ROUTES) -> None:
        super().__init__(routes)
        self._answers = self.system.mailbox("cli/trace")

    def asked(self, to: str, question: object) -> Any:
        self.system.bus.send(to, question, sender="cli/trace")
        self.system.run()
        [answer] = self._answers()
        kind = kind_named(answer.kind)
        assert kind is not None
        return kind.build(*answer.body)

    def trace(self, message_id: str) -> list[dict[str, Any]]:
        """Return the hops without their times, which have to be in order."""
        found = []
        for question in (TraceRouting, TraceStorage):
            to = ROUTER if question is TraceRouting else STORE
            hops = self.asked(to, question(message_id)).hops
            times = [hop["at_s"] for hop in hops]
            assert times == sorted(times)
            found += [{k: v for k, v in hop.items() if k not in ("at_s", "priority")} for hop in hops]
        return found

    def publish(self, bag: str, client: str = A) -> None:
        peer = self.open().connect(client)
        peer.send(Publish(self.topic_of(client) + bag, b"x", 1, 7))


def test_each_hop_of_a_message_is_told_with_the_routes_that_took_it() -> None:
    hub = TracedHub()
    receiver = hub.open().connect(B)
    receiver.subscribe(INPUT)
    hub.publish("level=hot&%24.mid=m-1")
    receiver.send(PubAck(1))

    assert hub.trace("m-1") == [
        {"hop": "received", "from": A, "source": "/messages/modules/a/"},
        {"hop": "routed", "route": "toB", "endpoint": TO_B},
        {"hop": "routed", "route": "up", "endpoint": "iothub"},
        {"hop": "stored", "endpoint": TO_B},
        {"hop": "stored", "endpoint": "iothub"},
        {"hop": "sent", "endpoint": TO_B},
        {"hop": "delivered", "endpoint": TO_B},
        {"hop": "waiting", "endpoint": "iothub"},
    ]


def test_a_message_that_no_route_took_is_told_so() -> None:
    hub = TracedHub()

    hub.publish("%24.mid=m-2", LEAF)

    assert hub.trace("m-2") == [
        {"hop": "received", "from": LEAF, "source": "/messages/"},
        {"hop": "unrouted"},
    ]


def test_routes_by_the_body_are_told_too() -> None:
    hub = TracedHub({"b": "FROM /messages/* WHERE is_defined($body.n) INTO $upstream"})
    peer = hub.open().connect(A)

    topic = hub.topic_of(A) + "%24.mid=m-3&%24.ct=application%2Fjson&%24.ce=utf-8"
    peer.send(Publish(topic, b'{"n":1}', 1, 7), Publish(topic, b"none", 1, 8))

    hops = hub.trace("m-3")
    stages = "received received routed unrouted stored waiting"
    assert [hop["hop"] for hop in hops] == stages.split()
    assert hops[2]["route"] == "b"


def test_the_route_of_that_time_is_told_after_a_change() -> None:
    hub = TracedHub()
    hub.publish("%24.mid=m-4")

    hub.asked(ROUTER, SetRoutes((), None))

    assert hub.trace("m-4")[1]["route"] == "toB"
    hub.system.advance(1.0)
    assert hub.trace("m-4")[-1] == {"hop": "gone", "endpoint": TO_B}


def test_the_trail_outlives_a_restart_of_router_and_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RouterActor, "on_set_routes", lambda self, message: 1 / 0)
    monkeypatch.setattr(StoreActor, "on_delete_session", lambda self, message: 1 / 0)
    hub = TracedHub()
    hub.publish("%24.mid=m-5")
    before = hub.trace("m-5")

    hub.system.bus.send(ROUTER, SetRoutes((), None))
    hub.system.bus.send(STORE, DeleteSession("x"))
    hub.system.run()

    assert [hub.system.cells[address].failures for address in (ROUTER, STORE)] == [1, 1]
    assert hub.trace("m-5") == before


def test_an_application_property_of_that_name_is_no_message_id() -> None:
    hub = TracedHub()

    hub.publish("messageId=m-6")

    assert hub.trace("m-6") == []


def test_an_id_that_was_never_seen_is_answered_with_what_is_remembered() -> None:
    hub = TracedHub()
    nothing = hub.asked(ROUTER, TraceRouting("m-7"))
    hub.publish("%24.mid=other")

    found = hub.asked(ROUTER, TraceRouting("m-7"))

    assert nothing == Hops((), 0.0, 0)
    assert (found.hops, found.messages) == ((), 1)
    assert found.since_s == hub.system.clock.now_s()


def header(message_id: str) -> bytes:
    return encode_header("/messages/", {}, {"messageId": message_id})


def test_the_oldest_are_forgotten_when_they_weigh_too_much() -> None:
    routing, storage = RoutingTrail(kept_bytes=10_000), StorageTrail(kept_bytes=10_000)

    for number in range(1000):
        headers = (header(f"m{number}"),)
        routing.routed(number, number, "a", [(headers[0], Way((("e", 0, None),), ("r",), has_id=True))])
        storage.stored(number, number, [Segment((Match("e", 0, None),), headers, ((0, b""),))])

    for trail in (routing, storage):
        assert not _hops(trail, "m0")
        assert _hops(trail, "m999")
    known = routing.find("m999")
    assert known.messages < 10_000 / 200
    assert known.since_s == 1000 - known.messages


def test_what_happens_at_endpoints_without_ids_is_not_followed() -> None:
    trail = StorageTrail()

    trail.stored(1.0, 1, [Segment((Match("e", 0, None),), (b"no id",), ((0, b""),))])

    assert not trail.follows("e")


def test_the_endpoint_without_a_new_message_for_the_longest_time_is_forgotten_when_there_are_many() -> None:
    trail = StorageTrail()
    for number in range(3000):
        for name in ("busy", f"leaf{number}/$c2d"):
            trail.stored(number, number, [Segment((Match(name, 0, None),), (header("x"),), ((0, b""),))])

    followed = [name for number in range(3000) if trail.follows(name := f"leaf{number}/$c2d")]

    assert trail.follows("busy")
    assert 900 < len(followed) <= 1000
    assert followed[-1] == "leaf2999/$c2d"


def test_the_queues_of_senders_to_the_cloud_are_followed_as_one_endpoint() -> None:
    trail = StorageTrail()
    a, b = upstream_queue("edge/a"), upstream_queue("leaf")
    trail.stored(1.0, 7, [Segment((Match(a, 0, None),), (header("x"),), ((0, b""),))])
    trail.stored(1.0, 8, [Segment((Match(b, 0, None),), (header("x"),), ((0, b""),))])

    trail.happened(2.0, "delivered", b, [(position_of(0, 8), position_of(0, 8))])

    assert [(hop["hop"], hop["endpoint"]) for hop in _hops(trail, "x")] == [
        *(("stored", "iothub"), ("stored", "iothub"), ("delivered", "iothub"))
    ]
    assert trail.find("x")[1] == [(a, position_of(0, 7))]


def test_a_message_is_found_among_others_of_its_segment_at_its_own_position() -> None:
    trail = StorageTrail()
    headers = (header("x"), header("wanted"))
    other = Segment((Match("e", 3, None),), (b"no id",), ((0, b""), (0, b"")))
    segment = Segment((Match("e", 3, None),), headers, ((0, b""), (1, b""), (0, b"")))
    trail.stored(1.0, 40, [other, segment])  # its positions are those of 42, 43, 44
    wanted = position_of(3, 43)

    trail.sent(2.0, "e", [Run(position_of(3, 42), headers, segment.entries)])
    trail.happened(3.0, "delivered", "e", [(wanted - 1, wanted - 1)])
    unfinished, left = trail.find("wanted")
    trail.happened(4.0, "delivered", "e", [(wanted, wanted)])
    finished, done = trail.find("wanted")

    assert [hop["hop"] for hop in unfinished.hops] == ["stored", "sent"]
    assert left == [("e", wanted)]
    assert [(hop["hop"], hop["at_s"]) for hop in finished.hops] == [
        ("stored", 1.0),
        ("sent", 2.0),
        ("delivered", 4.0),
    ]
    assert done == []


def _hops(trail: RoutingTrail | StorageTrail, message_id: str) -> tuple[dict[str, Any], ...]:
    found = trail.find(message_id)
    return found.hops if isinstance(found, Hops) else found[0].hops
