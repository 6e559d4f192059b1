"""pytest fixtures for modules: `pytest_plugins = ["edge_actors_testing"]` in a conftest.py.

Installed under that name too, and imports nothing of ours, so that a project may have folders of its own that
are called runtime, actors or messaging: the edge runs in processes that do not look there.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

# -I: neither the folder that the tests run in nor PYTHONPATH may replace what the edge is made of.
PROGRAM: Final = (sys.executable, "-I", "-m", "runtime.cli.main")
DRIVER: Final = Path(__file__).with_name("driver.py")
DEVICE: Final = "edge-under-test"
SENDER: Final = "test-driver"
START_LIMIT_S: Final = 30.0
COMMAND_LIMIT_S: Final = 30.0
STOP_GRACE_S: Final = 2
LOOK_S: Final = 0.01


@dataclass(frozen=True)
class Message:
    """A message that came out of a module, as it arrived in the cloud."""

    output: str
    body: Any  # JSON where the message says so, else bytes
    properties: Mapping[str, str]
    system_properties: Mapping[str, str]


class Cloud:
    """The IoT Hub of the edge: `edge-actors cloud …`."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    @property
    def ca_file(self) -> Path:
        """What clients of it have to trust."""
        return self._edge.home / "cloud" / "ca.pem"

    def run(self, *arguments: str) -> str:
        """Run a command that has to work, `run("twin", "get", "d")` for example; return what it prints."""
        return self._edge.command("cloud", *arguments)

    def json(self, *arguments: str) -> Any:
        """Run a command that has to work, and return its JSON."""
        return json.loads(self.run(*arguments, "--json"))


class Module:
    """A module under test, which runs on the edge."""

    def __init__(self, edge: Edge, name: str, inputs: Sequence[str]) -> None:
        self.name = name
        self._edge = edge
        self._inputs = tuple(inputs)

    def send(self, input_name: str, body: Any, properties: Mapping[str, str] | None = None) -> None:
        """Have a message arrive at an input; returns when the edge has stored it.

        Args:
            input_name: One of those that `run_module` was told of.
            body: Bytes as they are, anything else as JSON.
            properties: Application properties.
        """
        if input_name not in self._inputs:
            raise ValueError(
                f"{self.name} was run with the inputs {', '.join(self._inputs)}, not {input_name!r}"
            )
        self._edge.send(self.name, input_name, body, properties or {})

    def receive(self, output: str, timeout_s: float = 10.0) -> Message:
        """Wait for the next message from an output.

        Raises:
            AssertionError: none came in time; shows the log of the module.
        """
        found = self._edge.receive(self.name, output, timeout_s)
        if found is None:
            raise AssertionError(
                f"no message from output {output!r} of {self.name} within {timeout_s:g} s; "
                f"its log:\n{self.log}"
            )
        return found

    @property
    def log(self) -> str:
        """What the module has written to stdout and stderr so far."""
        path = self._edge.home / "logs" / f"{self.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


class Edge:
    """An edge with its IoT Hub, in processes of their own and on addresses of their own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edge-test-"))
        self.home = self.folder / "home"
        self.address = _free_address()
        self.cloud = Cloud(self)
        self._process: subprocess.Popen[bytes] | None = None
        self._driver: subprocess.Popen[str] | None = None
        self._reader = _Reader(self.home / "upstream.jsonl")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EDGE_ACTORS_")},
            "EDGE_ACTORS_HOME": str(self.home),
            "EDGE_ACTORS_DEVICE_ID": DEVICE,
            "EDGE_ACTORS_LISTEN": self.address,
            "EDGE_ACTORS_HOSTNAME": self.address,
            "EDGE_ACTORS_STOP_GRACE_S": str(STOP_GRACE_S),
        }

    def run_module(
        self,
        name: str,
        command: Sequence[str],
        *,
        inputs: Sequence[str] = ("input1",),
        env: Mapping[str, str] | None = None,
        desired: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> Module:
        """Run a process as a module, between its inputs and the cloud; returns when it can be sent to.

        Args:
            name: Its module id.
            command: Its command line.
            inputs: The inputs that the test sends to.
            env: Environment variables besides those that every module gets.
            desired: The desired properties of its twin.
            folder: Where it runs; the current one by default.
        """
        settings = {"command": list(command), "workingDirectory": str((folder or Path.cwd()).absolute())}
        module = {
            "type": "process",
            "status": "running",
            "restartPolicy": "always",
            "env": {key: {"value": value} for key, value in (env or {}).items()},
            "settings": settings,
        }
        routes = {
            f"in{number}": f"FROM /messages/* WHERE $connectionDeviceId = '{SENDER}' AND testInput = '{one}' "
            f'INTO BrokeredEndpoint("/modules/{name}/inputs/{one}")'
            for number, one in enumerate(inputs)
        }
        routes["out"] = f"FROM /messages/modules/{name}/outputs/* INTO $upstream"
        self.start(_manifest({name: module}, routes, {name: desired} if desired else {}))
        return Module(self, name, inputs)

    def start(self, manifest: Mapping[str, Any]) -> None:
        """Run the edge with a deployment manifest; returns when messages can be sent."""
        assert self._process is None, (
            "this edge runs already; take the fixture in another test for another one"
        )
        deployment = self.folder / "deployment.json"
        deployment.write_text(json.dumps(manifest))
        credentials = self.folder / "driver"
        with (self.folder / "edge.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, "run", "--deployment", str(deployment)],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._driver = subprocess.Popen(
            [sys.executable, "-I", str(DRIVER), str(credentials)],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._make_sender(credentials)
        assert self._driver.stdout is not None
        assert self._driver.stdout.readline() == "ready\n", self.log

    def send(self, module: str, input_name: str, body: Any, properties: Mapping[str, str]) -> None:
        """Send a message that a route of `run_module` takes to an input."""
        assert self._driver is not None
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        content = body.hex() if isinstance(body, bytes) else json.dumps(body).encode().hex()
        sent = {
            "body": content,
            "json": not isinstance(body, bytes),
            "properties": {**properties, "testInput": input_name},
        }
        self._driver.stdin.write(json.dumps(sent) + "\n")
        self._driver.stdin.flush()
        answer = self._driver.stdout.readline()
        assert answer == "sent\n", f"a message to {module} was not taken: {answer}{self.log}"

    def receive(self, module: str, output: str, timeout_s: float) -> Message | None:
        """Return the next message from an output of a module, None when there is none in time."""
        return self._reader.next(module, output, timeout_s)

    def command(self, *arguments: str) -> str:
        """Run an `edge-actors` command on this edge that has to work; return what it prints."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def log(self) -> str:
        """What the edge has written so far."""
        return (self.folder / "edge.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything and leave nothing."""
        try:
            if self._driver is not None:
                self._driver.kill()
                self._driver.communicate()
            if self._process is not None:
                self.command("down", "--purge")
                self._process.wait(COMMAND_LIMIT_S)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make_sender(self, credentials: Path) -> None:
        """Make the identity of the device that sends to inputs, as soon as the agent answers."""
        assert self._process is not None
        ends_s = time.monotonic() + START_LIMIT_S
        while not (self.home / "hub.json").exists():  # the last that is written before the agent answers
            assert self._process.poll() is None, self.log
            assert time.monotonic() < ends_s, self.log
            time.sleep(LOOK_S)  # between two looks at what another process does
        made = credentials.with_name("driver.new")
        self.command("identity", "create", SENDER, "--out", str(made))
        made.rename(credentials)


class _Reader:
    """Reads the messages that arrived in the cloud, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._waiting: list[tuple[str, Message]] = []
        self._lock = threading.Lock()

    def next(self, module: str, output: str, timeout_s: float) -> Message | None:
        ends_s = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._read_new()
                for index, (sender, message) in enumerate(self._waiting):
                    if (sender, message.output) == (module, output):
                        del self._waiting[index]
                        return message
            if time.monotonic() >= ends_s:
                return None
            time.sleep(LOOK_S)  # between two looks at what another process writes

    def _read_new(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            system = record["SystemProperties"]
            body = record["Body"]
            if not str(system.get("contentType", "")).startswith("application/json"):
                body = base64.b64decode(body)
            message = Message(system.get("outputName", ""), body, record["Properties"], system)
            self._waiting.append((system.get("connectionModuleId", ""), message))


@pytest.fixture
def edge() -> Iterator[Edge]:
    """An edge that runs a module under test: `edge.run_module(…)`. It ends with the test."""
    made = Edge()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def cloud(edge: Edge) -> Cloud:
    """The IoT Hub of `edge`: twins, direct methods, devices. It is there once the edge was started."""
    return edge.cloud


def _manifest(
    modules: Mapping[str, Any], routes: Mapping[str, str], desired: Mapping[str, Any]
) -> dict[str, Any]:
    image = {"image": "built-in", "createOptions": "{}"}
    system = {
        "edgeAgent": {"type": "docker", "settings": image},
        "edgeHub": {"type": "docker", "status": "running", "restartPolicy": "always", "settings": image},
    }
    agent = {
        "schemaVersion": "1.1",
        "runtime": {"type": "docker", "settings": {}},
        "systemModules": system,
        "modules": modules,
    }
    hub = {
        "schemaVersion": "1.1",
        "routes": routes,
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
    }
    twins = {"$edgeAgent": agent, "$edgeHub": hub, **desired}
    return {"modulesContent": {name: {"properties.desired": twin} for name, twin in twins.items()}}


def _free_address() -> str:
    """Return an address of this machine on which nobody listens: device SDKs know no port but 8883."""
    while True:
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        with socket.socket() as probe:
            if probe.connect_ex((address, 8883)) != 0:
                return address
