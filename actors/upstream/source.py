"""What the link knows of one identity: its connection, what is on its way, what it wants, what went wrong.

A plain class without I/O: the actor of the link feeds it, asks it, and does the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Final

from msgspec import Struct

from actors.upstream import link_state
from actors.upstream.connection import CloudConnection, CloudFault
from actors.upstream.events import Observer
from actors.upstream.rate import Window, is_probed
from messaging.envelope import Envelope
from messaging.topics import Feature
from messaging.upstream_queues import upstream_queue

SOURCE_MESSAGES: Final = 512  # handed over by the store and not yet taken by the cloud
SOURCE_BYTES: Final = 512 * 1024
WANTED: Final = frozenset({Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D})
PROOFS: Final = 10  # connections in a row that one message, alone, has ended: then it is the message

Range = tuple[int, int]


class Phase(Enum):
    """How far the connection of an identity is."""

    CLOSED = "closed"
    QUEUED = "waiting for another connection to be closed"
    ASKING = "asking for its key"
    OPENING = "connecting"
    OPEN = "connected"
    PROBING = "waiting for the cloud to be reached"
    WAITING = "waiting after an error"


HOLDS_PLACE: Final = frozenset({Phase.ASKING, Phase.OPENING, Phase.OPEN})


class Held(Struct, frozen=True):
    """A message from the store that is not on its way yet."""

    position: int
    header: bytes
    body: bytes


class InFlight(Struct, frozen=True):
    """A message that the connection has."""

    position: int
    size_bytes: int
    sent_s: float  # monotonic


class TwinRequest(Struct):
    """What the twin's actor asked: FetchTwin, or SendReported with its patch."""

    envelope: Envelope
    patch: bytes | None
    number: int = 0  # below 0 while the connection has it


class Source:
    """The state of one identity. Times are monotonic unless they are named otherwise."""

    def __init__(self, identity: str, now_s: float, now_utc_s: float) -> None:
        self.identity = identity
        self.queue = upstream_queue(identity)
        self.phase = Phase.CLOSED
        self.since_utc_s = now_utc_s
        self.retry_utc_s = 0.0  # when it is tried again, after a fault that has to be waited for
        self.fault: CloudFault | None = None
        self.connection: CloudConnection | None = None
        self.observer: Observer | None = None
        self.has_client = False  # it is connected to this hub
        self.model_id = ""  # that its client has announced last
        self.features: frozenset[Feature] = frozenset()  # that its client wants
        self.twins: deque[TwinRequest] = deque()  # in order; those the connection has come first
        self.sent = 0
        # the store's side
        self.waits = False  # messages wait in the store, as far as it was told
        self.attachment = 0  # 0: not attached
        self.held: deque[Held] = deque()
        self.in_flight: dict[int, InFlight] = {}  # by number, in the order of sending
        self.arrived: list[int] = []  # positions that the store has not been told yet
        self.window = Window(SOURCE_MESSAGES)
        self.in_flight_bytes = 0
        # how it goes
        self.is_settled = False  # since the link is up its twin had its turn, so messages may follow
        self.twin_done_s = now_s
        self.failures = 0  # in a row
        self.losses = 0  # of connections, ever
        self.opened_s = now_s  # when the connection was begun, or stood
        self.moved_s = now_s  # when something last came from the cloud, or was first asked of it
        self.used_s = now_s  # when it last was of use
        self.is_leaving = False  # its place is wanted by another: it closes once nothing is on its way
        self.was_refused = False  # the next key must be a fresh one
        self._suspect: int | None = None
        self._strikes = 0

    # what it is for

    @property
    def wants_connection(self) -> bool:
        """Whether there is something to be done over a connection."""
        return bool(self.features or self.is_busy)

    @property
    def is_busy(self) -> bool:
        """Whether something is to be sent, or is on its way."""
        return bool(self.waits or self.held or self.in_flight or self.twins)

    def enter(self, phase: Phase, now_utc_s: float) -> None:
        """Be in another phase from now on."""
        if phase is not self.phase:
            self.phase = phase
            self.since_utc_s = now_utc_s

    # messages

    def hold(self, runs: Iterable[tuple[int, tuple[bytes, ...], tuple[tuple[int, bytes], ...]]]) -> None:
        """Take what the store has made ready."""
        for first, headers, entries in runs:
            for position, (index, body) in enumerate(entries, first):
                self.held.append(Held(position, headers[index], body))

    @property
    def may_send(self) -> bool:
        """Whether messages may go over the connection as it is."""
        return (
            bool(self.held)
            and self.phase is Phase.OPEN
            and not self.is_leaving
            and self.observer is not None
            and not self.observer.stopped
        )

    def has_room(self, share: int, share_bytes: int) -> bool:
        """Whether one more message may be on its way, when each source may have so many."""
        if not self.in_flight:
            return True
        return len(self.in_flight) < min(self.window.limit, share) and self.in_flight_bytes < share_bytes

    def send(self, number: int, position: int, size_bytes: int, now_s: float) -> None:
        """Note that a message is on its way."""
        if not self.is_waited_for:
            self.moved_s = now_s
        self.in_flight[number] = InFlight(position, size_bytes, now_s)
        self.in_flight_bytes += size_bytes

    @property
    def is_waited_for(self) -> bool:
        """Whether the cloud owes an answer."""
        return bool(self.in_flight) or any(request.number for request in self.twins)

    def arrive(self, number: int, now_s: float) -> bool:
        """Note that the cloud has a message; False when it was none of those on their way."""
        sent = self._leave(number)
        if sent is None:
            return False
        self.window.arrived(sent.sent_s, now_s)
        self.arrived.append(sent.position)
        self.sent += 1
        self.failures = 0
        self._suspect, self._strikes = None, 0
        return True

    def refuse(self, number: int) -> int | None:
        """Note that the cloud will never take a message; return its position."""
        sent = self._leave(number)
        return None if sent is None else sent.position

    def _leave(self, number: int) -> InFlight | None:
        sent = self.in_flight.pop(number, None)
        if sent is not None:
            self.in_flight_bytes -= sent.size_bytes
        return sent

    def take_arrived(self) -> tuple[Range, ...]:
        """Return and forget which positions arrived since it was last asked."""
        arrived, self.arrived = self.arrived, []
        return ranges_of(arrived)

    def let_go(self) -> None:
        """Forget what the store handed over and the cloud has not got: it will hand that over again."""
        self.attachment = 0
        self.waits = self.waits or bool(self.held or self.in_flight)
        self.held.clear()
        self.in_flight.clear()
        self.in_flight_bytes = 0

    def row(self) -> link_state.Source:
        """Return what LinkState tells of this source."""
        fault = self.fault
        kind, reason = ("", "") if fault is None else (fault.kind.value, fault.reason)
        under_way = len(self.held) + len(self.in_flight)
        retry_s = self.retry_utc_s if self.phase is Phase.WAITING else 0.0
        return self.identity, self.phase.value, self.since_utc_s, kind, reason, self.sent, under_way, retry_s

    # a message that ends every connection

    def suspect_after_loss(self, has_stood: bool) -> int | None:
        """Judge by what was on its way when the connection was lost; return a message that has to go.

        IoT Hub closes the connection on a message it does not like, without a word. Whether it was that, or
        the line, shows in that it happens again and again with this message alone, while another connection
        over the same line stands.

        Args:
            has_stood: Another connection stood all the time.
        """
        if not self.in_flight:
            return None
        head = next(iter(self.in_flight.values())).position
        if head != self._suspect:
            self._suspect, self._strikes = head, 0
        elif len(self.in_flight) == 1:
            self._strikes = self._strikes + 1 if has_stood else 0
        self.window.start_over(alone=True)
        return head if self._strikes >= PROOFS else None

    def line_was_broken(self) -> None:
        """It was not for this source or its messages that the cloud was not reached."""
        self._suspect, self._strikes = None, 0
        if self.fault is None or is_probed(self.fault.kind):
            self.failures = 0


def ranges_of(positions: list[int]) -> tuple[Range, ...]:
    """Return positions as ranges of first and last, each one included."""
    ranges: list[Range] = []
    for position in sorted(positions):
        if ranges and ranges[-1][1] == position - 1:
            ranges[-1] = (ranges[-1][0], position)
        else:
            ranges.append((position, position))
    return tuple(ranges)
