"""Starts our own edge for a measurement: on a home of its own, on loopback ports, by its command line."""

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from messaging.errors import ConfigError
from runtime.cli.running import create_device
from runtime.home import Home
from runtime.security.key_store import KeyStore
from scripts.bench.peer_mosquitto import PeerUnusable, free_port, wait_for_port
from scripts.bench.processes import EdgeProcess, of_edge

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "runtime.cli.main"]
START_LIMIT_S = 30
STOP_LIMIT_S = 30
TOKEN_LIFE_S = 24 * 3600
MAX_PUBLISHERS = 4
MAX_MODULES = 30


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, from a connection string."""

    iothub: str
    device: str
    module: str | None
    key: str

    @classmethod
    def from_connection_string(cls, text: str) -> "Identity":
        parts = dict(part.split("=", 1) for part in text.split(";") if part)
        return cls(parts["HostName"], parts["DeviceId"], parts.get("ModuleId"), parts["SharedAccessKey"])

    @property
    def path(self) -> str:
        """Where its topics and its token's resource start: `devices/D` or `devices/D/modules/M`."""
        return f"devices/{self.device}" + (f"/modules/{self.module}" if self.module else "")

    def token(self, now_s: float) -> str:
        """Return a SAS token that lives for a day (spec sheet hub-protocols.md section 5.1)."""
        resource, expiry = quote(f"{self.iothub}/{self.path}", safe=""), int(now_s) + TOKEN_LIFE_S
        digest = hmac.digest(base64.b64decode(self.key), f"{resource}\n{expiry}".encode(), hashlib.sha256)
        signature = quote(base64.b64encode(digest), safe="")
        return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"

    def client(self) -> dict[str, Any]:
        """Return what CONNECT needs, under the generator's names (section 1.2)."""
        name = f"{self.device}/{self.module}" if self.module else self.device
        return {
            "client_id": name,
            "username": f"{self.iothub}/{name}/?api-version=2021-04-12",
            "password": self.token(time.time()),
        }


class EdgeRun:
    """One `edge-actors run` from start to stop; a context manager."""

    def __init__(self, deployment: Path, home: Path, log_file: Path, *, plain: bool = False) -> None:
        self.deployment, self.home, self.log_file = deployment, home, log_file
        self.ports = {"tls": free_port(), "amqp": free_port()} | ({"plain": free_port()} if plain else {})
        self.started_s = 0.0  # on the monotonic clock

    def __enter__(self) -> "EdgeRun":
        """Start the process; `wait` says when it serves."""
        command = [*COMMAND, "run", "--deployment", str(self.deployment), "--home", str(self.home)]
        command += ["--listen", f"127.0.0.1:{self.ports['tls']}"]
        environment = dict(os.environ)
        environment["EDGE_ACTORS_AMQP_LISTEN"] = f"127.0.0.1:{self.ports['amqp']}"
        if "plain" in self.ports:
            environment["EDGE_ACTORS_PLAIN_LISTEN"] = f"127.0.0.1:{self.ports['plain']}"
        with self.log_file.open("ab") as log:
            self.started_s = time.monotonic()
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            # What the killed agent left running has no other owner.
            self.ask("down")
            raise PeerUnusable(
                f"edge: did not stop within {STOP_LIMIT_S} s of SIGTERM{self.said()}"
            ) from None

    def wait(self, transport: str) -> None:
        """Wait until the port of a transport answers."""
        try:
            wait_for_port(self.ports[transport], self._process, START_LIMIT_S)
        except PeerUnusable as error:
            raise PeerUnusable(f"edge: {error}{self.said()}") from None

    def said(self) -> str:
        """Return the last lines of its log."""
        return "\n" + "\n".join(self.log_file.read_text(errors="replace").splitlines()[-15:])

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of `edge-actors` on the same home."""
        command = [*COMMAND, *arguments, "--home", str(self.home)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=START_LIMIT_S, check=False
        )

    def identity(self, *arguments: str) -> Identity:
        """Ask `edge-actors identity …` until it answers: the deployment may not be applied yet."""
        give_up_s = time.monotonic() + START_LIMIT_S
        while True:
            result = self.ask("identity", *arguments, "--json")
            if result.returncode == 0:
                return Identity.from_connection_string(json.loads(result.stdout)["connectionString"])
            if time.monotonic() > give_up_s or self._process.poll() is not None:
                raise PeerUnusable(f"edge: identity {arguments[0]}: {result.stderr.strip()}{self.said()}")
            time.sleep(0.2)

    def modules(self, names: Sequence[str]) -> list[Identity]:
        """Return identities of modules that are registered, by one question: the hub of all is the same."""
        iothub = self.identity("show", names[0]).iothub
        keys = {found.module_id: found for found in KeyStore.open(Home(self.home).keys).identities()}
        return [
            Identity(iothub, keys[name].device_id, name, base64.b64encode(keys[name].primary_key).decode())
            for name in names
        ]

    def new_device(self, name: str, iothub: str) -> Identity:
        """Make a leaf device without a process for each."""
        made = create_device(Home(self.home), name)
        return Identity(iothub, name, None, base64.b64encode(made.primary_key).decode())

    def wait_for_registry(self, names: Collection[str]) -> None:
        """Wait until the IoT Hub has these modules: those that do not run get their lasting keys then."""
        give_up_s = time.monotonic() + START_LIMIT_S
        while not all(map(self._registered().get, names)):
            if time.monotonic() > give_up_s or self._process.poll() is not None:
                raise PeerUnusable(f"edge: the IoT Hub does not get its modules{self.said()}")
            time.sleep(0.1)

    def _registered(self) -> Mapping[str, str]:
        try:
            return KeyStore.open(Home(self.home).keys).cloud_modules()
        except ConfigError:  # it is not written yet
            return {}

    def processes(self) -> list[EdgeProcess]:
        return of_edge(self._process.pid)

    def pending(self, endpoint: str | None = None) -> int:
        """Return how many messages wait, for one endpoint or all; the ledger has to balance."""
        result = self.ask("ledger", "--json")
        if result.returncode:
            raise PeerUnusable(f"edge: ledger: {result.stderr.strip()}")
        rows = json.loads(result.stdout)["endpoints"]
        return sum(int(row["pending"]) for name, row in rows.items() if endpoint in (None, name))


class EdgePeer:
    """Our side of the comparison: modules pub1 … pubN routed to one consumer, all played by the generator.

    They are deployed with status `stopped`, which gives them an identity and no process. An IoT Hub takes 50
    modules of a device, so from the 31st on publishers are leaf devices. With more consumers, the outputs of
    the first publishers that are named `fan` go to all of them; the output `json` goes to the first one by a
    condition on the body.
    """

    name = "edge"
    version = "edge-actors of this checkout"
    configuration = "durable: PUBACK after a commit with synchronous=FULL"

    def __init__(self, parent: Path, publishers: int = MAX_PUBLISHERS, consumers: int = 1) -> None:
        self.parent = parent
        self._names = [f"pub{n}" for n in range(1, min(publishers, MAX_MODULES) + 1)]
        self._leaves = [f"leaf{n}" for n in range(MAX_MODULES + 1, publishers + 1)]
        self._takers = ["consumer", *(f"consumer{n}" for n in range(2, consumers + 1))]

    def __enter__(self) -> "EdgePeer":
        self.directory = Path(tempfile.mkdtemp(prefix="bench-edge-", dir=self.parent))
        deployment = self.directory / "deployment.json"
        deployment.write_text(json.dumps(self._manifest(), indent=1))
        self._run = EdgeRun(deployment, self.directory / "home", self.directory / "edge.log", plain=True)
        self._run.__enter__()
        try:
            self._run.wait("tls")
            self._run.wait("plain")
            everybody = [*self._names, *self._takers]
            self._run.wait_for_registry(everybody)
            found = self._run.modules(everybody)
            self._publishers, self._consumers = found[: len(self._names)], found[len(self._names) :]
            self._publishers += [self._run.new_device(name, self.consumer.iothub) for name in self._leaves]
            # Any new leaf device comes with the CA certificate that the hub's own is checked against.
            self._run.ask("identity", "create", "bench-leaf", "--out", str(self.directory))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run.__exit__()
        finally:
            shutil.rmtree(self.directory)

    def _manifest(self) -> dict[str, Any]:
        def module(name: str) -> dict[str, Any]:
            return {
                "version": "1.0",
                "type": "docker",
                "status": "stopped",
                "restartPolicy": "never",
                "imagePullPolicy": "never",
                "settings": {"image": f"bench/{name}:none"},
            }

        system = {"edgeAgent": "agent", "edgeHub": "hub"}
        return {
            "modulesContent": {
                "$edgeAgent": {
                    "properties.desired": {
                        "schemaVersion": "1.1",
                        "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
                        "systemModules": {
                            name: {
                                "type": "docker",
                                "status": "running",
                                "restartPolicy": "always",
                                "settings": {"image": f"bench/{image}:none"},
                            }
                            for name, image in system.items()
                        },
                        "modules": {name: module(name) for name in (*self._names, *self._takers)},
                    }
                },
                "$edgeHub": {
                    "properties.desired": {
                        "schemaVersion": "1.1",
                        "routes": self._routes(),
                        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
                    }
                },
            }
        }

    def _routes(self) -> dict[str, str]:
        def route(publisher: str, output: str, taker: str, condition: str = "") -> str:
            source = f"FROM /messages/modules/{publisher}/outputs/{output}{condition}"
            return f'{source} INTO BrokeredEndpoint("/modules/{taker}/inputs/in1")'

        first, *others = self._takers
        routes = {name: route(name, "out1", first) for name in self._names}
        if self._leaves:
            by_devices = "/messages/* WHERE NOT IS_DEFINED($connectionModuleId)"
            routes["leaves"] = f'FROM {by_devices} INTO BrokeredEndpoint("/modules/{first}/inputs/in1")'
        if others:
            for name in self._names[:MAX_PUBLISHERS]:
                routes[f"{name}-json"] = route(name, "json", first, " WHERE $body.level > 5")
                routes |= {f"{name}-{taker}": route(name, "fan", taker) for taker in self._takers}
        return routes

    def processes(self) -> list[EdgeProcess]:
        return self._run.processes()

    @property
    def home(self) -> Path:
        return self._run.home

    @property
    def consumer(self) -> Identity:
        return self._consumers[0]

    @property
    def publishers(self) -> list[Identity]:
        return self._publishers

    @property
    def run(self) -> EdgeRun:
        return self._run

    @property
    def amqp_port(self) -> int:
        return self._run.ports["amqp"]

    def load(
        self, transport: str, publishers: int, *, subscribers: int = 1, json: bool = False
    ) -> dict[str, Any]:
        """Return target, publishers and subscribers for the generator."""
        target = {"host": "127.0.0.1", "port": self._run.ports[transport]}
        if transport == "tls":
            target["ca_file"] = str(self.directory / "ca.pem")
        bag = f"%24.on={'json' if json else 'fan' if subscribers > 1 else 'out1'}"
        if json:
            bag += "&%24.ct=application%2Fjson&%24.ce=utf-8"
        return {
            "target": target,
            "publishers": [
                {**identity.client(), "topic": f"{identity.path}/messages/events/{bag}"}
                for identity in self._publishers[:publishers]
            ],
            "subscribers": [
                {**identity.client(), "filters": [f"{identity.path}/inputs/#"]}
                for identity in self._consumers[:subscribers]
            ],
        }
