"""What the store knows of one consumer: what it was sent, how much more it takes, what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from actors.metrics.hub_metrics import Arrived, Flight
from actors.store.stored import RANKS, Run, positions_of_rank, rank_of

READY_BYTES: Final = 4 * 1024 * 1024  # new messages kept in memory for a consumer that is nearly up to date
PATIENCE_S: Final = 10.0  # longest that a lower priority waits for its share …
READ_PART: Final = 4  # of a window has to be free before more is read for it
SHARE_MESSAGES: Final = 100  # … of so many messages, while higher ones keep the consumer busy


class _Sent(Struct):
    """A run that is on its way: how many of its messages are not yet delivered, and what they weigh."""

    last: int
    left: int
    size_bytes: int  # as if all of a run weighed the same
    flight: Flight | None = None


class _Lane(Struct, eq=False):
    """The messages of one priority. Its cursor only moves back over what was not sent."""

    cursor: int  # every message of this priority up to here was sent or is in `ready`
    last: int  # the highest position there can be
    behind: bool = True  # there may be messages behind the cursor that are not in memory
    unread: bool = True  # never read, so that its cursor is where it began
    waits_since_s: float = 0.0  # for its next share, monotonic
    # With what each weighs, counted once. None as long as there was nothing: an empty deque takes 600 bytes,
    # and most lanes of most consumers are never used.
    ready: deque[tuple[Run, int]] | None = None


class Wanted(NamedTuple):
    """What to read from the database next: at most so many messages behind one position, up to another."""

    after_position: int
    last_position: int
    most: int
    most_bytes: int  # except that one message is always wanted


class Consumer:
    """The place of one consumer in the queues of its endpoint. No I/O: its owner reads the database for it.

    Each priority is a lane of its own, in strict order. Lanes take turns like this: the highest that has
    something goes first; but one that has waited for PATIENCE_S gets a share of SHARE_MESSAGES before it.
    So a priority that waits gets 100 messages every 10 s at least, times the number of those that wait as
    long, whatever comes in above it, as long as the consumer takes anything.

    Works on runs (messages with consecutive positions), so that nothing is done per message. A lane that is
    not *behind* gets new messages without a read. Times are monotonic, in seconds.
    """

    def __init__(
        self,
        endpoint_id: str,
        address: str,
        attachment: int,
        window_messages: int,
        window_bytes: int,
        now_s: float,
    ) -> None:
        self.endpoint_id = endpoint_id
        self.address = address
        self.attachment = attachment
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._lanes = [
            _Lane(first - 1, last, waits_since_s=now_s)
            for first, last in map(positions_of_rank, range(RANKS))
        ]
        self._waiting = list(self._lanes)  # those that have something, or may have; the highest first
        self._sharing: _Lane | None = None  # it goes first, for so many messages more
        self._share_left = 0
        self._sent: dict[int, _Sent] = {}  # by first position, in the order of sending
        self._sent_messages = 0
        self._sent_bytes = 0
        self._ready_bytes = 0

    @property
    def waits(self) -> bool:
        """Whether something waits for room in the window, or may."""
        return bool(self._waiting)

    @property
    def room(self) -> int:
        """How many more messages may be sent now; 0 while the window of bytes is used up.

        The last message may exceed the window of bytes, so that one larger than the window leaves at all.
        """
        return 0 if self._room_bytes <= 0 else self._window_messages - self._sent_messages

    @property
    def _room_bytes(self) -> int:
        return self._window_bytes - self._sent_bytes

    def wanted(self, now_s: float) -> Wanted | None:
        """Return what to read now, for `read`; None when nothing more can be sent.

        Nor while less than a part of the window is free: whoever takes messages one by one would have the
        database read for each, and the consumer has enough on its way meanwhile.
        """
        room, room_bytes = self.room, self._room_bytes
        lane = self._next_lane(now_s)
        if room <= 0 or lane is None or lane.ready:
            return None
        if self._sent and (
            room < self._window_messages // READ_PART or room_bytes < self._window_bytes // READ_PART
        ):
            return None
        last = lane.last
        for lower in self._lanes[rank_of(last) + 1 :]:  # mostly they are empty, which one read tells
            if not lower.unread:
                break
            last = lower.last
        return Wanted(lane.cursor, last, room, room_bytes)

    def offer(self, run: Run, now_s: float) -> None:
        """Take note of messages that were just stored."""
        lane = self._lanes[rank_of(run.first_position)]
        if lane.behind:
            return  # they will be read
        if not lane.ready:
            self._waits(lane, now_s)
        if self._ready_bytes >= READY_BYTES:
            lane.behind = True
        else:
            self._keep(lane, run)

    def read(self, wanted: Wanted, runs: Iterable[Run]) -> None:
        """Take what was read; a priority behind which others begin, or nothing, is at its end."""
        lanes = self._lanes[rank_of(wanted.after_position + 1) : rank_of(wanted.last_position) + 1]
        reached = lanes[-1]
        for run in runs:
            reached = self._lanes[rank_of(run.first_position)]
            self._keep(reached, run)
        for lane in lanes:
            lane.unread = False
            if lane is reached and lane.ready:
                break  # there may be more of it, and of those below
            lane.behind = False
            if not lane.ready:
                self._waiting.remove(lane)

    def forget_ready(self) -> None:
        """Have everything that was not sent read again: it may not be there any more."""
        for lane in self._lanes:
            if lane.ready:
                lane.cursor = lane.ready[0][0].first_position - 1
                lane.ready.clear()
                lane.behind = True
        self._ready_bytes = 0

    def take(self, now_s: float, flight: Callable[[Run], Flight | None] = lambda run: None) -> list[Run]:
        """Return what is to be sent now, and count it as sent; `flight` says what to remember of a run."""
        taken: list[Run] = []
        while (room := self.room) > 0:
            lane = self._next_lane(now_s)
            if lane is None or not lane.ready:
                break
            run = self._next_run(lane, min(room, self._share_left or room))
            if self._share_left:  # then it is this lane's
                self._share_left -= len(run.entries)
            lane.waits_since_s = now_s
            self._sent[run.first_position].flight = flight(run)
            taken.append(run)
        return taken

    def delivered(self, ranges: Iterable[tuple[int, int]]) -> list[Arrived]:
        """Make room: these positions have arrived, each said once. Return them by their runs."""
        arrived: list[Arrived] = []
        for first, last in ranges:
            missing = last - first + 1
            done: list[int] = []
            for start, sent in self._sent.items():  # mostly one of the first: in the order of sending
                begin = max(first, start)
                overlap = min(last, sent.last) - begin + 1
                if overlap <= 0:
                    continue
                if sent.flight is not None:
                    arrived.append(Arrived(sent.flight, begin - start, begin, overlap))
                freed_bytes = sent.size_bytes * overlap // sent.left
                sent.left -= overlap
                sent.size_bytes -= freed_bytes
                self._sent_bytes -= freed_bytes
                self._sent_messages -= overlap
                missing -= overlap
                if not sent.left:
                    done.append(start)
                if not missing:
                    break
            for start in done:
                del self._sent[start]
        return arrived

    def _next_lane(self, now_s: float) -> _Lane | None:
        """Return the lane whose turn it is."""
        waiting = self._waiting
        if self._share_left:
            if self._sharing in waiting:
                return self._sharing
            self._share_left = 0  # it had less
        if len(waiting) <= 1:
            return waiting[0] if waiting else None
        longest = min(waiting[1:], key=lambda lane: lane.waits_since_s)
        if now_s - longest.waits_since_s < PATIENCE_S:
            return waiting[0]
        self._sharing, self._share_left = longest, SHARE_MESSAGES
        return longest

    def _waits(self, lane: _Lane, now_s: float) -> None:
        lane.waits_since_s = now_s
        self._waiting.append(lane)
        if len(self._waiting) > 1:
            self._waiting.sort(key=lambda one: one.last)

    def _keep(self, lane: _Lane, run: Run) -> None:
        size_bytes = run.size_bytes
        if lane.ready is None:
            lane.ready = deque()
        lane.ready.append((run, size_bytes))
        lane.cursor = run.last_position
        self._ready_bytes += size_bytes

    def _next_run(self, lane: _Lane, most: int) -> Run:
        """Take at most so many messages out of a lane, one at least, and count them as sent."""
        assert lane.ready is not None
        run, size_bytes = lane.ready.popleft()
        self._ready_bytes -= size_bytes
        if size_bytes > self._room_bytes:
            fitting = run.fitting(self._room_bytes)
            most = min(most, 1 if fitting is None else len(fitting.entries))
        if len(run.entries) > most:
            middle = run.first_position + most
            rest = run.cut(middle, run.last_position)
            head = run.cut(run.first_position, middle - 1)
            assert rest is not None
            assert head is not None
            lane.ready.appendleft((rest, rest.size_bytes))
            self._ready_bytes += lane.ready[0][1]
            run, size_bytes = head, head.size_bytes
        if not lane.ready and not lane.behind:
            self._waiting.remove(lane)
        count = len(run.entries)
        self._sent[run.first_position] = _Sent(run.last_position, count, size_bytes)
        self._sent_messages += count
        self._sent_bytes += size_bytes
        return run
