"""Deployments that come from the IoT Hub stand-in over the agent's own link: a whole edge, without a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import HUB as HUB_PATH
from tests.integration.cloud_site import Site, code
from tests.integration.edge_process import UP

COMMAND = ["/bin/sh", "-c", "echo $0 up && exec sleep 1000"]
HUB = (*AGENT_PATH, "systemModules", "edgeHub")


def sleeper(**others: Any) -> dict[str, Any]:
    module = {"type": "process", "status": "running", "restartPolicy": "always"}
    return module | {"settings": {"command": COMMAND}} | others


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_an_edge_runs_what_the_cloud_says_and_says_how_that_fares(site: Site) -> None:
    site.deploy({"first": sleeper(), "second": sleeper(startupOrder=1)})

    site.start()
    listed = site.edge.wait_for(edgeHub="running", first="running", second="running")

    version = site.twin()["desired"]["$version"]
    reported = site.wait_for_report(
        lambda told: (
            told.get("lastDesiredVersion") == version
            and {"first", "second"} <= told.get("modules", {}).keys()
            and all(each["runtimeStatus"] == "running" for each in told["modules"].values())
        )
    )
    assert reported["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert reported["systemModules"]["edgeHub"]["runtimeStatus"] == "running"
    site.edge.wait_for_routes([*UP], [])

    site.deploy({"first": sleeper(), "third": sleeper()})
    after = site.edge.wait_until(
        lambda now: "second" not in now and now.get("third", {}).get("status") == "running"
    )
    assert after["first"]["pid"] == listed["first"]["pid"]
    assert after["edgeHub"]["pid"] == listed["edgeHub"]["pid"]
    site.wait_for_report(lambda told: {"first", "third"} == told["modules"].keys())


def test_a_bad_deployment_is_refused_and_the_last_good_one_goes_on(site: Site) -> None:
    site.deploy({"first": sleeper()})
    site.start()
    pid = site.edge.wait_for(first="running")["first"]["pid"]
    good = site.twin()["desired"]["$version"]

    site.deploy({"other": sleeper()}, ((*AGENT_PATH, "schemaVersion"), "2.0"))
    reported = site.wait_for_report(lambda told: code(told) == 412)
    assert reported["lastDesiredVersion"] == good

    forbidden = sleeper(settings={"command": ["/bin/rm", "-rf", "/"]})
    site.deploy({"other": forbidden})
    reported = site.wait_for_report(lambda told: code(told) == 400)
    assert (
        "this device does not allow the command '/bin/rm -rf /'"
        in reported["lastDesiredStatus"]["description"]
    )

    assert site.edge.modules()["first"]["pid"] == pid
    site.deploy({"other": sleeper()})
    site.edge.wait_for(other="running")
    site.wait_for_report(lambda told: code(told) == 200 and "first" not in told["modules"])


def hub_status(told: dict[str, Any]) -> str | None:
    """Return what is reported of the hub; None before anything is."""
    hub = told["systemModules"].get("edgeHub")
    return None if hub is None else hub["runtimeStatus"]


@pytest.mark.slow
def test_a_hub_that_was_stopped_from_the_cloud_is_repaired_from_there(site: Site) -> None:
    site.deploy({"first": sleeper()})
    site.start()
    pid = site.edge.wait_for(edgeHub="running", first="running")["first"]["pid"]

    site.deploy({"first": sleeper()}, ((*HUB, "status"), "stopped"))
    site.edge.wait_for(edgeHub="stopped")
    site.wait_for_report(lambda told: hub_status(told) == "stopped")

    site.deploy({"first": sleeper()}, ((*HUB, "env"), {"RuntimeLogLevel": {"value": "debug"}}))
    listed = site.edge.wait_for(edgeHub="running")
    site.wait_for_report(lambda told: hub_status(told) == "running")
    assert listed["first"]["pid"] == pid


def test_routes_of_the_cloud_reach_a_hub_that_lives(site: Site) -> None:
    site.deploy({})
    site.start()
    pid = site.edge.wait_for(edgeHub="running")["edgeHub"]["pid"]
    site.edge.wait_for_routes([*UP], [])

    changed = {"r1": "FROM /messages/* INTO $upstream", "bad": "FROM nowhere"}
    site.deploy({}, ((*HUB_PATH, "routes"), changed))

    site.edge.wait_for_routes(["r1"], ["bad"])
    assert site.edge.modules()["edgeHub"]["pid"] == pid


def test_an_edge_that_boots_offline_runs_what_it_had_last_and_catches_up(site: Site) -> None:
    site.deploy({"first": sleeper()})
    site.start()
    site.edge.wait_for(edgeHub="running", first="running")
    site.wait_for_report(
        lambda told: told.get("modules", {}).get("first", {}).get("runtimeStatus") == "running"
    )
    site.edge.process and site.edge.process.terminate()
    assert site.edge.wait() == 0
    assert site.twin()["reported"]["lastDesiredStatus"]["code"] == 406
    site.cloud.kill()

    site.start()
    site.edge.wait_for(edgeHub="running", first="running")
    site.edge.wait_for_routes([*UP], [])
    sealed = (site.edge.home / "deployment.sealed").read_bytes()
    assert b"first" not in sealed

    site.cloud.start()
    site.deploy({"first": sleeper(), "second": sleeper()})
    site.edge.wait_for(second="running")
    site.wait_for_report(lambda told: code(told) == 200 and "second" in told["modules"])


def test_methods_of_the_agent_answer_over_its_own_link(site: Site) -> None:
    site.deploy({"first": sleeper()}, ((*HUB, "status"), "stopped"))
    site.start()
    pid = site.edge.wait_for(first="running")["first"]["pid"]
    site.wait_for_report(lambda told: "first" in told.get("modules", {}))

    assert site.call("ping")["status"] == 200
    assert site.call("RestartModule", schemaVersion="1.0", id="first")["status"] == 200
    assert site.edge.modules()["first"]["pid"] != pid
    answer = site.call("GetModuleLogs", schemaVersion="1.0", items={"id": "^first$"}, contentType="text")
    assert answer["status"] == 200
    [entry] = answer["payload"]
    assert entry["id"] == "first"
    assert entry["payload"].splitlines().count("/bin/sh up") == 2


def test_a_file_of_the_device_goes_before_the_cloud_and_that_is_reported(site: Site) -> None:
    site.deploy({"theirs": sleeper()})
    site.edge.deploy({"mine": sleeper()})

    site.edge.start(**site.settings)

    site.edge.wait_for(mine="running")
    in_force = "the deployment file deployment.json of this device is in force"
    reported = site.wait_for_report(
        lambda told: in_force in told.get("lastDesiredStatus", {}).get("description", "")
    )
    assert [*reported["modules"]] == ["mine"]
