"""What a new agent finds when the one before was killed: hub, modules, sockets, files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from actors.addresses import AGENT
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import RestartModule, StartModule, StopModule
from messaging.version import VERSION
from runtime.config.listen_addresses import parse_address
from runtime.machine import process_table
from runtime.modules.process_runtime import RUN_MARKER
from runtime.net.listening_sockets import bind
from runtime.net.socket_handover import NAME
from tests.integration.edge_process import ROOT, EdgeProcess, free_port, shell
from tests.runtime.module_processes import wait_until_ended

SLEEP = 'echo $$ >"$PIPE"; exec sleep 1000'


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


def handshake(edge: EdgeProcess, port: int = 0) -> None:
    """Connect with TLS; the hub has to answer for that, the kernel alone cannot."""
    context = ssl.create_default_context(cafile=str(edge.home / "certificates" / "edge-ca.pem"))
    with socket.create_connection(("127.0.0.1", port or edge.port), 10.0) as plain:
        plain.settimeout(10.0)
        context.wrap_socket(plain, server_hostname="localhost").close()


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5.0).close()
    except ConnectionRefusedError:
        return True
    return False


class Knocker:
    """Connects again and again, and counts how often it was refused."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.tries = self.refused = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.wait(0.002):
            self.tries += 1
            self.refused += is_refused(self.port)

    def __enter__(self) -> Knocker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


# the listening sockets of the hub


def test_an_adopted_hub_gives_its_sockets_back_and_its_restarts_refuse_nobody(edge: EdgeProcess) -> None:
    edge.deploy({})
    edge.start()
    before = edge.wait_for(edgeHub="running")["edgeHub"]["pid"]
    edge.kill_agent()

    with Knocker(edge.port) as knocker:
        edge.start()
        assert edge.wait_for(edgeHub="running")["edgeHub"]["pid"] == before
        os.kill(before, signal.SIGKILL)
        wait_until_ended(before)
        handshake(edge)
        edge.ask(AGENT, RestartModule("edgeHub"), ModuleReported, 20.0)
        handshake(edge)

    assert "is in use" not in edge.log.read_text()
    assert knocker.tries > 50
    assert knocker.refused == 0


def test_a_hub_that_is_stopped_on_purpose_refuses_until_it_is_started_again(edge: EdgeProcess) -> None:
    edge.deploy({"pump": shell(SLEEP)})
    edge.start()
    edge.wait_for(edgeHub="running", pump="running")

    edge.ask(AGENT, StopModule("edgeHub"), ModuleReported)

    assert is_refused(edge.port)
    edge.kill_agent()
    edge.start()
    edge.wait_for(edgeHub="stopped", pump="running")
    assert is_refused(edge.port)
    edge.ask(AGENT, StartModule("edgeHub"), ModuleReported)
    handshake(edge)


def test_sockets_go_through_any_number_of_agents(edge: EdgeProcess) -> None:
    edge.deploy({})
    edge.start()
    hub = edge.wait_for(edgeHub="running")["edgeHub"]["pid"]

    with Knocker(edge.port) as knocker:
        for _ in range(2):
            edge.kill_agent()
            edge.start()
            assert edge.wait_for(edgeHub="running")["edgeHub"]["pid"] == hub
            # What is listed comes from the agent, which may not have heard of the new one yet.
            hub = edge.ask(AGENT, RestartModule("edgeHub"), ModuleReported, 20.0).pid
        handshake(edge)

    assert knocker.refused == 0


def test_a_hub_whose_addresses_changed_is_replaced_and_the_address_that_stays_refuses_nobody(
    edge: EdgeProcess,
) -> None:
    removed, added = free_port(), free_port()
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start(listen=f"127.0.0.1:{removed},127.0.0.1:{edge.port}")
    before = edge.wait_for(edgeHub="running", sensor="running")
    handshake(edge, removed)
    edge.kill_agent()

    with Knocker(edge.port) as knocker:
        edge.start(listen=f"127.0.0.1:{edge.port},127.0.0.1:{added}")
        after = edge.wait_for_another_hub(than=before["edgeHub"]["pid"], sensor="running")
        handshake(edge, added)
        handshake(edge)

    assert knocker.refused == 0
    assert is_refused(removed)
    assert after["sensor"]["pid"] == before["sensor"]["pid"]


def test_a_hub_whose_environment_changed_is_replaced_and_refuses_nobody(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)}, MaxConnectedClients="5")
    edge.start()
    before = edge.wait_for(edgeHub="running", sensor="running")
    edge.kill_agent()

    with Knocker(edge.port) as knocker:
        edge.deploy({"sensor": shell(SLEEP)}, MaxConnectedClients="many", SslProtocols="tls1.2")
        edge.start()
        after = edge.wait_for_another_hub(than=before["edgeHub"]["pid"], sensor="running")
        handshake(edge)

    assert knocker.refused == 0
    assert after["sensor"]["pid"] == before["sensor"]["pid"]
    [(name, problem)] = after["edgeHub"]["settings"]
    assert (name, "'many' is not allowed" in problem) == ("MaxConnectedClients", True)
    assert f"edgeHub's variable {name}: {problem}" in edge.log.read_text()


def test_an_address_that_overlaps_with_one_of_the_old_hub_takes_its_place(edge: EdgeProcess) -> None:
    edge.deploy({})
    edge.start()
    before = edge.wait_for(edgeHub="running")["edgeHub"]["pid"]
    edge.kill_agent()

    edge.start(listen=f"0.0.0.0:{edge.port}")

    edge.wait_until(lambda now: now["edgeHub"]["pid"] not in (0, before))
    handshake(edge)


def test_an_agent_that_cannot_have_a_new_address_leaves_the_old_hub_as_it_is(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    before = edge.wait_for(edgeHub="running", sensor="running")
    edge.kill_agent()
    [foreign] = bind([parse_address("127.0.0.1:0")])
    taken = foreign.getsockname()[1]

    with foreign:
        edge.start(listen=f"127.0.0.1:{edge.port},127.0.0.1:{taken}")
        assert edge.wait() == 2

    assert f"port {taken} is in use (pid {os.getpid()}" in edge.log.read_text()
    handshake(edge)
    edge.start()
    after = edge.wait_for(edgeHub="running", sensor="running")
    assert [after[name]["pid"] for name in after if name != "edgeAgent"] == [
        before[name]["pid"] for name in before if name != "edgeAgent"
    ]


def test_an_address_that_the_hub_gave_up_is_free_for_others_at_once(edge: EdgeProcess) -> None:
    edge.deploy({})
    edge.start()
    edge.wait_for(edgeHub="running")
    edge.kill_agent()
    edge.start()
    edge.wait_for(edgeHub="running")

    edge.signal(signal.SIGTERM)

    assert edge.wait() == 0, edge.log.read_text()
    [again] = bind([parse_address(f"127.0.0.1:{edge.port}")])
    again.close()


def test_a_hub_that_hangs_keeps_its_sockets_until_it_ends_and_holds_up_nobody_else(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    before = edge.wait_for(edgeHub="running", sensor="running")
    edge.kill_agent()
    hub = before["edgeHub"]["pid"]
    os.kill(hub, signal.SIGSTOP)

    edge.start()
    after = edge.wait_for(edgeHub="running", sensor="running")

    assert after["edgeHub"]["pid"] == hub
    assert "keeps its listening sockets until it ends" in edge.log.read_text()
    os.kill(hub, signal.SIGKILL)
    edge.wait_until(lambda now: now["edgeHub"]["pid"] not in (0, hub))
    handshake(edge)


@pytest.mark.slow
def test_the_hub_of_an_older_program_is_replaced_and_refuses_nobody(edge: EdgeProcess) -> None:
    older = edge.folder / "older"
    for name in ("actors", "messaging", "runtime", "tests"):
        shutil.copytree(ROOT / name, older / name, ignore=shutil.ignore_patterns("__pycache__"))
    constant = older / "messaging" / "version.py"
    assert constant.read_text().count(f'"{VERSION}"') == 1
    constant.write_text(constant.read_text().replace(VERSION, "0.0.1"))
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start(program=older)
    before = edge.wait_for(edgeHub="running", sensor="running")
    edge.kill_agent()

    with Knocker(edge.port) as knocker:
        edge.start()
        after = edge.wait_for_another_hub(than=before["edgeHub"]["pid"], sensor="running")
        handshake(edge)

    assert f"the hub is of version 0.0.1 and is replaced by one of {VERSION}" in edge.log.read_text()
    assert after["edgeHub"]["restarts"] == 0
    assert after["sensor"]["pid"] == before["sensor"]["pid"]
    assert knocker.refused == 0


# what a dead edge, or another one, left


def pids_of(edge: EdgeProcess) -> list[int]:
    return [process.pid for process in process_table.find({RUN_MARKER: str(edge.run.path)})]


def test_the_run_directory_of_an_edge_that_was_killed_as_a_whole_is_used_again(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    edge.wait_for(sensor="running", edgeHub="running")
    edge.line()
    handshake(edge)
    edge.kill_agent()
    for pid in pids_of(edge):
        os.kill(pid, signal.SIGKILL)
        wait_until_ended(pid)
    assert {"agent", "agent.lock", "hub", NAME, "modules"} <= {path.name for path in edge.run.path.iterdir()}

    edge.start()

    edge.wait_for(sensor="running", edgeHub="running")
    edge.line()
    handshake(edge)
    edge.signal(signal.SIGTERM)
    assert edge.wait() == 0, edge.log.read_text()
    assert not edge.run.path.exists()


def test_a_run_directory_from_before_a_reboot_restarts_all_and_counts_nothing(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    edge.wait_for(sensor="running", edgeHub="running")
    edge.line()
    edge.kill_agent()
    for pid in pids_of(edge):
        os.kill(pid, signal.SIGKILL)
        wait_until_ended(pid)
    for name in ("sensor", "edgeHub"):
        (edge.run.modules / name / "ended").unlink(missing_ok=True)
        state = edge.run.modules / name / "started"
        _, rest = state.read_text().split("\n", 1)
        state.write_text(f"00000000-0000-0000-0000-000000000000\n{rest}")

    edge.start()

    now = edge.wait_for(sensor="running", edgeHub="running")
    assert (now["sensor"]["restarts"], now["edgeHub"]["restarts"]) == (0, 0)


@pytest.mark.parametrize("content", ["", "garbage", '{"pid": 1, "start_ticks": 1}'], ids=str)
def test_stale_files_in_the_run_directory_stand_in_nobodys_way(edge: EdgeProcess, content: str) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.run.prepare()
    (edge.run.modules / "sensor").mkdir(parents=True)
    for name in ("agent.lock", "agent", "agent.agent", "hub", "hub.identities", NAME):
        (edge.run.path / name).write_text(content)
    for name in ("started", "ended"):
        (edge.run.modules / "sensor" / name).write_text(content)

    edge.start()

    edge.wait_for(sensor="running", edgeHub="running")
    handshake(edge)


def test_a_copied_home_starts_says_so_and_leaves_the_original_alone(edge: EdgeProcess) -> None:
    edge.deploy({"sensor": shell(SLEEP)})
    edge.start()
    before = edge.wait_for(sensor="running", edgeHub="running")
    copy = EdgeProcess()
    try:
        just_being_written = shutil.ignore_patterns(".*.new")
        shutil.copytree(edge.home, copy.home, ignore=just_being_written)
        copy.deploy({"sensor": shell(SLEEP)})

        copy.start()
        there = copy.wait_for(sensor="running", edgeHub="running")

        assert f"home {copy.home} was copied or moved here" in copy.log.read_text()
        assert "--device-id" in copy.log.read_text()
        assert there["sensor"]["restarts"] == 0
        handshake(copy)
        now = edge.wait_for(sensor="running", edgeHub="running")
        assert [now[name]["pid"] for name in now] == [before[name]["pid"] for name in before]
    finally:
        copy.close()
    assert "copied or moved" not in edge.log.read_text()
