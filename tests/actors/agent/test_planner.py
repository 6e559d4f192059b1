"""Rows against spec sheet agent.md sections 2.2, 2.4 and 8.2; numbers are its row numbers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from actors.agent.planner import Command, CurrentModule, plan
from actors.manifest.deployment import Deployment, RuntimeSettings
from actors.manifest.hub_manifest import HubSettings
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    BuiltInSettings,
    DesiredStatus,
    DockerSettings,
    ImagePullPolicy,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    RestartPolicy,
    part_hashes,
    spec_hash,
    twin_hash,
)

STOPPED, RUNNING = DesiredStatus.STOPPED, DesiredStatus.RUNNING


def spec(name: str = "m", image: str = "i:1", order: int = 5, **changes: Any) -> ModuleSpec:
    return ModuleSpec(name=name, settings=DockerSettings(image), startup_order=order, **changes)


def hub(**changes: Any) -> ModuleSpec:
    return ModuleSpec(name=EDGE_HUB, settings=BuiltInSettings("hub:1"), **changes)


def deployment(
    *modules: ModuleSpec, edge_hub: ModuleSpec | None = None, twins: dict[str, Any] | None = None
) -> Deployment:
    return Deployment(
        schema_version="1.1",
        runtime=RuntimeSettings(),
        edge_agent=None,
        edge_hub=edge_hub,
        modules={module.name: module for module in modules},
        hub=HubSettings(),
        twins=twins or {},
    )


def applied(module: ModuleSpec, status: str = "running", **changes: Any) -> CurrentModule:
    current = CurrentModule(
        name=module.name,
        status=ModuleStatus(status),
        startup_order=module.startup_order,
        spec_hash=spec_hash(module),
        desired=module.status,
        parts=part_hashes(module),
    )
    return msgspec.structs.replace(current, **changes)


def steps(commands: tuple[Command, ...]) -> list[str]:
    return [f"{command.kind} {command.module}" for command in commands]


def planned(wanted: Deployment, *current: CurrentModule) -> list[str]:
    return steps(plan(wanted, current, twins={}))


@pytest.mark.parametrize(
    ("wanted", "current", "expected"),
    [
        ([], [], []),
        ([spec()], [], ["create m", "start m"]),
        ([spec(status=STOPPED)], [], ["create m"]),
        ([spec()], [applied(spec())], []),
        ([spec(image="i:2")], [applied(spec())], ["update m", "start m"]),
        ([spec(image="i:2")], [applied(spec(), "backoff")], ["update m", "start m"]),
        ([spec(image="i:2", status=STOPPED)], [applied(spec())], ["update m"]),
        ([], [applied(spec())], ["stop m", "remove m"]),
        ([], [applied(spec(), "failed")], ["stop m", "remove m"]),
        ([spec()], [applied(spec(), "dead")], ["update m", "start m"]),
        ([spec()], [applied(spec(), spec_hash=None)], ["update m", "start m"]),
    ],
    ids=[
        "11 nothing",
        "12 new",
        "12 new, desired stopped",
        "unchanged",
        "13 other image",
        "13 other image, in backoff",
        "16 status and image differ",
        "14 removed",
        "14 removed, not running",
        "25 dead",
        "origin unknown",
    ],
)
def test_the_plan_brings_one_module_to_what_is_wanted(
    wanted: list[ModuleSpec], current: list[CurrentModule], expected: list[str]
) -> None:
    """Source: agent.md section 8, rows 11 to 14, 16 and 25."""
    assert planned(deployment(*wanted), *current) == expected


@pytest.mark.parametrize(
    ("status", "to_stopped", "to_running"),
    [
        ("running", ["stop m"], []),
        ("backoff", ["stop m"], ["start m"]),
        ("failed", ["stop m"], ["start m"]),
        ("unhealthy", ["stop m"], ["start m"]),
        ("unknown", ["stop m"], ["start m"]),
        ("stopped", [], ["start m"]),
    ],
)
def test_a_change_of_status_alone_starts_or_stops_and_never_replaces(
    status: str, to_stopped: list[str], to_running: list[str]
) -> None:
    """Source: agent.md section 8, row 15."""
    running, stopped = spec(status=RUNNING), spec(status=STOPPED)

    assert planned(deployment(stopped), applied(running, status)) == to_stopped
    assert planned(deployment(running), applied(stopped, status)) == to_running


@pytest.mark.parametrize("status", [status.value for status in ModuleStatus if status != "dead"])
def test_a_module_that_the_deployment_leaves_as_it_is_is_its_supervisors_business(status: str) -> None:
    assert planned(deployment(spec()), applied(spec(), status)) == []


def test_a_module_with_desired_status_unknown_is_left_alone() -> None:
    """Source: agent.md section 8, row 55."""
    unknown = spec(image="i:2", status=DesiredStatus.UNKNOWN)

    assert planned(deployment(unknown)) == []
    assert planned(deployment(unknown), applied(spec())) == []


def test_groups_come_in_the_order_of_startup_and_within_one_removals_come_first() -> None:
    """Source: agent.md section 8, row 19."""
    wanted = deployment(
        spec("new", order=1),
        spec("changed", image="i:2", order=1),
        spec("halted", order=1, status=STOPPED),
        spec("woken", order=1),
        spec("early", order=0),
        spec("late", order=9),
    )
    current = [
        applied(spec("gone", order=1)),
        applied(spec("gone2", order=9)),
        applied(spec("changed", order=1)),
        applied(spec("halted", order=1)),
        applied(spec("woken", order=1, status=STOPPED), "stopped"),
    ]

    commands = plan(wanted, current, twins={})

    assert steps(commands) == [
        *["create early", "start early"],
        *["stop gone", "remove gone", "create new", "start new", "update changed", "start changed"],
        *["stop halted", "start woken"],
        *["stop gone2", "remove gone2", "create late", "start late"],
    ]
    orders = [command.startup_order for command in commands]
    assert orders == sorted(orders)


def test_a_module_that_starts_earlier_now_is_updated_in_its_new_group() -> None:
    """Source: agent.md section 8, row 29."""
    commands = plan(deployment(spec(order=0)), [applied(spec(order=1))], twins={})

    assert steps(commands) == ["update m", "start m"]
    assert {command.startup_order for command in commands} == {0}


def test_edge_hub_starts_before_the_modules_of_its_group() -> None:
    wanted = deployment(spec("a", order=hub().startup_order), edge_hub=hub())

    assert planned(wanted) == ["create edgeHub", "start edgeHub", "create a", "start a"]


def test_edge_agent_never_removes_itself() -> None:
    # D8
    assert planned(deployment(), applied(spec(EDGE_AGENT))) == []


def test_the_order_in_which_things_are_listed_does_not_matter() -> None:
    """Source: agent.md section 8, row 28."""
    modules = [spec("a"), spec("b", image="i:2"), spec("c")]
    current = [applied(spec("b")), applied(spec("d")), applied(spec("a"))]

    assert plan(deployment(*modules), current, {}) == plan(deployment(*modules[::-1]), current[::-1], {})


# --- Twins ---


def test_twins_that_changed_are_updated_before_any_module_starts() -> None:
    twins = {"m": {"rate": 5}, "same": {"a": [1]}, "elsewhere": {}}
    wanted = deployment(spec("m", order=0), spec("same"), twins=twins)
    known = {"m": twin_hash({"rate": 4}), "same": twin_hash({"a": [1]}), "old": twin_hash({})}

    commands = plan(wanted, [applied(spec("same"))], known)

    assert steps(commands) == ["update twin m", "update twin elsewhere", "create m", "start m"]


# --- Reasons ---


@pytest.mark.parametrize(
    ("wanted", "current", "reason"),
    [
        ([spec()], [], "it is new"),
        ([], [applied(spec())], "it is not in the deployment"),
        ([spec()], [applied(spec(), "dead")], "its container is dead"),
        (
            [spec(image="i:2", env={"A": "hush"}, version="2")],
            [applied(spec(env={"A": "b"}))],
            "changed: version, env, settings.image",
        ),
        (
            [ModuleSpec("m", ProcessSettings(("x",)))],
            [applied(ModuleSpec("m", DockerSettings("i:1")))],
            "changed: type, settings.image, settings.createOptions, settings.command",
        ),
        ([spec(image="i:2")], [applied(spec(), parts={})], "its specification changed"),
        ([spec()], [applied(spec(), spec_hash=None)], "it is not known what it was made from"),
        ([spec(status=STOPPED)], [applied(spec())], "its status changed from running to stopped"),
    ],
)
def test_each_command_has_a_reason_that_shows_no_value_of_the_environment(
    wanted: list[ModuleSpec], current: list[CurrentModule], reason: str
) -> None:
    commands = plan(deployment(*wanted), current, twins={})

    assert {command.reason for command in commands} == {reason}


def test_a_changed_working_directory_is_named() -> None:
    here, there = (ModuleSpec("m", ProcessSettings(("x",), folder)) for folder in (None, "there"))

    assert plan(deployment(there), [applied(here)], {})[0].reason == "changed: settings.workingDirectory"


# --- Shutdown ---


# --- What counts as a change ---


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"settings": DockerSettings("i:2")},
        {"settings": DockerSettings("i:1", '{"Env":["A=2"]}')},
        {"settings": ProcessSettings(("i:1",))},
        {"restart_policy": RestartPolicy.NEVER},
        {"image_pull_policy": ImagePullPolicy.NEVER},
        {"startup_order": 6},
        {"version": "2"},
        {"env": {"A": "1"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_one_field_changes_the_hash(change: dict[str, Any]) -> None:
    """Source: agent.md section 8, row 68."""
    assert spec_hash(dataclasses.replace(spec(), **change)) != spec_hash(spec())


def test_status_and_the_order_of_keys_do_not_change_the_hash() -> None:
    """Source: agent.md section 8, row 68."""
    one = spec(env={"A": "1", "B": "2"}, status=STOPPED)
    other = spec(env={"B": "2", "A": "1"})
    assert spec_hash(one) == spec_hash(other)

    options = ('{"a":1,"b":{"c":2,"d":3}}', '{"b":{"d":3,"c":2},"a":1}')
    assert len({spec_hash(ModuleSpec("m", DockerSettings("i:1", text))) for text in options}) == 1


def test_the_image_of_edge_hub_does_not_matter_but_its_environment_does() -> None:
    assert spec_hash(hub()) == spec_hash(ModuleSpec(EDGE_HUB, BuiltInSettings("hub:2", '{"a":1}')))
    assert spec_hash(hub()) != spec_hash(hub(env={"A": "1"}))


def test_the_hash_is_the_same_in_another_run() -> None:
    # Sets and string hashes differ from run to run; this hash is kept on disk and in container labels.
    code = (
        "from actors.manifest.module_spec import *\n"
        "print(spec_hash(ModuleSpec('m', ProcessSettings(('x', 'é')), env={'B': '1', 'A': '2'})))"
    )

    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }

    assert hashes == {
        spec_hash(ModuleSpec("m", ProcessSettings(("x", "é")), env={"A": "2", "B": "1"})) + "\n"
    }
