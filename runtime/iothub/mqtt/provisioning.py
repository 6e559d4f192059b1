"""The provisioning service over MQTT, as the device SDKs speak it.

CONNECT proves who registers; a PUBLISH asks, and the answer comes as a PUBLISH on a topic of its own.

Source: spec sheet security-daemon.md section 5.2; azure-iot-device 2.14.0; azure-iot-provisioning-device-mqtt
1.8.1
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from actors.ports.connections import Transport
from messaging.errors import IotHubError, RemoteProtocolError, StoreError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    SUBSCRIPTION_FAILURE,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from messaging.text import quoted
from runtime.iothub.dps_api import check_body, error_response
from runtime.iothub.provisioning import RETRY_AFTER_S, Provisioning, Registrant
from runtime.net.http_messages import Response

log = logging.getLogger(__name__)

ANSWERS: Final = "$dps/registrations/res/#"
MAX_PACKET_BYTES: Final = 64 * 1024
MOST_REQUESTS: Final = 8  # of one client at the same time; SDKs have one
LONGEST_REQUEST_ID: Final = 128
KEEP_ALIVE_FACTOR: Final = 1.5  # [MQTT-3.1.2-24]
LONGEST_SILENCE_S: Final = 600.0

_USER_NAME = re.compile(r"([^/]+)/registrations/([^/]+)/(.*)", re.DOTALL)
_REQUEST = re.compile(r"\$dps/registrations/(PUT/iotdps-register|GET/iotdps-get-operationstatus)/\?(.*)")


def is_user_name(text: str) -> bool:
    """Whether the user name of a CONNECT is that of a device that wants to be provisioned."""
    return _USER_NAME.fullmatch(text) is not None


class DpsMqtt:
    """Implements `actors.ports.ConnectionHandler`. Belongs to the loop of its service."""

    def __init__(self, service: Provisioning) -> None:
        self._service = service
        self._sessions: set[_Session] = set()

    def close(self) -> None:
        """End all connections."""
        for session in list(self._sessions):
            session.end("the service stops", logging.INFO)

    def connected(self, transport: Transport) -> _Session:
        """A connection was accepted, TLS included."""
        session = _Session(self._service, transport, self._sessions.discard)
        self._sessions.add(session)
        return session

    def received(self, client: _Session, data: bytes) -> None:
        """Bytes came."""
        client.received(data)

    def writing_paused(self, client: _Session) -> None:
        """The peer does not read what it has asked for."""
        client.end("does not read its answers")

    def writing_resumed(self, client: _Session) -> None:
        """The peer reads again."""

    def disconnected(self, client: _Session, error: str) -> None:
        """The connection is gone, by whichever side."""
        client.end(error, logging.INFO)


class _Session:
    """One connection."""

    def __init__(
        self, service: Provisioning, transport: Transport, on_end: Callable[[_Session], None]
    ) -> None:
        self._service = service
        self._transport = transport
        self._on_end = on_end
        self._codec = ServerConnection(MAX_PACKET_BYTES)
        self._registrant: Registrant | None = None
        self._listens = False
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._silence_s = LONGEST_SILENCE_S
        self._too_silent: asyncio.TimerHandle | None = None

    def received(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self._ended:
            return
        self._hear()
        try:
            self._handle(self._codec.receive_data(data))
        except RemoteProtocolError as exc:
            self._transport.write(exc.answer)
            self.end(f"broke the protocol: {exc}")

    def end(self, reason: str, level: int = logging.WARNING) -> None:
        """Close the connection. What is being registered goes on."""
        if self._ended:
            return
        self._ended = True
        if self._too_silent is not None:
            self._too_silent.cancel()
        self._transport.close()
        self._on_end(self)
        log.log(level, "provisioning of %s: %s", self._name, reason)

    @property
    def _name(self) -> str:
        if self._registrant is None:
            return self._transport.peer
        return f"'{self._registrant.registration_id}'"

    def _handle(self, packets: list[Packet]) -> None:
        for packet in packets:
            if self._ended:
                return
            if isinstance(packet, Connect):
                self._connect(packet)
            elif isinstance(packet, Publish):
                self._published(packet)
            elif isinstance(packet, Subscribe):
                self._subscribe(packet)
            elif isinstance(packet, Unsubscribe):
                if ANSWERS in packet.topic_filters:
                    self._listens = False
                self._send(UnsubAck(packet.packet_id))
            elif isinstance(packet, PingReq):
                self._send(PingResp())
            elif isinstance(packet, Disconnect):
                self.end("done", logging.DEBUG)
            # PUBACK and its like: nothing was sent to the client that asks for one
        if self._codec.offence is not None and not self._ended:
            raise self._codec.offence

    def _connect(self, packet: Connect) -> None:
        found = _USER_NAME.fullmatch(packet.user_name or "")
        if found is None or "api-version=" not in found[3]:
            self._refuse(ReturnCode.BAD_USER_NAME_OR_PASSWORD, "the user name has no api-version")
            return
        id_scope, registration_id = unquote(found[1]), unquote(found[2])
        if packet.client_id.lower() != registration_id.lower():
            self._refuse(
                ReturnCode.NOT_AUTHORIZED,
                f"client id {quoted(packet.client_id)} is not the registration id {quoted(registration_id)}",
            )
            return
        try:
            token = (packet.password or b"").decode()
            self._registrant = self._service.authenticate(
                id_scope, registration_id, token, self._transport.certificates
            )
        except UnicodeDecodeError:
            self._refuse(ReturnCode.BAD_USER_NAME_OR_PASSWORD, "the password is not UTF-8")
            return
        except IotHubError as exc:
            self._refuse(ReturnCode.NOT_AUTHORIZED, str(exc))
            return
        if packet.keep_alive_s:
            self._silence_s = min(packet.keep_alive_s * KEEP_ALIVE_FACTOR, LONGEST_SILENCE_S)
        self._hear()
        self._transport.authenticated()
        self._send(ConnAck(ReturnCode.ACCEPTED))
        self._handle(self._codec.authenticated())

    def _refuse(self, code: ReturnCode, reason: str) -> None:
        self._send(ConnAck(code))
        self.end(f"refused with CONNACK {code.value}: {reason}")

    def _subscribe(self, packet: Subscribe) -> None:
        codes = []
        for topic_filter, qos in packet.topic_filters:
            if topic_filter == ANSWERS:
                self._listens = True
                codes.append(min(qos, 1))
            else:
                codes.append(SUBSCRIPTION_FAILURE)
        self._send(SubAck(packet.packet_id, tuple(codes)))

    def _published(self, packet: Publish) -> None:
        found = _REQUEST.fullmatch(packet.topic)
        if found is None or packet.qos == 2:
            self.end(f"published to {quoted(packet.topic)} at QoS {packet.qos}, which is nothing to ask")
            return
        if packet.qos:
            self._send(PubAck(packet.packet_id))
        query = dict(pair.partition("=")[::2] for pair in found[2].split("&"))
        request_id = query.get("$rid", "")
        if not 0 < len(request_id) <= LONGEST_REQUEST_ID:
            self.end(
                f"published to {quoted(packet.topic)} without a $rid of up to {LONGEST_REQUEST_ID} characters"
            )
            return
        if len(self._tasks) >= MOST_REQUESTS:
            self._tell(error_response(429001, f"at most {MOST_REQUESTS} requests at a time"), request_id)
            return
        assert self._registrant is not None, "packets come behind an accepted CONNECT alone"
        if found[1].startswith("PUT"):
            work = self._register(self._registrant, packet.payload, request_id)
        else:
            work = self._status(self._registrant, unquote(query.get("operationId", "")), request_id)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _register(self, registrant: Registrant, payload: bytes, request_id: str) -> None:
        async def work() -> Any:
            check_body(payload, registrant)
            return await self._service.register(registrant)

        await self._answer(work(), 202, request_id)

    async def _status(self, registrant: Registrant, operation_id: str, request_id: str) -> None:
        await self._answer(self._service.operation(registrant, operation_id), 200, request_id)

    async def _answer(self, work: Coroutine[Any, Any, Any], status: int, request_id: str) -> None:
        try:
            response = Response(status, msgspec.json.encode(await work))
        except IotHubError as exc:
            response = error_response(exc.code, str(exc))
        except StoreError as exc:
            log.error("%s", exc)
            response = error_response(500001, "the provisioning service could not store it; its log says why")
        self._tell(response, request_id)

    def _tell(self, response: Response, request_id: str) -> None:
        if self._ended or not self._listens:
            return
        topic = f"$dps/registrations/res/{response.status}/?$rid={request_id}"
        if response.status in (202, 429, 500):
            topic += f"&retry-after={RETRY_AFTER_S}"
        self._send(Publish(topic, response.body))

    def _send(self, packet: Packet) -> None:
        self._transport.write(self._codec.send(packet))

    def _hear(self) -> None:
        """The client is alive."""
        if self._too_silent is not None:
            self._too_silent.cancel()
        self._too_silent = asyncio.get_running_loop().call_later(
            self._silence_s, self.end, f"silent for {self._silence_s:.0f} s"
        )
