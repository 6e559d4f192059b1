"""The commands against a whole edge with the sample deployment, as a user would give them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.connection_string import parse_connection_string
from runtime.machine import process_table
from runtime.modules.process_runtime import RUN_MARKER
from runtime.run_directory import RunDirectory
from tests.integration.edge_program import PROGRAM, SAMPLE, EdgeProgram
from tests.waiting import LIMIT_S, wait_until


@pytest.fixture(scope="module")
def shared_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProgram]:
    """One edge for the tests that leave it as they found it."""
    edge = EdgeProgram(tmp_path_factory.mktemp("shared") / "home")
    edge.start()
    yield edge
    edge.close()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path / "home")
    yield edge
    edge.close()


def processes_of(edge: EdgeProgram) -> list[int]:
    """Return what carries the mark of this edge in its environment, its own agent not among them."""
    run = str(RunDirectory.of(edge.home).path)
    return [process.pid for process in process_table.find({RUN_MARKER: run}, ())]


# --- looking at a running edge ---


def test_list_shows_modules_as_people_read_them(shared_edge: EdgeProgram) -> None:
    lines = shared_edge.run("list").stdout.splitlines()

    assert lines[0].split() == ["NAME", "STATUS", "PID", "DESCRIPTION", "CONFIG"]
    assert [line.split()[:2] for line in lines[1:6]] == [
        [name, "running"] for name in ("edgeAgent", "edgeCloud", "edgeHub", "filter", "sensor")
    ]
    up = r"sensor +running +\d+ +Up \d+ (second|minute)s?( \(not isolated\))? +python3 sensor.py"
    assert re.fullmatch(up, lines[5])


def test_list_says_which_modules_have_the_rights_of_the_edge(shared_edge: EdgeProgram) -> None:
    listed = shared_edge.modules()
    text = shared_edge.run("list").stdout

    for name in ("filter", "sensor"):
        uid = os.stat(f"/proc/{listed[name]['pid']}").st_uid
        assert bool(listed[name]["not_isolated"]) is (uid == os.geteuid())
        assert listed[name]["not_isolated"] in text
    assert listed["edgeHub"]["not_isolated"] == ""
    assert ("(not isolated)" in text) is ("\nnot isolated: " in text)


def test_messages_arrive_and_the_ledger_balances_while_it_runs(shared_edge: EdgeProgram) -> None:
    wait_until(
        lambda: shared_edge.json("ledger")["endpoints"].get("iothub", {}).get("delivered", 0) > 2, "messages"
    )

    ledger = shared_edge.json("ledger")

    total = ledger["total"]
    assert total["received"] == total["unrouted"] + total["routed"]
    for row in ledger["endpoints"].values():
        assert row["accepted"] == row["delivered"] + row["expired"] + row["dropped"] + row["pending"]


def test_routes_are_shown_with_their_text(shared_edge: EdgeProgram) -> None:
    found = shared_edge.json("routes")

    assert found["left_out"] == []
    assert {
        "name": "filterToUpstream",
        "route": "FROM /messages/modules/filter/outputs/filteredOutput INTO $upstream",
        "priority": 2_000_000_000,
        "timeToLiveSecs": 0,
        "endpoint": "iothub",
    } in (found["routes"])
    assert shared_edge.json("routes", "list") == found


def test_the_way_of_a_message_of_the_sample_is_told(
    shared_edge: EdgeProgram,
) -> None:
    upstream = shared_edge.home / "upstream.jsonl"
    wait_until(lambda: upstream.exists() and upstream.read_bytes().count(b"\n") > 0, "a message upstream")
    line = json.loads(upstream.read_text().splitlines()[-1])
    message_id = line["SystemProperties"]["messageId"]

    wait_until(
        lambda: any(hop["hop"] == "delivered" for hop in shared_edge.json("trace", message_id)["hops"]),
        "the message is acknowledged",
    )

    hops = shared_edge.json("trace", message_id)["hops"]
    assert [hop["hop"] for hop in hops] == ["received", "routed", "stored", "sent", "delivered"]
    assert (hops[1]["route"], hops[1]["endpoint"]) == ("filterToUpstream", "iothub")
    text = shared_edge.run("trace", message_id).stdout
    assert "routed     to iothub by route 'filterToUpstream'" in text
    unknown = shared_edge.run("trace", "no-such-id")
    assert unknown.returncode == 2
    assert "there is no message with id 'no-such-id' among the last" in unknown.stderr


def test_logs_of_modules_hub_and_agent_are_there(shared_edge: EdgeProgram) -> None:
    assert "sending to temperatureOutput" in shared_edge.run("logs", "sensor").stdout
    assert "connected from" in shared_edge.run("logs", "edgeHub").stdout
    assert "module sensor started" in shared_edge.run("logs", "edgeAgent").stdout


# --- commanding it ---


def test_a_module_is_stopped_started_and_restarted(shared_edge: EdgeProgram) -> None:
    first = shared_edge.modules()["filter"]["pid"]

    stopped = shared_edge.run("stop", "filter")
    assert stopped.stdout.startswith("filter is stopped: stopped by hand")
    assert not os.path.exists(f"/proc/{first}")
    assert shared_edge.modules()["filter"]["status"] == "stopped"

    started = shared_edge.json("start", "filter")
    assert started["status"] == "running"

    restarted = shared_edge.json("restart", "filter")
    assert restarted["status"] == "running"
    assert len({first, started["pid"], restarted["pid"]}) == 3


@pytest.mark.parametrize("command", ["start", "stop", "restart"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sensr", "; did you mean 'sensor'?"),
        ("x", "; there are edgeAgent, edgeCloud, edgeHub, filter, sensor"),
    ],
)
def test_an_unknown_module_gets_the_nearest_name(
    command: str, name: str, hint: str, shared_edge: EdgeProgram
) -> None:
    done = shared_edge.run(command, name)

    assert (done.returncode, done.stderr) == (2, f"error: there is no module '{name}'{hint}\n")


def test_the_agent_is_not_stopped_as_a_module(shared_edge: EdgeProgram) -> None:
    done = shared_edge.run("stop", "edgeAgent")

    assert done.returncode == 2
    assert "end it with `edge-actors down`" in done.stderr


def test_messages_wait_while_upstream_is_off_and_flow_when_it_is_on(shared_edge: EdgeProgram) -> None:
    assert shared_edge.json("upstream", "off")["on"] is False
    wait_until(lambda: shared_edge.json("ledger")["endpoints"]["iothub"]["pending"] > 0, "messages wait")

    assert shared_edge.json("upstream", "on")["on"] is True

    wait_until(lambda: shared_edge.json("ledger")["endpoints"]["iothub"]["pending"] == 0, "none waits")
    assert shared_edge.run("upstream", "status").stdout.startswith("upstream is on, connected to 127.")


def test_a_hub_that_is_just_restarting_is_waited_for(shared_edge: EdgeProgram) -> None:
    os.kill(shared_edge.modules()["edgeHub"]["pid"], signal.SIGKILL)

    done = shared_edge.run("upstream", "status")

    assert (done.returncode, done.stderr) == (0, "")


def test_an_identity_made_while_it_runs_is_written_for_its_client(
    shared_edge: EdgeProgram, tmp_path: Path
) -> None:
    out = tmp_path / "client"

    done = shared_edge.run("identity", "create", "thermostat", "--out", str(out))

    assert done.returncode == 0, done.stderr
    text = (out / "connection-string.txt").read_text()
    parts = parse_connection_string(text)
    assert (parts.identity.device_id, parts.gateway_host_name) == ("thermostat", shared_edge.address)
    assert parts.shared_access_key not in done.stdout
    pem = (out / "ca.pem").read_text()
    assert pem.startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE" not in pem
    assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o600}
    shown = shared_edge.json("identity", "show", "thermostat")
    assert shown["connectionString"] == text.strip()
    listed = {"id": "thermostat", "kind": "leaf device", "authentication": "sas", "status": "enabled"}
    assert listed in shared_edge.json("identity", "list")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("vm/x", "'vm/x' cannot be the id of a device: IoT Hub allows 1 to 128 letters, digits and"),
        ("twice", "device 'twice' exists already; choose another id"),
    ],
)
def test_an_identity_that_cannot_be_is_refused(device: str, message: str, shared_edge: EdgeProgram) -> None:
    shared_edge.run("identity", "create", "twice")

    done = shared_edge.run("identity", "create", device)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")


def test_a_folder_that_cannot_be_written_leaves_no_identity_behind(shared_edge: EdgeProgram) -> None:
    done = shared_edge.run("identity", "create", "nowhere", "--out", "/proc/nowhere")

    assert (done.returncode, done.stderr) == (1, "error: /proc/nowhere: No such file or directory\n")
    assert "nowhere" not in [found["id"] for found in shared_edge.json("identity", "list")]


# --- the end of an edge ---


def test_run_for_a_while_exits_0_and_leaves_no_process(edge: EdgeProgram) -> None:
    edge.start("--for", "8")
    run = RunDirectory.of(edge.home).path

    assert edge.wait() == 0
    assert not run.exists()
    sequence = [
        json.loads(line)["Body"]["sequence"]
        for line in (edge.home / "upstream.jsonl").read_text().splitlines()
    ]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
    assert processes_of(edge) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_edge_and_modules(number: signal.Signals, edge: EdgeProgram) -> None:
    edge.start()
    assert edge.process is not None

    edge.process.send_signal(number)

    assert edge.wait() == 0
    assert processes_of(edge) == []
    assert edge.output.read_text().endswith(" has stopped\n")


def test_a_stopped_edge_still_tells_ledger_identities_and_logs(edge: EdgeProgram) -> None:
    edge.run_for_a_message()

    assert edge.json("ledger")["total"]["received"] > 0
    assert edge.run("identity", "create", "late").returncode == 0
    assert "late" in [found["id"] for found in edge.json("identity", "list")]
    assert "stopped" in edge.run("logs", "edgeAgent", "--tail", "1").stdout
    for command in (["list"], ["stop", "sensor"], ["routes"], ["upstream", "status"]):
        done = edge.run(*command)
        assert done.returncode == 1
        assert done.stderr == (
            f"error: no edge runs on home {edge.home}; start one with `edge-actors run --home {edge.home}`\n"
        )


def test_down_ends_a_running_edge_and_purge_leaves_nothing(edge: EdgeProgram) -> None:
    edge.start()
    assert edge.process is not None
    run = RunDirectory.of(edge.home).path

    ended = edge.json("down", "--purge")

    assert edge.wait() == 0
    assert ended["ended"][0]["pid"] == edge.process.pid
    assert ended["home_removed"] is True
    assert not edge.home.exists()
    assert not run.exists()
    assert processes_of(edge) == []


@pytest.mark.parametrize("home_is_gone", [False, True], ids=["home is there", "home is gone"])
def test_down_ends_what_a_killed_agent_left(home_is_gone: bool, edge: EdgeProgram) -> None:
    edge.start()
    assert edge.process is not None
    left = {name: module["pid"] for name, module in edge.modules().items() if name != "edgeAgent"}
    edge.process.kill()
    edge.wait()
    assert all(os.path.exists(f"/proc/{pid}") for pid in left.values())
    while home_is_gone and edge.home.exists():  # the hub lives and writes meanwhile
        shutil.rmtree(edge.home, ignore_errors=True)

    done = edge.run("down", "--purge")

    assert done.returncode == 0, done.stderr
    for name, pid in left.items():
        assert f"{name} (pid {pid}, " in done.stdout
    assert processes_of(edge) == []
    assert not RunDirectory.of(edge.home).path.exists()
    assert not edge.home.exists()


def test_down_with_nothing_to_do_says_so_and_succeeds(edge: EdgeProgram) -> None:
    done = edge.run("down", "--purge")

    assert done.returncode == 0
    assert done.stdout == f"nothing of an edge with home {edge.home} is left\n"


# --- the screen ---


def test_on_a_terminal_the_picture_is_calm_and_the_log_goes_to_its_file(edge: EdgeProgram) -> None:
    seconds = 6
    master, terminal = pty.openpty()
    edge.environment |= {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    began_s = time.monotonic()
    process = subprocess.Popen(
        [*PROGRAM, "run", "--deployment", str(SAMPLE), "--for", str(seconds)],
        env=edge.environment,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)

    screen = _read_all(master)

    assert process.wait(LIMIT_S) == 0
    took_s = time.monotonic() - began_s
    drawn, final = screen.split("\x1b[?1049l")  # the alternate screen is left once
    assert drawn.count("\x1b[?1049h") == 1
    frames = drawn.split("\x1b[H")[2:]
    assert 3 <= len(frames) <= 4 * took_s
    assert all(frame.count("\n") < 30 and "\x1b[2J" not in frame for frame in frames)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames[-1])
    assert "MODULE" in plain
    assert "sensor" in plain
    assert "INFO" not in screen
    assert re.search(r"messages  received \d+ ", final)
    assert "module sensor started" in (edge.home / "logs" / "edge-actors.log").read_text()


def test_without_a_terminal_nothing_that_draws_is_loaded(edge: EdgeProgram) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *PROGRAM[1:], "run", "--deployment", str(SAMPLE), "--for", "1"],
        env=edge.environment,
        capture_output=True,
        text=True,
        check=True,
    )

    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "actors.agent" in imported
    assert not [name for name in imported if name.split(".")[0] in ("rich", "docker", "aiohttp")]


def test_with_json_the_log_lines_of_run_are_objects(edge: EdgeProgram) -> None:
    done = edge.run("run", "--deployment", str(SAMPLE), "--for", "1", "--json")

    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["message"].endswith(" has stopped")
    assert all(set(line) >= {"at", "level", "logger", "message"} for line in lines)


def _read_all(descriptor: int) -> str:
    """Return what comes out of a terminal until nobody has it open any more."""
    blocks = []
    try:
        while block := os.read(descriptor, 65536):
            blocks.append(block)
    except OSError:  # EIO: the other side is closed
        pass
    finally:
        os.close(descriptor)
    return b"".join(blocks).decode()
