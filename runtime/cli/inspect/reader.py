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
from typing import Final, TypeVar

from actors.inspection.messages import CloseTap, OpenTap, ReadTap, TapClosed, TapOpened, TapRead
from actors.inspection.tap import TapFilter
from messaging.client import Client
from messaging.errors import ConfigError, EdgeError, EnvironmentFault
from runtime.cli.inspect.envelopes import SeenEnvelope, seen
from runtime.cli.inspect.line import INSPECTORS, NotThere, ask
from runtime.run_directory import AGENT, Lock, RunDirectory

T = TypeVar("T")

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


class TapEnded(EnvironmentFault):
    """The edge has no such tap any more."""


class _Reading:
    """One tap of one process. Nothing that it has is lost when an answer does not come: it is asked again."""

    def __init__(self, client: Client, process: str) -> None:
        self._client = client
        self._process = process
        self._got = 0  # the number of the last answer
        self.tap = 0  # 0: none is open
        self.batch: _Batch | None = None  # what came and is not shown yet

    def open(self, wanted: TapFilter) -> None:
        """Begin to tap."""
        self.tap = self._ask(OpenTap(wanted.to, wanted.sender, wanted.kinds), TapOpened).tap
        self._got = 0

    def read(self) -> None:
        """Fetch what waits; while the last batch is not shown give a sign of life.

        Raises:
            TapEnded: it has to be opened anew.
        """
        most_bytes = 0 if self.batch is not None else READ_BYTES
        try:
            read = self._ask(ReadTap(self.tap, most_bytes, self._got), TapRead)
        except ConfigError:
            raise TapEnded(
                f"the {self._process} has ended this tap: it was started anew, or has not heard of this "
                "inspector for long; envelopes are missing here"
            ) from None
        if self.batch is None:
            self._got = read.number
            self.batch = _Batch(self._process, read) if read.envelopes or read.fields else None

    def close(self) -> int:
        """End the tap; returns how many envelopes it has missed that it has not told of."""
        return self._ask(CloseTap(self.tap), TapClosed).missed

    def _ask(self, question: object, answer: type[T]) -> T:
        return ask(self._client, self._process, question, answer)


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
            reading = _Reading(client, process)
            was_told = False
            while not self._ends.is_set():
                try:
                    if not reading.tap:
                        reading.open(self._wanted)
                    self._note(process, True)
                    reading.read()
                    was_told = False
                except TapEnded as exc:
                    reading.tap = 0
                    self._put(Remark(str(exc)))
                except EdgeError as exc:
                    self._note(process, False)
                    if not self._edge_lives():
                        self._put(None)
                        return
                    if not was_told:
                        was_told = True
                        why = (
                            f"{exc}; it is tapped when it answers" if isinstance(exc, NotThere) else str(exc)
                        )
                        self._put(Remark(why))
                    self._ends.wait(AGAIN_S)
                if reading.batch is None or self._put(reading.batch):
                    reading.batch = None
                    self._ends.wait(WAIT_S)
            if reading.tap:
                with suppress(EdgeError):
                    self.missed_at_end += reading.close()

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
