"""CONNECT at the stand-in: who gets in, who is refused how, and what ends a connection later."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messaging.identity import Identity
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
)
from tests.runtime.iothub.mqtt_scene import HOST, Scene, events_topic, user_name

GOOD_NAME = user_name("d1")


def _connect(
    client_id: str = "d1", name: str | None = GOOD_NAME, password: bytes | None = b"my secret"
) -> Callable[[Scene], Connect]:
    return lambda scene: Connect(client_id, True, 60, name, password)


def _with_token(
    client_id: str = "d1", life_s: float = 3600, signed_by: str = ""
) -> Callable[[Scene], Connect]:
    def connect(scene: Scene) -> Connect:
        token = scene.token(client_id, life_s, signed_by).encode()
        return Connect("d1", True, 60, GOOD_NAME, token)

    return connect


def _disabled(scene: Scene) -> Connect:
    scene.run(scene.hub.put(Identity("d1"), {"status": "disabled"}, if_match="*"))
    return _with_token()(scene)


def _unknown(scene: Scene) -> Connect:
    return Connect("nobody", True, 60, user_name("nobody"), scene.token("nobody").encode())


@pytest.mark.parametrize(
    ("connect", "code"),
    [
        pytest.param(_with_token(signed_by="d2"), 5, id="signed with another device's key"),
        pytest.param(_with_token("d2"), 5, id="a token of another device"),
        pytest.param(_with_token(life_s=-400), 5, id="token expired before the skew that is allowed"),
        pytest.param(_unknown, 5, id="unknown device"),
        pytest.param(_disabled, 5, id="disabled device"),
        pytest.param(_connect(), 5, id="password is no token"),
        pytest.param(_connect(password=b"\xff\xfe"), 5, id="password is not UTF-8"),
        pytest.param(_connect(password=None), 5, id="neither password nor certificate"),
        pytest.param(_connect(name=None, password=None), 5, id="no user name"),
        pytest.param(_connect(client_id="d2"), 5, id="client id of another device"),
        pytest.param(_connect(client_id="D1"), 5, id="client id in other case"),
        pytest.param(_connect(name=f"{HOST}/d1"), 4, id="user name without api-version"),
        pytest.param(_connect(name=f"{HOST}//?api-version=1"), 4, id="user name without device"),
        pytest.param(_connect(name="d1"), 4, id="user name of one segment"),
    ],
)
def test_connect_is_refused_with_a_code_and_one_line(
    scene: Scene, caplog: pytest.LogCaptureFixture, connect: Callable[[Scene], Connect], code: int
) -> None:
    packet = connect(scene)
    client = scene.client()
    caplog.clear()

    client.send(packet)
    answers = client.wait_for_end()

    assert [(type(answer), answer.return_code) for answer in answers if isinstance(answer, ConnAck)] == [
        (ConnAck, code)
    ]
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert f"refused with CONNACK {code}" in lines[0]
    assert packet.password is None or packet.password.decode(errors="replace") not in lines[0]
    scene.connect("d2").publish(events_topic("d2"), b"served as before")


@pytest.mark.parametrize(
    ("packets", "answer"),
    [
        pytest.param([PingReq()], b"", id="first packet is not CONNECT"),
        pytest.param([Subscribe(1, (("a", 0),))], b"", id="SUBSCRIBE first"),
    ],
)
def test_who_does_not_begin_with_connect_is_closed(
    scene: Scene, packets: list[Packet], answer: bytes
) -> None:
    client = scene.client()

    client.send_bytes(b"".join(packet.encode() for packet in packets))

    assert client.closed
    assert client.received_bytes() == answer


def test_another_protocol_level_gets_code_1(scene: Scene) -> None:
    client = scene.client()
    connect = Connect("d1", True, 60, GOOD_NAME, b"x").encode()

    client.send_bytes(connect.replace(b"MQTT\x04", b"MQTT\x05"))

    assert client.received_bytes() == b"\x20\x02\x00\x01"
    assert client.closed


def test_a_second_connect_closes(scene: Scene) -> None:
    client = scene.connect("d1")

    client.send_bytes(Connect("d1", True, 60, GOOD_NAME, b"x").encode())

    assert client.closed


def test_packets_behind_connect_wait_until_it_is_accepted(scene: Scene) -> None:
    client = scene.client()
    connect = Connect("d1", True, 60, GOOD_NAME, scene.token("d1").encode())

    client.send(connect, PingReq())

    client.wait(ConnAck)
    client.wait(PingResp)


def test_connect_byte_by_byte(scene: Scene) -> None:
    client = scene.client()
    connect = Connect("d1", True, 60, GOOD_NAME, scene.token("d1").encode())
    data = connect.encode()

    client.expect(connect)
    for at in range(len(data)):
        client.send_bytes(data[at : at + 1])

    assert client.wait(ConnAck).return_code == 0


def test_the_device_and_its_modules_are_identities_of_their_own(scene: Scene) -> None:
    scene.create("edge1", capabilities={"iotEdge": True})
    scene.create("edge1/m1")
    edge_hub = scene.run(scene.hub.find(Identity("edge1", "$edgeHub")))
    assert edge_hub.managed_by.lower() == "iotedge"

    # The device's own token is good for all of its modules.
    device, module = scene.connect("edge1"), scene.connect("edge1/m1")
    agent = scene.connect("edge1/$edgeAgent", token=scene.token("edge1"))
    module.publish(events_topic("edge1/m1", "%24.on=out"), b"m")
    agent.publish(events_topic("edge1/$edgeAgent"), b"a")
    device.publish(events_topic("edge1"), b"d")

    senders = {event.telemetry.body: event.identity.id for event in scene.events()}
    assert senders == {b"m": "edge1/m1", b"a": "edge1/$edgeAgent", b"d": "edge1"}


def test_the_hub_of_an_edge_speaks_for_its_children_and_for_nobody_else(scene: Scene) -> None:
    scene.create("edge1", capabilities={"iotEdge": True})
    edge = scene.run(scene.hub.find(Identity("edge1")))
    scene.create("child", deviceScope=edge.device_scope)
    keys = {"primaryKey": "a2V5LWtleS1rZXkta2V5LWtleQ==", "secondaryKey": "a2V5LWtleS1rZXkta2V5LWtleQ=="}
    scene.create("edge1/$edgeHub", if_match="*", authentication={"type": "sas", "symmetricKey": keys})
    token = scene.token("edge1/$edgeHub")

    edge_hub = scene.connect("edge1/$edgeHub", token=token)
    child = scene.connect("child", token=token)
    stranger = scene.client()
    stranger.send(Connect("d1", True, 60, GOOD_NAME, token.encode()))

    assert [type(packet) for packet in stranger.wait_for_end()] == [ConnAck]
    child.publish(events_topic("child"), b"through the edge")
    edge_hub.publish(events_topic("edge1/$edgeHub"), b"its own")
    assert [event.identity.id for event in scene.events()] == ["child", "edge1/$edgeHub"]


PACKETS = [
    packet.encode()
    for packet in (
        Publish(events_topic("d1", "k=v"), b"body", 1, 5),
        Publish("$iothub/twin/GET/?$rid=1", b" "),
        Publish("$iothub/twin/PATCH/properties/reported/?$rid=2", b'{"a":1}', 1, 6),
        Publish("$iothub/methods/res/200/?$rid=3", b"{}"),
        Subscribe(7, (("$iothub/twin/res/#", 1), ("$iothub/methods/POST/#", 0))),
        Unsubscribe(8, ("$iothub/twin/res/#",)),
        PubAck(1),
        PubRec(2),
        PubRel(3),
        PingReq(),
        Disconnect(),
    )
]


@given(
    packets=st.lists(st.sampled_from(PACKETS), max_size=8),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2),
    pieces=st.integers(1, 4),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_connected_client_sends_the_server_lives(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    packets: list[bytes],
    changes: list[tuple[int, int]],
    pieces: int,
) -> None:
    data = bytearray(b"".join(packets))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    client = scene.connect("d1")

    step = len(data) // pieces + 1
    for at in range(0, len(data), step):
        client.send_bytes(bytes(data[at : at + step]))

    scene.connect("d2").publish(events_topic("d2"), b"served as before")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_second_connection_of_an_identity_ends_the_first(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    first = scene.connect("d1")

    second = scene.connect("d1")

    assert first.wait_for_end() == []
    second.publish(events_topic("d1"), b"served")
    assert scene.hub.is_connected(Identity("d1"))
    assert sum("connected anew" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("keep_alive_s", "silence_s"), [(10, 15), (0, 1767), (65_535, 1767)], ids=["10 s", "off", "longest"]
)
def test_a_silent_client_is_closed_after_one_and_a_half_times_its_keep_alive(
    scene: Scene, keep_alive_s: int, silence_s: float
) -> None:
    client = scene.connect("d1", keep_alive_s=keep_alive_s, token=scene.token("d1", 10_000))
    scene.clock.advance(silence_s - 1)
    client.send(PingReq())
    client.wait(PingResp)

    scene.clock.advance(silence_s - 1)
    scene.look()
    assert not client.closed
    scene.clock.advance(2)
    scene.look()

    assert client.closed


def test_who_does_not_say_connect_is_closed_after_a_while(scene: Scene) -> None:
    client = scene.client()

    scene.clock.advance(11)
    scene.look()

    assert client.closed


@pytest.mark.parametrize(
    ("life_s", "open_s", "closed_s"),
    [(100, 99, 101), (-200, 99, 101)],
    ids=["at its expiry", "accepted late: at the end of what is allowed"],
)
def test_a_connection_ends_with_its_token(
    scene: Scene, life_s: float, open_s: float, closed_s: float
) -> None:
    client = scene.connect("d1", keep_alive_s=0, token=scene.token("d1", life_s))

    scene.clock.advance(open_s)
    scene.look()
    assert not client.closed
    scene.clock.advance(closed_s - open_s)
    scene.look()

    assert client.closed


def test_a_client_that_renews_its_token_goes_on(scene: Scene) -> None:
    listening = "$iothub/methods/POST/#"
    client = scene.connect("d1", clean=False, token=scene.token("d1", 100), subscribe=listening)
    scene.clock.advance(90)
    client.leave()

    again = scene.connect("d1", clean=False, token=scene.token("d1", 100))
    scene.clock.advance(50)
    scene.look()

    assert again.session_present
    assert not again.closed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda hub: hub.put(Identity("d1"), {"status": "disabled"}, if_match="*"), id="disabled"
        ),
        pytest.param(lambda hub: hub.delete(Identity("d1")), id="deleted"),
        pytest.param(
            lambda hub: hub.put(
                Identity("d1"),
                {
                    "authentication": {
                        "type": "sas",
                        "symmetricKey": {
                            "primaryKey": "bmV3LWtleS1uZXcta2V5LW5ldy1rZXk=",
                            "secondaryKey": "bmV3LWtleS1uZXcta2V5LW5ldy1rZXk=",
                        },
                    }
                },
                if_match="*",
            ),
            id="other keys",
        ),
    ],
)
def test_who_may_not_be_connected_any_more_is_cut_off(
    scene: Scene, caplog: pytest.LogCaptureFixture, change: Callable[[object], object]
) -> None:
    client = scene.connect("d1")
    caplog.clear()

    scene.run(change(scene.hub))  # type: ignore[arg-type]

    assert client.wait_for_end() == []
    assert [r.levelname for r in caplog.records if "cut off" in r.getMessage()] == ["WARNING"]
    assert not scene.hub.is_connected(Identity("d1"))
