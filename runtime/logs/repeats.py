"""Keeps a log readable when the same thing happens again and again.

A line is told when it comes, and its repeats are counted: after 5 s it is told once more with their number
and the time of the last, then after 10 s, and so on up to ten minutes while they go on. What comes again
after a pause is told at once, and counts as going on unless the pause was long. Lines of one place in the
program that differ, in the port of a client for example, are told up to 100 times in 10 s, the others
counted; while there are more, in 20 s, and so on up to 80 s. Nothing is left out without a line that says how
much. Lines at DEBUG are all told: whoever asked for them wants each.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Final

from msgspec import Struct

FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 600.0
PAUSE_S: Final = 60.0  # and two waits: for so long after a wait without repeats it still goes on
BURST_LINES: Final = 100  # of one place in the program
BURST_S: Final = 10.0
LONGEST_BURST_S: Final = 80.0
MOST_KNOWN: Final = 512  # texts and places that are remembered; the oldest is told of and forgotten
LONGEST_KEPT: Final = 4096  # characters of a text that is told again


class _Counted(Struct):
    """What was left out of one text, or of one place in the program, since `began_s`."""

    began_s: float
    wait_s: float
    told: int
    left_out: int = 0
    # Of the last that was left out; not the record, which may hold on to a traceback and all in it.
    name: str = ""
    level: int = logging.INFO
    text: str = ""
    created_s: float = 0.0

    @property
    def ends_s(self) -> float:
        return self.began_s + self.wait_s

    @property
    def forgotten_s(self) -> float:
        return self.ends_s + PAUSE_S + 2 * self.wait_s

    @property
    def next_wait_s(self) -> float:
        return min(2 * self.wait_s, LONGEST_WAIT_S)

    def leave_out(self, record: logging.LogRecord) -> None:
        self.left_out += 1
        self.name, self.level, self.created_s = record.name, record.levelno, record.created
        self.text = record.getMessage().partition("\n")[0][:LONGEST_KEPT]  # a traceback was told already

    def summary(self, remark: str) -> logging.LogRecord:
        """Return the line that tells of them."""
        at = time.strftime("%H:%M:%S", time.gmtime(self.created_s))
        text = f"{self.text} ({remark.format(count=self.left_out, at=at)})"
        return logging.LogRecord(self.name, self.level, "", 0, text, (), None)


_AGAIN: Final = "again: {count}, the last at {at} UTC"
_ALIKE: Final = "lines like this left out: {count}, the last at {at} UTC"


_Known = OrderedDict[Hashable, _Counted]


class Repeats:
    """Decides which lines are told. One thread at a time; `now_s` never goes back."""

    def __init__(self) -> None:
        self._texts: _Known = OrderedDict()
        self._places: _Known = OrderedDict()
        self._due_s = math.inf  # nothing is due before

    def __len__(self) -> int:
        """How much is remembered."""
        return len(self._texts) + len(self._places)

    def take(self, record: logging.LogRecord, now_s: float) -> Iterator[logging.LogRecord]:
        """Take a line that comes, and yield what is to be told now."""
        if now_s >= self._due_s:
            yield from self.due(now_s)
        if record.levelno <= logging.DEBUG:
            yield record
            return
        place = (record.name, record.lineno)
        error = record.exc_info[1] if record.exc_info else None
        text = (*place, record.levelno, hash((record.getMessage(), repr(error))))
        known = self._texts.get(text)
        if known is not None and now_s < known.ends_s:
            known.leave_out(record)
            return
        at_place = self._places.get(place)
        if at_place is None:
            yield from _forget_oldest(self._places, _ALIKE)
            at_place = self._places[place] = self._begun(_Counted(now_s, BURST_S, 0))
        if at_place.told >= BURST_LINES:
            at_place.leave_out(record)
            return
        at_place.told += 1
        if known is None:
            yield from _forget_oldest(self._texts, _AGAIN)
        wait_s = FIRST_WAIT_S if known is None else known.next_wait_s
        self._texts[text] = self._begun(_Counted(now_s, wait_s, 1))
        yield record

    def due(self, now_s: float) -> Iterator[logging.LogRecord]:
        """Yield what is to be told of lines that were left out, now that their time is over."""
        for key, counted in [item for item in self._texts.items() if item[1].ends_s <= now_s]:
            if counted.left_out:
                yield counted.summary(_AGAIN)
                self._texts[key] = _Counted(now_s, counted.next_wait_s, 1)
            elif now_s >= counted.forgotten_s:
                del self._texts[key]
        for key, counted in [item for item in self._places.items() if item[1].ends_s <= now_s]:
            del self._places[key]
            if counted.left_out:
                yield counted.summary(_ALIKE)
                self._places[key] = _Counted(now_s, min(2 * counted.wait_s, LONGEST_BURST_S), 0)
        later = (one.ends_s if one.ends_s > now_s else one.forgotten_s for one in self._texts.values())
        self._due_s = min((*later, *(one.ends_s for one in self._places.values())), default=math.inf)

    def _begun(self, counted: _Counted) -> _Counted:
        self._due_s = min(self._due_s, counted.ends_s)
        return counted

    def rest(self) -> Iterator[logging.LogRecord]:
        """Yield what was left out until now, whether or not its time is over: at the end of a process."""
        for counted in self._texts.values():
            if counted.left_out:
                yield counted.summary(_AGAIN)
        for counted in self._places.values():
            if counted.left_out:
                yield counted.summary(_ALIKE)
        self._texts.clear()
        self._places.clear()


def _forget_oldest(known: _Known, remark: str) -> Iterator[logging.LogRecord]:
    """Make room for one more; what was left out of the oldest is told now."""
    if len(known) >= MOST_KNOWN:
        _, counted = known.popitem(last=False)
        if counted.left_out:
            yield counted.summary(remark)
