from __future__ import annotations

import signal
import threading
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from actors.agent.module_report import ModuleReported
from actors.agent.supervisor import SupervisorActor
from actors.agent.supervisor_messages import (
    GetModule,
    HealthChanged,
    KillModule,
    ModuleExited,
    RemoveModule,
    RestartModule,
    StartModule,
    StopModule,
)
from actors.kernel.base import ChildSpec
from actors.kernel.hosts import ThreadSystem
from actors.kernel.memory_system import MemorySystem
from actors.manifest.module_spec import (
    EDGE_HUB,
    BuiltInSettings,
    DesiredStatus,
    ModuleSpec,
    ProcessSettings,
    RestartPolicy,
    spec_hash,
)
from actors.ports.modules import ModuleAccess, ModuleRecord
from messaging.client import Client
from messaging.errors import EnvironmentFault
from messaging.lifecycle import PeerDown, PeerUp, Stop
from messaging.zmq_bus import ZmqBus
from tests.fakes.module_records import FakeModuleRecords
from tests.fakes.module_runtime import FakeModuleRuntime

SENSOR = ModuleSpec("sensor", ProcessSettings(("sensor",)), restart_policy=RestartPolicy.ALWAYS)
SUPERVISOR = "test/agent/sensor"
AGENT = "test/agent"


class World:
    """One supervisor, what it runs, and what its agent hears."""

    def __init__(self) -> None:
        self.system = MemorySystem(seed=3)
        self.runtime = FakeModuleRuntime(self.system.clock)
        self.records = FakeModuleRecords()
        self._take = self.system.mailbox(AGENT)
        self._letters: list[Any] = []

    def supervise(self, spec: ModuleSpec = SENSOR, problem: str = "") -> None:
        """Start the supervisor as a new agent would."""

        def build() -> SupervisorActor:
            return SupervisorActor(
                spec,
                ModuleAccess("g1", "unix:///w"),
                problem,
                agent=AGENT,
                runtime=self.runtime,
                records=self.records,
                stop_grace_s=10.0,
            )

        self.system.spawn(ChildSpec("sensor", build), SUPERVISOR, AGENT)
        self.system.run()

    def lose_agent(self) -> None:
        """Kill the agent process: actors and watches are gone, modules are not."""
        cell = self.system.cells.pop(SUPERVISOR)
        cell.ended = True
        self.system.bus.close(SUPERVISOR)
        self.runtime.lose_agent()

    def tell(self, message: object) -> None:
        self.system.bus.send(SUPERVISOR, message, sender=AGENT)
        self.system.run()

    def ask(self, message: object) -> int:
        """Send a request; returns its correlation id."""
        asked = self.system.bus.next_id()
        self.system.bus.send(SUPERVISOR, message, sender=AGENT, correlation_id=asked)
        self.system.run()
        return asked

    def answer(self, asked: int) -> ModuleReported | None:
        for envelope in self.letters():
            if envelope.correlation_id == asked:
                return ModuleReported(*envelope.body)
        return None

    def letters(self) -> list[Any]:
        self.system.run()
        self._letters.extend(self._take())
        return self._letters

    def end(self, exit_code: int = 0, signal: int | None = None) -> None:
        self.runtime.end("sensor", exit_code, signal)
        self.system.run()

    def check_health(self, healthy: bool) -> None:
        self.runtime.check_health("sensor", healthy)
        self.system.run()

    @property
    def now(self) -> ModuleReported:
        """How the supervisor says the module is doing."""
        found = self.answer(self.ask(GetModule()))
        assert found is not None
        return found

    @property
    def starts(self) -> int:
        return self.runtime.story.count("start sensor")


@pytest.fixture
def world() -> World:
    return World()


def test_a_module_is_started_with_its_access_and_reported(world: World) -> None:
    world.supervise()

    report = ModuleReported(*world.letters()[0].body)
    assert (report.name, report.status, report.desired) == ("sensor", "running", "running")
    assert report.pid == world.runtime.pid("sensor")
    assert world.runtime.access["sensor"] == ModuleAccess("g1", "unix:///w")


@pytest.mark.parametrize(
    ("policy", "exit_code", "signal_number", "runs_again", "status"),
    [
        (RestartPolicy.ALWAYS, 0, None, True, "running"),
        (RestartPolicy.ALWAYS, 1, None, True, "running"),
        (RestartPolicy.ALWAYS, 0, signal.SIGKILL, True, "running"),
        (RestartPolicy.ON_FAILURE, 0, None, False, "stopped"),
        (RestartPolicy.ON_FAILURE, 1, None, True, "running"),
        (RestartPolicy.ON_FAILURE, 0, signal.SIGKILL, True, "running"),
        (RestartPolicy.ON_UNHEALTHY, 0, None, False, "stopped"),
        (RestartPolicy.ON_UNHEALTHY, 1, None, True, "running"),
        (RestartPolicy.NEVER, 0, None, False, "stopped"),
        (RestartPolicy.NEVER, 1, None, False, "failed"),
    ],
)
def test_the_first_exit_is_answered_at_once_by_policy(
    world: World,
    policy: RestartPolicy,
    exit_code: int,
    signal_number: int | None,
    runs_again: bool,
    status: str,
) -> None:
    world.supervise(replace(SENSOR, restart_policy=policy))

    world.end(exit_code, signal_number)

    assert bool(world.runtime.pid("sensor")) is runs_again
    assert world.now.status == status


def test_crashes_in_a_row_wait_longer_and_longer_and_never_give_up(world: World) -> None:
    """Source: agent.md section 8, row 20."""
    world.supervise()
    waits_s = [0, 10, 20, 40, 80, 160, 300, 300]

    for crash, wait_s in enumerate(waits_s, start=1):
        world.end(1)
        if wait_s:
            assert world.now.status == "backoff"
            world.system.advance(wait_s - 0.1)
            assert world.runtime.pid("sensor") == 0
            world.system.advance(0.2)
        assert world.runtime.pid("sensor") != 0
        assert world.now.restarts == crash

    assert f"crash {len(waits_s)} in a row" not in world.now.description  # it runs, that is the story now


def test_ten_minutes_of_running_forgive_earlier_crashes(world: World) -> None:
    world.supervise()
    world.end(1)
    world.end(1)
    world.system.advance(10.1)
    assert world.now.restarts == 2

    world.system.advance(600.0)

    assert world.now.restarts == 0
    world.end(1)
    assert world.runtime.pid("sensor") != 0


def test_a_module_that_cannot_be_started_is_tried_again_and_says_why(world: World) -> None:
    world.runtime.broken["sensor"] = "command 'sensor' not found; install it"

    world.supervise()

    assert world.now.status == "backoff"
    assert "could not be started: command 'sensor' not found; install it" in world.now.description
    world.runtime.broken.clear()
    world.system.advance(10.1)
    assert world.now.status == "running"


def test_what_cannot_run_here_fails_and_is_not_tried(world: World) -> None:
    world.supervise(problem="containers need another runtime")

    world.system.advance(3600.0)

    assert (world.now.status, world.now.description) == ("failed", "containers need another runtime")
    assert world.starts == 0


def test_a_module_that_shall_be_stopped_is_not_started(world: World) -> None:
    world.supervise(replace(SENSOR, status=DesiredStatus.STOPPED))

    assert world.starts == 0
    assert (world.now.status, world.now.desired) == ("stopped", "stopped")


# by hand


def test_stop_by_hand_is_answered_when_the_module_has_ended_and_lasts(world: World) -> None:
    world.runtime.stubborn.add("sensor")
    world.supervise()

    asked = world.ask(StopModule("sensor"))
    assert world.answer(asked) is None  # it still runs
    world.runtime.end("sensor", signal=signal.SIGKILL)

    answer = world.answer(asked)
    assert answer is not None
    assert (answer.status, answer.desired, answer.pid) == ("stopped", "stopped", 0)
    assert "edge-actors start sensor" in answer.description
    world.system.advance(3600.0)
    assert world.starts == 1


def test_stop_by_hand_lasts_over_the_next_start_of_the_agent(world: World) -> None:
    world.supervise()
    world.ask(StopModule("sensor"))
    world.lose_agent()

    world.supervise()

    assert world.starts == 1
    assert world.now.status == "stopped"


@pytest.mark.parametrize(
    "changed",
    [replace(SENSOR, version="2"), replace(SENSOR, settings=ProcessSettings(("sensor", "-v")))],
    ids=["version", "command"],
)
def test_stop_by_hand_ends_with_a_deployment_that_changes_the_module(
    world: World, changed: ModuleSpec
) -> None:
    world.supervise()
    world.ask(StopModule("sensor"))
    world.lose_agent()

    world.supervise(changed)

    assert world.now.status == "running"


def test_start_by_hand_after_stop_by_hand(world: World) -> None:
    world.supervise()
    world.ask(StopModule("sensor"))

    answer = world.answer(world.ask(StartModule("sensor")))

    assert answer is not None
    assert (answer.status, answer.restarts) == ("running", 0)
    world.end(1)
    assert world.runtime.pid("sensor") != 0  # and it is kept running again


def test_start_by_hand_overrides_a_deployment_that_wants_it_stopped(world: World) -> None:
    world.supervise(replace(SENSOR, status=DesiredStatus.STOPPED))

    world.ask(StartModule("sensor"))

    assert (world.now.status, world.now.desired) == ("running", "running")


def test_start_by_hand_while_it_is_being_stopped_starts_it_when_it_has_ended(world: World) -> None:
    world.runtime.stubborn.add("sensor")
    world.supervise()
    world.ask(StopModule("sensor"))

    asked = world.ask(StartModule("sensor"))
    world.end(signal=signal.SIGKILL)

    answer = world.answer(asked)
    assert answer is not None
    assert answer.status == "running"
    assert world.starts == 2


def test_restart_by_hand_gives_a_new_process_and_is_no_crash(world: World) -> None:
    world.supervise()
    before = world.runtime.pid("sensor")

    answer = world.answer(world.ask(RestartModule("sensor")))

    assert answer is not None
    assert answer.pid == world.runtime.pid("sensor") != before
    assert (answer.status, answer.restarts) == ("running", 0)


def test_start_by_hand_does_not_wait_for_the_back_off(world: World) -> None:
    world.supervise()
    world.end(1)
    world.end(1)
    assert world.now.status == "backoff"

    world.ask(StartModule("sensor"))

    assert world.now.status == "running"
    world.system.advance(30.0)
    assert world.starts == 3  # the timer of the back-off does not start it once more


# the supervisor itself fails


def test_a_supervisor_that_fails_right_after_a_restart_takes_the_new_run_over(world: World) -> None:
    world.supervise()
    world.records.fault = ValueError("a bug")  # keeping the state is the last step of a restart

    world.end(1)

    assert world.system.cells[SUPERVISOR].restarts == 1
    assert world.starts == 2
    assert world.now.pid == world.runtime.pid("sensor") != 0
    world.end(1)
    world.system.advance(10.1)
    assert world.starts == 3


def test_a_supervisor_that_fails_between_events_touches_nothing(world: World) -> None:
    world.supervise()
    pid, story = world.runtime.pid("sensor"), list(world.runtime.story)

    world.system.cells[SUPERVISOR]._fail(None, ValueError("a bug"))
    world.system.run()

    assert world.system.cells[SUPERVISOR].restarts == 1
    assert (world.runtime.pid("sensor"), world.runtime.story) == (pid, story)
    assert world.now.pid == pid


def test_an_exit_that_was_accounted_for_is_not_counted_again(world: World) -> None:
    world.supervise()
    started_at_s = world.records.kept["sensor"].restart.running_since_s
    assert started_at_s is not None
    world.end(1)

    world.tell(ModuleExited(started_at_s, world.system.clock.now_s(), 1, None))

    assert world.starts == 2
    assert world.now.restarts == 1


def test_a_full_disk_does_not_keep_a_module_from_running(world: World) -> None:
    world.records.fault = EnvironmentFault("cannot write: no space left")

    world.supervise()

    assert world.now.status == "running"
    assert world.system.cells[SUPERVISOR].restarts == 0


# the end of the supervisor


def test_a_supervisor_that_is_stopped_ends_its_module_first(world: World) -> None:
    world.runtime.stubborn.add("sensor")
    world.supervise()

    world.tell(Stop())
    assert SUPERVISOR in world.system.cells
    assert world.runtime.story[-1] == "stop sensor"
    world.end(signal=signal.SIGKILL)

    assert SUPERVISOR not in world.system.cells
    assert world.runtime.pid("sensor") == 0


def test_kill_ends_a_module_that_does_not_want_to(world: World) -> None:
    world.runtime.stubborn.add("sensor")
    world.supervise()
    world.tell(Stop())

    world.tell(KillModule())

    assert SUPERVISOR not in world.system.cells
    assert world.runtime.story[-1] == "kill sensor"


def test_a_removed_module_leaves_nothing(world: World) -> None:
    world.supervise()

    world.tell(RemoveModule())

    assert world.runtime.story == ["start sensor", "stop sensor", "remove sensor"]
    assert world.runtime.names() == ()
    assert world.records.kept == {}
    assert [e.kind for e in world.letters() if e.kind == "ModuleRemoved"] == ["ModuleRemoved"]


# the next agent


def test_the_next_agent_takes_over_what_runs(world: World) -> None:
    world.supervise()
    since_s = world.now.since_s
    world.lose_agent()
    world.system.clock.advance(100.0)

    world.supervise()

    assert world.starts == 1
    assert (world.now.status, world.now.since_s) == ("running", since_s)
    world.end(1)
    assert world.starts == 2


class RecordsOfTheKilled(FakeModuleRecords):
    """What an agent leaves that is always killed before it could sync."""

    def save(self, name: str, record: ModuleRecord, durable: bool = True) -> None:
        if not durable:
            super().save(name, record)


@pytest.fixture
def killed_early(world: World) -> World:
    """A world whose agents are killed right after a start, before they could keep how it went."""
    world.records = RecordsOfTheKilled()
    world.supervise()
    return world


def test_an_agent_killed_right_after_a_start_leaves_a_module_that_is_adopted(killed_early: World) -> None:
    pid = killed_early.runtime.pid("sensor")
    killed_early.lose_agent()

    killed_early.supervise()

    assert killed_early.runtime.pid("sensor") == pid
    assert killed_early.runtime.story == ["start sensor"]
    assert (killed_early.now.status, killed_early.now.restarts) == ("running", 0)


def test_an_agent_killed_right_after_a_restart_leaves_its_count(killed_early: World) -> None:
    killed_early.end(1)
    killed_early.lose_agent()

    killed_early.supervise()

    assert killed_early.starts == 2
    assert (killed_early.now.status, killed_early.now.restarts) == ("running", 1)


def test_a_crash_after_a_restart_that_nobody_could_keep_is_the_second_in_a_row(killed_early: World) -> None:
    killed_early.end(1)
    killed_early.lose_agent()
    killed_early.system.clock.advance(1.0)
    killed_early.runtime.end("sensor", 1)

    killed_early.supervise()

    assert killed_early.starts == 2
    assert (killed_early.now.status, killed_early.now.restarts) == ("backoff", 1)
    assert "crash 2 in a row" in killed_early.now.description


def test_a_start_that_was_decided_and_not_done_is_done_by_the_next_agent(world: World) -> None:
    world.records = RecordsOfTheKilled()
    world.runtime.broken["sensor"] = "killed at this moment"
    world.supervise()
    world.lose_agent()
    world.runtime.broken.clear()

    world.supervise()

    assert (world.now.status, world.now.restarts) == ("running", 0)


def test_a_crash_while_no_agent_lived_is_answered_and_counted(world: World) -> None:
    world.supervise()
    world.lose_agent()
    world.runtime.end("sensor", 1)

    world.supervise()

    assert (world.now.status, world.now.restarts) == ("running", 1)


def test_counts_of_restarts_outlive_the_agent(world: World) -> None:
    world.supervise()
    world.end(1)
    world.end(1)
    world.lose_agent()

    world.supervise()

    assert (world.now.status, world.now.restarts, world.starts) == ("backoff", 1, 2)
    world.system.advance(10.1)
    assert (world.now.status, world.now.restarts, world.starts) == ("running", 2, 3)


def test_what_we_stopped_is_started_again_and_is_no_crash(world: World) -> None:
    world.supervise()
    world.tell(Stop())
    assert SUPERVISOR not in world.system.cells

    world.supervise()

    assert (world.now.status, world.now.restarts) == ("running", 0)


def test_what_ran_when_the_machine_went_down_is_started_again_and_is_no_crash(world: World) -> None:
    world.supervise()
    world.lose_agent()
    world.runtime.lose_machine()
    world.system.clock.advance(3600.0)

    world.supervise()

    assert (world.now.status, world.now.restarts) == ("running", 0)


@pytest.mark.parametrize("policy", [RestartPolicy.ON_FAILURE, RestartPolicy.NEVER])
def test_a_clean_exit_stays_one_for_the_next_agent(world: World, policy: RestartPolicy) -> None:
    spec = replace(SENSOR, restart_policy=policy)
    world.supervise(spec)
    world.end(0)
    world.lose_agent()

    world.supervise(spec)

    assert (world.now.status, world.starts) == ("stopped", 1)


def test_a_module_that_runs_from_another_specification_is_replaced(world: World) -> None:
    world.supervise()
    world.end(1)
    world.lose_agent()

    world.supervise(replace(SENSOR, version="2"))

    assert world.runtime.story == ["start sensor", "start sensor", "stop sensor", "start sensor"]
    assert (world.now.status, world.now.restarts) == ("running", 0)


def test_a_module_that_runs_and_shall_not_is_stopped(world: World) -> None:
    world.supervise()
    world.lose_agent()

    world.supervise(replace(SENSOR, status=DesiredStatus.STOPPED))

    assert world.runtime.pid("sensor") == 0
    assert world.now.status == "stopped"


def test_a_module_that_stood_still_runs_when_the_deployment_asks_for_it(world: World) -> None:
    spec = replace(SENSOR, restart_policy=RestartPolicy.ON_FAILURE, status=DesiredStatus.STOPPED)
    world.supervise(spec)
    world.lose_agent()

    world.supervise(replace(spec, status=DesiredStatus.RUNNING))

    assert world.now.status == "running"


def test_the_end_of_a_process_of_ours_is_known_to_the_bus_at_once(bus: ZmqBus, client: Client) -> None:
    runtime = FakeModuleRuntime(bus.clock)
    hub = ModuleSpec(EDGE_HUB, BuiltInSettings(), restart_policy=RestartPolicy.NEVER)
    bus.peer_seen("hub", 7)
    bus.watch_peer("hub", "test/asker")
    assert client.receive(PeerUp) == PeerUp("hub", 7)

    def build() -> SupervisorActor:
        return SupervisorActor(
            hub,
            ModuleAccess(),
            "",
            agent="test/asker",
            runtime=runtime,
            records=FakeModuleRecords(),
            stop_grace_s=10.0,
            process="hub",
        )

    ended = threading.Event()
    ThreadSystem(bus).spawn(ChildSpec("hub", build), "test/hub", "test/asker", lambda reason: ended.set())
    assert client.receive(ModuleReported).status == "running"

    runtime.end(EDGE_HUB, 1)

    assert client.receive(PeerDown) == PeerDown("hub")
    client.tell("test/hub", Stop())
    assert ended.wait(5.0)


def test_a_module_lost_with_its_engine_is_back_with_it_and_has_not_crashed(world: World) -> None:
    world.supervise()

    world.runtime.lose_engine("sensor", "Docker Engine does not run; start it")
    world.system.run()
    away = world.now
    world.runtime.bring_engine_back("sensor")
    world.system.run()

    assert away.status == "backoff"
    assert "Docker Engine does not run; start it" in away.description
    assert (world.now.status, world.now.restarts) == ("running", 0)


def test_a_module_that_ended_cleanly_with_its_engine_is_started_again(world: World) -> None:
    world.supervise(replace(SENSOR, restart_policy=RestartPolicy.ON_FAILURE))

    world.runtime.lose_engine("sensor", "Docker Engine does not run; start it")
    world.system.run()
    world.runtime.bring_engine_back("sensor")
    world.system.run()

    assert world.now.status == "running"


def test_a_module_stopped_by_hand_while_its_engine_was_away_stays_stopped(world: World) -> None:
    world.supervise()
    world.runtime.lose_engine("sensor", "Docker Engine does not run; start it")
    world.system.run()
    world.tell(StopModule("sensor"))

    world.runtime.bring_engine_back("sensor")
    world.system.run()

    assert world.now.status == "stopped"
    assert world.starts == 2  # the second found no engine


@pytest.mark.parametrize("kept", [True, False], ids=["with its record", "without a record"])
def test_a_run_that_says_from_what_it_was_made_is_taken_over_as_it_is(world: World, kept: bool) -> None:
    world.runtime.labels = True
    world.supervise()
    pid = world.now.pid
    world.lose_agent()
    if not kept:
        world.records.kept.clear()

    world.supervise()

    assert world.now.pid == pid


def test_a_run_that_says_it_was_made_from_something_else_is_replaced(world: World) -> None:
    world.runtime.labels = True
    world.supervise()
    pid = world.now.pid
    world.lose_agent()
    changed = replace(SENSOR, version="2")
    world.records.kept["sensor"] = structs.replace(world.records.kept["sensor"], spec_hash=spec_hash(changed))

    world.supervise(changed)

    assert world.now.pid != pid
    assert world.now.status == "running"


def test_a_start_that_has_to_wait_is_done_when_it_can_be_and_counts_as_one(world: World) -> None:
    world.runtime.away["sensor"] = "image 'sensor:1' is not on this device and is being pulled"

    world.supervise()
    waiting = world.now
    world.system.advance(60.0)
    still = world.now
    world.runtime.bring_engine_back("sensor")
    world.system.run()

    assert (waiting.status, waiting.restarts) == ("backoff", 0)
    assert (
        waiting.description == "not started yet: image 'sensor:1' is not on this device and is being pulled"
    )
    assert (still.status, still.restarts) == ("backoff", 0)
    assert (world.now.status, world.now.restarts) == ("running", 0)


def test_a_start_that_has_to_wait_is_given_up_when_the_module_is_stopped(world: World) -> None:
    world.runtime.away["sensor"] = "its container is being made"
    world.supervise()

    world.tell(StopModule("sensor"))

    assert world.runtime.given_up == ["sensor"]
    assert world.now.status == "stopped"
    world.system.advance(60.0)
    assert world.starts == 1


@pytest.mark.parametrize("policy", [RestartPolicy.ALWAYS, RestartPolicy.ON_UNHEALTHY])
def test_an_unhealthy_module_is_restarted_and_waits_longer_each_time(
    world: World, policy: RestartPolicy
) -> None:
    world.supervise(replace(SENSOR, restart_policy=policy))
    first = world.now.pid

    world.check_health(healthy=False)
    again = world.now
    world.check_health(healthy=False)
    waiting = world.now

    assert again.pid not in (0, first)
    assert (again.status, again.restarts) == ("running", 1)
    assert waiting.status == "backoff"
    assert "unhealthy since" in waiting.description
    assert "next start at" in waiting.description
    world.system.advance(11.0)
    assert world.now.pid not in (0, again.pid)
    assert (world.now.status, world.now.restarts) == ("running", 2)


def test_an_unhealthy_module_that_is_never_restarted_says_so_until_it_is_well(world: World) -> None:
    world.supervise(replace(SENSOR, restart_policy=RestartPolicy.NEVER))
    pid = world.now.pid

    world.check_health(healthy=False)
    ill = world.now
    world.check_health(healthy=True)

    assert (ill.status, ill.pid) == ("unhealthy", pid)
    assert (world.now.status, world.now.pid, world.now.restarts) == ("running", pid, 0)


def test_the_health_of_a_run_that_is_over_or_being_ended_does_not_count(world: World) -> None:
    world.runtime.stubborn.add("sensor")
    world.supervise()

    world.tell(HealthChanged(world.now.since_s or 0.0, True))
    world.tell(HealthChanged(1.0, False))
    assert world.now.status == "running"
    world.tell(StopModule("sensor"))
    world.check_health(healthy=False)

    assert world.starts == 1


def test_what_stays_stopped_gives_back_what_is_held_for_its_next_start(world: World) -> None:
    world.supervise()
    assert world.runtime.resting == []

    world.tell(StopModule("sensor"))

    assert world.runtime.resting == ["sensor"]


def test_an_image_that_is_refused_leaves_the_module_failed_until_somebody_puts_it_right(world: World) -> None:
    world.runtime.refused["sensor"] = "image 'x' is a, and the deployment pins b"

    world.supervise()

    assert world.now.status == "failed"
    assert "the deployment pins b" in world.now.description
    assert world.now.next_start_s is not None
    world.runtime.refused.clear()
    world.system.advance(301)
    assert (world.now.status, world.now.restarts) == ("running", 0)


def test_an_end_for_want_of_memory_is_reported(world: World) -> None:
    world.supervise(replace(SENSOR, restart_policy=RestartPolicy.NEVER))

    world.runtime.end("sensor", signal=9, out_of_memory=True)

    assert world.now.out_of_memory
    assert "killed for want of memory" in world.now.description


def test_a_module_with_a_check_is_ready_once_that_has_succeeded(world: World) -> None:
    world.runtime.checked.add("sensor")
    world.supervise()
    assert (world.now.status, world.now.ready, world.now.has_check) == ("running", False, True)

    world.check_health(True)

    assert [ModuleReported(*one.body).ready for one in world.letters() if one.kind == "ModuleReported"][-1]
    assert world.now.ready
    world.end(1)
    assert not world.now.ready


def test_a_module_without_a_check_is_ready_when_it_runs(world: World) -> None:
    world.supervise()

    assert world.now.ready


def test_what_of_its_settings_has_no_effect_is_reported(world: World) -> None:
    world.runtime.remarks = ("HostConfig.Privileged is left out",)

    world.supervise()

    assert world.now.remarks == world.runtime.remarks
