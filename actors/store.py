"""Owns the message database: takes messages in, hands them to consumers, forgets what was delivered.

Understands: Append, Attach, Detach, Delivered, Expired, KeepQueues, SaveSession, LoadSessions,
             ForgetClient, …
Tells:       whoever published (Stored), consumers (Ready), heads (SessionSaved, Sessions)
Started by:  HubRootActor; after a restart consumers attach again, queues are read from the database

Everything that one turn brought is committed in one transaction, and only then answered: an acknowledged
message is on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from actors.append_guard import AppendGuard
from actors.base import EdgeActor
from actors.c2d_queues import is_c2d_queue, queue_of
from actors.consumer import Consumer
from actors.own_expiry import with_own_expiry
from actors.ports import MessageStore
from actors.stored import Match, Run, Segment, gathered, position_of, runs_of, segments_of
from actors.trail import Hops, StorageTrail, TraceStorage
from messaging.envelope import Envelope
from messaging.errors import StoreDamaged, StoreError, StoreFull
from messaging.kinds import data_message, kind_of, message
from messaging.lifecycle import RequestFailed

log = logging.getLogger(__name__)

SWEEP_S: Final = 5.0  # how often expired messages are looked for …
BUSY_SWEEP_S: Final = 0.02  # … and how soon again while there is more to do: a slice takes 2 ms
SWEEP_ROWS: Final = 1000  # deleted in one go, so that no turn takes long
MOST_DROPS: Final = 50  # slices that go for one batch; a slice of small messages is 100 KiB
FORGET_S: Final = 0.05  # latest, after it was delivered, that a message is forgotten
FORGET_MESSAGES: Final = 2000
READ_MESSAGES: Final = 512  # from the database at once, for one consumer
READ_BYTES: Final = 1024 * 1024


@data_message
class Append:
    """Store these messages. Sent by the router in the name of the head, which is answered with Stored.

    A header and its matches serve all entries that name its index; a match is (endpoint, priority, time to
    live in seconds or None).
    """

    identity: str
    epoch: int  # of the connection
    index: int  # counts the batches of one connection from 0; a gap means that one was lost
    headers: tuple[tuple[bytes, tuple[tuple[str, int, float | None], ...]], ...]
    entries: tuple[tuple[int, bytes], ...]  # (index of its header, body)


@data_message
class Stored:
    """These batches are on disk: the correlation ids of their Publish."""

    batches: tuple[int, ...]


# Attach and Detach travel in the data lane: they must not overtake what was delivered before them, or that
# would be sent again.


@data_message
class Attach:
    """Send me the messages of this endpoint, so many at once. Those that waited longest come first."""

    endpoint_id: str
    attachment: int  # comes back with each Ready, so that one for an earlier attachment can be told
    window_messages: int
    window_bytes: int


@data_message
class Detach:
    """No more of this endpoint. What was sent and not yet said to be delivered will be sent again."""

    endpoint_id: str


@data_message
class Ready:
    """Messages for a consumer, in order of delivery, as runs: (first position, headers, entries).

    The positions in a run are consecutive; an entry is (index of its header, body).
    """

    endpoint_id: str
    attachment: int
    runs: tuple[tuple[int, tuple[bytes, ...], tuple[tuple[int, bytes], ...]], ...]


@data_message
class Delivered:
    """The consumer has these messages now, for good."""

    endpoint_id: str
    attachment: int  # of the Ready; one for an earlier attachment makes no room in the window of this one
    ranges: tuple[tuple[int, int], ...]  # first and last position, both included


@data_message
class Undeliverable:
    """The consumer can never take these messages: drop them as poison."""

    endpoint_id: str
    attachment: int
    ranges: tuple[tuple[int, int], ...]  # first and last position, both included


@data_message
class Expired:
    """The consumer left these messages out: their time to live is over. The next sweep counts them."""

    endpoint_id: str
    attachment: int
    ranges: tuple[tuple[int, int], ...]  # first and last position, both included


@message
class SaveSession:
    """Keep the subscriptions of a client, as (filter, granted QoS). Answered with SessionSaved."""

    identity: str
    subscriptions: tuple[tuple[str, int], ...]


@message
class DeleteSession:
    """Forget the session of a client. Answered with SessionSaved."""

    identity: str


@message
class ForgetClient:
    """This identity is gone: forget its session and the messages from the cloud that wait for it.

    Answered with SessionSaved.
    """

    identity: str


@message
class SessionSaved:
    """The session is on disk."""

    identity: str


@message
class LoadSessions:
    """Tell all kept sessions. Answered with Sessions."""


@message
class Sessions:
    """All kept sessions: identity → subscriptions."""

    sessions: dict[str, tuple[tuple[str, int], ...]]


@data_message
class KeepQueues:
    """Routes lead to these endpoints now, and will to no others: give up what waits for others.

    In the data lane, behind what was routed before.
    """

    endpoint_ids: tuple[str, ...]


@message
class DropDue:
    """Timer: give up more of the queues that no route leads to."""


@message
class SweepDue:
    """Timer: delete what has expired, give space back."""


@message
class ForgetDue:
    """Timer: forget what was delivered, though nothing new came."""


@dataclass(slots=True)
class _Turn:
    """What waits for the commit at the end of the turn."""

    appends: list[tuple[Envelope, Append]]
    delivered: dict[str, list[tuple[int, int]]]
    poison: list[Undeliverable]
    sessions: list[tuple[Envelope, SaveSession | DeleteSession | ForgetClient]]

    def __bool__(self) -> bool:
        return bool(self.appends or self.delivered or self.poison or self.sessions)


class StoreActor(EdgeActor):
    """The only owner of the message database."""

    def __init__(
        self,
        open_store: Callable[[], MessageStore],
        guard: AppendGuard,
        trail: StorageTrail,
        *,
        drops_oldest: bool = False,
        cleanup_s: float = SWEEP_S,
    ) -> None:
        """Keep what is needed.

        Args:
            open_store: Opens the database; called in this actor's thread.
            guard: Outlives restarts.
            trail: Outlives restarts.
            drops_oldest: Without space, the oldest messages of the lowest priority go for new ones, which
                are refused otherwise.
            cleanup_s: How often what has expired is removed from the disk.
        """
        self._cleanup_s = cleanup_s
        self._next_cleanup_s = 0.0  # monotonic
        self._open_store = open_store
        self._drops_oldest = drops_oldest
        self._trail = trail
        self._store: MessageStore | None = None
        self._guard = guard  # outlives a restart: the order of a publisher must hold over it
        self._consumers: dict[str, Consumer] = {}
        self._turn = _Turn([], {}, [], [])
        self._done = 0  # messages delivered and not yet forgotten
        self._forget_timer = False
        self._to_serve: dict[str, Consumer] = {}
        self._unserved: dict[str, Consumer] = {}  # because the database could not be read
        self._quiet = True  # nothing was committed since the last sweep
        self._damage: StoreDamaged | None = None  # of the database, after which nothing is done with it
        self._trouble = ""  # why the database refuses, as last said to the log
        self._orphans: dict[str, int] = {}  # endpoints that no route leads to → messages given up so far
        self._drop_timer = False

    def on_start(self) -> None:
        self._store = self._open_store()
        self.set_timer(SWEEP_S, SweepDue())

    def on_stop(self) -> None:
        if self._store is not None:
            try:
                self._finish(self._turn)
            finally:
                self._store.close()
                self._store = None

    # the data path

    def on_append(self, message: Append) -> None:
        refusal = self._guard.check(message.identity, message.epoch, message.index)
        if refusal:
            self.reply(RequestFailed("Append", self.address, refusal))
            return
        self._turn.appends.append((self.envelope, message))

    def on_delivered(self, message: Delivered) -> None:
        self._make_room(message)
        self._follow("delivered", message)
        self._turn.delivered.setdefault(message.endpoint_id, []).extend(message.ranges)

    def on_undeliverable(self, message: Undeliverable) -> None:
        self._make_room(message)
        self._follow("poison", message)
        self._turn.poison.append(message)

    def on_expired(self, message: Expired) -> None:
        self._follow("expired", message)
        self._serve_soon(message)

    def on_forget_due(self, message: ForgetDue) -> None:
        self._forget_timer = False
        self._done = max(self._done, FORGET_MESSAGES)

    def on_turn_end(self) -> None:
        """Commit everything that this turn brought, then answer all of it.

        What was delivered is forgotten with the next commit, for each costs a sync to disk: a crash before
        it only delivers again.
        """
        turn = self._turn
        if turn.appends or turn.sessions or self._done >= FORGET_MESSAGES:
            self._turn = _Turn([], {}, [], [])
            self._done = 0
            self._finish(turn)
        elif turn and not self._forget_timer:
            self._forget_timer = True
            self.set_timer(FORGET_S, ForgetDue())
        served, self._to_serve = self._to_serve, {}
        for consumer in served.values():
            self._serve(consumer)

    def _finish(self, turn: _Turn) -> None:
        self._quiet = False
        if self._damage is not None:  # found earlier in this turn
            self._refuse(turn, self._damage)
            return
        try:
            fresh = self._commit(turn)
        except StoreDamaged as exc:
            self._refuse(turn, exc)
            self._end_damaged(exc)
        except StoreFull as exc:
            self._finish_without_space(turn, exc)
        except StoreError as exc:
            self._refuse(turn, exc)
        except Exception:
            if turn.appends and (len(turn.appends) > 1 or turn.delivered or turn.poison or turn.sessions):
                log.exception("one of %d batches cannot be stored; each is tried alone", len(turn.appends))
                self._commit_one_by_one(turn)
            elif turn.appends:
                self._commit_around_poison(*turn.appends[0])
            else:
                raise
        else:
            self._trouble = ""
            self._answer(turn, fresh)

    def _commit(self, turn: _Turn) -> dict[str, list[Run]]:
        """Write one transaction; return the new messages of each endpoint that waits for them."""
        assert self._store is not None
        store, now_s = self._store, self.clock.now_s()
        segments = gathered(
            [
                segment
                for _, append in turn.appends
                for segment in segments_of(with_own_expiry(append.headers, now_s), append.entries)  # type: ignore[arg-type]
            ]
        )
        with store.transaction():
            first = store.append(segments, now_s) if segments else 0
            for endpoint_id, ranges in turn.delivered.items():
                store.delivered(endpoint_id, ranges)
            for given_up in turn.poison:
                store.dropped(given_up.endpoint_id, given_up.ranges, "poison")
            for _, request in turn.sessions:
                if isinstance(request, SaveSession):
                    store.save_session(request.identity, msgpack.packb(request.subscriptions))
                    continue
                store.delete_session(request.identity)
                if isinstance(request, ForgetClient):
                    while store.drop_queue(queue_of(request.identity), "removed", SWEEP_ROWS) == SWEEP_ROWS:
                        pass  # in slices; the cloud lets 50 wait
        self._trail.stored(now_s, first, segments)
        fresh: dict[str, list[Run]] = {}
        for endpoint_id, run in runs_of(segments, first):
            if endpoint_id in self._consumers:
                fresh.setdefault(endpoint_id, []).append(run)
        return fresh

    def _answer(self, turn: _Turn, fresh: dict[str, list[Run]]) -> None:
        stored: dict[str, list[int]] = {}
        for envelope, _ in turn.appends:
            stored.setdefault(envelope.sender, []).append(envelope.correlation_id)
        for head, batches in stored.items():
            self.tell(head, Stored(tuple(batches)))
        for envelope, request in turn.sessions:
            self.reply(SessionSaved(request.identity), envelope)
        now_s = self.clock.monotonic_s()
        for endpoint_id, runs in fresh.items():
            consumer = self._consumers[endpoint_id]
            for run in runs:
                consumer.offer(run, now_s)
            self._to_serve[endpoint_id] = consumer
        self._read_anew(queue_of(who.identity) for _, who in turn.sessions if isinstance(who, ForgetClient))

    def _finish_without_space(self, turn: _Turn, error: StoreFull) -> None:
        """Forget what was delivered, which makes space; store what fits, or what older ones make way for.

        One batch after the other: a small one may fit where all of them do not.
        """
        if not turn.appends:
            self._refuse(turn, error)
            return
        if turn.delivered or turn.poison or turn.sessions:
            self._finish(_Turn([], turn.delivered, turn.poison, turn.sessions))
            self._finish(_Turn(turn.appends, {}, [], []))
        elif len(turn.appends) > 1:
            for append in turn.appends:
                self._finish(_Turn([append], {}, [], []))
        else:
            self._store_instead_of_oldest(turn, error)

    def _store_instead_of_oldest(self, turn: _Turn, error: StoreFull) -> None:
        """Store one batch in the place of older messages, if it may have that."""
        for _ in range(MOST_DROPS if self._drops_oldest else 0):
            if not self._drop_oldest():
                break
            try:
                fresh = self._commit(turn)
            except StoreFull as exc:
                error = exc
            else:
                self._answer(turn, fresh)
                return
        self._refuse(turn, error)

    def _drop_oldest(self) -> bool:
        """Give up a slice of what matters least; False when there is none."""
        assert self._store is not None
        try:
            with self._store.transaction():
                dropped = self._store.drop_oldest(SWEEP_ROWS)
        except StoreError as exc:
            self._report(exc)
            return False
        for endpoint_id, count in dropped.items():
            log.warning("%d messages for %s dropped: no space, and newer ones came", count, endpoint_id)
        self._read_anew(dropped)
        return bool(dropped)

    def _end_damaged(self, error: StoreDamaged) -> None:
        """End the process: its next start salvages what can be read, before anything else."""
        store, self._store = self._store, None
        if store is not None:
            self._damage = error
            store.close()
            self.context.give_up(str(error))

    def _commit_one_by_one(self, turn: _Turn) -> None:
        """Find the batch that is poison: everything in a transaction of its own."""
        for append in turn.appends:
            self._finish(_Turn([append], {}, [], []))
        self._finish(_Turn([], turn.delivered, turn.poison, turn.sessions))

    def _commit_around_poison(self, envelope: Envelope, message: Append) -> None:
        """Store a batch message by message, with an empty one, dropped as poison, for each that cannot be.

        So the batch is acknowledged, and its client does not send the poison for ever.
        """
        fresh: dict[str, list[Run]] = {}
        try:
            for at, entry in enumerate(message.entries):
                single = _single(message, at)
                try:
                    found = self._commit(_Turn([(envelope, single)], {}, [], []))
                except StoreError:
                    raise
                except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this message alone
                    self._drop_unstored(message, entry)
                    self.context.dead_letter(envelope._replace(correlation_id=0, body=_values(single)), exc)
                    log.error("a message of %s cannot be stored and is dropped", message.identity)
                else:
                    for endpoint_id, runs in found.items():
                        fresh.setdefault(endpoint_id, []).extend(runs)
        except StoreError as exc:
            self._answer(_Turn([], {}, [], []), fresh)
            self._refuse(_Turn([(envelope, message)], {}, [], []), exc)
        except Exception as exc:  # noqa: BLE001 - not even an empty message: it is not the messages
            self._answer(_Turn([], {}, [], []), fresh)
            self._guard.failed(message.identity, message.epoch)
            self.context.dead_letter(envelope, exc)
        else:
            self._answer(_Turn([(envelope, message)], {}, [], []), fresh)

    def _drop_unstored(self, message: Append, entry: tuple[int, bytes]) -> None:
        """Count a message that cannot be stored: accepted by each of its endpoints, and dropped as poison."""
        assert self._store is not None
        matches = tuple(Match(*match) for match in message.headers[entry[0]][1])
        with self._store.transaction():
            seq = self._store.append([Segment(matches, (b"",), ((0, b""),))], self.clock.now_s())
            for endpoint_id, priority, _ in matches:
                position = position_of(priority, seq)
                self._store.dropped(endpoint_id, [(position, position)], "poison")

    def _refuse(self, turn: _Turn, error: StoreError) -> None:
        """The database cannot take it: tell the publishers, keep what was delivered for the next turn."""
        self._report(error)
        for envelope, append in turn.appends:
            self._guard.failed(append.identity, append.epoch)
            self.reply(RequestFailed("Append", self.address, str(error)), envelope)
        for envelope, request in turn.sessions:
            self.reply(RequestFailed(type(request).__name__, self.address, str(error)), envelope)
        for endpoint_id, ranges in turn.delivered.items():
            self._turn.delivered.setdefault(endpoint_id, []).extend(ranges)
        self._turn.poison.extend(turn.poison)

    def _report(self, error: StoreError) -> None:
        """Tell the log, once: it is tried again with each batch, or many times a second."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("messages are refused until this is over: %s", error)

    # consumers

    def _make_room(self, message: Delivered | Undeliverable) -> None:
        self._done += sum(last - first + 1 for first, last in message.ranges)
        self._serve_soon(message)

    def _serve_soon(self, message: Delivered | Undeliverable | Expired) -> None:
        consumer = self._consumers.get(message.endpoint_id)
        if consumer is not None and consumer.attachment == message.attachment:
            consumer.delivered(message.ranges)
            self._to_serve[message.endpoint_id] = consumer

    def on_attach(self, message: Attach) -> None:
        consumer = Consumer(
            message.endpoint_id,
            self.envelope.sender,
            message.attachment,
            message.window_messages,
            message.window_bytes,
            self.clock.monotonic_s(),
        )
        self._consumers[message.endpoint_id] = consumer
        self._to_serve[message.endpoint_id] = consumer
        self._unserved.pop(message.endpoint_id, None)
        if self._turn.delivered or self._turn.poison:
            self._done = FORGET_MESSAGES  # now, or the queue is read with messages that have arrived already

    def on_detach(self, message: Detach) -> None:
        self._consumers.pop(message.endpoint_id, None)
        self._to_serve.pop(message.endpoint_id, None)
        self._unserved.pop(message.endpoint_id, None)

    def _serve(self, consumer: Consumer) -> None:
        """Send what the consumer's window has room for."""
        if self._damage is not None or consumer.endpoint_id in self._orphans:
            return  # an orphan is served again when its queue is empty
        try:
            self._serve_all(consumer)
        except StoreDamaged as exc:
            self._end_damaged(exc)
        except StoreError as exc:  # the next sweep tries again; the others are served meanwhile
            self._report(exc)
            self._unserved[consumer.endpoint_id] = consumer

    def _serve_all(self, consumer: Consumer) -> None:
        assert self._store is not None
        now_s = self.clock.monotonic_s()
        while True:
            runs = consumer.take(now_s)
            if runs:
                if self._trail.follows(consumer.endpoint_id):
                    self._trail.sent(self.clock.now_s(), consumer.endpoint_id, runs)
                ready = Ready(consumer.endpoint_id, consumer.attachment, tuple(runs))  # type: ignore[arg-type]
                self.tell(consumer.address, ready)
            wanted = consumer.wanted(now_s)
            if wanted is None:
                return
            found = self._store.read(
                consumer.endpoint_id,
                wanted.after_position,
                min(wanted.most, READ_MESSAGES),
                READ_BYTES,
                self.clock.now_s(),
                wanted.last_position,
            )
            consumer.read(wanted, found)

    def _read_anew(self, endpoint_ids: Iterable[str]) -> None:
        """Some of what waited for these is not there any more."""
        for endpoint_id in endpoint_ids:
            consumer = self._consumers.get(endpoint_id)
            if consumer is not None:
                consumer.forget_ready()
                self._to_serve[endpoint_id] = consumer

    # where messages went

    def _follow(self, hop: str, message: Delivered | Undeliverable | Expired) -> None:
        if self._trail.follows(message.endpoint_id):
            self._trail.happened(self.clock.now_s(), hop, message.endpoint_id, message.ranges)

    def on_trace_storage(self, message: TraceStorage) -> None:
        assert self._store is not None
        found, left = self._trail.find(message.message_id)
        now_s, hops = self.clock.now_s(), list(found.hops)
        for endpoint_id, position in left:
            runs = self._store.read(endpoint_id, position - 1, 1, 1, now_s)
            waits = bool(runs) and runs[0].first_position == position
            hops.append({"at_s": now_s, "hop": "waiting" if waits else "gone", "endpoint": endpoint_id})
        self.reply(Hops(tuple(hops), found.since_s, found.messages))

    # queues that no route leads to

    def on_keep_queues(self, message: KeepQueues) -> None:
        assert self._store is not None
        kept = set(message.endpoint_ids)
        self._orphans = {
            name: 0
            for name in self._store.endpoint_ids()
            if name not in kept and not is_c2d_queue(name)  # no route ever leads there
        }
        for endpoint_id in self._orphans:
            consumer = self._consumers.get(endpoint_id)
            if consumer is not None:
                consumer.forget_ready()
        for endpoint_id, consumer in self._consumers.items():
            if endpoint_id not in self._orphans:
                self._to_serve[endpoint_id] = consumer  # its queue was being given up, perhaps
        if self._orphans and self._turn.delivered:
            self._done = FORGET_MESSAGES  # what has arrived is delivered, not given up
        self._drop_soon(0.0)

    def on_drop_due(self, message: DropDue) -> None:
        """Give up a slice of one queue."""
        assert self._store is not None
        self._drop_timer = False
        endpoint_id = next(iter(self._orphans), "")
        if not endpoint_id:
            return
        try:
            with self._store.transaction():
                count = self._store.drop_queue(endpoint_id, "removed", SWEEP_ROWS)
        except StoreDamaged as exc:
            self._end_damaged(exc)
            return
        except StoreError as exc:
            self._report(exc)
            self._drop_soon(SWEEP_S)
            return
        self._orphans[endpoint_id] += count
        if count < SWEEP_ROWS:
            total = self._orphans.pop(endpoint_id)
            if total:
                log.warning("%d messages for %s dropped: no route leads there any more", total, endpoint_id)
            if endpoint_id in self._consumers:
                self._to_serve[endpoint_id] = self._consumers[endpoint_id]
        self._drop_soon(BUSY_SWEEP_S)

    def _drop_soon(self, after_s: float) -> None:
        if self._orphans and not self._drop_timer:
            self._drop_timer = True
            self.set_timer(after_s, DropDue())

    # sessions

    def on_save_session(self, message: SaveSession) -> None:
        self._turn.sessions.append((self.envelope, message))

    def on_delete_session(self, message: DeleteSession) -> None:
        self._turn.sessions.append((self.envelope, message))

    def on_forget_client(self, message: ForgetClient) -> None:
        self._turn.sessions.append((self.envelope, message))

    def on_load_sessions(self, message: LoadSessions) -> None:
        assert self._store is not None
        kept = {
            identity: msgpack.unpackb(record, use_list=False)
            for identity, record in self._store.sessions().items()
        }
        self.reply(Sessions(kept))

    # housekeeping

    def on_sweep_due(self, message: SweepDue) -> None:
        self.set_timer(BUSY_SWEEP_S if self._sweep() else SWEEP_S, SweepDue())

    def _sweep(self) -> bool:
        """Delete a slice of what has expired, or else give a slice of space back; is there more to do?"""
        assert self._store is not None
        self._to_serve.update(self._unserved)
        self._unserved.clear()
        quiet, self._quiet = self._quiet, True
        try:
            if self.clock.monotonic_s() >= self._next_cleanup_s and self._expire():
                return True
            # Each slice costs two syncs: while there is traffic, one every few seconds has to do.
            return self._store.tidy() > 0 and quiet
        except StoreDamaged as exc:
            self._end_damaged(exc)
            return False
        except StoreError as exc:  # the next sweep tries again; delivering goes on meanwhile
            self._report(exc)
            return False

    def _expire(self) -> bool:
        """Delete a slice of what has expired; when there is none, the next look is due in a while."""
        assert self._store is not None
        with self._store.transaction():
            expired = self._store.expire(self.clock.now_s(), SWEEP_ROWS)
        if not expired:
            # Half a sweep less, or the sweep that is due then might come a moment too early.
            self._next_cleanup_s = self.clock.monotonic_s() + self._cleanup_s - SWEEP_S / 2
        for endpoint_id, count in expired.items():
            log.info("%d messages for %s expired", count, endpoint_id)
        self._read_anew(expired)
        return bool(expired)

    def describe(self) -> dict[str, Any]:
        return {"consumers": tuple(self._consumers)}


def _single(message: Append, at: int) -> Append:
    """Return one message of a batch as a batch of its own."""
    index, body = message.entries[at]
    header = message.headers[index]
    return Append(message.identity, message.epoch, message.index, (header,), ((0, body),))


def _values(message: Append) -> tuple[Any, ...]:
    return kind_of(Append).values(message)
