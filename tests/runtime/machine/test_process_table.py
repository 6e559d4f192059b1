import os
import select
import signal
import subprocess
import sys

import pytest

from runtime.machine import process_table
from runtime.machine.process_table import ProcessStat, parse_stat

# 52 fields; parent 4, group 5, session 6 and start time 145636 are fields 4, 5, 6 and 22.
TAIL = "S 4 5 6 0 -1 4194368 22 0 0 0 0 0 0 0 20 0 1 0 145636 2654208 145 18446744073709551615 94 94 1 0 0 0"


@pytest.mark.parametrize("program", ["sh", "two words", "odd) S 9 9 9 (name", "", "((", "))"])
def test_a_stat_line_is_parsed_whatever_the_programs_name(program: str) -> None:
    parsed = parse_stat(f"123 ({program}) {TAIL}\n")

    assert parsed == ProcessStat(123, "S", parent=4, group=5, session=6, start_ticks=145636)


@pytest.mark.parametrize("line", ["", "123", "123 (sh", "123 (sh) S 1 2", "x (sh) " + TAIL, "garbage\n"])
def test_what_is_no_stat_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_stat(line)


def test_this_process_is_seen_with_its_parent_session_and_environment() -> None:
    stat = process_table.read_stat(os.getpid())

    assert stat is not None
    assert (stat.pid, stat.parent, stat.session) == (os.getpid(), os.getppid(), os.getsid(0))
    assert process_table.is_alive(stat.pid, stat.start_ticks)
    assert stat.pid in {process.pid for process in process_table.all_processes()}
    assert process_table.ancestors(stat.pid) >= {os.getpid(), os.getppid()}


def test_a_pid_given_to_another_process_is_not_the_one_we_knew() -> None:
    stat = process_table.read_stat(os.getpid())
    assert stat is not None

    assert not process_table.is_alive(stat.pid, stat.start_ticks - 1)
    assert process_table.open_pidfd(stat.pid, stat.start_ticks - 1) is None


def started(command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program and wait for its "ready": until exec is done, /proc shows neither words nor names."""
    child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_an_environment_is_read_as_it_was_at_the_start() -> None:
    child = started(["sh", "-c", "echo ready; read line"], {"ONE": "1", "ODD": "a=b\nc", "EMPTY": ""})

    assert process_table.read_environment(child.pid) == {"ONE": "1", "ODD": "a=b\nc", "EMPTY": ""}

    child.communicate()
    assert process_table.read_environment(child.pid) == {}


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["sh", "-c", "echo ready; read line", "--password", "hidden"], "sh -c"),
        ([sys.executable, "-m", "timeit", "-n1", "-r1", "print('ready', flush=True); input()"], "-m timeit"),
    ],
    ids=["program", "module"],
)
def test_a_command_is_shown_without_words_that_may_be_secret(command: list[str], shown: str) -> None:
    child = started(command)

    assert process_table.command_of(child.pid).endswith(shown)

    child.communicate()


def test_signals_are_sent_only_to_the_process_that_was_meant() -> None:
    child = subprocess.Popen(["sleep", "60"])
    stat = process_table.read_stat(child.pid)
    assert stat is not None
    namesake = ProcessStat(stat.pid, "S", stat.parent, stat.group, stat.session, stat.start_ticks - 1)

    assert process_table.signal_and_wait([namesake], signal.SIGKILL, limit_s=5) == set()
    assert child.poll() is None
    assert process_table.signal_and_wait([stat], signal.SIGKILL, limit_s=5) == set()
    assert child.wait() == -signal.SIGKILL


def test_who_ignores_the_signal_is_reported_after_the_limit() -> None:
    child = started(["sh", "-c", "trap '' TERM; echo ready; exec sleep 60"])
    stat = process_table.read_stat(child.pid)
    assert stat is not None

    assert process_table.signal_and_wait([stat], signal.SIGTERM, limit_s=0.05) == {child.pid}

    child.kill()
    child.communicate()


def test_only_ended_children_of_other_sessions_are_reaped() -> None:
    ours = subprocess.Popen(["true"])
    kept = subprocess.Popen(["true"], start_new_session=True)
    orphan = subprocess.Popen(["true"], start_new_session=True)
    for child in (ours, kept, orphan):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    process_table.reap_orphans(keep={kept.pid})

    with pytest.raises(ChildProcessError):
        os.waitpid(orphan.pid, os.WNOHANG)
    assert os.waitpid(ours.pid, os.WNOHANG) == (ours.pid, 0)
    assert os.waitpid(kept.pid, os.WNOHANG) == (kept.pid, 0)
    for child in (ours, kept, orphan):
        child.returncode = 0


def test_a_subreaper_becomes_the_parent_of_its_grandchildren() -> None:
    process_table.become_subreaper()
    child = subprocess.run(["sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
    grandchild = int(child.stdout)
    stat = process_table.read_stat(grandchild)
    assert stat is not None

    assert stat.parent == os.getpid()

    os.kill(grandchild, signal.SIGKILL)
    pidfd = os.pidfd_open(grandchild)
    assert select.select([pidfd], [], [], 5)[0]
    os.close(pidfd)
    process_table.reap(grandchild)
