"""Deployments that come from the cloud while the edge runs: what they change, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from actors.addresses import AGENT
from actors.agent.deployment_keeper import DeploymentKeeper, KeptDeployment
from actors.agent.module_tree import ModuleTree
from actors.agent.root import StopEdge
from actors.agent.supervisor_messages import StopModule
from actors.agent_hub_messages import Clients, HubDesiredArrived
from actors.manifest.cloud_deployment import parse_agent
from actors.manifest.deployment import parse_deployment
from actors.manifest.hub_manifest import parse_hub_desired
from actors.upstream.connection import CloudFault, Fault
from messaging.envelope import Secret
from messaging.errors import DeploymentError, EnvironmentFault
from tests.actors.agent_world import EDGE_AGENT_ID, EDGE_HUB_ID, CloudEdge, FakePlace, process
from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import REMOVED, manifest_text

HUB_STATUS = (*AGENT_PATH, "systemModules", "edgeHub", "status")
HUB_ENV = (*AGENT_PATH, "systemModules", "edgeHub", "env")


def running(**modules: dict[str, Any]) -> CloudEdge:
    edge = CloudEdge()
    edge.deploy(modules)
    edge.start()
    edge.hub_is_there()
    return edge


def keeper_of(kept: KeptDeployment, place: FakePlace) -> DeploymentKeeper:
    """Return the keeper of the next agent, which finds what was kept."""
    made = parse_agent(kept.agent_desired, kept.agent_version)
    hub = parse_hub_desired(kept.hub_desired, kept.hub_version)
    return DeploymentKeeper(replace(made, hub=hub), place, kept=kept)


def test_an_edge_without_a_deployment_waits_for_one_and_starts_it() -> None:
    edge = CloudEdge().start()
    assert edge.statuses() == {"edgeAgent": "running"}

    edge.deploy({"sensor": process()})

    assert edge.statuses() == {"edgeAgent": "running", "edgeHub": "running", "sensor": "running"}
    assert edge.runtime.story == ["start edgeHub", "start sensor"]


def test_the_hub_does_not_start_before_its_routes_are_known() -> None:
    edge = CloudEdge()
    edge.deploy({})
    edge.cloud.failures[EDGE_HUB_ID].append(CloudFault(Fault.THROTTLED, "later", 429))

    edge.start()

    assert edge.cloud.opened == [EDGE_AGENT_ID, EDGE_HUB_ID]
    assert edge.runtime.story == ["start edgeHub"]  # without routes rather than not at all


def test_the_first_deployment_has_the_routes_of_the_twin_of_the_hub() -> None:
    edge = CloudEdge()
    edge.deploy({}, routes={"r": "FROM /* INTO $upstream"})

    edge.start()

    assert [*edge.place.prepared[-1].hub.routes] == ["r"]
    assert EDGE_HUB_ID not in edge.cloud.connections  # the hub itself connects as that


def test_modules_that_a_deployment_does_not_change_hear_nothing_of_it() -> None:
    edge = running(same=process(), other=process())
    pids = {name: edge.runtime.pid(name) for name in ("edgeHub", "same", "other")}

    edge.deploy({"same": process(), "other": process(env={"A": {"value": "1"}}), "new": process()})

    assert edge.runtime.story.count("stop other") == 1
    assert {name: edge.runtime.pid(name) == pid for name, pid in pids.items()} == {
        "edgeHub": True,
        "same": True,
        "other": False,
    }
    assert edge.runtime.pid("other") != 0
    assert edge.runtime.pid("new") != 0


def test_a_module_that_is_in_the_deployment_no_more_is_ended_and_forgotten() -> None:
    edge = running(old=process(), kept=process())

    edge.deploy({"kept": process()})

    assert edge.runtime.story[-2:] == ["stop old", "remove old"]
    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "kept"]
    assert "old" not in edge.security.modules
    assert "old" not in edge.records.kept


def test_a_module_is_stopped_and_started_by_its_status_without_being_made_anew() -> None:
    edge = running(sensor=process())

    edge.deploy({"sensor": process(status="stopped")})
    assert edge.runtime.pid("sensor") == 0
    assert edge.statuses()["sensor"] == "stopped"

    edge.deploy({"sensor": process()})
    assert edge.runtime.pid("sensor") != 0
    assert "remove sensor" not in edge.runtime.story


def test_a_module_that_waits_for_its_next_restart_is_stopped_by_its_status() -> None:
    edge = running(sensor=process())
    for _ in range(2):
        edge.runtime.end("sensor", 1)
        edge.system.run()
    assert edge.statuses()["sensor"] == "backoff"

    edge.deploy({"sensor": process(status="stopped")})
    assert edge.statuses()["sensor"] == "stopped"
    edge.system.advance(400.0)

    assert edge.runtime.pid("sensor") == 0


def test_a_module_stopped_by_hand_starts_with_a_deployment_that_changes_it_and_with_no_other() -> None:
    edge = running(sensor=process(), other=process())
    edge.tell(AGENT, StopModule("sensor"))

    edge.deploy({"sensor": process(), "other": process(version="2")})
    assert edge.statuses()["sensor"] == "stopped"

    edge.deploy({"sensor": process(version="2"), "other": process(version="2")})
    assert edge.statuses()["sensor"] == "running"


def test_a_module_that_comes_back_while_it_is_being_removed_runs_in_the_end() -> None:
    edge = running(sensor=process())
    edge.runtime.stubborn.add("sensor")
    edge.deploy({})
    edge.deploy({"sensor": process(version="2")})

    edge.runtime.end("sensor", 0)
    edge.system.run()

    assert edge.runtime.pid("sensor") != 0
    assert edge.statuses()["sensor"] == "running"
    assert "sensor" in edge.security.modules


def test_a_module_that_is_slow_to_end_gets_its_newest_specification() -> None:
    edge = running(sensor=process())
    edge.runtime.stubborn.add("sensor")
    edge.deploy({"sensor": process(version="2")})
    edge.deploy({"sensor": process(version="3", status="stopped")})

    edge.runtime.end("sensor", 0)
    edge.system.run()

    assert edge.runtime.pid("sensor") == 0
    assert edge.statuses()["sensor"] == "stopped"


def test_changed_modules_start_in_their_order() -> None:
    edge = running(first=process(1), second=process(2))

    edge.deploy({"first": process(1, version="2"), "second": process(2, version="2")})

    starts = [line for line in edge.runtime.story if line.startswith("start")][-2:]
    assert starts == ["start first", "start second"]


def test_modules_go_on_as_they_are_until_all_is_here_that_the_new_deployment_needs() -> None:
    """Source: agent.md section 8, row 27."""
    edge = running(old=process(), sensor=process())
    story = list(edge.runtime.story)
    edge.runtime.slow_to_prepare = True

    edge.deploy({"sensor": process(version="2"), "new": process()})
    assert edge.runtime.prepared[-1] == ("new", "sensor")
    assert edge.runtime.story == story
    edge.runtime.end("old", 1)
    edge.runtime.end("sensor", 1)
    edge.system.run()
    assert sorted(edge.runtime.story[len(story) :]) == ["start old", "start sensor"]

    edge.runtime.finish_preparing()
    edge.system.run()
    assert edge.statuses() == dict.fromkeys(("edgeAgent", "edgeHub", "new", "sensor"), "running")
    assert edge.runtime.pid("old") == 0


def test_a_deployment_that_comes_while_another_is_prepared_takes_its_place() -> None:
    edge = running(sensor=process())
    edge.runtime.slow_to_prepare = True
    edge.deploy({"sensor": process(), "first": process()})
    overtaken = edge.runtime.finish_preparing
    edge.deploy({"sensor": process(), "second": process()})

    overtaken()
    edge.system.run()
    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "sensor"]

    edge.runtime.finish_preparing()
    edge.system.run()
    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "second", "sensor"]


def test_what_is_not_to_be_had_keeps_only_its_own_module_down() -> None:
    """Source: agent.md section 8, rows 32 and 38; it holds up no other."""
    edge = running(sensor=process())
    edge.runtime.missing["new"] = "image 'new:1' not found at its registry"
    edge.runtime.broken["new"] = "image 'new:1' not found at its registry"

    edge.deploy({"sensor": process(version="2"), "new": process()})
    edge.system.advance(5.0)

    assert edge.statuses()["sensor"] == "running"
    assert edge.reported["lastDesiredStatus"]["code"] == 500
    assert "image 'new:1' not found" in edge.reported["lastDesiredStatus"]["description"]


def test_a_module_whose_image_is_another_one_by_now_is_restarted_with_it() -> None:
    edge = running(same=process(), other=process())
    pids = {name: edge.runtime.pid(name) for name in ("same", "other")}
    edge.runtime.outdated = frozenset({"same", "gone"})

    edge.deploy({"same": process(), "other": process(), "new": process()})

    assert edge.runtime.pid("same") not in (0, pids["same"])
    assert edge.runtime.pid("other") == pids["other"]
    assert edge.modules()["same"]["restarts"] == 0


def test_changed_routes_are_told_to_a_hub_that_lives_and_restart_nobody() -> None:
    edge = running(sensor=process())
    story = list(edge.runtime.story)
    edge.router()

    desired = edge.cloud.desired[EDGE_HUB_ID].values | {"routes": {"r2": "FROM /* INTO $upstream"}}
    edge.tell(AGENT, hub_desired(desired, 9))

    [told] = edge.router()
    assert told.kind == "SetRoutes"
    assert [route[0] for route in told.body[0]] == ["r2"]
    assert edge.runtime.story == story
    assert [*edge.place.prepared[-1].hub.routes] == ["r2"]
    assert edge.place.kept is not None
    assert edge.place.kept.hub_version == 9


def test_a_broker_below_schema_version_1_2_is_a_warning_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    edge = running()
    desired = edge.cloud.desired[EDGE_HUB_ID].values | {"mqttBroker": {}}

    edge.tell(AGENT, hub_desired(desired, 9))

    assert edge.keeper.deployment.hub.broker is None
    assert "$edgeHub, version 9: $.mqttBroker: has no effect below schema version 1.2" in caplog.text


def test_routes_of_a_hub_that_desires_nothing_stay_as_they_are() -> None:
    edge = running()
    before = edge.keeper.deployment.hub

    edge.tell(AGENT, hub_desired({}, 9))

    assert edge.keeper.deployment.hub == before


def hub_desired(values: dict[str, Any], version: int) -> HubDesiredArrived:
    return HubDesiredArrived(Secret(msgspec.json.encode(values)), version)


def test_a_changed_environment_of_the_hub_replaces_it() -> None:
    edge = running(sensor=process())
    pid, sensor = edge.runtime.pid("edgeHub"), edge.runtime.pid("sensor")

    edge.deploy({"sensor": process()}, (HUB_ENV, {"RuntimeLogLevel": {"value": "debug"}}))

    assert edge.runtime.pid("edgeHub") not in (0, pid)
    assert edge.runtime.pid("sensor") == sensor


def test_a_hub_that_was_stopped_from_the_cloud_is_started_from_there_again() -> None:
    edge = running(sensor=process())

    edge.deploy({"sensor": process()}, (HUB_STATUS, "stopped"))
    assert edge.runtime.pid("edgeHub") == 0
    assert edge.statuses()["edgeHub"] == "stopped"

    edge.deploy({"sensor": process()})
    assert edge.runtime.pid("edgeHub") != 0
    assert edge.runtime.story.count("start sensor") == 1


def test_a_hub_that_is_taken_out_of_the_deployment_is_removed() -> None:
    edge = running(sensor=process())

    edge.deploy({"sensor": process()}, ((*AGENT_PATH, "systemModules", "edgeHub"), REMOVED))

    assert edge.runtime.story[-2:] == ["stop edgeHub", "remove edgeHub"]


# modules that have to be ready before the next ones start


def test_modules_wait_until_those_before_them_are_connected_to_the_hub() -> None:
    edge = CloudEdge(until_ready=True)
    edge.deploy({"first": process(1), "second": process(2)})
    edge.start()
    edge.system.advance(3.0)
    assert edge.runtime.story == ["start edgeHub"]

    edge.hub_is_there()
    edge.system.advance(3.0)
    assert edge.runtime.story == ["start edgeHub", "start first"]
    assert {letter.kind for letter in edge.hub_client()} == {"ListClients"}

    edge.tell(AGENT, Clients(("edge1/other", "leaf", "edge1/first")), sender="hub/client")
    assert edge.runtime.story == ["start edgeHub", "start first", "start second"]


def test_a_module_that_is_never_ready_holds_up_the_others_for_a_while_only() -> None:
    edge = CloudEdge(until_ready=True)
    edge.deploy({"first": process(1), "second": process(2)})
    edge.start()
    edge.hub_is_there()

    edge.system.advance(ModuleTree.ready_limit_s - 1.0)
    assert "start second" not in edge.runtime.story
    edge.system.advance(2.0)
    assert "start second" in edge.runtime.story


def test_a_module_that_is_to_be_stopped_is_not_waited_for() -> None:
    edge = CloudEdge(until_ready=True)
    edge.deploy({"first": process(1, status="stopped"), "second": process(2)})
    edge.start()

    edge.hub_is_there()

    assert edge.runtime.story == ["start edgeHub", "start second"]


# deployments that cannot be used


@pytest.mark.parametrize(
    ("changes", "code", "description"),
    [
        (((*AGENT_PATH, "schemaVersion"), "2.0"), 412, 'schema version "2.0" is not supported'),
        (((*AGENT_PATH, "schemaVersion"), REMOVED), 400, '"schemaVersion" is missing'),
        (((*AGENT_PATH, "runtime", "type"), "podman"), 400, '"podman" is not allowed'),
    ],
)
def test_a_bad_deployment_is_reported_and_leaves_the_last_good_one_supervised(
    changes: tuple[tuple[str, ...], Any], code: int, description: str
) -> None:
    """Source: agent.md section 8, rows 43, 50, 53, 64 and 94."""
    edge = running(sensor=process())
    good = edge.keeper.version
    story = list(edge.runtime.story)

    edge.deploy({"other": process()}, changes)
    edge.system.advance(5.0)

    assert edge.runtime.story == story
    assert edge.reported["lastDesiredVersion"] == good
    assert edge.reported["lastDesiredStatus"]["code"] == code
    assert description in edge.reported["lastDesiredStatus"]["description"]
    edge.runtime.end("sensor", 1)
    edge.system.run()
    assert edge.statuses()["sensor"] == "running"

    edge.deploy({"other": process()})
    edge.system.advance(5.0)
    assert edge.reported["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert edge.statuses()["other"] == "running"


def test_empty_desired_properties_are_417_and_stop_nothing() -> None:
    """Source: agent.md section 8, rows 43, 51 and 65."""
    edge = running(sensor=process())

    edge.replace_desired(EDGE_AGENT_ID, {})
    edge.system.advance(5.0)

    assert edge.reported["lastDesiredStatus"]["code"] == 417
    assert edge.statuses()["sensor"] == "running"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (DeploymentError("module 'x': this device does not allow the command '/bin/x'"), 400),
        (EnvironmentFault("port 8883 is taken"), 500),
    ],
)
def test_what_this_device_cannot_do_is_reported_with_the_reason(fault: Exception, code: int) -> None:
    edge = running(sensor=process())
    edge.place.fault = fault

    edge.deploy({"other": process()})
    edge.system.advance(5.0)

    assert edge.reported["lastDesiredStatus"] == {"code": code, "description": str(fault)}
    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "sensor"]


def test_a_deployment_that_cannot_be_kept_is_in_force_and_says_so() -> None:
    """Source: agent.md section 8, row 46."""
    edge = running()
    edge.place.full = EnvironmentFault("cannot write 'deployment.sealed': no space left on device")

    edge.deploy({"sensor": process()})
    edge.system.advance(5.0)

    assert edge.statuses()["sensor"] == "running"
    assert edge.reported["lastDesiredStatus"]["code"] == 500
    assert "no space left" in edge.reported["lastDesiredStatus"]["description"]


def test_a_module_that_cannot_be_made_counts_against_the_deployment() -> None:
    """Source: agent.md section 8, row 50."""
    edge = CloudEdge()
    edge.runtime.broken["sensor"] = "command '/bin/x' not found; install it"
    edge.deploy({"sensor": process(), "other": process()})

    edge.start()
    edge.system.advance(5.0)

    assert edge.reported["lastDesiredStatus"]["code"] == 500
    assert "module 'sensor'" in edge.reported["lastDesiredStatus"]["description"]
    assert edge.statuses()["other"] == "running"


def test_a_module_that_ran_before_and_cannot_be_made_as_the_deployment_says_counts_too() -> None:
    edge = running(sensor=process())
    edge.runtime.broken["sensor"] = "no such command"

    edge.deploy({"sensor": process(version="2")})
    edge.system.advance(5.0)

    assert edge.reported["lastDesiredStatus"]["code"] == 500
    assert edge.reported["modules"]["sensor"]["lastStartTimeUtc"] == "0001-01-01T00:00:00Z"


# a deployment whose modules do not stay up


def crash(edge: CloudEdge, name: str, times: int) -> None:
    for _ in range(times):
        if edge.runtime.pid(name):
            edge.runtime.end(name, 1)
        edge.system.advance(45.0)


def on_trial(trial_s: float) -> CloudEdge:
    edge = CloudEdge(trial_s=trial_s)
    edge.deploy({"sensor": process()})
    edge.start()
    edge.deploy({"sensor": process(version="2"), "new": process()})
    edge.system.advance(1.0)
    return edge


def test_the_deployment_before_comes_back_when_modules_of_the_new_one_do_not_stay_up() -> None:
    edge = on_trial(trial_s=300.0)
    bad = edge.keeper.version
    assert bad is not None

    crash(edge, "sensor", 3)

    assert edge.statuses() == {"edgeAgent": "running", "edgeHub": "running", "sensor": "running"}
    assert edge.keeper.version == bad - 1
    assert edge.place.kept is not None
    assert edge.place.kept.agent_version == bad - 1
    status = edge.reported["lastDesiredStatus"]
    assert status["code"] == 500
    assert f"version {bad} was taken back, version {bad - 1} runs: module 'sensor'" in status["description"]

    edge.cloud.cut(EDGE_AGENT_ID)
    edge.system.advance(10.0)
    assert edge.keeper.version == bad - 1
    assert edge.reported["lastDesiredStatus"]["code"] == 500

    edge.deploy({"sensor": process(version="3")})
    edge.system.advance(10.0)
    assert edge.reported["lastDesiredStatus"]["code"] == 200


def test_one_returns_to_the_last_deployment_that_stayed_up() -> None:
    edge = on_trial(trial_s=300.0)
    good = edge.keeper.version
    assert good is not None
    edge.deploy({"sensor": process(version="3")})

    crash(edge, "sensor", 3)

    assert edge.keeper.version == good - 1
    assert edge.modules()["sensor"]["status"] == "running"
    assert edge.keeper.deployment.modules["sensor"].version == ""


def test_what_was_taken_back_stays_so_for_the_next_agent_until_another_one_comes() -> None:
    before = on_trial(trial_s=300.0)
    crash(before, "sensor", 3)
    kept = before.place.kept
    assert kept is not None
    because = before.reported["lastDesiredStatus"]["description"]

    edge = CloudEdge(lambda place: keeper_of(kept, place))
    edge.cloud.desired = before.cloud.desired
    edge.start()
    edge.system.advance(10.0)

    assert edge.statuses() == {"edgeAgent": "running", "edgeHub": "running", "sensor": "running"}
    assert edge.keeper.version == kept.agent_version
    assert edge.reported["lastDesiredStatus"] == {"code": 500, "description": because}

    edge.deploy({"sensor": process()})
    edge.system.advance(10.0)
    assert edge.place.kept is not None
    assert edge.place.kept.taken_back == b""
    edge.deploy({"sensor": process(version="2"), "new": process()})
    edge.system.advance(10.0)
    assert "new" in edge.statuses()


def test_new_routes_say_nothing_of_a_deployment_that_was_refused() -> None:
    edge = running(sensor=process())
    edge.deploy({"sensor": process()}, ((*AGENT_PATH, "schemaVersion"), "2.0"))

    hub = edge.cloud.desired[EDGE_HUB_ID]
    desired = hub.values | {"routes": {"r": "FROM /* INTO $upstream"}}
    edge.tell(AGENT, HubDesiredArrived(Secret(msgspec.json.encode(desired)), hub.version + 1))
    edge.system.advance(10.0)

    assert [*edge.keeper.deployment.hub.routes] == ["r"]
    assert edge.reported["lastDesiredStatus"]["code"] == 412


@pytest.mark.parametrize("trial_s", [0.0, 20.0], ids=["no trial", "after the trial"])
def test_a_deployment_that_is_not_on_trial_stays_whatever_its_modules_do(trial_s: float) -> None:
    edge = on_trial(trial_s)
    edge.system.advance(30.0)

    crash(edge, "sensor", 5)

    assert "new" in edge.statuses()


def test_a_deployment_that_repairs_a_module_is_not_judged_by_how_it_fared_before() -> None:
    edge = CloudEdge(trial_s=300.0)
    edge.deploy({"sensor": process(), "other": process()})
    edge.start()
    crash(edge, "sensor", 5)
    edge.runtime.stubborn.add("sensor")

    edge.deploy({"sensor": process(version="2"), "other": process(version="2")})
    edge.system.advance(1.0)
    edge.runtime.end("sensor", 1)
    edge.system.advance(60.0)

    assert edge.reported["lastDesiredStatus"]["code"] == 200
    assert edge.keeper.version == edge.cloud.desired[EDGE_AGENT_ID].version


def test_modules_that_a_deployment_did_not_change_are_not_on_trial() -> None:
    edge = CloudEdge(trial_s=300.0)
    edge.deploy({"sensor": process()})
    edge.start()
    edge.deploy({"sensor": process(), "new": process()})

    crash(edge, "sensor", 5)

    assert "new" in edge.statuses()


# what was kept, and a file of this device


def test_an_edge_that_starts_offline_runs_what_it_had_last() -> None:
    """Source: agent.md section 8, row 95."""
    before = running(sensor=process())
    kept = before.place.kept
    assert kept is not None

    edge = CloudEdge(lambda place: keeper_of(kept, place))
    edge.cloud.go_away()
    edge.start()

    assert edge.statuses() == {"edgeAgent": "running", "edgeHub": "running", "sensor": "running"}
    edge.cloud.desired = before.cloud.desired
    edge.cloud.come_back()
    edge.system.advance(5.0)
    assert edge.runtime.story.count("start sensor") == 1
    assert edge.reported["lastDesiredVersion"] == kept.agent_version


def test_the_same_deployment_under_another_version_is_only_noted() -> None:
    """Source: agent.md section 8, rows 31 and 41."""
    edge = running(sensor=process())
    story = list(edge.runtime.story)

    edge.replace_desired(EDGE_AGENT_ID, dict(edge.cloud.desired[EDGE_AGENT_ID].values))

    assert edge.runtime.story == story
    assert edge.place.kept is not None
    assert edge.place.kept.agent_version == edge.cloud.desired[EDGE_AGENT_ID].version == edge.keeper.version


def test_a_file_of_this_device_is_what_runs_and_that_is_said() -> None:
    deployment = parse_deployment(manifest_text(((*AGENT_PATH, "modules"), {"mine": process()})), "d.json")
    edge = CloudEdge(lambda place: DeploymentKeeper(deployment, place, file_name="d.json"))
    edge.deploy({"theirs": process()})

    edge.start()
    edge.system.advance(5.0)

    assert [*edge.modules()] == ["edgeAgent", "edgeHub", "mine"]
    assert edge.place.prepared == []
    status = edge.reported["lastDesiredStatus"]
    assert status["code"] == 200
    assert "the deployment file d.json of this device is in force" in status["description"]
    assert edge.listed().deployment["local"] is True


def test_an_agent_that_fails_goes_on_with_the_deployment_that_came_last() -> None:
    edge = running(sensor=process())
    edge.deploy({"sensor": process(), "new": process()})
    story = list(edge.runtime.story)

    edge.system.cells[AGENT]._fail(None, ValueError("a bug"))
    edge.system.run()

    assert edge.runtime.story == story
    assert edge.statuses()["new"] == "running"
    edge.deploy({"sensor": process()})
    assert edge.runtime.story[-2:] == ["stop new", "remove new"]


def test_an_edge_that_is_ended_in_the_middle_of_a_deployment_leaves_nothing_running() -> None:
    """Source: agent.md section 8, row 37."""
    edge = running(sensor=process(), other=process(1))
    edge.runtime.stubborn.add("other")
    edge.deploy({"sensor": process(version="2"), "other": process(1, version="2")})

    edge.tell("agent", StopEdge())
    edge.runtime.end("other", 0)
    edge.system.advance(20.0)

    assert [edge.runtime.pid(name) for name in ("edgeHub", "sensor", "other")] == [0, 0, 0]
    assert edge.system.cells == {}


def test_what_was_kept_shows_no_secret() -> None:
    assert "secret" not in repr(KeptDeployment(1, b'{"password": "secret"}'))
