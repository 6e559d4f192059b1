"""A hub on disk with its MQTT and AMQP servers, a clock moved by hand, and clients without sockets."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from messaging import sas
from messaging.clock import ManualClock
from messaging.identity import Identity
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    Will,
)
from runtime.iothub.amqp.server import AmqpServer
from runtime.iothub.hub import IotHub
from runtime.iothub.mqtt.server import MqttServer
from runtime.iothub.records import Event
from tests.fakes.transport import MemoryClient, MemoryListener

HOST: Final = "hub.test.internal"
LIMIT_S: Final = 10.0
T = TypeVar("T")
P = TypeVar("P", bound=Packet)


class Scene:
    """Everything in one thread but the database; `wait` lets it run until something is so."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.loop = asyncio.new_event_loop()
        self._folder = folder
        self._keys: dict[str, bytes] = {}
        self._ports = iter(range(10_000, 60_000))
        self.start()

    def start(self) -> None:
        """Open hub and servers."""
        self.hub = self.run(IotHub.open(self._folder, HOST, clock=self.clock))
        self.server = MqttServer(self.hub, self.clock)
        self._listener = MemoryListener()
        self._listener.open(self.server)
        self.amqp_server = AmqpServer(self.hub, self.clock)

    def stop(self) -> None:
        """Stop servers and hub."""
        self.do(self.server.close)
        self.do(self.amqp_server.close)
        self.run(self.hub.close())

    def close(self) -> None:
        """The test is over."""
        self.stop()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the hub."""
        return self.loop.run_until_complete(asyncio.wait_for(work, LIMIT_S))

    def do(self, action: Callable[..., object], *arguments: object) -> None:
        """Call something that has to be called in the loop."""

        async def called() -> None:
            action(*arguments)

        self.run(called())

    def look(self) -> None:
        """Let the servers look for what is overdue, as they do each second."""
        self.do(self.server.look)
        self.do(self.amqp_server.look)

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Let everything run until it is so."""
        deadline_s = time.monotonic() + LIMIT_S
        while not is_so():
            assert time.monotonic() < deadline_s, f"waited in vain for {what}"
            self.loop.run_until_complete(asyncio.sleep(0.001))  # the database has a thread of its own

    def settle(self) -> None:
        """Let the database do all that it was asked so far, and the hub what follows from that."""
        self.run(self.hub.document("nothing", "that anybody keeps"))  # its thread takes job after job
        self.take_turns()

    def take_turns(self) -> None:
        """Let the hub do what it can without the database."""
        self.run(_next_turns())

    # identities

    def create(self, client_id: str, *, if_match: str | None = None, **wanted: Any) -> None:
        """Register a device or module, or update one."""
        registered = self.run(self.hub.put(Identity.parse(client_id), wanted, if_match))
        self._keys[client_id] = base64.b64decode(registered.authentication.primary_key)

    def token(self, client_id: str, life_s: float = 3600, signed_by: str = "") -> str:
        """Return a token for an identity, signed with its key or with that of another."""
        audience = sas.audience_of(HOST, Identity.parse(client_id))
        key = self._keys.get(signed_by or client_id, b"nobody's")
        return sas.make_token(audience, key, int(self.clock.now_s() + life_s))

    def events(self) -> list[Event]:
        """Return all telemetry so far."""
        return self.run(self.hub.events(0))

    def bodies(self) -> list[bytes]:
        """Return the bodies of all telemetry so far."""
        return [event.telemetry.body for event in self.events()]

    # clients

    def port(self) -> int:
        """Return a port that no client has had."""
        return next(self._ports)

    def client(self) -> Client:
        """Return a connection that has said nothing yet."""
        return Client(self, self._listener, self.port())

    def connect(
        self,
        client_id: str,
        *,
        clean: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
        token: str | None = None,
        subscribe: str = "",
        qos: int = 1,
    ) -> Client:
        """Return a client that is connected, and subscribed to one filter."""
        client = self.client()
        password = (self.token(client_id) if token is None else token).encode()
        client.send(Connect(client_id, clean, keep_alive_s, user_name(client_id), password, will))
        answer = client.wait(ConnAck)
        assert answer.return_code == 0, answer
        client.session_present = answer.session_present
        if subscribe:
            client.send(Subscribe(1, ((subscribe, qos),)))
            assert client.wait(SubAck).return_codes == (qos,)
        return client


class Client(MemoryClient):
    """One connection of the scene."""

    def __init__(self, scene: Scene, listener: MemoryListener, port: int) -> None:
        super().__init__(listener, port)
        self.session_present = False
        self._scene = scene
        self._packets: list[Packet] = []

    def send_bytes(self, data: bytes) -> None:
        self._scene.do(super().send_bytes, data)

    def lose(self) -> None:
        self._scene.do(super().lose)

    def wait(self, kind: type[P]) -> P:
        """Return the next packet, which has to be of this kind."""
        packet = self.wait_for_any()
        assert isinstance(packet, kind), packet
        return packet

    def wait_for_any(self) -> Packet:
        """Return the next packet."""

        def came() -> bool:
            self._packets += self.received()
            return bool(self._packets) or self.closed

        self._scene.wait(came, "a packet")
        assert self._packets, "the connection was closed"
        return self._packets.pop(0)

    def wait_for_end(self) -> list[Packet]:
        """Wait until the hub closes the connection; return what it said before."""
        self._scene.wait(lambda: self.closed, "the end of the connection")
        return self._packets + self.received()

    def publish(self, topic: str, body: bytes = b"", packet_id: int = 1) -> None:
        """Publish at QoS 1 and wait for the acknowledgement."""
        self.send(Publish(topic, body, 1, packet_id))
        assert self.wait(PubAck).packet_id == packet_id

    def leave(self) -> None:
        """Say DISCONNECT."""
        self.send(Disconnect())
        self.wait_for_end()


def user_name(client_id: str) -> str:
    """Return the user name of an identity."""
    return f"{HOST}/{client_id}/?api-version=2021-04-12"


def events_topic(client_id: str, bag: str = "") -> str:
    """Return the topic on which an identity sends telemetry."""
    device, _, module = client_id.partition("/")
    return f"devices/{device}/{f'modules/{module}/' if module else ''}messages/events/{bag}"


async def _next_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
