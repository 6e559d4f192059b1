"""A whole edge with many SDKs on it, over MQTT and AMQP: its modules, and leaf devices behind it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from actors.addresses import ROUTER
from actors.store.messages import Stored
from actors.upstream.messages import C2dReceived
from messaging import sas
from messaging.client import Client
from messaging.connection_string import parse_connection_string
from messaging.errors import AskTimeout
from messaging.message import encode_header
from messaging.mqtt.packets import PubAck, Publish
from runtime.iothub.owner import Cloud, device_path, twin_path
from tests.integration.broker_world import CONNECT, statement
from tests.integration.edge_process import ROOT, EdgeProcess, free_port
from tests.integration.mqtt_client import MqttClient
from tests.integration.node_device import NodeDevice
from tests.integration.node_sdk import FOLDER, NODE, need_node
from tests.integration.sdk_clients import SDK_PORT, loopback_address
from tests.integration.sdk_peer import LIMIT_S, SdkPeer, ended
from tests.integration.test_web_socket import WEB_PORT, may_bind_443

DEVICE: Final = "edge1"
# The official SDKs of Python (MQTT alone) and Node, and the engine of the C SDK.
SDKS: Final = ("python", "node", "node-amqp", "node-amqp-ws", "uamqp")
MODULES: Final = {sdk: f"{DEVICE}/{sdk}" for sdk in SDKS}
LEAVES: Final = {sdk: f"leaf-{sdk}" for sdk in SDKS}
NODE_TRANSPORTS: Final = {"node": "mqtt", "node-amqp": "amqp", "node-amqp-ws": "amqp-ws"}
PROGRAMS: Final = {
    "python": Path(__file__).with_name("sdk_program.py"),
    "uamqp": Path(__file__).with_name("uamqp_program.py"),
}
AMQP_PORT: Final = 5671  # the SDKs' own, not to be changed
TALK: Final = "talk/#"  # topics of clients' own, with the broker on
TALKERS: Final = ("talker", "listener")
SAID_AT_ONCE: Final = 20
BREATH_S: Final = 0.01  # between that; without, a machine with one core would do nothing else
INTO: Final = 'INTO BrokeredEndpoint("/modules/{}/inputs/{}")'


def routes_to(modules: Sequence[str]) -> dict[str, str]:
    """Return routes from every client to an input of each of these modules, and upstream."""
    inputs = {f"all_{module}": f"FROM /messages/* {INTO.format(module, 'in')}" for module in modules}
    return {**inputs, "up": "FROM /messages/* INTO $upstream"}


def installed_sdks() -> tuple[str, ...]:
    """Return which SDKs are here, and may use their ports."""
    has_node = NODE is not None and (FOLDER / "node_modules" / "azure-iot-device-amqp").is_dir()
    found = {
        "python": True,
        "node": has_node,
        "node-amqp": has_node,
        "node-amqp-ws": has_node and may_bind_443(),
        "uamqp": importlib.util.find_spec("uamqp") is not None,
    }
    return tuple(sdk for sdk in SDKS if found[sdk])


def sdk_of(identity: str) -> str:
    """Return what a client of the site runs on."""
    return identity.removeprefix(f"{DEVICE}/").removeprefix("leaf-")


def knows_user_ids(identity: str) -> bool:
    """Say whether an SDK carries the user id of a message: that of Node does not over AMQP."""
    return not sdk_of(identity).startswith("node-amqp")


class Door:
    """Where the modules of the edge call their test; the edge started them, and alone knows when."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._peers: dict[str, SdkPeer] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def peer(self, module: str) -> SdkPeer:
        """Wait for a module."""
        with self._news:
            assert self._news.wait_for(lambda: module in self._peers, LIMIT_S), (
                f"module {module} did not call"
            )
            return self._peers[module]

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return  # closed
            peer = SdkPeer(stream.makefile(), stream.makefile("w"))
            module = peer.event("hello")["module"]
            with self._news:
                self._peers[module] = peer
                self._news.notify_all()


class PythonLeaf(SdkPeer):
    """A leaf device with the Python SDK, or another program of Python."""

    def __init__(self, program: Path, connection_string: str, ca_file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(program), connection_string, "device"],
            env={**os.environ, "CA_FILE": str(ca_file)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        super().__init__(self.process.stdout, self.process.stdin)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        ended(self.process)
        self._reader.join(LIMIT_S)


class Talk:
    """Two clients that keep the broker busy, one publishing at QoS 1 what the other has subscribed to."""

    def __init__(self, publisher: MqttClient, subscriber: MqttClient) -> None:
        self._publisher, self._subscriber = publisher, subscriber
        self._enough = threading.Event()
        self._said = ThreadPoolExecutor(1).submit(self._talk)

    def _talk(self) -> int:
        said = 0
        self._subscriber.subscribe(TALK)
        while not self._enough.wait(BREATH_S):
            for number in range(SAID_AT_ONCE):
                self._publisher.send(Publish(f"talk/{number}", b"%d" % said, 1, number + 1))
            for number in range(SAID_AT_ONCE):
                heard = self._subscriber.receive(Publish)
                assert (heard.topic, heard.payload) == (f"talk/{number}", b"%d" % said)
                self._subscriber.send(PubAck(heard.packet_id))
            for _ in range(SAID_AT_ONCE):
                self._publisher.receive(PubAck)
            said += 1
        return said

    def end(self) -> int:
        """Return how often something was said; raises what went wrong meanwhile."""
        self._enough.set()
        said = self._said.result(LIMIT_S)
        self._publisher.socket.close()
        self._subscriber.socket.close()
        return said


class SdkSite:
    """The edge and its clients, all connected: `clients` by identity. `sdks` are those that run here.

    With `broker`, the hub has one that lets everybody connect, and two clients more talk all the time.
    """

    def __init__(self, sdks: Sequence[str], *, web: bool, broker: bool = False) -> None:
        self.edge = EdgeProcess()
        self.address = loopback_address()
        self.sdks = tuple(sdks)
        self.has_web = web
        self._door = Door()
        self._leaves: list[PythonLeaf | NodeDevice] = []
        self.clients: dict[str, SdkPeer] = {}
        self.environment = {
            "EDGE_ACTORS_HOSTNAME": self.address,
            "EDGE_ACTORS_AMQP_LISTEN": f"{self.address}:{AMQP_PORT}",
            "EDGE_ACTORS_WEB_LISTEN": f"{self.address}:{WEB_PORT}" if web else "off",
            "EDGE_ACTORS_DEVICE_ID": DEVICE,
        }
        commands = {
            sdk: [need_node(), str(FOLDER / "device.js"), "edge", "module", NODE_TRANSPORTS[sdk]]
            if sdk in NODE_TRANSPORTS
            else [sys.executable, str(PROGRAMS[sdk]), "edge", "module"]
            for sdk in sdks
        }
        modules: dict[str, Any] = {
            name: {
                "type": "process",
                "status": "running",
                "restartPolicy": "always",
                "settings": {"command": command},
                "env": {"CONTROL": {"value": self._door.address}},
            }
            for name, command in commands.items()
        }
        self._talk: Talk | None = None
        self._plain_port = free_port() if broker else 0
        if broker:
            self.environment["EDGE_ACTORS_PLAIN_LISTEN"] = f"127.0.0.1:{self._plain_port}"
        rules = {"authorizations": [CONNECT, statement("publish", "subscribe", on=[TALK])]}
        self.edge.deploy(modules, routes_to(self.sdks), broker=rules if broker else None)

    def start(self) -> None:
        """Start the edge and connect everybody."""
        self.start_agent()
        self.edge.wait_for(edgeHub="running", **dict.fromkeys(self.sdks, "running"))
        with ThreadPoolExecutor() as pool:
            leaves = dict(zip(self.sdks, pool.map(self._leaf, self.sdks), strict=True))
        for sdk in self.sdks:
            self.clients[MODULES[sdk]] = self._door.peer(sdk)
            self.clients[LEAVES[sdk]] = leaves[sdk]
        for step in (("open", {}, True), ("listen",)):
            for begun in [client.begin(*step) for client in self.clients.values()]:
                begun.result(LIMIT_S)
        if self._plain_port:
            self._talk = Talk(*map(self._talker, TALKERS))

    def end_talk(self) -> int:
        """Return how often the talkers said something to one another."""
        assert self._talk is not None
        talk, self._talk = self._talk, None
        return talk.end()

    def _talker(self, name: str) -> MqttClient:
        credential, _ = self._identity(name)
        found = parse_connection_string(credential)
        audience = sas.audience_of(found.host_name, found.identity)
        token = sas.make_token(audience, sas.decode_key(found.shared_access_key), int(time.time()) + 3600)
        return MqttClient.connect(self._plain_port, name, token, found.host_name)

    def start_agent(self) -> None:
        """Start the agent process, which starts or takes over all others."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            self.edge.start(listen=f"{self.address}:{SDK_PORT}")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def _identity(self, name: str) -> tuple[str, Path]:
        """Make a leaf device; return its connection string and the CA to trust."""
        folder = self.edge.folder / name
        home = ("--home", str(self.edge.home))
        command = [sys.executable, "-m", "runtime.cli.main", "identity", "create", name]
        done = subprocess.run(
            [*command, "--out", str(folder), *home],
            cwd=ROOT,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return (folder / "connection-string.txt").read_text().strip(), folder / "ca.pem"

    def _leaf(self, sdk: str) -> PythonLeaf | NodeDevice:
        credential, ca_file = self._identity(LEAVES[sdk])
        leaf: PythonLeaf | NodeDevice
        if sdk in NODE_TRANSPORTS:
            leaf = NodeDevice(credential, ca_file, transport=NODE_TRANSPORTS[sdk])
        else:
            leaf = PythonLeaf(PROGRAMS[sdk], credential, ca_file)
        self._leaves.append(leaf)
        return leaf

    # the cloud's side

    def send_c2d(
        self,
        device: str,
        body: bytes,
        properties: dict[str, str | None],
        limit_s: float = 20.0,
        **system: str,
    ) -> None:
        """Send a message as the cloud's actor does, again and again until the hub has it on disk."""
        received = C2dReceived(device, encode_header("", properties, {**system}), body)
        deadline_s = time.monotonic() + limit_s
        with Client.outside(self.edge.run.path) as us:
            while True:
                us.tell(ROUTER, received)
                try:
                    us.receive(Stored, 1.0)
                    return
                except AskTimeout:
                    assert time.monotonic() < deadline_s, "the hub does not store it"

    def desire(self, identity: str, patch: dict[str, Any]) -> int:
        """Change desired properties in the edge's own IoT Hub; return their version."""
        path = twin_path(*_parts(identity))
        twin = Cloud(self.edge.home).call("PATCH", path, {"properties": {"desired": patch}})
        return int(twin["properties"]["desired"]["$version"])

    def registered(self, identity: str) -> dict[str, Any]:
        """Return an identity as the edge's own IoT Hub knows it."""
        found: dict[str, Any] = Cloud(self.edge.home).get(device_path(*_parts(identity)))
        return found

    # trouble

    def hub_pid(self) -> int:
        return int(self.edge.wait_for(edgeHub="running")["edgeHub"]["pid"])

    def kill_hub(self) -> float:
        """kill -9 the hub, which the agent starts again; return when (monotonic)."""
        hub = self.hub_pid()
        os.kill(hub, signal.SIGKILL)
        killed_s = time.monotonic()
        self.edge.wait_for_another_hub(hub)
        return killed_s

    def kill_hub_and_agent(self) -> float:
        """kill -9 both, and start the agent again as an init system does; return when (monotonic)."""
        hub = self.hub_pid()
        self.edge.signal(signal.SIGKILL)
        os.kill(hub, signal.SIGKILL)
        killed_s = time.monotonic()
        self.edge.wait()
        self.start_agent()
        return killed_s

    def close(self) -> None:
        """End everything."""
        if self._talk is not None:
            with suppress(Exception):
                self._talk.end()
        for leaf in self._leaves:
            if isinstance(leaf, PythonLeaf):
                leaf.close()
            else:
                leaf.__exit__()
        self.edge.close()
        self._door.close()


def _parts(identity: str) -> tuple[str, str | None]:
    device, _, module = identity.partition("/")
    return device, module or None
