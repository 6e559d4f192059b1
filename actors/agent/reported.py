"""What `$edgeAgent` reports of itself and of its modules. Pure; AgentLinkActor sends what has changed.

Deviations: passwords of registries are masked (D9); a module whose container could not be made is there too,
with the reason; what does not fit into a twin is left out, environment first.

Source: spec sheet agent.md section 1.6
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from actors.agent.deployment_keeper import DeploymentStatus, shortened
from actors.agent.module_report import ModuleReported
from actors.hub.own_report import SCHEMA_VERSION, client_key
from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    LAST_STARTUP_ORDER,
    BuiltInSettings,
    DockerSettings,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    StandInSettings,
)
from messaging.time_text import NEVER, iso_utc
from messaging.twin import LARGEST_BYTES, LONGEST_TEXT_BYTES, Json, size_bytes
from messaging.version import VERSION

CHUNK: Final = 512  # characters of createOptions in one property
MOST_BYTES: Final = LARGEST_BYTES["reported"] - 1024
MASKED: Final = "******"
NOT_RUNNING: Final = 406
NOT_RUNNING_TEXT: Final = "the edge is not running: it was ended on this device"


class Platform(Struct, frozen=True):
    """On what the edge runs, in the words of `uname`."""

    os: str = "linux"
    architecture: str = ""


UNKNOWN_PLATFORM: Final = Platform()


def agent_state(
    deployment: Deployment,
    version: int | None,
    status: DeploymentStatus,
    reports: Mapping[str, ModuleReported],
    platform: Platform,
) -> Json:
    """Return all reported properties of `$edgeAgent`.

    Args:
        deployment: The one in force.
        version: Its `$version`; None when none has come from the cloud.
        status: What became of the one that came last.
        reports: By module, edgeAgent included; of modules without one nothing is said.
        platform: On what the edge runs.
    """
    agent = deployment.edge_agent or ModuleSpec(EDGE_AGENT, BuiltInSettings())
    system = {EDGE_AGENT: _agent_entry(agent, reports[EDGE_AGENT])}
    if deployment.edge_hub is not None and EDGE_HUB in reports:
        system[EDGE_HUB] = _entry(deployment.edge_hub, reports[EDGE_HUB])
    state: Json = {
        "schemaVersion": SCHEMA_VERSION,
        "version": {"version": VERSION, "build": "", "commit": ""},
        "lastDesiredVersion": version or 0,
        "lastDesiredStatus": {"code": status.code, "description": status.description},
        "runtime": _runtime(deployment, platform),
        "systemModules": system,
        "modules": {
            name: {"version": spec.version} | _entry(spec, reports[name])
            for name, spec in deployment.modules.items()
            if name in reports
        },
    }
    return _fitting(state)


def stopped_state(state: Json) -> Json:
    """Return what is reported when the edge ends: nothing is known of the modules any more."""
    sections = {name: dict(state[name]) for name in ("systemModules", "modules")}
    for section in sections.values():
        for name, module in section.items():
            section[name] = module | {"runtimeStatus": ModuleStatus.UNKNOWN.value}
    status = {"code": NOT_RUNNING, "description": NOT_RUNNING_TEXT}
    return state | sections | {"lastDesiredStatus": status}


def _runtime(deployment: Deployment, platform: Platform) -> Json:
    runtime = deployment.runtime
    credentials = {
        client_key(label): {"address": each.address, "username": each.username, "password": MASKED}
        for label, each in runtime.registry_credentials.items()
    }
    return {
        "type": "docker",
        "settings": {
            "minDockerVersion": runtime.min_docker_version,
            "loggingOptions": runtime.logging_options,
            "registryCredentials": credentials,
        },
        "platform": {"os": platform.os, "architecture": platform.architecture, "version": VERSION},
    }


def _agent_entry(spec: ModuleSpec, report: ModuleReported) -> Json:
    own = {"imagePullPolicy": spec.image_pull_policy.value, "startupOrder": 0}
    return {"type": spec.type} | own | _run(report) | _specification(spec)


def _entry(spec: ModuleSpec, report: ModuleReported) -> Json:
    entry: Json = {
        "type": spec.type,
        "status": spec.status.value,
        "restartPolicy": spec.restart_policy.value,
        "imagePullPolicy": spec.image_pull_policy.value,
        "restartCount": report.restarts,
        "lastRestartTimeUtc": _utc(report.exited_s if report.restarted_s is None else report.restarted_s),
    }
    if spec.startup_order != LAST_STARTUP_ORDER:
        entry["startupOrder"] = spec.startup_order
    return entry | _run(report) | _specification(spec, report.image_id)


def _run(report: ModuleReported) -> Json:
    return {
        "runtimeStatus": report.status,
        "exitCode": report.exit_code or 0,
        "statusDescription": shortened(report.description),
        "lastStartTimeUtc": _utc(report.started_s),
        "lastExitTimeUtc": _utc(report.exited_s),
    }


def _specification(spec: ModuleSpec, image_id: str = "") -> Json:
    env = {name: {"value": _cut(value)} for name, value in spec.env.items()}
    match spec.settings:
        case DockerSettings(image=image, create_options=options) | BuiltInSettings(image, options):
            image_hash = {"imageHash": image_id} if image_id else {}
            settings: Json = {"image": image} | image_hash | dict(_chunks(options))
        case ProcessSettings(command=command, working_directory=folder):
            settings = {"command": json.dumps(command)}
            if folder is not None:
                settings["workingDirectory"] = folder
        case StandInSettings():  # is in no deployment
            settings = {}
    return {"settings": settings, "env": env}


def _chunks(text: str) -> Iterator[tuple[str, str]]:
    pieces = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    for number, piece in enumerate(pieces[:100]):
        yield f"createOptions{number:02}" if number else "createOptions", piece


def _fitting(state: Json) -> Json:
    """Leave out of the modules what is longest and least missed, until a twin has room for the rest."""
    entries = [*state["systemModules"].values(), *state["modules"].values()]
    for drop in (_without_env, _without_create_options, _without_description):
        if size_bytes(state) <= MOST_BYTES:
            break
        for each in entries:
            drop(each)
    return state


def _without_env(entry: Json) -> None:
    entry["env"] = {}


def _without_create_options(entry: Json) -> None:
    settings: dict[str, Any] = entry["settings"]
    entry["settings"] = {key: value for key, value in settings.items() if not key.startswith("createOptions")}


def _without_description(entry: Json) -> None:
    entry["statusDescription"] = ""


def _cut(text: str) -> str:
    encoded = text.encode()
    return encoded[:LONGEST_TEXT_BYTES].decode(errors="ignore")


def _utc(at_s: float | None) -> str:
    return NEVER if at_s is None else iso_utc(at_s)
