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

from actors.addresses import AGENT
from actors.agent.module_report import ModuleReported
from actors.agent.restart_policy import FIRST_BACKOFF_S
from actors.agent.supervisor_messages import StartModule, StopModule
from runtime.cli.main import invoke
from runtime.docker.leftovers import remove_containers
from tests.integration.container_edge import ContainerEdge, health_check, make_ill
from tests.integration.containers import container
from tests.integration.edge_process import shell
from tests.integration.registry import Registry
from tests.runtime.module_processes import lives
from tests.waiting import wait_for

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker

SLEEP = ("sleep", "1000")


@pytest.fixture
def edge(container_edge: ContainerEdge) -> ContainerEdge:
    return container_edge


@pytest.fixture
def other(engine_client: APIClient) -> Iterator[ContainerEdge]:
    made = ContainerEdge(engine_client)
    yield made
    made.close()


@pytest.mark.slow
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
    assert max(took_s) < FIRST_BACKOFF_S, "a first restart does not wait"


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


@pytest.mark.slow
def test_two_edges_on_one_engine_do_not_meet(
    edge: ContainerEdge, other: ContainerEdge, docker_image: str
) -> None:
    # Both are called as the host is, and so are their modules; no container of anybody else has the name.
    pump = f"pump-{edge.run.path.name}"
    for one in (edge, other):
        one.deploy({pump: container(docker_image, *SLEEP), "valve": container(docker_image, *SLEEP)})
        one.start()
        one.wait_for(**{pump: "running"}, valve="running")

    first, second = edge.containers(), other.containers()
    names = [found[pump]["Names"][0].removeprefix("/") for found in (first, second)]
    assert names == [pump, f"{socket.gethostname()}-{pump}"]
    addresses = []
    for found in (first, second):
        [network] = found["valve"]["NetworkSettings"]["Networks"].values()
        executed = edge.client.exec_create(
            found[pump]["Id"],
            ["python3", "-c", "import socket; print(socket.gethostbyname('valve'), end='')"],
        )
        assert edge.client.exec_start(executed["Id"]).decode() == network["IPAddress"]
        addresses.append(network["Gateway"])
    assert addresses[0] != addresses[1]

    edge.client.kill(first[pump]["Id"])
    edge.wait_until(lambda now: now[pump]["restarts"] == 1 and now[pump]["status"] == "running")
    assert other.modules()[pump]["restarts"] == 0
    remove_containers(edge.run.path.name)
    assert len(other.containers()) == 2


def test_an_image_that_is_to_be_had_nowhere_is_named_and_harms_nobody(
    edge: ContainerEdge, docker_image: str
) -> None:
    nowhere = "127.0.0.1:9/no-such-image:7"
    forbidden = container("no-such-image:7", *SLEEP, imagePullPolicy="never")
    edge.deploy(
        {
            "pump": container(nowhere, *SLEEP),
            "forbidden": forbidden,
            "valve": container(docker_image, *SLEEP),
            "sensor": shell("exec sleep 99"),
        }
    )

    edge.start()

    said = edge.wait_until(lambda now: "the engine says" in now["pump"]["description"])["pump"]["description"]
    assert f"image '{nowhere}' could not be pulled: registry 127.0.0.1:9 does not answer" in said
    assert "connection refused" in said
    listed = edge.wait_for(pump="backoff", forbidden="backoff", valve="running", sensor="running")
    assert "not found on this device, and imagePullPolicy is 'never'" in listed["forbidden"]["description"]


def test_an_image_that_is_missing_is_pulled_while_everybody_else_goes_on(
    edge: ContainerEdge, docker_image: str
) -> None:
    with Registry(edge.client, docker_image) as registry:
        edge.deploy({"pump": container(registry.image, *SLEEP), "valve": container(docker_image, *SLEEP)})
        edge.start()
        pulled = edge.wait_until(
            lambda now: now["pump"]["status"] == "downloading" and now["valve"]["status"] == "running"
        )["pump"]
        registry.go_on()
        after = edge.wait_for(pump="running")
        edge.client.remove_image(registry.image, force=True)

    assert f"not started yet: image '{registry.image}' is being pulled" in (pulled["description"])
    assert after["pump"]["restarts"] == 0


def test_a_module_that_is_stopped_while_its_image_is_pulled_does_not_start(
    edge: ContainerEdge, docker_image: str
) -> None:
    with Registry(edge.client, docker_image) as registry:
        edge.deploy({"pump": container(registry.image, *SLEEP)})
        edge.start()
        edge.wait_until(lambda now: "is being pulled" in now["pump"]["description"])
        edge.ask(AGENT, StopModule("pump"), ModuleReported)
        registry.go_on()
        made = wait_for_container(edge, "pump")
        assert (made["State"], edge.modules()["pump"]["status"]) == ("created", "stopped")
        edge.ask(AGENT, StartModule("pump"), ModuleReported, timeout_s=20.0)
        edge.wait_for(pump="running")
        edge.client.remove_image(registry.image, force=True)


def wait_for_container(edge: ContainerEdge, name: str) -> dict[str, Any]:
    return wait_for(lambda: edge.containers().get(name), f"a container of {name}")


def test_a_container_whose_healthcheck_fails_is_restarted_unless_its_policy_is_never(
    edge: ContainerEdge, docker_image: str
) -> None:
    edge.deploy(
        {
            "pump": health_check(docker_image, restartPolicy="on-unhealthy"),
            "valve": health_check(docker_image, restartPolicy="never"),
        }
    )
    edge.start(grace_s="1")
    before = edge.wait_for(pump="running", valve="running")

    for name in ("pump", "valve"):
        make_ill(edge, name)

    edge.wait_until(lambda now: now["pump"]["restarts"] == 1 and now["pump"]["status"] == "running")
    ill = edge.wait_for(valve="unhealthy")["valve"]
    assert ill["pid"] == before["valve"]["pid"]
    assert "unhealthy since" in ill["description"]


def test_a_container_that_became_unhealthy_while_no_agent_lived_is_found_so(
    edge: ContainerEdge, docker_image: str
) -> None:
    edge.deploy({"valve": health_check(docker_image, restartPolicy="never")})
    edge.start()
    before = edge.wait_for(valve="running")["valve"]
    edge.kill_agent()
    make_ill(edge, "valve")
    edge.wait_for_containers(lambda found: "(unhealthy)" in found["valve"]["Status"])

    edge.start()

    assert edge.wait_for(valve="unhealthy")["valve"]["pid"] == before["pid"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up a capability and make others' sockets")
def test_an_engine_that_may_not_be_used_is_told_with_the_way_out_and_harms_nobody(
    edge: ContainerEdge, docker_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = edge.folder / "docker.sock"
    with socket.socket(socket.AF_UNIX) as others:
        others.bind(str(path))
        others.listen()
        os.chmod(path, 0o600)
        os.chown(path, 65534, 65534)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        edge.deploy({"pump": container(docker_image, *SLEEP), "sensor": shell("exec sleep 99")})
        # Root without this capability is a user like any other to files that are not its own.
        edge.start(through=("setpriv", "--bounding-set=-dac_override,-dac_read_search"))
        listed = edge.wait_for(pump="backoff", sensor="running", edgeHub="running")
        monkeypatch.undo()

    said = listed["pump"]["description"]
    assert f"Docker Engine at {path} may not be used by this user" in said
    assert "`sudo usermod -aG docker $USER`" in said


def test_a_home_that_was_copied_has_containers_of_its_own_and_leaves_the_originals(
    edge: ContainerEdge, other: ContainerEdge, docker_image: str
) -> None:
    edge.deploy({"pump": container(docker_image, *SLEEP)})
    edge.start()
    original = edge.wait_for(pump="running")["pump"]
    shutil.copytree(edge.home, other.home, ignore=shutil.ignore_patterns(".*.new"))
    other.deploy({"pump": container(docker_image, *SLEEP)})

    other.start()

    copied = other.wait_for(pump="running")["pump"]
    assert copied["pid"] != original["pid"]
    assert edge.modules()["pump"] == original
    assert set(edge.containers()) == set(other.containers()) == {"pump"}
    assert "was copied or moved here from another machine or folder" in other.log.read_text()


def test_a_port_that_another_container_has_is_named_with_it(
    edge: ContainerEdge, docker_image: str, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert invoke(["explain", "second", "--home", str(edge.home)]) == 0
    assert said in capsys.readouterr().out


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

    edge.wait_for(sensor="running")
    edge.wait_until(lambda listed: words in listed["pump"]["description"])
    assert edge.modules()["pump"]["status"] == "backoff"


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
    others = {"Binds": [f"{edge.pipe}:{edge.pipe}", f"{edge.run.path}/w/first:/other"]}
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


def test_a_container_sees_itself_as_a_container_in_the_workload_api(
    edge: ContainerEdge, docker_image: str
) -> None:
    ask = ("python3", "-c", ASK_FOR_MODULES)
    edge.deploy(
        {
            "pump": container(docker_image, *ask, host=edge.mount(), restartPolicy="never", startupOrder=2),
            "sensor": shell("exec sleep 99", startupOrder=1),
        }
    )

    edge.start()

    told = {
        one["name"]: (one["type"], one["config"]["settings"]) for one in json.loads(edge.line())["modules"]
    }
    assert told["pump"][0] == "docker"
    assert told["pump"][1]["image"] == docker_image
    assert told["sensor"][0] == "process"


# Writes down what GET /modules of the workload API tells.
ASK_FOR_MODULES = """
import http.client, os, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://"))
connection.request("GET", "/modules?api-version=2018-06-28")
body = connection.getresponse().read().decode()
with open(os.environ["PIPE"], "w") as pipe:
    pipe.write(body + "\\n")
"""
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
