"""Actor threads share one core; the programs that they start do not."""

import os
import subprocess
import sys
import threading

import pytest

from runtime.machine.one_core import on_all_cores, on_one_core

ALL = os.sched_getaffinity(0)
PRINT_CORES = "import os; print(*sorted(os.sched_getaffinity(0)))"


def cores_of_program() -> set[int]:
    done = subprocess.run([sys.executable, "-c", PRINT_CORES], capture_output=True, text=True, check=True)
    return {int(core) for core in done.stdout.split()}


def cores_of_new_thread() -> set[int]:
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join(10)
    return found[0]


def test_work_and_the_threads_that_it_starts_stay_on_one_core_that_was_allowed():
    own, child = on_one_core(lambda: (os.sched_getaffinity(0), cores_of_new_thread()))
    assert len(own) == 1
    assert own == child
    assert own <= ALL


def test_whoever_asked_for_it_keeps_all_cores_meanwhile_and_afterwards():
    assert on_one_core(lambda: os.sched_getaffinity(os.getpid())) == ALL
    assert os.sched_getaffinity(0) == ALL


def test_a_program_that_such_a_thread_starts_may_use_what_the_main_thread_may_use():
    def start():
        with on_all_cores():
            inside = cores_of_program()
        return inside, os.sched_getaffinity(0)

    inside, afterwards = on_one_core(start)
    assert inside == ALL
    assert len(afterwards) == 1


def test_what_fails_there_fails_here():
    with pytest.raises(ZeroDivisionError):
        on_one_core(lambda: 1 / 0)


def test_a_system_that_forbids_it_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    def refuse(pid, cores):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert on_one_core(lambda: os.sched_getaffinity(0)) == ALL
