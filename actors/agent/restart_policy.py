"""Decides whether and when a module that ended is started again.

A pure function of (state, event) for one module; the supervisor tells it what happened, does the action and
keeps the state in its store. Where it does better than the reference (design.md section 9, spec sheet
agent.md decisions D1, D2, D16):

- The first crash is answered at once; the waits 10, 20, 40 … 300 s begin with the second crash in a row.
- A crash after a run of 10 seconds begins a new row, so it is restarted at once, though it counts.
- It never gives up; the reference does after 20 restarts.
- A clean exit is restarted by `always` alone; the reference restarts it for every policy but `never`.
- What we stopped ourselves, at a reboot for example, is started again and is no crash.
- Docker's `unhealthy` counts as a crash.

Times are seconds since 1970-01-01 UTC, so that they survive a restart of the agent.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from actors.manifest.module_spec import DesiredStatus, ModuleStatus, RestartPolicy

FIRST_BACKOFF_S = 10.0
MAX_BACKOFF_S = 300.0
STABLE_AFTER_S = 600.0  # a run of this length: restarts are counted from 0 again
WELL_AFTER_S = 10.0  # a run of this length is no part of a row of crashes: restarted at once


# --- What can happen to a module ---


class AgentStarted(Struct, frozen=True):
    """The agent took the module on, new or found; the exit of a run that ended meanwhile is told first."""


class StartAsked(Struct, frozen=True):
    """The deployment or a user wants it started now."""


class Started(Struct, frozen=True):
    """It runs. For one that was found running, `at_s` is when that run began."""

    at_s: float


class StartFailed(Struct, frozen=True):
    """It could not be started: no such command, no such image. `reason` is fit to be shown."""

    reason: str


class StartRefused(Struct, frozen=True):
    """It must not be started: its image is not the one that is pinned. `reason` is fit to be shown."""

    reason: str


class StartPostponed(Struct, frozen=True):
    """It cannot be started yet, by no fault of its own. `reason` is fit to be shown."""

    reason: str
    downloading: bool = False  # its image is being fetched


class StartPossible(Struct, frozen=True):
    """What a start was postponed for is over."""


class ModuleExited(Struct, frozen=True):
    """A run ended. Both None when nobody saw how; not told for a run that a restart of ours ended."""

    at_s: float
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False  # the engine killed it, or a process of its, for want of memory


class StoppedByUs(Struct, frozen=True):
    """We are about to stop it, or did: the exit that follows is no crash."""


class BecameUnhealthy(Struct, frozen=True):
    """Its HEALTHCHECK fails while it runs."""


class BecameHealthy(Struct, frozen=True):
    """Its HEALTHCHECK succeeds again."""


class RestartDue(Struct, frozen=True):
    """The timer set for `next_restart_at_s` ran out."""


class StableDue(Struct, frozen=True):
    """The timer set for `stable_at_s` ran out."""


Event = (
    AgentStarted
    | StartAsked
    | Started
    | StartFailed
    | StartRefused
    | StartPostponed
    | StartPossible
    | ModuleExited
    | StoppedByUs
    | BecameUnhealthy
    | BecameHealthy
    | RestartDue
    | StableDue
)


# --- What is remembered, and what is to be done ---


class RestartState(Struct, frozen=True):
    """What is remembered of one module. A deployment that replaces or removes it starts from a new one.

    `restarts` counts restarts since the last run of 10 minutes; it is the reported `restartCount`. `row`
    counts those since the last run of 10 seconds and decides the wait: the back-off is for a module that
    cannot run, not for one that was well for a while. `description` says why the status is what it is.
    """

    status: ModuleStatus = ModuleStatus.UNKNOWN
    description: str = "not started yet"
    restarts: int = 0
    row: int = 0
    running_since_s: float | None = None
    last_exit_at_s: float | None = None
    last_exit_code: int | None = None
    last_exit_signal: int | None = None
    last_restart_at_s: float | None = None
    next_restart_at_s: float | None = None
    start_pending: bool = False  # a start was decided; still set if the agent died before doing it
    stopped_by_us: bool = False
    last_exit_out_of_memory: bool = False

    @property
    def stable_at_s(self) -> float | None:
        """When to send StableDue, or None when there is nothing to forget."""
        if self.running_since_s is None or self.restarts == 0:
            return None
        return self.running_since_s + STABLE_AFTER_S


class StartNow(Struct, frozen=True):
    """Start it now; if it still runs (unhealthy), stop it first."""


class StartAt(Struct, frozen=True):
    """Send RestartDue at that time; an earlier timer of this module no longer counts."""

    at_s: float


class LeaveAlone(Struct, frozen=True):
    """Nothing to start; a timer for a restart no longer counts."""


Action = StartNow | StartAt | LeaveAlone


class Decision(Struct, frozen=True):
    state: RestartState
    action: Action


def backoff_s(restarts: int) -> float:
    """Return how many seconds to wait before the next restart.

    0 for the first, then 10 s at `restarts=1`, doubling; 300 s from `restarts=6` on.

    Args:
        restarts: Restarts so far in a row, 0 or more.

    Raises:
        ValueError: `restarts` is negative.

    Source: spec sheet agent.md section 3.3, begun one restart later (design.md section 9).
    """
    if restarts < 0:
        raise ValueError(f"restarts is {restarts}; it counts from 0")
    if restarts == 0:
        return 0.0
    # The exponent is capped since a module may go on crashing for years.
    return min(FIRST_BACKOFF_S * float(1 << min(restarts - 1, 10)), MAX_BACKOFF_S)


def decide(
    state: RestartState,
    event: Event,
    *,
    policy: RestartPolicy,
    now_s: float,
    desired: DesiredStatus = DesiredStatus.RUNNING,
) -> Decision:
    """Return the new state of a module and what to do with it.

    Args:
        state: What is remembered of it.
        event: What happened.
        policy: Its restart policy.
        now_s: The time of the decision; for an exit found late it is after `event.at_s`.
        desired: What the deployment asks of it. Unless that is `running`, nothing is started by itself.
    """
    if desired is not DesiredStatus.RUNNING:
        match event:
            case AgentStarted() | RestartDue():
                return Decision(replace(state, next_restart_at_s=None, start_pending=False), LeaveAlone())
            case StartFailed(reason) | StartPostponed(reason) | StartRefused(reason):
                return _leave(state, ModuleStatus.FAILED, f"could not be started: {reason}")
        policy = RestartPolicy.NEVER
    match event:
        case AgentStarted():
            return _agent_started(state, policy, now_s)
        case StartAsked():
            return _start(replace(state, row=0))  # whoever asks has looked at it
        case Started(at_s=at_s):
            return _running(state, at_s)
        case StartFailed(reason=reason):
            # At once would only find the same. `never` is tried again too: it has not had its one run.
            wait_s = backoff_s(state.row + 1)
            return _wait(state, f"could not be started: {reason}", now_s, wait_s, now_s)
        case StartRefused(reason=reason):
            return _refused(state, reason, now_s)
        case StartPostponed():
            return _postponed(state, event, now_s)
        case StartPossible():
            return _start(state) if state.start_pending else _as_before(state)
        case ModuleExited():
            return _exited(_remember_exit(state, event), event.at_s, policy, now_s)
        case StoppedByUs():
            return _stopped_by_us(state)
        case BecameUnhealthy():
            return _unhealthy(state, policy, now_s)
        case BecameHealthy():
            return _healthy(state)
        case RestartDue():
            return _restart_due(state, now_s)
        case StableDue():
            return _as_before(_forget_old_restarts(state, now_s))


# --- One function for each event that takes more than a line ---


def _agent_started(state: RestartState, policy: RestartPolicy, now_s: float) -> Decision:
    if state.running_since_s is not None:
        return _as_before(state)
    if state.next_restart_at_s is not None:
        return _restart_due(state, now_s)
    never_ran = state.last_exit_at_s is None
    stopped = state.stopped_by_us and policy is not RestartPolicy.NEVER
    if never_ran or stopped or state.start_pending:
        return _start(state)
    return _as_before(state)


def _postponed(state: RestartState, event: StartPostponed, now_s: float) -> Decision:
    """Wait to be told, and look again after a while. The start is still to be done, so it counts once."""
    due_s = now_s + FIRST_BACKOFF_S
    state = replace(
        state,
        status=ModuleStatus.DOWNLOADING if event.downloading else ModuleStatus.BACKOFF,
        description=f"not started yet: {event.reason}",
        next_restart_at_s=due_s,
        start_pending=True,
    )
    return Decision(state, StartAt(due_s))


def _refused(state: RestartState, reason: str, now_s: float) -> Decision:
    """Stay down, and look again after a long while: somebody may have put right what was wrong."""
    due_s = now_s + MAX_BACKOFF_S
    state = replace(
        state,
        status=ModuleStatus.FAILED,
        description=f"not started: {reason}; looked at again at {_utc(due_s)}",
        next_restart_at_s=due_s,
        start_pending=True,
    )
    return Decision(state, StartAt(due_s))


def _exited(state: RestartState, at_s: float, policy: RestartPolicy, now_s: float) -> Decision:
    how = f"{_how_it_ended(state)} at {_utc(at_s)}"
    if state.stopped_by_us:
        # It had its time: whoever stops a module asks with SIGTERM first.
        forced = state.last_exit_signal == signal.SIGKILL and not state.last_exit_out_of_memory
        by_force = "; it did not end when asked with SIGTERM, and was killed" if forced else ""
        return _leave(state, ModuleStatus.STOPPED, f"stopped by the edge at {_utc(at_s)}{by_force}")
    if state.last_exit_code == 0 and policy is not RestartPolicy.ALWAYS:
        return _leave(state, ModuleStatus.STOPPED, f"{how}; a clean exit is left as it is")
    if policy is RestartPolicy.NEVER:
        return _leave(state, ModuleStatus.FAILED, f"{how}; not restarted")
    return _after_crash(state, how, at_s, now_s)


def _unhealthy(state: RestartState, policy: RestartPolicy, now_s: float) -> Decision:
    if state.running_since_s is None or state.stopped_by_us or state.next_restart_at_s is not None:
        return _as_before(state)
    how = f"unhealthy since {_utc(now_s)}"
    if policy is RestartPolicy.NEVER:
        return _leave(state, ModuleStatus.UNHEALTHY, f"{how}; not restarted")
    return _after_crash(_forget_old_restarts(state, now_s), how, now_s, now_s)


def _healthy(state: RestartState) -> Decision:
    if state.running_since_s is None or state.stopped_by_us:
        return _as_before(state)
    return _running(state, state.running_since_s)


def _stopped_by_us(state: RestartState) -> Decision:
    state = replace(state, stopped_by_us=True, next_restart_at_s=None, start_pending=False)
    if state.running_since_s is None:
        return _leave(state, ModuleStatus.STOPPED, "stopped by the edge")
    return Decision(replace(state, description="being stopped by the edge"), LeaveAlone())


def _restart_due(state: RestartState, now_s: float) -> Decision:
    due_s = state.next_restart_at_s
    # More than the longest wait ahead: the clock was set back, and waiting could last for years.
    if due_s is None or now_s < due_s <= now_s + MAX_BACKOFF_S:
        return _as_before(state)
    return _start(state) if state.start_pending else _restart(state, now_s)


# --- What several of them do ---


def _after_crash(state: RestartState, how: str, at_s: float, now_s: float) -> Decision:
    """Restart after a crash at `at_s`: the first of a row at once, later ones after their wait."""
    if state.row > 0:
        how = f"{how}, crash {state.row + 1} in a row"
    return _wait(state, how, at_s, backoff_s(state.row), now_s)


def _wait(state: RestartState, why: str, since_s: float, wait_s: float, now_s: float) -> Decision:
    due_s = since_s + wait_s
    state = replace(state, status=ModuleStatus.BACKOFF, start_pending=False)
    # An exit in the future means that the clock was set back: what is left to wait is not known.
    if due_s <= now_s or since_s > now_s:
        return _restart(replace(state, description=f"{why}; restarted at once"), now_s)
    state = replace(state, description=f"{why}; next start at {_utc(due_s)}", next_restart_at_s=due_s)
    return Decision(state, StartAt(due_s))


def _restart(state: RestartState, now_s: float) -> Decision:
    """Start it again, which counts."""
    state = replace(state, restarts=state.restarts + 1, row=state.row + 1, last_restart_at_s=now_s)
    return _start(state)


def _start(state: RestartState) -> Decision:
    """Start it, which does not count by itself. A run that is still going on ends for it."""
    state = replace(
        state, running_since_s=None, next_restart_at_s=None, start_pending=True, stopped_by_us=False
    )
    return Decision(state, StartNow())


def _running(state: RestartState, since_s: float) -> Decision:
    state = replace(
        state,
        status=ModuleStatus.RUNNING,
        description=f"running since {_utc(since_s)}",
        running_since_s=since_s,
        next_restart_at_s=None,
        start_pending=False,
        stopped_by_us=False,
    )
    return Decision(state, LeaveAlone())


def _leave(state: RestartState, status: ModuleStatus, description: str) -> Decision:
    state = replace(
        state, status=status, description=description, next_restart_at_s=None, start_pending=False
    )
    return Decision(state, LeaveAlone())


def _as_before(state: RestartState) -> Decision:
    """Change nothing: a wait that is going on goes on."""
    due_s = state.next_restart_at_s
    return Decision(state, LeaveAlone() if due_s is None else StartAt(due_s))


def _remember_exit(state: RestartState, event: ModuleExited) -> RestartState:
    began_s = state.running_since_s
    if began_s is not None and event.at_s - began_s >= WELL_AFTER_S:
        state = replace(state, row=0)
    return replace(
        _forget_old_restarts(state, event.at_s),
        running_since_s=None,
        last_exit_at_s=event.at_s,
        last_exit_code=event.exit_code,
        last_exit_signal=event.signal,
        last_exit_out_of_memory=event.out_of_memory,
    )


def _forget_old_restarts(state: RestartState, at_s: float) -> RestartState:
    """Count from 0 again after a run of 10 minutes. Source: spec sheet agent.md section 3.4."""
    if state.stable_at_s is None or at_s < state.stable_at_s:
        return state
    return replace(state, restarts=0, row=0)


def _how_it_ended(state: RestartState) -> str:
    if state.last_exit_out_of_memory:
        return "killed for want of memory (HostConfig.Memory of its createOptions is its limit)"
    if state.last_exit_signal is not None:
        try:
            return f"killed by {signal.Signals(state.last_exit_signal).name}"
        except ValueError:  # real-time signals have no names of their own
            return f"killed by signal {state.last_exit_signal}"
    if state.last_exit_code is None:
        return "ended unseen"
    return f"exited with code {state.last_exit_code}"


def _utc(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
