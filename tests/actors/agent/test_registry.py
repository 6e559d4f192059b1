"""When registry and scope are synced, what is waited for, and what a user is told."""

from __future__ import annotations

import logging

import pytest

from actors.agent.registry import (
    OWN_S,
    SPACING_S,
    GetProvisioning,
    ProvisioningState,
    RefreshScope,
    RegistryActor,
    RegistrySynced,
    SyncRegistry,
)
from actors.agent.registry_plan import CloudModule, LocalModule, RegistryPlan, plan
from actors.agent.registry_waits import REFRESH_S, explain, state_of, wait_s
from actors.ports.security import SyncOutcome
from actors.upstream.connection import CloudFault, Fault
from tests.actors.hub_world import World
from tests.fakes.registry import FINE, FakeRegistry, failed

REGISTRY, SECURITY = "agent/registry", "agent/security"


class RegistryWorld(World):
    def __init__(self, registry: FakeRegistry | None) -> None:
        super().__init__(SECURITY, "cli/ask")
        self.registry = registry
        self.start(REGISTRY, lambda: RegistryActor(self.registry, security=SECURITY, random=lambda: 0.0))

    def want(self, *tickets: int) -> None:
        for ticket in tickets:
            self.tell(REGISTRY, SyncRegistry(ticket), SECURITY)

    def ends(self, outcome: SyncOutcome = FINE) -> None:
        assert self.registry is not None
        self.registry.end(outcome)
        self.system.run()

    def covered(self) -> list[int]:
        return [told.ticket for told in self.told(SECURITY, RegistrySynced)]

    def state(self) -> ProvisioningState:
        self.tell(REGISTRY, GetProvisioning(), "cli/ask")
        [answer] = self.told("cli/ask", ProvisioningState)
        return answer


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def world(registry: FakeRegistry) -> RegistryWorld:
    return RegistryWorld(registry)


def test_the_cloud_is_asked_soon_after_the_start_and_hourly_from_then_on(
    world: RegistryWorld, registry: FakeRegistry
) -> None:
    world.system.advance(1.0)
    world.ends()
    world.system.advance(REFRESH_S - 10.0)
    within_the_hour = registry.begun
    world.system.advance(20.0)

    assert (within_the_hour, registry.begun) == (1, 2)


def test_modules_to_be_made_begin_the_first_sync(world: RegistryWorld, registry: FakeRegistry) -> None:
    world.want(1)
    at_once = registry.begun
    world.system.advance(1.0)
    world.ends()

    assert (at_once, registry.begun) == (1, 1)
    assert world.covered() == [1]


def test_what_changes_while_a_sync_runs_has_another_one(world: RegistryWorld, registry: FakeRegistry) -> None:
    world.want(1)
    world.want(2, 3)
    world.ends()
    first = world.covered()
    world.system.advance(SPACING_S)
    world.ends()

    assert first == [1]
    assert world.covered() == [3]
    assert registry.begun == 2


def test_who_asks_often_does_not_have_the_cloud_asked_as_often(
    world: RegistryWorld, registry: FakeRegistry
) -> None:
    world.want(1)
    world.ends()
    for ticket in range(2, 100):
        world.want(ticket)
    at_once = registry.begun
    world.system.advance(SPACING_S)

    assert (at_once, registry.begun) == (1, 2)


def test_nobody_waits_for_a_cloud_that_is_away(world: RegistryWorld, registry: FakeRegistry) -> None:
    world.want(1, 2)
    world.ends(failed(Fault.UNREACHABLE))
    while_it_ran = world.covered()
    world.want(3)

    assert while_it_ran == [2]
    assert world.covered() == [3]


def test_a_link_that_is_back_has_the_cloud_asked_at_once(
    world: RegistryWorld, registry: FakeRegistry
) -> None:
    world.want(1)
    for _ in range(20):
        world.ends(failed(Fault.UNREACHABLE))
        world.system.advance(70.0)
    world.ends(failed(Fault.UNREACHABLE))
    world.system.advance(SPACING_S)
    before = registry.begun

    world.tell(REGISTRY, RefreshScope(), "hub/upstream")

    assert registry.begun == before + 1


def test_a_cloud_that_asked_us_to_wait_is_not_asked_earlier(
    world: RegistryWorld, registry: FakeRegistry
) -> None:
    world.want(1)
    world.ends(failed(Fault.THROTTLED, 429))
    world.system.advance(SPACING_S)
    world.tell(REGISTRY, RefreshScope(), "hub/upstream")
    world.want(2)
    world.system.advance(50.0)
    before = registry.begun
    world.system.advance(10.0)

    assert (before, registry.begun) == (1, 2)


def test_an_edge_without_a_cloud_says_so_and_lets_nobody_wait() -> None:
    world = RegistryWorld(None)
    world.want(1)

    assert world.covered() == [1]
    assert world.state().state == "no cloud"


def test_the_state_tells_the_story(world: RegistryWorld) -> None:
    states = [world.state().state]
    world.want(1)
    for outcome in (failed(Fault.UNREACHABLE), FINE, failed(Fault.UNAUTHORIZED, 401)):
        world.ends(outcome)
        states.append(world.state().state)
        world.system.advance(REFRESH_S * 2)

    assert states == ["connecting", "unreachable", "linked", "unauthorized"]
    last = world.state()
    assert (last.host_name, last.device_id, last.identities) == ("hub1", "edge1", 3)
    assert "give its present connection string with --connection-string-file" in last.reason


def test_a_fault_is_logged_once_and_its_end_too(
    world: RegistryWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        world.want(1)
        for _ in range(3):
            world.ends(failed(Fault.UNREACHABLE))
            world.system.advance(100.0)
        world.ends()

    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_stand_in_of_our_own_is_tried_every_few_seconds(
    world: RegistryWorld, registry: FakeRegistry
) -> None:
    registry.is_own = True
    world.want(1)
    for _ in range(5):
        world.ends(failed(Fault.UNAUTHORIZED, 401))
        begun = registry.begun
        world.system.advance(OWN_S)
        assert registry.begun == begun + 1


def test_a_cloud_that_is_just_starting_is_no_news(
    world: RegistryWorld, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "actors.agent.registry")
    world.want(1)
    world.ends(failed(Fault.UNREACHABLE))
    world.system.advance(60.0)
    world.ends()

    assert [line.levelname for line in caplog.records] == ["INFO"]


def test_modules_that_the_cloud_does_not_take_are_named_and_tried_again(
    world: RegistryWorld, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    problems = (("m9", "hub1 answers 403: it has 50 modules"),)
    world.want(1)
    for _ in range(2):
        world.ends(SyncOutcome(None, problems, 3))
        world.system.advance(61.0)

    assert world.state().problems == problems
    assert registry.begun == 3
    assert caplog.text.count("module 'm9' has no identity at hub1") == 1


@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        (Fault.UNREACHABLE, [3, 5, 10, 20, 40, 60, 60]),
        (Fault.TIMEOUT, [3, 5]),
        (Fault.THROTTLED, [60, 120, 180, 300, 300]),
        (Fault.QUOTA, [60, 120]),
        (Fault.UNAUTHORIZED, [10, 30, 60, 120, 300, 300]),
        (Fault.UNTRUSTED, [10, 30]),
        (Fault.CLOCK, [10, 30]),
        (Fault.REFUSED, [10, 30]),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_waits_grow_and_have_an_end(kind: Fault, waits: list[float]) -> None:
    fault = CloudFault(kind, "")

    assert [wait_s(fault, number, False, 0.0) for number in range(1, len(waits) + 1)] == waits
    assert wait_s(fault, 1, False, 1.0) == pytest.approx(waits[0] * 1.1)


def test_without_a_fault_the_next_is_in_an_hour_or_soon_when_modules_are_missing() -> None:
    assert wait_s(None, 0, False, 0.5) == 3600.0
    assert wait_s(None, 0, True, 0.5) == 60.0


@pytest.mark.parametrize(
    ("fault", "state", "way_out"),
    [
        (CloudFault(Fault.REFUSED, "r", 404), "unknown device", "create it there as an edge device"),
        (CloudFault(Fault.UNAUTHORIZED, "r", 401), "unauthorized", "whether device 'edge1' is enabled"),
        (CloudFault(Fault.CLOCK, "r", 401), "clock", "set the clock of this device"),
        (CloudFault(Fault.CLOCK, "r; set the clock"), "clock", "set the clock"),
        (CloudFault(Fault.UNREACHABLE, "r"), "unreachable", "it is tried again"),
        (CloudFault(Fault.UNTRUSTED, "r; name its ca.pem"), "untrusted", "name its ca.pem"),
    ],
    ids=lambda value: value.kind.name if isinstance(value, CloudFault) else "",
)
def test_each_fault_has_a_state_and_a_way_out(fault: CloudFault, state: str, way_out: str) -> None:
    assert state_of(fault) == state
    assert way_out in explain(fault, "edge1", "hub1")


@pytest.mark.parametrize("status", [401, 404])
def test_nobody_is_sent_away_from_the_stand_in_that_the_edge_runs_for_itself(status: int) -> None:
    told = explain(CloudFault(Fault.UNAUTHORIZED, "r", status), "edge1", "127.0.0.2", is_own=True)

    assert "`edge-actors cloud device create edge1 --edge`" in told
    assert "connection-string" not in told


KEYS, OTHER = ("p", "s"), ("x", "y")


@pytest.mark.parametrize(
    ("local", "deletes", "listed", "steps"),
    [
        pytest.param({}, {}, {}, RegistryPlan(), id="nothing"),
        pytest.param({"m": ("", KEYS)}, {}, {}, RegistryPlan(create=("m",)), id="new"),
        pytest.param({"m": ("1", KEYS)}, {}, {"m": ("1", KEYS)}, RegistryPlan(), id="the same"),
        pytest.param(
            {"m": ("1", KEYS)}, {}, {"m": ("1", OTHER)}, RegistryPlan(update=("m",)), id="other keys there"
        ),
        pytest.param(
            {"m": ("1", KEYS)}, {}, {"m": ("2", KEYS)}, RegistryPlan(update=("m",)), id="made anew there"
        ),
        pytest.param({"m": ("1", KEYS)}, {}, {}, RegistryPlan(create=("m",)), id="deleted there"),
        pytest.param({}, {}, {"theirs": ("1", KEYS)}, RegistryPlan(), id="never ours"),
        pytest.param({}, {"m": "1"}, {"m": ("1", KEYS)}, RegistryPlan(delete=("m",)), id="went here"),
        pytest.param({}, {"m": "1"}, {}, RegistryPlan(forget=("m",)), id="went on both sides"),
        pytest.param(
            {}, {"m": "1"}, {"m": ("2", KEYS)}, RegistryPlan(forget=("m",)), id="went here, made anew there"
        ),
        pytest.param(
            {"m": ("", KEYS)},
            {"m": "1"},
            {"m": ("1", OTHER)},
            RegistryPlan(delete=("m",), create=("m",)),
            id="went and came back",
        ),
    ],
)
def test_the_plan_leads_from_what_is_there_to_what_is_here(
    local: dict[str, tuple[str, tuple[str, str]]],
    deletes: dict[str, str],
    listed: dict[str, tuple[str, tuple[str, str]]],
    steps: RegistryPlan,
) -> None:
    """Source: agent.md section 8, rows 78 and 79."""
    here = {name: LocalModule(*module) for name, module in local.items()}
    there = {name: CloudModule(name, *module) for name, module in listed.items()}

    assert plan(here, deletes, there) == steps
