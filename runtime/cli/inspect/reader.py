"""Fetches what taps hold, from both processes of an edge, in threads beside the one that shows it.

A terminal that stands still, or a pipe that nobody reads, holds up the showing alone: the threads go on
giving signs of life, and the edge counts what its taps cannot hold.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from actors.inspector_messages import CloseTap, OpenTap, ReadTap, TapClosed, TapOpened, TapRead
from actors.tap import TapFilter
from messaging.client import Client
from messaging.errors import ConfigError, EdgeError
from runtime.cli.inspect.envelopes import SeenEnvelope, seen
from runtime.cli.inspect.line import INSPECTORS, NotThere, ask
from runtime.run_directory import AGENT, Lock, RunDirectory

READ_BYTES: Final = 512 * 1024
WAIT_S: Final = 0.05  # between two reads: each costs the edge a millisecond, and its tap holds far more
SIGN_OF_LIFE_S: Final = 1.0
AGAIN_S: Final = 0.3  # before a process that is not there is looked for again
END_LIMIT_S: Final = 1.0
_KEPT: Final = 4  # answers that wait to be shown
_NICENESS: Final = 10  # who looks gives way to the edge


@dataclass(frozen=True, slots=True)
class Missed:
    """Envelopes that came faster than they were fetched."""

    process: str
    at_s: float
    envelopes: int


@dataclass(frozen=True, slots=True)
class Remark:
    """What is to be known of a tap."""

    text: str


@dataclass(frozen=True, slots=True)
class _Batch:
    process: str
    read: TapRead


Event = SeenEnvelope | Missed | Remark


class TapReader:
    """Taps both processes while it is entered."""

    def __init__(self, run: RunDirectory, wanted: TapFilter) -> None:
        self._run = run
        self._wanted = wanted
        self._came: queue.Queue[_Batch | Remark | None] = queue.Queue(_KEPT)
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(process,), daemon=True) for process in INSPECTORS
        ]
        self.missed_at_end = 0  # envelopes of which `events` has not told; known after the exit
        self._taps: dict[str, bool] = {}  # of processes that were asked: whether they are tapped now
        self._tapped = threading.Condition()

    def __enter__(self) -> TapReader:
        with suppress(OSError):
            os.nice(_NICENESS)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        with suppress(queue.Empty):  # so that no thread waits for room
            while True:
                self._came.get_nowait()
        for thread in self._threads:
            thread.join(END_LIMIT_S)

    def events(self) -> Iterator[Event]:
        """Yield what comes, until the edge ends."""
        fields: dict[str, Sequence[str]] = {}
        while True:
            try:
                came = self._came.get(timeout=SIGN_OF_LIFE_S)
            except queue.Empty:
                if self._ends.is_set():
                    return
                continue
            if came is None:
                return
            if isinstance(came, Remark):
                yield came
                continue
            fields |= came.read.fields
            for at_s, size, frame in came.read.envelopes:
                if frame:
                    yield seen(came.process, at_s, size, frame, fields)
                else:
                    yield Missed(came.process, at_s, size)

    def end(self) -> None:
        """Let `events` end, after what is there already. From any thread."""
        self._ends.set()
        with suppress(queue.Full):
            self._came.put_nowait(None)

    def wait_until_tapped(self, limit_s: float) -> set[str]:
        """Wait until all processes were asked, for so long at most; returns those that are tapped."""
        with self._tapped:
            self._tapped.wait_for(lambda: len(self._taps) == len(INSPECTORS), limit_s)
            return {process for process, is_tapped in self._taps.items() if is_tapped}

    def _read(self, process: str) -> None:
        with Client.outside(self._run.path) as client:
            tap = 0
            was_told = False
            while not self._ends.is_set():
                try:
                    if not tap:
                        tap = self._open(client, process)
                        was_told = False
                    tap = self._fetch(client, process, tap)
                except EdgeError as exc:
                    self._note(process, False)
                    tap = 0
                    if not self._edge_lives():
                        self._put(None)
                        return
                    if not was_told:
                        was_told = True
                        why = f"{exc}; it is tapped when it does" if isinstance(exc, NotThere) else str(exc)
                        self._put(Remark(why))
                    self._ends.wait(AGAIN_S)
            if tap:
                with suppress(EdgeError):
                    self.missed_at_end += ask(client, process, CloseTap(tap), TapClosed).missed

    def _open(self, client: Client, process: str) -> int:
        wanted = self._wanted
        tap = ask(client, process, OpenTap(wanted.to, wanted.sender, wanted.kinds), TapOpened).tap
        self._note(process, True)
        return tap

    def _fetch(self, client: Client, process: str, tap: int) -> int:
        """Read the tap once and wait a moment; returns its number, or 0 when it has to be opened anew."""
        try:
            read = ask(client, process, ReadTap(tap, READ_BYTES), TapRead)
        except ConfigError:
            self._put(Remark(f"the tap of the {process} had ended; envelopes are missing here"))
            return 0
        while read.envelopes and not self._put(_Batch(process, read)):
            if self._ends.is_set():
                break
            ask(client, process, ReadTap(tap, 0), TapRead)
        self._ends.wait(WAIT_S)
        return tap

    def _put(self, what: _Batch | Remark | None) -> bool:
        try:
            self._came.put(what, timeout=SIGN_OF_LIFE_S)
        except queue.Full:
            return False
        return True

    def _note(self, process: str, is_tapped: bool) -> None:
        with self._tapped:
            self._taps[process] = is_tapped
            self._tapped.notify_all()

    def _edge_lives(self) -> bool:
        return Lock(self._run, AGENT).holder() is not None
