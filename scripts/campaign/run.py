"""Kills agent, hub, or both, again and again under load, and compares everybody's books afterwards.

    python -m scripts.campaign --kills 100 --seed 7

Two publishers and a consumer speak MQTT over TLS with sequence numbers. At the end: whatever a publisher was
told to be stored has reached the consumer, in order of the first occurrence; no module was restarted by the
death of an agent; the equations of the ledger hold; `down` leaves nothing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.message_ledger import read_ledger
from scripts.bench.mqtt_link import Target
from scripts.campaign.clients import Consumer, Publisher
from scripts.campaign.edge import BYSTANDERS, CONSUMER, PUBLISHERS, CampaignFailed, Edge

TARGETS: Final = ("agent", "hub", "both")
PATIENCE: Final = 0.7  # how often everything may come back before the next kill
RATE_PER_S: Final = 400.0  # of each publisher


@dataclass(slots=True)
class Report:
    """What happened. `problems` is empty when every promise was kept."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    received: int = 0  # different messages
    duplicates: int = 0
    sent_again: int = 0
    lost: int = 0
    refused: int = 0  # connects that found nobody listening
    outages_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    ledger: str = ""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        outages = sorted(self.outages_s) or [0.0]
        lines = [
            f"seed {self.seed}, {self.took_s:.0f} s",
            f"kills: {sum(self.kills.values())} ("
            + ", ".join(f"{self.kills[name]} {name}" for name in TARGETS)
            + ")",
            f"acknowledged {self.acknowledged}, received {self.received}, lost {self.lost}",
            f"sent again {self.sent_again}, received more than once {self.duplicates}",
            f"without PUBACK after a lost connection: median {statistics.median(outages):.2f} s, "
            f"longest {outages[-1]:.2f} s; connects refused {self.refused}",
            self.ledger,
            *(f"PROBLEM: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def run(kills: int, seed: int, folder: Path) -> Report:
    """Run a campaign in an empty folder.

    Raises:
        CampaignFailed: the edge did not come back; that is a finding too.
    """
    report = Report(seed)
    began_s = time.monotonic()
    edge = Edge(folder)
    try:
        edge.start()
        edge.wait_until_well()
        _attack(edge, kills, random.Random(seed), report)
    finally:
        left = edge.down()
    report.problems += [f"left after `down`: {what}" for what in left]
    report.problems += read_ledger(edge.home / "hub.db").imbalances()
    report.took_s = time.monotonic() - began_s
    return report


def _attack(edge: Edge, kills: int, chance: random.Random, report: Report) -> None:
    target = Target("127.0.0.1", edge.port, str(edge.ca_file))
    identities = {name: edge.identity(name) for name in (*PUBLISHERS, CONSUMER)}
    publishers = [
        Publisher(
            target,
            identities[name].client,
            f"{identities[name].path}/messages/events/%24.on=out1",
            number,
            RATE_PER_S,
        )
        for number, name in enumerate(PUBLISHERS, start=1)
    ]
    listener = identities[CONSUMER]
    account = {"filters": [f"{listener.path}/inputs/#"], "clean_session": False}
    consumer = Consumer(target, lambda: listener.client() | account)
    clients = (*publishers, consumer)
    for client in clients:
        client.start()
    try:
        _kill_again_and_again(edge, kills, chance, report)
        edge.wait_until_well()
        for publisher in publishers:
            publisher.finish()
        edge.wait_for(lambda: all(p.has_finished() for p in publishers), "everything is acknowledged")
        try:
            edge.wait_for(
                lambda: all(consumer.has(p.number, p.sent) for p in publishers), "everything is received"
            )
        except CampaignFailed as exc:
            report.problems.append(str(exc))  # what is missing is told below
        _look_at_the_ledger(edge, report)
    finally:
        for client in clients:
            client.stop()
        _compare(publishers, consumer, report)


def _kill_again_and_again(edge: Edge, kills: int, chance: random.Random, report: Report) -> None:
    bystanders = edge.bystander_pids()
    while sum(report.kills.values()) < kills:
        target = chance.choice(TARGETS)
        time.sleep(chance.uniform(0.05, 0.6))
        if target in ("hub", "both") and not edge.kill_hub():
            if target == "hub":
                edge.wait_until_well()  # none to kill: the one before is not back
                continue
            target = "agent"
        if target in ("agent", "both"):
            edge.kill_agent()
            time.sleep(chance.uniform(0.0, 0.4))
            edge.start()
        report.kills[target] += 1
        if chance.random() < PATIENCE:
            edge.wait_until_well()
        now = edge.bystander_pids()
        if now != bystanders:
            report.problems.append(f"after killing {target}: modules were {bystanders}, are {now}")
            bystanders = now
    edge.wait_until_well()
    restarts = {name: edge.modules()[name]["restarts"] for name in BYSTANDERS}
    if any(restarts.values()):
        report.problems.append(f"modules were restarted: {restarts}")


def _look_at_the_ledger(edge: Edge, report: Report) -> None:
    """Wait until the hub has forgotten what was delivered, then see whether all is accounted for."""

    def nothing_waits() -> bool:
        return all(row.pending == 0 for row in read_ledger(edge.home / "hub.db").endpoints.values())

    edge.wait_for(nothing_waits, "nothing is pending")
    ledger = read_ledger(edge.home / "hub.db")
    report.problems += ledger.imbalances()
    report.ledger = f"ledger: received {ledger.total.received} = unrouted {ledger.total.unrouted} + " + (
        f"routed {ledger.total.routed}"
    )
    for name, row in ledger.endpoints.items():
        report.ledger += f"\n  {name}: accepted {row.accepted} = delivered {row.delivered} + "
        report.ledger += f"expired {row.expired} + dropped {row.dropped} + pending {row.pending}"


def _compare(publishers: list[Publisher], consumer: Consumer, report: Report) -> None:
    for publisher in publishers:
        missing = consumer.missing(publisher.number, publisher.acknowledged)
        report.lost += len(missing)
        if missing:
            report.problems.append(
                f"publisher {publisher.number}: {len(missing)} acknowledged messages never came, "
                f"the first is {missing[0]}"
            )
        report.acknowledged += publisher.acknowledged
        report.sent_again += publisher.sent_again
        report.outages_s += publisher.outages_s
        report.refused += publisher.refused
        report.problems += publisher.problems
    report.received = sum(len(seen) for seen in consumer.seen.values())
    report.duplicates = consumer.duplicates
    report.problems += consumer.problems
