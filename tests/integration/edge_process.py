"""A whole edge in processes of its own: agent, hub, and modules that are small shell scripts."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from actors.addresses import AGENT, ROUTER
from actors.agent.module_list import ListModules, ModuleList
from actors.agent_hub_messages import Routes
from actors.hub.router import ListRoutes
from messaging.client import Client, NobodyThere
from messaging.errors import AskTimeout
from runtime.run_directory import RunDirectory
from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import HUB as HUB_PATH
from tests.actors.manifests import manifest
from tests.waiting import wait_until

LIMIT_S = 20.0
ROOT = Path(__file__).resolve().parents[2]
UP = {"up": "FROM /messages/* INTO $upstream"}

T = TypeVar("T")


def shell(script: str, **others: Any) -> dict[str, Any]:
    """Return a module that runs a shell script; the named pipe of the test is `$PIPE`."""
    module = {"type": "process", "status": "running", "restartPolicy": "always"}
    return module | {"settings": {"command": ["sh", "-c", script]}} | others


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EdgeProcess:
    """One home, and the edges that run on it one after the other."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ea-edge-"))
        self.home = self.folder / "home"
        self.run = RunDirectory.of(self.home)
        self.port = free_port()
        self.deployment = self.folder / "deployment.json"
        self.log = self.folder / "edge.log"
        self.pipe = self.folder / "pipe"
        os.mkfifo(self.pipe)
        self._pipe = os.open(self.pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self.process: subprocess.Popen[bytes] | None = None

    def deploy(
        self,
        modules: dict[str, Any],
        routes: dict[str, str] = UP,
        text: str | None = None,
        broker: dict[str, Any] | None = None,
        **hub_env: str,
    ) -> None:
        """Write the deployment file; `hub_env` are variables of edgeHub, `broker` what it says of topics."""
        for module in modules.values():
            module.setdefault("env", {})["PIPE"] = {"value": str(self.pipe)}
        env = {name: {"value": value} for name, value in hub_env.items()}
        content = manifest(
            ((*AGENT_PATH, "modules"), modules),
            ((*HUB_PATH, "routes"), routes),
            ((*AGENT_PATH, "systemModules", "edgeHub", "env"), env),
            *([((*HUB_PATH, "schemaVersion"), "1.2"), ((*HUB_PATH, "mqttBroker"), broker)] if broker else []),
        )
        self.deployment.write_text(json.dumps(content) if text is None else text)

    def start(
        self,
        for_s: str = "",
        grace_s: str = "5",
        port: int | None = None,
        listen: str = "",
        program: Path = ROOT,
        main: str = "tests.integration.edge_main",
        through: Sequence[str] = (),
        from_file: bool = True,
        **settings: str,
    ) -> None:
        """Start the agent process; `process` is it.

        Args:
            for_s: For how long it runs, "" for as long as nobody ends it.
            grace_s: How long modules may take to end.
            port: On 127.0.0.1, other than `self.port`.
            listen: Addresses and ports instead of these.
            program: The folder of the source.
            main: The main program.
            through: A command that runs it.
            from_file: Whether it runs the deployment file, and not what the cloud says.
            settings: More settings, as environment variables.
        """
        listen = listen or f"127.0.0.1:{port or self.port}"
        command = [*through, sys.executable, "-m", main, str(self.home), listen]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.deployment) if from_file else "", for_s, grace_s],
                cwd=program,
                env={
                    # These ports are one for all edges of this machine, and only some tests are about them.
                    "EDGE_ACTORS_AMQP_LISTEN": "off",
                    "EDGE_ACTORS_WEB_LISTEN": "off",
                    **os.environ,
                    "PYTHONPATH": str(program),
                    **settings,
                },
                stdout=log,
                stderr=log,
            )

    @property
    def iothub(self) -> str:
        """The name of the IoT Hub that the edge runs for itself."""
        return str(json.loads((self.home / "provisioned.json").read_text())["hostName"])

    def kill_agent(self) -> None:
        """kill -9; modules and hub live on."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end of the agent process; returns its exit code."""
        assert self.process is not None
        return self.process.wait(limit_s)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ask(self, to: str, question: object, answer: type[T], timeout_s: float = 5.0) -> T:
        """Ask one actor and return its answer; one that is not there may be restarting and is waited for."""
        deadline_s = time.monotonic() + timeout_s
        with Client.outside(self.run.path) as client:
            while True:
                try:
                    return client.ask(to, question, answer, timeout_s)
                except NobodyThere:
                    if time.monotonic() >= deadline_s:
                        raise
                time.sleep(0.01)  # it was not told, so telling it again does nothing twice

    def modules(self) -> dict[str, dict[str, Any]]:
        """Return what the agent lists, by name."""
        listed = self.ask(AGENT, ListModules(), ModuleList)
        return {module["name"]: module for module in listed.modules}

    def wait_for(self, **statuses: str) -> dict[str, dict[str, Any]]:
        """Wait until modules are in these states, and return all that is listed."""
        return self.wait_until(
            lambda listed: all(listed.get(n, {}).get("status") == s for n, s in statuses.items())
        )

    def wait_for_another_hub(self, than: int, **statuses: str) -> dict[str, dict[str, Any]]:
        """Wait until another hub process runs, and modules are in these states; return all that is listed."""
        return self.wait_until(
            lambda listed: (
                listed["edgeHub"]["pid"] not in (0, than)
                and all(listed[name]["status"] == status for name, status in statuses.items())
            )
        )

    def wait_until(self, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        """Wait until something holds of what is listed, and return that."""
        listed: dict[str, dict[str, Any]] = {}

        def is_so() -> bool:
            nonlocal listed
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            if (self.run.path / "agent.agent").exists():
                with suppress(AskTimeout):  # the socket may still be that of an agent before
                    listed = self.modules()
                    return holds(listed)
            return False

        wait_until(is_so, lambda: f"{listed}\n{self.log.read_text()}", LIMIT_S)
        return listed

    def wait_for_routes(self, good: list[str], bad: list[str]) -> None:
        """Wait until these routes are in force, and these left out."""
        found: Routes | None = None

        def are_in_force() -> bool:
            nonlocal found
            with suppress(AskTimeout):
                found = self.ask(ROUTER, ListRoutes(), Routes)
            return found is not None and (
                [[route[0] for route in routes] for routes in (found.good, found.bad)] == [good, bad]
            )

        wait_until(are_in_force, lambda: f"{found}\n{self.log.read_text()}", LIMIT_S)

    def line(self, limit_s: float = LIMIT_S) -> str:
        """Return the next line that a module wrote to the pipe."""
        while b"\n" not in self._rest:
            assert select.select([self._pipe], [], [], limit_s)[0], self.log.read_text()
            self._rest += os.read(self._pipe, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def lines_so_far(self) -> list[str]:
        """Return the lines that modules have written to the pipe, without waiting for more."""
        with suppress(BlockingIOError):
            while part := os.read(self._pipe, 4096):
                self._rest += part
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode() for line in lines]

    def close(self) -> None:
        """End everything, however the test went."""
        from runtime.iothub.cloud_home import CloudHome
        from runtime.modules.leftovers import end_edge

        if self.process is not None:
            self.process.kill()
            self.process.wait()
        end_edge(self.run, grace_s=0)
        CloudHome.in_home(self.home).run.remove()
        os.close(self._pipe)
        shutil.rmtree(self.folder)
