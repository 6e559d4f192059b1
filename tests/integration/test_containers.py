"""Modules as containers of a real Docker Engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from actors.agent_root import AGENT
from actors.supervisor import ModuleReported, StopModule
from runtime.docker_engine import HOME_LABEL, MODULE_LABEL
from runtime.docker_leftovers import remove_containers
from tests.integration.containers import container
from tests.integration.edge_process import EdgeProcess, shell
from tests.runtime.module_processes import lives

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker

SLEEP = ("sleep", "1000")


class ContainerEdge(EdgeProcess):
    """An edge whose containers the test looks at from outside, with an engine's client of its own."""

    def __init__(self, client: APIClient) -> None:
        super().__init__()
        self.client = client

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the containers of this edge by module."""
        found = self.client.containers(all=True, filters={"label": f"{HOME_LABEL}={self.run.path.name}"})
        return {one["Labels"][MODULE_LABEL]: one for one in found}

    def mount(self) -> dict[str, Any]:
        """Return a HostConfig with which containers reach the named pipe of the test."""
        return {"Binds": [f"{self.folder}:{self.folder}"]}

    def close(self) -> None:
        super().close()
        remove_containers(self.run.path.name)


@pytest.fixture
def client(docker_image: str) -> Iterator[APIClient]:
    from docker import APIClient

    made = APIClient(version="auto")
    yield made
    made.close()


@pytest.fixture
def edge(client: APIClient) -> Iterator[ContainerEdge]:
    made = ContainerEdge(client)
    yield made
    made.close()


@pytest.fixture
def other(client: APIClient) -> Iterator[ContainerEdge]:
    made = ContainerEdge(client)
    yield made
    made.close()


def test_a_killed_container_is_back_at_once(edge: ContainerEdge, docker_image: str) -> None:
    names = [f"killed{number}" for number in range(20)]
    edge.deploy({name: container(docker_image, *SLEEP) for name in names})
    edge.start()
    edge.wait_for(**dict.fromkeys(names, "running"))

    took_s = []
    for name, found in edge.containers().items():
        before = edge.client.inspect_container(found["Id"])["State"]["Pid"]
        began_s = time.monotonic()
        edge.client.kill(found["Id"])
        while True:
            state = edge.client.inspect_container(found["Id"])["State"]
            if state["Running"] and state["Pid"] not in (0, before):
                break
            assert time.monotonic() - began_s < 10.0, f"{name}: {state}"
        took_s.append(time.monotonic() - began_s)

    print(f"docker kill to running: median {statistics.median(took_s):.3f} s, worst {max(took_s):.3f} s")
    assert len(took_s) == 20
    assert statistics.median(took_s) < 0.7


def test_containers_outlive_a_killed_agent_and_the_next_one_takes_them_over(
    edge: ContainerEdge, docker_image: str
) -> None:
    edge.deploy({"pump": container(docker_image, *SLEEP)})
    edge.start()
    before = edge.wait_for(pump="running")["pump"]
    edge.signal(signal.SIGKILL)
    edge.wait()
    shutil.rmtree(edge.home / "modules")  # what the agent wrote down is not needed for it

    edge.start()
    after = edge.wait_for(pump="running")["pump"]
    os.kill(after["pid"], signal.SIGKILL)

    assert (after["pid"], after["since_s"]) == (before["pid"], before["since_s"])
    edge.wait_until(lambda now: now["pump"]["pid"] not in (0, after["pid"]))


def test_a_container_made_from_something_else_is_replaced_by_the_next_agent(
    edge: ContainerEdge, docker_image: str
) -> None:
    edge.deploy({"pump": container(docker_image, *SLEEP), "gone": container(docker_image, *SLEEP)})
    edge.start()
    edge.wait_for(pump="running", gone="running")
    before = edge.containers()
    edge.signal(signal.SIGKILL)
    edge.wait()
    edge.deploy({"pump": container(docker_image, *SLEEP, env={"RATE": {"value": 2}})})

    edge.start()

    def is_replaced(now: dict[str, dict[str, Any]]) -> bool:
        found = edge.containers()
        return set(found) == {"pump"} and found["pump"]["Id"] != before["pump"]["Id"]

    edge.wait_until(is_replaced)
    edge.wait_for(pump="running")


def test_a_container_keeps_what_it_wrote_over_a_restart(edge: ContainerEdge, docker_image: str) -> None:
    script = f'echo "$(cat /state)" >{edge.pipe}; echo kept >/state; exec sleep 1000'
    edge.deploy({"pump": container(docker_image, "sh", "-c", script, host=edge.mount())})
    edge.start()

    assert edge.line() == ""
    edge.client.kill(edge.containers()["pump"]["Id"])

    assert edge.line() == "kept"


def test_two_edges_on_one_engine_do_not_meet(
    edge: ContainerEdge, other: ContainerEdge, docker_image: str
) -> None:
    # Both are called as the host is, and so are their modules.
    for one in (edge, other):
        one.deploy({"pump": container(docker_image, *SLEEP), "valve": container(docker_image, *SLEEP)})
        one.start()
        one.wait_for(pump="running", valve="running")

    first, second = edge.containers(), other.containers()
    names = [found["pump"]["Names"][0].removeprefix("/") for found in (first, second)]
    assert names == ["pump", f"{socket.gethostname()}-pump"]
    addresses = []
    for found in (first, second):
        [network] = found["valve"]["NetworkSettings"]["Networks"].values()
        executed = edge.client.exec_create(
            found["pump"]["Id"],
            ["python3", "-c", "import socket; print(socket.gethostbyname('valve'), end='')"],
        )
        assert edge.client.exec_start(executed["Id"]).decode() == network["IPAddress"]
        addresses.append(network["Gateway"])
    assert addresses[0] != addresses[1]

    edge.client.kill(first["pump"]["Id"])
    edge.wait_until(lambda now: now["pump"]["restarts"] == 1 and now["pump"]["status"] == "running")
    assert other.modules()["pump"]["restarts"] == 0
    remove_containers(edge.run.path.name)
    assert len(other.containers()) == 2


def test_an_image_that_is_missing_is_named_and_harms_nobody(edge: ContainerEdge, docker_image: str) -> None:
    missing = container("no-such-image:7", *SLEEP)
    edge.deploy({"pump": missing, "valve": container(docker_image, *SLEEP), "sensor": shell("exec sleep 99")})

    edge.start()

    listed = edge.wait_for(pump="backoff", valve="running", sensor="running")
    said = listed["pump"]["description"]
    assert "image 'no-such-image:7' not found on this device; pull it" in said
    assert "settings.image" in said


def test_a_port_that_another_container_has_is_named_with_it(edge: ContainerEdge, docker_image: str) -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    bound = {"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}}
    modules = {
        name: container(docker_image, *SLEEP, host=bound, startupOrder=order)
        for order, name in enumerate(["first", "second"])
    }
    for module in modules.values():
        options = json.loads(module["settings"]["createOptions"]) | {"ExposedPorts": {"80/tcp": {}}}
        module["settings"]["createOptions"] = json.dumps(options)
    edge.deploy(modules)

    edge.start()

    said = edge.wait_for(first="running", second="backoff")["second"]["description"]
    assert f"port {port} is taken by container 'first'" in said
    assert "PortBindings" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('{"Cmd": ["no-such-program"]}', "no-such-program"),
        ('{"Cmd": ["sh"], "HostConfig": {"NetworkMode": "no-such-network"}}', "no-such-network"),
        ('{"HostConfig": {"Memory": "much"}}', "createOptions"),
    ],
    ids=["no such program", "no such network", "not what Docker expects"],
)
def test_what_docker_refuses_is_told_in_its_words(
    edge: ContainerEdge, docker_image: str, options: str, words: str
) -> None:
    pump = container(docker_image)
    pump["settings"]["createOptions"] = options
    edge.deploy({"pump": pump, "sensor": shell("exec sleep 99")})

    edge.start()

    assert words in edge.wait_for(pump="backoff", sensor="running")["pump"]["description"]


def test_a_container_that_exits_at_once_for_ever_waits_longer_and_longer(
    edge: ContainerEdge, docker_image: str
) -> None:
    edge.deploy(
        {"broken": container(docker_image, "sh", "-c", "exit 3"), "pump": container(docker_image, *SLEEP)}
    )

    edge.start()

    listed = edge.wait_for(broken="backoff", pump="running")
    assert "exited with code 3" in listed["broken"]["description"]
    assert "crash 2 in a row; next start at" in listed["broken"]["description"]


def test_a_container_that_ignores_sigterm_is_killed_after_its_time(
    edge: ContainerEdge, docker_image: str
) -> None:
    edge.deploy({"stubborn": container(docker_image, "sh", "-c", "trap '' TERM; while :; do sleep 1; done")})
    edge.start(grace_s="1")
    pid = edge.wait_for(stubborn="running")["stubborn"]["pid"]

    began_s = time.monotonic()
    stopped = edge.ask(AGENT, StopModule("stubborn"), ModuleReported)

    assert stopped.status == "stopped"
    assert not lives(pid)
    assert 1.0 <= time.monotonic() - began_s < 5.0


def test_a_container_uses_its_workload_socket_and_nobody_elses(
    edge: ContainerEdge, docker_image: str
) -> None:
    ask = ("python3", "-c", ASK_TO_SIGN)
    others = {"Binds": [f"{edge.folder}:{edge.folder}", f"{edge.run.path}/w/first:/other"]}
    edge.deploy(
        {
            "first": container(docker_image, *ask, host=edge.mount(), restartPolicy="never", startupOrder=1),
            "second": container(
                docker_image,
                *ask,
                host=others,
                restartPolicy="never",
                startupOrder=2,
                env={"ASK_AT": {"value": "/other/workload.sock"}, "ASK_AS": {"value": "first"}},
            ),
        }
    )

    edge.start()

    assert sorted((edge.line(), edge.line())) == ["first 200 edgeHub", "second 403 edgeHub"]


# Asks to sign with the key of a module at a socket; by default its own at its own.
ASK_TO_SIGN = """
import http.client, os, socket
path = os.environ.get("ASK_AT") or os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://")
own, generation = os.environ["IOTEDGE_MODULEID"], os.environ["IOTEDGE_MODULEGENERATIONID"]
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(path)
url = f"/modules/{os.environ.get('ASK_AS', own)}/genid/{generation}/sign?api-version=2022-08-03"
body = '{"keyId": "primary", "algo": "HMACSHA256", "data": "YQ=="}'
connection.request("POST", url, body, {"Content-Type": "application/json"})
status, gateway = connection.getresponse().status, os.environ["IOTEDGE_GATEWAYHOSTNAME"]
with open(os.environ["PIPE"], "w") as pipe:
    pipe.write(f"{own} {status} {gateway}\\n")
"""
