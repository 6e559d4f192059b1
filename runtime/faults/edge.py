"""The edge of a fault script: one home, the agents that run on it one after the other, the hub they share."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from actors.addresses import AGENT, AGENT_PROCESS, HUB, INSPECTOR, INSPECTOR_OF_AGENT
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import StartModule
from actors.inspection.messages import ActorsSeen, LookAtActors
from messaging.address import socket_name
from messaging.client import Client, RequestRefused
from messaging.errors import AskTimeout, ConfigError, EnvironmentFault
from messaging.lifecycle import Describe, Described, InspectorAwake, WakeInspector
from runtime.cli.identity import connection_string, last_hub_config
from runtime.config.settings import variable
from runtime.faults.guard import MARK
from runtime.faults.manifest import manifest_of
from runtime.faults.scenario import BYSTANDERS, Scenario
from runtime.home import Home
from runtime.machine import process_table
from runtime.modules.process_runtime import RUN_MARKER
from runtime.modules.shim import StateFolder
from runtime.run_directory import RunDirectory
from runtime.security.key_store import KeyStore
from runtime.security.leaf_rules import known_identities

PROGRAM: Final = (sys.executable, "-m", "runtime.cli.main")
PROGRAM_WITH_CLOCK: Final = (sys.executable, "-m", "runtime.faults.edge_main")
SOURCES: Final = Path(__file__).resolve().parents[2]
LIMIT_S: Final = 60.0
LOOK_S: Final = 0.02
ASK_LIMIT_S: Final = 2.0

T = TypeVar("T")


class RunFailed(Exception):
    """The edge did not do what a run needs to go on."""


class Edge:
    """One home in a folder of its own."""

    def __init__(
        self, folder: Path, scenario: Scenario, settings: Mapping[str, str], images: Mapping[str, str]
    ) -> None:
        """Prepare a run.

        Args:
            folder: Of the run, empty.
            scenario: What is to run.
            settings: Those that come on top of the scenario's, by name.
            images: Those that were made for this run, by the word that stands for them.
        """
        self.folder = folder
        self.home = folder / "home"
        self.place = Home(self.home)
        self.run = RunDirectory.of(self.home)
        self.log = folder / "edge.log"
        is_amqp = scenario.load.over == "amqp"
        self.address = (loopback_address() if is_amqp else "127.0.0.1", _free_port())
        self.agent_ends = 0  # that nobody asked for
        self.deployment = folder / "deployment.json"
        self.deployment.write_text(json.dumps(manifest_of(scenario, images), indent=1))
        self._modules = (*BYSTANDERS, *(n for n, m in scenario.edge.modules.items() if m.restart == "always"))
        is_altered = scenario.uses("move clock", "power cut")
        self._program = PROGRAM_WITH_CLOCK if is_altered else PROGRAM
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EDGE_ACTORS_")},
            MARK: str(folder.absolute()),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH")))),
            # These ports are one for all edges of a machine.
            "EDGE_ACTORS_AMQP_LISTEN": f"{self.address[0]}:5671" if is_amqp else "off",
            "EDGE_ACTORS_WEB_LISTEN": "off",
            **{variable(name): value for name, value in {**scenario.edge.settings, **settings}.items()},
        }
        self._agent: subprocess.Popen[bytes] | None = None
        self._was_well = False
        self._dead_hub = 0  # the last one that was killed

    # doing

    def start(self) -> None:
        """Start an agent; does not wait for anything."""
        command = [*self._program, "run", "--deployment", str(self.deployment), "--home", str(self.home)]
        command += ["--listen", f"{self.address[0]}:{self.address[1]}", "--allow-faults"]
        with self.log.open("ab") as log:
            self._agent = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the script, which ends the edge in order
            )

    def look_after_agent(self) -> None:
        """Start an agent again that ended, as systemd would."""
        if self._agent is not None and self._agent.poll() is not None:
            self.agent_ends += 1
            if self.agent_ends > 20 or not self._was_well:
                how = "again and again" if self._was_well else "before it runs"
                last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
                raise RunFailed(f"the agent ends {how}: {''.join(last)}; log: {self.log}")
            self.start()

    def kill_agent(self) -> None:
        """SIGKILL; nobody starts another one."""
        assert self._agent is not None
        self._agent.kill()
        self._agent.wait()
        self._agent = None

    @property
    def has_agent(self) -> bool:
        """Whether one was started that nobody has killed."""
        return self._agent is not None

    def kill(self, name: str) -> bool:
        """SIGKILL of a process module, of edgeHub or edgeCloud; False when there is none at this moment."""
        pid = self.pid_of(name)
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        if name == "edgeHub":
            self._dead_hub = pid
        return True

    def kill_everything(self) -> None:
        """SIGKILL of all processes of the edge, as when a machine is switched off."""
        if self._agent is not None:
            self.kill_agent()
        self._dead_hub = self.pid_of("edgeHub") or 0
        found = process_table.find({RUN_MARKER: str(self.run.path)})
        process_table.signal_and_wait(found, signal.SIGKILL, LIMIT_S)
        self.wait_for(lambda: self.pid_of("edgeHub") is None, "the hub is dead", with_agent=False)

    def wait_until_well(self) -> None:
        """Wait until the agent says that hub and modules run."""
        self.wait_for(self.is_well, "hub and modules run")
        self._was_well = True

    def is_well(self) -> bool:
        """Return whether the agent says that hub and modules run.

        What crashes again and again waits longer and longer; nobody has time for that here.
        """
        if not self.has_agent:
            return False
        modules = self.modules()
        for name in ("edgeHub", *self._modules):
            if modules.get(name, {}).get("status") == "backoff":
                self.ask(AGENT, StartModule(name), ModuleReported)
        if self.pid_of("edgeHub") in (None, self._dead_hub):  # the agent may not know yet
            return False
        return all(modules.get(name, {}).get("status") == "running" for name in ("edgeHub", *self._modules))

    def down(self) -> list[str]:
        """End the edge; returns what is left of it, which should be nothing."""
        done = subprocess.run(
            [*PROGRAM, "down", "--home", str(self.home)],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        left = [done.stderr.strip()] if done.returncode else []
        if self._agent is not None:
            try:
                self._agent.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                left.append(f"the agent, process {self._agent.pid}")
                self.kill_agent()
        for process in process_table.find({RUN_MARKER: str(self.run.path)}):
            left.append(f"process {process.pid}, {process_table.command_of(process.pid)}")
        if self.run.path.exists():
            left.append(f"{self.run.path}: {sorted(path.name for path in self.run.path.iterdir())}")
        return left

    def set_variable(self, name: str, value: str) -> None:
        """Give the agent a variable from its next start on."""
        self._environment[name] = value

    # looking

    def now_s(self) -> float:
        """Return the right time."""
        return time.time()

    @property
    def ca_file(self) -> str:
        """What clients trust."""
        return str(self.place.certificates / "edge-ca.pem")

    def wait_for_identities(self, names: Sequence[str]) -> None:
        """Wait until the IoT Hub has these modules: those that do not run get their lasting keys then."""

        def are_there() -> bool:
            try:
                known = KeyStore.open(self.place.keys).cloud_modules()
            except (ConfigError, EnvironmentFault):  # it is not written yet
                return False
            return all(known.get(name) for name in names)

        self.wait_for(are_there, f"the IoT Hub has {', '.join(names)}")

    def connection_string(self, name: str) -> str:
        """Return with what a module connects that is played here."""
        found = next(one for one in known_identities(self.place) if one.module_id == name)
        return connection_string(found, last_hub_config(self.place))

    def modules(self) -> dict[str, dict[str, Any]]:
        """Return what the agent lists, by name; nothing while it does not answer."""
        listed = self.ask(AGENT, ListModules(), ModuleList)
        return {module["name"]: module for module in listed.modules} if listed else {}

    @property
    def agent_pid(self) -> int | None:
        return self._agent.pid if self._agent is not None else None

    def pid_of(self, name: str) -> int | None:
        """Return the pid of a living process module, of edgeHub or edgeCloud, from the files of its shim."""
        if name == "agent":
            return self.agent_pid
        started = StateFolder(self.run.modules / name).started()
        if started is None or not process_table.is_alive(started.module.pid, started.module.start_ticks):
            return None
        return started.module.pid

    def bystander_pids(self) -> dict[str, int | None]:
        return {name: self.pid_of(name) for name in BYSTANDERS}

    def actors(self) -> dict[str, dict[str, Any] | None]:
        """Return how the actors of agent and hub are, by address; None: one that does not answer.

        The inspector sees them all; those that other processes may speak to are asked as well.
        """
        found: dict[str, dict[str, Any] | None] = {}
        for process, inspector in ((AGENT_PROCESS, INSPECTOR_OF_AGENT), (HUB, INSPECTOR)):
            self.ask(process, WakeInspector(), InspectorAwake)
            seen = self.ask(inspector, LookAtActors(), ActorsSeen)
            if seen is None:
                found[inspector] = None
                continue
            for actor in seen.actors:
                address = str(actor["address"])
                is_exported = (self.run.path / socket_name(address)).exists()
                answers = not is_exported or self.ask(address, Describe(), Described) is not None
                found[address] = actor if answers else None
        return found

    def ask(self, to: str, question: object, answer: type[T], limit_s: float = ASK_LIMIT_S) -> T | None:
        """Ask an actor; None when it does not answer: it is starting, or was killed a moment ago."""
        if not self.run.path.exists():
            return None
        try:
            with Client.outside(self.run.path) as client:
                return client.ask(to, question, answer, limit_s)
        except (AskTimeout, RequestRefused):
            return None

    def wait_for(
        self,
        is_so: Callable[[], bool],
        what: str,
        limit_s: float = LIMIT_S,
        *,
        with_agent: bool = True,
    ) -> None:
        """Look again and again whether something has come true; an agent that ends is started again.

        Raises:
            RunFailed: it has not.
        """
        ends_s = time.monotonic() + limit_s
        while not is_so():
            if with_agent:
                self.look_after_agent()
            if time.monotonic() > ends_s:
                raise RunFailed(f"not within {limit_s:g} s: {what}; log: {self.log}")
            time.sleep(LOOK_S)


def loopback_address() -> str:
    """Return an address of this machine that hardly anybody else uses: device SDKs know no port but 8883."""
    chance = random.SystemRandom()
    return f"127.{chance.randint(1, 254)}.{chance.randint(0, 255)}.{chance.randint(1, 254)}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
