"""The router: where each message goes, and in whose name it is handed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent_hub_messages import Routes, SetRoutes
from actors.hub.config import RouteText
from actors.hub.router import (
    REMEMBERED_HEADERS,
    Endpoints,
    KeptRoutes,
    ListEndpoints,
    ListRoutes,
    Publish,
    RouterActor,
)
from actors.hub.trail import RoutingTrail
from actors.store.messages import Append, KeepQueues
from actors.store.stored import DEFAULT_PRIORITY
from messaging import system_properties as names
from messaging.envelope import Envelope
from messaging.lifecycle import ActorRestarted
from messaging.message import encode_header
from tests.actors.hub_world import World, message_in

ROUTER, STORE, HEAD = "hub/router", "hub/store", "hub/mqtt"
TO_FILTER = 'FROM /messages/modules/sensor/* INTO BrokeredEndpoint("/modules/filter/inputs/in")'
TO_CLOUD = "FROM /messages/modules/filter/* INTO $upstream"
SENSOR = encode_header("/messages/modules/sensor/outputs/o/", {}, {})
FROM_FILTER = {names.CONNECTION_DEVICE_ID: "edge1", names.CONNECTION_MODULE_ID: "filter"}
FILTER = encode_header("/messages/modules/filter/", {}, FROM_FILTER)
FILTER_TO_CLOUD = "iothub//edge1/filter"
LEAF = encode_header("/messages/", {}, {})


def route(name: str, text: str, priority: int = DEFAULT_PRIORITY, ttl_s: int = 0) -> RouteText:
    return RouteText(name, text, priority, ttl_s)


def world_of(*routes: RouteText, ttl_s: int | None = 7200) -> World:
    world = World(STORE, HEAD, "test")
    kept = KeptRoutes(routes, ttl_s)
    world.start(ROUTER, lambda: RouterActor("edge1", kept, RoutingTrail()))
    return world


def publish(*headers: bytes, index: int = 0) -> Publish:
    return Publish("edge1/sensor", 5, index, headers, tuple((n, b"%d" % n) for n in range(len(headers))))


def appends(world: World) -> list[Envelope]:
    return [letter for letter in world.letters(STORE) if letter.kind == "Append"]


def test_a_batch_goes_to_the_store_in_the_name_of_the_head() -> None:
    world = world_of(route("a", TO_FILTER), route("b", TO_CLOUD))

    [sent] = world.turn(ROUTER, publish(SENSOR, FILTER, LEAF), sender=HEAD)

    [letter] = appends(world)
    assert (letter.sender, letter.correlation_id) == (HEAD, sent)
    assert letter.deadline_s == world.clock.monotonic_s() + 20.0
    assert message_in(letter) == Append(
        "edge1/sensor",
        5,
        0,
        (
            (SENSOR, (("edge1/filter/in", DEFAULT_PRIORITY, 7200),)),
            (FILTER, ((FILTER_TO_CLOUD, DEFAULT_PRIORITY, 7200),)),
            (LEAF, ()),
        ),
        ((0, b"0"), (1, b"1"), (2, b"2")),
    )


@pytest.mark.parametrize(
    ("own_s", "hub_s", "expected"),
    [(0, 7200, 7200), (60, 7200, 60.0), (0, None, None), (60, None, 60.0)],
)
def test_a_route_without_a_time_to_live_has_that_of_the_hub(
    own_s: int, hub_s: int | None, expected: float | None
) -> None:
    world = world_of(route("a", TO_CLOUD, priority=3, ttl_s=own_s), ttl_s=hub_s)

    world.turn(ROUTER, publish(FILTER), sender=HEAD)

    [append] = world.told(STORE, Append)
    assert append.headers[0][1] == ((FILTER_TO_CLOUD, 3, expected),)


def test_a_route_that_does_not_parse_is_left_out_with_its_position_and_the_others_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = world_of(route("good", TO_CLOUD), route("bad", "FROM /messages/* INTOO $upstream"))

    world.turn(ROUTER, ListRoutes(), publish(FILTER), sender=HEAD)

    [routes] = world.told(HEAD, Routes)
    assert routes.good == (("good", TO_CLOUD, DEFAULT_PRIORITY, 0, "iothub"),)
    [(name, text, problem, line, column)] = routes.bad
    assert (name, text) == ("bad", "FROM /messages/* INTOO $upstream")
    assert problem.startswith("line 1, column 18")
    assert (line, column) == (1, 18)
    assert [append.headers[0][1][0][0] for append in world.told(STORE, Append)] == [FILTER_TO_CLOUD]
    assert [r.getMessage() for r in caplog.records if "'bad' is left out: line 1" in r.getMessage()]


def test_endpoints_are_told_to_who_asked_and_again_after_a_change() -> None:
    world = world_of(route("a", TO_FILTER), route("b", TO_CLOUD))
    world.turn(ROUTER, ListEndpoints(), sender=HEAD)

    world.tell(ROUTER, SetRoutes((("a", TO_FILTER.replace("/in", "/x"), 1, 0),), None), "test")

    assert world.told(HEAD, Endpoints) == [
        Endpoints((("edge1/filter/in", "edge1/filter", "in"),)),
        Endpoints((("edge1/filter/x", "edge1/filter", "x"),)),
    ]


def test_new_routes_count_for_headers_that_are_known_already() -> None:
    world = world_of(route("a", TO_CLOUD))
    world.turn(ROUTER, publish(SENSOR), sender=HEAD)

    world.tell(ROUTER, SetRoutes((("a", TO_FILTER, 0, 0),), None), "test")
    world.turn(ROUTER, publish(SENSOR, index=1), sender=HEAD)

    before, after = world.told(STORE, Append)
    assert (before.headers[0][1], after.headers[0][1]) == ((), (("edge1/filter/in", 0, None),))


class FailingRouter(RouterActor):
    def on_list_endpoints(self, message: ListEndpoints) -> None:
        raise RuntimeError("it failed")


def test_routes_that_were_set_outlive_a_restart_of_the_router() -> None:
    world, kept = World(STORE, HEAD), KeptRoutes((route("a", TO_CLOUD),), 7200)
    world.start(ROUTER, lambda: FailingRouter("edge1", kept, RoutingTrail()))
    world.tell(ROUTER, SetRoutes((("b", TO_FILTER, 4, 60),), None), HEAD)

    world.turn(ROUTER, ListEndpoints(), sender=HEAD)
    world.turn(ROUTER, ListRoutes(), sender=HEAD)

    first, second = world.told(HEAD, Routes)
    assert world.system.cells[ROUTER].failures == 1
    assert first == second == Routes((("b", TO_FILTER, 4, 60, "edge1/filter/in"),), ())


def test_a_change_is_told_to_the_log_by_name_and_a_repetition_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    world = world_of(route("a", TO_CLOUD), route("b", TO_CLOUD), ttl_s=None)
    new = SetRoutes((("a", TO_FILTER, 4, 0), ("c", TO_CLOUD, 4, 0)), 60)

    world.tell(ROUTER, new, HEAD)
    world.tell(ROUTER, new, HEAD)

    changes = [r.getMessage() for r in caplog.records if "routes changed" in r.getMessage()]
    assert changes == ["routes changed: added c; changed a; removed b; time to live 60 s"]
    assert len(world.told(HEAD, Routes)) == 2


def test_the_store_is_told_which_queues_have_a_route() -> None:
    world = world_of(route("a", TO_CLOUD), route("b", TO_FILTER))

    world.tell(ROUTER, SetRoutes((("b", TO_FILTER, 4, 0),), None), HEAD)
    world.tell(ROUTER, ActorRestarted(STORE, "it failed", 1), STORE)

    assert world.told(STORE, KeepQueues) == [
        KeepQueues(("iothub", "edge1/filter/in")),
        KeepQueues(("edge1/filter/in",)),
        KeepQueues(("edge1/filter/in",)),
    ]


def test_no_queue_is_given_up_while_a_route_is_left_out() -> None:
    world = world_of(route("a", TO_CLOUD), route("b", TO_FILTER))
    world.told(STORE, KeepQueues)

    world.tell(ROUTER, SetRoutes((("a", "FROM /messages/* INTOO $upstream", 0, 0),), None), HEAD)

    assert world.told(STORE, KeepQueues) == []


def test_what_is_remembered_is_bounded() -> None:
    world = world_of(route("a", TO_CLOUD))
    router = world.system.cells[ROUTER]._behaviour
    assert isinstance(router, RouterActor)

    for number in range(0, REMEMBERED_HEADERS + 1000, 100):
        headers = [encode_header("/messages/", {"id": str(number + n)}, {}) for n in range(100)]
        world.turn(ROUTER, publish(*headers), sender=HEAD)
    world.turn(ROUTER, publish(encode_header("/messages/", {"id": "x" * 60_000}, {})), sender=HEAD)

    assert 0 < len(router._known) <= REMEMBERED_HEADERS
    assert max(map(len, router._known)) < 10_000


HOSTILE_BODIES = [
    b"",
    b"plain",
    b"{not json",
    b"\xff\xfe\x00",
    b'{"n": NaN}',
    b'{"n": 1e999}',
    b'{"n": ' + b"9" * 100_000 + b"}",
    b'{"n":' * 50_000,
    b"[" * 50_000,
    b'{"n": "\\ud800"}',
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "UTF-32", "none"])
def test_no_body_makes_the_router_fail(encoding: str) -> None:
    world = world_of(route("a", "FROM /* WHERE $body.n > 5 AND $body.*.x <> lower($body.n) INTO $upstream"))
    system = {"contentType": "application/json", "contentEncoding": encoding}
    header = encode_header("/messages/", {}, system)
    entries = tuple((0, body) for body in HOSTILE_BODIES)

    world.turn(ROUTER, Publish("edge1/sensor", 5, 0, (header,), entries), sender=HEAD)

    [append] = world.told(STORE, Append)
    assert [body for _, body in append.entries] == HOSTILE_BODIES
    assert world.dead_letters.recent() == []


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from(["utf-8", "utf-16"]))
def test_a_random_body_is_routed_or_not(body: bytes, encoding: str) -> None:
    world = world_of(route("a", "FROM /* WHERE $body.a.b[0] = 1 OR is_null($body.*) INTO $upstream"))
    header = encode_header("/messages/", {}, {"contentType": "application/json", "contentEncoding": encoding})

    world.turn(ROUTER, Publish("edge1/sensor", 5, 0, (header,), ((0, body),)), sender=HEAD)

    assert len(world.told(STORE, Append)) == 1
    assert world.dead_letters.recent() == []


def test_a_message_that_cannot_be_routed_is_a_dead_letter_and_its_batch_goes_on() -> None:
    world = world_of(route("a", TO_CLOUD))

    sent = world.turn(ROUTER, publish(b"\xc1 no header"), publish(FILTER), sender=HEAD)

    first, second = appends(world)
    assert [first.correlation_id, second.correlation_id] == sent
    assert message_in(first).headers == ((b"\xc1 no header", ()),)
    assert world.told("test", ActorRestarted) == []
    [letter] = world.dead_letters.recent()
    assert letter.envelope is not None
    assert (letter.envelope.kind, "EnvelopeError" in letter.traceback) == ("Publish", True)


@pytest.mark.parametrize(
    ("sender", "queue"),
    [
        pytest.param({names.CONNECTION_DEVICE_ID: "leaf"}, "iothub//leaf", id="device"),
        pytest.param(FROM_FILTER, "iothub//edge1/filter", id="module"),
        pytest.param(
            {names.CONNECTION_DEVICE_ID: "iothub"}, "iothub//iothub", id="device called like the cloud"
        ),
        pytest.param({}, "iothub//edge1/$edgeHub", id="nobody: the hub itself"),
    ],
)
def test_each_sender_has_a_queue_to_the_cloud_of_its_own(sender: dict[str, str], queue: str) -> None:
    world = world_of(route("up", "FROM /* INTO $upstream"), route("twice", "FROM /messages/* INTO $upstream"))

    world.turn(ROUTER, publish(encode_header("/messages/", {}, sender)), sender=HEAD)

    [append] = world.told(STORE, Append)
    assert append.headers[0][1] == ((queue, DEFAULT_PRIORITY, 7200),)
