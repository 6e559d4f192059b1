"""Keeps one module at the status its deployment asks for.

Understands: ModuleExited, HealthChanged, StartPossible, RestartDue, StableDue, StartModule, StopModule,
             RestartModule, KillModule, RemoveModule, HandOver, GetModule
Tells:       AgentActor (ModuleReported at each change, ModuleRemoved)
Started by:  AgentActor, one per module; after a restart of its own it takes over the module as it runs
"""

from __future__ import annotations

import logging
from enum import Enum, auto
from signal import SIGKILL
from typing import Any, Final

from actors.agent import restart_policy
from actors.agent.module_report import ModuleReported, report_of
from actors.agent.restart_policy import RestartState
from actors.agent.rollout import order_of
from actors.agent.supervisor_messages import (
    GetModule,
    HandOver,
    HealthChanged,
    KillModule,
    ModuleExited,
    ModuleRemoved,
    RemoveModule,
    RestartDue,
    RestartModule,
    StableDue,
    StartModule,
    StartPossible,
    StopModule,
)
from actors.kernel.base import EdgeActor
from actors.manifest.module_spec import DesiredStatus, ModuleSpec, ModuleStatus, part_hashes, spec_hash
from actors.ports.modules import (
    ModuleAccess,
    ModuleEnd,
    ModuleHealth,
    ModuleRecord,
    ModuleRecords,
    ModuleRun,
    ModuleRuntime,
)
from messaging.envelope import Envelope
from messaging.errors import EdgeError, ImageComing, ImageRefused, StartLater

log = logging.getLogger(__name__)

# What a module that is to be stopped does not go on waiting for.
_WAITING = frozenset({ModuleStatus.UNKNOWN, ModuleStatus.BACKOFF, ModuleStatus.DOWNLOADING})


class _AfterExit(Enum):
    """What to do when the run that is being ended is over."""

    START = auto()
    BEGIN = auto()  # as a new module: it was made from another specification
    REMOVE = auto()


class SupervisorActor(EdgeActor):
    """One module. What to do after each event is decided by restart_policy.py."""

    def __init__(
        self,
        spec: ModuleSpec,
        access: ModuleAccess,
        problem: str,
        *,
        agent: str,
        runtime: ModuleRuntime,
        records: ModuleRecords,
        stop_grace_s: float,
        process: str = "",
    ) -> None:
        """Keep what is needed.

        Args:
            spec: What the deployment says.
            access: What the module needs to reach us.
            problem: Why it cannot run here at all; "" when it can.
            agent: Whom to report to.
            runtime: Runs it.
            records: Where its state outlives this process.
            stop_grace_s: How long it may take to end after SIGTERM.
            process: Its name on the bus when it is a process of ours (the hub), else "".
        """
        self._spec = spec
        self._access = access
        self._problem = problem
        self._agent = agent
        self._runtime = runtime
        self._records = records
        self._stop_grace_s = stop_grace_s
        self._process = process
        self._hash = spec_hash(spec)
        self._order = order_of(spec, access, problem)
        self._parts = part_hashes(spec)
        self._state = RestartState()
        self._started_s: float | None = None  # the last run
        self._by_hand: DesiredStatus | None = None
        self._run: ModuleRun | None = None
        self._healthy = True  # by its own check
        self._last_run: ModuleRun | None = None  # the run, or what is still known of the one before
        self._ending = False  # the run was asked to end
        self._after_exit: _AfterExit | None = None
        self._stopping = False
        self._handed_over = False
        self._asked: list[Envelope] = []  # commands by hand, answered when all is at rest
        self._restart_timer = 0
        self._stable_timer = 0
        self._stable_at_s: float | None = None
        self._reported: ModuleReported | None = None
        self._recorded: ModuleRecord | None = None
        self._forgotten = False

    # life

    def on_start(self) -> None:
        record = self._records.load(self._spec.name)
        same = record is not None and record.spec_hash == self._hash
        if record is not None and same:
            self._state = record.restart
            self._started_s = record.started_at_s
            if record.desired is self._spec.status:
                self._by_hand = record.by_hand
        self._runtime.watch_health(self._spec.name, self._on_health)
        found = self._runtime.adopt(self._spec.name, self._on_exit)
        if isinstance(found, ModuleRun):
            # What a run says of itself is surer than what was written beside it.
            self._take_over(found, same if found.spec_hash is None else found.spec_hash == self._hash)
        else:
            if same:
                self._note_unseen_end(found)
            self._begin(now_wanted=record is not None and record.desired is not self._spec.status)
        self._settle()

    def on_stopping(self) -> None:
        self._stopping = True
        if self._run is None:
            self._runtime.stop(self._spec.name, self._stop_grace_s)  # a start that was postponed
            self.context.ready_to_stop()
            return
        if self._handed_over:
            self.context.ready_to_stop()
            return
        self._apply(restart_policy.StoppedByUs())
        self._end_run()
        self._settle()

    def describe(self) -> dict[str, Any]:
        state = self._state
        return {
            "module": self._spec.name,
            "status": state.status.value,
            "description": state.description,
            "pid": self._run.pid if self._run else 0,
            "restarts_in_a_row": state.restarts,
            "next_restart_at_s": state.next_restart_at_s,
        }

    # what happens to the module

    def on_module_exited(self, message: ModuleExited) -> None:
        if self._run is None or message.started_at_s != self._run.started_at_s:
            return  # of a run that was already accounted for, before this behaviour was made
        self._run, self._ending = None, False
        if self._process:
            self.context.peer_lost(self._process)
        after, self._after_exit = self._after_exit, None
        if message.engine_away and not self._stopping and after is None:
            log.warning("module %s was lost with the container engine", self._spec.name)
            self._apply(restart_policy.StoppedByUs())
            self._apply(restart_policy.ModuleExited(message.ended_at_s))
            if self._desired is not DesiredStatus.STOPPED:
                self._apply(restart_policy.AgentStarted())
        elif self._stopping or after is None:
            _log_end(self._spec.name, message, self._state.stopped_by_us)
            self._apply(_exit_of(message))
        elif after is _AfterExit.START and self._state.start_pending:  # decided, as for an unhealthy one
            self._apply(restart_policy.StartPossible())
        elif after is _AfterExit.START:
            self._apply(restart_policy.StartAsked())
        elif after is _AfterExit.BEGIN:
            self._state = RestartState()
            self._started_s = self._last_run = None  # of what it was made from before
            self._begin()
        else:
            self._forget()
        self._settle()
        if self._stopping:
            self.context.ready_to_stop()

    def on_health_changed(self, message: HealthChanged) -> None:
        if self._run is None or message.started_at_s != self._run.started_at_s or self._ending:
            return
        name = self._spec.name
        was_healthy, self._healthy = self._healthy, message.healthy
        if message.healthy:
            if self._state.status is ModuleStatus.RUNNING:
                if not was_healthy:  # its first check succeeded
                    self._settle()
                return
            log.info("module %s is healthy", name)
            self._apply(restart_policy.BecameHealthy())
        else:
            log.warning("module %s is unhealthy: its HEALTHCHECK fails", name)
            self._apply(restart_policy.BecameUnhealthy())
        self._settle()

    def on_start_possible(self, message: StartPossible) -> None:
        if self._run is None and self._state.start_pending and not self._stopping:
            self._apply(restart_policy.StartPossible())
            self._settle()

    def on_restart_due(self, message: RestartDue) -> None:
        self._apply(restart_policy.RestartDue())
        self._settle()

    def on_stable_due(self, message: StableDue) -> None:
        self._stable_at_s = None
        self._apply(restart_policy.StableDue())
        self._settle()

    # commands

    def on_start_module(self, message: StartModule) -> None:
        self._by_hand = None if self._spec.status is DesiredStatus.RUNNING else DesiredStatus.RUNNING
        if self._ending:
            self._after_exit = self._after_exit or _AfterExit.START
        elif self._run is None and not self._problem:
            self._apply(restart_policy.StartAsked())
        self._answer_when_at_rest()

    def on_stop_module(self, message: StopModule) -> None:
        self._by_hand = DesiredStatus.STOPPED
        if self._after_exit is _AfterExit.START:
            self._after_exit = None
        if not self._problem:
            self._apply(restart_policy.StoppedByUs())
        if self._run is not None:
            self._end_run()
        else:
            self._runtime.stop(self._spec.name, self._stop_grace_s)  # a start that was postponed
        self._answer_when_at_rest()

    def on_restart_module(self, message: RestartModule) -> None:
        if self._by_hand is DesiredStatus.STOPPED:
            self._by_hand = None
        if self._run is None:
            self.on_start_module(StartModule(message.name))
            return
        self._after_exit = self._after_exit or _AfterExit.START
        self._end_run()
        self._answer_when_at_rest()

    def on_kill_module(self, message: KillModule) -> None:
        self._stop_grace_s = 0.0
        if self._run is not None:
            self._runtime.kill(self._spec.name)

    def on_remove_module(self, message: RemoveModule) -> None:
        if self._run is None:
            self._forget()
            return
        self._after_exit = _AfterExit.REMOVE
        self._end_run()

    def on_hand_over(self, message: HandOver) -> None:
        self._handed_over = True
        asked, self._asked = self._asked, []
        for envelope in asked:
            self.reply(self._report(), envelope)

    def on_get_module(self, message: GetModule) -> None:
        self.reply(self._report())

    # deciding

    @property
    def _desired(self) -> DesiredStatus:
        return self._by_hand or self._spec.status

    def _take_over(self, run: ModuleRun, same: bool) -> None:
        """Go on with a module that runs, or replace it when it was made from something else."""
        self._run = self._last_run = run
        self._healthy = run.is_healthy
        self._started_s = run.started_at_s
        self._apply(restart_policy.Started(run.started_at_s))
        if not same or self._problem:
            log.info("module %s runs, but not as the deployment says; it is ended", self._spec.name)
            self._after_exit = _AfterExit.BEGIN
            self._end_run()
        elif self._desired is DesiredStatus.STOPPED:
            self._apply(restart_policy.StoppedByUs())
            self._end_run()
        else:
            self._apply(restart_policy.AgentStarted())

    def _note_unseen_end(self, end: ModuleEnd | None) -> None:
        """Account for a run that ended while nobody looked."""
        state = self._state
        if state.start_pending and end is not None and end.started_at_s > (state.last_exit_at_s or 0.0):
            # The start that had been decided was done; the agent was killed before it could keep that.
            self._apply(restart_policy.Started(end.started_at_s))
        if self._state.running_since_s is None:
            return
        if end is None:  # nothing is left of it: the machine was started anew, which is not its fault
            self._apply(restart_policy.StoppedByUs())
            self._apply(restart_policy.ModuleExited(self.clock.now_s()))
        else:
            self._apply(
                restart_policy.ModuleExited(end.ended_at_s, end.exit_code, end.signal, end.out_of_memory)
            )

    def _begin(self, now_wanted: bool = False) -> None:
        """Take on a module that does not run. `now_wanted`: the deployment has just begun to ask for it."""
        if self._problem:
            self._state = RestartState(status=ModuleStatus.FAILED, description=self._problem)
        elif self._run is not None:
            pass  # a start has just been decided, and succeeded
        elif now_wanted and self._desired is DesiredStatus.RUNNING:
            self._apply(restart_policy.StartAsked())
        elif self._desired is DesiredStatus.STOPPED and self._state.status in _WAITING:
            self._apply(restart_policy.StoppedByUs())
        else:
            self._apply(restart_policy.AgentStarted())

    def _apply(self, event: restart_policy.Event) -> None:
        decision = restart_policy.decide(
            self._state,
            event,
            policy=self._spec.restart_policy,
            now_s=self.clock.now_s(),
            desired=self._desired,
        )
        self._state = decision.state
        self.context.cancel_timer(self._restart_timer)
        match decision.action:
            case restart_policy.StartNow():
                self._start()
            case restart_policy.StartAt(at_s=at_s):
                wait_s = max(0.0, at_s - self.clock.now_s())
                self._restart_timer = self.set_timer(wait_s, RestartDue())

    def _start(self) -> None:
        if self._stopping:
            return
        if self._run is not None:
            self._after_exit = _AfterExit.START
            self._end_run()
            return
        name = self._spec.name
        # An agent that is killed while the module starts must leave a record that fits what then runs.
        self._record(durable=False)
        try:
            self._run = self._runtime.start(self._spec, self._access, self._on_exit)
        except EdgeError as exc:
            reason = str(exc).removeprefix(f"module {name!r}: ")
            if isinstance(exc, ImageRefused):
                log.error("module %s is not started: %s", name, reason)
                self._apply(restart_policy.StartRefused(reason))
            elif isinstance(exc, StartLater):
                log.warning("module %s cannot be started yet: %s", name, reason)
                self._apply(restart_policy.StartPostponed(reason, isinstance(exc, ImageComing)))
                self._runtime.when_possible(name, lambda: self.context.tell_self(StartPossible()))
            else:
                log.error("module %s cannot be started: %s", name, reason)
                self._apply(restart_policy.StartFailed(reason))
            return
        self._started_s = self._run.started_at_s
        self._last_run, self._healthy = self._run, self._run.is_healthy
        log.info("module %s started, pid %d", name, self._run.pid)
        self._apply(restart_policy.Started(self._run.started_at_s))

    def _end_run(self) -> None:
        self._ending = True
        if self._stop_grace_s > 0:
            self._runtime.stop(self._spec.name, self._stop_grace_s)
        else:
            self._runtime.kill(self._spec.name)

    def _forget(self) -> None:
        name = self._spec.name
        self._runtime.remove(name)
        self._records.remove(name)
        self._forgotten = True
        log.info("module %s removed", name)
        self.tell(self._agent, ModuleRemoved(name))

    def _on_exit(self, end: ModuleEnd) -> None:
        """In the module runtime's thread."""
        self.context.tell_self(
            ModuleExited(
                end.started_at_s,
                end.ended_at_s,
                end.exit_code,
                end.signal,
                end.engine_away,
                end.out_of_memory,
            )
        )

    def _on_health(self, health: ModuleHealth) -> None:
        """In the module runtime's thread."""
        self.context.tell_self(HealthChanged(health.started_at_s, health.healthy))

    # keeping and telling

    def _settle(self) -> None:
        """Keep and tell what changed. After the deed: a restart must not wait for a sync to disk."""
        if self._forgotten:
            return
        stable_at_s = self._state.stable_at_s
        if stable_at_s != self._stable_at_s:
            self.context.cancel_timer(self._stable_timer)
            self._stable_at_s = stable_at_s
            if stable_at_s is not None:
                wait_s = max(0.0, stable_at_s - self.clock.now_s())
                self._stable_timer = self.set_timer(wait_s, StableDue())
        report = self._report()
        if report != self._reported:
            if self._run is None and self._desired is DesiredStatus.STOPPED:
                self._runtime.rest(self._spec.name)
            self._reported = report
            self.tell(self._agent, report)
        if not self._ending:
            asked, self._asked = self._asked, []
            for envelope in asked:
                self.reply(report, envelope)
        self._record()

    def _answer_when_at_rest(self) -> None:
        self._asked.append(self.envelope)
        self._settle()

    def _record(self, durable: bool = True) -> None:
        record = ModuleRecord(
            self._hash,
            self._spec.startup_order,
            self._spec.status,
            self._state,
            self._by_hand,
            self._started_s,
            self._parts,
        )
        if record == self._recorded or self._after_exit in (_AfterExit.BEGIN, _AfterExit.REMOVE):
            return  # while the old run is being replaced, its own record is the true one
        try:
            self._records.save(self._spec.name, record, durable)
        except EdgeError as exc:
            # Only the count of restarts is at stake; the module itself is well.
            log.warning("module %s: its state was not kept: %s", self._spec.name, exc)
        self._recorded = record if durable else None

    def _report(self) -> ModuleReported:
        return report_of(
            self._spec,
            self._state,
            by_hand=self._by_hand,
            run=self._run,
            last_run=self._last_run,
            started_s=self._started_s,
            is_healthy=self._healthy,
            order=self._order,
        )


def _exit_of(end: ModuleExited) -> restart_policy.ModuleExited:
    return restart_policy.ModuleExited(end.ended_at_s, end.exit_code, end.signal, end.out_of_memory)


_WHY: Final = "; `edge-actors explain %s` says more, and what comes next"


def _log_end(name: str, end: ModuleExited, stopped_by_us: bool) -> None:
    if stopped_by_us and end.signal == SIGKILL:
        log.warning("module %s did not end when asked with SIGTERM, and was killed", name)
    elif stopped_by_us:
        log.info("module %s stopped", name)
    elif end.out_of_memory:
        log.warning("module %s was killed for want of memory" + _WHY, name, name)
    elif end.signal is not None:
        log.warning("module %s was killed by signal %d" + _WHY, name, end.signal, name)
    elif end.exit_code is None:
        log.warning("module %s ended, nobody saw how" + _WHY, name, name)
    else:
        log.warning("module %s exited with code %d" + _WHY, name, end.exit_code, name)
