"""From any state, carrying out a plan leads to what is wanted, and nothing is left to plan.

Once with plans alone, and once with a whole agent, whatever deployments come and modules do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.agent.deployment_keeper import DeploymentKeeper
from actors.agent.planner import Command, CommandKind, CurrentModule, plan
from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import (
    EDGE_HUB,
    DesiredStatus,
    DockerSettings,
    ModuleSpec,
    ModuleStatus,
    RestartPolicy,
    part_hashes,
    spec_hash,
    twin_hash,
)
from tests.actors.agent.test_planner import applied, deployment
from tests.actors.agent_world import CloudEdge, process

NAMES = st.sampled_from(["a", "b", "c", EDGE_HUB])
WANTED = st.sampled_from([DesiredStatus.RUNNING, DesiredStatus.STOPPED])


def modules(status: st.SearchStrategy[DesiredStatus]) -> st.SearchStrategy[ModuleSpec]:
    return st.builds(
        ModuleSpec,
        NAMES,
        st.builds(DockerSettings, st.sampled_from(["i:1", "i:2"])),
        status=status,
        restart_policy=st.sampled_from(RestartPolicy),
        startup_order=st.integers(0, 2),
        env=st.dictionaries(st.just("A"), st.sampled_from(["1", "2"])),
    )


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    specs = draw(st.lists(modules(WANTED), unique_by=lambda one: one.name))
    hub = next((one for one in specs if one.name == EDGE_HUB), None)
    twins = draw(st.dictionaries(st.sampled_from(["a", "z"]), st.just({"rate": 5})))
    return deployment(*(one for one in specs if one is not hub), edge_hub=hub, twins=twins)


@st.composite
def existing(draw: st.DrawFn) -> list[CurrentModule]:
    """What may be on a machine: made from this or that or from nobody knows what, in any state."""
    found = draw(st.lists(modules(st.sampled_from(DesiredStatus)), unique_by=lambda one: one.name))
    return [
        applied(
            one,
            draw(st.sampled_from(ModuleStatus)).value,
            **({"spec_hash": None} if draw(st.booleans()) else {}),
        )
        for one in found
    ]


def carried_out(
    commands: Iterable[Command],
    wanted: Deployment,
    current: Iterable[CurrentModule],
    twins: dict[str, str],
) -> dict[str, CurrentModule]:
    """Do what a plan says; what makes no sense fails the test."""
    found = {module.name: module for module in current}
    for command in commands:
        name = command.module
        spec = wanted.supervised.get(name)
        match command.kind:
            case CommandKind.UPDATE_TWIN:
                twins[name] = twin_hash(wanted.twins[name])
            case CommandKind.CREATE | CommandKind.UPDATE:
                assert spec is not None
                assert (name in found) is (command.kind is CommandKind.UPDATE)
                found[name] = CurrentModule(
                    name,
                    ModuleStatus.STOPPED,
                    spec.startup_order,
                    spec_hash(spec),
                    spec.status,
                    part_hashes(spec),
                )
            case CommandKind.START:
                found[name] = replace(found[name], status=ModuleStatus.RUNNING)
            case CommandKind.STOP:
                found[name] = replace(found[name], status=ModuleStatus.STOPPED)
            case CommandKind.REMOVE:
                assert found.pop(name).status is ModuleStatus.STOPPED
    return found


@given(deployments(), existing(), st.dictionaries(st.sampled_from(["a", "z"]), st.just("old")))
def test_carrying_out_a_plan_leads_to_what_is_wanted_and_leaves_nothing_to_plan(
    wanted: Deployment, current: list[CurrentModule], twins: dict[str, str]
) -> None:
    commands = plan(wanted, current, twins)
    orders = [one.startup_order for one in commands if one.kind is not CommandKind.UPDATE_TWIN]

    after = carried_out(commands, wanted, current, twins)

    assert orders == sorted(orders)
    assert plan(wanted, after.values(), twins) == ()
    assert {name: one.spec_hash for name, one in after.items()} == {
        name: spec_hash(one) for name, one in wanted.supervised.items()
    }


# the whole agent

NAME = st.sampled_from(["a", "b", "c"])
PROCESSES = st.dictionaries(
    NAME,
    st.builds(
        lambda order, version, status: process(order, version=version, status=status),
        st.integers(0, 2),
        st.sampled_from(["1", "2"]),
        st.sampled_from(["running", "stopped"]),
    ),
)
STEPS = st.one_of(
    st.tuples(st.just("deploy"), PROCESSES),
    st.tuples(st.just("crash"), NAME),
    st.tuples(st.just("bad"), st.just("")),
    st.tuples(st.just("new agent"), st.just("")),
    st.tuples(st.just("wait"), st.floats(0.0, 30.0)),
)


def next_agent(edge: CloudEdge) -> CloudEdge:
    """Return the edge with another agent, which finds what a killed one has left."""
    keeper = edge.keeper

    def same(place: Any) -> DeploymentKeeper:
        return DeploymentKeeper(keeper.deployment, place, kept=edge.place.kept)

    after = CloudEdge(same if edge.place.kept else lambda place: DeploymentKeeper(keeper.deployment, place))
    edge.runtime.lose_agent()
    after.runtime, after.records, after.security = edge.runtime, edge.records, edge.security
    after.cloud.desired, after.cloud.reported = edge.cloud.desired, edge.cloud.reported
    after.place.kept = edge.place.kept
    return after.start()


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=8), PROCESSES)
def test_whatever_came_before_the_last_deployment_is_what_runs_and_once_more_changes_nothing(
    story: list[tuple[str, Any]], last: dict[str, Any]
) -> None:
    edge = CloudEdge().start()
    for what, value in story:
        match what:
            case "deploy":
                edge.deploy(value)
            case "crash" if edge.runtime.pid(value):
                edge.runtime.end(value, 1)
                edge.system.run()
            case "bad":
                edge.replace_desired("edge1/$edgeAgent", {"schemaVersion": "9.0"})
            case "new agent":
                edge = next_agent(edge)
            case "wait":
                edge.system.advance(value)
    edge.deploy(last)
    edge.system.advance(400.0)  # the longest wait of a module that has crashed

    wanted = {name: module["status"] for name, module in last.items()}
    assert edge.statuses() == {"edgeAgent": "running", "edgeHub": "running", **wanted}
    assert edge.keeper.status.code == 200
    records = edge.records.all().items()
    current = [
        CurrentModule(name, one.restart.status, one.startup_order, one.spec_hash, one.desired)
        for name, one in records
    ]
    assert plan(edge.keeper.deployment, current, {}) == ()
    done = list(edge.runtime.story)

    edge.replace_desired("edge1/$edgeAgent", dict(edge.cloud.desired["edge1/$edgeAgent"].values))
    edge.system.advance(60.0)

    assert edge.runtime.story == done
