"""Rows against spec sheet agent.md sections 3.1 to 3.4; D1, D2, D16 are its decisions, §9 is design.md's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from actors.agent.restart_policy import (
    Action,
    AgentStarted,
    BecameHealthy,
    BecameUnhealthy,
    Decision,
    Event,
    LeaveAlone,
    ModuleExited,
    RestartDue,
    RestartState,
    StableDue,
    StartAsked,
    StartAt,
    Started,
    StartFailed,
    StartNow,
    StartPossible,
    StartPostponed,
    StartRefused,
    StoppedByUs,
    backoff_s,
    decide,
)
from actors.manifest.module_spec import DesiredStatus, ModuleStatus, RestartPolicy

NEVER, ON_FAILURE, ON_UNHEALTHY, ALWAYS = RestartPolicy
NOW_S = 1_700_000_000.0
NOW, IN_10_S = "2023-11-14T22:13:20Z", "2023-11-14T22:13:30Z"


def told(
    *events: Event, policy: RestartPolicy = ALWAYS, state: RestartState | None = None, now_s: float = NOW_S
) -> Decision:
    """Tell several events at one time and return the last decision."""
    decision = Decision(state or RestartState(), LeaveAlone())
    for event in events:
        decision = decide(decision.state, event, policy=policy, now_s=now_s)
    return decision


def running(restarts: int = 0, since_s: float = NOW_S - 5) -> RestartState:
    """A module that runs after so many restarts in a row, for 5 s unless told."""
    return RestartState(
        row=restarts,
        status=ModuleStatus.RUNNING,
        description="running",
        restarts=restarts,
        running_since_s=since_s,
        last_exit_at_s=since_s - 1 if restarts else None,
        last_exit_code=1 if restarts else None,
    )


def exited(code: int | None = 1, at_s: float = NOW_S, signal: int | None = None) -> ModuleExited:
    return ModuleExited(at_s=at_s, exit_code=code, signal=signal)


CLEAN, CRASH, KILLED, UNSEEN = exited(0), exited(3), exited(None, signal=9), exited(None)
WAIT_10_S, WAIT_40_S = StartAt(NOW_S + 10), StartAt(NOW_S + 40)


@pytest.mark.parametrize(
    ("policy", "event", "restarts", "action", "status"),
    [
        # 3.2 row "stopped"; D1: only `always` restarts a clean exit, where the code restarts all but `never`
        (NEVER, CLEAN, 0, LeaveAlone(), "stopped"),
        (ON_FAILURE, CLEAN, 0, LeaveAlone(), "stopped"),
        (ON_UNHEALTHY, CLEAN, 0, LeaveAlone(), "stopped"),
        (ON_FAILURE, CLEAN, 3, LeaveAlone(), "stopped"),
        (ALWAYS, CLEAN, 0, StartNow(), "backoff"),
        (ALWAYS, CLEAN, 1, WAIT_10_S, "backoff"),
        # 3.2 row "failed"; §9: the first at once, the reference waits 10 s
        (NEVER, CRASH, 0, LeaveAlone(), "failed"),
        (NEVER, CRASH, 3, LeaveAlone(), "failed"),
        (ON_FAILURE, CRASH, 0, StartNow(), "backoff"),
        (ON_UNHEALTHY, CRASH, 0, StartNow(), "backoff"),
        (ALWAYS, CRASH, 0, StartNow(), "backoff"),
        (ON_FAILURE, CRASH, 1, WAIT_10_S, "backoff"),
        (ON_UNHEALTHY, CRASH, 3, WAIT_40_S, "backoff"),
        (ALWAYS, CRASH, 3, WAIT_40_S, "backoff"),
        # 3.2 column "count ≥ max"; §9: never gives up
        (ON_FAILURE, CRASH, 20, StartAt(NOW_S + 300), "backoff"),
        (ALWAYS, CLEAN, 20, StartAt(NOW_S + 300), "backoff"),
        (ALWAYS, CRASH, 100_000, StartAt(NOW_S + 300), "backoff"),
        # a signal is a crash, and so is an end that nobody saw, such as a power cut
        (NEVER, KILLED, 0, LeaveAlone(), "failed"),
        (ON_FAILURE, KILLED, 0, StartNow(), "backoff"),
        (ON_FAILURE, UNSEEN, 0, StartNow(), "backoff"),
        (NEVER, UNSEEN, 0, LeaveAlone(), "failed"),
        # 3.2 row "unhealthy"; D2: HEALTHCHECK is heeded
        (NEVER, BecameUnhealthy(), 0, LeaveAlone(), "unhealthy"),
        (ON_FAILURE, BecameUnhealthy(), 0, StartNow(), "backoff"),
        (ON_UNHEALTHY, BecameUnhealthy(), 0, StartNow(), "backoff"),
        (ALWAYS, BecameUnhealthy(), 0, StartNow(), "backoff"),
        (ON_UNHEALTHY, BecameUnhealthy(), 1, WAIT_10_S, "backoff"),
        (ALWAYS, BecameUnhealthy(), 20, StartAt(NOW_S + 300), "backoff"),
        # 3.2 row "running"
        (NEVER, BecameHealthy(), 0, LeaveAlone(), "running"),
        (ALWAYS, BecameHealthy(), 2, LeaveAlone(), "running"),
    ],
)
def test_a_running_module_is_treated_as_its_policy_says(
    policy: RestartPolicy, event: Event, restarts: int, action: Action, status: str
) -> None:
    """Source: agent.md section 8, rows 2 to 4; it never gives up."""
    decision = decide(running(restarts), event, policy=policy, now_s=NOW_S)

    assert (decision.action, decision.state.status) == (action, status)


@pytest.mark.parametrize("policy", list(RestartPolicy))
def test_a_module_that_never_ran_is_started_at_once_and_not_counted(policy: RestartPolicy) -> None:
    """Source: agent.md section 8, rows 10 and 18."""
    # 3.1 column "created, never started"
    decision = told(AgentStarted(), policy=policy)

    assert decision.action == StartNow()
    assert decision.state.restarts == 0


@pytest.mark.parametrize(
    ("restarts", "wait_s"),
    # 3.3 with §9: the row of 10, 20, 40 … begins one restart later
    [(0, 0), (1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (20, 300), (10**9, 300)],
)
def test_waits_double_from_ten_seconds_to_five_minutes(restarts: int, wait_s: float) -> None:
    """Source: agent.md section 8, row 6."""
    assert backoff_s(restarts) == wait_s


def test_a_negative_number_of_restarts_is_refused() -> None:
    """Source: agent.md section 8, row 1."""
    with pytest.raises(ValueError, match="restarts is -1; it counts from 0"):
        backoff_s(-1)


def test_a_module_that_crashes_at_each_start_is_restarted_for_ever_with_growing_waits() -> None:
    state, now_s, waits_s = running(), NOW_S, []

    for _ in range(30):
        decision = decide(state, exited(at_s=now_s), policy=ON_FAILURE, now_s=now_s)
        if isinstance(decision.action, StartAt):
            waits_s.append(decision.action.at_s - now_s)
            now_s = decision.action.at_s
            decision = decide(decision.state, RestartDue(), policy=ON_FAILURE, now_s=now_s)
        assert decision.action == StartNow()
        state = decide(decision.state, Started(now_s), policy=ON_FAILURE, now_s=now_s).state

    assert waits_s == [10, 20, 40, 80, 160] + [300] * 24
    assert state.restarts == 30
    assert state.last_restart_at_s == now_s


# --- 3.4 Resets ---


@pytest.mark.parametrize(
    ("ran_s", "restarts", "action"),
    [
        (9.9, 4, StartAt(NOW_S + 80)),
        (10, 5, StartNow()),
        (599.9, 5, StartNow()),
        (600, 1, StartNow()),
        (660, 1, StartNow()),
    ],
    ids=[
        "just under 10 s: one more in the row",
        "10 s: a new row, but it counts",
        "just under 10 minutes",
        "10 minutes",
        "11 minutes: sits at 1 for ever",
    ],
)
def test_what_a_longer_run_makes_of_earlier_crashes(ran_s: float, restarts: int, action: Action) -> None:
    decision = decide(running(4, since_s=NOW_S - ran_s), CRASH, policy=ALWAYS, now_s=NOW_S)

    assert (decision.state.restarts, decision.action) == (restarts, action)


def test_the_count_goes_to_zero_while_the_module_runs_on() -> None:
    """Source: agent.md section 8, row 22."""
    state = running(4, since_s=NOW_S - 600)
    assert state.stable_at_s == NOW_S

    decision = told(StableDue(), state=state)

    assert decision.state.restarts == 0
    assert decision.state.status == "running"
    assert decision.state.stable_at_s is None


def test_a_stable_timer_of_an_earlier_run_changes_nothing() -> None:
    state = running(4, since_s=NOW_S - 5)

    assert told(StableDue(), state=state) == Decision(state, LeaveAlone())


def test_a_start_that_is_asked_for_ends_the_wait_and_keeps_the_count() -> None:
    # 3.4 row "RestartModule direct method"
    waiting = told(CRASH, state=running(2)).state

    decision = told(StartAsked(), state=waiting)

    assert decision.action == StartNow()
    assert (decision.state.restarts, decision.state.next_restart_at_s) == (2, None)


# --- What we stopped ourselves (D16) ---


@pytest.mark.parametrize("policy", list(RestartPolicy))
@pytest.mark.parametrize("event", [CLEAN, CRASH, KILLED], ids=["clean", "crash", "killed"])
def test_an_exit_after_our_stop_is_no_crash(policy: RestartPolicy, event: Event) -> None:
    decision = told(StoppedByUs(), event, policy=policy, state=running(2))

    assert decision.action == LeaveAlone()
    assert (decision.state.status, decision.state.restarts) == ("stopped", 2)
    by_force = "; it did not end when asked with SIGTERM, and was killed" if event is KILLED else ""
    assert decision.state.description == f"stopped by the edge at {NOW}{by_force}"


@pytest.mark.parametrize(
    ("policy", "action"),
    [(NEVER, LeaveAlone()), (ON_FAILURE, StartNow()), (ON_UNHEALTHY, StartNow()), (ALWAYS, StartNow())],
)
def test_what_we_stopped_is_started_again_after_an_agent_restart(
    policy: RestartPolicy, action: Action
) -> None:
    """Source: agent.md section 8, row 17."""
    stopped = told(StoppedByUs(), CLEAN, policy=policy, state=running(2)).state

    decision = told(AgentStarted(), policy=policy, state=stopped)

    assert decision.action == action
    assert decision.state.restarts == 2


def test_a_stop_ends_the_wait_for_a_restart() -> None:
    waiting = told(CRASH, state=running(2)).state

    decision = told(StoppedByUs(), RestartDue(), state=waiting)

    assert decision.action == LeaveAlone()
    assert (decision.state.status, decision.state.description) == ("stopped", "stopped by the edge")


# --- Agent restarts ---


@pytest.mark.parametrize(
    ("events", "policy", "action"),
    [
        ((Started(NOW_S - 60), AgentStarted()), ALWAYS, LeaveAlone()),
        ((exited(1, NOW_S - 5), AgentStarted()), NEVER, LeaveAlone()),
        ((exited(0, NOW_S - 5), AgentStarted()), ON_FAILURE, LeaveAlone()),
        ((exited(1, NOW_S - 5), AgentStarted()), ALWAYS, StartAt(NOW_S + 35)),
        ((exited(1, NOW_S - 3600), AgentStarted()), ALWAYS, StartNow()),
        ((exited(1, NOW_S + 3600), AgentStarted()), ALWAYS, StartNow()),
    ],
    ids=[
        "it runs on",
        "crashed, never",
        "clean exit, on-failure",
        "crashed 5 s ago: the rest of the wait",
        "crashed an hour ago: the wait is over",
        "crashed in the future: the clock was set back",
    ],
)
def test_a_restarted_agent_finds_a_module_and_takes_it_on(
    events: tuple[Event, ...], policy: RestartPolicy, action: Action
) -> None:
    """Source: agent.md section 8, rows 8, 9 and 18."""
    # the last rows: 3.3 `elapsed ≤ 0` and `elapsed > coolOff`
    assert told(*events, policy=policy, state=running(3, since_s=NOW_S - 14)).action == action


def test_a_start_that_the_agent_died_before_is_done_by_the_next_one() -> None:
    crashed = told(CRASH, state=running()).state
    assert crashed.start_pending

    decision = told(AgentStarted(), state=crashed)

    assert decision.action == StartNow()
    assert decision.state.restarts == 1


def test_a_restart_timer_that_fires_early_waits_for_the_rest() -> None:
    """Source: agent.md section 8, rows 8 and 10."""
    waiting = told(CRASH, state=running(1)).state

    assert told(RestartDue(), state=waiting, now_s=NOW_S + 9.99).action == WAIT_10_S
    assert told(RestartDue(), state=waiting, now_s=NOW_S + 10).action == StartNow()


def test_a_clock_set_back_by_a_year_does_not_keep_a_module_down() -> None:
    waiting = told(CRASH, state=running(1)).state

    assert told(RestartDue(), state=waiting, now_s=NOW_S - 31_536_000).action == StartNow()


# --- Health and failed starts ---


def test_an_unhealthy_module_that_waits_for_its_restart_and_recovers_is_left_running() -> None:
    decision = told(BecameUnhealthy(), BecameUnhealthy(), BecameHealthy(), state=running(1))

    assert decision.action == LeaveAlone()
    assert decision.state.next_restart_at_s is None
    assert (decision.state.status, decision.state.restarts) == ("running", 1)


@pytest.mark.parametrize("policy", list(RestartPolicy))
def test_a_start_that_fails_is_tried_again_with_growing_waits(policy: RestartPolicy) -> None:
    """Source: agent.md section 8, rows 34 and 35."""
    state, now_s, waits_s = told(AgentStarted(), policy=policy).state, NOW_S, []

    for _ in range(4):
        decision = decide(state, StartFailed("no such command"), policy=policy, now_s=now_s)
        assert isinstance(decision.action, StartAt)
        assert decision.state.status == "backoff"
        waits_s.append(decision.action.at_s - now_s)
        now_s = decision.action.at_s
        state = decide(decision.state, RestartDue(), policy=policy, now_s=now_s).state

    assert waits_s == [10, 20, 40, 80]


def test_a_start_that_is_postponed_is_still_the_same_start() -> None:
    crashed = told(CRASH, state=running(1), now_s=NOW_S).state
    due = told(RestartDue(), state=crashed, now_s=NOW_S + 10).state

    postponed = told(StartPostponed("its image is being pulled"), state=due)
    again = told(RestartDue(), state=postponed.state, now_s=NOW_S + 10)
    possible = told(StartPossible(), state=postponed.state)

    assert postponed.action == WAIT_10_S
    assert postponed.state.description == "not started yet: its image is being pulled"
    assert (again.action, possible.action) == (StartNow(), StartNow())
    assert (again.state.restarts, possible.state.restarts) == (due.restarts, due.restarts)


def test_a_start_that_nobody_waits_for_does_not_become_possible() -> None:
    assert told(StartPossible(), state=running()).action == LeaveAlone()


# --- A module that shall not run ---


@pytest.mark.parametrize("desired", [DesiredStatus.STOPPED, DesiredStatus.UNKNOWN])
@pytest.mark.parametrize(
    ("event", "status"),
    [
        (AgentStarted(), "running"),
        (RestartDue(), "running"),
        (CLEAN, "stopped"),
        (CRASH, "failed"),
        (StartFailed("x"), "failed"),
        (StartPostponed("x"), "failed"),
        (BecameUnhealthy(), "unhealthy"),
    ],
    ids=["agent started", "restart due", "clean", "crash", "start failed", "start postponed", "unhealthy"],
)
def test_nothing_starts_by_itself_unless_the_deployment_wants_it_running(
    desired: DesiredStatus, event: Event, status: str
) -> None:
    decision = decide(running(), event, policy=ALWAYS, now_s=NOW_S, desired=desired)

    assert (decision.action, decision.state.status) == (LeaveAlone(), status)


# --- What the user reads ---


@pytest.mark.parametrize(
    ("events", "policy", "restarts", "text"),
    [
        ((Started(NOW_S),), ALWAYS, 0, f"running since {NOW}"),
        ((CRASH,), NEVER, 0, f"exited with code 3 at {NOW}; not restarted"),
        ((CLEAN,), ON_FAILURE, 0, f"exited with code 0 at {NOW}; a clean exit is left as it is"),
        ((CRASH,), ALWAYS, 0, f"exited with code 3 at {NOW}; restarted at once"),
        ((KILLED,), ALWAYS, 1, f"killed by SIGKILL at {NOW}, crash 2 in a row; next start at {IN_10_S}"),
        ((exited(None, signal=63),), NEVER, 0, f"killed by signal 63 at {NOW}; not restarted"),
        ((UNSEEN,), NEVER, 0, f"ended unseen at {NOW}; not restarted"),
        ((BecameUnhealthy(),), NEVER, 0, f"unhealthy since {NOW}; not restarted"),
        ((StoppedByUs(),), ALWAYS, 0, "being stopped by the edge"),
        (
            (StartFailed("no 'pythn3'"),),
            ALWAYS,
            0,
            f"could not be started: no 'pythn3'; next start at {IN_10_S}",
        ),
    ],
    ids=[
        "runs",
        "never",
        "clean",
        "first",
        "second",
        "signal",
        "unseen",
        "unhealthy",
        "stopping",
        "no start",
    ],
)
def test_the_description_says_what_happened_and_what_comes(
    events: tuple[Event, ...], policy: RestartPolicy, restarts: int, text: str
) -> None:
    assert told(*events, policy=policy, state=running(restarts)).state.description == text


def test_what_must_not_be_started_has_failed_and_is_looked_at_again_after_five_minutes() -> None:
    refused = told(StartRefused("another image"))

    assert refused.state.status is ModuleStatus.FAILED
    assert refused.action == StartAt(NOW_S + 300)
    assert refused.state.description == "not started: another image; looked at again at 2023-11-14T22:18:20Z"

    again = decide(refused.state, RestartDue(), policy=ALWAYS, now_s=NOW_S + 300)

    assert again.action == StartNow()
    assert again.state.restarts == 0


def test_an_end_for_want_of_memory_is_told_as_one() -> None:
    died = replace(exited(137, signal=9), out_of_memory=True)

    after = told(died, state=running(), policy=NEVER)

    assert "killed for want of memory" in after.state.description
    assert after.state.last_exit_out_of_memory
    assert not told(CRASH, state=after.state, policy=NEVER).state.last_exit_out_of_memory


def test_a_module_whose_image_is_being_fetched_is_downloading_and_starts_once_it_is_there() -> None:
    coming = told(StartPostponed("1.0 of 4.0 MB", downloading=True))
    started = told(StartPossible(), state=coming.state)

    assert (coming.state.status, coming.action) == (ModuleStatus.DOWNLOADING, WAIT_10_S)
    assert (started.action, started.state.restarts) == (StartNow(), 0)
