"""How a module is doing, as its supervisor tells it: made from what is known by a pure function."""

from __future__ import annotations

from typing import Final

from actors.agent.restart_policy import RestartState
from actors.manifest.module_spec import DesiredStatus, ModuleSpec, ModuleStatus
from actors.ports.modules import ModuleRun
from messaging.kinds import message

_STOPPED_BY_HAND: Final = "stopped by hand, until `edge-actors start {name}` or a change of its deployment"


@message
class ModuleReported:
    """How a module is doing."""

    name: str
    status: str  # a ModuleStatus
    desired: str  # a DesiredStatus: the user's if he asked for one by hand, else the deployment's
    pid: int  # 0 when it does not run
    restarts: int  # in a row
    since_s: float | None  # running since, or ended at; seconds since 1970-01-01 UTC
    exit_code: int | None
    exit_signal: int | None
    description: str
    not_isolated: str = ""  # why it runs with the rights of the edge itself; "" when it does not
    order: str = ""  # on whose behalf: see `rollout.order_of`
    started_s: float | None = None  # the last start, exit and restart; seconds since 1970-01-01 UTC
    exited_s: float | None = None
    restarted_s: float | None = None
    ready: bool = False  # it runs, and is healthy by its own check if it has one
    has_check: bool = False  # whether it has one
    next_start_s: float | None = None  # when it is tried again; seconds since 1970-01-01 UTC
    out_of_memory: bool = False  # how it ended last
    image_id: str = ""  # the engine's id of what runs, or ran last; "" for a process
    remarks: tuple[str, ...] = ()  # what of its settings has no effect


def report_of(
    spec: ModuleSpec,
    state: RestartState,
    *,
    by_hand: DesiredStatus | None,
    run: ModuleRun | None,
    last_run: ModuleRun | None,
    started_s: float | None,
    is_healthy: bool,
    order: str,
) -> ModuleReported:
    """Return the report of a module.

    Args:
        spec: What the deployment says.
        state: How it fared.
        by_hand: What a user asked for since the deployment.
        run: What runs now; None when it does not.
        last_run: That, or what is still known of the run before.
        started_s: When it was last started; seconds since 1970-01-01 UTC.
        is_healthy: By its own check, if it has one.
        order: On whose behalf it runs; see `rollout.order_of`.
    """
    name, running = spec.name, state.status is ModuleStatus.RUNNING
    stopped_by_hand = state.status is ModuleStatus.STOPPED and by_hand is DesiredStatus.STOPPED
    return ModuleReported(
        name=name,
        status=state.status.value,
        desired=(by_hand or spec.status).value,
        pid=run.pid if run else 0,
        restarts=state.restarts,
        since_s=state.last_exit_at_s if state.running_since_s is None else state.running_since_s,
        exit_code=state.last_exit_code,
        exit_signal=state.last_exit_signal,
        description=_STOPPED_BY_HAND.format(name=name) if stopped_by_hand else state.description,
        not_isolated=run.not_isolated if run else "",
        order=order,
        started_s=started_s,
        exited_s=state.last_exit_at_s,
        restarted_s=state.last_restart_at_s,
        ready=run is not None and is_healthy and running,
        has_check=last_run is not None and last_run.has_check,
        next_start_s=state.next_restart_at_s,
        out_of_memory=state.last_exit_out_of_memory,
        image_id=last_run.image_id if last_run else "",
        remarks=last_run.remarks if last_run else (),
    )
