"""The whole chain of supervision with real processes: actor, parent, process, and who starts it again."""

from __future__ import annotations

import base64
import contextlib
import re
import signal
import sqlite3
import time
from collections.abc import Iterator

import pytest

from actors.addresses import AGENT
from actors.agent.module_list import ListModules, ModuleList
from actors.agent.security import CreateDevice, DeviceIdentity
from messaging import sas
from messaging.errors import AskTimeout
from messaging.identity import Identity
from runtime.home import Home
from tests.integration.edge_process import EdgeProcess, shell
from tests.integration.mqtt_client import MqttClient
from tests.runtime.module_processes import lives

SLEEP = 'echo $$ >"$PIPE"; exec sleep 1000'
TROUBLED = "tests.integration.troubled_edge"
FAILED = 70
HUNG_LIMIT_S = 30.0  # ten seconds, and what a busy machine adds


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


def hub_log(edge: EdgeProcess) -> str:
    return Home(edge.home).log_of("edgeHub").read_text()


def connect(edge: EdgeProcess, leaf: DeviceIdentity) -> MqttClient:
    audience = sas.audience_of(edge.iothub, Identity(leaf.device_id))
    token = sas.make_token(audience, leaf.primary_key.reveal(), int(time.time()) + 3600)
    ca_file = edge.home / "certificates" / "edge-ca.pem"
    return MqttClient.connect(edge.port, leaf.device_id, token, edge.iothub, ca_file)


@pytest.mark.slow
def test_a_hub_with_an_actor_that_cannot_start_ends_and_is_started_again_with_back_off_until_it_can(
    edge: EdgeProcess,
) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    database = edge.home / "twins.db"
    edge.home.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(database)) as newer:  # it is whole, so it is not put aside
        newer.execute("CREATE TABLE messages (body BLOB)")
        newer.execute("PRAGMA user_version=999")

    edge.start()
    listed = edge.wait_until(lambda all_: all_["edgeHub"]["status"] == "backoff" and "sensor" in all_)

    assert listed["edgeHub"]["exit_code"] == FAILED
    assert listed["sensor"]["status"] == "running"  # none of its business
    said = hub_log(edge)
    failures = [line for line in said.splitlines() if "hub/twins could not start: StoreError" in line]
    repeats = [re.search(r"\(again: (\d+), ", line) for line in failures]
    assert sum(int(found[1]) if found else 1 for found in repeats) >= 6
    assert "hub/twins failed too often and gives up" in said
    assert "the hub ends: hub/twins failed too often" in said

    database.unlink()
    edge.wait_for(edgeHub="running")


def test_an_agent_whose_actor_gives_up_ends_with_70_and_leaves_its_modules_to_the_next(
    edge: EdgeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    pid = edge.wait_for(sensor="running", edgeHub="running")["sensor"]["pid"]
    edge.signal(signal.SIGKILL)
    edge.wait()

    monkeypatch.setenv("TROUBLE", "no security")
    edge.start(main=TROUBLED)
    assert edge.wait() == FAILED
    assert "agent gives up: agent/security failed too often" in edge.log.read_text()
    assert lives(pid)

    edge.start()
    assert edge.wait_for(sensor="running", edgeHub="running")["sensor"]["pid"] == pid


def test_an_agent_that_hangs_says_where_ends_with_70_and_its_modules_live_on(
    edge: EdgeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    monkeypatch.setenv("TROUBLE", "agent hangs")
    edge.start(main=TROUBLED)
    pid = int(edge.line())

    with contextlib.suppress(AskTimeout):
        edge.ask(AGENT, ListModules(), ModuleList, timeout_s=1.0)

    assert edge.wait(HUNG_LIMIT_S) == FAILED
    said = edge.log.read_text()
    assert "agent/agent has not come back from ListModules for 5 s; its thread is at\n" in said
    assert "agent/agent has not come back from ListModules for 10 s; its thread is at\n" in said
    assert "in _hang" in said
    assert lives(pid)


def test_a_hub_that_hangs_in_a_commit_is_started_again_and_nothing_acknowledged_is_lost(
    edge: EdgeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    monkeypatch.setenv("TROUBLE", "slow hub")
    edge.start(main=TROUBLED)
    hub_pid = edge.wait_for(sensor="running", edgeHub="running")["edgeHub"]["pid"]
    leaf = edge.ask("agent/security", CreateDevice("leaf"), DeviceIdentity)
    client = connect(edge, leaf)
    assert client.publish_and_wait(b"before")

    (edge.home / "commit_s").write_text("1000")
    client.publish(b"never acknowledged")
    assert client.wait_for_end(HUNG_LIMIT_S)
    (edge.home / "commit_s").unlink()
    edge.wait_until(lambda now: now["edgeHub"]["status"] == "running" and now["edgeHub"]["pid"] != hub_pid)

    said = hub_log(edge)
    assert "hub/store has not come back from on_turn_end for 5 s; its thread is at\n" in said
    assert "in transaction" in said
    assert "this process ends: hub/store has not come back from on_turn_end for 10 s" in said
    assert connect(edge, leaf).publish_and_wait(b"after")
    sent = edge.home / "upstream.jsonl"
    before = base64.b64encode(b"before").decode()
    edge.wait_until(lambda _: sent.exists() and before in sent.read_text())
