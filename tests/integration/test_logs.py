"""The logs of an edge that runs: no secret at any level, one format for all processes, levels that change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.exceptions import ClientError

from tests.integration.edge_program import SAMPLE, EdgeProgram
from tests.waiting import wait_until

PROCESSES = ("edgeAgent", "edgeCloud", "edgeHub")
TEXT_LINE = re.compile(
    r"<[0-7]> \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+00:00 \[[A-Z]{3}\] (\[[\w.]+\] )?- \S|    "
)
KEY = re.compile(rb"[A-Za-z0-9+/]{43}=")
MARK = "body-nobody-may-see"
WRONG_KEY = "d3JvbmdrZXl3cm9uZ2tleXdyb25na2V5d3Jvbmdrew=="


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    made = EdgeProgram(tmp_path / "home")
    yield made
    made.close()


def log_of(edge: EdgeProgram, process: str) -> str:
    name = "edge-actors" if process == "edgeAgent" else process
    return (edge.home / "logs" / f"{name}.log").read_text()


def secrets_of(edge: EdgeProgram) -> set[str]:
    """Return all that looks like a key in what the edge and its IoT Hub keep."""
    found: set[str] = set()
    for path in edge.home.rglob("*"):
        if path.is_file() and path.parent.name != "logs":
            content = path.read_bytes()
            found |= {key.decode() for key in KEY.findall(content)}
            if b"PRIVATE KEY" in content:
                found |= {line for line in content.decode("latin-1").splitlines() if len(line) == 64}
    return found


def use_all_of_it(edge: EdgeProgram, folder: Path) -> None:
    """Have a device connect, with its key and a wrong one; send a body each way, a twin, a method."""
    edge.run("identity", "create", "thermostat", "--out", str(folder))
    string = (folder / "connection-string.txt").read_text().strip()
    wrong = re.sub("SharedAccessKey=[^;]*", f"SharedAccessKey={WRONG_KEY}", string)
    ca = (folder / "ca.pem").read_text()
    refused = IoTHubDeviceClient.create_from_connection_string(
        wrong, server_verification_cert=ca, connection_retry=False
    )
    with pytest.raises(ClientError):
        refused.connect()
    refused.shutdown()
    client = IoTHubDeviceClient.create_from_connection_string(string, server_verification_cert=ca)
    came: list[bytes] = []
    client.on_message_received = lambda message: came.append(message.data)
    client.connect()
    client.send_message(f'{{"x": "{MARK}"}}')
    client.patch_twin_reported_properties({"x": MARK})
    assert edge.run("cloud", "send", "thermostat", MARK).returncode == 0
    wait_until(lambda: bool(came), "a message of the cloud")
    client.shutdown()
    device = json.loads((edge.home / "provisioned.json").read_text())["deviceId"]
    edge.run("cloud", "twin", "set", device, "--module", "filter", f"mark={MARK}")
    called = edge.run("cloud", "method", device, "count", "--module", "filter", "--payload", f'"{MARK}"')
    assert called.returncode == 0, called.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_log_at_debug_has_a_key_a_token_or_a_body(
    edge: EdgeProgram, tmp_path: Path, log_format: str
) -> None:
    edge.environment |= {"EDGE_ACTORS_LOG_LEVEL": "debug", "EDGE_ACTORS_LOG_FORMAT": log_format}
    edge.start()
    edge.wait_for_modules("running", set(PROCESSES))

    use_all_of_it(edge, tmp_path / "files")

    secrets = secrets_of(edge)
    assert len(secrets) > 10
    edge.stop()
    for process in PROCESSES:
        log = log_of(edge, process)
        assert len(log.splitlines()) > 5
        assert [secret for secret in (*secrets, WRONG_KEY, MARK) if secret in log] == []
        assert not re.search(r"sig=|SharedAccessKey=|PRIVATE KEY|\*\*\*", log)
        for line in log.splitlines():
            if log_format == "json":
                values = json.loads(line)
                assert {"at", "level", "process", "logger", "message"} <= values.keys()
                assert values["process"] == process
            else:
                assert TEXT_LINE.match(line), line


@pytest.mark.slow
def test_a_run_that_goes_well_has_nothing_for_each_message(edge: EdgeProgram) -> None:
    edge.start(deployment=SAMPLE.with_name("faster.json"))
    received = "received "
    wait_until(lambda: received in edge.run("ledger").stdout, "messages")
    before = {process: log_of(edge, process) for process in PROCESSES}
    taken = edge.home / "upstream.jsonl"
    start = taken.read_bytes().count(b"\n") if taken.exists() else 0

    wait_until(lambda: taken.exists() and taken.read_bytes().count(b"\n") > start + 50, "50 more messages")

    for process in PROCESSES:
        more = log_of(edge, process).removeprefix(before[process])
        assert len(more.splitlines()) < 20, more


@pytest.mark.slow
def test_levels_change_while_it_runs_and_return_to_what_was_set(edge: EdgeProgram) -> None:
    edge.start()
    edge.wait_for_modules("running", set(PROCESSES))

    assert "did you mean 'actors.upstream'?" in edge.run("log-level", "info,actors.upstrem=debug").stderr
    assert edge.run("log-level", "warning,actors.upstream=debug").returncode == 0
    line = "log levels: warning,actors.upstream=debug"
    wait_until(lambda: all(line in log_of(edge, process) for process in PROCESSES), "all have heard")
    before = len(log_of(edge, "edgeHub"))
    edge.run("upstream", "off")
    edge.run("upstream", "on")
    shown = log_of(edge, "edgeHub")[before:]
    assert "[DBG] [actors.upstream.switchboard] - upstream: " in shown

    assert edge.json("log-level", "default") == {"levels": "default"}
    wait_until(
        lambda: all("log levels: info, as set" in log_of(edge, process) for process in PROCESSES),
        "all are as set",
    )
