"""What becomes of process modules when the agent that started them is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.machine import process_table
from runtime.modules.process_module import ModuleExit, RunningModule
from runtime.modules.process_runtime import ProcessRuntime
from runtime.run_directory import RunDirectory
from tests.runtime.module_processes import ROOT, Exits, Workshop, lives, wait_until_ended

AGENT = """
import json, sys
from msgspec.structs import asdict
from pathlib import Path
from runtime.modules.process_module import ProcessSpec
from runtime.modules.process_runtime import ProcessRuntime
from runtime.run_directory import RunDirectory

home, folder, name, script, path = sys.argv[1:]
run = RunDirectory.of(Path(home))
run.prepare()
runtime = ProcessRuntime(run)
spec = ProcessSpec(name, ("sh", "-c", script), {"PATH": path}, Path(folder), Path(folder) / "log")
print(json.dumps(asdict(runtime.start(spec, print))), flush=True)
sys.stdin.read()
"""
WAIT_FOR_GO = "echo ready >pipe; read -r code <go; exit $code"


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path)
    os.mkfifo(tmp_path / "go")
    yield workshop
    workshop.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory.of(tmp_path / "home")
    run.prepare()
    yield run
    process_table.signal_and_wait(
        process_table.find({"EDGE_ACTORS_RUN": str(run.path)}), signal.SIGKILL, limit_s=5
    )
    run.remove()


@pytest.fixture
def runtime(run: RunDirectory) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(run)
    yield runtime
    runtime.close()


def start_and_kill_agent(run: RunDirectory, workshop: Workshop, script: str) -> RunningModule:
    """Have an agent process start a module, wait for the module's report, then kill -9 the agent."""
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            AGENT,
            str(run.home),
            str(workshop.folder),
            "temp",
            script,
            os.environ["PATH"],
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert agent.stdout is not None
    module = RunningModule(**json.loads(agent.stdout.readline()))
    workshop.line()
    agent.kill()
    agent.communicate()
    return module


def test_a_module_outlives_its_agent_and_the_next_one_learns_its_exit_code(runtime, run, workshop) -> None:
    started = start_and_kill_agent(run, workshop, WAIT_FOR_GO)
    exits = Exits()

    adopted = runtime.adopt("temp", exits)

    assert adopted == started
    assert lives(started.pid)
    (workshop.folder / "go").write_text("6\n")
    exited = exits.next()
    assert (exited.exit_code, exited.signal, exited.started_at_s) == (6, None, started.started_at_s)


def test_an_adopted_module_that_is_killed_is_reported_with_its_signal(runtime, run, workshop) -> None:
    module = start_and_kill_agent(run, workshop, WAIT_FOR_GO)
    exits = Exits()
    runtime.adopt("temp", exits)

    os.kill(module.pid, signal.SIGKILL)

    assert exits.next().signal == signal.SIGKILL


def test_an_adopted_module_is_stopped_like_any_other(runtime, run, workshop) -> None:
    start_and_kill_agent(run, workshop, "trap '' TERM; setsid sleep 60 & " + WAIT_FOR_GO)
    exits = Exits()
    runtime.adopt("temp", exits)

    runtime.stop("temp", grace_s=0.05)

    assert exits.next().signal == signal.SIGKILL
    assert process_table.find({"EDGE_ACTORS_RUN": str(run.path)}) == []


def test_a_module_that_ended_while_no_agent_lived_gives_its_exit(runtime, run, workshop) -> None:
    module = start_and_kill_agent(run, workshop, "setsid sleep 60 & " + WAIT_FOR_GO)
    exits = Exits()
    (workshop.folder / "go").write_text("9\n")
    wait_until_ended(module.session_id)

    adopted = runtime.adopt("temp", exits)

    assert isinstance(adopted, ModuleExit)
    assert (adopted.name, adopted.exit_code, adopted.signal) == ("temp", 9, None)
    assert module.started_at_s == adopted.started_at_s <= adopted.ended_at_s <= time.time()
    assert process_table.find({"EDGE_ACTORS_RUN": str(run.path)}) == []
    assert exits.seen.empty()


def test_a_module_whose_shim_died_with_the_agent_is_ended_and_its_exit_is_unknown(
    runtime, run, workshop
) -> None:
    module = start_and_kill_agent(run, workshop, WAIT_FOR_GO)
    os.kill(module.session_id, signal.SIGKILL)
    wait_until_ended(module.session_id)

    adopted = runtime.adopt("temp", Exits())

    assert isinstance(adopted, ModuleExit)
    assert (adopted.exit_code, adopted.signal) == (None, None)
    assert not lives(module.pid)


def test_a_module_that_was_not_adopted_is_replaced_and_not_doubled(runtime, run, workshop) -> None:
    old = start_and_kill_agent(run, workshop, WAIT_FOR_GO)
    exits = Exits()

    new = runtime.start(workshop.spec(WAIT_FOR_GO), exits)

    assert not lives(old.pid)
    assert lives(new.pid)


def test_a_module_whose_state_files_are_lost_is_not_doubled_either(runtime, run, workshop) -> None:
    old = start_and_kill_agent(run, workshop, WAIT_FOR_GO)
    for path in (run.modules / "temp").iterdir():
        path.unlink()

    assert runtime.adopt("temp", Exits()) is None
    runtime.start(workshop.spec(WAIT_FOR_GO), Exits())

    assert not lives(old.pid)


def test_modules_live_on_when_their_agent_closes_its_runtime(run, workshop) -> None:
    first, second, exits = ProcessRuntime(run), ProcessRuntime(run), Exits()
    module = first.start(workshop.spec(WAIT_FOR_GO), exits)
    workshop.line()

    first.close()
    first.close()

    assert lives(module.pid)
    assert second.adopt("temp", exits) == module
    (workshop.folder / "go").write_text("2\n")
    assert exits.next().exit_code == 2
    assert exits.seen.empty()
    second.close()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us and leads a session."""
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield stranger
    assert stranger.poll() is None, "the stranger was touched"
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize(
    ("other_boot", "ticks_apart"),
    [(False, 1), (False, -1), (True, 0)],
    ids=["younger", "older", "other boot"],
)
def test_a_pid_that_was_given_away_again_is_never_taken_for_the_module(
    runtime, run, workshop, stranger, other_boot, ticks_apart
) -> None:
    state = run.modules / "temp"
    state.mkdir(parents=True)
    fields = Path(f"/proc/{stranger.pid}/stat").read_text().split()
    fields[21] = str(int(fields[21]) - ticks_apart)
    boot = "00000000-0000-0000-0000-000000000000" if other_boot else process_table.boot_id()
    line = " ".join(fields)
    (state / "started").write_text(f"{boot}\n{line}\n{line}\n")

    adopted = runtime.adopt("temp", Exits())
    runtime.stop("temp", grace_s=0)
    runtime.kill("temp")
    runtime.remove("temp")

    if other_boot:
        assert adopted is None
    else:
        assert isinstance(adopted, ModuleExit)
        assert adopted.exit_code is None
    assert lives(stranger.pid)


def test_a_module_that_ended_before_a_reboot_gives_its_exit_all_the_same(runtime, run) -> None:
    state = run.modules / "temp"
    state.mkdir(parents=True)
    line = " ".join(Path("/proc/self/stat").read_text().split())
    (state / "started").write_text(f"00000000-0000-0000-0000-000000000000\n{line}\n{line}\n")
    (state / "ended").write_text("3\n")

    adopted = runtime.adopt("temp", Exits())

    assert isinstance(adopted, ModuleExit)
    assert adopted.exit_code == 3


def test_a_name_under_which_nothing_was_started_is_not_adopted(runtime) -> None:
    assert runtime.adopt("temp", Exits()) is None


@pytest.mark.parametrize("content", ["", "garbage\n", "a\nb\nc\n", "1\n2 (sh) S 1\n3 (sh) S 1\n"])
def test_a_state_file_that_no_shim_wrote_is_not_adopted(runtime, run, content) -> None:
    (run.modules / "temp").mkdir(parents=True)
    (run.modules / "temp" / "started").write_text(content)

    assert runtime.adopt("temp", Exits()) is None


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        ("0\n", 0, None),
        ("3\n", 3, None),
        ("128\n", 128, None),
        ("137\n", 137, 9),
        ("143\n", 143, 15),
        ("255\n", 255, None),
        ("", None, None),
        ("garbage\n", None, None),
    ],
)
def test_the_written_exit_status_is_read(runtime, run, workshop, content, code, number) -> None:
    exits = Exits()
    runtime.start(workshop.spec("exit"), exits)
    exits.next()
    (run.modules / "temp" / "ended").write_text(content)

    adopted = runtime.adopt("temp", exits)

    assert isinstance(adopted, ModuleExit)
    assert (adopted.exit_code, adopted.signal) == (code, number)
