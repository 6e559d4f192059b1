"""The same expectations of the fake module runtime and of those that start processes and containers."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from actors.manifest.module_spec import DockerSettings, ModuleSpec, ProcessSettings
from actors.ports.modules import ModuleAccess, ModuleEnd, ModuleRun, ModuleRuntime
from messaging.clock import ManualClock
from messaging.errors import EdgeError
from runtime.agent.modules import EdgeModules
from runtime.docker.engine import HOME_LABEL
from runtime.docker.leftovers import remove_containers
from runtime.docker.maker import ContainerNames
from runtime.docker.runtime import DockerRuntime
from runtime.machine import process_table
from runtime.modules.environment import EdgeNames
from runtime.modules.isolation import ProcessIsolation
from runtime.run_directory import RunDirectory
from tests.fakes.module_runtime import FakeModuleRuntime
from tests.runtime.module_processes import wait_until_ended

ACCESS = ModuleAccess("g1", "unix:///w")
LIMIT_S = 10.0


@dataclass
class Exits:
    seen: queue.Queue[ModuleEnd] = field(default_factory=queue.Queue)

    def __call__(self, end: ModuleEnd) -> None:
        self.seen.put(end)

    def next(self) -> ModuleEnd:
        return self.seen.get(timeout=LIMIT_S)


class World(Protocol):
    runtime: ModuleRuntime

    def module(self, name: str) -> ModuleSpec:
        """Return a module that runs until it is ended."""

    def stubborn(self, name: str) -> ModuleSpec:
        """Return a module that ignores SIGTERM."""

    def broken(self, name: str) -> ModuleSpec:
        """Return a module that cannot be started."""

    def end(self, name: str, exit_code: int) -> None:
        """Let a module end by itself."""

    def wait_until_ready(self, name: str) -> None:
        """Wait until a module that was started does what it was made for."""

    def end_unseen(self, run: ModuleRun, name: str, exit_code: int) -> None:
        """Let a module end by itself while no agent lives, and wait until it is gone."""

    def next_agent(self) -> None:
        """Go on as the next agent process would, the one before being killed."""


class FakeWorld:
    def __init__(self) -> None:
        self.runtime: ModuleRuntime
        self._fake = self.runtime = FakeModuleRuntime(ManualClock())

    def module(self, name: str) -> ModuleSpec:
        return ModuleSpec(name, ProcessSettings(("x",)))

    def stubborn(self, name: str) -> ModuleSpec:
        self._fake.stubborn.add(name)
        return self.module(name)

    def broken(self, name: str) -> ModuleSpec:
        self._fake.broken[name] = "command 'x' not found"
        return self.module(name)

    def end(self, name: str, exit_code: int) -> None:
        self._fake.end(name, exit_code)

    def wait_until_ready(self, name: str) -> None:
        """A fake is ready at once."""

    def end_unseen(self, run: ModuleRun, name: str, exit_code: int) -> None:
        self.end(name, exit_code)

    def next_agent(self) -> None:
        self._fake.lose_agent()

    def close(self) -> None:
        pass


class ProcessWorld:
    """Modules are shells that wait for a line with their exit code on a named pipe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = RunDirectory(folder / "run", folder / "home")
        self._run.home.mkdir()
        self._run.prepare()
        self._made: list[EdgeModules] = []
        self._pipes: dict[str, int] = {}
        self.runtime: ModuleRuntime
        self.next_agent()

    def next_agent(self) -> None:
        if self._made:
            self._made[-1].close()
        self._modules = EdgeModules(
            self._run,
            names=EdgeNames("edge1", "hub.example", "localhost"),
            deployment_folder=self._folder,
            log_level="info",
            log_format="text",
            isolation=ProcessIsolation("off", None),
            hub_sockets=lambda: ({}, ()),
            close_hub_sockets=lambda: None,
        )
        self._made.append(self._modules)
        self.runtime = self._modules

    def module(self, name: str) -> ModuleSpec:
        return self._shell(name, "")

    def stubborn(self, name: str) -> ModuleSpec:
        return self._shell(name, "trap '' TERM; ")

    def broken(self, name: str) -> ModuleSpec:
        return ModuleSpec(name, ProcessSettings(("no-such-command",)))

    def end(self, name: str, exit_code: int) -> None:
        os.write(self._pipes[name], f"{exit_code}\n".encode())

    def wait_until_ready(self, name: str) -> None:
        ready = self._pipes[f"{name}.ready"]
        assert select.select([ready], [], [], LIMIT_S)[0]
        os.read(ready, 16)

    def end_unseen(self, run: ModuleRun, name: str, exit_code: int) -> None:
        shim = process_table.read_stat(run.pid)
        assert shim is not None
        self.end(name, exit_code)
        wait_until_ended(shim.session)  # by then the exit is written down

    def close(self) -> None:
        self._modules.kill_all()
        self._modules.close()
        for pipe in self._pipes.values():
            os.close(pipe)

    def _shell(self, name: str, before: str) -> ModuleSpec:
        for pipe in (name, f"{name}.ready"):
            if pipe not in self._pipes:
                os.mkfifo(self._folder / pipe)
                self._pipes[pipe] = os.open(self._folder / pipe, os.O_RDWR | os.O_CLOEXEC)
        path = self._folder / name
        script = f'{before}echo >"{path}.ready"; read -r code <"{path}"; exit "$code"'
        return ModuleSpec(name, ProcessSettings(("sh", "-c", script)))


class ContainerWorld:
    """The same as containers, the folder of the pipes mounted."""

    def __init__(self, folder: Path, image: str) -> None:
        self._folder = folder
        self._image = image
        self._id = uuid.uuid4().hex[:8]
        self._made: list[DockerRuntime] = []
        self._pipes: dict[str, int] = {}
        self.runtime: ModuleRuntime
        self.next_agent()

    def next_agent(self) -> None:
        if self._made:
            self._made[-1].close()
        names = ContainerNames(self._id, f"contract-{self._id}", "edgeHub", Path("/home-of-nobody"))
        self._containers = DockerRuntime(
            names, self._folder / "containers.json", environment=lambda module, access: {}
        )
        self._made.append(self._containers)
        self.runtime = self._containers

    def module(self, name: str) -> ModuleSpec:
        return self._shell(name, "trap 'exit 143' TERM; ")

    def stubborn(self, name: str) -> ModuleSpec:
        return self._shell(name, "trap '' TERM; ")

    def broken(self, name: str) -> ModuleSpec:
        return ModuleSpec(name, DockerSettings("no-such-image:1"))

    def end(self, name: str, exit_code: int) -> None:
        os.write(self._pipes[name], f"{exit_code}\n".encode())

    def wait_until_ready(self, name: str) -> None:
        ready = self._pipes[f"{name}.ready"]
        assert select.select([ready], [], [], LIMIT_S)[0]
        os.read(ready, 16)

    def end_unseen(self, run: ModuleRun, name: str, exit_code: int) -> None:
        from docker import APIClient

        client = APIClient(version="auto")
        [container] = client.containers(filters={"label": f"{HOME_LABEL}={self._id}"})
        self.end(name, exit_code)
        client.wait(container["Id"], timeout=LIMIT_S)
        client.close()

    def close(self) -> None:
        self._containers.close()
        remove_containers(self._id)
        for pipe in self._pipes.values():
            os.close(pipe)

    def _shell(self, name: str, before: str) -> ModuleSpec:
        for pipe in (name, f"{name}.ready"):
            if pipe not in self._pipes:
                os.mkfifo(self._folder / pipe)
                self._pipes[pipe] = os.open(self._folder / pipe, os.O_RDWR | os.O_CLOEXEC)
        script = f'{before}echo >"/pipes/{name}.ready"; read -r code <"/pipes/{name}"; exit "$code"'
        options = {"Cmd": ["sh", "-c", script], "HostConfig": {"Binds": [f"{self._folder}:/pipes"]}}
        return ModuleSpec(name, DockerSettings(self._image, json.dumps(options)))


@pytest.fixture(params=["fake", "process", pytest.param("container", marks=pytest.mark.docker)])
def world(request: pytest.FixtureRequest, run_dir: Path) -> Iterator[World]:
    made: FakeWorld | ProcessWorld | ContainerWorld
    if request.param == "fake":
        made = FakeWorld()
    elif request.param == "process":
        made = ProcessWorld(run_dir)
    else:
        made = ContainerWorld(run_dir, request.getfixturevalue("docker_image"))
    yield made
    made.close()


def start(world: World, make: Callable[[str], ModuleSpec], name: str = "m") -> tuple[ModuleRun, Exits]:
    exits = Exits()
    run = world.runtime.start(make(name), ACCESS, exits)
    world.wait_until_ready(name)
    return run, exits


def test_a_module_runs_until_it_ends_and_its_exit_is_told_once(world: World) -> None:
    run, exits = start(world, world.module)

    world.end("m", 3)

    end = exits.next()
    assert (end.exit_code, end.signal, end.started_at_s) == (3, None, run.started_at_s)
    assert end.ended_at_s >= end.started_at_s - 0.1
    assert exits.seen.empty()


def test_stop_asks_with_sigterm(world: World) -> None:
    _, exits = start(world, world.module)

    world.runtime.stop("m", 10.0)

    end = exits.next()
    assert (end.exit_code, end.signal) == (128 + signal.SIGTERM, signal.SIGTERM)


def test_kill_ends_whoever_does_not_want_to(world: World) -> None:
    _, exits = start(world, world.stubborn)
    world.runtime.stop("m", 60.0)

    world.runtime.kill("m")

    end = exits.next()
    assert (end.exit_code, end.signal) == (128 + signal.SIGKILL, signal.SIGKILL)


def test_to_stop_or_kill_what_does_not_run_is_no_error(world: World) -> None:
    world.runtime.stop("m", 1.0)
    world.runtime.kill("m")


def test_a_name_can_be_started_again_when_its_exit_is_told(world: World) -> None:
    first, exits = start(world, world.module)
    world.end("m", 0)
    exits.next()

    second = world.runtime.start(world.module("m"), ACCESS, exits)

    assert second.started_at_s != first.started_at_s
    world.end("m", 0)
    assert exits.next().started_at_s == second.started_at_s


def test_a_name_that_runs_cannot_be_started(world: World) -> None:
    start(world, world.module)

    with pytest.raises(ValueError, match="'m'"):
        world.runtime.start(world.module("m"), ACCESS, Exits())


def test_what_cannot_be_started_says_so_and_leaves_nothing(world: World) -> None:
    with pytest.raises(EdgeError, match=r"module 'm': (command .* not found|image .* could not be pulled)"):
        start(world, world.broken)

    assert world.runtime.adopt("m", Exits()) is None


def test_the_next_agent_takes_over_what_runs_and_hears_of_its_end(world: World) -> None:
    run, exits = start(world, world.module)
    world.next_agent()
    new_exits = Exits()

    assert world.runtime.adopt("m", new_exits) == run
    world.end("m", 4)

    assert new_exits.next().exit_code == 4
    assert exits.seen.empty()


def test_the_next_agent_is_told_how_it_ended_meanwhile(world: World) -> None:
    run, _ = start(world, world.module)
    world.next_agent()
    world.end_unseen(run, "m", 5)

    found = world.runtime.adopt("m", Exits())

    assert isinstance(found, ModuleEnd)
    assert (found.exit_code, found.started_at_s) == (5, run.started_at_s)


def test_who_asks_last_hears_of_the_end(world: World) -> None:
    run, first = start(world, world.module)
    second = Exits()

    assert world.runtime.adopt("m", second) == run
    world.end("m", 0)

    second.next()
    assert first.seen.empty()


def test_nothing_is_known_of_a_name_that_was_never_started(world: World) -> None:
    assert world.runtime.adopt("m", Exits()) is None
    assert world.runtime.names() == ()
    world.runtime.remove("m")


def test_a_name_is_known_until_it_is_removed(world: World) -> None:
    _, exits = start(world, world.module)
    assert world.runtime.names() == ("m",)
    with pytest.raises(ValueError, match="still runs"):
        world.runtime.remove("m")
    world.end("m", 0)
    exits.next()

    world.runtime.remove("m")

    assert world.runtime.names() == ()
    assert world.runtime.adopt("m", Exits()) is None
