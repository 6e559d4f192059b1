from __future__ import annotations

import pytest

from actors.agent.module_report import ModuleReported
from actors.agent.readiness import waited_for


def report(status: str = "running", desired: str = "running", **others: bool) -> ModuleReported:
    return ModuleReported("pump", status, desired, 7, 0, 1.0, None, None, "", **others)


@pytest.mark.parametrize(
    ("told", "until_ready", "connected", "is_waited_for"),
    [
        (None, False, (), True),
        (None, True, ("pump",), True),
        (report("backoff"), False, (), False),
        (report(ready=True, has_check=True), True, (), False),
        (report(ready=False, has_check=True), True, ("pump",), True),
        (report(ready=True), True, ("pump",), False),
        (report(ready=True), True, ("valve",), True),
        (report("backoff"), True, (), True),
        (report("unhealthy", has_check=True), True, (), True),
        (report("failed"), True, (), False),
        (report("stopped"), True, (), False),
        (report("stopped", desired="stopped"), True, (), False),
    ],
    ids=[
        "not started yet",
        "not started yet, though connected",
        "its start failed, which is a result",
        "healthy",
        "not healthy yet",
        "connected",
        "not connected yet",
        "crashes",
        "unhealthy",
        "failed for good",
        "did its work",
        "shall not run",
    ],
)
def test_the_next_group_waits_for_what_is_not_started_or_not_ready(
    told: ModuleReported | None, until_ready: bool, connected: tuple[str, ...], is_waited_for: bool
) -> None:
    reports = {} if told is None else {"pump": told}

    waiting = waited_for(("pump",), reports, until_ready=until_ready, connected=connected)

    assert waiting == (("pump",) if is_waited_for else ())
