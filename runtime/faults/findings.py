"""What a run showed, and which expectations it did not meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.faults.expectation_table import Range
from runtime.faults.scenario import Scenario

MOST_DETAILS: Final = 20


@dataclass(slots=True)
class Findings:
    """Counted in one run."""

    scenario: str
    seed: int
    counts: dict[str, int] = field(default_factory=dict)  # of each step's fault: what proves that it happened
    acknowledged: int = 0
    received: int = 0  # different messages, by consumers and cloud
    received_again: int = 0
    sent_again: int = 0
    moments: int = 0  # of a recorded life, at which the power might have failed as well
    waiting: int = 0  # messages found on the disks of these
    lost: int = 0
    out_of_order: int = 0
    unexplained: int = 0  # came again without a reason
    expired: int = 0
    dropped: int = 0
    damaged: int = 0  # came with another content than was sent
    salvaged: int = 0
    imbalances: list[str] = field(default_factory=list)
    refused: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    bystander_restarts: int = 0
    actor_failures: int = 0
    dead_actors: list[str] = field(default_factory=list)
    recovered_s: list[float] = field(default_factory=list)  # after each fault
    upstream_recovered_s: list[float] = field(default_factory=list)
    bytes_per_min: float | None = None  # None: the hub did not live long enough to tell
    left_after_down: list[str] = field(default_factory=list)
    took_s: float = 0.0
    ledger: dict[str, Any] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # the run itself is no proof

    def note(self, what: str) -> None:
        """Keep a detail, unless there are enough."""
        if len(self.details) < MOST_DETAILS:
            self.details.append(what)

    def problems(self, scenario: Scenario) -> list[str]:
        """Return which expectations were not met, which faults never happened, and what else is wrong."""
        found = [problem for one in scenario.expect if (problem := _JUDGES[one.name](self, one.value))]
        found += [
            f"fault {name} never happened: its count is 0; the run proves nothing"
            for name, count in self.counts.items()
            if count == 0
        ]
        if self.moments and not self.waiting:
            found.append(f"no message was on the disks of {self.moments} moments: they prove nothing")
        return found + self.failures


def _none(name: str, count: int) -> str:
    return f"{name}: {count}, expected 0" if count else ""


def _in(name: str, count: int, wanted: Range) -> str:
    return "" if wanted.holds(count) else f"{name}: {count}, expected {wanted}"


def _restarts(found: Findings, wanted: Mapping[str, Range]) -> str:
    wrong = [
        f"{name} {found.restarts.get(name, 0)}, expected {many}"
        for name, many in wanted.items()
        if not many.holds(found.restarts.get(name, 0))
    ]
    return f"restarts: {'; '.join(wrong)}" if wrong else ""


def _within(name: str, seconds: list[float], limit_s: float) -> str:
    longest_s = max(seconds, default=0.0)
    return f"{name}: after {longest_s:.1f} s, expected within {limit_s:g} s" if longest_s > limit_s else ""


def _slope(found: Findings, most: int) -> str:
    slope = found.bytes_per_min
    if slope is None:
        return "memory slope: the hub did not live long enough to tell"
    return "" if slope < most else f"memory slope: {slope / 1e6:.1f} MB/min, expected below {most / 1e6:g}"


# Of each expectation: what is wrong, "" for nothing.
_JUDGES: Final[Mapping[str, Callable[[Findings, Any], str]]] = {
    "lost": lambda f, _: _none("lost", f.lost),
    "out of order": lambda f, _: _none("out of order", f.out_of_order),
    "duplicates": lambda f, _: _none("duplicates without a reason", f.unexplained),
    "ledger": lambda f, _: f"ledger: {'; '.join(f.imbalances)}" if f.imbalances else "",
    "expired": lambda f, wanted: _in("expired", f.expired, wanted),
    "dropped": lambda f, wanted: _in("dropped", f.dropped, wanted),
    "damaged": lambda f, wanted: _in("damaged", f.damaged, wanted),
    "salvaged": lambda f, wanted: _in("salvaged", f.salvaged, wanted),
    "received": lambda f, wanted: _in("received", f.received, wanted),
    "refused": lambda f, wanted: _in("refused", f.refused, wanted),
    "restarts": _restarts,
    "bystander restarts": lambda f, _: _none("bystander restarts", f.bystander_restarts),
    "actor failures": lambda f, wanted: _in("actor failures", f.actor_failures, wanted),
    "dead actors": lambda f, _: f"dead actors: {', '.join(f.dead_actors)}" if f.dead_actors else "",
    "recovered": lambda f, limit_s: _within("recovered", f.recovered_s, limit_s),
    "upstream recovered": lambda f, limit_s: _within("upstream recovered", f.upstream_recovered_s, limit_s),
    "memory slope": _slope,
    "left after down": lambda f, _: (
        f"left after down: {'; '.join(f.left_after_down)}" if f.left_after_down else ""
    ),
}
