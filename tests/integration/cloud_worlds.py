"""The clouds for contract tests of `CloudConnections`: one in memory, and the stand-in behind a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Protocol

from actors.upstream.connection import CloudAccess, CloudConnection, CloudConnections, CloudFault, Fault
from actors.upstream.protocol import UpstreamProtocol
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import Message
from runtime.faults.line import Line, Profile
from runtime.upstream.connections import UpstreamConnections
from runtime.upstream.shared import CloudTimes
from tests.fakes.cloud_connections import MemoryCloud
from tests.fakes.cloud_observer import ObservedConnection
from tests.integration.cloud import AMQP_PORT, LIMIT_S, MQTT_PORT, WEB_PORT, Cloud
from tests.integration.sdk_clients import loopback_address

PORTS = {
    UpstreamProtocol.MQTT: MQTT_PORT,
    UpstreamProtocol.MQTT_WS: WEB_PORT,
    UpstreamProtocol.AMQP: AMQP_PORT,
    UpstreamProtocol.AMQP_WS: WEB_PORT,
}


class CloudWorld(Protocol):
    """A cloud with the device `d1`, its module `d1/m1` and the device `d2`."""

    connections: CloudConnections

    def access(self, client_id: str) -> CloudAccess: ...
    def taken(self, client_id: str) -> list[Message]: ...
    def reported(self, client_id: str) -> dict[str, Any]: ...
    def patch_desired(self, client_id: str, patch: dict[str, Any]) -> None: ...
    def call_method(self, client_id: str, name: str, payload: Any) -> Callable[[], tuple[int, Any]]: ...
    def send_c2d(self, device_id: str, message: Message) -> None: ...
    def waiting_c2d(self, device_id: str) -> int: ...
    def refuse(self, client_id: str) -> None: ...
    def stop_answering(self) -> None: ...
    def cut(self) -> None: ...
    def restore(self) -> None: ...

    @property
    def host_name(self) -> str: ...


def connect(
    world: CloudWorld, client_id: str = "d1", **settings: Any
) -> tuple[CloudConnection, ObservedConnection]:
    """Return a connection that is open, and its observer. `want` are the features that are wanted."""
    observer = ObservedConnection()
    connection = world.connections.make(world.access(client_id), observer)
    connection.want(settings.get("want", frozenset()))
    connection.open()
    observer.next("connected")
    return connection, observer


class MemoryWorld:
    """The cloud in memory."""

    host_name = "hub.example"

    def __init__(self) -> None:
        self.cloud = MemoryCloud()
        self.connections: CloudConnections = self.cloud

    def access(self, client_id: str) -> CloudAccess:
        return CloudAccess(Identity.parse(client_id), self.host_name, Secret(b"a2V5"))

    def taken(self, client_id: str) -> list[Message]:
        return [message for sender, message in self.cloud.messages if sender == client_id]

    def reported(self, client_id: str) -> dict[str, Any]:
        return self.cloud.reported[client_id].values

    def patch_desired(self, client_id: str, patch: dict[str, Any]) -> None:
        self.cloud.patch_desired(client_id, patch)

    def call_method(self, client_id: str, name: str, payload: Any) -> Callable[[], tuple[int, Any]]:
        request_id = self.cloud.call_method(client_id, name, json.dumps(payload).encode())

        def answer() -> tuple[int, Any]:
            status, answered = self.cloud.answers[request_id]
            return status, json.loads(answered)

        return answer

    def send_c2d(self, device_id: str, message: Message) -> None:
        self.cloud.send_c2d(device_id, message)

    def waiting_c2d(self, device_id: str) -> int:
        return len(self.cloud.c2d[device_id])

    def refuse(self, client_id: str) -> None:
        self.cloud.refuse(client_id, CloudFault(Fault.UNAUTHORIZED, f"'{client_id}' is disabled", 401))

    def stop_answering(self) -> None:
        self.cloud.hold()

    def cut(self) -> None:
        self.cloud.go_away()

    def restore(self) -> None:
        self.cloud.release()
        self.cloud.come_back()


class StandInWorld:
    """The stand-in behind a line, and the product's connections to it."""

    def __init__(
        self,
        profile: Profile | None = None,
        times: CloudTimes | None = None,
        protocol: UpstreamProtocol = UpstreamProtocol.MQTT,
    ) -> None:
        self.protocol = protocol
        self.host_name = loopback_address()
        self._times = times
        self._ending = ExitStack()
        self.cloud = Cloud(loopback_address(), self.host_name)
        self.line = Line((self.host_name, PORTS[protocol]), (self.cloud.address, PORTS[protocol]), profile)

    def __enter__(self) -> StandInWorld:
        self._ending.enter_context(self.cloud)
        self._ending.enter_context(self.line)
        for client_id in ("d1", "d1/m1", "d2"):
            self.cloud.create(client_id)
        self.connections = UpstreamConnections(self.protocol, self._times)
        self._ending.callback(self.connections.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def access(self, client_id: str) -> CloudAccess:
        key = Secret(self.cloud.key(client_id).encode())
        return CloudAccess(Identity.parse(client_id), self.host_name, key, self.cloud.ca_file.read_text())

    def taken(self, client_id: str) -> list[Message]:
        found: list[Message] = []
        after = 0
        while events := self.cloud.call(self.cloud.hub.events(after)):
            after = events[-1].sequence_number
            found += [
                Message("", each.telemetry.properties, each.telemetry.system_properties, each.telemetry.body)
                for each in events
                if str(each.identity) == client_id
            ]
        return found

    def reported(self, client_id: str) -> dict[str, Any]:
        twin = self.cloud.call(self.cloud.hub.device_twin(Identity.parse(client_id)))
        return {name: value for name, value in twin["reported"].items() if name != "$version"}

    def patch_desired(self, client_id: str, patch: dict[str, Any]) -> None:
        wanted = {"properties": {"desired": patch}}
        self.cloud.call(self.cloud.hub.patch_twin(Identity.parse(client_id), wanted))

    def call_method(self, client_id: str, name: str, payload: Any) -> Callable[[], tuple[int, Any]]:
        result: Future[Any] = self.cloud.start_call(
            self.cloud.hub.invoke_method(Identity.parse(client_id), name, payload, connect_timeout_s=LIMIT_S)
        )

        def answer() -> tuple[int, Any]:
            answered = result.result(LIMIT_S)
            return answered.status, answered.payload

        return answer

    def send_c2d(self, device_id: str, message: Message) -> None:
        self.cloud.call(
            self.cloud.hub.send_c2d(device_id, message.body, message.properties, message.system_properties)
        )

    def waiting_c2d(self, device_id: str) -> int:
        device = self.cloud.call(self.cloud.hub.service.describe(Identity(device_id)))
        return int(device["cloudToDeviceMessageCount"])

    def refuse(self, client_id: str) -> None:
        wanted = {"status": "disabled"}
        self.cloud.call(self.cloud.hub.put(Identity.parse(client_id), wanted, if_match="*"))

    def stop_answering(self) -> None:
        self.line.swallow()

    def cut(self) -> None:
        self.line.cut()

    def restore(self) -> None:
        self.line.restore()
