"""Decides which commands bring the modules from what they are to what the deployment wants.

Only what the deployment changes is planned. Starting a crashed module again is its supervisor's business
(restart_policy.py), so a plan that waits for something never keeps a crashed module down. The supervisor gets
the new ModuleSpec in any case; a changed policy or status needs no command to be known.

Source: spec sheet agent.md sections 2.2 and 2.4. Deviations: edgeAgent is never planned, hence never removes
itself (D8); what counts as a change is the hash of the applied specification (D3); a dead container is
replaced within one plan instead of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct, field

from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    DesiredStatus,
    ModuleSpec,
    ModuleStatus,
    part_hashes,
    spec_hash,
    twin_hash,
)

# Nothing of the module runs or is about to run again by itself.
_AT_REST = frozenset({ModuleStatus.STOPPED, ModuleStatus.DEAD})


class CommandKind(StrEnum):
    UPDATE_TWIN = "update twin"
    CREATE = "create"
    UPDATE = "update"  # stop, remove and create again; not started by it
    START = "start"
    STOP = "stop"
    REMOVE = "remove"


class Command(Struct, frozen=True):
    """One step of a plan. Commands of one `startup_order` form a group; the plan lists groups in order.

    The order is that in which commands are issued: nobody waits until a module is ready, and a command that
    fails does not hold up the others.
    """

    kind: CommandKind
    module: str
    startup_order: int
    reason: str


class CurrentModule(Struct, frozen=True):
    """One module that exists on this machine, running or not.

    `spec_hash` is None when nothing says which specification it was made from. `parts` are the `part_hashes`
    of that, if they are known; they only serve to name what changed.
    """

    name: str
    status: ModuleStatus
    startup_order: int
    spec_hash: str | None
    desired: DesiredStatus = DesiredStatus.UNKNOWN
    parts: Mapping[str, str] = field(default_factory=dict)


def plan(
    deployment: Deployment, current: Iterable[CurrentModule], twins: Mapping[str, str]
) -> tuple[Command, ...]:
    """Return the commands for `deployment` in the order in which to issue them; empty when all is as wanted.

    Args:
        deployment: What is wanted.
        current: What exists, in any order; edgeAgent is ignored.
        twins: `twin_hash` of the desired properties that each twin was last given, by module.
    """
    wanted = deployment.supervised
    existing = {module.name: module for module in current if module.name != EDGE_AGENT}
    commands = [
        Command(CommandKind.UPDATE_TWIN, name, _order_of(name, wanted), "its desired properties changed")
        for name, desired in deployment.twins.items()
        if twins.get(name) != twin_hash(desired)
    ]
    groups: dict[int, list[str]] = {}
    for name in wanted.keys() | existing.keys():
        # A module whose order changed moves with its new order; a removed one goes with its old order.
        order = wanted[name].startup_order if name in wanted else existing[name].startup_order
        groups.setdefault(order, []).append(name)
    for order in sorted(groups):
        names = sorted(groups[order], key=_hub_first)
        commands += _group(order, names, wanted, existing)
    return tuple(commands)


def _group(
    order: int, names: list[str], wanted: Mapping[str, ModuleSpec], existing: Mapping[str, CurrentModule]
) -> list[Command]:
    """Plan the modules of one start order: removals, then new ones, changed ones, stops and starts."""
    removals: list[Command] = []
    creations: list[Command] = []
    updates: list[Command] = []
    stops: list[Command] = []
    starts: list[Command] = []
    for name in names:
        spec, module = wanted.get(name), existing.get(name)
        if spec is None:
            why = "it is not in the deployment"
            removals += [
                Command(CommandKind.STOP, name, order, why),
                Command(CommandKind.REMOVE, name, order, why),
            ]
        elif spec.status is DesiredStatus.UNKNOWN:
            continue  # asked to be left alone; spec sheet section 8.5, row 55
        elif module is None:
            creations += _with_start(Command(CommandKind.CREATE, name, order, "it is new"), spec)
        elif module.status is ModuleStatus.DEAD:
            updates += _with_start(Command(CommandKind.UPDATE, name, order, "its container is dead"), spec)
        elif module.spec_hash != spec_hash(spec):
            updates += _with_start(Command(CommandKind.UPDATE, name, order, _changes(spec, module)), spec)
        elif module.desired is not spec.status:
            why = f"its status changed from {module.desired} to {spec.status}"
            if spec.status is DesiredStatus.STOPPED and module.status not in _AT_REST:
                stops.append(Command(CommandKind.STOP, name, order, why))
            if spec.status is DesiredStatus.RUNNING and module.status is not ModuleStatus.RUNNING:
                starts.append(Command(CommandKind.START, name, order, why))
    return removals + creations + updates + stops + starts


def _with_start(command: Command, spec: ModuleSpec) -> list[Command]:
    if spec.status is not DesiredStatus.RUNNING:
        return [command]
    return [command, Command(CommandKind.START, command.module, command.startup_order, command.reason)]


def _changes(spec: ModuleSpec, module: CurrentModule) -> str:
    """Say what differs; values stay out of it, for they may be secrets."""
    if module.spec_hash is None:
        return "it is not known what it was made from"
    before, after = module.parts, part_hashes(spec)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not before or not changed:
        return "its specification changed"
    return f"changed: {', '.join(changed)}"


def _order_of(name: str, wanted: Mapping[str, ModuleSpec]) -> int:
    """Twins come before every group, for a module reads its twin as it starts; the order only says whose."""
    return wanted[name].startup_order if name in wanted else 0


def _hub_first(name: str) -> tuple[bool, str]:
    return name != EDGE_HUB, name
