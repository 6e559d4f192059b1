import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from messaging.errors import ConfigError, EnvironmentFault
from runtime.machine import process_table
from runtime.modules import process_runtime, shim
from runtime.modules.process_module import ModuleExit
from runtime.modules.process_runtime import MODULE_MARKER, RUN_MARKER, ProcessRuntime
from runtime.run_directory import RunDirectory
from tests.runtime.module_processes import LIMIT_S, Exits, Workshop, lives

WAIT = "echo ready >pipe; exec sleep 60"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a module as another user")


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.close()


@pytest.fixture
def public_workshop() -> Iterator[Workshop]:
    """One that every user can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ea-") as folder:
        os.chmod(folder, 0o755)
        workshop = Workshop(Path(folder))
        os.chmod(workshop.pipe, 0o666)
        yield workshop
        workshop.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory.of(tmp_path / "home")
    run.prepare()
    yield run
    run.remove()


@pytest.fixture
def runtime(run: RunDirectory) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(run)
    yield runtime
    runtime.close()
    end_modules_of(run)


def end_modules_of(run: RunDirectory) -> None:
    successor = ProcessRuntime(run)
    for state in run.modules.iterdir() if run.modules.exists() else []:
        exits = Exits()
        if not isinstance(successor.adopt(state.name, exits), ModuleExit | None):
            successor.kill(state.name)
            exits.next()
        successor.remove(state.name)
    successor.close()


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_a_module_that_ends_reports_its_exit_code(runtime, workshop, code) -> None:
    exits = Exits()
    before_s = time.time()

    runtime.start(workshop.spec(f"exit {code}"), exits)
    exited = exits.next()

    assert (exited.name, exited.exit_code) == ("temp", code)
    # Modification times are those of the kernel's last tick, up to 10 ms ago.
    assert before_s - 0.02 <= exited.started_at_s <= exited.ended_at_s <= time.time()


def test_a_running_module_is_described_as_the_kernel_sees_it(runtime, workshop) -> None:
    module = runtime.start(workshop.spec("echo $$ >pipe; exec sleep 60"), Exits())

    assert workshop.line() == str(module.pid)
    stat, leader = process_table.read_stat(module.pid), process_table.read_stat(module.session_id)
    assert stat is not None
    assert leader is not None
    assert (stat.session, stat.group, stat.start_ticks) == (
        module.session_id,
        module.session_id,
        module.start_ticks,
    )
    assert leader.start_ticks == module.session_start_ticks
    assert abs(time.time() - module.started_at_s) < LIMIT_S


def test_a_module_killed_from_outside_is_reported_with_its_signal_at_once(runtime, workshop) -> None:
    exits = Exits()
    module = runtime.start(workshop.spec(WAIT), exits)
    workshop.line()
    killed_s = time.monotonic()

    os.kill(module.pid, signal.SIGKILL)
    exited = exits.next()

    assert time.monotonic() - killed_s < 1  # milliseconds, but this machine may be busy
    assert (exited.exit_code, exited.signal) == (137, signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "code", "number"),
    [
        ("exec sleep 60", 143, signal.SIGTERM),
        ("trap 'exit 5' TERM; echo ready >pipe; sleep 60 & wait", 5, None),
        ("trap 'exit 0' TERM; echo ready >pipe; sleep 60 & wait", 0, None),
    ],
    ids=["default", "own code", "clean"],
)
def test_a_stopped_module_ends_by_its_own_answer_to_sigterm(runtime, workshop, script, code, number) -> None:
    exits = Exits()
    runtime.start(workshop.spec(script), exits)
    if "ready" in script:
        workshop.line()

    runtime.stop("temp", grace_s=LIMIT_S)

    exited = exits.next()
    assert (exited.exit_code, exited.signal) == (code, number)


def test_a_stop_asks_the_children_of_the_module_too(runtime, workshop) -> None:
    exits = Exits()
    child = "(trap 'echo asked >pipe; exit' TERM; echo ready >pipe; sleep 60 & wait) &"
    runtime.start(workshop.spec(f"trap : TERM; {child} wait; wait"), exits)
    workshop.line()

    runtime.stop("temp", grace_s=LIMIT_S)

    assert workshop.line() == "asked"
    exits.next()


def test_a_module_that_made_a_session_of_its_own_is_asked_too(runtime, workshop) -> None:
    exits = Exits()
    script = "trap 'exit 7' TERM; echo ready >pipe; sleep 60 & wait"
    runtime.start(workshop.command(("setsid", "sh", "-c", script)), exits)
    workshop.line()

    runtime.stop("temp", grace_s=LIMIT_S)

    assert exits.next().exit_code == 7


def test_a_module_that_ignores_sigterm_is_killed_after_the_grace(runtime, workshop) -> None:
    exits = Exits()
    module = runtime.start(workshop.spec(f"trap '' TERM; {WAIT}"), exits)
    workshop.line()
    asked_s = time.monotonic()

    runtime.stop("temp", grace_s=0.2)
    returned_s = time.monotonic()
    exited = exits.next()

    assert returned_s - asked_s < 0.2
    assert time.monotonic() - asked_s >= 0.2
    assert (exited.exit_code, exited.signal) == (137, signal.SIGKILL)
    assert not lives(module.pid)


def test_a_module_stopped_in_its_tracks_is_killed_after_the_grace(runtime, workshop) -> None:
    exits = Exits()
    module = runtime.start(workshop.spec(WAIT), exits)
    workshop.line()
    os.killpg(module.session_id, signal.SIGSTOP)

    runtime.stop("temp", grace_s=0.05)

    # SIGTERM may still overtake a SIGSTOP sent before it.
    assert exits.next().signal in (signal.SIGKILL, signal.SIGTERM)


def test_kill_needs_no_grace(runtime, workshop) -> None:
    exits = Exits()
    runtime.start(workshop.spec(f"trap '' TERM; {WAIT}"), exits)
    workshop.line()

    runtime.kill("temp")

    assert exits.next().signal == signal.SIGKILL


def test_stop_and_kill_of_what_does_not_run_do_nothing(runtime) -> None:
    runtime.stop("temp", grace_s=0)
    runtime.kill("temp")


def test_a_grace_that_is_over_does_not_kill_the_next_incarnation(runtime, workshop) -> None:
    exits = Exits()
    runtime.start(workshop.spec("exec sleep 60"), exits)
    runtime.stop("temp", grace_s=0.05)
    exits.next()
    module = runtime.start(workshop.spec(WAIT), exits)
    workshop.line()
    runtime.start(workshop.spec(f"trap '' TERM; {WAIT}", name="later"), exits)
    workshop.line()

    runtime.stop("later", grace_s=0.1)

    assert exits.next().name == "later"
    assert lives(module.pid)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"command": ()}, "the command is empty"),
        ({"command": ("",)}, "the command is empty"),
        ({"command": ("no-such-program",)}, "command 'no-such-program' not found in PATH '.*'; install it"),
        ({"command": ("/no/such/program",)}, "command '/no/such/program' not found"),
        ({"command": ("./plain",)}, r"command './plain' is not executable; chmod \+x /.*/plain"),
        ({"command": ("plain",)}, r"command 'plain' is not executable; chmod \+x /.*/plain"),
        ({"command": ("/tmp",)}, "command '/tmp' is a folder"),
        ({"command": ("sh", "a\0b")}, "NUL"),
        ({"env": {"PATH": "/bin", "A": "\0"}}, "NUL"),
        ({"env": {"PATH": "/bin", "A=B": "1"}}, "'A=B' cannot name an environment variable"),
        ({"env": {"PATH": "/bin", "": "1"}}, "'' cannot name an environment variable"),
        (
            {"working_directory": Path("/no/such/folder")},
            "working directory '/no/such/folder' does not exist",
        ),
        ({"name": "../temp"}, "module name '../temp' cannot name a folder"),
        ({"name": ""}, "module name '' cannot name a folder"),
        ({"name": "x" * 201}, "cannot name a folder"),
    ],
)
def test_what_cannot_run_is_explained_and_leaves_nothing(runtime, run, workshop, change, complaint) -> None:
    (workshop.folder / "plain").write_text("")
    env = {"PATH": f"{workshop.folder}:{os.environ['PATH']}"}
    spec = replace(workshop.spec("exit", env=env), **change)
    before = sorted(workshop.folder.rglob("*"))

    with pytest.raises(ConfigError, match=complaint) as raised:
        runtime.start(spec, Exits())

    assert str(raised.value).startswith("module ")
    assert sorted(workshop.folder.rglob("*")) == before
    assert not run.modules.exists()
    assert runtime.adopt("temp", Exits()) is None


def test_a_script_whose_interpreter_is_missing_says_so_in_its_log(runtime, workshop) -> None:
    script = workshop.folder / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    exits = Exits()

    runtime.start(workshop.command(("./script",)), exits)

    assert exits.next().exit_code in (126, 127)
    assert "script" in workshop.log_path.read_text()


def test_a_run_directory_that_is_gone_is_explained_and_nothing_runs(runtime, run, workshop) -> None:
    run.remove()

    with pytest.raises(EnvironmentFault, match=f"module 'temp' cannot be started.*{run.path}"):
        runtime.start(workshop.spec(WAIT), Exits())

    assert not process_table.find({RUN_MARKER: str(run.path)})


def test_a_shim_that_cannot_write_is_explained_and_nothing_runs(runtime, run, workshop, monkeypatch) -> None:
    no_space = shim.SCRIPT.replace(f'"$0/{shim.STARTED}"', "/dev/full")
    monkeypatch.setattr(shim, "SCRIPT", no_space)

    with pytest.raises(EnvironmentFault, match="module 'temp' cannot be started: nothing was written"):
        runtime.start(workshop.spec(WAIT), Exits())

    assert not (run.modules / "temp").exists()
    assert not process_table.find({RUN_MARKER: str(run.path)})


def test_the_environment_reaches_the_module_as_it_is(runtime, run, workshop) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PLAIN": "1",
        "Logging__Level": "Debug",
        "spring.port": "80",
        "with-dash": "two\nlines and 'quotes' $HOME `id`",
        "BASH_FUNC_f%%": "() { :; }",
        "EMPTY": "",
        "odd.umlaut": "ä",
    }
    exits = Exits()

    runtime.start(workshop.command(("cat", "/proc/self/environ"), env=env), exits)
    exits.next()

    entries = workshop.log_path.read_bytes().split(b"\0")[:-1]
    seen = dict(os.fsdecode(entry).split("=", 1) for entry in entries)
    by_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert {name: value for name, value in seen.items() if name not in by_shell} == env | {
        RUN_MARKER: str(run.path),
        MODULE_MARKER: "temp",
    }
    assert sorted(path.name for path in (run.modules / "temp").iterdir()) == [
        "ended",
        "isolation",
        "started",
    ]


def test_the_module_finds_signals_and_stdin_as_a_shell_would_give_them(runtime, workshop) -> None:
    ask = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; readlink /proc/self/fd/0; pwd"
    plain = subprocess.run(
        ["sh", "-c", ask], cwd=workshop.folder, stdin=subprocess.DEVNULL, capture_output=True
    )
    exits = Exits()

    runtime.start(workshop.spec(ask), exits)
    exits.next()

    assert workshop.log_path.read_bytes() == plain.stdout


def test_output_and_errors_are_appended_to_the_log_over_restarts(runtime, workshop) -> None:
    exits = Exits()

    for number in (1, 2):
        runtime.start(workshop.spec(f"echo out {number}; echo error {number} >&2"), exits)
        exits.next()

    assert workshop.log_path.read_text() == "out 1\nerror 1\nout 2\nerror 2\n"
    assert workshop.log_path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_is_explained(runtime, workshop) -> None:
    (workshop.folder / "logs").write_text("")

    with pytest.raises(EnvironmentFault, match=r"module 'temp' cannot be started.*logs"):
        runtime.start(workshop.spec("exit"), Exits())


def test_passed_descriptors_keep_their_numbers_and_no_others_leak(runtime, workshop) -> None:
    passed, kept = os.pipe()
    os.set_inheritable(kept, True)
    show = (
        "import os\ndef is_open(fd):\n try: os.fstat(fd)\n except OSError: return False\n return True\n"
        "print([fd for fd in range(256) if is_open(fd)])"
    )
    exits = Exits()

    runtime.start(workshop.command((sys.executable, "-c", show), pass_fds=(passed,)), exits)
    exits.next()

    os.close(passed)
    os.close(kept)
    assert workshop.log_path.read_text() == f"[0, 1, 2, {passed}]\n"


@pytest.mark.parametrize(
    "background",
    [
        "sleep 60 & echo $! >pipe;",
        "setsid sleep 60 & echo $! >pipe;",
        "(setsid sh -c 'sleep 60 & echo $! >pipe; wait' &);",
    ],
    ids=["child", "session of its own", "daemon"],
)
def test_what_an_ended_module_left_running_is_gone_when_its_exit_is_reported(
    runtime, workshop, background
) -> None:
    exits = Exits()
    os.mkfifo(workshop.folder / "go")
    runtime.start(workshop.spec(f"{background} read -r line <go; exit 3"), exits)
    left = int(workshop.line())
    assert lives(left)

    (workshop.folder / "go").write_text("go\n")

    assert exits.next().exit_code == 3
    assert not lives(left)


def test_a_module_whose_shim_was_killed_is_ended_and_its_exit_is_unknown(runtime, workshop) -> None:
    exits = Exits()
    module = runtime.start(workshop.spec(WAIT), exits)
    workshop.line()

    os.kill(module.session_id, signal.SIGKILL)
    exited = exits.next()

    assert (exited.exit_code, exited.signal) == (None, None)
    assert not lives(module.pid)


def test_an_exit_is_reported_even_when_no_descriptor_is_left(runtime, workshop, caplog) -> None:
    exits = Exits()
    module = runtime.start(workshop.spec(WAIT), exits)
    workshop.line()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)

    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        os.kill(module.pid, signal.SIGKILL)
        exited = exits.next()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (exited.name, exited.exit_code) == ("temp", None)
    assert "cannot be seen how" in caplog.text


def test_twenty_starts_and_exits_leave_no_zombie_and_no_descriptor(runtime, workshop) -> None:
    exits = Exits()
    runtime.start(workshop.spec("exit"), exits)
    exits.next()
    before = len(os.listdir("/proc/self/fd"))
    children_before = {child.pid for child in children()}

    for _ in range(20):
        runtime.start(workshop.spec("setsid sleep 60 & exit 1"), exits)
        assert exits.next().exit_code == 1

    assert len(os.listdir("/proc/self/fd")) == before
    assert [c for c in children() if c.state == "Z" and c.pid not in children_before] == []


def children() -> list[process_table.ProcessStat]:
    """Return the children of this process, those of other tests too."""
    return [process for process in process_table.all_processes() if process.parent == os.getpid()]


def test_orphans_of_running_modules_are_reaped_now_and_then(run, monkeypatch) -> None:
    reaped = threading.Event()
    monkeypatch.setattr(process_runtime, "REAP_PERIOD_S", 0.001)
    monkeypatch.setattr(process_table, "reap_orphans", lambda keep: reaped.set())
    runtime = ProcessRuntime(run)

    assert reaped.wait(LIMIT_S)
    reaped.clear()
    assert reaped.wait(LIMIT_S)
    runtime.close()


def test_a_name_runs_once_and_is_removed_only_after_its_end(runtime, run, workshop) -> None:
    exits = Exits()
    runtime.start(workshop.spec(WAIT), exits)
    workshop.line()

    with pytest.raises(ValueError, match="'temp' runs already"):
        runtime.start(workshop.spec(WAIT), exits)
    with pytest.raises(ValueError, match="'temp' still runs"):
        runtime.remove("temp")
    with pytest.raises(ValueError, match="'temp' is watched already"):
        runtime.adopt("temp", exits)
    runtime.kill("temp")
    exits.next()
    runtime.remove("temp")
    runtime.remove("temp")

    assert list(run.modules.iterdir()) == []


def test_modules_start_and_end_side_by_side(runtime, workshop) -> None:
    exits = Exits()
    specs = [workshop.spec(f"exit {number}", name=f"m{number}") for number in range(12)]

    with ThreadPoolExecutor(max_workers=4) as threads:
        list(threads.map(lambda spec: runtime.start(spec, exits), specs))

    assert {(e.name, e.exit_code) for e in (exits.next() for _ in specs)} == {
        (f"m{number}", number) for number in range(12)
    }


def test_modules_of_the_same_name_on_two_homes_do_not_meet(runtime, run, workshop, tmp_path) -> None:
    second_run = RunDirectory.of(tmp_path / "second")
    second_run.prepare()
    second, exits, second_exits = ProcessRuntime(second_run), Exits(), Exits()
    first_module = runtime.start(workshop.spec("setsid sleep 60 & " + WAIT), exits)
    second_module = second.start(workshop.spec("setsid sleep 60 & " + WAIT), second_exits)
    workshop.line(), workshop.line()

    second.kill("temp")
    second_exits.next()
    second.remove("temp")

    assert not lives(second_module.pid)
    assert lives(first_module.pid)
    assert len(process_table.find({RUN_MARKER: str(run.path), MODULE_MARKER: "temp"})) == 3
    assert process_table.find({RUN_MARKER: str(second_run.path)}) == []
    second.close()
    second_run.remove()


@needs_root
def test_a_module_of_another_user_can_neither_end_its_shim_nor_touch_its_files(
    runtime, run, public_workshop
) -> None:
    exits = Exits()
    script = 'id -u; id -G; kill -9 $PPID; echo 0 >"$STATE/ended"; exit 4'
    env = {"STATE": str(run.modules / "temp")}

    runtime.start(public_workshop.spec(script, env=env, uid=65534), exits)

    assert exits.next().exit_code == 4
    output = public_workshop.log_path.read_text().lower()
    assert output.startswith("65534\n65534\n")
    assert "not permitted" in output
    assert "denied" in output


@needs_root
def test_a_module_of_another_user_is_stopped_with_all_it_started(runtime, public_workshop) -> None:
    exits = Exits()
    script = "setsid sleep 60 & echo $! >pipe; exec sleep 60"
    runtime.start(public_workshop.spec(script, uid=65534), exits)
    left = int(public_workshop.line())

    runtime.stop("temp", grace_s=LIMIT_S)

    assert exits.next().signal == signal.SIGTERM
    assert not lives(left)


def test_another_user_needs_root(monkeypatch, runtime, workshop) -> None:
    needs = "module 'temp': to run it as user id 65534 needs root"
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(EnvironmentFault, match=needs):
            runtime.start(workshop.spec("exit", uid=65534), Exits())
