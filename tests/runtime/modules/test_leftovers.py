import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.machine import process_table
from runtime.modules.leftovers import EndedProcess, end_edge
from runtime.modules.process_runtime import RUN_MARKER
from runtime.run_directory import AGENT, Lock, RunDirectory
from tests.runtime.module_processes import LIMIT_S, ROOT, Workshop, lives

AGENT_PROGRAM = """
import json, signal, sys
from pathlib import Path
from runtime.modules.process_module import ProcessSpec
from runtime.modules.process_runtime import ProcessRuntime
from runtime.run_directory import AGENT, Lock, RunDirectory

home, folder, path, on_sigterm, *scripts = sys.argv[1:]
signal.signal(signal.SIGTERM, signal.SIG_IGN if on_sigterm == "ignore" else signal.SIG_DFL)
run = RunDirectory.of(Path(home))
run.prepare()
Lock(run, AGENT).acquire()
runtime = ProcessRuntime(run)
def start(number, script):
    spec = ProcessSpec(f"m{number}", ("sh", "-c", script), {"PATH": path}, Path(folder), Path(folder) / "log")
    def again(exited):
        start(number, script)
    return runtime.start(spec, again).pid
print(json.dumps([start(number, script) for number, script in enumerate(scripts)]), flush=True)
while True:
    signal.pause()
"""
WAIT = "echo ready >pipe; exec sleep 60"
STUBBORN = f"trap '' TERM; {WAIT}"
WITH_DAEMON = f"setsid sleep 60 & {WAIT}"


class Edge:
    """An agent process with modules, one per script; it restarts them whenever they end."""

    def __init__(self, home: Path, workshop: Workshop, *scripts: str, on_sigterm: str = "end") -> None:
        self.run = RunDirectory.of(home)
        self.agent = subprocess.Popen(
            [
                *(sys.executable, "-c", AGENT_PROGRAM, str(home), str(workshop.folder), os.environ["PATH"]),
                *(on_sigterm, *scripts),
            ],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.agent.stdout is not None
        self.modules: list[int] = json.loads(self.agent.stdout.readline())
        self.agent.stdout.close()
        for _ in scripts:
            workshop.line()

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()

    def processes(self) -> list[process_table.ProcessStat]:
        return process_table.find({RUN_MARKER: str(self.run.path)})

    def clean_up(self) -> None:
        self.kill_agent()
        process_table.signal_and_wait(self.processes(), signal.SIGKILL, limit_s=5)
        shutil.rmtree(self.run.path, ignore_errors=True)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.close()


@pytest.fixture
def edges() -> Iterator[list[Edge]]:
    edges: list[Edge] = []
    yield edges
    for edge in edges:
        edge.clean_up()


def named(ended: list[EndedProcess]) -> list[tuple[str, bool]]:
    return sorted((process.name, process.killed) for process in ended)


def test_a_running_edge_is_ended_with_its_agent_first(edges, workshop, tmp_path) -> None:
    edge = Edge(tmp_path / "home", workshop, WAIT, WITH_DAEMON)
    edges.append(edge)

    ended = end_edge(edge.run, grace_s=LIMIT_S)

    assert named(ended) == [("agent", False), ("m0", False), ("m1", False), ("m1", False)]
    assert ended[0].pid == edge.agent.pid
    assert set(edge.modules) < {process.pid for process in ended}
    assert edge.agent.wait(LIMIT_S) == -signal.SIGTERM
    assert edge.processes() == []
    assert not edge.run.path.exists()


def test_after_kill_9_of_the_agent_its_modules_are_found(edges, workshop, tmp_path) -> None:
    edge = Edge(tmp_path / "home", workshop, WAIT)
    edges.append(edge)
    edge.kill_agent()

    ended = end_edge(edge.run, grace_s=LIMIT_S)

    assert [(process.pid, process.name) for process in ended] == [(edge.modules[0], "m0")]
    assert ended[0].command == "sleep 60"
    assert edge.processes() == []


def test_processes_are_found_when_home_and_run_directory_are_gone(edges, workshop, tmp_path) -> None:
    (tmp_path / "home").mkdir()
    edge = Edge(tmp_path / "home", workshop, WITH_DAEMON)
    edges.append(edge)
    edge.kill_agent()
    (tmp_path / "home").rmdir()
    edge.run.remove()

    ended = end_edge(edge.run, grace_s=LIMIT_S)

    assert named(ended) == [("m0", False), ("m0", False)]
    assert edge.processes() == []


def test_who_ignores_sigterm_is_killed_after_the_grace(edges, workshop, tmp_path) -> None:
    edge = Edge(tmp_path / "home", workshop, STUBBORN, on_sigterm="ignore")
    edges.append(edge)
    began_s = time.monotonic()

    ended = end_edge(edge.run, grace_s=0.1)

    assert time.monotonic() - began_s >= 0.2
    assert named(ended) == [("agent", True), ("m0", True)]
    assert edge.processes() == []


def test_a_process_that_cleared_its_environment_is_found_by_its_session(edges, workshop, tmp_path) -> None:
    edge = Edge(tmp_path / "home", workshop, f"exec env -i PATH=$PATH sh -c '{WAIT}'")
    edges.append(edge)
    edge.kill_agent()

    ended = end_edge(edge.run, grace_s=LIMIT_S)

    assert [(process.pid, process.name) for process in ended] == [(edge.modules[0], "m0")]
    assert not lives(edge.modules[0])


def test_another_edge_is_not_touched(edges, workshop, tmp_path) -> None:
    ours = Edge(tmp_path / "home", workshop, WITH_DAEMON)
    other = Edge(tmp_path / "other", workshop, WITH_DAEMON)
    edges.extend([ours, other])
    before = {process.pid for process in other.processes()}

    end_edge(ours.run, grace_s=LIMIT_S)

    assert {process.pid for process in other.processes()} == before
    assert len(before) == 3
    assert other.agent.poll() is None
    assert Lock(other.run, AGENT).holder() is not None


def test_nothing_left_is_nothing_to_report(tmp_path) -> None:
    run = RunDirectory.of(tmp_path / "home")

    assert end_edge(run, grace_s=LIMIT_S) == []
    assert not run.path.exists()


def test_sockets_and_stale_files_are_removed(tmp_path) -> None:
    run = RunDirectory.of(tmp_path / "home")
    run.prepare()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run.path / "router.ipc"))
    (run.path / "agent.lock").write_text("garbage")
    (run.modules / "temp").mkdir(parents=True)
    (run.modules / "temp" / "started").write_text("garbage")

    assert end_edge(run, grace_s=LIMIT_S) == []
    assert not run.path.exists()


def test_the_caller_and_its_parents_are_spared(tmp_path) -> None:
    run = RunDirectory.of(tmp_path / "home")
    run.prepare()
    program = (
        "import sys; from pathlib import Path; from runtime.modules.leftovers import end_edge\n"
        "from runtime.run_directory import RunDirectory\n"
        "print([p.name for p in end_edge(RunDirectory.of(Path(sys.argv[1])), 5)])"
    )
    script = 'sleep 60 >/dev/null & "$@"; echo "then $?"'

    called = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", program, str(run.home)],
        env=os.environ | {RUN_MARKER: str(run.path), "EDGE_ACTORS_MODULE": "console"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert called.stdout == "['console']\nthen 0\n"


def test_a_run_directory_that_others_could_have_made_is_not_believed(tmp_path) -> None:
    run = RunDirectory.of(tmp_path / "home")
    run.prepare()
    victim = subprocess.Popen(["sleep", "60"])
    stat = process_table.read_stat(victim.pid)
    assert stat is not None
    (run.path / "agent.lock").write_text(
        json.dumps(
            {
                "pid": victim.pid,
                "start_ticks": stat.start_ticks,
                "boot_id": process_table.boot_id(),
                "started_at_s": 0.0,
                "command": "sleep",
            }
        )
    )
    run.path.chmod(0o777)

    with pytest.raises(EnvironmentFault, match="open to other users"):
        end_edge(run, grace_s=0)

    assert victim.poll() is None
    victim.kill()
    victim.wait()
    run.path.chmod(0o700)
    run.remove()


def test_an_edge_with_the_same_checksum_is_not_ended(tmp_path) -> None:
    run = RunDirectory.of(tmp_path / "home")
    run.prepare()
    namesake = RunDirectory(run.path, Path("/somewhere/else"))

    with pytest.raises(EnvironmentFault, match=f"taken by home {run.home}"):
        end_edge(namesake, grace_s=0)

    run.remove()
