"""What Docker Engine says of a container, in our words: its run, its end, its health."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from actors.ports.modules import ModuleEnd, ModuleRun
from runtime.docker.request import REMARKS_LABEL, SPEC_LABEL


def run_of(inspected: Mapping[str, Any]) -> ModuleRun:
    """Return the run of a container that runs, or just did."""
    state, labels = inspected["State"], inspected["Config"]["Labels"]
    started_at_s = _seconds(state["StartedAt"])
    health = (state.get("Health") or {}).get("Status", "none")
    return ModuleRun(
        state["Pid"],
        started_at_s or time.time(),
        spec_hash=labels.get(SPEC_LABEL),
        image_id=inspected["Image"],
        has_check=health != "none",
        is_healthy=health in ("none", "healthy"),
        remarks=_remarks(labels.get(REMARKS_LABEL)),
    )


def end_of(inspected: Mapping[str, Any]) -> ModuleEnd | None:
    """Return how the last run of a container ended, None when it never ran."""
    state = inspected["State"]
    started_at_s = _seconds(state["StartedAt"])
    if started_at_s is None:
        return None
    ended_at_s = _seconds(state["FinishedAt"]) or time.time()
    end = end_with_code(ModuleRun(0, started_at_s), state["ExitCode"], ended_at_s)
    return replace(end, out_of_memory=bool(state.get("OOMKilled")))


def end_with_code(run: ModuleRun, exit_code: int | None, at_s: float, with_engine: bool = False) -> ModuleEnd:
    """Return the end of a run; Docker, as a shell, tells a signal as 128 + its number."""
    by_signal = exit_code is not None and 128 < exit_code <= 128 + 64
    number = exit_code - 128 if by_signal and exit_code is not None else None
    return ModuleEnd(exit_code, number, run.started_at_s, at_s, with_engine)


def is_unhealthy(inspected: Mapping[str, Any]) -> bool:
    """Return whether the HEALTHCHECK of a container fails. One without any is well."""
    return (inspected["State"].get("Health") or {}).get("Status") == "unhealthy"


def is_listed_unhealthy(listed: Mapping[str, Any]) -> bool:
    """Return the same of an entry in the list of containers, which has it in words only."""
    return "(unhealthy)" in str(listed.get("Status"))


def _remarks(label: str | None) -> tuple[str, ...]:
    try:
        found = json.loads(label or "[]")
    except ValueError:  # somebody else's
        return ()
    return tuple(str(one) for one in found) if isinstance(found, list) else ()


def _seconds(text: str) -> float | None:
    """Return seconds since 1970-01-01 UTC from 2024-05-06T07:08:09.123456789Z; None for Docker's "never"."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    at_s = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return None if at_s < 0 else at_s + float(f"0.{fraction or 0}")
