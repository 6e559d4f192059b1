"""An edge whose Docker Engine goes away and comes back, and one that never was there."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from actors.addresses import AGENT
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import RestartModule
from runtime.docker.leftovers import remove_containers
from tests.docker_image import image, why_no_private_engine
from tests.integration.containers import PrivateEngine, container
from tests.integration.edge_process import EdgeProcess, shell

pytestmark = pytest.mark.docker

SLEEP = ("sleep", "1000")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateEngine]:
    reason = why_no_private_engine()
    if reason is not None:
        pytest.skip(reason)
    made = PrivateEngine()
    monkeypatch.setenv("DOCKER_HOST", made.host)
    yield made
    made.close()


@pytest.fixture
def edge(engine: PrivateEngine) -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()
    if engine.is_running:
        engine.thaw()
        remove_containers(made.run.path.name)


def test_modules_are_back_with_their_engine_and_the_others_never_notice(
    engine: PrivateEngine, edge: EdgeProcess
) -> None:
    engine.start()
    name = image()
    # Both exit cleanly when they are asked to end, which is no reason to leave them stopped.
    script = f"trap 'exit 0' TERM; echo up >{edge.pipe}; while :; do sleep 0.1; done"
    mount = {"Binds": [f"{edge.pipe}:{edge.pipe}"]}
    pump = container(name, "sh", "-c", script, host=mount, restartPolicy="on-failure")
    edge.deploy({"pump": pump, "sensor": shell("exec sleep 99")})
    edge.start()
    before = edge.wait_for(pump="running", sensor="running")
    assert edge.line() == "up"

    engine.stop()
    away = edge.wait_for(pump="backoff")["pump"]
    engine.start()
    after = edge.wait_for(pump="running")

    assert "start docker" in away["description"]  # or restart, when it was asked while it ended
    assert edge.line() == "up"
    assert after["pump"]["restarts"] == 0
    assert after["sensor"]["pid"] == before["sensor"]["pid"]
    assert after["edgeHub"]["pid"] == before["edgeHub"]["pid"]


def test_an_edge_that_starts_before_its_engine_serves_containers_once_it_is_there(
    engine: PrivateEngine, edge: EdgeProcess
) -> None:
    # A handshake with the hub at the gateway, under the name that the container was told.
    probe = """
import json, os, socket, ssl
context = ssl.create_default_context(cafile=os.environ["CA"])
with socket.create_connection((os.environ["IOTEDGE_GATEWAYHOSTNAME"], 8883), 20) as plain:
    plain.settimeout(20)
    context.wrap_socket(plain, server_hostname=os.environ["IOTEDGE_GATEWAYHOSTNAME"]).close()
open(os.environ["PIPE"], "w").write("reached\\n")
"""
    engine.start()
    name = image()
    engine.stop()
    shared = edge.folder / "shared"
    shared.mkdir()
    environment = {"CA": {"value": str(shared / "edge-ca.pem")}}
    mount = {"Binds": [f"{edge.pipe}:{edge.pipe}", f"{shared}:{shared}"]}
    pump = container(name, "python3", "-c", probe, host=mount, restartPolicy="on-failure", env=environment)
    edge.deploy({"pump": pump, "sensor": shell("exec sleep 99")})
    edge.start()
    away = edge.wait_for(pump="backoff", sensor="running", edgeHub="running")["pump"]
    shutil.copy(edge.home / "certificates" / "edge-ca.pem", shared)

    engine.start()

    assert (
        "does not run; start it" in away["description"] or "there is no Docker Engine" in away["description"]
    )
    assert edge.line() == "reached"


def test_an_engine_that_hangs_ends_neither_the_agent_nor_any_other_module(
    engine: PrivateEngine, edge: EdgeProcess
) -> None:
    engine.start()
    name = image()
    edge.deploy({"pump": container(name, *SLEEP), "sensor": shell("exec sleep 99")})
    edge.start()
    before = edge.wait_for(pump="running", sensor="running")

    engine.freeze()
    os.kill(before["pump"]["pid"], signal.SIGKILL)
    edge.ask(AGENT, RestartModule("sensor"), ModuleReported)
    hung = edge.ask(AGENT, RestartModule("pump"), ModuleReported, timeout_s=10.0)
    during = edge.wait_for(sensor="running")
    engine.thaw()
    after = edge.wait_until(lambda now: now["pump"]["pid"] not in (0, before["pump"]["pid"]))

    assert "did not answer; see why: `sudo systemctl status docker`" in hung.description
    assert "its thread is at" not in edge.log.read_text()  # as a handler is reported that takes too long
    assert during["edgeAgent"]["pid"] == before["edgeAgent"]["pid"]
    assert after["edgeHub"]["pid"] == before["edgeHub"]["pid"]
    assert after["sensor"]["pid"] == during["sensor"]["pid"]


@pytest.mark.slow
def test_an_edge_starts_beside_an_engine_that_hangs_and_adopts_when_it_answers(
    engine: PrivateEngine, edge: EdgeProcess
) -> None:
    engine.start()
    name = image()
    edge.deploy({"pump": container(name, *SLEEP), "sensor": shell("exec sleep 99")})
    edge.start()
    before = edge.wait_for(pump="running", sensor="running")
    edge.kill_agent()
    engine.freeze()

    edge.start()
    hung = edge.wait_for(pump="backoff", sensor="running")["pump"]
    engine.thaw()
    after = edge.wait_for(pump="running")

    assert "did not answer; see why: `sudo systemctl status docker`" in hung["description"]
    assert after["sensor"]["pid"] == before["sensor"]["pid"]
    assert after["pump"]["pid"] == before["pump"]["pid"]


@pytest.mark.slow
def test_twenty_modules_are_back_with_their_engine_and_none_counts_it_as_a_crash(
    engine: PrivateEngine, edge: EdgeProcess
) -> None:
    engine.start()
    name = image()
    names = [f"many{number}" for number in range(20)]
    edge.deploy({module: container(name, *SLEEP) for module in names})
    edge.start(grace_s="1")
    before = edge.wait_for(**dict.fromkeys(names, "running"))

    engine.stop()
    edge.wait_for(**dict.fromkeys(names, "backoff"))
    engine.start()

    def all_are_back(now: dict[str, dict[str, Any]]) -> bool:
        return all(
            now[module]["status"] == "running" and now[module]["pid"] != before[module]["pid"]
            for module in names
        )

    after = edge.wait_until(all_are_back)
    assert {after[module]["restarts"] for module in names} == {0}
