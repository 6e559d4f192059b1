"""CONNECT at the MQTT head: who gets which CONNACK, and when a connection ends. Real bytes, virtual time."""

from __future__ import annotations

import logging

import pytest

from actors.heads.connected_clients import GIVE_WAY_LIMIT_S
from actors.heads.mqtt_sessions import MOST_FILTERS
from actors.hub.client_services import ClientGone, GaveWay, GiveWay
from actors.hub.identities import AGENT_LIMIT_S
from actors.hub.identity_messages import Authenticate, IdentityRevoked
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.store.messages import DeleteSession, SaveSession
from messaging.envelope import Secret
from messaging.lifecycle import RequestFailed
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tests.actors.head_world import (
    HEAD,
    IDENTITIES,
    METHODS,
    OTHER_HEAD,
    STORE,
    HeadWorld,
    connect_packet,
    publish_packet,
)
from tests.fakes.transport import MemoryClient


def connack(code: int, session_present: bool = False) -> bytes:
    return bytes((0x20, 2, session_present, code))


@pytest.fixture
def world() -> HeadWorld:
    return HeadWorld()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_client_is_accepted_when_the_identities_say_so(world: HeadWorld) -> None:
    client = world.open(connect_packet("edge1/sensor"))
    before = client.received_bytes()

    asked = world.judge()

    assert (before, asked) == (b"", ["edge1/sensor"])
    assert client.received_bytes() == connack(0)
    assert world.described(HEAD)["clients"] == ("edge1/sensor",)


LEGACY = "h/D/M/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003"


@pytest.mark.parametrize(
    ("user_name", "client_id"),
    [
        pytest.param("h/D/?api-version=2021-04-12&DeviceClientType=x&model-id=dtmi:a;1", "D", id="device"),
        pytest.param("h/D/M/?api-version=V", "D/M", id="module"),
        pytest.param("h/D/M/api-version=V", "D/M", id="module, no question mark"),
        pytest.param(LEGACY, "D/M", id="the SDK of 2017"),
    ],
)
def test_user_names_that_are_understood(world: HeadWorld, user_name: str, client_id: str) -> None:
    """Source: hub-protocols.md section 8.4, rows 1 to 3."""
    world.open(connect_packet(client_id, user_name=user_name))

    assert world.judge() == [client_id]


@pytest.mark.parametrize(
    "user_name",
    [
        f"{LEGACY}/prodInfo",
        *("h/D", "h/D/M", "h?api-version=V", "h//?api-version=V", "h/D/M/?version=V", "h/D/M/api-version"),
        "h/D/M/DeviceClientType=x",
    ],
)
def test_a_user_name_that_is_not_understood_is_told_to_try_again(
    world: HeadWorld, user_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: hub-protocols.md section 8.4, rows 3 and 4."""
    client = world.open(connect_packet("D/M", user_name=user_name))

    assert (client.received_bytes(), client.closed) == (connack(3), True)
    [line] = warnings(caplog)
    assert "refused with CONNACK 3: user name " in line


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(connect_packet("D/X", user_name="h/D/M/?api-version=V"), "client id", id="other id"),
        pytest.param(connect_packet("d/M", user_name="h/D/M/?api-version=V"), "client id", id="other case"),
        pytest.param(connect_packet(password=None), "neither a password", id="no password"),
        pytest.param(connect_packet(password=b""), "neither a password", id="empty password"),
        pytest.param(Connect("D/M", True), "user name", id="no user name"),
        pytest.param(
            connect_packet("", clean_session=True, user_name="h/D/?api-version=V"), "id", id="no id"
        ),
    ],
)
def test_what_can_never_be_accepted_is_refused_for_good(
    world: HeadWorld, packet: Connect, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: hub-protocols.md section 8.4, rows 5 and 6."""
    client = world.open(packet)

    assert (client.received_bytes(), client.closed) == (connack(5), True)
    [line] = warnings(caplog)
    assert "refused with CONNACK 5" in line
    assert reason in line


CERTIFICATES = (b"own", b"issuer")


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        pytest.param(None, Authenticate("edge1/sensor", Secret(b""), CERTIFICATES), id="certificate alone"),
        pytest.param(b"", Authenticate("edge1/sensor", Secret(b""), CERTIFICATES), id="empty password"),
        pytest.param(b"token", Authenticate("edge1/sensor", Secret(b"token")), id="the password wins"),
    ],
)
def test_a_password_wins_over_a_certificate(
    world: HeadWorld, password: bytes | None, expected: Authenticate
) -> None:
    """Source: hub-protocols.md section 5.5."""
    client = world.open(connect_packet(password=password), certificates=CERTIFICATES)

    assert world.told(IDENTITIES, Authenticate) == [expected]
    assert not client.closed


def test_row_6_a_certificate_while_they_are_switched_off_is_refused_for_good(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = HeadWorld(environment=HubEnvironment(client_cert_auth_enabled=False))

    client = world.open(connect_packet(password=None), certificates=CERTIFICATES)

    assert (client.received_bytes(), client.closed) == (connack(5), True)
    assert "ClientCertAuthEnabled of edgeHub is false" in warnings(caplog)[0]
    assert world.connect().closed is False  # with a token


def test_row_56_one_client_more_than_allowed_is_told_to_try_again_until_one_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Source: hub-protocols.md section 8.4, row 56."""
    world = HeadWorld(environment=HubEnvironment(max_connected_clients=100))
    clients = [world.connect(f"d{number}") for number in range(100)]

    late = world.open(connect_packet("late"))
    world.judge()
    again = world.connect("d0")  # the same identity takes the place that it has
    clients[1].lose()
    world.system.run()

    assert (late.received_bytes(), late.closed) == (connack(3), True)
    assert "100 clients are connected, as many as MaxConnectedClients allows" in "".join(warnings(caplog))
    assert not again.closed
    assert not world.connect("late").closed


def test_without_a_setting_more_than_a_thousand_clients_are_served(world: HeadWorld) -> None:
    clients = [world.connect(f"d{number}") for number in range(1_100)]

    assert not any(client.closed for client in clients)


def test_a_connection_ends_when_its_token_has_expired_and_not_before(
    world: HeadWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: hub-protocols.md section 5.6. A timer for each is better than a sweep every five minutes."""
    other = world.connect("edge1/other", keep_alive_s=0)
    client = world.open(connect_packet(keep_alive_s=0))
    world.judge(ends_s=world.clock.now_s() + 360)
    world.system.advance(359.0)
    before = client.closed

    world.system.advance(2.0)

    assert (before, client.closed, other.closed) == (False, True, False)
    assert warnings(caplog)[-1].startswith("edge1/sensor: what it proved itself with has expired")


def test_a_new_token_on_a_new_connection_goes_on_where_the_old_one_ends(world: HeadWorld) -> None:
    """As all SDKs renew: DISCONNECT, CONNECT."""
    client = world.open(connect_packet(keep_alive_s=0))
    world.judge(ends_s=world.clock.now_s() + 60)
    client.send(Disconnect())
    renewed = world.open(connect_packet(keep_alive_s=0))
    world.judge(ends_s=world.clock.now_s() + 120)

    world.system.advance(100.0)
    alive = not renewed.closed
    world.system.advance(30.0)

    assert (alive, renewed.closed) == (True, True)


@pytest.mark.parametrize("code", [3, 5])
def test_the_verdict_decides_on_the_return_code_and_its_reason_is_logged(
    world: HeadWorld, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.open(connect_packet())

    world.judge(code, "token of 'edge1/sensor' expired 400 s ago")

    assert (client.received_bytes(), client.closed) == (connack(code), True)
    assert warnings(caplog) == [
        f"{client.transport.peer} as 'edge1/sensor': refused with CONNACK {code}: "
        "token of 'edge1/sensor' expired 400 s ago"
    ]


def test_identities_that_do_not_answer_mean_try_again_and_not_never(world: HeadWorld) -> None:
    client = world.open(connect_packet())

    world.system.advance(AGENT_LIMIT_S)
    before = client.received_bytes()
    world.system.advance(3.0)

    assert before == b""
    assert (client.received_bytes(), client.closed) == (connack(3), True)


def test_identities_that_fail_mean_try_again_and_not_never(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 7."""
    client = world.open(connect_packet())
    [asked] = world.letters(IDENTITIES)[-1:]

    world.tell(HEAD, RequestFailed("Authenticate", IDENTITIES, "boom"), IDENTITIES, asked.correlation_id)

    assert (client.received_bytes(), client.closed) == (connack(3), True)


def test_a_client_that_left_before_its_verdict_is_forgotten(world: HeadWorld) -> None:
    client = world.open(connect_packet())
    client.lose()

    world.judge()

    assert client.received_bytes() == b""
    assert world.described(HEAD)["clients"] == ()


MQISDP = bytes.fromhex("10 10 00 06") + b"MQIsdp" + bytes.fromhex("03 02 00 3c 00 02") + b"id"
LEVEL_5 = bytes.fromhex("10 0e 00 04") + b"MQTT" + bytes.fromhex("05 02 00 3c 00 02") + b"id"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        pytest.param(MQISDP, b"", id="MQIsdp"),
        pytest.param(LEVEL_5, connack(1), id="level 5"),
        pytest.param(Subscribe(1, (("a", 1),)).encode(), b"", id="first packet is SUBSCRIBE"),
        pytest.param(publish_packet(1).encode(), b"", id="first packet is PUBLISH"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"", id="TLS where there is none"),
        pytest.param(b"\x00", b"", id="a reserved packet type"),
        pytest.param(b"\x10\xff\xff\xff\xff", b"", id="a length of five bytes"),
        pytest.param(b"\x10\xff\xff\x7f", b"", id="a CONNECT of 2 MB announced"),
    ],
)
def test_what_is_not_mqtt_3_1_1_ends_with_one_log_line(
    world: HeadWorld, data: bytes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: hub-protocols.md section 1.1 and section 8.4, row 8."""
    client = world.open()

    client.send_bytes(data)
    client.lose()

    assert (client.received_bytes(), client.closed) == (answer, True)
    [line] = warnings(caplog)
    assert line.startswith(f"{client.transport.peer}: broke the protocol: ")


def test_a_second_connect_ends_the_connection(world: HeadWorld) -> None:
    client = world.connect()

    client.send_bytes(connect_packet().encode())

    assert (client.received_bytes(), client.closed) == (b"", True)
    assert world.described(HEAD)["connections"] == 0


def test_packets_behind_connect_are_handled_after_it(world: HeadWorld) -> None:
    client = world.open(connect_packet(), PingReq(), publish_packet(1, b"early"))
    before = (client.received(), world.messages())

    world.judge()

    assert before == ([], [])
    assert client.received() == [ConnAck(ReturnCode.ACCEPTED), PingResp()]
    assert [message.body for message in world.messages()] == [b"early"]


def test_more_than_4096_bytes_before_the_verdict_are_refused(world: HeadWorld) -> None:
    client = world.open(connect_packet())

    client.send_bytes(b"x" * 5000)

    assert client.closed


def test_bytes_one_by_one_are_the_same_as_all_at_once(world: HeadWorld) -> None:
    client = world.open()
    for byte in connect_packet().encode():
        client.send_bytes(bytes((byte,)))
    world.system.run()

    assert world.judge() == ["edge1/sensor"]
    assert client.received_bytes() == connack(0)


def test_a_client_id_with_a_line_break_cannot_forge_a_log_line(
    world: HeadWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.open(connect_packet("x\n2026-01-01 INFO all is well", user_name="h/D/?api-version=V"))

    assert all("\n" not in line for line in warnings(caplog))


@pytest.mark.parametrize("data", [b"", connect_packet().encode()[:20]], ids=["silence", "half a CONNECT"])
def test_without_a_whole_connect_the_connection_ends_after_a_while(
    world: HeadWorld, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.open()
    if data:
        client.send_bytes(data)

    world.system.advance(DEFAULTS.connect_arrival_timeout_s)
    before = client.closed
    world.system.advance(2.0)

    assert (before, client.closed) == (False, True)
    assert warnings(caplog) == [f"{client.transport.peer}: no CONNECT within 5 s"]


@pytest.mark.parametrize(
    ("keep_alive_s", "limit_s"),
    [
        (10, 15.0),
        (60, 90.0),
        (0, DEFAULTS.max_keep_alive_timeout_s),
        (60_000, DEFAULTS.max_keep_alive_timeout_s),
    ],
)
def test_a_silent_client_is_closed_after_one_and_a_half_times_its_keep_alive(
    world: HeadWorld, keep_alive_s: int, limit_s: float
) -> None:
    """Source: hub-protocols.md section 8.4, row 28."""
    client = world.connect(keep_alive_s=keep_alive_s)

    world.system.advance(limit_s - 2)
    world.send(client, PingReq())
    world.system.advance(limit_s - 1)
    before = client.closed
    world.system.advance(3.0)

    assert (before, client.closed) == (False, True)


def test_the_second_connection_of_an_identity_ends_the_first(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 27."""
    older = world.connect()
    newer = world.connect()
    world.send(newer, PingReq())

    assert (older.closed, newer.received()) == (True, [PingResp()])
    assert world.described(HEAD)["clients"] == ("edge1/sensor",)


def test_a_connection_that_is_not_proven_does_not_end_another(world: HeadWorld) -> None:
    client = world.connect()

    world.open(connect_packet())
    world.judge(5, "token of 'edge1/sensor' is signed with a key that is not the identity's")

    assert not client.closed


def test_a_revoked_identity_is_disconnected(world: HeadWorld) -> None:
    client, other = world.connect("edge1/sensor"), world.connect("leaf")

    world.tell(HEAD, IdentityRevoked("edge1/sensor"), IDENTITIES)

    assert (client.closed, other.closed) == (True, False)


# sessions


SUBSCRIBE = Subscribe(7, (("devices/edge1/modules/sensor/#", 1),))


def test_subscribe_is_acknowledged_when_the_session_is_on_disk(world: HeadWorld) -> None:
    client = world.connect()

    world.send(client, Subscribe(7, (("a", 2), ("b", 0), ("a/#", 1))))
    before = client.received()
    saved = world.save_sessions()

    assert before == []
    assert saved == [SaveSession("edge1/sensor", (("a", 1), ("b", 0), ("a/#", 1)))]
    assert client.received() == [SubAck(7, (1, 0, 1))]


def test_unsubscribe_is_acknowledged_when_the_session_is_on_disk(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, Subscribe(7, (("a", 1), ("b", 0))))
    world.save_sessions()
    client.received()

    world.send(client, Unsubscribe(8, ("a", "never there")))
    before = client.received()
    saved = world.save_sessions()

    assert (before, saved) == ([], [SaveSession("edge1/sensor", (("b", 0),))])
    assert client.received() == [UnsubAck(8)]


def test_the_session_is_there_when_the_client_comes_back_without_subscribing(world: HeadWorld) -> None:
    client = world.connect()
    world.send(client, SUBSCRIBE)
    world.save_sessions()
    client.lose()

    again = world.open(connect_packet())
    world.judge()

    assert again.received_bytes() == connack(0, session_present=True)


def test_the_session_is_there_after_a_restart_of_the_hub() -> None:
    world = HeadWorld(sessions={"edge1/sensor": (("a", 1),)})

    client = world.open(connect_packet())
    world.judge()

    assert client.received_bytes() == connack(0, session_present=True)


def test_a_clean_session_deletes_what_was_stored_and_stores_nothing(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 9."""
    client = world.connect()
    world.send(client, SUBSCRIBE)
    world.save_sessions()
    client.lose()

    clean = world.open(connect_packet(clean_session=True))
    world.judge()
    world.send(clean, SUBSCRIBE)
    answers = clean.received_bytes()
    clean.lose()
    later = world.open(connect_packet())
    world.judge()

    assert answers == connack(0) + SubAck(7, (1,)).encode()
    assert world.told(STORE, DeleteSession) == [DeleteSession("edge1/sensor")]
    assert world.save_sessions() == []
    assert later.received_bytes() == connack(0)


def test_a_session_that_cannot_be_stored_ends_the_connection_and_is_not_taken_for_stored(
    world: HeadWorld,
) -> None:
    """The client repeats its SUBSCRIBE once, and then never again: it must be on disk by then."""
    client = world.connect()
    world.send(client, SUBSCRIBE)
    [save] = [letter for letter in world.letters(STORE) if letter.kind == "SaveSession"]
    world.tell(HEAD, RequestFailed("SaveSession", STORE, "disk full"), STORE, save.correlation_id)

    again = world.connect()
    world.send(again, SUBSCRIBE)
    before = again.received()
    saved = world.save_sessions()

    assert (client.received_bytes(), client.closed) == (b"", True)
    assert (before, len(saved), again.received()) == ([], 1, [SubAck(7, (1,))])


def test_a_filter_that_is_not_valid_ends_the_connection(world: HeadWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 14."""
    client = world.connect()

    client.send_bytes(bytes.fromhex("82 0a 00 01 00 05") + b"a/#/b" + b"\x01")

    assert client.closed


def test_too_many_filters_end_the_connection_and_leave_nothing_behind(world: HeadWorld) -> None:
    client = world.connect()
    many = Subscribe(1, tuple((f"a/{n}", 1) for n in range(MOST_FILTERS + 1)))

    world.send(client, publish_packet(2), many, publish_packet(3))

    assert client.closed
    assert world.messages() == []
    assert world.described(HEAD)["unanswered_bytes"] == 0


# wills


WILL = Will("devices/edge1/modules/sensor/messages/events/a=b", b"gone", 1)


def lost(world: HeadWorld, client: MemoryClient) -> None:
    client.lose()


def silent(world: HeadWorld, client: MemoryClient) -> None:
    world.system.advance(100.0)


def taken_over(world: HeadWorld, client: MemoryClient) -> None:
    world.connect()


def protocol_broken(world: HeadWorld, client: MemoryClient) -> None:
    client.send_bytes(b"\x00")


@pytest.mark.parametrize("end", [lost, silent, taken_over, protocol_broken])
def test_the_will_of_a_client_that_goes_without_disconnect_is_published(world: HeadWorld, end) -> None:  # type: ignore[no-untyped-def]
    """Source: hub-protocols.md section 8.4, row 26."""
    client = world.connect(will=WILL)

    end(world, client)
    world.system.run()

    [will] = world.messages()
    assert (will.body, dict(will.properties)) == (b"gone", {"a": "b", "MessageType": "Will"})
    assert will.system_properties["connectionModuleId"] == "sensor"


def test_a_will_comes_behind_what_was_published(world: HeadWorld) -> None:
    client = world.connect(will=WILL)
    world.send(client, publish_packet(1, b"first"))
    client.lose()
    world.system.run()

    published = [publish for _, publish in world.published()]

    assert [(publish.index, publish.entries[0][1]) for publish in published] == [(0, b"first"), (1, b"gone")]


def test_the_will_of_a_client_that_says_goodbye_or_was_never_accepted_is_not_published(
    world: HeadWorld,
) -> None:
    polite = world.connect(will=WILL)
    world.send(polite, Disconnect())
    refused = world.open(connect_packet(will=WILL))
    world.judge(5, "no")
    revoked = world.connect(will=WILL)
    world.tell(HEAD, IdentityRevoked("edge1/sensor"), IDENTITIES)

    assert (polite.closed, refused.closed, revoked.closed) == (True, True, True)
    assert world.messages() == []


@pytest.mark.parametrize("topic", ["devices/other/messages/events/", "a/b", "$iothub/twin/foo"])
def test_a_will_on_any_other_topic_is_dropped(
    world: HeadWorld, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.connect(will=Will(topic, b"gone"))

    client.lose()
    world.system.run()

    assert world.messages() == []
    assert [line for line in warnings(caplog) if "its will is dropped" in line]


# another head


def test_another_head_gives_way_before_connack(world: HeadWorld) -> None:
    world.connected.came("edge1/sensor", OTHER_HEAD)
    client = world.open(connect_packet())
    world.judge()

    [letter] = [letter for letter in world.letters(OTHER_HEAD) if letter.kind == GiveWay.__name__]
    assert client.received() == []
    world.connected.went("edge1/sensor", OTHER_HEAD)
    world.tell(HEAD, GaveWay("edge1/sensor"), OTHER_HEAD, letter.correlation_id)
    world.judge()

    assert client.received() == [ConnAck(ReturnCode.ACCEPTED, False)]
    assert world.connected.head_of("edge1/sensor") == HEAD


def test_a_head_that_has_not_heard_is_asked_again_and_does_not_count_when_it_starts(world: HeadWorld) -> None:
    world.connected.came("edge1/sensor", OTHER_HEAD)
    client = world.open(connect_packet())
    world.judge()

    world.system.advance(GIVE_WAY_LIMIT_S + 0.1)
    world.judge()
    assert len(world.told(OTHER_HEAD, GiveWay)) == 2
    world.connected.head_started(OTHER_HEAD, world.clock.monotonic_s())
    world.system.advance(GIVE_WAY_LIMIT_S + 0.1)
    world.judge()

    assert len(client.received()) == 1


def test_this_head_gives_way_when_everybody_has_been_told(world: HeadWorld) -> None:
    client = world.connect()
    world.letters(METHODS)

    world.tell(HEAD, GiveWay("edge1/sensor"), OTHER_HEAD, 7)

    assert client.closed
    assert world.told(METHODS, ClientGone) == [ClientGone("edge1/sensor")]
    letters = world.letters(OTHER_HEAD)
    assert [(letter.kind, letter.correlation_id) for letter in letters] == [(GaveWay.__name__, 7)]
    assert world.connected.head_of("edge1/sensor") == ""


def test_clients_of_another_head_count_against_the_limit() -> None:
    world = HeadWorld(environment=HubEnvironment(max_connected_clients=1))
    world.connected.came("leaf", OTHER_HEAD)

    client = world.open(connect_packet())
    world.judge()

    assert client.received() == [ConnAck(ReturnCode(3), False)]


def test_an_identity_that_is_revoked_while_another_head_gives_way_does_not_connect(world: HeadWorld) -> None:
    world.connected.came("edge1/sensor", OTHER_HEAD)
    client = world.open(connect_packet())
    world.judge()
    [letter] = [letter for letter in world.letters(OTHER_HEAD) if letter.kind == GiveWay.__name__]

    world.tell(HEAD, IdentityRevoked("edge1/sensor"), IDENTITIES)
    world.connected.went("edge1/sensor", OTHER_HEAD)
    world.tell(HEAD, GaveWay("edge1/sensor"), OTHER_HEAD, letter.correlation_id)
    world.judge(5)

    assert client.received() == [ConnAck(ReturnCode(5), False)]
