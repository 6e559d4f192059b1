"""`edge-actors system status` and `system logs`: the parts of the edge itself, as services are shown."""

from __future__ import annotations

import heapq
import os
import queue
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, printable
from runtime.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from runtime.home import Home

RUNNING: Final = "Running"
UNIT: Final = "edge-actors.service"
PARTS: Final = ("edgeAgent", "edgeHub", "edgeCloud")
LAST_LINES: Final = 10
_WIDTH: Final = 24  # of a name, as in the reference
_SYSTEMD_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """A part of the edge, or what it needs."""

    name: str
    state: str  # Running, Ready, or Down - and why
    log: tuple[str, ...] = ()  # the last lines of one that is down
    allows_faults: bool = False  # of edgeAgent: whether it was started with --allow-faults

    @property
    def is_down(self) -> bool:
        return self.state.startswith("Down")


@click.group()
def system() -> None:
    """Show how the parts of the edge are, and their logs."""


@system.command()
@common_options
def status(home: Path, as_json: bool) -> int:
    """Tell whether agent and hub run, and with them the IoT Hub on this machine, Docker and the systemd unit.

    Works whether the edge runs or not. The exit code is 1 when something is down.
    """
    from runtime.agent.inspector_note import FAULTS_ALLOWED

    services = services_of(home)
    if as_json:
        print_json([asdict(service) for service in services])
    else:
        click.echo("System services:")
        for service in services:
            click.echo(f"    {service.name.ljust(_WIDTH)}{printable(service.state)}")
        if any(service.allows_faults for service in services):
            click.echo(f"    {FAULTS_ALLOWED}")
        for service in services:
            if service.log:
                click.echo(f"\nLast lines of the log of {service.name}:")
                for line in service.log:
                    click.echo(f"    {printable(line)}")
        click.echo("\nUse 'edge-actors system logs' to check for messages of the parts of the edge.")
        click.echo("Use 'edge-actors check' to find out what is wrong, and what to do.")
    return FAILED if any(service.is_down for service in services) else DONE


@system.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of all.")
@click.option("--since", metavar="TIME", help="From then on: `90m`, `2 days` ago, or 2026-05-01T10:00:00Z.")
@common_options
def logs(follow: bool, tail: int | None, since: str | None, home: Path, as_json: bool) -> None:
    """Show the logs of agent, hub and the IoT Hub on this machine as one, in order of time.

    Each line begins with the name of its part; with --json it is an object with name and line.
    """
    from runtime.cli.support_bundle import read_time
    from runtime.home import Home

    place = Home(home)
    since_s = read_time("--since", since, time.time())
    lines: Iterable[tuple[str, str]] = _merged(place, since_s)
    if tail is not None:
        lines = deque(lines, tail)
    for name, line in lines:
        _show(name, line, as_json)
    if follow:
        for name, line in _followed(place):
            _show(name, line, as_json)


def services_of(home: Path) -> list[Service]:
    """Return how the parts of an edge are."""
    from runtime.agent.inspector_note import may_be_disturbed
    from runtime.checks.scene import Options, Scene
    from runtime.modules.leftovers import processes_of

    scene = Scene(home, Options())
    alive = {one.name: one.process.pid for one in processes_of(scene.run) if not one.is_shim}
    agent = _agent(scene)
    found = [Service("edgeAgent", agent, allows_faults=agent == RUNNING and may_be_disturbed(home))]
    listed: dict[str, dict[str, Any]] = {}
    if agent == RUNNING:
        listed = {module["name"]: module for module in scene.modules}
    names = ["edgeHub", *(["edgeCloud"] if os.path.exists(scene.home.cloud_address) else [])]
    for name in names:
        if name in listed:
            found.append(Service(name, _state_of(listed[name])))
        elif agent != RUNNING:
            pid = alive.get(name)
            found.append(
                Service(name, f"{RUNNING} (pid {pid}), without its agent" if pid else "Down - not running")
            )
    if scene.uses_containers:
        found.append(Service("docker", _docker()))
    unit = _unit_state()
    if unit is not None:
        found.append(Service(UNIT, unit))
    scene.close()
    return [_with_log(service, scene.home) for service in found]


def _agent(scene: Any) -> str:
    from messaging.errors import EdgeError

    try:
        holder = scene.agent
        if holder is None:
            return "Down - not running"
        scene.listing  # noqa: B018 - whether it answers
    except EdgeError as exc:
        return f"Down - {exc}"
    return RUNNING


def _state_of(module: dict[str, Any]) -> str:
    if module["status"] == "running":
        return RUNNING
    if module["desired"] == "stopped":
        return f"Down - stopped: {module['description']}"
    return f"Down - {module['status']}: {module['description']}"


def _docker() -> str:
    from messaging.errors import ConfigError
    from runtime.docker.engine import away_reason, engine_socket

    try:
        reason = away_reason(engine_socket(os.environ.get("DOCKER_HOST")))
    except ConfigError as exc:
        reason = str(exc)
    return RUNNING if reason is None else f"Down - {reason}"


def _unit_state() -> str | None:
    """Return how the systemd unit is; None when there is none."""
    program = shutil.which("systemctl")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "show", UNIT, "--property=LoadState,ActiveState,SubState"],
            capture_output=True,
            text=True,
            timeout=_SYSTEMD_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found.get("LoadState") != "loaded":
        return None
    if found.get("ActiveState") == "active":
        return RUNNING
    return f"Down - {found.get('ActiveState')} ({found.get('SubState')})"


def _with_log(service: Service, home: Home) -> Service:
    from messaging.errors import EdgeError
    from runtime.logs import reader as log_files

    if not service.is_down or service.name not in PARTS:
        return service
    try:
        content = b"".join(log_files.read(home.log_of(service.name), LAST_LINES))
    except EdgeError:
        return service
    return Service(service.name, service.state, tuple(content.decode("utf-8", "replace").splitlines()))


def _merged(home: Home, since_s: float | None) -> Iterator[tuple[str, str]]:
    """Yield the lines of all parts in order of time; one without a time comes behind the one before it."""
    from runtime.daemon.module_output import OutputQuery, output_of, payloads

    streams = [
        _timed(name, payloads(output_of(home, name, OutputQuery(since_s=since_s))))
        for name in PARTS
        if os.path.exists(home.log_of(name))
    ]
    if not streams:
        from messaging.errors import EnvironmentFault

        raise EnvironmentFault(
            f"home {home.path} has no logs; was an edge run with it? (`edge-actors run --home {home.path}`)"
        )
    for _, name, line in heapq.merge(*streams, key=lambda timed: timed[0]):
        yield name, line


def _timed(name: str, lines: Iterable[bytes]) -> Iterator[tuple[float, str, str]]:
    from actors.agent.log_query import LogLine, parse_line

    at_s = 0.0
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        written_s = parse_line(LogLine(text)).written_s
        at_s = at_s if written_s is None else max(at_s, written_s)
        yield at_s, name, text


def _followed(home: Home) -> Iterator[tuple[str, str]]:
    """Yield what is added to any of the logs, until Ctrl-C."""
    from runtime.daemon.module_output import OutputQuery, output_of, payloads

    came: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def follow(name: str) -> None:
        for line in payloads(output_of(home, name, OutputQuery(follow=True, tail=0))):
            came.put((name, line.decode("utf-8", "replace").rstrip("\r\n")))

    for name in PARTS:
        threading.Thread(target=follow, args=(name,), daemon=True).start()
    while True:
        yield came.get()


def _show(name: str, line: str, as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps({"name": name, "line": line}, ensure_ascii=False))
    else:
        click.echo(f"{name.ljust(9)} {printable(line)}")
