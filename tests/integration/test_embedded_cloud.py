"""The IoT Hub stand-in that an edge runs for itself: started, supervised, adopted, moved, removed."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.agent.embedded_cloud import AMQP_PORT, FIRST_ADDRESS, MQTT_PORT
from runtime.config.listen_addresses import parse_address
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.telemetry import events_after
from runtime.net.listening_sockets import bind
from runtime.run_directory import RunDirectory
from tests.integration.edge_program import PROGRAM, SAMPLE, EdgeProgram
from tests.waiting import wait_until

ALL = {"edgeAgent", "edgeCloud", "edgeHub", "filter", "sensor"}


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    made = EdgeProgram(tmp_path / "home")
    yield made
    made.close()


def cloud_pid(edge: EdgeProgram) -> int:
    pid = edge.modules()["edgeCloud"]["pid"]
    assert isinstance(pid, int)
    return pid


def test_an_edge_alone_has_its_device_in_a_hub_of_its_own(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)

    modules = edge.modules()
    assert list(modules)[:3] == ["edgeAgent", "edgeCloud", "edgeHub"]
    assert modules["edgeCloud"]["type"] == "stand-in"
    address = modules["edgeCloud"]["address"]
    assert f"IoT Hub stand-in at {address}" in edge.run("list").stdout
    assert "clients need this CA" in edge.run("logs", "edgeCloud").stdout
    socket.create_connection((address, AMQP_PORT), 1).close()
    devices = edge.json("cloud", "device", "list")
    provisioned = json.loads((edge.home / "provisioned.json").read_text())
    assert [device["deviceId"] for device in devices] == [provisioned["deviceId"]]
    assert devices[0]["capabilities"] == {"iotEdge": True}
    assert provisioned["hostName"] == address
    assert provisioned["caPem"] == (edge.home / "cloud" / "ca.pem").read_text()


def test_a_killed_stand_in_is_back_and_so_are_its_devices(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)
    before = cloud_pid(edge)
    assert edge.run("cloud", "device", "create", "thermostat").returncode == 0

    os.kill(before, signal.SIGKILL)

    shown = edge.run("cloud", "device", "show", "thermostat")  # waits for it
    assert (shown.returncode, shown.stderr) == (0, "")
    assert cloud_pid(edge) not in (0, before)
    assert edge.modules()["edgeCloud"]["restarts"] == 1
    assert "module edgeCloud was killed by signal 9" in edge.run("logs", "edgeAgent").stdout


@pytest.mark.slow
def test_the_file_of_its_telemetry_is_exact_after_kills_under_load(edge: EdgeProgram) -> None:
    edge.start(deployment=SAMPLE.with_name("faster.json"))
    file = edge.home / "upstream.jsonl"
    for _ in range(3):
        count = file.read_bytes().count(b"\n") if file.exists() else 0
        wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") > count + 10, "more messages")  # noqa: B023
        os.kill(cloud_pid(edge), signal.SIGKILL)
        wait_until(lambda: edge.run("cloud", "device", "list").returncode == 0, "it is back")
    assert edge.process is not None
    edge.process.send_signal(signal.SIGTERM)
    assert edge.wait() == 0

    with sqlite3.connect(edge.home / "cloud" / "cloud.db") as connection:
        taken = [json.loads(event.telemetry.body) for event in events_after(connection, 0, 100_000)]
    written = [json.loads(line)["Body"] for line in file.read_text().splitlines()]
    assert written == taken
    numbers = [body["filterSequence"] for body in written]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))


def test_it_is_stopped_and_started_like_a_module(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)

    assert edge.run("stop", "edgeCloud").stdout.startswith("edgeCloud is stopped")
    assert "no IoT Hub runs on home" in edge.run("cloud", "device", "list").stderr
    assert edge.run("start", "edgeCloud").stdout.startswith("edgeCloud is running")
    wait_until(lambda: edge.run("cloud", "device", "list").returncode == 0, "it serves again")


def test_it_outlives_a_killed_agent_and_is_taken_over(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)
    before = cloud_pid(edge)
    assert edge.process is not None
    edge.process.send_signal(signal.SIGKILL)
    edge.wait()
    assert edge.run("cloud", "device", "list").returncode == 0

    edge.start()
    edge.wait_for_modules("running", ALL)

    assert cloud_pid(edge) == before
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: cloud_pid(edge) not in (0, before), "another one, on the sockets of the new agent")
    wait_until(lambda: edge.run("cloud", "device", "list").returncode == 0, "it serves")


def test_another_stand_in_on_the_same_home_is_refused_in_both_directions(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)

    other = edge.run("cloud", "run")
    assert other.returncode == 1
    assert f"the edge on home {edge.home} runs an IoT Hub stand-in there already" in other.stderr
    assert "`edge-actors cloud …` works with it" in other.stderr

    edge.run("down", "--purge")
    edge.wait()
    address = f"{FIRST_ADDRESS + 200}"
    command = [*PROGRAM, "cloud", "run", "--home", str(edge.home), "--listen", address]
    with subprocess.Popen(command, env=edge.environment, stdout=subprocess.PIPE, text=True) as own:
        assert own.stdout is not None
        for line in own.stdout:
            if "clients need this CA" in line:
                break
        refused = edge.run("run", "--for", "1", "--deployment", "scripts/samples/deployment.json")
        own.send_signal(signal.SIGTERM)
        own.stdout.read()
    assert refused.returncode == 1
    assert (
        f"an IoT Hub stand-in that this edge did not start (pid {own.pid})" in refused.stderr + refused.stdout
    )
    kept = edge.run("down", "--purge").stdout
    assert "cloud" in kept
    assert (edge.home / "cloud" / "cloud.db").exists()


@pytest.mark.timeout(300)  # five starts
@pytest.mark.slow
def test_each_edge_has_an_address_of_its_own_and_keeps_it_while_it_can(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    edge.start()
    edge.wait_for_modules("running", {"edgeCloud"})
    first = edge.modules()["edgeCloud"]["address"]
    second = EdgeProgram(tmp_path / "second")
    try:
        second.start()
        assert second.modules()["edgeCloud"]["address"] != first
    finally:
        second.close()
    edge.stop()

    edge.start()
    assert edge.modules()["edgeCloud"]["address"] == first
    edge.stop()
    taken = bind([parse_address(f"{first}:{MQTT_PORT}")])
    edge.start()
    moved = edge.modules()["edgeCloud"]["address"]
    assert moved != first
    assert f"the IoT Hub of this edge moves from {first} to {moved}" in edge.output.read_text()
    assert [device["status"] for device in edge.json("cloud", "device", "list")] == ["enabled"]
    taken[0].close()


def test_without_the_port_of_amqp_it_does_the_rest_and_says_who_has_it(edge: EdgeProgram) -> None:
    taken = bind([parse_address(f"{FIRST_ADDRESS}:{AMQP_PORT}")])

    edge.start()
    edge.wait_for_modules("running", ALL)

    said = f"speaks no AMQP: pid {os.getpid()}, "
    assert said in edge.output.read_text()
    assert edge.run("cloud", "device", "list").returncode == 0
    taken[0].close()


def test_an_edge_that_listens_everywhere_has_its_stand_in_beside_it(edge: EdgeProgram) -> None:
    try:
        bind([parse_address("0.0.0.0:8883")])[0].close()
    except Exception:  # noqa: BLE001 - another program of this machine has the port
        pytest.skip("port 8883 is in use on this machine")
    edge.environment["EDGE_ACTORS_LISTEN"] = "0.0.0.0"
    edge.environment["EDGE_ACTORS_WEB_LISTEN"] = "off"

    edge.start()
    edge.wait_for_modules("running", ALL)

    assert edge.run("cloud", "device", "list").returncode == 0


def test_down_leaves_nothing_of_it_however_the_edge_ended(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)
    pid = cloud_pid(edge)
    assert edge.process is not None
    edge.process.send_signal(signal.SIGKILL)
    edge.wait()

    done = edge.run("down", "--purge")

    assert done.returncode == 0, done.stderr
    assert f"edgeCloud (pid {pid}" in done.stdout
    assert not edge.home.exists()
    assert not CloudHome.in_home(edge.home).run.path.exists()
    assert not RunDirectory.of(edge.home).path.exists()


def test_a_stand_in_that_cannot_start_is_told_and_nothing_else_runs(edge: EdgeProgram) -> None:
    (edge.home / "cloud").mkdir(parents=True, mode=0o700)
    (edge.home / "cloud" / "policies.json").write_text("x")

    edge.start_without_waiting()

    assert edge.wait() == 1
    assert "the IoT Hub that the edge runs for itself did not start" in edge.output.read_text()
    assert "policies.json" in (edge.home / "logs" / "edgeCloud.log").read_text()
    assert not RunDirectory.of(edge.home).path.exists()


@pytest.mark.timeout(300)
def test_a_device_of_the_edge_that_was_deleted_is_made_again_and_taken(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", ALL)
    device = json.loads((edge.home / "provisioned.json").read_text())["deviceId"]

    def upstream() -> dict[str, Any]:
        found: dict[str, Any] = edge.json("upstream", "status")
        return found

    wait_until(lambda: upstream()["device"]["state"] == "linked", "the device is known")
    assert edge.run("cloud", "device", "delete", device).returncode == 0
    wait_until(lambda: upstream()["device"]["state"] == "unauthorized", "it is not any more")
    assert f"`edge-actors cloud device create {device} --edge`" in upstream()["device"]["reason"]
    assert edge.run("cloud", "device", "create", device, "--edge").returncode == 0

    wait_until(lambda: "starting anew" in edge.output.read_text(), "the key is taken", 90.0)
    edge.wait_for_modules("running", ALL)
    wait_until(lambda: upstream()["device"]["state"] == "linked", "the device is known")
    wait_until(lambda: bool(upstream()["up"]) and not upstream()["waiting"], "what waited is sent")


def test_an_edge_that_is_given_another_hub_does_not_fall_back_to_its_own(edge: EdgeProgram) -> None:
    edge.start()
    edge.stop()
    device = json.loads((edge.home / "provisioned.json").read_text())["deviceId"]
    string = f"HostName=hub.example;DeviceId={device};SharedAccessKey=MTIzNDU2Nzg5MDEyMzQ1Njc4OTA="
    given = edge.home.with_name("string")
    given.write_text(string)

    edge.start("--connection-string-file", str(given))
    assert "edgeCloud" not in edge.modules()
    edge.stop()
    edge.start()

    assert "edgeCloud" not in edge.modules()
    assert "the IoT Hub that this edge ran for itself is not started any more" in edge.output.read_text()
