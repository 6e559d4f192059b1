"""The edge under attack: whose agent and hub are killed, and who else must not notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from actors.addresses import AGENT
from actors.module_list import ListModules, ModuleList
from actors.module_report import ModuleReported
from actors.stored import DEFAULT_PRIORITY
from actors.supervisor_messages import StartModule
from messaging.client import Client, RequestRefused
from messaging.errors import AskTimeout
from runtime import process_table
from runtime.module_shim import StateFolder
from runtime.process_runtime import RUN_MARKER
from runtime.run_directory import RunDirectory
from scripts.bench.mqtt_link import Target
from scripts.bench.peer_edge import COMMAND, ROOT, Identity
from scripts.bench.peer_mosquitto import free_port
from scripts.campaign import hub_main
from scripts.campaign.scenario import RouteOfLoad, Scenario

LIMIT_S: Final = 60.0
LOOK_S: Final = 0.02
INPUT: Final = "in1"  # of every consumer
BYSTANDERS: Final = ("bystander1", "bystander2")  # modules that run and must go on running


class CampaignFailed(Exception):
    """The edge did not do what the campaign needs to go on."""


class Edge:
    """One home, the agents that run on it one after the other, and the hub they share."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.run = RunDirectory.of(self.home)
        self.database = self.home / "hub.db"
        self.log = folder / "edge.log"
        self.publishers = tuple(f"pub{number}" for number in range(1, scenario.load.publishers + 1))
        self._port = free_port()
        self._plain_port = free_port()
        self._deployment = folder / "deployment.json"
        self._deployment.write_text(json.dumps(_manifest(scenario, self.publishers), indent=1))
        self._program = COMMAND
        self._agent: subprocess.Popen[bytes] | None = None
        self._killed_hub = 0  # the last one

    # doing

    def alter_hub(self, *, defect: str = "", trace: Path | None = None) -> None:
        """Say how the hub runs from its next start on; without a word, as it does for everybody."""
        hub_main.write_plan(self.folder, defect=defect, trace=trace)
        altered = [sys.executable, "-m", "scripts.campaign.edge_main"]
        self._program = altered if defect or trace else COMMAND

    def start(self) -> None:
        """Start an agent; does not wait for anything."""
        command = [*self._program, "run", "--deployment", str(self._deployment), "--home", str(self.home)]
        with self.log.open("ab") as log:
            self._agent = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{self._port}"],
                cwd=ROOT,
                env=os.environ | {"EDGE_ACTORS_PLAIN_LISTEN": f"127.0.0.1:{self._plain_port}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill_agent(self) -> None:
        agent = self._living_agent()
        agent.kill()
        agent.wait()

    def kill_hub(self) -> bool:
        """Kill the hub, whether an agent lives or not; False when there is none at this moment."""
        pid = self.hub_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        self._killed_hub = pid
        return True

    def wait_for_death_of_hub(self) -> None:
        """Wait until a killed hub is gone; no agent lives."""
        ends_s = time.monotonic() + LIMIT_S
        while self.hub_pid() is not None:
            if time.monotonic() > ends_s:
                raise CampaignFailed(f"the hub did not die; log: {self.log}")
            time.sleep(LOOK_S)

    def wait_until_well(self) -> None:
        """Wait until the agent says that the hub and the bystanders run.

        A hub that crashes again and again waits longer and longer; nobody has time for that here.
        """

        def is_well() -> bool:
            modules = self.modules()
            hub = modules.get("edgeHub", {}).get("status")
            if hub == "backoff":
                self._ask(StartModule("edgeHub"), ModuleReported)
            if self.hub_pid() in (None, self._killed_hub):  # the agent may not know yet
                return False
            return hub == "running" and all(modules[name]["status"] == "running" for name in BYSTANDERS)

        self.wait_for(is_well, "hub and modules run")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call `edge-actors` on this home."""
        return subprocess.run(
            [*COMMAND, *arguments, "--home", str(self.home)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def identity(self, name: str) -> Identity:
        """Return with what a module that is played here connects."""
        done = self.command("identity", "show", name, "--json")
        if done.returncode:
            raise CampaignFailed(f"identity of {name}: {done.stderr}")
        return Identity.from_connection_string(json.loads(done.stdout)["connectionString"])

    def down(self) -> list[str]:
        """End the edge; returns what is left of it, which should be nothing."""
        done = self.command("down")
        left = [done.stderr.strip()] if done.returncode else []
        if self._agent is not None:
            self._agent.wait(LIMIT_S)
        for process in process_table.find({RUN_MARKER: str(self.run.path)}):
            left.append(f"process {process.pid}, {process_table.command_of(process.pid)}")
        if self.run.path.exists():
            left.append(f"{self.run.path}: {sorted(path.name for path in self.run.path.iterdir())}")
        return left

    # looking

    def target(self, *, plain: bool) -> Target:
        """Return where clients connect; plain TCP when somebody listens in."""
        if plain:
            return Target("127.0.0.1", self._plain_port)
        return Target("127.0.0.1", self._port, str(self.home / "certificates" / "edge-ca.pem"))

    def modules(self) -> dict[str, dict[str, Any]]:
        """Return what the agent lists, by name; nothing while it does not answer."""
        listed = self._ask(ListModules(), ModuleList)
        return {module["name"]: module for module in listed.modules} if listed else {}

    def hub_pid(self) -> int | None:
        """Return the pid of the living hub, from the files of its shim."""
        return self._living("edgeHub")

    def bystander_pids(self) -> dict[str, int | None]:
        return {name: self._living(name) for name in BYSTANDERS}

    def wait_for(self, is_so: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Look again and again whether something has come true.

        Raises:
            CampaignFailed: it has not, or the agent ended by itself.
        """
        ends_s = time.monotonic() + limit_s
        while not is_so():
            self._living_agent()
            if time.monotonic() > ends_s:
                raise CampaignFailed(f"not within {limit_s:g} s: {what}; log: {self.log}")
            time.sleep(LOOK_S)

    def _living(self, name: str) -> int | None:
        started = StateFolder(self.run.modules / name).started()
        if started is None or not process_table.is_alive(started.module.pid, started.module.start_ticks):
            return None
        return started.module.pid

    def _living_agent(self) -> subprocess.Popen[bytes]:
        if self._agent is None or self._agent.poll() is not None:
            raise CampaignFailed(f"the agent ended by itself; log: {self.log}")
        return self._agent

    def _ask(self, question: object, answer: type[Any]) -> Any:
        if not (self.run.path / "agent.agent").exists():
            return None
        try:
            with Client.outside(self.run.path) as client:
                return client.ask(AGENT, question, answer, 2.0)
        except (AskTimeout, RequestRefused):
            return None  # it is starting, or was killed a moment ago


def topic_of(identity: Identity, output: str) -> str:
    """Return the topic on which a module sends to one of its outputs."""
    return f"{identity.path}/messages/events/%24.on={output}"


def _manifest(scenario: Scenario, publishers: tuple[str, ...]) -> dict[str, Any]:
    def module(status: str) -> dict[str, Any]:
        settings = {"command": ["sleep", "100000"]}
        return {"type": "process", "status": status, "restartPolicy": "always", "settings": settings}

    # Modules that are played by the campaign itself are deployed as stopped, which gives them an identity.
    played = dict.fromkeys((*publishers, *scenario.load.consumers), module("stopped"))
    running = dict.fromkeys(BYSTANDERS, module("running"))
    system = {"type": "docker", "status": "running", "restartPolicy": "always"}
    return {
        "modulesContent": {
            "$edgeAgent": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
                    "systemModules": {
                        name: {**system, "settings": {"image": f"campaign/{name}:none"}}
                        for name in ("edgeAgent", "edgeHub")
                    },
                    "modules": played | running,
                }
            },
            "$edgeHub": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": _routes(scenario.routes, publishers),
                    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
                }
            },
        }
    }


def _routes(routes: Mapping[str, RouteOfLoad], publishers: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, route in routes.items():
        form: dict[str, Any] = {}
        if route.priority != DEFAULT_PRIORITY:
            form["priority"] = route.priority
        if route.ttl_s:
            form["timeToLiveSecs"] = route.ttl_s
        for publisher in publishers:
            text = f"FROM /messages/modules/{publisher}/outputs/{route.output} "
            text += f'INTO BrokeredEndpoint("/modules/{route.into}/inputs/{INPUT}")'
            found[f"{name}-{publisher}"] = {"route": text, **form} if form else text
    return found
