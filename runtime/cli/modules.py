"""`edge-actors list`, `start`, `stop` and `restart`: the modules of a running edge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from runtime.cli.bridges import bridge_lines, bridges_of
from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.cli.words import duration

REST_LIMIT_S: Final = 60.0  # a module may take its stop grace to end, 10 s unless set otherwise


@click.command("list")
@common_options
def list_modules(home: Path, as_json: bool) -> None:
    """List the modules of the deployment and how they are, edgeAgent and edgeHub included."""
    from actors.addresses import AGENT
    from actors.agent.module_list import ListModules, ModuleList
    from actors.manifest.module_spec import EDGE_AGENT
    from runtime.agent.inspector_note import FAULTS_ALLOWED, may_be_disturbed
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        answer = edge.ask(AGENT, ListModules(), ModuleList)
        bridges = () if as_json else bridges_of(edge, home)
    allows_faults = may_be_disturbed(home)
    found = tuple(
        m | {"allows_faults": allows_faults} if m["name"] == EDGE_AGENT else m for m in answer.modules
    )
    if as_json:
        print_json(found)
        return
    now_s = time.time()
    print_table(
        ("NAME", "STATUS", "PID", "DESCRIPTION", "CONFIG"),
        ((m["name"], m["status"], m["pid"] or "", told(m, now_s), config(m)) for m in found),
    )
    for line in (
        *not_isolated(found),
        *wrong_settings(found),
        *bridge_lines(bridges),
        *deployed(answer.deployment),
        *([FAULTS_ALLOWED] if allows_faults else []),
    ):
        click.echo(line)


@click.command()
@click.argument("name")
@common_options
def start(name: str, home: Path, as_json: bool) -> None:
    """Start module NAME, whatever the deployment says, until it is stopped or its deployment changes."""
    from actors.agent.supervisor_messages import StartModule

    _command(name, StartModule, home, as_json)


@click.command()
@click.argument("name")
@common_options
def stop(name: str, home: Path, as_json: bool) -> None:
    """Stop module NAME. It stays stopped until `edge-actors start` or a change of its deployment."""
    from actors.agent.supervisor_messages import StopModule

    _command(name, StopModule, home, as_json)


@click.command()
@click.argument("name")
@common_options
def restart(name: str, home: Path, as_json: bool) -> None:
    """Stop module NAME if it runs, then start it."""
    from actors.agent.supervisor_messages import RestartModule

    _command(name, RestartModule, home, as_json)


def deployed(about: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of where the deployment comes from; of a file of his own nothing."""
    version, description = about["version"], about["description"]
    if about["code"] != 200:
        in_force = "" if version is None else f" In force is version {version}."
        return [f"deployment: {about['code']}: {description}.{in_force}"]
    if description:
        return [f"deployment: {description}"]
    if about["local"]:
        return []
    return [
        "deployment: none has come yet" if version is None else f"deployment: version {version} of the cloud"
    ]


def told(module: Mapping[str, Any], now_s: float) -> str:
    """Return how a module is in a few words: how long it is up, else why it is not."""
    if module["status"] == "running" and module["since_s"] is not None:
        marked = " (not isolated)" if module["not_isolated"] else ""
        return f"Up {duration(now_s - module['since_s'])}{marked}"
    description: str = module["description"]
    return description


def not_isolated(modules: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each reason why modules run with the rights of the edge itself."""
    reasons: dict[str, list[str]] = {}
    for module in modules:
        if module["not_isolated"]:
            reasons.setdefault(module["not_isolated"], []).append(module["name"])
    return [f"not isolated: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def wrong_settings(modules: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each variable of edgeHub that has not the effect that was asked for."""
    return [
        f"{module['name']}: variable {name}: {problem}"
        for module in modules
        for name, problem in module["settings"]
    ]


def config(module: Mapping[str, Any]) -> str:
    """Return what a module was made from: an image, or a command."""
    if "address" in module:
        return f"IoT Hub stand-in at {module['address']}"
    if "command" in module:
        return " ".join(module["command"])
    image: str = module.get("image", module["type"])
    return image


def _command(name: str, command: Callable[[str], object], home: Path, as_json: bool) -> None:

    from actors.addresses import AGENT
    from actors.agent.module_list import ListModules, ModuleList
    from actors.agent.module_report import ModuleReported
    from messaging.message_fields import fields_of
    from runtime.cli.running import running_edge

    with running_edge(home) as edge:
        check_name(name, [m["name"] for m in edge.ask(AGENT, ListModules(), ModuleList).modules])
        report = edge.ask(AGENT, command(name), ModuleReported, REST_LIMIT_S)
    if as_json:
        print_json(fields_of(report))
    elif report.status == "running":
        click.echo(f"{name} is running (pid {report.pid})")
    else:
        click.echo(f"{name} is {report.status}: {report.description}")


def check_name(name: str, known: Sequence[str]) -> None:
    """Raise ConfigError with the nearest name, or all, when there is no such module."""
    from messaging.errors import ConfigError
    from messaging.nearest import did_you_mean

    if name not in known:
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"there is no module {name!r}{hint}")
