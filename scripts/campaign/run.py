"""Runs a scenario: an edge under load, faults, and the comparison of everybody's books afterwards.

Publishers and consumers speak MQTT with sequence numbers. At the end: whatever a publisher was told to be
stored has reached each of its consumers or is among the messages that the ledger says expired, in order of
the first occurrence; what came twice has a reason; the equations of the ledger hold; no module was restarted
by the death of an agent; `down` leaves nothing.
"""

from __future__ import annotations

import dataclasses
import os
import random
import select
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from runtime.faults.recording import RecordingError
from runtime.message_ledger import read_ledger
from scripts.campaign import books, power
from scripts.campaign.books import Findings
from scripts.campaign.clients import TURNS, Consumer, Publisher
from scripts.campaign.edge import BYSTANDERS, LIMIT_S, LOOK_S, CampaignFailed, Edge, topic_of
from scripts.campaign.scenario import Control, Kill, PowerCut, Scenario

SILENCE_S: Final = 15.0  # nothing new for so long: what is missing does not come any more
SILENCE_OF_CONTROL_S: Final = 1.5


def run(scenario: Scenario, seed: int, folder: Path, control: Control | None = None) -> Findings:
    """Run a scenario in an empty folder; with a control, on a hub that has its defect."""
    findings = Findings(scenario.name, seed, control.defect if control else "")
    if control is not None:
        scenario = dataclasses.replace(scenario, step=dataclasses.replace(scenario.step, times=control.times))
    began_s = time.monotonic()
    try:
        _Run(scenario, random.Random(f"{seed} {findings.defect}"), folder, findings).run()
    except (CampaignFailed, RecordingError) as exc:
        findings.failures.append(str(exc))
    done = sum(findings.faults.values())
    if done < scenario.step.times and not findings.lost:
        findings.failures.append(f"{done} of {scenario.step.times} faults happened")
    findings.took_s = time.monotonic() - began_s
    return findings


class _Run:
    def __init__(self, scenario: Scenario, chance: random.Random, folder: Path, findings: Findings) -> None:
        self._scenario = scenario
        self._chance = chance
        self._folder = folder
        self._findings = findings
        self._edge = Edge(folder, scenario)
        self._publishers: list[Publisher] = []
        self._consumers: dict[str, Consumer] = {}

    def run(self) -> None:
        edge, findings = self._edge, self._findings
        try:
            try:
                fault = self._scenario.step.fault
                is_over = self._kill(fault) if isinstance(fault, Kill) else self._cut_power(fault)
                if is_over:
                    self._finish()
            finally:
                for client in (*self._publishers, *self._consumers.values()):
                    client.stop()
                books.add_clients(findings, self._publishers, self._consumers)
        finally:
            left = edge.down()
        findings.left_after_down = len(left)
        for what in left:
            findings.note(f"left after `down`: {what}")

    # the load

    def _start_clients(self) -> None:
        scenario, edge = self._scenario, self._edge
        edge.wait_until_well()
        with ThreadPoolExecutor() as pool:
            names = (*edge.publishers, *scenario.load.consumers)
            identities = dict(zip(names, pool.map(edge.identity, names), strict=True))
        target = edge.target(plain=scenario.is_power_cut)
        for number, name in enumerate(edge.publishers, 1):
            sender = identities[name]
            topics = [topic_of(sender, output) for output in scenario.outputs]
            self._publishers.append(
                Publisher(target, sender.client, topics, number, scenario.load.rate_per_s)
            )
        for name, presence in scenario.load.consumers.items():
            receiver = identities[name]
            account = receiver.client() | {
                "filters": [f"{receiver.path}/inputs/#"],
                "clean_session": False,
            }
            self._consumers[name] = Consumer(
                target,
                lambda account=account: account,
                outputs=len(scenario.outputs),
                window=scenario.expect.get("duplicates", 0),
                presence=presence,
                chance=random.Random(self._chance.random()),
            )
        for client in (*self._publishers, *self._consumers.values()):
            client.start()

    # faults

    def _kill(self, fault: Kill) -> bool:
        edge, chance, findings = self._edge, self._chance, self._findings
        edge.alter_hub(defect=findings.defect)
        edge.start()
        self._start_clients()
        bystanders = edge.bystander_pids()
        targets: list[str] = []
        while sum(findings.faults.values()) < self._scenario.step.times:
            targets = targets or chance.sample(fault.processes, len(fault.processes))
            target = targets.pop()
            time.sleep(self._scenario.step.every.draw(chance))
            if target in ("hub", "both") and not edge.kill_hub():
                edge.wait_until_well()  # none to kill: the one before is not back
                targets.append(target)
                continue
            if target in ("agent", "both"):
                edge.kill_agent()
                time.sleep(chance.uniform(0.0, 0.4))
                edge.start()
            findings.faults[f"kill {target}"] += 1
            if chance.random() < fault.settle:
                self._settle()
            now = edge.bystander_pids()
            if now != bystanders:
                findings.note(f"after killing {target}: modules were {bystanders}, are {now}")
                findings.bystander_restarts += 1
                bystanders = now
        edge.wait_until_well()
        return True

    def _settle(self) -> None:
        """Wait until everything runs and each publisher was told that something more is stored."""
        before = [publisher.acknowledged for publisher in self._publishers]
        self._edge.wait_until_well()
        self._edge.wait_for(
            lambda: all(p.acknowledged > n for p, n in zip(self._publishers, before, strict=True)),
            "messages are acknowledged again",
        )

    def _cut_power(self, fault: PowerCut) -> bool:
        """Cut the power at the end of each life; False after a loss: the books cannot be continued."""
        findings, chance, edge = self._findings, self._chance, self._edge
        arrived = power.Arrived(self._consumers)
        for number in range(1, self._scenario.step.times + 1):
            trace = self._folder / "trace"
            trace.unlink(missing_ok=True)
            edge.alter_hub(defect=findings.defect, trace=trace)
            life = power.Life(edge.home, trace, self._publishers)
            edge.start()
            if number == 1:
                self._start_clients()
            self._settle()
            if not _tracer_of(edge.hub_pid()):
                raise CampaignFailed(f"the hub is not recorded; may strace trace here? log: {edge.log}")
            time.sleep(self._scenario.step.every.draw(chance))
            self._end_life()
            last = None
            for last in life.cuts(fault.images, chance):
                power.look_into(
                    last,
                    self._folder / "image",
                    self._scenario,
                    self._publishers,
                    arrived.by(last.at_s),
                    arrived.copies,
                    findings,
                    chance,
                )
            findings.faults["power cut"] += 1
            findings.log_starts += life.log_starts
            if findings.lost:
                return False
            assert last is not None
            for publisher in self._publishers:
                if publisher.acknowledged > last.acknowledged[publisher.number]:
                    raise CampaignFailed(f"publisher {publisher.number} was told more than was recorded")
            life.disk.put_down(last.image, chance)
        edge.alter_hub(defect=findings.defect)
        edge.start()
        edge.wait_until_well()
        return True

    def _end_life(self) -> None:
        """Kill agent and hub, and wait until the recording of the hub is complete."""
        edge = self._edge
        tracer = _tracer_of(edge.hub_pid())
        handle = os.pidfd_open(tracer) if tracer else None
        edge.kill_agent()  # first: it would start the hub again
        edge.kill_hub()
        edge.wait_for_death_of_hub()
        if handle is not None:
            ended = select.select([handle], [], [], LIMIT_S)[0]
            os.close(handle)
            if not ended:
                raise CampaignFailed(f"strace {tracer} did not end with the hub")

    # the end

    def _finish(self) -> None:
        edge, findings = self._edge, self._findings
        self._let_some_expire()
        for publisher in self._publishers:
            publisher.finish()
        edge.wait_for(lambda: all(p.has_finished() for p in self._publishers), "everything is acknowledged")
        time.sleep(max(route.ttl_s for route in self._scenario.routes.values()))
        for consumer in self._consumers.values():
            consumer.stay()
        self._wait_for_what_comes()
        restarts = {name: edge.modules()[name]["restarts"] for name in BYSTANDERS}
        if any(restarts.values()):
            findings.bystander_restarts += sum(restarts.values())
            findings.note(f"modules were restarted: {restarts}")
        try:
            if not findings.defect:
                edge.wait_for(self._nothing_waits, "nothing is pending")
        finally:
            ledger = read_ledger(edge.database)
            books.compare(findings, self._scenario, self._publishers, self._consumers, ledger)

    def _let_some_expire(self) -> None:
        """Send on every output while those consumers are away that have been away before."""
        away = [self._consumers[name] for name, there in self._scenario.load.consumers.items() if there]
        for consumer in away:
            consumer.leave()
        self._edge.wait_for(lambda: not any(one.is_connected for one in away), "consumers are away")
        enough = [p.sent + TURNS * p.outputs for p in self._publishers]
        self._edge.wait_for(
            lambda: all(p.acknowledged >= n for p, n in zip(self._publishers, enough, strict=True)),
            "messages are acknowledged while consumers are away",
        )

    def _wait_for_what_comes(self) -> None:
        """Wait until consumers have all they are owed, or get nothing new any more."""
        acknowledged = {publisher.number: publisher.acknowledged for publisher in self._publishers}
        silence_s = SILENCE_OF_CONTROL_S if self._findings.defect else SILENCE_S
        received, changed_s = -1, time.monotonic()
        while time.monotonic() < changed_s + silence_s:
            now = sum(consumer.received for consumer in self._consumers.values())
            if now != received:
                received, changed_s = now, time.monotonic()
            if not any(
                books.missing(self._scenario, name, acknowledged, consumer, expired=1 << 62)
                for name, consumer in self._consumers.items()
            ):
                return
            time.sleep(10 * LOOK_S)

    def _nothing_waits(self) -> bool:
        return all(row.pending == 0 for row in read_ledger(self._edge.database).endpoints.values())


def _tracer_of(pid: int | None) -> int:
    """Return who records a process, 0 for nobody."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid else []
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("TracerPid:")), 0)
