"""What a run is told as: for people, and for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from runtime.faults.bundle import Outcome
from runtime.faults.scenario import Scenario


def values(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """Return everything, for a program."""
    return {
        **asdict(outcome.findings),
        "expect": {one.name: _plain(one.value) for one in scenario.expect},
        "problems": list(outcome.problems),
        "bundle": str(outcome.folder) if outcome.folder else None,
    }


def text(scenario: Scenario, outcome: Outcome) -> str:
    """Return everything, for people."""
    found = outcome.findings
    lines = [f"{found.scenario}: seed {found.seed}, {found.took_s:.0f} s"]
    lines += [f"  fault {name}: {count}" for name, count in found.counts.items()]
    lines += [
        f"  acknowledged {found.acknowledged}, received {found.received}, lost {found.lost}, "
        f"out of order {found.out_of_order}",
        f"  sent again by publishers {found.sent_again}, delivered again {found.received_again}, "
        f"without a reason {found.unexplained}; expired {found.expired}, dropped {found.dropped}, "
        f"damaged {found.damaged}",
        f"  recovered: {_times(found.recovered_s)}; upstream: {_times(found.upstream_recovered_s)}",
        f"  restarts: {', '.join(f'{name} {n}' for name, n in found.restarts.items() if n) or 'none'}; "
        f"failures of actors: {found.actor_failures}",
    ]
    if found.moments:
        lines.append(
            f"  other moments of a power cut: {found.moments}, {found.waiting} messages on their disks"
        )
    if found.bytes_per_min is not None:
        lines.append(f"  memory of the hub: {found.bytes_per_min / 1e6:+.1f} MB/min")
    if found.ledger:
        total = found.ledger["total"]
        lines.append("  ledger: received {received} = unrouted {unrouted} + routed {routed}".format(**total))
    lines += [f"  {detail}" for detail in found.details]
    lines += [f"  PROBLEM: {problem}" for problem in outcome.problems]
    if outcome.problems:
        again = f"edge-actors faults run {scenario.path} --seed {found.seed}"
        lines.append(f"FAILED; again with `{again}`; bundle: {outcome.folder}")
    else:
        lines.append("KEPT" + (f"; folder: {outcome.folder}" if outcome.folder else ""))
    return "\n".join(lines)


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, tuple) else value
