"""`run_edge` with real processes: what a user and an operating system can do to an edge."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Iterator

import pytest

from actors.addresses import AGENT, HUB
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.module_report import ModuleReported
from actors.agent.security import CreateDevice, DeviceIdentity
from actors.agent.supervisor_messages import StopModule
from actors.agent_hub_messages import Routes
from actors.hub.config import CertificateChanged
from messaging.client import Client, RequestRefused
from messaging.lifecycle import Describe, Described
from runtime.config.listen_addresses import parse_address
from runtime.net.listening_sockets import bind
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate
from tests.integration.edge_process import EdgeProcess, shell
from tests.runtime.module_processes import lives, wait_until_ended
from tests.waiting import wait_for

SLEEP = 'echo $$ >"$PIPE"; exec sleep 1000'

# Asks the workload API as a device SDK does, and says what it was answered.
ASK_TO_SIGN = """
import http.client, os, socket, sys
path = os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://")
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(path)
module, generation = os.environ["IOTEDGE_MODULEID"], os.environ["IOTEDGE_MODULEGENERATIONID"]
url = f"/modules/{module}/genid/{generation}/sign?api-version={os.environ['IOTEDGE_APIVERSION']}"
body = '{"keyId": "primary", "algo": "HMACSHA256", "data": "YQ=="}'
connection.request("POST", url, body, {"Content-Type": "application/json"})
names = "DEVICEID IOTHUBHOSTNAME GATEWAYHOSTNAME AUTHSCHEME".split()
values = [os.environ["IOTEDGE_" + name] for name in names]
open(os.environ["PIPE"], "w").write(" ".join([str(connection.getresponse().status), *values]) + chr(10))
"""


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


def handshake(edge: EdgeProcess, name: str = "localhost") -> None:
    """Connect with TLS; the hub has to answer for that, the kernel alone cannot."""
    context = ssl.create_default_context(cafile=str(edge.home / "certificates" / "edge-ca.pem"))
    with socket.create_connection(("127.0.0.1", edge.port), 10.0) as plain:
        plain.settimeout(10.0)
        context.wrap_socket(plain, server_hostname=name).close()


def test_an_edge_runs_its_modules_and_leaves_nothing_at_sigterm(edge: EdgeProcess) -> None:
    off = shell(SLEEP, status="stopped")
    bad = {"type": "process", "status": "running", "settings": {"command": "no-such-command"}}
    edge.deploy({"sensor": shell(SLEEP), "off": off, "bad": bad}, {"r": "FROM nowhere INTO $upstream"})

    edge.start()
    modules = edge.wait_for(sensor="running", edgeHub="running", bad="backoff", off="stopped")
    handshake(edge)
    assert modules["sensor"]["pid"] == int(edge.line())
    pids = [modules[name]["pid"] for name in ("sensor", "edgeHub")]
    edge.signal(signal.SIGTERM)

    assert edge.wait() == 0, edge.log.read_text()
    assert not any(lives(pid) for pid in pids)
    assert not edge.run.path.exists()


def test_a_bad_route_is_told_with_the_modules(edge: EdgeProcess) -> None:
    edge.deploy({}, {"good": "FROM /* INTO $upstream", "bad": "FROM nowhere"})
    edge.start()
    edge.wait_for(edgeHub="running")

    routes = wait_for(lambda: edge.ask(AGENT, ListModules(), ModuleList).routes or None, "the bad route")

    [(name, text, problem)] = routes
    assert (name, text) == ("bad", "FROM nowhere")
    assert "column 6" in problem


def test_a_module_can_use_the_workload_api_as_soon_as_it_runs(edge: EdgeProcess) -> None:
    code = shell("")
    code["settings"] = {"command": [sys.executable, "-c", ASK_TO_SIGN]}
    code["restartPolicy"] = "never"
    edge.deploy({"signer": code})

    edge.start()

    status, device, iothub, gateway, scheme = edge.line().split()
    assert (status, gateway, scheme) == ("200", "localhost", "sasToken")
    assert device
    assert iothub == edge.iothub


def test_a_killed_module_is_back_at_once(edge: EdgeProcess) -> None:
    names = [f"m{number}" for number in range(20)]
    edge.deploy({name: shell(f'echo {name} $$ >"$PIPE"; exec sleep 1000') for name in names})
    edge.start()
    pids = dict(edge.line().split() for _ in names)

    took_s = []
    for name in names:
        began_s = time.monotonic()
        os.kill(int(pids[name]), signal.SIGKILL)
        back, pid = edge.line().split()
        took_s.append(time.monotonic() - began_s)
        assert back == name
        assert pid != pids[name]

    print(f"kill -9 to new pid: median {statistics.median(took_s):.3f} s, max {max(took_s):.3f} s")
    assert statistics.median(took_s) < 0.2
    edge.wait_until(lambda now: {now[name]["restarts"] for name in names} == {1})


def test_for_ends_the_edge_after_its_time_with_whatever_has_started_by_then(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    began_s = time.monotonic()

    edge.start(for_s="1.5")

    assert edge.wait() == 0, edge.log.read_text()
    assert time.monotonic() - began_s >= 1.5
    pids = [int(pid) for pid in edge.lines_so_far()]  # none, on a machine that is too busy to start it
    assert not any(lives(pid) for pid in pids)
    assert not edge.run.path.exists()


def test_a_port_in_use_is_told_and_nothing_is_left(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    [taken] = bind([parse_address(f"127.0.0.1:{edge.port}")])

    with taken:
        edge.start()
        assert edge.wait() == 2

    said = edge.log.read_text()
    assert f"port {edge.port} is in use" in said
    assert f"pid {os.getpid()}" in said
    assert not edge.home.exists()
    assert not edge.run.path.exists()


def test_a_mistake_in_the_deployment_is_told_and_nothing_is_left(edge: EdgeProcess) -> None:
    edge.deploy({}, text="{")

    edge.start()

    assert edge.wait() == 2
    assert "deployment.json" in edge.log.read_text()
    assert not edge.home.exists()
    assert not edge.run.path.exists()


def test_a_second_edge_on_the_same_home_is_refused_and_harms_nobody(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    pid = int(edge.line())
    first = edge.process
    assert first is not None

    edge.start(port=edge.port + 1)
    assert edge.wait() == 2
    edge.process = first

    assert f"another edge (pid {first.pid}" in edge.log.read_text()
    assert edge.wait_for(sensor="running")["sensor"]["pid"] == pid


def test_a_killed_hub_comes_back_and_serves_who_connected_meanwhile(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    hub = edge.wait_for(edgeHub="running", sensor="running")["edgeHub"]["pid"]
    sensor = int(edge.line())
    handshake(edge)

    os.kill(hub, signal.SIGKILL)
    wait_until_ended(hub)
    handshake(edge)  # the connection waits in the kernel until there is a hub again

    modules = edge.wait_until(lambda now: now["edgeHub"]["pid"] not in (0, hub))
    assert modules["edgeHub"]["restarts"] == 1
    assert modules["sensor"]["pid"] == sensor


def test_modules_outlive_a_killed_agent_and_the_next_one_takes_them_over(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    before = edge.wait_for(sensor="running", edgeHub="running")
    edge.signal(signal.SIGKILL)
    edge.wait()
    handshake(edge)  # the hub goes on serving

    edge.start()
    after = edge.wait_for(sensor="running", edgeHub="running")

    for name in ("sensor", "edgeHub"):
        assert (after[name]["pid"], after[name]["since_s"]) == (before[name]["pid"], before[name]["since_s"])
    os.kill(after["edgeHub"]["pid"], signal.SIGKILL)
    edge.wait_until(lambda now: now["edgeHub"]["pid"] not in (0, after["edgeHub"]["pid"]))
    handshake(edge)  # on sockets of the new agent
    edge.signal(signal.SIGTERM)
    assert edge.wait() == 0
    assert not lives(before["sensor"]["pid"])


def test_new_routes_reach_a_hub_that_outlived_its_agent_and_stay_when_it_is_killed(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)}, {"old": "FROM /messages/* INTO $upstream"})
    edge.start()
    before = edge.wait_for(sensor="running", edgeHub="running")
    edge.signal(signal.SIGKILL)
    edge.wait()
    edge.deploy({"sensor": shell(SLEEP)}, {"new": "FROM /* INTO $upstream", "bad": "FROM"})

    edge.start()
    adopted = edge.wait_for(sensor="running", edgeHub="running")
    edge.wait_for_routes(good=["new"], bad=["bad"])
    os.kill(adopted["edgeHub"]["pid"], signal.SIGKILL)
    edge.wait_for_another_hub(than=adopted["edgeHub"]["pid"])

    assert adopted["edgeHub"]["pid"] == before["edgeHub"]["pid"]
    edge.wait_for_routes(good=["new"], bad=["bad"])


def test_a_second_ctrl_c_kills_modules_that_do_not_want_to_end(edge: EdgeProcess) -> None:
    edge.deploy({"stubborn": shell("trap '' TERM; echo $$ >\"$PIPE\"; while :; do sleep 1; done")})
    edge.start(grace_s="600")
    pid = int(edge.line())
    edge.wait_for(edgeHub="running")

    edge.signal(signal.SIGINT)
    edge.wait_until(lambda now: now["stubborn"]["description"] == "being stopped by the edge")
    assert lives(pid)
    edge.signal(signal.SIGINT)

    assert edge.wait() == 0, edge.log.read_text()
    assert not lives(pid)
    assert not edge.run.path.exists()


def test_commands_and_identities_from_outside(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    pid = edge.wait_for(sensor="running")["sensor"]["pid"]

    stopped = edge.ask(AGENT, StopModule("sensor"), ModuleReported)
    assert stopped.status == "stopped"
    assert not lives(pid)
    with pytest.raises(RequestRefused, match="did you mean 'sensor'"):
        edge.ask(AGENT, StopModule("sensr"), ModuleReported)
    made = edge.ask("agent/security", CreateDevice("leaf1"), DeviceIdentity)
    assert len(made.primary_key.reveal()) == 32


def test_an_agent_that_fails_for_good_ends_with_70_and_leaves_the_modules_to_the_next(
    edge: EdgeProcess,
) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    before = edge.wait_for(sensor="running", edgeHub="running")

    with Client.outside(edge.run.path) as client:
        for _ in range(6):
            client.tell(AGENT, Routes((), (("only a name",),)))  # type: ignore[arg-type]
        assert edge.wait() == 70

    assert "failed too often" in edge.log.read_text()
    edge.start()
    after = edge.wait_for(sensor="running", edgeHub="running")
    assert after["sensor"]["pid"] == before["sensor"]["pid"]


def test_the_hub_shows_a_renewed_certificate_without_a_restart(edge: EdgeProcess) -> None:
    edge.deploy({})
    edge.start()
    hub = edge.wait_for(edgeHub="running")["edgeHub"]["pid"]
    handshake(edge)
    folder, now_s = edge.home / "certificates", time.time()
    ca = ensure_edge_ca(folder, "edge1", now_s)
    ensure_server_certificate(folder, ("localhost", "new.example"), ca, now_s)

    with Client.outside(edge.run.path) as client:
        client.tell(HUB, CertificateChanged())
        client.ask(HUB, Describe(), Described)  # handled after it

    handshake(edge, "new.example")
    assert edge.modules()["edgeHub"]["pid"] == hub
