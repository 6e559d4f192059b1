import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.cli.conftest import EdgeActors


@pytest.fixture
def log(home: Path) -> Path:
    (home / "logs").mkdir(parents=True)
    path = home / "logs" / "sensor.log"
    path.write_bytes(b"one\ntwo\nthr\xffee\n")
    (home / "logs" / "edge-actors.log").write_bytes(b"agent line\n")
    (home / "logs" / "edgeHub.log").write_bytes(b"hub line\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["sensor"], "one\ntwo\nthr\udcffee\n"),
        (["sensor", "--tail", "2"], "two\nthr\udcffee\n"),
        (["sensor", "--tail", "0"], ""),
        (["edgeAgent"], "agent line\n"),
        (["edgeHub"], "hub line\n"),
    ],
)
def test_a_log_is_shown_as_it_was_written(
    arguments: list[str], out: str, log: Path, edge_actors: EdgeActors
) -> None:
    assert edge_actors("logs", *arguments).out == out


def test_with_json_each_line_is_an_object(log: Path, edge_actors: EdgeActors) -> None:
    lines = [json.loads(line) for line in edge_actors("logs", "sensor", "--json").out.splitlines()]

    assert lines == [{"name": "sensor", "line": line} for line in ("one", "two", "thr\ufffdee")]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sensr", "; did you mean 'sensor'?"),
        ("zzz", "; there are edgeAgent, edgeHub, sensor"),
        ("../device", "; there are edgeAgent, edgeHub, sensor"),
    ],
)
def test_an_unknown_name_gets_the_nearest_or_all(
    name: str, hint: str, log: Path, edge_actors: EdgeActors
) -> None:
    told = edge_actors("logs", name)

    assert told.code == 2
    assert told.err == f"error: there is no log of a module {name!r}{hint}\n"


def test_a_home_without_logs_says_so(home: Path, edge_actors: EdgeActors) -> None:
    told = edge_actors("logs", "sensor")

    assert told.code == 1
    assert told.err.startswith(f"error: home {home} has no logs; was an edge run with it?")


def test_following_shows_new_lines_until_ctrl_c(log: Path, home: Path) -> None:
    program = [sys.executable, "-m", "runtime.cli.main", "logs", "sensor", "-f", "--tail", "1"]
    with subprocess.Popen(
        [*program, "--home", str(home)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == b"thr\xffee\n"
            with open(log, "ab") as file:
                file.write(b"four\n")

            assert process.stdout.readline() == b"four\n"

            os.kill(process.pid, signal.SIGINT)
            assert process.wait(10) == 130
            assert process.stderr.read() == b""
        finally:
            process.kill()
