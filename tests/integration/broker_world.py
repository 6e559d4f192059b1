"""A real hub with a broker, and what its clients say and get, packet by packet."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from actors.addresses import BROKER
from actors.broker.settings import BrokerSet, set_broker
from actors.hub import config as hub_config
from actors.manifest.hub_manifest import parse_hub_desired
from messaging.broker.config import BrokerSpec
from messaging.client import Client
from messaging.mqtt.packets import ConnAck, Connect, PubAck, Publish, SubAck, Subscribe, Will
from tests.integration.hub_process import DEVICE, HubProcess
from tests.integration.mqtt_socket import MqttSocket

M1, M2 = f"{DEVICE}/m1", f"{DEVICE}/m2"
LEAF = "leaf"
LIMIT_S = 20.0
ANYBODY = "{{iot:identity}}"
CONNECT = {"identities": [ANYBODY], "allow": [{"operations": ["mqtt:connect"]}]}


def statement(
    *operations: str, on: Sequence[str] = (), of: str = ANYBODY, deny: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a statement that allows operations on some topics, and denies them on others."""
    names = [f"mqtt:{operation}" for operation in operations]
    found: dict[str, Any] = {"identities": [of], "allow": [{"operations": names, "resources": list(on)}]}
    return found | ({"deny": [{"operations": names, "resources": list(deny)}]} if deny else {})


def spec(*statements: dict[str, Any]) -> BrokerSpec:
    """Read a section as a deployment has it."""
    desired = {
        "schemaVersion": "1.2",
        "routes": {},
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
        "mqttBroker": {"authorizations": list(statements)},
    }
    found = parse_hub_desired(json.dumps(desired).encode(), 1).broker
    assert found is not None
    return found


def change_policy(hub: HubProcess, *statements: dict[str, Any]) -> None:
    """Put other rules in force, as the agent does."""
    with Client.outside(hub.run_dir) as agent:
        agent.ask(BROKER, set_broker(spec(*statements)), BrokerSet, LIMIT_S)


def configure(hub: HubProcess, *statements: dict[str, Any]) -> None:
    """Write other rules into what a hub starts with, as the agent does."""
    path = hub.home / "hub.json"
    config = hub_config.decode(path.read_bytes(), str(path))
    path.write_bytes(hub_config.encode(msgspec.structs.replace(config, broker=spec(*statements))))


class User(MqttSocket):
    """A client of the hub."""

    def __init__(self, hub: HubProcess, client_id: str) -> None:
        super().__init__(hub, tls=False)
        self._hub = hub
        self.client_id = client_id
        self._packet_id = 0

    def log_in(
        self, *, clean: bool = True, will: Will | None = None, user: str = "", password: str = ""
    ) -> ConnAck:
        """Send CONNECT; return the answer."""
        user = user or self.client_id
        password = password or self._hub.token(user)
        name = self._hub.user_name(user)
        self.send(Connect(self.client_id, clean, 60, name, password.encode(), will))
        answer = self.receive()
        assert isinstance(answer, ConnAck)
        return answer

    def subscribe(self, *filters: tuple[str, int]) -> tuple[int, ...]:
        """Subscribe in one packet; return the codes."""
        self._packet_id += 1
        self.send(Subscribe(self._packet_id, filters))
        while not isinstance(answer := self.receive(), SubAck):
            pass
        return tuple(answer.return_codes)

    def publish(self, topic: str, body: bytes) -> bool:
        """Publish at QoS 1; return whether it was acknowledged: if not, the connection is closed."""
        self._packet_id += 1
        self.send(Publish(topic, body, 1, self._packet_id))
        try:
            while not isinstance(answer := self.receive(), PubAck):
                pass
        except EOFError:
            return False
        assert answer.packet_id == self._packet_id
        return True

    def message(self) -> tuple[str, bytes]:
        """Return topic and body of the next message, which is acknowledged."""
        while not isinstance(packet := self.receive(), Publish):
            pass
        if packet.qos == 1:
            self.send(PubAck(packet.packet_id))
        return packet.topic, bytes(packet.payload)

    def close(self) -> None:
        """Go without DISCONNECT."""
        self._socket.close()

    def is_closed(self) -> bool:
        """Wait until the hub closes the connection, and drop what it says before."""
        self.rest()
        return True


def user(hub: HubProcess, client_id: str, *, clean: bool = True, will: Will | None = None) -> User:
    """Return a client that has connected."""
    made = User(hub, client_id)
    assert made.log_in(clean=clean, will=will).return_code == 0
    return made


def upstream(hub: HubProcess, count: int) -> list[bytes]:
    """Wait until so many messages have arrived in the cloud, and return the bodies of all."""
    return [base64.b64decode(record["Body"]) for record in hub.upstream(count)]
