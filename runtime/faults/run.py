"""Runs a fault script: an edge under load, what the script wants in time, everybody's books afterwards."""

from __future__ import annotations

import heapq
import itertools
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.addresses import STORE
from runtime.faults import compare
from runtime.faults.books import Books, LooseBooks
from runtime.faults.clients import Consumer, Publisher, account_in
from runtime.faults.cloud import CloudBehindLine, CloudReader
from runtime.faults.container_image import SLEEPER, SLOW, SlowRegistry, make_sleeper
from runtime.faults.doing import make_fault
from runtime.faults.edge import LOOK_S, Edge, RunFailed
from runtime.faults.findings import Findings
from runtime.faults.guard import DISK
from runtime.faults.plan import Due, Timeline, chance_of
from runtime.faults.recording import RecordingError
from runtime.faults.scenario import UPSTREAM, Scenario
from runtime.faults.scene import Fault, Scene
from runtime.faults.tmpfs import Tmpfs
from runtime.faults.watch import Memory, Recovery
from runtime.storage.message_ledger import read_ledger
from runtime.storage.store_place import database_of

SILENCE_S: Final = 10.0  # nothing new for so long: what is missing does not come any more
RECOVERY_LIMIT_S: Final = 45.0
WAIT_FOR_EVENT_S: Final = 60.0
LOOK_FOR_RECOVERY_S: Final = 0.1
DEAD_AFTER_S: Final = 10.0  # without an answer
DEAD: Final = ("ended", "starting")  # states of actors with which nothing can be done


@dataclass(slots=True)
class _Going:
    """A fault under way."""

    due: Due
    fault: Fault


def run(scenario: Scenario, seed: int, folder: Path) -> Findings:
    """Run a scenario in an empty folder; whatever happens is among the findings."""
    findings = Findings(scenario.name, seed)
    began_s = time.monotonic()
    with ExitStack() as stack:
        try:
            _Run(scenario, seed, folder, findings, stack).run()
        except (RunFailed, RecordingError) as exc:
            findings.failures.append(str(exc))
    findings.took_s = time.monotonic() - began_s
    return findings


class _Run:
    def __init__(
        self, scenario: Scenario, seed: int, folder: Path, findings: Findings, stack: ExitStack
    ) -> None:
        self._findings = findings
        self._registry: SlowRegistry | None = None
        settings: dict[str, str] = {}
        if scenario.edge.disk_bytes:
            disk = stack.enter_context(Tmpfs(folder / DISK, scenario.edge.disk_bytes))
            settings["storage_folder"] = str(disk.path)
        cloud = None
        if scenario.edge.cloud != "own":
            cloud = stack.enter_context(CloudBehindLine(folder, scenario.edge.protocol, seed))
            settings |= cloud.settings
        else:
            settings["upstream_protocol"] = scenario.edge.protocol
        edge = Edge(folder, scenario, settings, self._images(scenario, stack))
        numbers = {name: number for number, name in enumerate(scenario.load.publisher_names, 1)}
        reader = CloudReader(cloud.home if cloud else edge.home, numbers)
        self._scene = Scene(scenario, seed, folder, edge, cloud, reader, findings, stack, self._registry)
        self._faults = {step.number: make_fault(self._scene, step) for step in scenario.steps}
        self._timeline = Timeline(scenario.steps, seed)
        self._going: list[tuple[float, int, _Going]] = []  # when to go on with it
        self._ready: list[Due] = []  # due, and there is no agent yet
        self._turns = itertools.count()
        self._recovery: Recovery | None = None
        self._memory = Memory()
        self._bystanders: dict[str, int | None] = {}
        self._began_s = 0.0
        self._look_again_s = 0.0

    def _images(self, scenario: Scenario, stack: ExitStack) -> dict[str, str]:
        """Return the images that are made for this run."""
        wanted = {module.image for module in scenario.edge.modules.values()}
        found = {SLEEPER: make_sleeper()} if SLEEPER in wanted else {}
        if SLOW in wanted:
            self._registry = stack.enter_context(SlowRegistry())
            found[SLOW] = self._registry.image
        return found

    def run(self) -> None:
        scene, findings = self._scene, self._findings
        try:
            try:
                for fault in self._faults.values():
                    fault.prepare()
                scene.edge.start()
                self._start_clients()
                self._bystanders = scene.edge.bystander_pids()
                self._began_s = time.monotonic()
                self._go_through_steps()
                self._finish()
            finally:
                for step in scene.scenario.steps:
                    self._faults[step.number].finish()
                    name = step.name or f"{step.number + 1} ({step.fault})"
                    findings.counts[name] = self._faults[step.number].count
                for client in scene.clients:
                    client.stop()
                compare.add_clients(scene, findings)
        finally:
            findings.left_after_down = scene.edge.down()

    # the load

    def _start_clients(self) -> None:
        scene = self._scene
        edge, load = scene.edge, scene.scenario.load
        edge.wait_until_well()
        names = (*load.publisher_names, *load.consumers)
        edge.wait_for_identities(names)
        accounts = {
            name: account_in(edge.connection_string(name), edge.address, edge.address[0], edge.ca_file)
            for name in names
        }
        for number, name in enumerate(load.publisher_names, 1):
            outputs, rate_per_s, size = scene.scenario.outputs, load.rate_per_s, load.size_bytes
            scene.publishers.append(
                _publisher_class(load.over)(name, accounts[name], number, outputs, rate_per_s, size)
            )
        books = LooseBooks if any(s.values.get("actor") == STORE for s in scene.scenario.steps) else Books
        for name, presence in load.consumers.items():
            chance = chance_of(scene.seed, "presence", name)
            scene.consumers[name] = Consumer(name, accounts[name], presence, chance, books)
        for consumer in scene.consumers.values():
            consumer.start()
        for publisher in scene.publishers:
            publisher.start()
        edge.wait_for(lambda: all(publisher.acknowledged for publisher in scene.publishers), "the load runs")

    # steps

    @property
    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _go_through_steps(self) -> None:
        timeline, scene = self._timeline, self._scene
        idle_since_s = self._now_s
        while not timeline.is_over:
            if scene.edge.has_agent:
                scene.edge.look_after_agent()
            self._memory.look(scene.edge.pid_of("edgeHub"))
            timeline.acknowledged(scene.acknowledged, self._now_s)
            self._look_for_recovery()
            while self._going and self._going[0][0] <= self._now_s:
                _, _, going = heapq.heappop(self._going)
                self._continue(going, going.fault.go_on())
            while (due := timeline.take(self._now_s)) is not None:
                self._ready.append(due)
            self._begin_what_is_ready()
            if self._ready or self._going or timeline.next_s() is not None or self._recovery:
                idle_since_s = self._now_s
            elif self._now_s > idle_since_s + WAIT_FOR_EVENT_S:
                raise RunFailed(f"what steps wait for did not happen: {', '.join(timeline.waits_for)}")
            time.sleep(LOOK_S)

    def _begin_what_is_ready(self) -> None:
        """Begin each fault that is due.

        None without an agent: it may wait for its answers, and only another fault's going on starts one.
        """
        waiting, self._ready = self._ready, []
        for due in waiting:
            if not self._scene.edge.has_agent:
                self._ready.append(due)
                continue
            fault = self._faults[due.step]
            self._recovery = None  # of a fault before: this one is upon it
            self._continue(_Going(due, fault), fault.begin(due.nth))

    def _continue(self, going: _Going, after_s: float | None) -> None:
        if after_s is not None:
            heapq.heappush(self._going, (self._now_s + after_s, next(self._turns), going))
            return
        self._timeline.ended(going.due, self._now_s)
        if not self._going:
            self._recovery = Recovery.begin(self._scene)

    def _look_for_recovery(self) -> None:
        recovery = self._recovery
        if recovery is None or self._now_s < self._look_again_s:
            return
        self._look_again_s = self._now_s + LOOK_FOR_RECOVERY_S
        if recovery.look(self._scene):
            self._recovery = None
            self._findings.recovered_s.append(recovery.took_s or 0.0)
            if recovery.upstream_took_s is not None:
                self._findings.upstream_recovered_s.append(recovery.upstream_took_s)
            self._check_bystanders()
            self._timeline.told("recovered", self._now_s)
        elif time.monotonic() > recovery.since_s + RECOVERY_LIMIT_S:
            raise RunFailed(
                f"not recovered {RECOVERY_LIMIT_S:g} s after a fault; log: {self._scene.edge.log}"
            )

    def _check_bystanders(self) -> None:
        scene = self._scene
        now = scene.edge.bystander_pids()
        changed = [
            name for name, pid in now.items() if pid != self._bystanders[name] and name not in scene.hit
        ]
        if changed and not scene.scenario.uses("reboot", "power cut"):
            self._findings.bystander_restarts += len(changed)
            self._findings.note(f"{', '.join(changed)} did not go on running")
        self._bystanders = now

    # the end

    def _finish(self) -> None:
        scene, edge, findings = self._scene, self._scene.edge, self._findings
        while self._recovery is not None:
            edge.look_after_agent()
            self._memory.look(edge.pid_of("edgeHub"))
            self._look_for_recovery()
            time.sleep(LOOK_S)
        for publisher in scene.publishers:
            publisher.finish()
        edge.wait_for(lambda: all(p.has_finished for p in scene.publishers), "everything is acknowledged")
        for consumer in scene.consumers.values():
            consumer.stay()
        time.sleep(max(route.ttl_s for route in scene.scenario.edge.routes.values()))
        self._wait_for_what_comes()
        self._look_at_actors()
        self._look_at_restarts()
        try:
            edge.wait_for(self._nothing_waits, "nothing is pending")
        finally:  # what is pending for ever is missing somewhere, which says more
            compare.compare(scene, read_ledger(database_of(edge.place)), findings)
        findings.bytes_per_min = self._memory.bytes_per_min()

    def _wait_for_what_comes(self) -> None:
        """Wait until everybody has what is owed, or gets nothing new any more."""
        scene = self._scene
        received, changed_s = -1, time.monotonic()
        while time.monotonic() < changed_s + SILENCE_S:
            if any(route.into == UPSTREAM for route in scene.scenario.edge.routes.values()):
                scene.reader.read()
            books = compare.books_of(scene)
            now = sum(len(one.first) for one in books.values())
            if now != received:
                received, changed_s = now, time.monotonic()
            if not any(one.missing(compare.owed(scene, name)) for name, one in books.items()):
                return
            if self._nothing_waits():  # the rest has expired or was dropped: the ledger knows
                if any(route.into == UPSTREAM for route in scene.scenario.edge.routes.values()):
                    scene.reader.read()
                return
            time.sleep(10 * LOOK_S)

    def _nothing_waits(self) -> bool:
        ledger = read_ledger(database_of(self._scene.edge.place))
        return all(row.pending == 0 for row in ledger.endpoints.values())

    def _look_at_actors(self) -> None:
        ends_s = time.monotonic() + DEAD_AFTER_S
        while True:
            actors = self._scene.edge.actors()
            self._findings.dead_actors = [
                address for address, values in actors.items() if values is None or values["state"] in DEAD
            ]
            if not self._findings.dead_actors or time.monotonic() > ends_s:
                break
        self._findings.actor_failures = sum(values["failures"] for values in actors.values() if values)

    def _look_at_restarts(self) -> None:
        edge = self._scene.edge
        listed = edge.modules()
        self._findings.restarts = {name: int(module.get("restarts") or 0) for name, module in listed.items()}
        self._findings.restarts["agent"] = edge.agent_ends


def _publisher_class(over: str) -> type[Publisher]:
    if over == "mqtt":
        return Publisher
    from runtime.faults.amqp_publisher import AmqpPublisher  # with its engine: only where it is used

    return AmqpPublisher
