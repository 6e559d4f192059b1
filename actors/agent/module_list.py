"""How all modules are doing, as the agent tells it to those who ask on this machine.

Understood by AgentActor: ListModules, GetReport; the entries are made by pure functions.
"""

from __future__ import annotations

from typing import Any

from actors.agent.module_report import ModuleReported
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    BuiltInSettings,
    DockerSettings,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    StandInSettings,
)
from messaging.envelope import Secret
from messaging.kinds import message
from messaging.message_fields import fields_of


@message
class ListModules:
    """Tell how all modules are doing. Answered with ModuleList."""


@message
class ModuleList:
    """All modules of the deployment in order of start, edgeAgent first.

    A module has: name, type (docker, process, built-in, stand-in), image, command or address, desired,
    status, description, pid (0: none), restarts, since_s, exit_code, exit_signal, not_isolated (why it runs
    with the rights of the edge, "" if it does not), settings (of edgeHub: those that have not the effect that
    was asked for, as (variable, problem)). `routes` are those left out: (name, text, problem).

    `deployment` is what the edge reports of its deployment: version (None: none from the cloud yet), code,
    description; and local, whether a file of this device is in force.
    """

    modules: tuple[dict[str, Any], ...]
    routes: tuple[tuple[str, str, str], ...]
    deployment: dict[str, Any]


@message
class GetReport:
    """Tell what `$edgeAgent` reports of itself and of its modules. Answered with AgentReport."""


@message
class AgentReport:
    """The reported properties of `$edgeAgent`, JSON. Variables of modules may hold passwords."""

    state: Secret


def waiting(spec: ModuleSpec) -> ModuleReported:
    """Return the report of a module that has no supervisor yet."""
    unknown = ModuleStatus.UNKNOWN.value
    return ModuleReported(spec.name, unknown, spec.status.value, 0, 0, None, None, None, "waits for its turn")


def agent_report(pid: int, started_at_s: float) -> ModuleReported:
    """Return the report of edgeAgent, which is this process."""
    running = ModuleStatus.RUNNING.value
    return ModuleReported(
        EDGE_AGENT, running, running, pid, 0, started_at_s, None, None, "this edge", started_s=started_at_s
    )


def entry(spec: ModuleSpec, report: ModuleReported, settings: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return the entry of one module; `settings` are those of edgeHub without the effect asked for."""
    return _about(spec) | fields_of(report) | {"settings": settings if spec.name == EDGE_HUB else ()}


def _about(spec: ModuleSpec) -> dict[str, Any]:
    match spec.settings:
        case DockerSettings(image=image):
            return {"type": "docker", "image": image}
        case ProcessSettings(command=command):
            return {"type": "process", "command": command}
        case BuiltInSettings():
            return {"type": "built-in"}
        case StandInSettings(address=address):
            return {"type": "stand-in", "address": address}
