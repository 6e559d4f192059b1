"""Deployments that come from the cloud while containers run: what each changes, and what it leaves alone."""

from __future__ import annotations

import base64
import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.cloud_site import Site, code
from tests.integration.container_edge import ContainerEdge, health_check
from tests.integration.containers import container
from tests.integration.private_registry import another_image

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker

SLEEP = ("sleep", "1000")


@pytest.fixture
def edge(engine_client: APIClient) -> ContainerEdge:
    return ContainerEdge(engine_client)


@pytest.fixture
def site(tmp_path: Path, edge: ContainerEdge) -> Iterator[Site]:
    made = Site(tmp_path, edge)
    yield made
    made.close()


def ids(edge: ContainerEdge) -> dict[str, str]:
    """Return the container of each module."""
    return {name: str(one["Id"]) for name, one in edge.containers().items()}


def threads(edge: ContainerEdge) -> int:
    assert edge.process is not None
    return len(list(Path(f"/proc/{edge.process.pid}/task").iterdir()))


def test_a_changed_environment_replaces_that_container_alone_and_a_changed_status_none(
    site: Site, edge: ContainerEdge, docker_image: str
) -> None:
    modules = {name: container(docker_image, *SLEEP) for name in ("pump", "valve", "lamp")}
    site.deploy(modules)
    site.start()
    edge.wait_for(edgeHub="running", pump="running", valve="running", lamp="running")
    before = ids(edge)

    changed = modules["pump"] | {"env": {"RATE": {"value": 2}}}
    site.deploy(modules | {"pump": changed, "lamp": modules["lamp"] | {"status": "stopped"}})

    edge.wait_for_containers(lambda now: "pump" in now and now["pump"]["Id"] != before["pump"])
    edge.wait_for(pump="running", valve="running", lamp="stopped")
    after = ids(edge)
    assert {name for name in before if before[name] != after[name]} == {"pump"}
    assert "cannot be started" not in edge.log.read_text()  # they were all made at once
    assert edge.log.read_text().count("module edgeHub started") == 1
    assert "RATE=2" in edge.inspect("pump")["Config"]["Env"]
    site.wait_for_report(lambda told: told["modules"]["lamp"]["runtimeStatus"] == "stopped")


@pytest.mark.slow
def test_a_deployment_restarts_what_runs_with_another_image_than_its_name_means_by_now(
    site: Site, edge: ContainerEdge, engine_client: APIClient, docker_image: str
) -> None:
    name = f"edge-actors-test-moved:{uuid.uuid4().hex[:8]}"
    engine_client.tag(docker_image, name)
    modules = {"pump": container(name, *SLEEP), "valve": container(docker_image, *SLEEP)}
    site.deploy(modules)
    site.start()
    edge.wait_for(pump="running", valve="running")
    before = ids(edge)
    newer = another_image(engine_client, docker_image, uuid.uuid4().hex)
    engine_client.tag(newer, name, force=True)

    site.deploy(modules | {"lamp": container(docker_image, *SLEEP)})

    listed = edge.wait_until(
        lambda now: now["pump"]["image_id"] == newer and now["pump"]["status"] == "running" and "lamp" in now
    )
    assert listed["pump"]["restarts"] == 0
    assert ids(edge)["valve"] == before["valve"]
    site.wait_for_report(lambda told: told["modules"]["pump"]["settings"].get("imageHash") == newer)
    engine_client.remove_image(name, force=True)


@pytest.mark.slow
def test_logs_of_containers_are_read_by_method_without_leaving_anything_behind(
    site: Site, edge: ContainerEdge, docker_image: str
) -> None:
    script = "echo '<3> no valve' >&2; echo plain; exec sleep 1000"
    site.deploy({"pump": container(docker_image, "sh", "-c", script)})
    site.start()
    edge.wait_for(pump="running")
    site.wait_for_report(lambda told: "pump" in told.get("modules", {}))

    def logs(**members: Any) -> Any:
        items = {"id": "^pump$", "filter": members.pop("filter", {})}
        answer = site.call("GetModuleLogs", schemaVersion="1.0", items=items, **members)
        assert answer["status"] == 200, answer
        [entry] = answer["payload"]
        assert entry["id"] == "pump"
        return entry

    lines = json.loads(logs(contentType="json")["payload"])
    assert {(line["stream"], line["loglevel"], line["text"]) for line in lines} == {
        ("stderr", 3, "no valve"),
        ("stdout", 6, "plain"),
    }
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert logs(contentType="text", filter={"loglevel": 3, "since": "0"})["payload"] == "<3> no valve\n"
    packed = logs(contentType="text", encoding="gzip", filter={"tail": 2, "since": "1h"})["payloadBytes"]
    assert sorted(gzip.decompress(base64.b64decode(packed)).splitlines()) == [b"<3> no valve", b"plain"]
    before = threads(edge)
    for _ in range(5):
        logs(contentType="text")
    assert threads(edge) <= before

    pid = edge.modules()["pump"]["pid"]
    assert site.call("RestartModule", schemaVersion="1.0", id="pump")["status"] == 200
    assert edge.modules()["pump"]["pid"] not in (0, pid)


@pytest.mark.slow
def test_the_deployment_before_comes_back_when_a_new_container_does_not_stay_up(
    site: Site, edge: ContainerEdge, docker_image: str
) -> None:
    good = {"pump": container(docker_image, *SLEEP), "valve": container(docker_image, *SLEEP)}
    site.deploy(good)
    site.start(EDGE_ACTORS_DEPLOYMENT_TRIAL="10m")
    edge.wait_for(pump="running", valve="running")
    version = site.twin()["desired"]["$version"]
    valve = ids(edge)["valve"]

    # The name of a program that is not there: each start fails, and none is ever a run.
    site.deploy(good | {"pump": container(docker_image, "no-such-program")})
    reported = site.wait_for_report(
        lambda told: (
            code(told) == 500
            and "no-such-program" in told["lastDesiredStatus"]["description"]
            and told["modules"]["pump"]["runtimeStatus"] == "backoff"
        )
    )
    assert reported["lastDesiredVersion"] == version + 1

    site.deploy(good | {"pump": container(docker_image, "sh", "-c", "sleep 11; exit 3")})
    reported = site.wait_for_report(
        lambda told: "was taken back" in told["lastDesiredStatus"]["description"], limit_s=90.0
    )
    assert code(reported) == 500
    assert "module 'pump' does not stay up" in reported["lastDesiredStatus"]["description"]
    # The bad one runs until it has ended, which its shell does not do for a SIGTERM.
    edge.wait_for_containers(lambda found: "pump" in found and found["pump"]["Command"] == " ".join(SLEEP))
    edge.wait_for(pump="running", valve="running")
    assert edge.inspect("pump")["Config"]["Cmd"] == [*SLEEP]  # the last one that stayed up
    assert ids(edge)["valve"] == valve


def test_with_the_setting_a_container_starts_when_those_before_it_are_healthy(
    site: Site, edge: ContainerEdge, docker_image: str
) -> None:
    slow = health_check(docker_image, startupOrder=1)
    options = json.loads(slow["settings"]["createOptions"])
    options["Cmd"] = ["sh", "-c", "echo >/ill; exec sleep 1000"]
    options["Healthcheck"] |= {"StartPeriod": 60_000_000_000}
    slow["settings"]["createOptions"] = json.dumps(options)
    site.deploy({"first": slow, "second": container(docker_image, *SLEEP, startupOrder=2)})
    site.start(EDGE_ACTORS_START_WHEN_READY="true")

    listed = edge.wait_for(edgeHub="running", first="running")
    assert (listed["first"]["ready"], listed["second"]["description"]) == (False, "waits for its turn")
    edge.client.exec_start(
        edge.client.exec_create(edge.containers()["first"]["Id"], ["sh", "-c", ": >/ill"])["Id"]
    )

    listed = edge.wait_for(second="running")
    assert listed["first"]["ready"]
    assert listed["first"]["started_s"] < listed["second"]["started_s"]


def test_a_layer_over_a_deployment_adds_a_container_and_a_route(
    site: Site, edge: ContainerEdge, docker_image: str
) -> None:
    site.deploy({"pump": container(docker_image, *SLEEP)})
    site.start()
    edge.wait_for(pump="running")
    before = ids(edge)["pump"]

    extra = container(docker_image, *SLEEP)
    site.apply(
        {
            "modulesContent": {
                "$edgeAgent": {"properties.desired.modules.extra": extra},
                "$edgeHub": {
                    "properties.desired.routes.more": "FROM /messages/modules/extra/* INTO $upstream"
                },
            }
        }
    )

    edge.wait_for(pump="running", extra="running")
    edge.wait_for_routes(["more", "up"], [])
    assert ids(edge)["pump"] == before
