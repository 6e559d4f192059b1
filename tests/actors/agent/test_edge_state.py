"""Whether an edge serves, from how its modules are."""

from __future__ import annotations

from typing import Any

import pytest

from actors.agent.edge_state import EdgeState, edge_state
from actors.agent.module_report import ModuleReported


def report(name: str, status: str = "running", desired: str = "running", **others: Any) -> ModuleReported:
    values = {"pid": 1, "restarts": 0, "since_s": None, "exit_code": None, "exit_signal": None}
    return ModuleReported(name=name, status=status, desired=desired, description="", **values | others)


@pytest.mark.parametrize(
    ("reports", "waiting", "hub_is_there", "expected"),
    [
        ([], [], False, EdgeState(True, "waits for a deployment")),
        ([report("edgeCloud")], [], False, EdgeState(True, "waits for a deployment")),
        ([], ["edgeHub"], False, EdgeState(False, "0 of 1 modules run; not: edgeHub")),
        ([report("edgeHub")], [], False, EdgeState(False, "0 of 1 modules run; not: edgeHub")),
        ([report("edgeHub")], [], True, EdgeState(True, "1 of 1 modules run")),
        ([report("edgeHub", "backoff")], [], True, EdgeState(False, "0 of 1 modules run; not: edgeHub")),
        ([report("edgeHub", "stopped", "stopped")], [], False, EdgeState(True, "0 of 0 modules run")),
        ([report("edgeHub")], ["b", "a"], True, EdgeState(True, "1 of 3 modules run; not: a, b")),
        ([report("edgeHub"), report("a", "failed")], [], True, EdgeState(True, "1 of 2 modules run; not: a")),
        (
            [report("edgeHub"), report("once", "stopped", exit_code=0)],
            [],
            True,
            EdgeState(True, "1 of 1 modules run"),
        ),
        ([report("a")], [], False, EdgeState(True, "1 of 1 modules run")),
    ],
    ids=[
        "nothing to run yet",
        "nothing but the stand-in",
        "the hub waits for its turn",
        "the hub starts",
        "the hub serves",
        "the hub has crashed",
        "the hub is stopped on purpose",
        "modules wait for their turn",
        "a module failed",
        "a module did its work",
        "a deployment without a hub",
    ],
)
def test_an_edge_serves_when_the_hub_it_should_run_is_there(
    reports: list[ModuleReported], waiting: list[str], hub_is_there: bool, expected: EdgeState
) -> None:
    by_name = {report.name: report for report in reports}

    assert edge_state([*by_name, *waiting], by_name, hub_is_there=hub_is_there) == expected
