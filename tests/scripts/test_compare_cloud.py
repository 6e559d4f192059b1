"""The figures of scripts/bench/cloud, from reports as the generator makes them."""

from __future__ import annotations

from typing import Any

from scripts.bench.compare_cloud import Accepting, summarise


def report(per_s: float, unacknowledged: int = 0) -> dict[str, Any]:
    return {
        "acknowledged_per_s": per_s,
        "ack_ms": {"p50": per_s / 1000, "p99": per_s / 100},
        "generator_cpu_share": 0.1,
        "cpu": [{"us_per_message": 3.0}, {"us_per_message": 1.0}],
        "unacknowledged": unacknowledged,
    }


def test_the_median_of_the_rounds_counts_and_every_fault_is_added() -> None:
    summary = summarise([report(1000), report(3000, 2), report(2000, 1)])

    assert summary["accepted_per_s"] == 2000
    assert summary["ack_ms"] == {"p50": 2.0, "p99": 20.0}
    assert summary["cpu_us_per_message"] == 4.0
    assert summary["unacknowledged"] == 3


def test_the_hub_only_accepts_so_that_both_sides_do_the_same() -> None:
    class Peer:
        name = "edge"

        def processes(self) -> list[Any]:
            return []

        def load(self, transport: str, publishers: int) -> dict[str, Any]:
            return {"publishers": [transport] * publishers, "subscribers": ["consumer"]}

    accepting = Accepting(Peer())  # type: ignore[arg-type]

    assert accepting.load("tls", 2) == {"publishers": ["tls", "tls"], "subscribers": []}
