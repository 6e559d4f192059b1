from __future__ import annotations

from typing import Any

import pytest

from runtime.cli.explain import advice, explained, last_exit

NOW_S = 1_700_000_000.0


def module(**others: Any) -> dict[str, Any]:
    return {
        "name": "pump",
        "type": "docker",
        "image": "pump:1",
        "image_id": "sha256:0f",
        "status": "running",
        "desired": "running",
        "description": "running since 2023-11-14T22:12:20Z",
        "pid": 7,
        "restarts": 0,
        "since_s": NOW_S - 60,
        "next_start_s": None,
        "exit_code": None,
        "exit_signal": None,
        "out_of_memory": False,
        "ready": True,
        "has_check": False,
        "remarks": (),
        "settings": (),
        "not_isolated": "",
    } | others


def crashed(**others: Any) -> dict[str, Any]:
    return module(status="backoff", pid=0, restarts=3, description="exited with code 3, crash 4", **others)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({}, "none known"),
        ({"exit_code": 0}, "exit code 0"),
        ({"exit_code": 137, "exit_signal": 9}, "killed by SIGKILL (exit code 137)"),
        ({"exit_signal": 15}, "killed by SIGTERM"),
        ({"exit_code": 168, "exit_signal": 40}, "killed by signal 40 (exit code 168)"),
        (
            {"exit_code": 137, "exit_signal": 9, "out_of_memory": True},
            "killed for want of memory (exit code 137)",
        ),
    ],
    ids=["never ended", "clean", "killed", "of a process", "without a name", "out of memory"],
)
def test_the_last_exit_is_told_in_words(state: dict[str, Any], told: str) -> None:
    assert last_exit(module(**state)) == told


@pytest.mark.parametrize(
    ("state", "lines", "word"),
    [
        (module(), [], ""),
        (crashed(exit_code=3), [], "edge-actors logs pump"),
        (crashed(exit_code=127), [], "its program was not found"),
        (crashed(exit_code=126), [], "may not be executed"),
        (crashed(exit_code=1), ["exec /bin/x: Exec format error"], "another CPU"),
        (crashed(exit_code=137, exit_signal=9, out_of_memory=True), [], "HostConfig.Memory"),
        (crashed(exit_code=137, exit_signal=9), [], "somebody killed it"),
        (crashed(exit_code=139, exit_signal=11), [], "crashed in its own code"),
        (module(status="unhealthy"), [], "HEALTHCHECK"),
        (module(status="stopped", desired="stopped"), [], "edge-actors start pump"),
        (module(restarts=2), [], "ends by itself"),
    ],
    ids=[
        "all is well",
        "it exits for ever",
        "no program",
        "not executable",
        "another CPU",
        "out of memory",
        "killed",
        "segmentation fault",
        "unhealthy",
        "stopped",
        "back after crashes",
    ],
)
def test_each_state_has_its_advice(state: dict[str, Any], lines: list[str], word: str) -> None:
    told = advice(state, lines)

    assert (word in told) if word else told == ""


def test_everything_that_is_known_is_told() -> None:
    state = crashed(exit_code=3, next_start_s=NOW_S + 35, remarks=("HostConfig.X is left out",))

    rows = explained(state, [], NOW_S)

    assert dict(rows) == {
        "module": "pump",
        "status": "backoff, wanted: running",
        "because": "exited with code 3, crash 4",
        "ended": "2023-11-14T22:12:20Z, 1 minute ago",
        "next start": "2023-11-14T22:13:55Z, in 35 seconds; at once with `edge-actors restart pump`",
        "last exit": "exit code 3",
        "restarts": "3 since it last ran for 10 minutes",
        "image": "pump:1 (sha256:0f)",
        "has no effect": "HostConfig.X is left out",
        "what to do": "it ends by itself: `edge-actors logs pump` shows all of it; once the cause is gone, "
        "`edge-actors restart pump`",
    }


def test_a_module_that_runs_and_is_not_ready_says_so() -> None:
    rows = dict(explained(module(ready=False, has_check=True), [], NOW_S))

    assert rows["process"] == "pid 7; not ready: its HEALTHCHECK does not succeed"
