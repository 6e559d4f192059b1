"""The provisioning service over MQTT, and the front that tells its clients from the hub's; no socket."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from messaging.sas import decode_key, make_token
from runtime.iothub.mqtt import front
from runtime.iothub.mqtt.front import MqttFront
from runtime.iothub.mqtt.provisioning import ANSWERS, DpsMqtt
from runtime.iothub.provisioning import Provisioning
from tests.fakes.transport import MemoryTransport
from tests.runtime.iothub.fakes import HOST, LIMIT_S, opened

KEY = base64.b64encode(b"k" * 32).decode()
BODY = {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}}
REGISTER = "$dps/registrations/PUT/iotdps-register/?$rid=1"


class WaitingTransport(MemoryTransport):
    """Says when something was written."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.more = asyncio.Event()

    def write(self, data: bytes) -> None:
        super().write(data)
        self.more.set()


class Devices:
    """A handler of the hub's clients that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def connected(self, transport: Any) -> str:
        self.told.append(("connected", transport.peer))
        return "device"

    def received(self, client: Any, data: bytes) -> None:
        self.told.append((client, data))

    def writing_paused(self, client: Any) -> None:
        self.told.append((client, "paused"))

    def writing_resumed(self, client: Any) -> None:
        self.told.append((client, "resumed"))

    def disconnected(self, client: Any, error: str) -> None:
        self.told.append((client, error))


class Scene:
    """A front with the provisioning service behind it, and one client."""

    def __init__(self, service: Provisioning) -> None:
        self.service = service
        self.devices = Devices()
        self.provisioning = DpsMqtt(service)
        self.front = MqttFront(self.devices, self.provisioning)
        self.transport = WaitingTransport()
        self.client = self.front.connected(self.transport)
        self.codec = ClientConnection()

    def connect(self, **changes: Any) -> Connect:
        """Return the CONNECT of the Python SDK 2.14.0."""
        audience = f"{self.service.id_scope}/registrations/r1"
        token = make_token(audience, decode_key(KEY), int(time.time()) + 60, "registration")
        packet = {
            "client_id": "r1",
            "user_name": f"{audience}/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py",
            "password": token.encode(),
            **changes,
        }
        return Connect(**packet)

    def send(self, *packets: Packet) -> None:
        """Send in one read."""
        self.send_bytes(b"".join(packet.encode() for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        self.front.received(self.client, data)

    async def next(self) -> list[Packet]:
        """Wait for what is written."""
        while not self.transport.written:
            self.transport.more.clear()
            await self.transport.more.wait()
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return self.codec.receive_data(data)

    async def log_in(self) -> None:
        """Connect and listen for answers."""
        self.codec.send(self.connect())
        self.send(self.connect(), Subscribe(1, ((ANSWERS, 1),)))
        accepted, subscribed = await self.next()
        assert isinstance(accepted, ConnAck)
        assert accepted.return_code == 0
        assert subscribed == SubAck(1, (1,))


def run(folder: Path, test: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with opened(folder) as (hub, clock), asyncio.timeout(LIMIT_S):
            clock.advance(time.time() - clock.now_s())
            service = await Provisioning.open(hub, HOST, clock)
            await service.put("enrollment", "r1", BODY, None)
            scene = Scene(service)
            await test(scene)
            scene.front.close()
            scene.provisioning.close()

    asyncio.run(main())


def test_a_device_registers_and_asks_how_it_went(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        await scene.log_in()

        scene.send(Publish(REGISTER, b'{"payload": null, "registrationId": "r1"}', 1, 7))
        assert await scene.next() == [PubAck(7)]
        (began,) = await scene.next()
        assert isinstance(began, Publish)
        operation_id = json.loads(began.payload)["operationId"]
        query = f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={operation_id}"
        scene.send(Publish(query, b" ", 1, 8))
        assert await scene.next() == [PubAck(8)]
        (ended,) = await scene.next()

        assert began.topic == "$dps/registrations/res/202/?$rid=1&retry-after=1"
        assert isinstance(ended, Publish)
        assert ended.topic == "$dps/registrations/res/200/?$rid=2"
        assert json.loads(ended.payload)["registrationState"]["deviceId"] == "r1"
        assert scene.devices.told == []
        scene.send(Unsubscribe(3, (ANSWERS,)), PingReq(), Disconnect())
        assert await scene.next() == [UnsubAck(3), PingResp()]
        assert scene.transport.closed

    run(tmp_path, test)


REFUSED: dict[str, dict[str, Any]] = {
    "another key": {"password": make_token("x", b"k" * 32, 99999999999, "registration").encode()},
    "no proof": {"password": b""},
    "a password that is no text": {"password": b"\xff"},
    "another client id": {"client_id": "r2"},
    "another scope": {"user_name": "0neFFFFFFFF/registrations/r1/api-version=2019-03-31"},
    "nobody": {"client_id": "nobody", "user_name": "{scope}/registrations/nobody/api-version=2019-03-31"},
    "no api-version": {"user_name": "{scope}/registrations/r1/ClientVersion=x"},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=list(REFUSED))
def test_who_has_no_proof_is_refused_with_connack_and_cut_off(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    async def test(scene: Scene) -> None:
        changed = dict(changes)
        if "user_name" in changed:
            changed["user_name"] = changed["user_name"].replace("{scope}", scene.service.id_scope)
        packet = scene.connect(**changed)
        scene.codec.send(packet)

        scene.send(packet)

        (answer,) = await scene.next()
        assert isinstance(answer, ConnAck)
        assert answer.return_code in (4, 5)
        assert scene.transport.closed

    run(tmp_path, test)


ASKED_WRONGLY = {
    "no JSON": (REGISTER, b"{", 400),
    "no object": (REGISTER, b"[]", 400),
    "another device": (REGISTER, b'{"registrationId": "r2"}', 400),
    "unknown operation": (
        "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=x",
        b"",
        404,
    ),
    "no operation": ("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1", b"", 404),
}


@pytest.mark.parametrize(("topic", "payload", "status"), ASKED_WRONGLY.values(), ids=list(ASKED_WRONGLY))
def test_what_is_asked_wrongly_is_answered_with_its_status(
    tmp_path: Path, topic: str, payload: bytes, status: int
) -> None:
    async def test(scene: Scene) -> None:
        await scene.log_in()

        scene.send(Publish(topic, payload))

        (answer,) = await scene.next()
        assert isinstance(answer, Publish)
        assert answer.topic == f"$dps/registrations/res/{status}/?$rid=1"
        assert json.loads(answer.payload)["errorCode"] // 1000 == status

    run(tmp_path, test)


ENDS = {
    "telemetry": Publish("devices/r1/messages/events/", b"x"),
    "no $rid": Publish("$dps/registrations/PUT/iotdps-register/?x=1", b"{}"),
    "a $rid without end": Publish("$dps/registrations/PUT/iotdps-register/?$rid=" + "1" * 129, b"{}"),
    "QoS 2": Publish(REGISTER, b"{}", 2, 1),
    "a second CONNECT": Connect("r1"),
}


@pytest.mark.parametrize("packet", ENDS.values(), ids=list(ENDS))
def test_what_is_nothing_to_ask_ends_the_connection(tmp_path: Path, packet: Packet) -> None:
    async def test(scene: Scene) -> None:
        await scene.log_in()

        scene.send(packet)

        assert scene.transport.closed

    run(tmp_path, test)


def test_other_filters_are_not_granted(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        await scene.log_in()

        scene.send(Subscribe(2, (("#", 1), (ANSWERS, 2))))

        assert await scene.next() == [SubAck(2, (0x80, 1))]

    run(tmp_path, test)


def test_a_flood_of_requests_is_throttled(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        await scene.log_in()

        scene.send(*(Publish(REGISTER, b'{"registrationId": "r1"}') for _ in range(20)))

        answers: list[Any] = []
        while len(answers) < 20:
            answers += await scene.next()
        statuses = [answer.topic.split("/")[3] for answer in answers]
        assert sorted(set(statuses)) == ["202", "429"]
        assert statuses.count("429") == 12

    run(tmp_path, test)


def test_who_does_not_read_its_answers_is_cut_off(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        await scene.log_in()

        scene.front.writing_paused(scene.client)

        assert scene.transport.closed

    run(tmp_path, test)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_client_of_the_hub_is_passed_on_with_all_it_has_sent(tmp_path: Path, size: int) -> None:
    async def test(scene: Scene) -> None:
        sent = scene.connect(user_name=f"{HOST}/r1/?api-version=2021-04-12").encode() + b"more"

        for at in range(0, len(sent), size):
            scene.send_bytes(sent[at : at + size])
        scene.front.writing_paused(scene.client)
        scene.front.writing_resumed(scene.client)
        scene.front.disconnected(scene.client, "gone")

        assert scene.devices.told[0] == ("connected", "127.0.0.1:1")
        data = [told for told in scene.devices.told[1:] if isinstance(told[1], bytes)]
        assert b"".join(told[1] for told in data) == sent
        assert scene.devices.told[-3:] == [("device", "paused"), ("device", "resumed"), ("device", "gone")]

    run(tmp_path, test)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff", bytes(20), b"\x10\x80\x80\x80\x01"]
)
def test_bytes_that_are_no_connect_are_the_hubs_to_refuse(tmp_path: Path, data: bytes) -> None:
    async def test(scene: Scene) -> None:
        scene.send_bytes(data)

        assert scene.devices.told == [("connected", "127.0.0.1:1"), ("device", data)]

    run(tmp_path, test)


def test_who_never_sends_connect_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "CONNECT_LIMIT_S", 0.01)

    async def test(scene: Scene) -> None:
        closed = asyncio.Event()
        scene.transport.close = lambda: closed.set()  # type: ignore[method-assign]
        scene.send_bytes(b"\x10")

        await closed.wait()

        assert scene.devices.told == []

    run(tmp_path, test)
