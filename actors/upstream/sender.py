"""Messages on their way from the queues of the store to the connections of their sources, in turns.

Every source has a window of its own at the store and on its connection, and sends one message when its turn
comes; so one without backlog is served at once, and one whose connection hangs holds up nobody.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from typing import Final

from actors.kernel.base import EdgeActor
from actors.store.messages import Attach, Delivered, Detach, Ready, Undeliverable
from actors.upstream.connection import CloudFault
from actors.upstream.rate import Bucket
from actors.upstream.source import SOURCE_BYTES, SOURCE_MESSAGES, Source
from messaging.errors import EnvelopeError
from messaging.message import decode_header

log = logging.getLogger(__name__)

MOST_IN_FLIGHT: Final = 1024  # messages, of all sources that send, in equal shares …
LEAST_SHARE: Final = 4  # … of so many at least
MOST_BYTES: Final = 8 * 1024 * 1024  # the same
WINDOW_BYTES: Final = 512 * 1024  # of one source, handed over by the store


class Sender:
    """A part of the actor of the link, which calls it."""

    def __init__(self, actor: EdgeActor, store: str, messages_per_s: float | None) -> None:
        self._actor = actor
        self._store = store
        self._bucket = Bucket(messages_per_s)
        self._ring: deque[Source] = deque()  # those that may have something to send, the next one first
        self._flying: dict[str, Source] = {}  # those that may have something on its way
        self._touched: dict[str, Source] = {}  # those of which messages arrived in this turn
        self._attachments = itertools.count(1)
        self._numbers = itertools.count(1)
        self.sent = 0

    def start(self) -> None:
        """Count attachments from where no actor before has."""
        self._attachments = itertools.count(int(self._actor.clock.monotonic_s() * 1e6) + 1)

    # the store

    def attach(self, source: Source) -> None:
        """Ask for the messages of a source, from the first that was not delivered."""
        self._tell_arrived(source)
        source.attachment = next(self._attachments)
        source.waits = False
        source.used_s = self._actor.clock.monotonic_s()
        attach = Attach(source.queue, source.attachment, SOURCE_MESSAGES, WINDOW_BYTES)
        self._actor.tell(self._store, attach)

    def detach(self, source: Source) -> None:
        """Take no more of a source; what is on its way still counts when it arrives."""
        self._tell_arrived(source)
        if source.attachment:
            self._actor.tell(self._store, Detach(source.queue))
            source.attachment = 0
        source.waits = source.waits or bool(source.held or source.in_flight)
        source.held.clear()

    def forget_attachments(self, sources: list[Source]) -> None:
        """The store has started again and knows of nobody."""
        for source in sources:
            if source.attachment:
                source.attachment = 0
                source.waits = True
                source.held.clear()

    def ready(self, source: Source, message: Ready) -> None:
        """Take messages from the store; those for an earlier attachment come again."""
        if source.attachment and message.attachment == source.attachment:
            source.hold(message.runs)
            source.used_s = self._actor.clock.monotonic_s()
            self.may_send(source)

    def may_send(self, source: Source) -> None:
        """Give a source its turn."""
        if source.held and source not in self._ring:
            self._ring.append(source)

    # the cloud

    def arrived(self, source: Source, number: int, now_s: float) -> None:
        """The cloud has a message."""
        if source.arrive(number, now_s):
            self.sent += 1
            self._touched[source.identity] = source

    def refused(self, source: Source, number: int, fault: CloudFault) -> None:
        """The cloud will never take a message."""
        position = source.refuse(number)
        if position is not None:
            self._drop(source, position, fault.reason)

    def drop(self, source: Source, position: int, reason: str) -> None:
        """Give a message up; others of its source go on."""
        self._tell_arrived(source)
        self._drop(source, position, reason)

    def _drop(self, source: Source, position: int, reason: str) -> None:
        log.error("upstream: a message of '%s' cannot be sent and is dropped: %s", source.identity, reason)
        ranges = ((position, position),)
        self._actor.tell(self._store, Undeliverable(source.queue, source.attachment, ranges))

    # turns

    def pump(self, now_s: float) -> float | None:
        """Send as much as may be sent now; return after how many seconds the rate allows more, or None."""
        ring = self._ring
        for identity in [identity for identity, source in self._flying.items() if not source.in_flight]:
            del self._flying[identity]
        senders = len({source.identity for source in ring} | self._flying.keys()) if ring else 1
        share = max(LEAST_SHARE, MOST_IN_FLIGHT // senders)
        share_bytes = min(SOURCE_BYTES, MOST_BYTES // senders)
        full = 0  # in a row
        while full < len(ring):
            source = ring[0]
            if not source.may_send:
                ring.popleft()
            elif not source.has_room(share, share_bytes):
                ring.rotate(-1)
                full += 1
            elif not self._bucket.take(now_s):
                return self._bucket.wait_s()
            else:
                ring.rotate(-1)
                full = 0
                self._send_next(source, now_s)
        return None

    def _send_next(self, source: Source, now_s: float) -> None:
        held = source.held.popleft()
        try:
            message = decode_header(held.header, held.body)
        except EnvelopeError as exc:
            self._drop(source, held.position, str(exc))
            return
        assert source.connection is not None
        number = next(self._numbers)
        source.send(number, held.position, message.size_bytes, now_s)
        self._flying[source.identity] = source
        source.connection.send(number, message)

    def flush(self) -> None:
        """Tell the store what arrived. Once per turn."""
        touched, self._touched = self._touched, {}
        for source in touched.values():
            self._tell_arrived(source)

    def _tell_arrived(self, source: Source) -> None:
        ranges = source.take_arrived()
        if ranges:
            self._actor.tell(self._store, Delivered(source.queue, source.attachment, ranges))
