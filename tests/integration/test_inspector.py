"""The inspector at a whole edge: two processes, unmodified modules, commands as a user types them."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.addresses import HUB, INSPECTOR, ROUTER
from actors.hub.trail import Hops, TraceRouting
from actors.inspection.inspector import LEASE_S, NOT_ALLOWED
from actors.inspection.messages import MessageSent, SendMessage
from messaging.client import Client, RequestRefused
from messaging.lifecycle import DeadLetterList, ListDeadLetters
from messaging.time_text import NEVER, from_iso
from runtime.agent.inspector_note import FAULTS_ALLOWED
from runtime.home import Home
from runtime.run_directory import RunDirectory
from runtime.security.key_store import KeyStore
from tests.integration.edge_program import PROGRAM, SAMPLE, EdgeProgram
from tests.waiting import wait_until

LIMIT_S = 30.0
CARGO_BYTES = 20_000
CARGOES = 1_500
CARGOES_AT_ONCE = 50


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProgram]:
    """An edge that may be disturbed."""
    made = EdgeProgram(tmp_path_factory.mktemp("inspected") / "home")
    try:
        made.start("--allow-faults")
        yield made
    finally:
        made.close()


@contextmanager
def inspecting(edge: EdgeProgram, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run an inspector that goes on; it has tapped, or shown something, when this begins."""
    process = subprocess.Popen(
        [*PROGRAM, "inspect", *arguments],
        env=edge.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_tapped(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert process.stderr.readline() == "note: tapping agent and hub\n"


def hub_pid(edge: EdgeProgram) -> int:
    return int(edge.modules()["edgeHub"]["pid"])


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def hub_log(edge: EdgeProgram) -> str:
    return Path(Home(edge.home).log_of("edgeHub")).read_text(errors="replace")


@pytest.fixture
def client(edge: EdgeProgram) -> Iterator[Client]:
    with Client.outside(RunDirectory.of(edge.home).path) as made:
        yield made


def test_both_processes_are_shown_as_one_tree(edge: EdgeProgram) -> None:
    found = edge.json("inspect", "actors")

    assert [process["process"] for process in found["processes"]] == ["agent", "hub"]
    assert all(process["allows_faults"] and not process["problem"] for process in found["processes"])
    actors = {actor["address"]: actor for actor in found["actors"]}
    assert {"agent", "agent/agent/sensor", "hub", "hub/store", "hub/router", "hub/mqtt"} <= set(actors)
    assert actors["agent/agent/sensor"]["parent"] == "agent/agent"
    assert actors["agent/agent/sensor"]["depth"] == 2
    assert all(actor["state"] == "running" for actor in actors.values())
    store = actors["hub/store"]
    assert store["handled"] > 0
    assert 0 < store["p50_ms"] <= store["p99_ms"]


def test_that_faults_are_allowed_is_shown(edge: EdgeProgram) -> None:
    assert FAULTS_ALLOWED in edge.run("list").stdout
    [agent] = [part for part in edge.json("system", "status") if part["name"] == "edgeAgent"]
    assert agent["allows_faults"] is True


def test_a_message_of_a_module_is_seen_on_its_way_through_the_actors(edge: EdgeProgram) -> None:
    done = edge.run(
        "inspect", "tap", "--json", "--count", "1", "--to", "hub/*", "--kind", "Publish",
        "--where", "from = 'hub/mqtt' AND $body.entries[0][1].machine.temperature > -100",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    one = json.loads(done.stdout)
    assert (one["process"], one["from"], one["to"]) == ("hub", "hub/mqtt", "hub/router")
    properties = one["message"]["headers"][0]["$msgpack"][2]
    by_envelope = edge.json("inspect", "trace", one["id"])
    by_message = edge.json("inspect", "trace", properties["messageId"])

    hops = [(hop["from"], hop["to"], hop["kind"]) for hop in by_envelope["envelopes"]]
    assert hops[:2] == [("hub/mqtt", "hub/router", "Publish"), ("hub/mqtt", "hub/store", "Append")]
    assert [step["hop"] for step in by_message["message"]][:3] == ["received", "routed", "stored"]


def test_an_address_that_nobody_has_and_a_kind_that_nobody_knows_are_told_at_once(edge: EdgeProgram) -> None:
    filters = (
        "--to",
        "hub/stor",
        "--from",
        "hub/*",
        "--kind",
        "Publishh",
        "--kind",
        "Append",
        "--kind",
        "H*",
    )

    done = edge.run("inspect", "record", os.devnull + "/x", *filters)

    assert done.stderr.splitlines()[:-1] == [
        "note: no actor 'hub/stor' runs now; did you mean 'hub/store'?",
        "note: no message 'Publishh' is known; did you mean 'Publish'?",
    ]


def test_the_flow_shows_rates_of_both_processes(edge: EdgeProgram) -> None:
    links = edge.json("inspect", "flow", "--for", "2")["links"]

    known = {(link["from"], link["to"], link["kind"]): link for link in links}
    hello = known[("hub", "agent", "Hello")]
    assert (hello["process"], hello["failed"]) == ("agent", 0)
    assert 0.3 <= hello["per_s"] <= 2.0  # one a second
    assert hello["waited_p99_ms"] > 0
    assert any(link["process"] == "hub" for link in links)


@pytest.mark.parametrize(
    "arguments",
    [("tap", "--json"), ("actors", "--watch", "--json"), ("flow", "--watch", "--for", "1", "--json")],
)
def test_ctrl_c_ends_it_at_once(edge: EdgeProgram, arguments: tuple[str, ...]) -> None:
    with inspecting(edge, *arguments) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())

        process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        code = process.wait(LIMIT_S)

        assert code == 130
        assert time.monotonic() - began_s < 5.0
        assert "Traceback" not in process.communicate()[1]


@pytest.mark.slow
def test_one_that_was_stopped_is_told_how_many_it_missed_and_one_that_was_killed_costs_nothing(
    edge: EdgeProgram, client: Client
) -> None:
    arguments = ("tap", "--json", "--kind", "TraceRouting")
    asleep = f"has not read its tap for {LEASE_S:g} s"
    before = hub_log(edge).count(asleep)
    with inspecting(edge, *arguments) as killed, inspecting(edge, *arguments) as stopped:
        for process in (killed, stopped):
            wait_until_tapped(process)
        killed.kill()
        stopped.send_signal(signal.SIGSTOP)
        for _ in range(30):
            client.ask(ROUTER, TraceRouting("x"), Hops, LIMIT_S)
        wait_until(lambda: hub_log(edge).count(asleep) == before + 2, "the hub has noticed", 2 * LIMIT_S)
        for _ in range(30):
            client.ask(ROUTER, TraceRouting("x"), Hops, LIMIT_S)

        stopped.send_signal(signal.SIGCONT)
        assert stopped.stdout is not None
        missed = json.loads(stopped.stdout.readline())
        client.ask(ROUTER, TraceRouting("last"), Hops, LIMIT_S)
        last = json.loads(stopped.stdout.readline())

    assert missed == {"missed": 60, "process": "hub"}
    assert last["message"] == {"message_id": "last"}
    assert all(actor["failures"] == 0 for actor in edge.json("inspect", "actors")["actors"])


def test_an_inspector_that_shows_nothing_holds_up_nobody_and_is_told_what_it_missed(
    edge: EdgeProgram, client: Client
) -> None:
    pid = hub_pid(edge)
    with inspecting(edge, "tap", "--json", "--kind", "TraceRouting") as process:
        wait_until_tapped(process)
        before = resident_bytes(pid)
        for number in range(1, CARGOES + 1):  # its output is a pipe that nobody reads, and soon full
            cargo = TraceRouting("x" * CARGO_BYTES)
            if number % CARGOES_AT_ONCE:
                client._bus.send(ROUTER, cargo, sender="")
            else:  # a busy hub would have all of them in its mailbox, which is no fault of the tap's
                client.ask(ROUTER, cargo, Hops, LIMIT_S)
        client.ask(ROUTER, TraceRouting("last"), Hops, LIMIT_S)
        grown = resident_bytes(pid) - before

        assert process.stdout is not None
        shown = missed = 0
        for line in process.stdout:
            one = json.loads(line)
            missed += one.get("missed", 0)
            shown += "missed" not in one
            if shown + missed == CARGOES + 1:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130

    assert shown + missed == CARGOES + 1
    assert missed > CARGOES / 2
    assert grown < CARGOES * CARGO_BYTES / 2


def test_a_tap_goes_on_when_the_hub_was_killed(edge: EdgeProgram) -> None:
    pid = hub_pid(edge)
    with inspecting(edge, "tap", "--json", "--to", "hub/*") as process:
        wait_until_tapped(process)
        assert process.stdout is not None

        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: edge.modules()["edgeHub"]["pid"] not in (0, pid), "there is another hub")

        back_s = time.time()
        lines = map(json.loads, process.stdout)
        assert any(one.get("process") == "hub" and from_iso(one.get("at", NEVER)) > back_s for one in lines)
    edge.wait_for_modules("running", {"edgeHub", "sensor", "filter"})


def test_a_recording_has_no_secret_of_the_edge(edge: EdgeProgram, tmp_path: Path) -> None:
    file = tmp_path / "recording"
    with inspecting(edge, "record", str(file), "--json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "note: recording agent and hub\n"
        edge.run("restart", "sensor")  # it shows its token when it connects
        wait_until(lambda: '"Authenticate"' in file.read_text(), "the module is back")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=LIMIT_S)

    content = file.read_text()
    assert json.loads(out)["envelopes"] == content.count("\n") - 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kinds = {json.loads(line).get("kind") for line in content.splitlines()}
    assert "Authenticate" in kinds
    assert '{"$secret": "***"}' in content
    keys = [
        key
        for one in KeyStore.open(Home(edge.home).keys).identities()
        for key in (one.primary_key, one.secondary_key)
    ]
    assert any(keys)
    for key in filter(None, keys):
        assert base64.b64encode(key).decode() not in content
    assert "sig=" not in content.replace("sig=******", "")


def test_a_dead_letter_is_listed_shown_and_sent_again(edge: EdgeProgram, client: Client) -> None:
    def letters() -> list[dict[str, object]]:
        found = client.ask(HUB, ListDeadLetters(), DeadLetterList, LIMIT_S).letters
        return [letter for letter in found if letter["kind"] == "TraceRouting"]

    sent = edge.json("inspect", "send", "hub/mqtt", "TraceRouting", '{"message_id": "x"}')
    wait_until(lambda: len(letters()) == 1, "what the head does not understand is a dead letter")
    listed = edge.json("inspect", "dead-letters")["letters"]
    number = next(letter["number"] for letter in listed if letter["kind"] == "TraceRouting")
    shown = edge.json("inspect", "dead-letters", "show", number)
    edge.json("inspect", "dead-letters", "replay", number)

    assert sent["to"] == "hub/mqtt"
    assert shown["reason"] == "MqttHead does not understand TraceRouting"
    assert shown["envelope"]["id"] == sent["id"]
    wait_until(lambda: len(letters()) == 2, "it is one once more")


def test_recorded_messages_are_sent_again_in_their_order(
    edge: EdgeProgram, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "recording"
    asked = [f"m{number}" for number in range(40)]
    with inspecting(edge, "record", str(file), "--kind", "TraceRouting", "--count", "40") as record:
        assert record.stderr is not None
        assert record.stderr.readline() == "note: recording agent and hub\n"
        for message_id in asked:
            client.tell(ROUTER, TraceRouting(message_id))
        said, _ = record.communicate(timeout=LIMIT_S)
    with inspecting(edge, "tap", "--json", "--kind", "TraceRouting") as process:
        wait_until_tapped(process)
        assert process.stdout is not None

        replayed = edge.run("inspect", "replay", str(file), "--speed", "0")
        came = [json.loads(process.stdout.readline())["message"]["message_id"] for _ in asked]

    assert said == f"40 envelopes in {file}, 0 missed\n"
    assert replayed.stdout == "40 sent\n"
    assert came == asked


def test_without_the_permission_the_edge_is_shown_and_not_disturbed(tmp_path: Path) -> None:
    bare = json.loads(SAMPLE.read_text())
    bare["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"] = {}
    deployment = tmp_path / "bare.json"
    deployment.write_text(json.dumps(bare))
    edge = EdgeProgram(tmp_path / "home")
    try:
        edge.start_without_waiting(deployment=deployment)
        edge.wait_for_modules("running", {"edgeAgent", "edgeHub"})

        assert "allow-faults" not in edge.run("list").stdout
        processes = edge.json("inspect", "actors")["processes"]
        assert [process["allows_faults"] for process in processes] == [False, False]
        sent = edge.run("inspect", "send", "hub/router", "TraceRouting", '{"message_id": "x"}')
        assert (sent.returncode, sent.stdout, sent.stderr) == (2, "", f"error: {NOT_ALLOWED}\n")
        # Nor does the edge itself believe a command line that leaves the question out.
        with (
            Client.outside(RunDirectory.of(edge.home).path) as client,
            pytest.raises(RequestRefused, match="without --allow-faults"),
        ):
            client.ask(INSPECTOR, SendMessage("hub/router", "TraceRouting", {}), MessageSent)
    finally:
        edge.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_learns_that_it_is_not_his_edge(edge: EdgeProgram) -> None:
    program = """
import os, sys
from runtime.cli.main import invoke
invoke(["inspect", "actors", "--home", "/nonexistent"])  # so that all is imported that this user may not read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.environ.pop("XDG_RUNTIME_DIR", None)
sys.exit(invoke(["inspect", "actors", "--home", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(edge.home)],
        env=edge.environment | {"HOME": "/"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] in (
        f"error: home {edge.home} belongs to user root; an edge is inspected by the user that it runs as "
        "alone: run this as that user, `sudo -u root edge-actors inspect …`",
        f"error: home {edge.home} is closed to user nobody; an edge is inspected by the user that it runs as "
        "alone: run this as that user",
    )
