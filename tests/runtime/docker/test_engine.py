from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from messaging.errors import ConfigError, EngineAway
from runtime.docker.engine import (
    ContainerDied,
    ContainerHealth,
    DockerEngine,
    away_reason,
    engine_socket,
    parse_event,
)

ROOT = Path(__file__).parents[3]
LIMIT_S = 10.0
ID = "5f" * 32
DIED = {
    "Type": "container",
    "Action": "die",
    "Actor": {"ID": ID, "Attributes": {"net.edge-actors.module": "pump", "exitCode": "137"}},
    "timeNano": 1_700_000_000_500_000_000,
}


def test_an_end_of_a_container_is_read_from_the_event_stream() -> None:
    assert parse_event(json.dumps(DIED).encode()) == ContainerDied(ID, "pump", 137, 1_700_000_000.5)


@pytest.mark.parametrize("healthy", [True, False])
def test_what_its_healthcheck_says_is_read_from_the_event_stream(healthy: bool) -> None:
    event = DIED | {"Action": f"health_status: {'healthy' if healthy else 'unhealthy'}"}

    assert parse_event(json.dumps(event).encode()) == ContainerHealth(ID, "pump", healthy, 1_700_000_000.5)


@pytest.mark.parametrize(
    "event",
    [
        DIED | {"Action": "start"},
        DIED | {"Action": None},
        DIED | {"Type": "network"},
        DIED | {"Actor": {"ID": ID, "Attributes": {}}},
        DIED | {"Actor": {"ID": ID, "Attributes": {"net.edge-actors.module": "pump", "exitCode": "x"}}},
        {},
        [],
        7,
        "",
    ],
    ids=[
        "another action",
        "no action",
        "another thing",
        "not of a module",
        "odd code",
        "empty",
        "list",
        "number",
        "text",
    ],
)
def test_what_is_no_news_of_a_module_is_passed_over(event: Any) -> None:
    assert parse_event(json.dumps(event).encode()) is None


def test_half_a_line_is_no_event() -> None:
    assert parse_event(json.dumps(DIED).encode()[:-1]) is None


@pytest.mark.parametrize(
    ("docker_host", "path"),
    [(None, "/var/run/docker.sock"), ("", "/var/run/docker.sock"), ("unix:///a/b.sock", "/a/b.sock")],
)
def test_the_socket_of_the_engine(docker_host: str | None, path: str) -> None:
    assert engine_socket(docker_host) == path


@pytest.mark.parametrize("docker_host", ["tcp://10.0.0.1:2375", "ssh://me@there", "docker.sock"])
def test_an_engine_on_another_machine_is_refused(docker_host: str) -> None:
    with pytest.raises(ConfigError, match=r"DOCKER_HOST: .*; unset it"):
        engine_socket(docker_host)


def test_who_is_not_there_is_named_with_the_way_out(run_dir: Path) -> None:
    path = str(run_dir / "docker.sock")
    missing = away_reason(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    refused = away_reason(path)

    assert missing is not None
    assert refused is not None
    assert f"there is no Docker Engine at {path}" in missing
    assert "apt-get install docker.io" in missing
    assert f"Docker Engine at {path} does not run; start it" in refused


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user")
def test_an_engine_that_this_user_may_not_use_is_told(run_dir: Path) -> None:
    path = run_dir / "docker.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        engine.listen()
        path.chmod(0o600)
        run_dir.chmod(0o755)
        code = (
            f"import os; from runtime.docker.engine import away_reason; os.seteuid(65534); "
            f"print(away_reason({str(path)!r}))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )

    assert f"Docker Engine at {path} may not be used by this user" in said.stdout
    assert "usermod -aG docker" in said.stdout


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(b"HTTP/1.0 200 OK\r\n\r\nOK", None), (b"", "did not answer"), (b"SSH-2.0\r\n", "did not answer")],
    ids=["an engine", "one that hangs up", "somebody else"],
)
def test_only_who_answers_a_ping_is_there(run_dir: Path, reply: bytes, expected: str | None) -> None:
    path = str(run_dir / "docker.sock")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(path)
        engine.listen()

        def serve() -> None:
            connection, _ = engine.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        reason = away_reason(path)
        thread.join(LIMIT_S)

    assert reason == expected or (reason is not None and expected is not None and expected in reason)


def test_an_engine_that_hangs_is_away_within_a_moment(run_dir: Path) -> None:
    path = str(run_dir / "docker.sock")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(path)
        engine.listen()  # and takes nothing

        began_s = time.monotonic()
        reason = away_reason(path)

    assert reason is not None
    assert "did not answer" in reason
    assert time.monotonic() - began_s < 4.0


def test_an_engine_that_is_away_is_told_once_and_costs_no_package(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os, sys, threading
from messaging.errors import EngineAway
from runtime.docker.engine import DockerEngine
away = threading.Event()
engine = DockerEngine("0a1b2c3d", on_event=print, on_away=away.set, on_back=lambda: None)
try:
    with engine.calls():
        pass
except EngineAway as exc:
    print(exc)
assert away.wait(10)
engine.close()
print([name for name in sys.modules if name.split(".")[0] in ("docker", "requests")])
"""
    environment = {**os.environ, "DOCKER_HOST": f"unix://{run_dir}/docker.sock"}

    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    assert "there is no Docker Engine" in said.stdout
    assert said.stdout.splitlines()[-1] == "[]"


def test_an_engine_that_speaks_something_else_counts_as_away(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(run_dir / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()

        def hang_up() -> None:
            try:
                while True:
                    other.accept()[0].close()
            except OSError:
                pass  # closed by the test

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        engine = DockerEngine("x", on_event=lambda _: None, on_away=lambda: None, on_back=lambda: None)
        with pytest.raises(EngineAway, match="did not answer"), engine.calls() as client:
            client.ping()
        engine.close()
        other.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT_S)
