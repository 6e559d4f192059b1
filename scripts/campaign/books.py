"""Compares what publishers were told to be stored with what consumers have, and judges what was found."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from actors.stored import EndpointLedger, Ledger
from runtime.cli.ledger import as_values
from scripts.campaign.clients import Consumer, Key, Publisher, output_of
from scripts.campaign.edge import INPUT
from scripts.campaign.scenario import Scenario

MOST_DETAILS: Final = 20


@dataclass(slots=True)
class Findings:
    """What one run showed: of the product, or of a control, which has a defect."""

    scenario: str
    seed: int
    defect: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    images: int = 0  # of disks after a power cut that were looked into
    log_starts: int = 0  # how often SQLite's log began at its start while that was recorded
    waiting: int = 0  # messages that were found in them
    acknowledged: int = 0
    received: int = 0  # different messages, by all consumers
    redelivered: int = 0
    sent_again: int = 0
    stored_twice: int = 0  # came again because a publisher sent it again
    duplicates: int = 0  # that nothing explains
    lost: int = 0
    out_of_order: int = 0
    expired: int = 0
    imbalances: int = 0
    bystander_restarts: int = 0
    left_after_down: int = 0
    refused: int = 0  # connects that found nobody listening
    outages_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    ledger: dict[str, Any] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)  # of what is wrong, the first of many
    failures: list[str] = field(default_factory=list)  # the run itself is no proof

    def note(self, what: str) -> None:
        """Keep a detail, unless there are enough."""
        if len(self.details) < MOST_DETAILS:
            self.details.append(what)

    @property
    def wrong(self) -> int:
        """How much of what no hub may do was seen."""
        return self.lost + self.out_of_order + self.duplicates + self.imbalances + len(self.failures)

    @property
    def is_caught(self) -> bool:
        """Return whether a loss was seen: what a control is for."""
        return self.lost > 0

    def problems(self, expect: Mapping[str, int]) -> list[str]:
        """Return which expectations were not met, and why the run proves nothing if it does not."""
        least = {"expired": self.expired}
        most = {
            "lost": self.lost,
            "out of order": self.out_of_order,
            "duplicates": self.duplicates,
            "ledger": self.imbalances,
            "bystander restarts": self.bystander_restarts,
            "left after down": self.left_after_down,
        }
        broken = [f"{name}: {most[name]}" for name in expect if name in most and most[name] > 0] + [
            f"{name}: {least[name]}, at least {bound} were to be seen"
            for name, bound in expect.items()
            if name in least and least[name] < bound
        ]
        return broken + self.failures

    def json(self, expect: Mapping[str, int]) -> dict[str, Any]:
        """Return everything, for a program."""
        outages = sorted(self.outages_s) or [0.0]
        found = asdict(self) | {"faults": dict(self.faults), "took_s": round(self.took_s, 1)}
        found["outages_s"] = {
            "median": round(statistics.median(outages), 3),
            "longest": round(outages[-1], 3),
        }
        if self.defect:
            return found | {"caught": self.is_caught}
        return found | {"problems": self.problems(expect)}

    def text(self, expect: Mapping[str, int]) -> str:
        """Return everything, for people."""
        outages = sorted(self.outages_s) or [0.0]
        faults = ", ".join(f"{count} × {name}" for name, count in sorted(self.faults.items())) or "no fault"
        title = f"control: {self.defect}" if self.defect else "as it is"
        lines = [f"{self.scenario}, {title}: seed {self.seed}, {self.took_s:.0f} s, {faults}"]
        if self.images:
            lines.append(
                f"  disks after a power cut: {self.images}, {self.waiting} messages waiting in them; "
                f"the log began anew {self.log_starts} times"
            )
        lines += [
            f"  acknowledged {self.acknowledged}, received {self.received}, lost {self.lost}",
            f"  expired {self.expired}, out of order {self.out_of_order}",
            f"  delivered again {self.redelivered}; sent again by publishers {self.sent_again}, stored twice "
            f"{self.stored_twice}; duplicates without a reason {self.duplicates}",
            f"  without PUBACK after a lost connection: median {statistics.median(outages):.2f} s, "
            f"longest {outages[-1]:.2f} s; connects refused {self.refused}",
        ]
        if self.ledger:
            total = self.ledger["total"]
            lines.append(
                "  ledger: received {received} = unrouted {unrouted} + routed {routed}".format(**total)
            )
            row = "  {0}: accepted {accepted} = delivered {delivered} + expired {expired} + dropped {dropped}"
            row += " + pending {pending}"
            lines += [f"  {row.format(name, **counts)}" for name, counts in self.ledger["endpoints"].items()]
        lines += [f"  {detail}" for detail in self.details]
        if self.defect:
            lines.append("  caught" if self.is_caught else "  NOT CAUGHT: this campaign proves nothing")
            lines += [f"  {failure}" for failure in self.failures]
        else:
            lines += [f"  PROBLEM: {problem}" for problem in self.problems(expect)]
        return "\n".join(lines)


def missing(
    scenario: Scenario, consumer: str, acknowledged: Mapping[int, int], found: Container[Key], expired: int
) -> list[Key]:
    """Return what a consumer was owed and is neither found nor explained by the count of expired messages."""
    lives = {
        scenario.outputs.index(route.output): route.ttl_s
        for route in scenario.routes.values()
        if route.into == consumer
    }
    lost: list[Key] = []
    perished: list[Key] = []
    for publisher, last in acknowledged.items():
        for sequence in range(1, last + 1):
            ttl_s = lives.get(output_of(sequence, len(scenario.outputs)))
            if ttl_s is not None and (publisher, sequence) not in found:
                (perished if ttl_s else lost).append((publisher, sequence))
    return lost + perished[: max(0, len(perished) - expired)]


def count_lost(findings: Findings, lost: Sequence[Key], where: str) -> None:
    """Note a loss."""
    if lost:
        findings.lost += len(lost)
        publisher, sequence = lost[0]
        findings.note(
            f"{where}: {len(lost)} acknowledged messages are gone, the first is number {sequence} "
            f"of publisher {publisher}"
        )


def row_of(ledger: Ledger, consumer: str) -> EndpointLedger:
    """Return the counts of the one endpoint of a consumer; all are 0 when nothing was sent to it yet."""
    rows = [row for name, row in ledger.endpoints.items() if name.endswith(f"/{consumer}/{INPUT}")]
    return rows[0] if rows else EndpointLedger()


def check_ledger(
    findings: Findings, scenario: Scenario, ledger: Ledger, copies: Mapping[str, int], where: str
) -> None:
    """Note each equation that does not hold.

    Args:
        copies: How many messages each consumer acknowledged by then, with those that came again.
    """
    wrong = ledger.imbalances()
    perishable = {route.into for route in scenario.routes.values() if route.ttl_s}
    for consumer in scenario.load.consumers:
        row = row_of(ledger, consumer)
        if row.expired and consumer not in perishable:
            wrong.append(f"{row.expired} messages for {consumer} expired, which have no time to live")
        if row.delivered > copies.get(consumer, 0):
            wrong.append(f"{row.delivered} delivered to {consumer}, which took {copies.get(consumer, 0)}")
        if row.dropped:
            wrong.append(f"{row.dropped} messages for {consumer} dropped: {dict(row.dropped_by_reason)}")
    findings.imbalances += len(wrong)
    for what in wrong:
        findings.note(f"{where}: {what}")


def compare(
    findings: Findings,
    scenario: Scenario,
    publishers: Sequence[Publisher],
    consumers: Mapping[str, Consumer],
    ledger: Ledger,
) -> None:
    """Compare everybody's books at the end of a run."""
    copies = {name: consumer.received + consumer.duplicates for name, consumer in consumers.items()}
    check_ledger(findings, scenario, ledger, copies, "at the end")
    findings.ledger = as_values(ledger)
    findings.expired = sum(row.expired for row in ledger.endpoints.values())
    acknowledged = {publisher.number: publisher.acknowledged for publisher in publishers}
    for name, consumer in consumers.items():
        row = row_of(ledger, name)
        expired = row.expired + row.pending  # what nobody swept yet: a run of the product waits for that
        count_lost(findings, missing(scenario, name, acknowledged, consumer, expired), name)
        _compare_repetitions(findings, name, consumer, publishers)


def _compare_repetitions(
    findings: Findings, name: str, consumer: Consumer, publishers: Sequence[Publisher]
) -> None:
    by_number = {publisher.number: publisher for publisher in publishers}
    for (number, sequence), times in consumer.repeated.items():
        again = by_number[number].times_sent_again(sequence)
        findings.stored_twice += min(times, again)
        if times > again:
            findings.duplicates += times - again
            findings.note(
                f"{name}: number {sequence} of publisher {number} came {times} times more, behind what may "
                f"be delivered again; it was sent again {again} times"
            )


def add_clients(
    findings: Findings, publishers: Sequence[Publisher], consumers: Mapping[str, Consumer]
) -> None:
    """Take over what the clients counted, however the run ended."""
    for publisher in publishers:
        findings.acknowledged += publisher.acknowledged
        findings.sent_again += publisher.sent_again
        findings.outages_s += publisher.outages_s
        findings.refused += publisher.refused
    for name, consumer in consumers.items():
        findings.received += consumer.received
        findings.redelivered += consumer.redelivered
        findings.out_of_order += len(consumer.misordered)
        for what in consumer.misordered:
            findings.note(f"{name}: {what}")
    for client in (*publishers, *consumers.values()):
        findings.failures += client.problems
