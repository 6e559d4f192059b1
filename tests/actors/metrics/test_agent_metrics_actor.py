"""What the agent counts at intervals, and when it sends the quality telemetry; in virtual time.

Source: spec sheet observability.md sections 3, 4 and 13
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from actors.addresses import AGENT, METRICS, METRICS_OF_AGENT
from actors.agent.link_messages import LINK, QualityLost, QualitySent, SendQuality
from actors.agent.module_list import ListModules, ModuleList
from actors.manifest.agent_environment import DEFAULTS, AgentEnvironment
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.agent_metrics_actor import AgentMetricsActor
from actors.metrics.metrics import Answered, Job, Metrics, TellMetrics
from actors.metrics.quality_telemetry import Point, Scrape
from actors.metrics.registry import Registry
from actors.metrics.system_resources import Disk, ModuleResources, Resources
from messaging.exposition import Family, Sample, pack
from messaging.lifecycle import RequestFailed
from tests.actors.hub_world import World

COMMON = (("iothub", "h"), ("edge_device", "d"), ("instance_number", "n"))
SENT_ALWAYS = Family("edgehub_x", "gauge", "", (Sample("", (*COMMON, ("ms_telemetry", "True")), 1.0),))
QUICK = replace(DEFAULTS, metric_scrape_s=10.0, metric_upload_s=30.0)


class Gate:
    """Takes the place of HTTP."""

    def __init__(self) -> None:
        self.scraped: Callable[[str, Answered], None] | None = None

    def open(self, scraped: Callable[[str, Answered], None]) -> None:
        self.scraped = scraped

    def close(self) -> None:
        self.scraped = None

    def work(self, job: Job, done: Callable[[bytes | None], None]) -> None:
        done(job())


class Kept:
    def __init__(self) -> None:
        self.scrapes: dict[str, Scrape] = {}

    def add(self, scrape: Scrape) -> None:
        self.scrapes[str(len(self.scrapes))] = scrape

    def read(self, most: int) -> list[tuple[str, Scrape]]:
        return list(self.scrapes.items())[:most]

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self.scrapes[key]


class Memory:
    """When the agent was last known to run."""

    def __init__(self, last_s: float | None = None) -> None:
        self.last_s = last_s

    def load(self) -> float | None:
        return self.last_s

    def save(self, now_s: float) -> None:
        self.last_s = now_s

    def remove(self) -> None:
        self.last_s = None


class AgentWorld(World):
    def __init__(self, environment: AgentEnvironment = QUICK, link: str = LINK) -> None:
        super().__init__("test", AGENT, METRICS, LINK)
        self.metrics = AgentMetrics(Registry(self.clock, COMMON))
        self.metrics.configure(environment)
        self.gate, self.kept, self.memory = Gate(), Kept(), Memory()
        self.looked: list[Sequence[tuple[str, int]]] = []
        self.link = link

    def begin(self) -> AgentWorld:
        self.start(
            METRICS_OF_AGENT,
            lambda: AgentMetricsActor(
                self.metrics,
                self.gate,
                (),
                look_at_machine=self.looked.append,
                checkpoint=self.memory,
                kept=self.kept,
                link=self.link,
                draw=lambda: 1.0,
            ),
        )
        return self

    def list(self, *modules: tuple[str, str, str]) -> None:
        """Answer who asks for the modules: name, status, desired."""
        for letter in self.letters(AGENT):
            if letter.kind == ListModules.__name__:
                entries = tuple(
                    {"name": name, "status": status, "desired": desired, "pid": 7}
                    for name, status, desired in modules
                )
                answer = ModuleList(entries, (), {})
                self.tell(METRICS_OF_AGENT, answer, AGENT, letter.correlation_id)

    def hub_tells(self, *families: Family) -> int:
        """Have the hub answer; return how often it was asked."""
        asked = [letter for letter in self.letters(METRICS) if letter.kind == TellMetrics.__name__]
        for letter in asked:
            self.tell(METRICS_OF_AGENT, Metrics(pack(families)), METRICS, letter.correlation_id)
        return len(asked)

    def sent(self, answer: object) -> list[bytes]:
        """Have the link answer; return what it was to send."""
        found = []
        for letter in self.letters(LINK):
            assert letter.kind == SendQuality.__name__
            found.append(letter.body[0])
            self.tell(METRICS_OF_AGENT, answer, LINK, letter.correlation_id)
        return found

    def value(self, name: str, **labels: str) -> float | None:
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                own = {key: text for key, text in sample.labels if (key, text) not in COMMON}
                if family.name + sample.suffix == name and own == labels:
                    return sample.value
        return None


def keep_one(world: AgentWorld) -> None:
    world.system.advance(10.0)
    world.hub_tells(SENT_ALWAYS)


def test_modules_are_looked_at_and_their_clocks_told() -> None:
    world = AgentWorld().begin()
    modules = (
        ("edgeHub", "running", "running"),
        ("m", "backoff", "running"),
        ("edgeCloud", "running", "running"),
    )

    for _ in range(3):
        world.list(*modules)
        world.system.advance(5.0)

    running, expected = "running_correctly_seconds", "expected_running_seconds"
    hub = {"module_name": "edgeHub", "ms_telemetry": "True"}
    module = {"module_name": "m", "ms_telemetry": "False"}
    assert world.value(f"edgeAgent_total_time_{running}", **hub) == 10
    assert world.value(f"edgeAgent_total_time_{expected}", **hub) == 10
    assert world.value(f"edgeAgent_total_time_{running}", **module) == 0
    assert world.value(f"edgeAgent_total_time_{expected}", **module) == 10
    stand_in = {"module_name": "edgeCloud", "ms_telemetry": "False"}
    assert world.value(f"edgeAgent_total_time_{running}", **stand_in) is None


def test_the_time_that_a_killed_agent_was_away_was_expected_of_it() -> None:
    world = AgentWorld()
    world.memory.last_s = world.clock.now_s() - 1200
    world.begin()

    world.list(("edgeAgent", "running", "running"))

    agent = {"module_name": "edgeAgent", "ms_telemetry": "True"}
    assert world.value("edgeAgent_total_time_running_correctly_seconds", **agent) == 0
    assert world.value("edgeAgent_total_time_expected_running_seconds", **agent) == 1200
    assert world.memory.last_s == world.clock.now_s()


def test_the_machine_is_looked_at_after_a_minute_and_then_as_often_as_is_set() -> None:
    world = AgentWorld(replace(DEFAULTS, performance_metrics_s=300.0)).begin()
    world.list(("m", "running", "running"))

    counts = []
    for seconds in (59.0, 2.0, 298.0, 2.0):
        world.system.advance(seconds)
        counts.append(len(world.looked))

    assert counts == [0, 1, 1, 2]
    assert world.looked[0] == [("m", 7)]


def resources(*modules: ModuleResources) -> Resources:
    return Resources(100.0, 50.0, 12.5, 600, 1000, (Disk("/dev/vda1", "ext4", "", 5000, 2000),), modules)


def test_what_was_found_of_the_machine_is_told() -> None:
    world = AgentWorld()

    world.metrics.resources(resources(ModuleResources("m", 5.0, 30, 1000, 3, 1, 2, 4, 8)))

    host = {"module_name": "host", "ms_telemetry": "True"}
    module = {"module_name": "m", "ms_telemetry": "False"}
    disk = {"disk_name": "/dev/vda1", "disk_filesystem": "ext4", "disk_filetype": "", "ms_telemetry": "True"}
    expected: list[tuple[str, dict[str, str], float]] = [
        ("edgeAgent_host_uptime_seconds", {"ms_telemetry": "True"}, 100),
        ("edgeAgent_iotedged_uptime_seconds", {"ms_telemetry": "True"}, 50),
        ("edgeAgent_used_memory_bytes", host, 600),
        ("edgeAgent_total_memory_bytes", host, 1000),
        ("edgeAgent_used_memory_bytes", module, 30),
        ("edgeAgent_used_cpu_percent_sum", host, 12.5),
        ("edgeAgent_used_cpu_percent_sum", module, 5),
        ("edgeAgent_available_disk_space_bytes", disk, 2000),
        ("edgeAgent_total_disk_space_bytes", disk, 5000),
        ("edgeAgent_created_pids_total", module, 3),
        ("edgeAgent_total_network_in_bytes", module, 1),
        ("edgeAgent_total_network_out_bytes", module, 2),
        ("edgeAgent_total_disk_read_bytes", module, 4),
        ("edgeAgent_total_disk_write_bytes", module, 8),
    ]
    assert [world.value(name, **labels) for name, labels, _ in expected] == [value for *_, value in expected]


@pytest.mark.parametrize("percent", [150.0, 100.0, -1.0])
def test_an_impossible_share_of_the_processors_is_left_out(percent: float) -> None:
    world = AgentWorld()

    world.metrics.resources(resources(ModuleResources("m", percent)))

    module = {"module_name": "m", "ms_telemetry": "False"}
    assert world.value("edgeAgent_used_cpu_percent_count", **module) is None


def test_metrics_are_kept_at_each_interval_and_sent_with_those_of_the_hub() -> None:
    world = AgentWorld().begin()

    for _ in range(2):
        keep_one(world)
    assert [len(scrape.points) for scrape in world.kept.scrapes.values()] == [1, 1]
    keep_one(world)
    sent = world.sent(QualitySent())

    assert len(sent) == 1
    assert b"edgehub_x" in sent[0]
    for word in (b"iothub", b"edge_device", b"ms_telemetry"):
        assert word not in sent[0]
    assert b"instance_number" in sent[0]
    assert not any(key in ("0", "1") for key in world.kept.scrapes)


def test_without_the_hub_the_agents_own_metrics_are_kept() -> None:
    world = AgentWorld().begin()
    world.metrics.synced()

    world.system.advance(10.0)
    [asked] = [letter for letter in world.letters(METRICS) if letter.kind == TellMetrics.__name__]
    world.tell(METRICS_OF_AGENT, RequestFailed("TellMetrics", METRICS, "away"), METRICS, asked.correlation_id)

    [scrape] = world.kept.scrapes.values()
    assert scrape.points == (Point("edgeAgent_iothub_syncs_total", (("instance_number", "n"),), 1.0),)


def test_a_hub_that_does_not_answer_holds_nothing_up() -> None:
    world = AgentWorld().begin()
    world.metrics.synced()

    world.system.advance(16.0)

    assert len(world.kept.scrapes) == 1


def test_with_metrics_off_those_of_the_hub_are_sent_all_the_same() -> None:
    world = AgentWorld(replace(QUICK, metrics_enabled=False)).begin()
    world.metrics.synced()

    keep_one(world)

    [scrape] = world.kept.scrapes.values()
    assert [point.name for point in scrape.points] == ["edgehub_x"]


@pytest.mark.parametrize(
    ("environment", "link"),
    [(replace(QUICK, sends_quality_telemetry=False), LINK), (QUICK, "")],
    ids=["switched off", "no cloud"],
)
def test_nothing_is_kept_or_sent(environment: AgentEnvironment, link: str) -> None:
    world = AgentWorld(environment, link).begin()

    for _ in range(7):
        keep_one(world)

    assert not world.kept.scrapes
    assert world.sent(QualitySent()) == []


def test_what_was_kept_before_it_was_switched_off_is_not_sent() -> None:
    world = AgentWorld().begin()
    keep_one(world)

    world.metrics.configure(replace(QUICK, sends_quality_telemetry=False))
    world.system.advance(60.0)

    assert world.sent(QualitySent()) == []


def test_a_failure_that_may_pass_is_tried_again_with_the_same_data() -> None:
    world = AgentWorld().begin()
    for _ in range(3):
        keep_one(world)
    first = world.sent(QualityLost("no answer", True))

    world.system.advance(299.0)
    early = world.sent(QualitySent())
    world.system.advance(2.0)
    again = world.sent(QualitySent())

    assert len(first) == 1
    assert early == []
    assert again == first


def test_a_verdict_of_the_cloud_deletes_what_it_did_not_take_and_the_next_period_works() -> None:
    world = AgentWorld().begin()
    for _ in range(3):
        keep_one(world)
    kept = set(world.kept.scrapes)

    refused = world.sent(QualityLost("unauthorized", False))
    left = set(world.kept.scrapes)
    for _ in range(3):
        keep_one(world)

    assert len(refused) == 1
    assert not left & kept - {str(len(kept) - 1)}
    assert len(world.sent(QualitySent())) == 1


def test_a_scrape_that_is_too_old_is_deleted_and_not_sent() -> None:
    world = AgentWorld()
    world.kept.add(Scrape(world.clock.now_s() - 8 * 86_400, (Point("old", (), 1.0),)))
    world.kept.add(Scrape(world.clock.now_s() - 6 * 86_400, (Point("fresh", (), 1.0),)))
    world.begin()

    world.system.advance(30.0)
    [sent] = world.sent(QualitySent())

    assert b"fresh" in sent
    assert b"old" not in sent


def test_a_large_upload_is_sent_part_by_part_and_forgotten_when_all_of_it_is_there() -> None:
    world = AgentWorld()
    points = tuple(Point(f"m{number:04}" + "x" * 280, (), 1.0) for number in range(2000))
    world.kept.add(Scrape(world.clock.now_s(), points))
    world.begin()
    world.system.advance(30.0)

    parts: list[Any] = []
    while sent := world.sent(QualitySent()):
        parts += sent

    assert len(parts) >= 3
    assert "0" not in world.kept.scrapes
