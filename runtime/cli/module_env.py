"""`edge-actors module-env NAME`: what a module needs to run by hand or under a debugger."""

from __future__ import annotations

import base64
import os
import select
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.modules import REST_LIMIT_S, check_name
from runtime.cli.options import common_options
from runtime.cli.output import print_json
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from runtime.cli.running import RunningEdge

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("module-env")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--take-over", is_flag=True, help="Stop the module for that time, then start it again.")
@click.option("--show-secrets", is_flag=True, help="Also give its key and connection string.")
@common_options
def module_env(
    name: str, command: tuple[str, ...], take_over: bool, show_secrets: bool, home: Path, as_json: bool
) -> int:
    """Give the environment of module NAME, to run it by hand or under a debugger.

    Prints it and keeps a workload socket of its own open until Ctrl-C, for programs that you start. With
    `-- COMMAND…` runs that command in this environment, as you, and ends with it and its exit code.
    """
    from actors.addresses import AGENT, SECURITY
    from actors.agent.module_list import ListModules, ModuleList
    from actors.agent.security import DebugSocket, OpenDebugSocket
    from messaging.errors import ConfigError, EnvironmentFault
    from runtime.cli.running import running_edge
    from runtime.machine import process_table

    if command and shutil.which(command[0]) is None:
        raise ConfigError(f"command {command[0]!r} not found or not executable; give its path after `--`")
    with running_edge(home) as edge:
        modules = {
            m["name"]: m
            for m in edge.ask(AGENT, ListModules(), ModuleList).modules
            if m["type"] not in ("built-in", "stand-in")
        }
        check_name(name, list(modules))
        ourselves = process_table.read_stat(os.getpid())
        assert ourselves is not None, "our own process is always in /proc"
        asked = OpenDebugSocket(name, ourselves.pid, ourselves.start_ticks)
        found = edge.ask(SECURITY, asked, DebugSocket)
        variables = dict(found.environment)
        secrets = _secrets(home, name) if show_secrets else {}
        if secrets:
            variables["EdgeHubConnectionString"] = secrets["connectionString"]
            variables["EdgeModuleCACertificateFile"] = found.ca_file
        runs = bool(modules[name]["pid"])
        if runs and not take_over:
            click.echo(
                f"{name} runs too: two clients of one identity take the connection from each other; "
                "with --take-over it is stopped meanwhile",
                err=True,
            )
        with _end_asked() as asked_to_end, _taken_over(edge, name, take_over and runs):
            if command:
                return _run(command, variables)
            _print(name, variables, secrets, as_json)
            if _wait(home, asked_to_end):
                return DONE
    raise EnvironmentFault(f"the edge on home {home} ended, and the workload socket with it")


@contextmanager
def _taken_over(edge: RunningEdge, name: str, wanted: bool) -> Iterator[None]:
    """Have the supervised instance stopped meanwhile."""
    from actors.addresses import AGENT
    from actors.agent.module_report import ModuleReported
    from actors.agent.supervisor_messages import StartModule, StopModule

    if not wanted:
        yield
        return
    try:
        stopped = edge.ask(AGENT, StopModule(name), ModuleReported, REST_LIMIT_S)
        click.echo(f"{name} is {stopped.status}, until this ends", err=True)
        yield
    finally:
        started = edge.ask(AGENT, StartModule(name), ModuleReported, REST_LIMIT_S)
        click.echo(f"{name} is {started.status} again", err=True)


def _secrets(home: Path, name: str) -> dict[str, str]:
    from messaging.errors import ConfigError
    from runtime.cli.identity import connection_string, last_hub_config
    from runtime.home import Home
    from runtime.security.key_store import KeyStore

    place = Home(home)
    for found in KeyStore.open(place.keys).identities():
        if found.module_id == name:
            key = base64.b64encode(found.primary_key).decode()
            return {
                "connectionString": connection_string(found, last_hub_config(place)),
                "primaryKey": key,
            }
    raise ConfigError(f"there is no identity of module {name!r} yet; see `edge-actors identity list`")


def _print(name: str, variables: Mapping[str, str], secrets: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        values: dict[str, Any] = {"module": name, "environment": variables}
        print_json(values | ({"secrets": secrets} if secrets else {}))
    else:
        for variable, value in variables.items():
            click.echo(f"export {variable}={shlex.quote(value)}")
        click.echo("good until Ctrl-C here; type these lines where the module is to run", err=True)


@contextmanager
def _end_asked() -> Iterator[int]:
    """Give a descriptor that is readable from the first signal on that asks us to end."""
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        with _handled(lambda *_: os.eventfd_write(descriptor, 1)):
            yield descriptor
    finally:
        os.close(descriptor)


def _wait(home: Path, asked_to_end: int) -> bool:
    """Wait until a signal asks us to end, which gives True, or the edge ends."""
    from runtime.machine import process_table
    from runtime.run_directory import AGENT, Lock, RunDirectory

    holder = Lock(RunDirectory.of(home), AGENT).holder()
    agent = process_table.open_pidfd(holder.pid, holder.start_ticks) if holder else None
    ends = [asked_to_end] if agent is None else [asked_to_end, agent]
    readable, _, _ = select.select(ends, [], [], 0 if agent is None else None)
    return asked_to_end in readable


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command and return its exit code, 128 + n after signal n. It gets the signals that we get."""
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        # Ctrl-C reaches the whole group of the terminal by itself.
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    with _handled(pass_on):
        child = subprocess.Popen(command, env=os.environ | variables)
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
