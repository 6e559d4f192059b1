"""The link to the cloud: messages of every identity under its own name, in order, whatever goes wrong."""

from __future__ import annotations

import pytest

from actors.agent.registry import REGISTRY, RefreshScope
from actors.hub.client_services import ClientChanged, ClientGone, InvokeMethod, MethodFailed, MethodResult
from actors.hub.identity_messages import AccessChanged
from actors.store.messages import Append, Ready
from actors.store.stored import EndpointLedger
from actors.upstream.connection import CloudFault, Fault
from actors.upstream.link_state import SwitchLink
from actors.upstream.messages import (
    CloudRefused,
    CloudTwin,
    DesiredChanged,
    DesiredFollowed,
    FetchTwin,
    LinkChanged,
    ReportedSent,
    SendReported,
    WatchLink,
)
from actors.upstream.upkeep import LINGER_S, LinkLimits
from messaging.lifecycle import ActorRestarted, PeerDown, PeerUp
from messaging.message import encode_header
from messaging.upstream_queues import upstream_queue
from tests.actors.hub_world import message_in
from tests.actors.link_world import (
    DEVICE,
    HEAD,
    HEADER,
    METHODS,
    OWN,
    SOON_S,
    STORE,
    TWINS,
    UP,
    A,
    B,
    C,
    LinkWorld,
)
from tests.fakes.cloud import MemorySwitch

UNAUTHORIZED = CloudFault(Fault.UNAUTHORIZED, "the cloud does not know this key", 401)
THROTTLED = CloudFault(Fault.THROTTLED, "too many calls", 429)
QUOTA = CloudFault(Fault.QUOTA, "the day's messages are used up", 403)


def ask(world: LinkWorld, message: object, limit_s: float = 10.0) -> None:
    deadline_s = world.clock.monotonic_s() + limit_s
    world.system.bus.send(UP, message, sender=TWINS, correlation_id=7, deadline_s=deadline_s)
    world.system.run()


@pytest.fixture
def world() -> LinkWorld:
    return LinkWorld()


# messages


def test_each_identity_sends_under_its_own_name_in_order(world: LinkWorld) -> None:
    world.publish(A, b"1", b"2")
    world.publish(C, b"x")
    world.publish(A, b"3")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]
    assert world.cloud.bodies(C) == [b"x"]
    assert world.ledger() == EndpointLedger(accepted=4, delivered=4)
    assert world.state().sent == 4


def test_the_hub_itself_is_always_connected_and_nobody_else_without_a_reason(world: LinkWorld) -> None:
    world.system.advance(3600.0)

    assert list(world.cloud.connections) == [OWN]


def test_messages_wait_on_disk_while_the_cloud_is_away_and_follow_when_it_is_back(world: LinkWorld) -> None:
    world.publish(A, b"1")
    world.system.advance(SOON_S)
    world.cloud.go_away()
    world.system.run()
    world.publish(A, b"2", b"3")
    world.publish(B, b"x")
    world.system.advance(3600.0)
    while_away = list(world.cloud.bodies(A))
    tries = len(world.cloud.opened)

    world.cloud.come_back()
    world.system.advance(SOON_S)

    assert while_away == [b"1"]
    assert tries < 10  # the probe waits, not the connections
    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]
    assert world.cloud.bodies(B) == [b"x"]
    assert world.ledger() == EndpointLedger(accepted=4, delivered=4)


def test_what_had_no_answer_when_the_connection_broke_is_sent_again_in_order(world: LinkWorld) -> None:
    world.cloud.hold()
    world.publish(A, b"1", b"2", b"3")
    world.system.advance(SOON_S)
    world.cloud.release(1)
    world.cloud.cut(A)
    world.cloud.release()
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]
    assert world.ledger() == EndpointLedger(accepted=3, delivered=3)


def test_nothing_overtakes_a_message_that_was_not_taken(world: LinkWorld) -> None:
    world.cloud.failures[A].append(THROTTLED)
    world.publish(A, b"1", b"2", b"3")
    world.system.advance(60.0)

    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "fault",
    [
        CloudFault(Fault.TOO_LARGE, "a message of 300000 bytes is too large", 413),
        CloudFault(Fault.REFUSED, "a property has no name", 400),
    ],
    ids=["too large", "refused"],
)
def test_a_message_that_the_cloud_will_never_take_is_dropped_alone_with_one_line(
    world: LinkWorld, fault: CloudFault, caplog: pytest.LogCaptureFixture
) -> None:
    world.cloud.failures[A].append(fault)
    world.publish(A, b"bad", b"1", b"2")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1", b"2"]
    assert world.cloud.opened.count(A) == 1
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert A in lines[0]
    assert fault.reason in lines[0]
    assert world.ledger() == EndpointLedger(
        accepted=3, delivered=2, dropped=1, dropped_by_reason={"poison": 1}
    )


def test_a_message_with_a_damaged_header_does_not_hold_up_those_behind_it(world: LinkWorld) -> None:
    world.publish(A, b"?", header=b"\xc1 damaged")
    world.publish(A, b"1")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1"]
    assert world.ledger().dropped_by_reason == {"poison": 1}


def test_a_message_that_ends_every_connection_goes_once_it_is_proven(
    world: LinkWorld, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = world.cloud
    plain = cloud.work

    def work(connection, work):  # type: ignore[no-untyped-def]
        if connection.identity == A and cloud.bodies(A) == [b"1"]:
            cloud.cut(A)
        else:
            plain(connection, work)

    world.publish(A, b"1")
    world.system.advance(SOON_S)
    cloud.work = work  # type: ignore[method-assign]
    world.publish(A, b"bad", b"2")
    world.publish(B, b"x")
    world.system.advance(60.0)
    early = world.ledger()
    for _ in range(60):
        if world.ledger().dropped:
            break
        world.system.advance(10.0)
    cloud.work = plain  # type: ignore[method-assign]
    world.system.advance(60.0)

    assert early.dropped == 0
    assert cloud.bodies(B) == [b"x"]
    assert cloud.bodies(A) == [b"1", b"2"]
    assert world.ledger().dropped_by_reason == {"poison": 1}


def test_a_line_that_breaks_again_and_again_costs_no_message(world: LinkWorld) -> None:
    world.publish(A, b"1")
    world.cloud.hold()
    for _ in range(40):
        world.system.advance(20.0)
        for identity in list(world.cloud.connections):
            world.cloud.cut(identity)
    world.cloud.release()
    world.system.advance(120.0)

    assert world.cloud.bodies(A) == [b"1"]
    assert world.ledger() == EndpointLedger(accepted=1, delivered=1)


def test_a_line_that_comes_and_goes_is_used_each_time_it_is_there(world: LinkWorld) -> None:
    world.tell(UP, ClientChanged(B, ("METHODS",)), HEAD)
    for number in range(20):
        world.cloud.go_away()
        world.system.advance(5.0)
        world.publish(A, b"%d" % number)
        world.cloud.come_back()
        world.system.advance(SOON_S)

        assert world.state().is_up
        assert len(world.cloud.bodies(A)) == number + 1
        assert B in world.cloud.connections
        world.system.advance(4.0)


def test_an_identity_that_is_thrown_out_at_once_each_time_is_tried_less_and_less_often(
    world: LinkWorld,
) -> None:
    world.tell(UP, ClientChanged(A, ("METHODS",)), HEAD)
    for _ in range(3600):
        if A in world.cloud.connections:
            world.cloud.cut(A)
        world.system.advance(0.1)

    assert 5 < world.cloud.opened.count(A) < 20


def test_a_higher_priority_goes_first_and_each_keeps_its_order(world: LinkWorld) -> None:
    world.tell(UP, SwitchLink(False), "service")
    world.publish(A, b"low1", priority=9)
    world.publish(A, b"high1", priority=0)
    world.publish(A, b"low2", priority=9)
    world.publish(A, b"high2", priority=0)
    world.tell(UP, SwitchLink(True), "service")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"high1", b"high2", b"low1", b"low2"]


# turns


def test_a_source_without_backlog_does_not_wait_for_that_of_another(world: LinkWorld) -> None:
    world.tell(UP, SwitchLink(False), "service")
    world.publish(A, *(b"%d" % number for number in range(2000)))
    world.cloud.hold()
    world.tell(UP, SwitchLink(True), "service")
    world.system.advance(SOON_S)
    world.publish(B, b"x")
    world.system.advance(SOON_S)
    world.cloud.release(300)
    world.system.run()

    assert world.cloud.bodies(B) == [b"x"]
    assert len(world.cloud.bodies(A)) < 1000
    world.cloud.release()
    world.system.advance(SOON_S)
    assert world.cloud.bodies(A) == [b"%d" % number for number in range(2000)]


def test_a_connection_that_hangs_holds_up_nobody_and_is_built_anew(
    world: LinkWorld, caplog: pytest.LogCaptureFixture
) -> None:
    cloud, plain = world.cloud, world.cloud.work
    cloud.work = lambda connection, work: None if connection.identity == A else plain(connection, work)  # type: ignore[method-assign]
    world.publish(A, b"1", b"2")
    world.system.advance(SOON_S)
    world.publish(B, b"x")
    world.system.advance(SOON_S)
    meanwhile = cloud.bodies(B)
    world.system.advance(15.0)
    cloud.work = plain  # type: ignore[method-assign]
    world.system.advance(10.0)

    assert meanwhile == [b"x"]
    assert cloud.bodies(A) == [b"1", b"2"]
    assert f"'{A}': nothing has moved for 20 s" in caplog.text


def test_no_more_than_the_rate_goes_up(world: LinkWorld) -> None:
    world = LinkWorld(LinkLimits(messages_per_s=50.0))
    world.publish(A, *(b"a%d" % number for number in range(500)))
    world.publish(B, *(b"b%d" % number for number in range(500)))
    world.system.advance(0.5)
    before = len(world.cloud.messages)
    world.system.advance(4.0)

    assert 195 <= len(world.cloud.messages) - before <= 205
    assert abs(len(world.cloud.bodies(A)) - len(world.cloud.bodies(B))) <= 20
    world.system.advance(30.0)
    assert world.ledger().delivered == 1000


def test_with_fewer_connections_than_sources_all_get_their_turn() -> None:
    world = LinkWorld(LinkLimits(most_connections=2))
    sources = [f"leaf{number}" for number in range(9)]
    for source in sources:
        world.publish(source, b"1", b"2")
    for _ in range(20):
        assert len(world.cloud.connections) <= 3
        world.system.advance(5.0)

    assert [world.cloud.bodies(source) for source in sources] == [[b"1", b"2"]] * 9


def test_who_only_listens_makes_place_for_who_sends_and_comes_back() -> None:
    world = LinkWorld(LinkLimits(most_connections=1))
    world.tell(UP, ClientChanged(A, ("METHODS",)), HEAD)
    world.system.advance(SOON_S)
    listening = list(world.cloud.connections)
    world.publish(B, b"x")
    world.system.advance(60.0)
    sent = world.cloud.bodies(B)
    world.system.advance(60.0)

    assert listening == [OWN, A]
    assert sent == [b"x"]
    assert sorted(world.cloud.connections) == [OWN, A]


# trouble of one


def test_an_identity_that_is_refused_waits_longer_and_longer_and_touches_nobody(
    world: LinkWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.cloud.refusals[A] = UNAUTHORIZED
    world.publish(A, b"1")
    world.publish(B, b"x")
    world.system.advance(SOON_S)
    world.tell(UP, WatchLink(), "service")
    first = world.cloud.opened.count(A)
    world.system.advance(600.0)
    tries = world.cloud.opened.count(A)
    shown = {source[0]: source for source in world.state().sources}[A]
    del world.cloud.refusals[A]
    world.system.advance(60.0)

    assert world.cloud.bodies(B) == [b"x"]
    assert world.told("service", LinkChanged) == [LinkChanged(True)]
    assert first <= 2
    assert tries < 20
    assert shown[1] == "waiting after an error"
    assert shown[3:5] == ("unauthorized", UNAUTHORIZED.reason)
    assert caplog.text.count(UNAUTHORIZED.reason) == 1
    assert world.cloud.bodies(A) == [b"1"]


@pytest.mark.parametrize("fault", [THROTTLED, QUOTA], ids=["throttled", "quota"])
def test_who_is_throttled_while_sending_goes_on_later_in_order(world: LinkWorld, fault: CloudFault) -> None:
    world.publish(A, b"1")
    world.system.advance(SOON_S)
    world.cloud.failures[A].append(fault)
    world.publish(A, b"2", b"3")
    world.publish(B, b"x")
    world.system.advance(0.4)
    early = world.cloud.bodies(A), world.cloud.bodies(B)
    world.system.advance(60.0)

    assert early == ([b"1"], [b"x"])
    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]


def test_who_has_no_key_keeps_its_messages_and_says_why(world: LinkWorld) -> None:
    world.no_key[C] = f"'{C}' proves itself with a certificate"
    world.publish(C, b"1")
    world.publish(A, b"x")
    world.system.advance(60.0)
    shown = {source[0]: source for source in world.state().sources}[C]

    assert world.cloud.bodies(A) == [b"x"]
    assert shown[4] == world.no_key[C]
    assert world.ledger().pending == 1


def test_a_new_key_is_tried_at_once(world: LinkWorld) -> None:
    world.cloud.refusals[A] = UNAUTHORIZED
    world.publish(A, b"1")
    world.system.advance(600.0)
    del world.cloud.refusals[A]
    world.tell(UP, AccessChanged(A), "hub/identities")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1"]


def test_a_hub_that_is_refused_itself_still_sends_for_the_others(world: LinkWorld) -> None:
    world.cloud.refuse(OWN, UNAUTHORIZED)
    world.system.run()
    world.publish(A, b"1")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1"]
    assert world.state().is_up


# the link


def test_watchers_hear_whether_the_cloud_can_be_asked(world: LinkWorld) -> None:
    world.tell(UP, WatchLink(), TWINS)
    world.cloud.go_away()
    world.system.advance(10.0)
    world.cloud.come_back()
    world.system.advance(SOON_S)

    told = [message_in(letter) for letter in world.letters(TWINS) if letter.kind == LinkChanged.__name__]
    assert told == [LinkChanged(True), LinkChanged(False), LinkChanged(True)]


def test_an_agent_that_is_there_hears_to_look_for_new_devices_when_the_link_is_back(world: LinkWorld) -> None:
    def back() -> list[RefreshScope]:
        world.cloud.go_away()
        world.system.run()
        world.cloud.come_back()
        world.system.advance(SOON_S)
        return world.told(REGISTRY, RefreshScope)

    without = back()
    world.tell(UP, PeerUp("agent", 1), "agent")
    with_agent = back()
    world.tell(UP, PeerDown("agent"), "agent")

    assert (without, with_agent, back()) == ([], [RefreshScope()], [])


def test_that_the_line_is_down_is_one_line_of_the_log(
    world: LinkWorld, caplog: pytest.LogCaptureFixture
) -> None:
    for source in (A, B, C):
        world.publish(source, b"1")
    world.system.advance(SOON_S)
    caplog.clear()
    world.cloud.go_away()
    world.system.advance(600.0)

    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_what_is_switched_off_stays_off_over_a_restart_and_flows_when_it_is_on_again() -> None:
    switch = MemorySwitch()
    world = LinkWorld(switch=switch)
    world.publish(A, b"1")
    world.system.advance(SOON_S)
    world.tell(UP, SwitchLink(False), "service")
    world.publish(A, b"2")
    world.turn(UP, ClientChanged(None, 7), sender=HEAD)  # type: ignore[arg-type]
    world.system.advance(60.0)
    while_off = world.cloud.bodies(A), list(world.cloud.connections), world.state()
    world.tell(UP, SwitchLink(True), "service")
    world.system.advance(SOON_S)

    assert while_off[0] == [b"1"]
    assert while_off[1] == []
    assert not while_off[2].on
    assert while_off[2].reason == "switched off"
    assert len(world.told("test", ActorRestarted)) == 1
    assert world.cloud.bodies(A) == [b"1", b"2"]


def test_twins_go_before_messages_when_the_link_is_back(world: LinkWorld) -> None:
    world.tell(UP, WatchLink(), TWINS)
    world.cloud.go_away()
    world.publish(A, b"1")
    world.system.advance(30.0)
    world.letters(TWINS)

    world.cloud.come_back()
    world.system.run()
    told = world.told(TWINS, LinkChanged)
    ask(world, FetchTwin(A))
    before_twin = world.cloud.bodies(A)
    world.system.advance(0.05)  # the twin's actor writes to disk what it is going to report
    ask(world, SendReported(A, b'{"x":1}'))
    before_report = world.cloud.bodies(A)
    world.system.advance(SOON_S)

    assert told == [LinkChanged(True)]
    assert len(world.told(TWINS, CloudTwin)) == 1
    assert world.told(TWINS, ReportedSent) == [ReportedSent(A)]
    assert (before_twin, before_report) == ([], [])
    assert world.cloud.bodies(A) == [b"1"]


# twins


def test_a_twin_is_fetched_and_reported_properties_are_sent_as_the_identity_itself(world: LinkWorld) -> None:
    world.cloud.patch_desired(A, {"rate": 5})
    ask(world, FetchTwin(A))
    ask(world, SendReported(A, b'{"is":4}'))

    [twin] = world.told(TWINS, CloudTwin)
    assert b'"rate":' in twin.desired
    assert b'"$version":' in twin.reported
    assert world.told(TWINS, ReportedSent) == [ReportedSent(A)]
    assert world.cloud.reported[A].values == {"is": 4}


def test_what_the_cloud_refuses_of_a_twin_is_told_with_its_status(world: LinkWorld) -> None:
    world.cloud.failures[A].append(THROTTLED)
    ask(world, FetchTwin(A))

    assert world.told(TWINS, CloudRefused) == [CloudRefused(A, 429, THROTTLED.reason)]


def test_without_a_link_twins_are_refused_at_once(world: LinkWorld) -> None:
    world.cloud.go_away()
    world.system.run()
    ask(world, FetchTwin(A))

    [refused] = world.told(TWINS, CloudRefused)
    assert (refused.identity, refused.status) == (A, 0)
    assert refused.reason


def test_a_request_for_a_twin_outlives_the_connection_it_was_asked_over(world: LinkWorld) -> None:
    world.cloud.hold()
    ask(world, FetchTwin(A))
    world.cloud.cut(A)
    world.cloud.release()
    world.system.advance(SOON_S)

    assert len(world.told(TWINS, CloudTwin)) == 1


def test_patches_of_the_cloud_come_to_the_twins_with_their_version(world: LinkWorld) -> None:
    world.tell(UP, ClientChanged(A, ("DESIRED_PROPERTIES",)), HEAD)
    world.cloud.patch_desired(A, {"rate": 5})
    world.system.run()

    [told] = world.told(TWINS, DesiredChanged)
    assert (told.identity, told.version) == (A, world.cloud.desired[A].version)
    assert b'"rate"' in told.patch


def test_what_was_patched_before_a_client_wanted_patches_is_fetched(world: LinkWorld) -> None:
    world.cloud.hold()
    ask(world, FetchTwin(A))  # is answered with what was before the patch, and heard before the wish

    world.tell(UP, ClientChanged(A, ("DESIRED_PROPERTIES",)), HEAD)

    assert world.told(TWINS, DesiredFollowed) == [DesiredFollowed(A)]


def test_what_was_patched_while_one_connection_was_away_is_fetched(world: LinkWorld) -> None:
    world.tell(UP, ClientChanged(A, ("DESIRED_PROPERTIES",)), HEAD)
    world.tell(UP, ClientChanged(B, ("METHODS",)), HEAD)
    world.system.run()
    world.letters(TWINS)

    for identity in (A, B):
        world.cloud.cut(identity)
    world.system.advance(SOON_S)

    assert world.told(TWINS, DesiredFollowed) == [DesiredFollowed(A)]


def test_a_twin_that_is_yet_to_be_fetched_is_not_fetched_twice(world: LinkWorld) -> None:
    world.system.run()
    world.system.bus.send(UP, ClientChanged(A, ("DESIRED_PROPERTIES",)), sender=HEAD)
    ask(world, FetchTwin(A))

    assert len(world.told(TWINS, CloudTwin)) == 1
    assert world.told(TWINS, DesiredFollowed) == []


# methods


@pytest.mark.parametrize(
    ("answer", "status", "payload"),
    [
        (MethodResult(201, b'{"a":1}'), 201, b'{"a":1}'),
        (MethodResult(200, b""), 200, b"null"),
        (MethodFailed(404, "not connected"), 404, b'{"message":"not connected"}'),
        (MethodFailed(504, "took too long"), 504, b'{"message":"took too long"}'),
    ],
    ids=["answered", "without payload", "not there", "too late"],
)
def test_a_method_of_the_cloud_is_answered_with_what_the_client_said(
    world: LinkWorld, answer: object, status: int, payload: bytes
) -> None:
    world.tell(UP, ClientChanged(A, ("METHODS",)), HEAD)
    request_id = world.cloud.call_method(A, "reset", b'{"hard":true}')
    world.system.run()
    [letter] = [one for one in world.letters(METHODS) if one.kind == InvokeMethod.__name__]
    asked = message_in(letter)
    world.tell(UP, answer, METHODS, letter.correlation_id)

    assert (asked.identity, asked.name, asked.payload) == (A, "reset", b'{"hard":true}')
    assert world.cloud.answers[request_id] == (status, payload)


def test_the_model_of_a_client_is_announced_to_the_cloud(world: LinkWorld) -> None:
    world.tell(UP, ClientChanged(A, ("METHODS",)), HEAD)
    world.tell(UP, ClientChanged(A, ("METHODS",), "dtmi:example:pump;1"), HEAD)
    world.system.advance(SOON_S)
    world.tell(UP, ClientChanged(A, ("METHODS", "DESIRED_PROPERTIES"), "dtmi:example:pump;1"), HEAD)

    assert world.cloud.access[A].model_id == "dtmi:example:pump;1"
    assert world.cloud.opened.count(A) == 2


def test_a_client_that_has_gone_is_not_listened_for_any_more(world: LinkWorld) -> None:
    world.tell(UP, ClientChanged(A, ("METHODS", "DESIRED_PROPERTIES")), HEAD)
    connected = list(world.cloud.connections)
    world.tell(UP, ClientGone(A), HEAD)
    wanted = world.cloud.connections[A].wanted
    world.system.advance(LINGER_S + 2.0)

    assert connected == [OWN, A]
    assert wanted == frozenset()
    assert list(world.cloud.connections) == [OWN]


def test_an_idle_connection_is_closed_in_its_time() -> None:
    world = LinkWorld(LinkLimits(idle_s=100.0))
    world.tell(UP, ClientChanged(A, ()), HEAD)
    world.publish(A, b"1")
    world.system.advance(90.0)
    early = list(world.cloud.connections)
    world.system.advance(60.0)

    assert early == [OWN, A]
    assert list(world.cloud.connections) == [OWN]


# restarts


def test_a_restart_of_the_store_under_way_loses_and_reorders_nothing(world: LinkWorld) -> None:
    world.cloud.hold()
    world.publish(A, b"1", b"2")
    world.system.advance(SOON_S)
    world.turn(STORE, Append("x", None, 0, (), ()), sender=HEAD)  # type: ignore[arg-type]
    world.publish(A, b"3")
    world.cloud.release()
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]
    assert len(world.told("test", ActorRestarted)) == 1
    assert world.ledger() == EndpointLedger(accepted=3, delivered=3)


def test_its_own_restart_loses_and_reorders_nothing(world: LinkWorld) -> None:
    world.cloud.hold()
    world.publish(A, b"1", b"2")
    world.system.advance(SOON_S)
    world.turn(UP, ClientChanged(None, 7), sender=HEAD)  # type: ignore[arg-type]
    world.cloud.release()
    world.publish(A, b"3")
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1", b"2", b"3"]
    assert len(world.told("test", ActorRestarted)) == 1


def test_what_the_store_sent_for_an_attachment_before_is_not_taken_for_this_one(world: LinkWorld) -> None:
    world.publish(A, b"1")
    world.system.advance(SOON_S)
    stale = (1, (HEADER,), ((0, b"stale"),))
    world.tell(UP, Ready(upstream_queue(A), 1, (stale,)), STORE)
    world.system.advance(SOON_S)

    assert world.cloud.bodies(A) == [b"1"]


def test_properties_go_along(world: LinkWorld) -> None:
    header = encode_header("/messages/", {"level": "high"}, {"messageId": "m1", "connectionDeviceId": DEVICE})
    world.publish(A, b"1", header=header)
    world.system.advance(SOON_S)

    [(_, message)] = world.cloud.messages
    assert message.properties == {"level": "high"}
    assert message.system_properties["messageId"] == "m1"
