"""A client of a killed hub hears an end of its connection, though the hub had not read all it sent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from messaging import sas
from messaging.connection_string import parse_connection_string
from messaging.mqtt.packets import Publish
from tests.integration.edge_process import LIMIT_S, ROOT, EdgeProcess
from tests.integration.mqtt_client import MqttClient
from tests.waiting import wait_until

LEAF = "leaf"


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    made.deploy({})
    made.start()
    made.wait_for(edgeHub="running")
    yield made
    made.close()


@pytest.fixture
def credential(edge: EdgeProcess) -> Path:
    """The folder with what a leaf device connects with."""
    folder = edge.folder / LEAF
    command = ("identity", "create", LEAF, "--out", str(folder), "--home", str(edge.home))
    subprocess.run([sys.executable, "-m", "runtime.cli.main", *command], cwd=ROOT, check=True)
    return folder


def connect(edge: EdgeProcess, credential: Path) -> MqttClient:
    found = parse_connection_string((credential / "connection-string.txt").read_text().strip())
    audience = sas.audience_of(found.host_name, found.identity)
    token = sas.make_token(audience, sas.decode_key(found.shared_access_key), int(time.time()) + 3600)
    return MqttClient.connect(edge.port, LEAF, token, found.host_name, credential / "ca.pem")


def end_at_hub(edge: EdgeProcess, client: MqttClient) -> str:
    """Return what the hub's end of a connection is called among the descriptors of a process."""
    ours = client.socket.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{edge.port:04X}") and fields[2].endswith(f":{ours:04X}"):
            return f"socket:[{fields[9]}]"
    raise AssertionError("there is no such connection")


def wait_until_agent(edge: EdgeProcess, end: str, *, keeps: bool) -> None:
    """Wait until the agent has a duplicate of an end, or none."""
    assert edge.process is not None
    folder = f"/proc/{edge.process.pid}/fd"
    what = f"the agent keeps the connection: {keeps}"
    wait_until(lambda: (end in list(links_in(folder))) is keeps, what, LIMIT_S)


def links_in(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(f"{folder}/{name}")


def kill_unread(hub: int, client: MqttClient) -> None:
    """kill -9 a hub that has not read what a client sent last."""
    os.kill(hub, signal.SIGSTOP)
    client.send(Publish(client.topic, b"unread", 1, 1))
    os.kill(hub, signal.SIGKILL)


def write_on(client: MqttClient) -> None:
    for number in range(2, 5):
        client.send(Publish(client.topic, b"still", 1, number))


@pytest.mark.parametrize("adopted", [False, True], ids=["by its own agent", "by an agent that adopted it"])
def test_a_client_of_a_killed_hub_may_write_until_it_has_read_the_end(
    edge: EdgeProcess, credential: Path, adopted: bool
) -> None:
    client = connect(edge, credential)
    if adopted:
        edge.kill_agent()
        edge.start()
    hub = int(edge.wait_for(edgeHub="running")["edgeHub"]["pid"])
    wait_until_agent(edge, end_at_hub(edge, client), keeps=True)

    kill_unread(hub, client)

    assert select.select([client.socket], [], [], LIMIT_S)[0]  # the end is there, not yet read
    write_on(client)
    assert client.socket.recv(1) == b""
    client.socket.close()


def test_without_an_agent_the_same_client_is_reset(edge: EdgeProcess, credential: Path) -> None:
    client = connect(edge, credential)
    hub = int(edge.wait_for(edgeHub="running")["edgeHub"]["pid"])
    edge.kill_agent()

    kill_unread(hub, client)

    assert select.select([client.socket], [], [], LIMIT_S)[0]
    with pytest.raises(OSError):  # with Python 3.10 to 3.12 an ssl.SSLEOFError
        write_on(client)
    client.socket.close()


def test_a_connection_that_the_hub_ends_is_closed_by_the_agent_too(
    edge: EdgeProcess, credential: Path
) -> None:
    client = connect(edge, credential)
    end = end_at_hub(edge, client)
    wait_until_agent(edge, end, keeps=True)

    again = connect(edge, credential)  # the hub ends the earlier connection of an identity

    assert client.socket.recv(1) == b""
    client.socket.close()
    wait_until_agent(edge, end, keeps=False)
    wait_until_agent(edge, end_at_hub(edge, again), keeps=True)
    again.socket.close()
