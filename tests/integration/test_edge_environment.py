"""Modules of a whole edge that get all they need from the edge environment, over WebSocket on port 443."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.edge_process import LIMIT_S, EdgeProcess
from tests.integration.node_sdk import FOLDER, need_node
from tests.integration.test_web_socket import WEB_PORT, needs_443
from tests.waiting import wait_until

PYTHON = """
import time
from azure.iot.device import IoTHubModuleClient, exceptions
client = IoTHubModuleClient.create_from_edge_environment(websockets=True)
client.connect()
number = 0
while True:
    try:
        client.send_message_to_output(f"message {number}", "out")
        number += 1
    except exceptions.NoConnectionError:
        pass  # the moment in which the connection breaks; the SDK leaves that to its caller
    time.sleep(0.05)
"""
ROUTES = {
    "there": 'FROM /messages/modules/sensor/* INTO BrokeredEndpoint("/modules/{}/inputs/in")',
    "up": "FROM /messages/modules/{}/* INTO $upstream",
}

pytestmark = needs_443


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Iterator[EdgeProcess]:
    monkeypatch.setenv("EDGE_ACTORS_WEB_LISTEN", f"127.0.0.1:{WEB_PORT}")
    made = EdgeProcess()
    yield made
    made.close()


def module(*command: str) -> dict[str, object]:
    return {
        "type": "process",
        "status": "running",
        "restartPolicy": "always",
        "settings": {"command": list(command)},
    }


def upstream(edge: EdgeProcess) -> list[str]:
    path = edge.home / "upstream.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    bodies = [json.loads(line)["Body"] for line in lines if line.endswith("\n")]
    return [base64.b64decode(body).decode() for body in bodies]


def wait_for(edge: EdgeProcess, count: int) -> list[str]:
    wait_until(lambda: len(upstream(edge)) >= count, edge.log.read_text, LIMIT_S)
    return upstream(edge)


def test_python_module_over_websocket_outlives_agent_and_hub(edge: EdgeProcess) -> None:
    routes = {"up": ROUTES["up"].format("sensor")}
    edge.deploy({"sensor": module(sys.executable, "-c", PYTHON)}, routes)
    edge.start()
    wait_for(edge, 5)
    sensor = edge.modules()["sensor"]["pid"]

    edge.kill_agent()
    edge.start()
    hub = edge.wait_for(sensor="running", edgeHub="running")["edgeHub"]["pid"]
    so_far = len(wait_for(edge, len(upstream(edge)) + 5))
    os.kill(hub, signal.SIGKILL)
    edge.wait_for_another_hub(hub, sensor="running")
    bodies = wait_for(edge, so_far + 5)

    assert edge.modules()["sensor"]["pid"] == sensor
    numbers = [int(body.removeprefix("message ")) for body in bodies]
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))


@pytest.mark.parametrize("protocol", ["mqtt", "amqp"])
def test_node_module_works_from_the_edge_environment(edge: EdgeProcess, protocol: str) -> None:
    node = need_node()
    edge.deploy(
        {
            "sensor": module(sys.executable, "-c", PYTHON),
            "shout": module(node, str(Path(FOLDER) / "edge_module.js"), protocol),
        },
        {name: text.format("shout") for name, text in ROUTES.items()},
    )
    edge.start()

    bodies = wait_for(edge, 10)

    assert bodies[:10] == [f"MESSAGE {number}" for number in range(10)]
