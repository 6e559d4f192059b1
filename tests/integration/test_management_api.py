"""The management API of a running edge, asked over its socket as `iotedge` asks it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.daemon.management_server import CONNECTIONS_PER_UID, management_socket
from tests.integration.container_edge import ContainerEdge
from tests.integration.containers import container
from tests.integration.edge_process import EdgeProcess, shell
from tests.integration.management import LIMIT_S, UnixConnection, call, call_json, frames
from tests.runtime.module_processes import lives

if TYPE_CHECKING:
    from docker import APIClient

CLOCK = (
    "echo '<6> 2024-05-01 09:59:00.000 +00:00 then';"
    """date -u '+<6> %Y-%m-%d %H:%M:%S.000 +00:00 now'; exec sleep 1000"""
)
TALK = "echo one; echo two >&2; echo three; exec sleep 1000"


@pytest.fixture(scope="module")
def shared() -> Iterator[EdgeProcess]:
    """One edge for the tests that leave it as they found it."""
    edge = EdgeProcess()
    modules = {"pump": shell(TALK), "clock": shell(CLOCK), "short": shell("exit 3", restartPolicy="never")}
    edge.deploy(modules)
    edge.start()
    edge.wait_for(edgeHub="running", pump="running", clock="running", short="failed")
    yield edge
    edge.close()


@pytest.fixture(scope="module")
def path(shared: EdgeProcess) -> Path:
    return management_socket(shared.run.path)


def test_only_the_user_of_the_edge_may_connect(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not stat.S_IMODE(path.parent.stat().st_mode) & 0o066


def test_modules_are_listed_in_the_form_of_the_reference(shared: EdgeProcess, path: Path) -> None:
    status, answer = call_json(path, "GET", "/modules")

    assert status == 200
    listed = {module["name"]: module for module in answer["modules"]}
    assert {"edgeAgent", "edgeHub", "pump", "short"} <= set(listed)
    pump = listed["pump"]
    assert (pump["id"], pump["type"], pump["config"]["env"]) == ("id", "process", [])
    assert pump["config"]["settings"]["createOptions"] == {}
    assert pump["status"]["runtimeStatus"] == {"status": "running"}
    assert pump["status"]["startTime"].endswith("+00:00")
    short = listed["short"]["status"]
    assert short["runtimeStatus"] == {"status": "failed"}
    assert short["exitStatus"]["statusCode"] == "3"
    assert call_json(path, "GET", "/modules/") == (status, answer)
    assert call_json(path, "GET", "/modules/pump") == (200, pump)
    assert call_json(path, "GET", "/modules/%24edgeAgent") == (200, listed["edgeAgent"])


@pytest.mark.parametrize(
    ("method", "target", "version", "status", "message"),
    [
        pytest.param("GET", "/modules", "", 400, "api-version not specified", id="no version"),
        pytest.param("GET", "/modules", "2021-05-11", 400, 'invalid api-version "2021-05-11"', id="unknown"),
        pytest.param("GET", "/systeminfo/resources", "2018-06-28", 404, "not found", id="row 4: too old"),
        pytest.param("GET", "/systeminfo/supportbundle", "2019-11-05", 404, "not found", id="bundle too old"),
        pytest.param("GET", "/device/reprovision", "2020-07-07", 400, "method not allowed", id="row 5"),
        pytest.param("GET", "/nothing", "2020-07-07", 404, "not found", id="row 6"),
        pytest.param("GET", "/modules/ghost", "2020-07-07", 404, "there is no module 'ghost'", id="ghost"),
        pytest.param(
            "POST", "/modules/ghost/start", "2020-07-07", 404, "there is no module 'ghost'", id="47"
        ),
        pytest.param("POST", "/modules/pump/fly", "2020-07-07", 404, "not found", id="no such verb"),
        pytest.param(
            "GET", "/modules/pump/start", "2020-07-07", 400, "method not allowed", id="wrong method"
        ),
        pytest.param("POST", "/modules", "2020-07-07", 403, "forbidden", id="row 35"),
        pytest.param("PUT", "/modules/pump?start=true", "2020-07-07", 403, "forbidden", id="update"),
        pytest.param("DELETE", "/modules/pump", "2020-07-07", 403, "forbidden", id="delete"),
        pytest.param("POST", "/modules/pump/prepareupdate", "2019-01-30", 403, "forbidden", id="prepare"),
        pytest.param("POST", "/modules/pump/prepareupdate", "2018-06-28", 404, "not found", id="prepare old"),
        pytest.param("POST", "/identities/", "2020-07-07", 403, "forbidden", id="make identity"),
        pytest.param("DELETE", "/identities/pump", "2020-07-07", 403, "forbidden", id="delete identity"),
        pytest.param("POST", "/device/reprovision", "2020-07-07", 403, "forbidden", id="reprovision"),
        pytest.param(
            "GET",
            "/modules/pump/logs?tail=x",
            "2020-07-07",
            400,
            "invalid parameter: tail 'x' is neither a number nor all",
            id="row 51",
        ),
        pytest.param(
            "GET",
            "/modules/pump/logs?follow=1",
            "2020-07-07",
            400,
            "invalid parameter: follow '1' is neither true nor false",
            id="follow",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_as_the_reference_does(
    method: str, target: str, version: str, status: int, message: str, path: Path
) -> None:
    assert call_json(path, method, target, version) == (status, {"message": message})


def test_a_wrong_time_is_refused_with_what_is_allowed(path: Path) -> None:
    status, answer = call_json(path, "GET", "/modules/pump/logs?since=yesterday")

    assert status == 400
    assert answer["message"].startswith("invalid parameter: since 'yesterday' is no time; write")


def test_a_module_is_stopped_started_and_restarted(shared: EdgeProcess, path: Path) -> None:
    first = shared.modules()["pump"]["pid"]

    assert call_json(path, "POST", "/modules/pump/stop") == (204, None)
    assert not lives(first)
    assert call_json(path, "GET", "/modules/pump")[1]["status"]["runtimeStatus"] == {"status": "stopped"}
    assert call_json(path, "POST", "/modules/pump/START") == (204, None)
    assert call_json(path, "POST", "/modules/pump/start") == (204, None)
    second = shared.modules()["pump"]["pid"]
    assert call_json(path, "POST", "/modules/pump/restart") == (204, None)
    third = shared.modules()["pump"]["pid"]

    assert len({first, second, third}) == 3
    assert lives(third)


def test_the_agent_is_no_module_to_be_stopped(path: Path) -> None:
    status, answer = call_json(path, "POST", "/modules/edgeAgent/stop")

    assert status == 500
    assert "end it with `edge-actors down`" in answer["message"]


def test_logs_come_as_frames_and_the_last_lines_alone(path: Path) -> None:
    status, content, headers = call(path, "GET", "/modules/pump/logs?tail=2")

    assert (status, headers["content-type"], headers["transfer-encoding"]) == (200, "text/plain", "chunked")
    assert [payload for _, payload in frames(content)] == [b"two\n", b"three\n"]
    everything = call(path, "GET", "/modules/pump/logs")[1]
    assert b"".join(payload for _, payload in frames(everything)).endswith(b"one\ntwo\nthree\n")
    assert call(path, "GET", "/modules/pump/logs?tail=0")[1] == b""


def test_lines_are_chosen_by_the_times_that_they_carry(path: Path) -> None:
    _, content, _ = call(path, "GET", "/modules/clock/logs?since=1%20hour&timestamps=true")
    [(_, line)] = frames(content)
    assert line.endswith(b" now\n")
    assert line[:2] == b"20"
    assert line[:31].endswith(b"Z ")
    [(_, old)] = frames(call(path, "GET", "/modules/clock/logs?until=1%20hour")[1])
    assert old == b"<6> 2024-05-01 09:59:00.000 +00:00 then\n"


def test_a_followed_log_goes_on_until_the_caller_hangs_up(shared: EdgeProcess, path: Path) -> None:
    connection = UnixConnection(path)
    connection.request("GET", "/modules/pump/logs?follow=true&tail=0&api-version=2020-07-07")
    response = connection.getresponse()

    assert call_json(path, "POST", "/modules/pump/restart") == (204, None)
    came = b""
    while b"three" not in came:
        came += response.read1()

    connection.close()
    # Its thread ends: so many more than a user may have at a time are served one after the other.
    for _ in range(CONNECTIONS_PER_UID):
        following = UnixConnection(path)
        following.request("GET", "/modules/pump/logs?follow=true&tail=1&api-version=2020-07-07")
        assert following.getresponse().read1()
        following.close()
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        try:
            assert call(path, "GET", "/modules")[0] == 200
            break
        except (ConnectionError, OSError):
            assert time.monotonic() < deadline_s


def test_more_connections_than_a_user_may_have_are_closed_without_an_answer(path: Path) -> None:
    held = []
    for _ in range(CONNECTIONS_PER_UID):
        connection = UnixConnection(path)
        connection.request("GET", "/modules?api-version=2020-07-07")
        connection.getresponse().read()
        held.append(connection)
    try:
        one_more = socket.socket(socket.AF_UNIX)
        one_more.settimeout(LIMIT_S)
        one_more.connect(str(path))
        assert one_more.recv(1) == b""
        one_more.close()
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", b"400", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n", b"413", id="too large"),
        pytest.param(b"POST /modules HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", b"408", id="slow"),
    ],
)
def test_what_breaks_http_is_answered_and_hurts_nobody(sent: bytes, status: bytes, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as odd:
        odd.settimeout(LIMIT_S)
        odd.connect(str(path))
        odd.sendall(sent)
        assert odd.recv(65536).startswith(b"HTTP/1.1 " + status)
    assert call(path, "GET", "/modules")[0] == 200


def test_identities_of_modules_are_listed(path: Path) -> None:
    status, answer = call_json(path, "GET", "/identities")

    assert status == 200
    assert {one["moduleId"] for one in answer["identities"]} >= {"$edgeAgent", "$edgeHub", "pump"}
    for one in answer["identities"]:
        assert set(one) == {"moduleId", "managedBy", "generationId", "authType"}
        assert (one["managedBy"], one["authType"]) == ("iotedge", "sas")


def test_the_machine_is_described(path: Path) -> None:
    status, info = call_json(path, "GET", "/systeminfo")
    assert status == 200
    assert (info["osType"], info["architecture"]) == ("Linux", os.uname().machine)
    assert info["cpus"] == os.cpu_count()
    assert info["virtualized"] in ("yes", "no", "unknown")
    assert info["provisioning"] == {
        "type": "ProvisioningType",
        "dynamicReprovisioning": False,
        "alwaysReprovisionOnStartup": False,
    }

    status, found = call_json(path, "GET", "/systeminfo/resources")
    assert status == 200
    assert found["host_uptime"] >= found["process_uptime"] >= 0
    assert 0 < found["used_ram"] < found["total_ram"]
    assert 0 <= found["used_cpu"] <= 100
    assert found["disks"]
    for disk in found["disks"]:
        assert 0 <= disk["available_space"] <= disk["total_space"]
    assert json.loads(found["docker_stats"]) == []


def test_the_next_agent_answers_where_a_killed_one_did() -> None:
    edge = EdgeProcess()
    try:
        edge.deploy({"pump": shell(TALK)})
        edge.start()
        edge.wait_for(edgeHub="running", pump="running")
        edge.kill_agent()
        with pytest.raises(OSError):
            call(management_socket(edge.run.path), "GET", "/modules")

        edge.start()
        edge.wait_for(edgeHub="running", pump="running")

        assert call_json(management_socket(edge.run.path), "GET", "/modules/pump")[0] == 200
        connection = UnixConnection(management_socket(edge.run.path))
        connection.request("GET", "/modules/pump/logs?follow=true&api-version=2020-07-07")
        response = connection.getresponse()
        edge.signal(signal.SIGTERM)
        assert b"three" in response.read()  # to a proper end, and that does not hold up the edge's
        assert edge.wait() == 0
        connection.close()
    finally:
        edge.close()


# --- containers ---


@pytest.fixture
def containers(docker_image: str) -> Iterator[tuple[ContainerEdge, Path]]:
    from docker import APIClient

    client: APIClient = APIClient(version="auto")
    edge = ContainerEdge(client)
    edge.deploy(
        {
            "talker": container(docker_image, "sh", "-c", TALK),
            "done": container(docker_image, "sh", "-c", "exit 0", restartPolicy="never"),
        }
    )
    edge.start()
    edge.wait_for(talker="running", done="stopped")
    yield edge, management_socket(edge.run.path)
    edge.close()
    client.close()


@pytest.mark.docker
def test_containers_are_listed_with_image_and_exit_code(
    containers: tuple[ContainerEdge, Path], docker_image: str
) -> None:
    edge, path = containers

    talker = call_json(path, "GET", "/modules/talker")[1]
    done = call_json(path, "GET", "/modules/done")[1]

    assert talker["type"] == "docker"
    assert talker["config"]["settings"]["image"] == docker_image
    assert talker["config"]["settings"]["imageHash"] == edge.inspect("talker")["Image"]
    assert done["status"]["exitStatus"]["statusCode"] == "0"
    info = call_json(path, "GET", "/systeminfo")[1]
    assert info["server_version"] == edge.client.version()["Version"]
    stats: list[dict[str, Any]] = json.loads(
        call_json(path, "GET", "/systeminfo/resources")[1]["docker_stats"]
    )
    assert {one["name"] for one in stats} == {one["Names"][0] for one in edge.containers().values()}
    assert all("memory_stats" in one for one in stats)


@pytest.mark.docker
def test_the_frames_of_a_container_are_those_of_the_engine(containers: tuple[ContainerEdge, Path]) -> None:
    _, path = containers

    status, content, _ = call(path, "GET", "/modules/talker/logs?tail=2&since=5m")

    assert status == 200
    assert sorted(frames(content)) in (
        [(1, b"three\n"), (2, b"two\n")],
        [(1, b"one\n"), (1, b"three\n")],  # the engine has two pipes, and no order between them
        [(1, b"one\n"), (2, b"two\n")],
    )
    stamped = frames(call(path, "GET", "/modules/talker/logs?timestamps=true")[1])
    assert all(payload[:2] == b"20" and b"Z " in payload for _, payload in stamped)


@pytest.mark.docker
def test_a_followed_container_goes_on_until_the_caller_hangs_up(
    containers: tuple[ContainerEdge, Path],
) -> None:
    edge, path = containers
    connection = UnixConnection(path)
    connection.request("GET", "/modules/talker/logs?follow=true&api-version=2020-07-07")
    response = connection.getresponse()
    came = b""
    while b"three\n" not in came:
        came += response.read1()

    connection.close()

    assert call_json(path, "POST", "/modules/talker/restart") == (204, None)
    edge.wait_for(talker="running")
