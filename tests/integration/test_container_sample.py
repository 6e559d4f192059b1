"""The sample deployment as containers: the unmodified device SDK inside, the hub outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from actors.agent.restart_policy import WELL_AFTER_S
from runtime.docker.engine import HOME_LABEL
from runtime.run_directory import RunDirectory
from tests.docker_image import SAMPLES
from tests.integration.edge_program import SAMPLE, EdgeProgram
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker


@pytest.fixture
def client(docker_image: str) -> Iterator[APIClient]:
    from docker import APIClient

    made = APIClient(os.environ.get("DOCKER_HOST"), version="auto")
    yield made
    made.close()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    made = EdgeProgram(tmp_path / "home")
    yield made
    made.close()


def deployment(folder: Path, image: str) -> Path:
    """Write the sample deployment with its two modules as containers."""
    content = json.loads(SAMPLE.read_text())
    modules = content["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]
    for name, module in modules.items():
        options = {"Cmd": ["python3", f"{SAMPLES}/{name}.py"]}
        module |= {"type": "docker", "settings": {"image": image, "createOptions": json.dumps(options)}}
    modules["sensor"]["env"]["INTERVAL_S"] = {"value": 0.05}
    path = folder / "deployment.json"
    path.write_text(json.dumps(content))
    return path


def left(client: APIClient, edge: EdgeProgram) -> tuple[int, int]:
    """Return how many containers and networks of the edge there are."""
    filters = {"label": f"{HOME_LABEL}={RunDirectory.of(edge.home).path.name}"}
    return len(client.containers(all=True, filters=filters)), len(client.networks(filters=filters))


def test_the_sample_runs_as_containers_without_a_gap(
    edge: EdgeProgram, client: APIClient, docker_image: str, tmp_path: Path
) -> None:
    edge.start(deployment=deployment(tmp_path, docker_image))

    upstream = edge.home / "upstream.jsonl"
    wait_until(lambda: upstream.exists() and len(upstream.read_text().splitlines()) >= 50, "50 messages")
    assert edge.process is not None
    edge.process.send_signal(signal.SIGTERM)

    assert edge.wait() == 0
    numbers = [json.loads(line)["Body"]["filterSequence"] for line in upstream.read_text().splitlines()]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))
    ledger = edge.json("ledger")
    for endpoint in ledger["endpoints"].values():
        terms = endpoint["delivered"] + endpoint["expired"] + endpoint["dropped"] + endpoint["pending"]
        assert endpoint["accepted"] == terms
    assert left(client, edge) == (2, 1)
    assert "sending to temperatureOutput" in edge.run("logs", "sensor").stdout
    assert len(edge.run("logs", "sensor", "--tail", "1").stdout.splitlines()) == 1
    assert "there is no log of a module 'senso'" in edge.run("logs", "senso").stderr
    assert edge.run("down", "--purge").returncode == 0
    assert left(client, edge) == (0, 0)


@pytest.mark.campaign
@pytest.mark.timeout(400)  # kills of one container are 10 s apart: no crash in a row
def test_the_sample_killed_twenty_times_is_back_at_once_each_time(
    edge: EdgeProgram, client: APIClient, docker_image: str, tmp_path: Path
) -> None:
    edge.start(deployment=deployment(tmp_path, docker_image))
    edge.wait_for_modules("running", {"sensor", "filter"})
    filters = {"label": f"{HOME_LABEL}={RunDirectory.of(edge.home).path.name}"}
    took_s = []

    for _ in range(10):
        for container in client.containers(filters=filters):
            wait_until(lambda one=container: runs_for_s(client, one) > WELL_AFTER_S, "no crash in a row")
            before = client.inspect_container(container["Id"])["State"]["Pid"]
            began_s = time.monotonic()
            client.kill(container["Id"])
            while client.inspect_container(container["Id"])["State"]["Pid"] in (0, before):
                assert time.monotonic() - began_s < 10.0
            took_s.append(time.monotonic() - began_s)

    print(f"sample killed to running: median {statistics.median(took_s):.3f} s, worst {max(took_s):.3f} s")
    assert len(took_s) == 20
    assert statistics.median(took_s) < 0.7
    assert edge.process is not None
    edge.process.send_signal(signal.SIGTERM)
    assert edge.wait() == 0
    for endpoint in edge.json("ledger")["endpoints"].values():
        terms = endpoint["delivered"] + endpoint["expired"] + endpoint["dropped"] + endpoint["pending"]
        assert endpoint["accepted"] == terms


def runs_for_s(client: APIClient, container: dict[str, Any]) -> float:
    state = client.inspect_container(container["Id"])["State"]
    return time.time() - datetime.fromisoformat(state["StartedAt"][:19] + "+00:00").timestamp() - 1.0


def test_a_start_that_fails_leaves_neither_a_network_nor_a_home(
    edge: EdgeProgram, client: APIClient, docker_image: str, tmp_path: Path
) -> None:
    with socket.create_server((edge.address, 8883)):
        done = edge.run("run", "--deployment", str(deployment(tmp_path, docker_image)))

    assert done.returncode == 1
    assert "port 8883 is in use" in done.stderr
    assert left(client, edge) == (0, 0)
    assert not edge.home.exists()


@pytest.mark.parametrize("with_home", [True, False], ids=["home there", "home gone"])
def test_down_removes_containers_and_network_after_a_kill(
    edge: EdgeProgram, client: APIClient, docker_image: str, tmp_path: Path, with_home: bool
) -> None:
    edge.start(deployment=deployment(tmp_path, docker_image))
    assert edge.process is not None
    edge.process.kill()
    edge.process.wait()
    if not with_home:
        shutil.rmtree(edge.home)

    told = edge.json("down")

    assert {found["module"] for found in told["containers_removed"]} == {"filter", "sensor"}
    assert len(told["networks_removed"]) == 1
    assert left(client, edge) == (0, 0)
    assert not RunDirectory.of(edge.home).path.exists()


def test_down_says_when_containers_may_be_left_because_no_engine_answers(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    edge.home.mkdir()
    (edge.home / "containers.json").write_text("{}")
    edge.environment["DOCKER_HOST"] = f"unix://{tmp_path}/none.sock"

    done = edge.run("down")

    assert done.returncode != 0
    assert "containers of this edge may be left: there is no Docker Engine" in done.stderr
    assert f"run `edge-actors down --home {edge.home}` again" in done.stderr
