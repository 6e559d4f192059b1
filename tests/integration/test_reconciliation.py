"""Agent and hub after either died: who may connect, which routes are left out, which certificate is shown."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actors.addresses import AGENT, HUB, SECURITY
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.module_report import ModuleReported
from actors.agent.security import CreateDevice, DeviceIdentity
from actors.agent.supervisor_messages import StartModule, StopModule
from actors.agent_hub_messages import Routes
from messaging.client import Client
from messaging.lifecycle import DeadLetterList, ListDeadLetters
from runtime.security.certificates import SERVER_FILE, ensure_edge_ca, ensure_server_certificate
from scripts.bench import mqtt_wire
from scripts.bench.peer_edge import Identity
from tests.integration.edge_process import ROOT, EdgeProcess, shell
from tests.runtime.module_processes import wait_until_ended
from tests.waiting import wait_until

SLEEP = "exec sleep 1000"
ALL_UP = {"all": "FROM /messages/* INTO $upstream"}
ONE_BAD = {"good": "FROM /* INTO $upstream", "bad": "FROM nowhere"}
# A Hello a second, and a second for what follows it.
KNOWN_AGAIN_S = 2.5


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


def started(edge: EdgeProcess, modules: dict[str, Any], routes: dict[str, str] = ALL_UP) -> int:
    """Start an edge with these modules; returns the pid of its hub."""
    edge.deploy(modules, routes)
    edge.start()
    return hub_that_runs(edge)


def hub_that_runs(edge: EdgeProcess) -> int:
    pid: int = edge.wait_for(edgeHub="running")["edgeHub"]["pid"]
    return pid


def module_identity(edge: EdgeProcess, name: str) -> Identity:
    """Read the keys of a module from the home, as `identity show` does."""
    command = [sys.executable, "-m", "runtime.cli.main", "identity", "show", name, "--json"]
    done = subprocess.run(
        [*command, "--home", str(edge.home)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return Identity.from_connection_string(json.loads(done.stdout)["connectionString"])


def device_identity(edge: EdgeProcess, made: DeviceIdentity) -> Identity:
    key = base64.b64encode(made.primary_key.reveal()).decode()
    return Identity(edge.iothub, made.device_id, None, key)


class Refused(Exception):
    """The hub said no; with the code of its CONNACK."""


def connect(edge: EdgeProcess, identity: Identity) -> ssl.SSLSocket:
    """Connect to the hub as this identity."""
    context = ssl.create_default_context(cafile=str(edge.home / "certificates" / "edge-ca.pem"))
    plain = socket.create_connection(("127.0.0.1", edge.port), 25.0)
    connection = context.wrap_socket(plain, server_hostname="localhost")
    client = identity.client()
    connection.sendall(
        mqtt_wire.connect(client["client_id"], client["username"], client["password"], clean_session=True)
    )
    answer = connection.recv(4)
    if answer != b"\x20\x02\0\0":
        connection.close()
        raise Refused(f"code {answer[3]}" if answer else "closed")
    return connection


def is_welcome(edge: EdgeProcess, identity: Identity) -> bool:
    connect(edge, identity).close()
    return True


def is_cut_off(connection: ssl.SSLSocket, limit_s: float) -> bool:
    """Wait for the hub to close a connection."""
    connection.settimeout(limit_s)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until_ended(pid)


# identities


def test_a_device_made_while_the_hub_is_away_is_welcome_when_it_is_back(edge: EdgeProcess) -> None:
    started(edge, {})
    edge.ask(AGENT, StopModule("edgeHub"), ModuleReported, 20.0)
    made = edge.ask(SECURITY, CreateDevice("leaf1"), DeviceIdentity)

    edge.ask(AGENT, StartModule("edgeHub"), ModuleReported)

    assert is_welcome(edge, device_identity(edge, made))


def test_a_device_made_right_after_the_hub_was_killed_is_welcome_at_its_first_connect(
    edge: EdgeProcess,
) -> None:
    hub = started(edge, {})
    kill(hub)
    made = edge.ask(SECURITY, CreateDevice("leaf1"), DeviceIdentity)

    assert is_welcome(edge, device_identity(edge, made))


def test_a_device_is_welcome_after_both_were_killed_right_after_it_was_made(edge: EdgeProcess) -> None:
    hub = started(edge, {})
    os.kill(hub, signal.SIGSTOP)  # it never hears of the device
    made = edge.ask(SECURITY, CreateDevice("leaf1"), DeviceIdentity)
    edge.kill_agent()
    kill(hub)

    edge.start()
    hub_that_runs(edge)

    assert is_welcome(edge, device_identity(edge, made))


def test_a_known_device_is_served_by_a_hub_without_an_agent(edge: EdgeProcess) -> None:
    started(edge, {})
    made = edge.ask(SECURITY, CreateDevice("leaf1"), DeviceIdentity)
    assert is_welcome(edge, device_identity(edge, made))

    edge.kill_agent()

    assert is_welcome(edge, device_identity(edge, made))


def test_a_module_removed_while_the_agent_is_away_is_cut_off_by_the_adopted_hub(edge: EdgeProcess) -> None:
    hub = started(edge, {"stays": shell(SLEEP), "goes": shell(SLEEP)})
    edge.wait_for(stays="running", goes="running")
    stays, goes = (module_identity(edge, name) for name in ("stays", "goes"))
    link = connect(edge, goes)
    other = connect(edge, stays)
    edge.kill_agent()
    edge.deploy({"stays": shell(SLEEP)}, ALL_UP)

    edge.start()
    edge.wait_until(lambda now: "goes" not in now and now["stays"]["status"] == "running")

    assert is_cut_off(link, KNOWN_AGAIN_S)
    with pytest.raises(Refused, match="code 5"):
        connect(edge, goes)
    assert hub_that_runs(edge) == hub
    assert not is_cut_off(other, 0.1)
    assert is_welcome(edge, stays)


def test_modules_added_and_removed_while_both_were_dead_are_right_after_the_start(edge: EdgeProcess) -> None:
    hub = started(edge, {"old": shell(SLEEP)})
    edge.wait_for(old="running")
    old = module_identity(edge, "old")
    assert is_welcome(edge, old)
    edge.kill_agent()
    kill(hub)
    edge.deploy({"new": shell(SLEEP)}, ALL_UP)

    edge.start()
    edge.wait_for(new="running", edgeHub="running")

    assert is_welcome(edge, module_identity(edge, "new"))

    def is_refused() -> bool:
        try:
            return not is_welcome(edge, old)
        except Refused as exc:
            return "code 5" in str(exc)

    wait_until(is_refused, "the key is refused", KNOWN_AGAIN_S)


# routes


def routes_left_out(edge: EdgeProcess) -> list[str]:
    listed = edge.ask(AGENT, ListModules(), ModuleList)
    return [name for name, _, _ in listed.routes]


@pytest.mark.parametrize("killed", ["agent", "hub", "both"])
def test_the_route_left_out_is_told_again_whoever_was_killed(edge: EdgeProcess, killed: str) -> None:
    hub = started(edge, {}, ONE_BAD)
    wait_until(lambda: routes_left_out(edge) == ["bad"], "the bad route is left out", 10.0)

    if killed != "hub":
        edge.kill_agent()
    if killed != "agent":
        kill(hub)
    if killed != "hub":
        edge.start()
    edge.wait_until(
        lambda now: (
            now["edgeHub"]["pid"] == hub if killed == "agent" else now["edgeHub"]["pid"] not in (0, hub)
        )
    )

    wait_until(lambda: routes_left_out(edge) == ["bad"], "the bad route is left out", 10.0)


def test_the_route_left_out_is_told_again_after_a_failure_of_the_agents_actor(edge: EdgeProcess) -> None:
    started(edge, {}, ONE_BAD)
    wait_until(lambda: routes_left_out(edge) == ["bad"], "the bad route is left out", 10.0)

    with Client.outside(edge.run.path) as client:
        client.tell(AGENT, Routes((), (("only a name",),)))  # type: ignore[arg-type]

    wait_until(lambda: routes_left_out(edge) == ["bad"], "the bad route is left out", 10.0)


def test_agents_that_follow_each_other_quickly_are_each_known_to_the_hub(edge: EdgeProcess) -> None:
    hub = started(edge, {}, ONE_BAD)
    for _ in range(3):
        edge.kill_agent()
        edge.start()
        hub_that_runs(edge)
        wait_until(lambda: routes_left_out(edge) == ["bad"], "the bad route is left out", KNOWN_AGAIN_S)
    letters = edge.ask(HUB, ListDeadLetters(), DeadLetterList)

    assert hub_that_runs(edge) == hub
    assert [letter for letter in letters.letters if letter["kind"] == "Hello"] == []


# certificates


def shown_certificate(edge: EdgeProcess) -> bytes:
    context = ssl.create_default_context(cafile=str(edge.home / "certificates" / "edge-ca.pem"))
    plain = socket.create_connection(("127.0.0.1", edge.port), 10.0)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_a_certificate_written_while_no_agent_lived_is_shown_by_the_adopted_hub(edge: EdgeProcess) -> None:
    hub = started(edge, {})
    before = shown_certificate(edge)
    edge.kill_agent()
    folder, now_s = edge.home / "certificates", time.time()
    ca = ensure_edge_ca(folder, "edge1", now_s)
    ensure_server_certificate(folder, ("other.example",), ca, now_s)  # the next agent issues its own

    edge.start()
    hub_that_runs(edge)

    wait_until(lambda: shown_certificate(edge) != before, "another certificate is shown", KNOWN_AGAIN_S)
    [leaf, *_] = (folder / SERVER_FILE).read_text().split("-----END CERTIFICATE-----")
    pem = leaf[leaf.index("-----BEGIN CERTIFICATE-----") :] + "-----END CERTIFICATE-----\n"
    assert shown_certificate(edge) == ssl.PEM_cert_to_DER_cert(pem)
    assert hub_that_runs(edge) == hub
