"""`edge-actors system status` and `system logs` with edges that run, are stopped, and have died."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.edge_program import PROGRAM, EdgeProgram


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path / "home")
    yield edge
    edge.close()


def states(edge: EdgeProgram) -> dict[str, str]:
    done = edge.run("system", "status")
    lines = done.stdout.splitlines()
    assert lines[0] == "System services:"
    assert lines[-2].startswith("Use 'edge-actors system logs'")
    assert lines[-1].startswith("Use 'edge-actors check'")
    found = {}
    for line in lines[1:]:
        if not line:
            break
        assert line.startswith("    ")
        found[line[4:28].strip()] = line[28:]
    bad = any(state.startswith("Down") for state in found.values())
    assert done.returncode == (1 if bad else 0)
    return found


def test_the_parts_of_an_edge_that_runs_and_dies_are_told(edge: EdgeProgram) -> None:
    edge.start()
    assert states(edge) == dict.fromkeys(("edgeAgent", "edgeHub", "edgeCloud"), "Running")

    edge.run("stop", "edgeHub")
    assert states(edge)["edgeHub"].startswith("Down - stopped: stopped by hand")
    edge.run("start", "edgeHub")

    assert edge.process is not None
    edge.process.kill()
    edge.wait()
    found = states(edge)
    assert found["edgeAgent"] == "Down - not running"
    assert re.fullmatch(r"Running \(pid \d+\), without its agent", found["edgeHub"])


def test_a_stopped_edge_is_down_with_its_last_lines(edge: EdgeProgram) -> None:
    edge.run_for_a_message()

    assert set(states(edge).values()) == {"Down - not running"}
    listed = edge.run("system", "status", "--json")
    assert '"stopped' not in listed.stdout
    told = edge.run("system", "status").stdout
    assert "Last lines of the log of edgeAgent:" in told
    assert " has stopped" in told


def test_logs_of_all_parts_are_one_in_order_of_time(edge: EdgeProgram) -> None:
    edge.run_for_a_message()

    lines = edge.run("system", "logs").stdout.splitlines()

    assert {line.split()[0] for line in lines} >= {"edgeAgent", "edgeHub"}
    times = [found[1] for line in lines if (found := re.match(r"\w+ +<\d> (20\S+ \S+) \+00:00 ", line))]
    assert len(times) > 5
    assert times == sorted(times)
    assert edge.run("system", "logs", "--tail", "3").stdout.splitlines() == lines[-3:]
    assert edge.run("system", "logs", "--since", "1h").stdout.splitlines() == lines
    assert edge.run("system", "logs", "--since", "soon").returncode == 2


def test_followed_logs_go_on(edge: EdgeProgram) -> None:
    edge.start()
    following = subprocess.Popen(
        [*PROGRAM, "system", "logs", "-f", "--tail", "1"],
        env=edge.environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    try:
        following.stdout.readline()
        edge.run("restart", "sensor")
        while "module sensor started" not in following.stdout.readline():
            assert following.poll() is None
    finally:
        following.kill()
        following.wait()
        following.stdout.close()


def test_a_home_without_logs_says_so(edge: EdgeProgram) -> None:
    done = edge.run("system", "logs")

    assert done.returncode == 1
    assert "has no logs; was an edge run with it?" in done.stderr
    assert os.path.exists(edge.home) is False
