"""What `$edgeAgent` reports, as a pure function. Source: spec sheet agent.md section 1.6."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from actors.agent.deployment_keeper import DeploymentStatus
from actors.agent.module_list import agent_report
from actors.agent.module_report import ModuleReported
from actors.agent.reported import MOST_BYTES, Platform, agent_state, stopped_state
from actors.manifest.deployment import Deployment, parse_deployment
from actors.manifest.module_spec import EDGE_AGENT
from messaging.twin import checked_patch, size_bytes
from messaging.version import VERSION
from tests.actors.manifests import AGENT, manifest_text

NEVER = "0001-01-01T00:00:00Z"
STARTED_S = 1_714_557_600.5
SENSOR = ModuleReported(
    "sensor", "running", "running", 5, 2, STARTED_S, 3, None, "running", started_s=STARTED_S
)


def deployment(modules: dict[str, Any], *changes: tuple[tuple[str, ...], Any]) -> Deployment:
    return parse_deployment(manifest_text(((*AGENT, "modules"), modules), *changes), "d.json")


def docker(**others: Any) -> dict[str, Any]:
    module = {"type": "docker", "status": "running", "settings": {"image": "sensor:1", "createOptions": ""}}
    return module | others


def state(made: Deployment, *reports: ModuleReported, version: int | None = 7) -> dict[str, Any]:
    known = {report.name: report for report in (agent_report(77, 5.0), *reports)}
    return agent_state(made, version, DeploymentStatus(), known, Platform(architecture="x86_64"))


def test_a_module_is_reported_with_what_it_was_asked_and_how_it_fares() -> None:
    """Source: agent.md section 8, row 90."""
    made = deployment(
        {"sensor": docker(version="1.0", restartPolicy="always", startupOrder=1, env={"RATE": {"value": 5}})}
    )

    entry = state(made, SENSOR)["modules"]["sensor"]

    assert entry == {
        "version": "1.0",
        "type": "docker",
        "status": "running",
        "restartPolicy": "always",
        "imagePullPolicy": "on-create",
        "startupOrder": 1,
        "exitCode": 3,
        "statusDescription": "running",
        "lastStartTimeUtc": "2024-05-01T10:00:00.500000Z",
        "lastExitTimeUtc": NEVER,
        "restartCount": 2,
        "lastRestartTimeUtc": NEVER,
        "runtimeStatus": "running",
        "settings": {"image": "sensor:1", "createOptions": "{}"},
        "env": {"RATE": {"value": "5"}},
    }


def test_the_edge_itself_is_reported_with_its_platform_and_its_system_modules() -> None:
    made = deployment({})
    hub = replace(SENSOR, name="edgeHub")

    told = state(made, hub)

    assert told["schemaVersion"] == "1.0"
    assert told["version"] == {"version": VERSION, "build": "", "commit": ""}
    assert told["lastDesiredVersion"] == 7
    assert told["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert told["runtime"]["platform"] == {"os": "linux", "architecture": "x86_64", "version": VERSION}
    agent, edge_hub = (told["systemModules"][name] for name in ("edgeAgent", "edgeHub"))
    assert agent["startupOrder"] == 0
    assert agent["runtimeStatus"] == "running"
    assert not agent.keys() & {"status", "restartPolicy", "restartCount", "lastRestartTimeUtc", "version"}
    assert edge_hub["status"] == "running"
    assert "version" not in edge_hub


def test_passwords_of_registries_are_masked() -> None:
    """Source: agent.md section 8, row 90; passwords are masked."""
    credentials = {"my reg.io": {"address": "reg.io", "username": "u", "password": "hunter2"}}
    settings = (*AGENT, "runtime", "settings", "registryCredentials")

    told = state(deployment({}, (settings, credentials)))

    shown = told["runtime"]["settings"]["registryCredentials"]
    assert shown == {"my%20reg%2Eio": {"address": "reg.io", "username": "u", "password": "******"}}
    assert "hunter2" not in json.dumps(told)


def test_create_options_come_in_pieces() -> None:
    """Source: agent.md section 8, row 60."""
    options = json.dumps({"Labels": {"a": "x" * 1200}}, separators=(",", ":"))

    settings = state(
        deployment({"sensor": docker(settings={"image": "s:1", "createOptions": options})}), SENSOR
    )["modules"]["sensor"]["settings"]

    assert [*settings] == ["image", "createOptions", "createOptions01", "createOptions02"]
    assert "".join(text for name, text in settings.items() if name != "image") == options
    assert max(map(len, settings.values())) == 512


def test_the_image_that_runs_is_told_by_its_id() -> None:
    made = deployment({"sensor": docker()})

    settings = state(made, replace(SENSOR, image_id="sha256:abc"))["modules"]["sensor"]["settings"]

    assert settings["imageHash"] == "sha256:abc"


def test_a_module_without_a_report_is_left_out_until_there_is_one() -> None:
    assert state(deployment({"sensor": docker()}))["modules"] == {}


def test_the_last_restart_of_a_module_that_had_none_is_its_last_exit() -> None:
    made = deployment({"sensor": docker()})

    entry = state(made, replace(SENSOR, exited_s=STARTED_S))["modules"]["sensor"]

    assert entry["lastRestartTimeUtc"] == entry["lastExitTimeUtc"] == "2024-05-01T10:00:00.500000Z"


@pytest.mark.parametrize("modules", [1, 10, 50])
def test_whatever_a_deployment_says_what_is_reported_fits_into_a_twin(modules: int) -> None:
    options = json.dumps({"Labels": {"a": "x" * 5000}})
    env = {f"A_{number}": {"value": "y" * 6000} for number in range(3)}
    one = docker(settings={"image": "s:1", "createOptions": options}, env=env)
    made = deployment({f"m{number}": one for number in range(modules)})
    reports = [replace(SENSOR, name=name, description="d" * 3000) for name in made.modules]

    told = state(made, *reports)

    assert size_bytes(told) <= MOST_BYTES
    assert checked_patch("reported", told) == told
    assert len(told["modules"]) == modules


def test_an_edge_that_stops_knows_nothing_of_its_modules_any_more() -> None:
    before = state(deployment({"sensor": docker()}), SENSOR)

    after = stopped_state(before)

    assert after["lastDesiredStatus"]["code"] == 406
    assert after["modules"]["sensor"] == before["modules"]["sensor"] | {"runtimeStatus": "unknown"}
    assert after["systemModules"][EDGE_AGENT]["runtimeStatus"] == "unknown"
    assert before["modules"]["sensor"]["runtimeStatus"] == "running"
