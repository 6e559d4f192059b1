"""Who may do what on an AMQP connection: tokens, links, several identities, take-overs, strangers, ends.

Source: hub-protocols.md sections 3.1 to 3.3, 5.6 and 8.4
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.heads.amqp_head import MOST_STRANGER_BYTES
from actors.heads.amqp_patience import LINKLESS_LIMIT_S, STRANGER_LIMIT_S
from actors.hub.client_services import (
    ClientChanged,
    ClientGone,
    ForgetIdentity,
    ForgetTwin,
    GaveWay,
    GiveWay,
    HeadStarted,
    IdentityForgotten,
    TwinForgotten,
)
from actors.hub.identity_messages import ACCEPTED, NOT_AUTHORIZED, TRY_AGAIN, IdentityRevoked, Verdict
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.store.messages import ForgetClient, SessionSaved, Stored
from messaging.amqp.addresses import LinkKind
from messaging.amqp.codec import AmqpMessage, encode
from messaging.amqp.events import Ended, LinkAttached, LinkDetached, Received
from messaging.amqp.link import RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import ClientSasl
from messaging.envelope import Secret
from messaging.lifecycle import ActorRestarted
from tests.actors.amqp_world import (
    CLOUD,
    HEAD,
    HUB_CLIENT,
    IDENTITIES,
    LEAF,
    METHODS,
    OTHER_HEAD,
    SENSOR,
    STORE,
    TWINS,
    AmqpPeer,
    AmqpWorld,
    text,
)

UNAUTHORIZED = "amqp:unauthorized-access"
FORCED = "amqp:link:detach-forced"


def environment(**changed: Any) -> HubEnvironment:
    return msgspec.structs.replace(DEFAULTS, **changed)


def attach_and_judge(world: AmqpWorld, peer: AmqpPeer, code: int, who: str = SENSOR) -> None:
    peer.attach(LinkKind.EVENTS, who)
    world.judge(code, "for a reason")


# proofs


@pytest.mark.parametrize(
    ("code", "condition"),
    [(NOT_AUTHORIZED, UNAUTHORIZED), (TRY_AGAIN, "com.microsoft:timeout")],
    ids=["for good", "for now"],
)
def test_a_link_is_refused_by_the_verdict_and_the_token_was_not(code: int, condition: str) -> None:
    world = AmqpWorld()
    peer = world.open()
    assert peer.put_token(SENSOR).application_properties["status-code"] == 200
    world.judge(code)

    attach_and_judge(world, peer, code)

    assert [one for _, one in peer.detached()] == [condition]
    assert peer.ended() is None


def test_who_shows_nothing_is_refused_without_a_question() -> None:
    world = AmqpWorld()
    peer = world.open()

    peer.attach(LinkKind.EVENTS)

    assert [one for _, one in peer.detached()] == [UNAUTHORIZED]
    assert world.questions() == []


def test_a_token_of_another_identity_proves_nothing() -> None:
    world = AmqpWorld()
    peer = world.connect(LEAF)

    peer.attach(LinkKind.EVENTS, SENSOR)

    assert [one for _, one in peer.detached()] == [UNAUTHORIZED]


def test_the_token_of_a_device_is_asked_about_for_its_module() -> None:
    world = AmqpWorld()
    peer = world.open()
    peer.put_token("edge1")
    world.questions()

    peer.attach(LinkKind.EVENTS, SENSOR)

    assert [letter.body[0] for letter in world.questions()] == [SENSOR]


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/devices/edge1/unknown", LinkKind.EVENTS),
        ("/devices/edge1/messages/devicebound", LinkKind.EVENTS),
        ("/devices/leaf/messages/events", LinkKind.INPUTS),
        ("/devices/le%2Faf/messages/events", LinkKind.EVENTS),
        ("", LinkKind.EVENTS),
        ("x" * 3000, LinkKind.EVENTS),
    ],
    ids=["unknown", "sent to", "received from", "no id", "none", "long"],
)
def test_an_address_that_there_is_not_is_not_allowed(address: str, kind: LinkKind) -> None:
    world = AmqpWorld()
    peer = world.connect()

    peer.attach(kind, address=address or "\0")

    assert [one for _, one in peer.detached()] == ["amqp:not-allowed"]


@pytest.mark.parametrize("address", ["/Devices/Edge1/Modules/x", "amqps://h/devices/edge1/modules/sensor"])
def test_words_of_an_address_may_have_any_case_and_a_host_in_front(address: str) -> None:
    world = AmqpWorld()
    peer = world.connect()

    peer.attach(LinkKind.EVENTS, address=f"{address}/Messages/events")

    world.judge()
    attached = bool(peer.of(LinkAttached)) and not peer.detached()
    assert attached == ("sensor" in address)  # ids are not of any case: `Edge1/x` has shown no token


def test_a_certificate_counts_when_no_token_was_shown() -> None:
    world = AmqpWorld()
    peer = world.open(certificates=(b"own", b"issuer"))

    peer.attach(LinkKind.EVENTS, LEAF)

    [letter] = world.questions()
    assert letter.body[0] == LEAF
    assert letter.body[2] == (b"own", b"issuer")


def test_a_token_wins_over_a_certificate() -> None:
    world = AmqpWorld()
    peer = world.connect(LEAF, certificates=(b"own",))

    peer.attach(LinkKind.EVENTS, LEAF)

    [letter] = world.questions()
    assert letter.body[1].reveal().startswith(b"SharedAccessSignature")
    assert letter.body[2] == ()


def test_certificates_can_be_switched_off() -> None:
    world = AmqpWorld(environment=environment(client_cert_auth_enabled=False))
    peer = world.open(certificates=(b"own",))

    peer.attach(LinkKind.EVENTS, LEAF)

    assert [one for _, one in peer.detached()] == [UNAUTHORIZED]


def test_the_hub_of_an_edge_below_speaks_for_its_clients() -> None:
    world = AmqpWorld()
    peer = world.open()
    peer.put_token("lower/$edgeHub")
    world.questions()

    peer.attach(LinkKind.EVENTS, LEAF, properties={"com.microsoft:auth-chain": "leaf;lower"})

    [letter] = world.questions()
    assert letter.body[0] == LEAF
    assert tuple(letter.body[3]) == ("leaf", "lower")


def test_links_that_were_asked_for_meanwhile_wait_for_the_same_verdict() -> None:
    world = AmqpWorld()
    peer = world.connect()
    links = [peer.attach(kind) for kind in (LinkKind.EVENTS, LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS)]

    assert world.judge() == [SENSOR]

    assert [event.link for event in peer.of(LinkAttached)] == links


# SASL


@pytest.mark.parametrize(
    "sasl", [None, ClientSasl(), ClientSasl("MSSBCBS")], ids=["none", "ANONYMOUS", "MSSBCBS"]
)
def test_a_client_may_come_with_any_of_these_and_shows_its_token_later(sasl: ClientSasl | None) -> None:
    world = AmqpWorld()

    peer = world.connect(sasl=sasl)

    world.link(peer, LinkKind.EVENTS)


@pytest.mark.parametrize(("code", "is_open"), [(ACCEPTED, True), (NOT_AUTHORIZED, False), (TRY_AGAIN, False)])
def test_sasl_plain_has_the_token_for_a_password(code: int, is_open: bool) -> None:
    world = AmqpWorld()
    peer = world.open(sasl=ClientSasl("PLAIN", "edge1/modules/sensor@sas.iothub", Secret(b"a token")))
    [letter] = world.questions()
    assert (letter.body[0], letter.body[1].reveal()) == (SENSOR, b"a token")

    ends_s = world.clock.now_s() + 100
    world.tell(HEAD, Verdict(SENSOR, code, "", ends_s), IDENTITIES, letter.correlation_id)
    peer.go()

    assert peer.closed is not is_open
    if is_open:
        world.link(peer, LinkKind.EVENTS)


@pytest.mark.parametrize("user", ["nobody", "policy@sas.root.iothub", "@sas.iothub"])
def test_sasl_plain_is_for_devices_and_modules(user: str) -> None:
    world = AmqpWorld()

    peer = world.open(sasl=ClientSasl("PLAIN", user, Secret(b"a token")))

    assert world.questions() == []
    assert peer.closed


# renewal and the end of proofs


def test_an_expired_token_ends_its_identity_and_nobody_else() -> None:
    world = AmqpWorld()
    peer = world.connect()
    peer.put_token(LEAF)
    now_s = world.clock.now_s()
    sensor = peer.attach(LinkKind.EVENTS)
    world.judge(ends_s=now_s + 60)
    leaf = peer.attach(LinkKind.EVENTS, LEAF)
    world.judge(ends_s=now_s + 6000)

    world.system.advance(61)

    assert peer.detached() == [(sensor.address, UNAUTHORIZED)]
    peer.send(leaf, text("x"))
    assert [message.body for message in world.messages()] == [b"x"]
    assert not peer.closed


def test_the_last_identity_that_ends_takes_the_connection_with_it() -> None:
    world = AmqpWorld()
    peer = world.connect()
    peer.attach(LinkKind.EVENTS)
    world.judge(ends_s=world.clock.now_s() + 60)

    world.system.advance(61)

    ended = peer.ended()
    assert ended is not None
    assert ended.condition == UNAUTHORIZED
    assert peer.closed


def test_a_renewed_token_counts_and_links_stay() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = peer.attach(LinkKind.EVENTS)
    world.judge(ends_s=world.clock.now_s() + 60)
    world.system.advance(30)

    assert peer.put_token(SENSOR).application_properties["status-code"] == 200
    assert world.judge(ends_s=world.clock.now_s() + 600) == [SENSOR]
    world.system.advance(100)

    assert peer.detached() == []
    peer.send(link, text("x"))
    assert [message.body for message in world.messages()] == [b"x"]


@pytest.mark.parametrize(
    ("code", "conditions"), [(NOT_AUTHORIZED, [UNAUTHORIZED]), (TRY_AGAIN, [])], ids=["forged", "unknown"]
)
def test_a_renewal_that_is_refused_ends_the_links_when_that_is_final(
    code: int, conditions: list[str]
) -> None:
    world = AmqpWorld()
    peer = world.connect()
    world.link(peer, LinkKind.EVENTS)

    answer = peer.put_token(SENSOR)
    world.judge(code)

    assert answer.application_properties["status-code"] == 200
    assert [one for _, one in peer.detached()] == conditions


@pytest.mark.parametrize(
    "changes",
    [
        {"application_properties": {"operation": "get-token", "type": "x", "name": "n"}},
        {"value": b"bytes"},
        {"value": "no token"},
        {"is_value": False},
    ],
    ids=["operation", "bytes", "no token", "no value"],
)
def test_a_token_that_cannot_be_one_is_answered_with_400(changes: dict[str, Any]) -> None:
    world = AmqpWorld()

    answer = world.open().put_token(SENSOR, **changes)

    assert answer.application_properties["status-code"] == 400
    assert world.questions() == []


def test_the_answer_to_a_token_comes_behind_its_acceptance() -> None:
    """The C engine takes it for a failure otherwise."""
    world = AmqpWorld()
    peer = world.connect()
    assert peer.cbs_sender is not None
    written: list[bytes] = []
    peer.transport.write = written.append  # type: ignore[method-assign]
    request = AmqpMessage(message_id="1", application_properties={"operation": "x"})
    peer.cbs_sender.send(encode(request), b"t", settled=False)

    peer._handler.received(peer._known, peer.engine.data_to_send())

    assert len(written) == 2
    first, second = (peer.engine.receive_data(data) for data in written)
    assert [type(event).__name__ for event in first if type(event).__name__ == "Settled"] == ["Settled"]
    assert [type(event).__name__ for event in second if type(event).__name__ == "Received"] == ["Received"]


# links of one identity


def test_a_second_link_of_the_same_kind_takes_the_place_of_the_first() -> None:
    world = AmqpWorld()
    peer = world.connect()
    first = world.link(peer, LinkKind.EVENTS)

    second = world.link(peer, LinkKind.EVENTS)

    assert peer.detached() == [(first.address, FORCED)]
    peer.send(second, text("x"))
    assert len(world.published()) == 1


def test_a_pair_with_another_channel_takes_the_place_of_the_first() -> None:
    world = AmqpWorld()
    peer = world.connect()
    before = [world.link(peer, kind, channel="1") for kind in (LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS)]
    methods = world.link(peer, LinkKind.METHOD_CALLS, channel="1")

    world.link(peer, LinkKind.TWIN_REQUESTS, channel="2")

    assert {event.link for event in peer.of(LinkDetached)} == set(before)
    assert methods.is_open


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        (LinkKind.C2D, (SndSettleMode.UNSETTLED, RcvSettleMode.SECOND)),
        (LinkKind.INPUTS, (SndSettleMode.UNSETTLED, RcvSettleMode.FIRST)),
        (LinkKind.METHOD_CALLS, (SndSettleMode.SETTLED, RcvSettleMode.FIRST)),
    ],
)
def test_the_hub_says_how_a_link_is_settled(kind: LinkKind, modes: tuple[int, int]) -> None:
    world = AmqpWorld()
    who = LEAF if kind is LinkKind.C2D else SENSOR
    peer = world.connect(who)

    link = world.link(
        peer, kind, who, snd_settle_mode=SndSettleMode.SETTLED, rcv_settle_mode=RcvSettleMode.FIRST
    )

    assert (link.snd_settle_mode, link.rcv_settle_mode) == modes
    assert link.max_message_bytes == 1_048_576


def test_the_last_link_that_a_client_ends_closes_the_connection_soon() -> None:
    """Not at once: the Node SDK ends all its links and then the connection, and hangs when we are first."""
    world = AmqpWorld()
    peer = world.connect()
    peer.put_token(LEAF)
    links = [world.link(peer, LinkKind.EVENTS, who) for who in (SENSOR, LEAF)]

    links[0].detach()
    peer.go()
    assert peer.ended() is None
    links[1].detach()
    peer.go()
    assert peer.ended() is None
    world.system.advance(LINKLESS_LIMIT_S + 2)
    peer.go()

    ended = peer.ended()
    assert ended == Ended("", "", False)
    assert peer.closed


def test_a_client_that_ends_its_last_link_may_attach_another_one() -> None:
    world = AmqpWorld()
    peer = world.connect()
    peer.put_token(LEAF)
    world.link(peer, LinkKind.EVENTS, LEAF).detach()
    peer.go()

    link = world.link(peer, LinkKind.EVENTS, LEAF)
    world.system.advance(LINKLESS_LIMIT_S + 2)
    peer.go()

    assert peer.ended() is None
    assert link.is_open


def test_the_services_are_told_what_a_client_wants() -> None:
    world = AmqpWorld()
    for address in (TWINS, METHODS, CLOUD, HUB_CLIENT):
        assert world.told(address, HeadStarted) == [HeadStarted()]
    peer = world.connect()
    kinds = (LinkKind.EVENTS, LinkKind.METHOD_CALLS, LinkKind.TWIN_ANSWERS, LinkKind.INPUTS)

    links = [world.link(peer, kind) for kind in kinds]

    for address in (TWINS, METHODS, CLOUD, HUB_CLIENT):
        features = [one.features for one in world.told(address, ClientChanged)]
        assert features == [
            (),
            ("METHODS",),
            ("DESIRED_PROPERTIES", "METHODS"),
            ("DESIRED_PROPERTIES", "METHODS", "MODULE_MESSAGES"),
        ]
    links[1].detach()
    peer.go()
    assert [one.features for one in world.told(METHODS, ClientChanged)] == [
        ("DESIRED_PROPERTIES", "MODULE_MESSAGES")
    ]
    peer.lose()
    assert world.told(METHODS, ClientGone) == [ClientGone(SENSOR)]


# one identity, one connection


def test_a_second_connection_of_an_identity_ends_it_on_the_first() -> None:
    world = AmqpWorld()
    older = world.connect()
    older.put_token(LEAF)
    old_link = world.link(older, LinkKind.EVENTS)
    leaf = world.link(older, LinkKind.EVENTS, LEAF)
    newer = world.connect()

    link = world.link(newer, LinkKind.EVENTS)

    assert older.detached() == [(old_link.address, FORCED)]
    assert not older.closed  # somebody else is on it
    older.send(leaf, text("leaf"))
    newer.send(link, text("newer"))
    assert {message.body for message in world.messages()} == {b"leaf", b"newer"}


def test_the_older_connection_closes_when_nobody_else_is_on_it() -> None:
    world = AmqpWorld()
    older, newer = world.connect(), world.connect()
    world.link(older, LinkKind.EVENTS)

    world.link(newer, LinkKind.EVENTS)

    assert older.ended() is not None
    assert older.closed
    assert not newer.closed


def test_another_head_gives_way_before_an_identity_connects() -> None:
    world = AmqpWorld()
    world.connected.came(SENSOR, OTHER_HEAD)
    peer = world.connect()

    peer.attach(LinkKind.EVENTS)
    world.judge()

    [letter] = [letter for letter in world.letters(OTHER_HEAD) if letter.kind == GiveWay.__name__]
    assert peer.of(LinkAttached) == []
    world.connected.went(SENSOR, OTHER_HEAD)
    world.tell(HEAD, GaveWay(SENSOR), OTHER_HEAD, letter.correlation_id)
    assert world.judge() == [SENSOR]  # it may be another one by now
    assert len(peer.of(LinkAttached)) == 1
    assert world.connected.head_of(SENSOR) == HEAD


def test_this_head_gives_way_to_another_one() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    world.tell(HEAD, GiveWay(SENSOR), OTHER_HEAD, 7)

    letters = world.letters(OTHER_HEAD)
    assert [(letter.kind, letter.correlation_id) for letter in letters] == [(GaveWay.__name__, 7)]
    assert world.connected.head_of(SENSOR) == ""
    assert peer.detached() == [(link.address, FORCED)]
    assert peer.closed


def test_more_clients_than_allowed_are_refused_over_all_heads() -> None:
    world = AmqpWorld(environment=environment(max_connected_clients=2))
    world.connected.came("somebody", OTHER_HEAD)
    peer = world.connect()
    peer.put_token(LEAF)
    world.link(peer, LinkKind.EVENTS)

    peer.attach(LinkKind.EVENTS, LEAF)
    world.judge()

    assert [one for _, one in peer.detached()] == ["amqp:resource-limit-exceeded"]
    world.connected.went("somebody", OTHER_HEAD)
    world.link(peer, LinkKind.EVENTS, LEAF)


# identities that change


def test_a_revoked_identity_is_cut_off_and_others_stay() -> None:
    world = AmqpWorld()
    peer = world.connect()
    peer.put_token(LEAF)
    links = {who: world.link(peer, LinkKind.EVENTS, who) for who in (SENSOR, LEAF)}

    world.tell(HEAD, IdentityRevoked(LEAF), IDENTITIES)

    assert peer.detached() == [(links[LEAF].address, UNAUTHORIZED)]
    assert not peer.closed


def test_an_identity_that_is_gone_is_forgotten_on_disk_before_that_is_said() -> None:
    world = AmqpWorld()
    peer = world.connect(LEAF)
    world.link(peer, LinkKind.EVENTS, LEAF)

    world.tell(HEAD, ForgetIdentity(LEAF), IDENTITIES, 9)
    peer.go()

    assert peer.closed
    [store] = [letter for letter in world.letters(STORE) if letter.kind == ForgetClient.__name__]
    [twins] = [letter for letter in world.letters(TWINS) if letter.kind == ForgetTwin.__name__]
    world.tell(HEAD, SessionSaved(LEAF), STORE, store.correlation_id)
    assert not [one for one in world.letters(IDENTITIES) if one.kind == IdentityForgotten.__name__]
    world.tell(HEAD, TwinForgotten(LEAF), TWINS, twins.correlation_id)
    [said] = [one for one in world.letters(IDENTITIES) if one.kind == IdentityForgotten.__name__]
    assert said.correlation_id == 9


# strangers, and clients that do nothing


def test_who_does_not_say_who_he_is_is_cut_off_in_time() -> None:
    world = AmqpWorld()
    peer = world.open()

    world.system.advance(STRANGER_LIMIT_S - 2)
    peer.go()
    assert not peer.closed
    world.system.advance(4)
    peer.go()

    assert peer.closed


def test_whose_token_is_refused_is_a_stranger_still() -> None:
    world = AmqpWorld()
    peer = world.open()
    peer.put_token(SENSOR)
    world.judge(NOT_AUTHORIZED)

    world.system.advance(STRANGER_LIMIT_S + 2)
    peer.go()

    assert peer.closed
    assert not peer.transport.known


def test_who_has_shown_a_token_may_attach_his_links_later() -> None:
    world = AmqpWorld()
    peer = world.connect()

    world.system.advance(100)
    peer.go()

    assert peer.transport.known
    world.link(peer, LinkKind.EVENTS)


def test_who_has_shown_a_certificate_may_attach_his_links_later() -> None:
    world = AmqpWorld()
    peer = world.open(certificates=(b"own",))

    world.system.advance(100)
    peer.go()

    world.link(peer, LinkKind.EVENTS, LEAF)


def test_a_stranger_who_shows_one_bad_token_after_another_is_cut_off_all_the_same() -> None:
    world = AmqpWorld()
    peer = world.open()

    for _ in range(20):
        if peer.closed:
            break
        peer.put_token(SENSOR)
        world.judge(NOT_AUTHORIZED)
        world.system.advance(5)
        peer.go()

    assert peer.closed


def test_a_stranger_may_send_so_much_and_no_more() -> None:
    world = AmqpWorld()
    peer = world.open()

    for number in range(1000):
        if peer.closed:
            break
        peer.attach(LinkKind.EVENTS, f"device{number}")

    assert peer.closed
    assert number * 100 < 2 * MOST_STRANGER_BYTES


def test_a_silent_client_is_ended_and_one_with_heart_beats_is_not() -> None:
    world = AmqpWorld()
    silent, beating = world.connect(), world.connect(LEAF)
    world.link(silent, LinkKind.EVENTS)
    world.link(beating, LinkKind.EVENTS, LEAF)

    for _ in range(55):
        world.system.advance(10)
        beating.engine.tick(world.clock.monotonic_s())
        beating.go()

    assert silent.closed
    assert not beating.closed


def test_a_client_that_does_not_read_is_not_read_and_ends_after_a_while() -> None:
    world = AmqpWorld()
    peer = world.connect()
    world.link(peer, LinkKind.EVENTS)

    peer.stop_reading()

    assert not peer.transport.reading
    world.system.advance(300)
    assert peer.closed
    assert world.described(HEAD)["connections"] == 0


def test_what_comes_behind_the_end_of_a_link_is_not_taken_for_a_token() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    link.max_message_bytes = 0

    link.send(encode(AmqpMessage(body=b"x" * 1_100_000)), b"1", settled=False)
    link.send(encode(text("behind")), b"2", settled=False)

    assert len(peer.detached()) == 1
    assert peer.of(Received) == []
    assert world.published() == []


def test_an_offence_ends_its_connection_and_no_other() -> None:
    world = AmqpWorld()
    peer, other = world.connect(), world.connect(LEAF)
    link = world.link(other, LinkKind.EVENTS, LEAF)

    peer.send_bytes(b"\x00\x00\x00\x04\x02\x00\x00\x00")

    ended = peer.ended()
    assert ended is not None
    assert ended.condition.startswith("amqp:")
    assert peer.closed
    other.send(link, text("x"))
    assert len(world.published()) == 1


def test_a_head_that_restarts_ends_its_connections_and_serves_those_who_come_back() -> None:
    world = AmqpWorld()
    peer = world.connect()
    world.link(peer, LinkKind.EVENTS)

    world.tell(HEAD, Stored(5), STORE)  # type: ignore[arg-type]
    world.answer_start()

    ended = peer.ended()
    assert ended is not None
    assert ended.condition == "amqp:connection:forced"
    assert len(world.told("test", ActorRestarted)) == 1
    world.link(world.connect(), LinkKind.EVENTS)


@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_whatever_bytes_come_the_head_goes_on(parts: list[bytes], logged_in: bool) -> None:
    world = AmqpWorld()
    peer, other = world.connect() if logged_in else world.open(), world.connect(LEAF)
    link = world.link(other, LinkKind.EVENTS, LEAF)
    if logged_in:
        world.link(peer, LinkKind.EVENTS)

    for data in parts:
        if not peer.closed:
            peer.send_bytes(data)
    other.send(link, text("x"))

    assert len(world.published()) == 1
    assert world.system.cells[HEAD].failures == 0
