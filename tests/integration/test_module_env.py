"""A module that runs by hand: `edge-actors module-env`."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.edge_program import PROGRAM, EdgeProgram
from tests.waiting import LIMIT_S, wait_until

# What a developer has under his debugger: the unmodified SDK.
BY_HAND = """
import sys
from azure.iot.device import IoTHubModuleClient
client = IoTHubModuleClient.create_from_edge_environment()
client.connect()
client.send_message_to_output("sent by hand", "filteredOutput")
client.shutdown()
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProgram]:
    made = EdgeProgram(tmp_path_factory.mktemp("ea") / "home")
    made.start()
    yield made
    made.close()


@pytest.fixture
def held(edge: EdgeProgram) -> Iterator[subprocess.Popen[str]]:
    """`module-env filter --json` in the foreground."""
    command = [*PROGRAM, "module-env", "filter", "--json"]
    process = subprocess.Popen(
        command, env=edge.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def told(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the environment that is printed first."""
    assert process.stdout is not None
    text = ""
    while line := process.stdout.readline():
        text += line
        if line == "}\n":
            break
    return dict(json.loads(text)["environment"])


def socket_of(environment: dict[str, str]) -> Path:
    return Path(environment["IOTEDGE_WORKLOADURI"].removeprefix("unix://"))


def test_a_module_by_hand_takes_over_with_the_unmodified_sdk(edge: EdgeProgram) -> None:
    before = edge.modules()["filter"]["pid"]
    log = edge.home / "logs" / "edge-actors.log"

    done = edge.run("module-env", "filter", "--take-over", "--", sys.executable, "-c", BY_HAND, "7")

    assert done.returncode == 7, done.stderr
    said = done.stderr.splitlines()
    assert (said[0], said[-1]) == ("filter is stopped, until this ends", "filter is running again")
    assert done.stdout == ""
    edge.wait_for_modules("running", {"filter"})
    assert edge.modules()["filter"]["pid"] != before
    assert "module filter stopped" in log.read_text()
    upstream = edge.home / "upstream.jsonl"
    body = base64.b64encode(b"sent by hand").decode()
    wait_until(lambda: body in upstream.read_text(), "its message is upstream")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_its_socket_is_private_and_gone_with_the_command(
    held: subprocess.Popen[str], number: signal.Signals
) -> None:
    path = socket_of(told(held))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_uid == os.geteuid()
    held.send_signal(number)
    assert held.wait(LIMIT_S) == (-9 if number == signal.SIGKILL else 0)
    wait_until(lambda: not path.parent.exists(), "the socket is gone")


def test_another_program_of_the_user_runs_as_the_module(
    edge: EdgeProgram, held: subprocess.Popen[str]
) -> None:
    environment = os.environ | told(held)

    done = subprocess.run(
        [sys.executable, "-c", BY_HAND, "0"],
        env=environment,
        timeout=LIMIT_S,
        check=False,
        capture_output=True,
    )

    assert done.returncode == 0, done.stderr


def test_keys_are_shown_only_when_asked_for(edge: EdgeProgram) -> None:
    key = edge.json("identity", "show", "filter")["primaryKey"]
    show = ("module-env", "filter", "--", "env")

    plain = edge.run(*show)
    secret = edge.run("module-env", "filter", "--show-secrets", "--", "env")

    assert "IOTEDGE_MODULEID=filter" in plain.stdout
    assert "filter runs too" in plain.stderr
    assert key not in plain.stdout + plain.stderr
    assert f"SharedAccessKey={key};GatewayHostName={edge.address}" in secret.stdout
    assert re.search(r"^EdgeModuleCACertificateFile=/.*/ca.pem$", secret.stdout, re.M)


def test_the_environment_is_printed_for_a_shell(edge: EdgeProgram) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "module-env", "sensor"],
        env=edge.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(8)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)

    assert all(re.fullmatch(r"export IOTEDGE_[A-Z]+=\S+\n", line) for line in lines), lines
    assert "export IOTEDGE_MODULEID=sensor\n" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("filtr",), "there is no module 'filtr'; did you mean 'filter'?"),
        (("edgeHub",), "there is no module 'edgeHub'; there are filter, sensor"),
        (
            ("filter", "--take-over", "--", "no-such-program"),
            "command 'no-such-program' not found or not executable; give its path after `--`",
        ),
    ],
    ids=["typing error", "edgeHub", "no such command"],
)
def test_a_mistake_is_told_and_nothing_is_stopped(
    edge: EdgeProgram, arguments: tuple[str, ...], message: str
) -> None:
    before = edge.modules()["filter"]["pid"]

    done = edge.run("module-env", *arguments)

    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert edge.modules()["filter"]["pid"] == before


def test_the_end_of_the_edge_is_told(tmp_path: Path) -> None:
    edge = EdgeProgram(tmp_path / "home")
    try:
        edge.start()
        process = subprocess.Popen(
            [*PROGRAM, "module-env", "filter", "--json"],
            env=edge.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        told(process)
        assert edge.process is not None
        edge.process.send_signal(signal.SIGTERM)
        edge.wait()
        _, errors = process.communicate(timeout=LIMIT_S)
    finally:
        edge.close()

    assert process.returncode == 1
    assert f"error: the edge on home {edge.home} ended, and the workload socket with it" in errors
