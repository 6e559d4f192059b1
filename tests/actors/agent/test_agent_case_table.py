"""Rows of the agent's case table that no other test names, and that none is left without one.

Source: agent.md section 8
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from actors.agent.deployment_keeper import DeploymentStatus
from actors.agent.module_list import agent_report
from actors.agent.module_report import ModuleReported
from actors.agent.planner import plan
from actors.agent.reported import UNKNOWN_PLATFORM, agent_state
from actors.agent.restart_policy import (
    BecameUnhealthy,
    LeaveAlone,
    ModuleExited,
    RestartDue,
    RestartState,
    StableDue,
    StartAt,
    Started,
    StartFailed,
    decide,
)
from actors.agent.security import EnsureModules, SecurityActor
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    BuiltInSettings,
    DesiredStatus,
    ModuleSpec,
    ModuleStatus,
    RestartPolicy,
)
from messaging.twin import Section, difference, merge
from tests.actors.agent.test_planner import applied, deployment, spec
from tests.actors.agent_world import EDGE_AGENT_ID, CloudEdge, process

LAST_ROW: Final = 124
NAMED: Final = re.compile(r"agent\.md section 8(?:\.\d)?,\s+rows? ([0-9, to and]+)")
WITHOUT: Final = {30: "there is no plan runner: supervisors act on their own, with limits that nobody sets"}
NOW_S = 1_700_000_000.0
POLICIES = list(RestartPolicy)


def rows_named(text: str) -> set[int]:
    """Return the rows that docstrings name: `row 5`, `rows 1 to 3 and 7`."""
    rows: set[int] = set()
    for listed in NAMED.findall(text):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", listed):
            rows.update(range(int(first), int(last or first) + 1))
    return rows


def test_every_row_is_named_by_a_test() -> None:
    named: set[int] = set()
    for path in Path(__file__).parents[2].rglob("test_*.py"):
        named |= rows_named(path.read_text(encoding="utf-8"))

    assert [row for row in range(1, LAST_ROW + 1) if row not in named | WITHOUT.keys()] == []
    assert named <= set(range(1, LAST_ROW + 1)) - WITHOUT.keys()


# restart policy


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("event", [BecameUnhealthy(), RestartDue(), StableDue()])
def test_nothing_is_restarted_of_which_nothing_is_known(policy: RestartPolicy, event: Any) -> None:
    """Source: agent.md section 8, row 5."""
    decision = decide(RestartState(), event, policy=policy, now_s=NOW_S)

    assert decision.action == LeaveAlone()
    assert decision.state == RestartState()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("status", [status for status in ModuleStatus if status is not ModuleStatus.BACKOFF])
def test_a_late_timer_restarts_no_module_that_waits_for_none(
    policy: RestartPolicy, status: ModuleStatus
) -> None:
    """Source: agent.md section 8, row 7."""
    state = RestartState(status=status, last_exit_at_s=NOW_S - 3600, last_exit_code=1)

    assert decide(state, RestartDue(), policy=policy, now_s=NOW_S).action == LeaveAlone()


def test_a_run_of_nine_minutes_forgives_nothing_yet() -> None:
    """Source: agent.md section 8, row 23."""
    state = RestartState(restarts=2, running_since_s=NOW_S - 540, last_exit_at_s=NOW_S - 660)

    decision = decide(state, StableDue(), policy=RestartPolicy.ALWAYS, now_s=NOW_S)

    assert decision.state.restarts == 2


def test_a_start_that_succeeds_makes_the_next_failure_the_first_once_the_run_was_well() -> None:
    """Source: agent.md section 8, row 36."""
    state, waits = RestartState(), []
    story = [
        *[StartFailed("no such image"), RestartDue()] * 3,
        Started(NOW_S + 70),
        ModuleExited(NOW_S + 700, exit_code=1),
        StartFailed("no such image"),
    ]
    now_s = NOW_S
    for event in story:
        now_s = getattr(event, "at_s", now_s)
        decision = decide(state, event, policy=RestartPolicy.ALWAYS, now_s=now_s)
        state = decision.state
        if isinstance(event, StartFailed):
            assert isinstance(decision.action, StartAt)
            waits.append(decision.action.at_s - now_s)
            now_s = decision.action.at_s

    assert waits == [10, 20, 40, 20]


# planner


@pytest.mark.parametrize(
    "agent",
    [
        ModuleSpec(EDGE_AGENT, BuiltInSettings("agent:2")),
        ModuleSpec(EDGE_AGENT, BuiltInSettings("agent:1", '{"Labels":{}}')),
        ModuleSpec(EDGE_AGENT, BuiltInSettings("agent:1"), env={"A": "1"}, version="2"),
        None,
    ],
    ids=["image", "createOptions", "env", "not in the deployment"],
)
def test_edge_agent_is_this_program_and_never_planned(agent: ModuleSpec | None) -> None:
    """Source: agent.md section 8, rows 26 and 69 to 71."""
    current = applied(ModuleSpec(EDGE_AGENT, BuiltInSettings("agent:1")))

    assert plan(replace(deployment(spec()), edge_agent=agent), [current, applied(spec())], {}) == ()


# whole agent


class _SilentSecurity(SecurityActor):
    """Answers nobody who asks for the identities of modules, while it is silent."""

    silent = False

    def on_ensure_modules(self, message: EnsureModules) -> None:
        if not self.silent:
            super().on_ensure_modules(message)


def test_without_identities_modules_go_and_crashed_ones_come_back_and_the_reason_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Source: agent.md section 8, rows 21 and 45."""
    edge = CloudEdge()
    edge.security_actor = _SilentSecurity
    edge.deploy({"sensor": process(), "gone": process()})
    edge.start()
    monkeypatch.setattr(_SilentSecurity, "silent", True)
    edge.runtime.story.clear()

    edge.deploy({"sensor": process(version="2"), "new": process()})
    edge.system.advance(15.0)
    edge.runtime.end("sensor", 1)
    edge.system.advance(5.0)

    assert edge.runtime.story == ["stop gone", "remove gone", "start sensor"]
    status = edge.reported["lastDesiredStatus"]
    assert status["code"] == 500
    assert "the modules have no identities yet: agent/security does not answer" in status["description"]

    monkeypatch.undo()
    edge.system.advance(15.0)
    assert edge.statuses() | {"sensor": "running", "new": "running"} == edge.statuses()
    assert edge.reported["lastDesiredStatus"] == {"code": 200, "description": ""}


def test_what_failed_waits_under_the_same_deployment_and_is_tried_at_once_under_another() -> None:
    """Source: agent.md section 8, rows 33 and 48."""
    edge = CloudEdge()
    edge.runtime.broken["sensor"] = "no such command"
    edge.deploy({"sensor": process(), "other": process()})
    edge.start()
    edge.system.advance(3.0)
    assert edge.reported["lastDesiredStatus"]["code"] == 500
    edge.runtime.story.clear()

    edge.replace_desired(EDGE_AGENT_ID, dict(edge.cloud.desired[EDGE_AGENT_ID].values))
    edge.system.advance(5.0)
    assert edge.runtime.story == []
    assert edge.reported["lastDesiredStatus"]["code"] == 500

    edge.deploy({"sensor": process(version="2"), "other": process()})
    assert edge.runtime.story == ["start sensor"]


def test_the_first_deployment_is_406_until_it_is_in_force_and_later_ones_leave_what_runs_reported() -> None:
    """Source: agent.md section 8, row 47."""
    edge = CloudEdge()
    edge.runtime.slow_to_prepare = True
    edge.deploy({"sensor": process()})
    edge.start()
    edge.system.advance(5.0)
    assert edge.reported["lastDesiredStatus"] == {
        "code": 406,
        "description": "the first deployment: images are being pulled",
    }
    assert edge.reported["lastDesiredVersion"] == 0

    edge.runtime.finish_preparing()
    edge.system.advance(5.0)
    first = edge.cloud.desired[EDGE_AGENT_ID].version
    assert edge.reported["lastDesiredStatus"]["code"] == 200
    assert edge.reported["lastDesiredVersion"] == first

    edge.deploy({"sensor": process(version="2")})
    edge.system.advance(5.0)
    assert (edge.reported["lastDesiredVersion"], edge.listed().deployment["version"]) == (first, first)
    edge.runtime.finish_preparing()
    edge.system.advance(5.0)
    assert edge.reported["lastDesiredVersion"] == edge.cloud.desired[EDGE_AGENT_ID].version
    assert edge.reported["modules"]["sensor"]["version"] == "2"


def test_an_edge_that_has_read_no_twin_yet_reports_nothing() -> None:
    """Source: agent.md section 8, row 80."""
    edge = CloudEdge()
    edge.cloud.go_away()
    edge.start()
    edge.system.advance(60.0)

    assert EDGE_AGENT_ID not in edge.cloud.reported or not edge.cloud.reported[EDGE_AGENT_ID].values


def test_a_good_deployment_is_kept_once_however_often_it_comes_and_each_other_one_too() -> None:
    """Source: agent.md section 8, row 93."""
    edge = CloudEdge()
    edge.deploy({"sensor": process()})
    edge.start()
    kept = []
    keep = edge.place.keep
    edge.place.keep = lambda one: (kept.append(one.agent_version), keep(one))[1]  # type: ignore[method-assign]

    for _ in range(3):
        edge.cloud.cut(EDGE_AGENT_ID)
        edge.system.advance(5.0)
    assert kept == []

    for version in ("2", "3", "4"):
        edge.deploy({"sensor": process(version=version)})
    assert len(kept) == 3


# reported properties


def report(name: str, status: str = "running") -> ModuleReported:
    return ModuleReported(name, status, "running", 5, 0, NOW_S, None, None, status, started_s=NOW_S)


def reported(*names: str, code: int = 200, **statuses: str) -> dict[str, Any]:
    """Return what is reported of modules, by default as running."""
    made = deployment(*(spec(name) for name in names))
    known = {name: report(name, statuses.get(name, "running")) for name in names}
    reports = {EDGE_AGENT: agent_report(7, NOW_S), **known}
    return agent_state(made, 4, DeploymentStatus(code), reports, UNKNOWN_PLATFORM)


def test_a_patch_has_what_changed_what_is_new_whole_and_null_for_what_is_gone() -> None:
    """Source: agent.md section 8, row 81."""
    before, after = reported("mod1", "extra"), reported("mod1", "mod2", mod1="backoff")

    patch = difference(before, after)

    assert patch == {
        "modules": {
            "mod1": {"runtimeStatus": "backoff", "statusDescription": "backoff"},
            "mod2": after["modules"]["mod2"],
            "extra": None,
        }
    }
    assert merge(before, patch) == after


def test_a_change_of_the_status_alone_is_a_patch_of_that_alone() -> None:
    """Source: agent.md section 8, row 84."""
    patch = difference(reported("m", code=406), reported("m"))

    assert patch == {"lastDesiredStatus": {"code": 200}}


def test_before_any_deployment_there_is_little_to_report() -> None:
    """Source: agent.md section 8, rows 86 and 92."""
    edge = CloudEdge().start()
    edge.system.advance(5.0)

    told = edge.reported

    assert told["schemaVersion"] == "1.0"
    assert told["lastDesiredVersion"] == 0
    assert told["modules"] == {}
    assert EDGE_HUB not in told["systemModules"]
    agent = told["systemModules"][EDGE_AGENT]
    assert {"type", "startupOrder", "imagePullPolicy", "settings"} <= agent.keys()
    assert agent["startupOrder"] == 0


def test_what_the_cloud_says_of_the_reported_properties_is_neither_echoed_nor_removed() -> None:
    """Source: agent.md section 8, row 88."""
    edge = CloudEdge()
    edge.deploy({"sensor": process()})
    section = Section({"$metadata": {"x": 1}, "$version": 3, "mine": 1}, {}, 3)
    edge.cloud.reported[EDGE_AGENT_ID] = section

    edge.start()
    edge.system.advance(5.0)

    assert edge.reported["$metadata"] == {"x": 1}
    assert "mine" not in edge.reported


def test_a_module_that_is_to_be_in_no_known_status_is_left_alone() -> None:
    """Source: agent.md section 8, row 55."""
    edge = CloudEdge()
    edge.deploy({"sensor": process(status="unknown")})
    edge.start()

    assert edge.runtime.story == ["start edgeHub"]
    assert edge.modules()["sensor"]["desired"] == DesiredStatus.UNKNOWN
