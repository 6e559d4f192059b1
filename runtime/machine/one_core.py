"""Keeps the actor threads of a process on one core.

Python threads take turns on one interpreter, so a second core lets none of them run beside another; it only
makes each hand-over wake a core that sleeps, which takes several times as long as the message (figures in
messaging/DESIGN.md). Threads inherit what is set here, and so would the programs that they start. The main
thread is left as it is: it says what a program may use.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

_Result = TypeVar("_Result")


def on_one_core(work: Callable[[], _Result]) -> _Result:
    """Do something in a thread that stays on one core, with all threads that it starts; return its result.

    One chosen at random: several edges on one machine shall not all choose the same. A system that forbids it
    is no error.
    """
    core = random.choice(sorted(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(1, initializer=_stay_on, initargs=({core},)) as thread:
        return thread.submit(work).result()


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Let a program that is started in this block use every core that the main thread may use."""
    before = os.sched_getaffinity(0)
    _stay_on(os.sched_getaffinity(os.getpid()))
    try:
        yield
    finally:
        _stay_on(before)


def _stay_on(cores: set[int]) -> None:
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
