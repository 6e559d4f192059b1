"""Identities that are disabled or deleted at the IoT Hub while they send: an edge with its own stand-in."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.edge_program import SAMPLE, EdgeProgram
from tests.waiting import wait_until

EDGE = "edge1"
LEAF = "leaf"
QUICKLY_S = 8.0


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProgram]:
    folder = tmp_path_factory.mktemp("disabled")
    content = json.loads(SAMPLE.read_text())
    contents = content["modulesContent"]
    modules = contents["$edgeAgent"]["properties.desired"]["modules"]
    for module in modules.values():
        module["settings"]["workingDirectory"] = str(SAMPLE.parent)
    contents["$edgeHub"]["properties.desired"]["routes"] = {"up": "FROM /messages/* INTO $upstream"}
    (folder / "deployment.json").write_text(json.dumps(content))
    made = EdgeProgram(folder / "home")
    made.environment["EDGE_ACTORS_DEVICE_ID"] = EDGE
    try:
        made.start(deployment=folder / "deployment.json")
        made.run("identity", "create", LEAF, "--out", str(folder / LEAF))
        wait_until(lambda: made.run("cloud", "device", "show", LEAF).returncode == 0, "the cloud knows it")
        yield made
    finally:
        made.close()


def link(edge: EdgeProgram) -> dict[str, Any]:
    found: dict[str, Any] = edge.json("upstream", "status")
    return found


def at_the_link(edge: EdgeProgram, identity: str) -> dict[str, Any]:
    """Return how an identity fares at the cloud; nothing when it was not there yet."""
    named: list[dict[str, Any]] = link(edge)["identities"]
    return next((one for one in named if one["identity"] == identity), {})


def sent(edge: EdgeProgram, identity: str) -> int:
    return int(at_the_link(edge, identity).get("sent", 0))


def wait_for_more(edge: EdgeProgram, identity: str) -> None:
    """Wait until a message more has gone to the cloud."""
    before = sent(edge, identity)
    wait_until(lambda: sent(edge, identity) > before, f"{identity} sends", QUICKLY_S)


@contextmanager
def sending(files: Path) -> Iterator[queue.Queue[str]]:
    """The SDK as a device that sends number after number; yields what it is told when that is refused."""
    from azure.iot.device import IoTHubDeviceClient

    client = IoTHubDeviceClient.create_from_connection_string(
        (files / "connection-string.txt").read_text().strip(),
        server_verification_cert=(files / "ca.pem").read_text(),
    )
    refusals: queue.Queue[str] = queue.Queue()
    ended = threading.Event()

    def send() -> None:
        number = 0
        while not ended.wait(0.1):
            try:
                client.send_message(str(number))
                number += 1
            except Exception as exc:  # noqa: BLE001 - a program goes on trying, whatever the SDK says
                refusals.put(repr(exc))

    client.connect()
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield refusals
    finally:
        ended.set()
        thread.join(30.0)
        client.shutdown()


def test_a_device_that_is_disabled_is_cut_off_and_goes_on_when_it_is_enabled(edge: EdgeProgram) -> None:
    with sending(edge.home.with_name(LEAF)) as refusals:
        wait_for_more(edge, LEAF)

        assert edge.run("cloud", "device", "disable", LEAF, "--reason", "stolen").stdout == (
            f"device {LEAF} disabled\n"
        )

        while "CredentialError" not in refusals.get(timeout=QUICKLY_S):
            pass  # the SDK may first tell that the connection broke
        wait_for_more(edge, f"{EDGE}/sensor")
        assert "disabled (stolen)" in edge.run("cloud", "device", "show", LEAF).stdout
        assert [one["status"] for one in edge.json("identity", "list") if one["id"] == LEAF] == ["disabled"]
        assert f"as '{LEAF}': refused with CONNACK 5: identity '{LEAF}' is disabled" in (
            edge.run("logs", "edgeHub").stdout
        )

        assert edge.run("cloud", "device", "enable", LEAF).stdout == f"device {LEAF} enabled\n"
        wait_for_more(edge, LEAF)
    assert edge.json("cloud", "device", "show", LEAF)["statusReason"] is None


def test_a_module_that_is_deleted_there_is_made_again_and_goes_on_as_it_is(edge: EdgeProgram) -> None:
    wait_for_more(edge, f"{EDGE}/sensor")
    pid = edge.modules()["sensor"]["pid"]

    assert edge.run("cloud", "device", "delete", EDGE, "--module", "sensor").stdout == (
        f"module {EDGE}/sensor deleted\n"
    )

    wait_until(lambda: "sensor" in edge.json("cloud", "device", "show", EDGE)["modules"], "it is there again")
    wait_for_more(edge, f"{EDGE}/sensor")
    assert edge.modules()["sensor"]["pid"] == pid
    assert "module 'sensor' was deleted at" in edge.run("logs", "edgeAgent").stdout


@pytest.mark.slow
def test_an_edge_device_that_is_disabled_serves_its_clients_and_catches_up(edge: EdgeProgram) -> None:
    with sending(edge.home.with_name(LEAF)) as refusals:
        wait_for_more(edge, f"{EDGE}/sensor")

        assert edge.run("cloud", "device", "disable", EDGE).returncode == 0

        wait_until(lambda: link(edge)["device"]["state"] == "unauthorized", "the edge is told", QUICKLY_S)
        told = edge.run("upstream", "status").stdout
        assert (
            f"device '{EDGE}' is disabled; `edge-actors cloud device enable {EDGE}` lets it in again" in told
        )
        wait_until(lambda: at_the_link(edge, f"{EDGE}/sensor")["waiting"] > 2, "its messages wait", QUICKLY_S)
        assert {module["status"] for module in edge.modules().values()} == {"running"}

        assert edge.run("cloud", "device", "enable", EDGE).returncode == 0
        wait_until(lambda: link(edge)["device"]["state"] == "linked", "the edge is told", QUICKLY_S)
        wait_until(
            lambda: at_the_link(edge, f"{EDGE}/sensor")["waiting"] == 0, "what waited is sent", QUICKLY_S
        )
        wait_for_more(edge, LEAF)
        assert refusals.empty()
