from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.agent.restart_policy import RestartState
from actors.hub import config as hub_config
from actors.manifest.deployment import Deployment, parse_deployment
from actors.manifest.module_spec import (
    EDGE_CLOUD,
    EDGE_HUB,
    DesiredStatus,
    ModuleStatus,
    part_hashes,
    spec_hash,
)
from actors.ports.modules import ModuleRecord
from runtime.agent.hub_settings import hub_settings
from runtime.agent.module_records import ModuleRecordFiles
from runtime.config.reader import read_settings
from runtime.home import Home
from tests.actors.manifests import AGENT, HUB, REMOVED, SENSOR, manifest
from tests.runtime.cli.conftest import EdgeActors

PUMP = (*AGENT, "modules", "pump")


def deployment_of(*changes: tuple[tuple[str, ...], Any]) -> Deployment:
    return parse_deployment(json.dumps(manifest(*changes)), "d.json")


@pytest.fixture
def deployed(home: Path) -> Home:
    """The home of an edge that ran the valid manifest and was ended."""
    deployment, place = deployment_of(), Home(home)
    home.mkdir()
    settings = read_settings({"home": str(home)}, {}, host_name="box")
    config = hub_settings(settings, deployment, place.certificates / "hub.pem")
    place.hub_config.write_bytes(hub_config.encode(config))
    records = ModuleRecordFiles(place.modules)
    for name, spec in deployment.supervised.items():
        status = ModuleStatus.STOPPED if spec.status is DesiredStatus.STOPPED else ModuleStatus.RUNNING
        parts, made_from = part_hashes(spec), spec_hash(spec)
        if name == EDGE_HUB:  # what this device is set to is a part of what the hub is made from
            parts, made_from = parts | {"version": "f" * 16}, "f" * 64
        state = RestartState(status=status)
        records.save(name, ModuleRecord(made_from, spec.startup_order, spec.status, state, parts=parts))
    return place


def plan_of(
    tmp_path: Path, edge_actors: EdgeActors, *changes: tuple[tuple[str, ...], Any]
) -> tuple[int, Any]:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(manifest(*changes)))
    told = edge_actors("plan", str(path), "--json")
    return told.code, json.loads(told.out)


def test_the_deployment_that_runs_would_change_nothing(
    tmp_path: Path, deployed: Home, edge_actors: EdgeActors
) -> None:
    code, found = plan_of(tmp_path, edge_actors)

    assert (code, found["changes"], found["commands"], found["routes"]) == (0, False, [], [])


def test_what_cloud_deploy_has_put_there_would_change_nothing_and_the_stand_in_stays(
    tmp_path: Path, deployed: Home, edge_actors: EdgeActors
) -> None:
    process = {"type": "process", "status": "running", "restartPolicy": "always"}
    process["settings"] = {"command": ["python3", "sensor.py"]}
    given = json.loads(json.dumps(process))
    given["settings"]["workingDirectory"] = str(tmp_path)  # as `cloud deploy` of a file in this folder says
    records = ModuleRecordFiles(deployed.modules)
    sensor = deployment_of((SENSOR, given)).modules["sensor"]
    record = records.all()["sensor"]
    records.save("sensor", replace(record, spec_hash=spec_hash(sensor), parts=part_hashes(sensor)))
    records.save(EDGE_CLOUD, record)

    same = plan_of(tmp_path, edge_actors, (SENSOR, process))[1]
    elsewhere = plan_of(tmp_path, edge_actors, (SENSOR, given | {"settings": {"command": ["a"]}}))[1]

    assert same["commands"] == []
    assert [one["reason"] for one in elsewhere["commands"]] == ["changed: settings.command"] * 2


@pytest.mark.parametrize(
    ("changes", "commands", "reason"),
    [
        ([((*SENSOR, "env", "INTERVAL_S"), {"value": 2})], ["update sensor", "start sensor"], "changed: env"),
        ([(SENSOR, REMOVED)], ["stop sensor", "remove sensor"], "it is not in the deployment"),
        ([((*PUMP, "status"), "running")], ["start pump"], "its status changed from stopped to running"),
        (
            [((*PUMP, "settings", "image"), "pump:2"), ((*PUMP, "version"), "2")],
            ["update pump"],
            "changed: version, settings.image",
        ),
        (
            [((*AGENT, "systemModules", "edgeHub", "env"), {"MaxConnectedClients": {"value": 5}})],
            ["update edgeHub", "start edgeHub"],
            "changed: env",
        ),
        (
            [((*HUB, "storeAndForwardConfiguration", "storeLimits"), {"maxSizeBytes": 9})],
            ["update edgeHub", "start edgeHub"],
            "its specification changed",
        ),
        ([(("modulesContent", "sensor", "properties.desired"), {"a": 1})], ["update twin sensor"], "changed"),
    ],
    ids=["environment", "removed", "status", "image", "variable of the hub", "limit of the store", "twin"],
)
def test_each_change_is_planned_with_its_reason(
    tmp_path: Path,
    deployed: Home,
    edge_actors: EdgeActors,
    changes: list[tuple[tuple[str, ...], Any]],
    commands: list[str],
    reason: str,
) -> None:
    code, found = plan_of(tmp_path, edge_actors, *changes)

    assert code == 3
    assert [f"{one['command']} {one['module']}" for one in found["commands"]] == commands
    assert all(reason in one["reason"] for one in found["commands"])


def test_routes_are_compared_one_by_one(tmp_path: Path, deployed: Home, edge_actors: EdgeActors) -> None:
    code, found = plan_of(
        tmp_path,
        edge_actors,
        ((*HUB, "routes", "up"), REMOVED),
        ((*HUB, "routes", "hot", "priority"), 1),
        ((*HUB, "routes", "new"), "FROM /* INTO $upstream"),
    )

    assert code == 3
    assert [(one["command"], one["route"], one["reason"]) for one in found["routes"]] == [
        ("change route", "hot", "changed: priority"),
        ("add route", "new", "FROM /* INTO $upstream"),
        ("remove route", "up", "it is not in the deployment"),
    ]


BROKER = (*HUB, "mqttBroker")
CONNECT = {"identities": ["{{iot:identity}}"], "allow": [{"operations": ["mqtt:connect"]}]}


def test_a_broker_that_is_switched_on_replaces_the_hub_and_new_rules_do_not(
    tmp_path: Path, deployed: Home, edge_actors: EdgeActors
) -> None:
    on = [((*HUB, "schemaVersion"), "1.2"), (BROKER, {"authorizations": [CONNECT]})]

    switched_on = plan_of(tmp_path, edge_actors, *on)[1]
    config = hub_config.decode(deployed.hub_config.read_bytes(), "hub.json")
    config = msgspec.structs.replace(config, broker=deployment_of(*on).hub.broker)
    deployed.hub_config.write_bytes(hub_config.encode(config))
    the_same = plan_of(tmp_path, edge_actors, *on)[1]
    other_rules = plan_of(tmp_path, edge_actors, on[0], (BROKER, {"authorizations": []}))[1]

    assert [one["command"] for one in switched_on["commands"]] == ["update", "start"]
    assert switched_on["broker"] == []
    assert not the_same["changes"]
    assert other_rules["commands"] == []
    assert other_rules["broker"] == [{"command": "change broker", "reason": "changed: authorizations"}]


def test_on_a_home_that_was_never_run_everything_is_new(
    tmp_path: Path, home: Path, edge_actors: EdgeActors
) -> None:
    code, found = plan_of(tmp_path, edge_actors)

    assert code == 3
    created = [one["module"] for one in found["commands"] if one["command"] == "create"]
    assert created == ["edgeHub", "sensor", "pump"]
    assert not home.exists()


def test_it_is_told_as_a_table_and_a_bad_manifest_is_an_error_of_the_user(
    tmp_path: Path, deployed: Home, edge_actors: EdgeActors
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(manifest(((*PUMP, "version"), "2"))))
    bad.write_text("{")

    told = edge_actors("plan", str(good))

    assert told.code == 3
    assert told.out.splitlines() == ["COMMAND  NAME  WHY", "update   pump  changed: version"]
    assert edge_actors("plan", str(bad)).code == 2
