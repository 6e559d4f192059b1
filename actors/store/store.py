"""Owns the message database: takes messages in, hands them to consumers, forgets what was delivered.

Understands: Append, Attach, Detach, Delivered, Expired, WatchQueues, KeepQueues, SaveSession, …
Tells:       whoever published (Stored), consumers (Ready, QueuesWaiting), heads (SessionSaved, Sessions)
Started by:  HubRootActor; after a restart consumers attach again, queues are read from the database

Everything that one turn brought is committed in one transaction, and only then answered: an acknowledged
message is on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import msgpack

from actors.hub.c2d_queues import queue_of
from actors.hub.trail import StorageTrail, TraceStorage
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.storage import MessageStore
from actors.store.append_guard import AppendGuard
from actors.store.attachments import Attachments
from actors.store.cleanup import BUSY_SWEEP_S, SWEEP_S, Cleanup, drop_oldest
from actors.store.messages import (
    Append,
    Attach,
    CountQueues,
    DeleteSession,
    Delivered,
    Detach,
    Expired,
    ForgetClient,
    KeepQueues,
    LoadSessions,
    QueueCounts,
    SaveSession,
    Sessions,
    SessionSaved,
    Stored,
    Undeliverable,
    WatchQueues,
)
from actors.store.orphan_queues import OrphanQueues
from actors.store.stored import Run, Segment, runs_of
from actors.store.turn import Turn, write, write_one_by_one
from messaging.envelope import Envelope
from messaging.errors import StoreDamaged, StoreError, StoreFull
from messaging.kinds import message
from messaging.lifecycle import RequestFailed
from messaging.upstream_queues import endpoint_of

log = logging.getLogger(__name__)

MOST_DROPS: Final = 50  # slices that go for one batch; a slice of small messages is 100 KiB
FORGET_S: Final = 0.05  # latest, after it was delivered, that a message is forgotten
FORGET_MESSAGES: Final = 1000  # at most, that are delivered and not forgotten
# With a commit that takes place anyhow a part of either is enough; with each it would be a sixth of its cost.
SHARED_S: Final = FORGET_S / 2
SHARED_MESSAGES: Final = FORGET_MESSAGES // 2


@message
class DropDue:
    """Timer: give up more of the queues that no route leads to."""


@message
class SweepDue:
    """Timer: delete what has expired, give space back."""


@message
class ForgetDue:
    """Timer: forget what was delivered, though nothing new came."""


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
        metrics: HubMetrics = OFF,
    ) -> None:
        """Keep what is needed.

        Args:
            open_store: Opens the database; called in this actor's thread.
            guard: Outlives restarts.
            trail: Outlives restarts.
            drops_oldest: Without space, the oldest messages of the lowest priority go for new ones, which
                are refused otherwise.
            cleanup_s: How often what has expired is removed from the disk.
            metrics: Where to count.
        """
        self._cleanup = Cleanup(cleanup_s, metrics)
        self._metrics = metrics
        self._open_store = open_store
        self._drops_oldest = drops_oldest
        self._trail = trail
        self._store: MessageStore | None = None
        self._guard = guard  # outlives a restart: the order of a publisher must hold over it
        self._attachments = Attachments(self, trail, metrics)
        self._turn = Turn()
        self._stored: list[tuple[int, list[Segment]]] = []  # by this turn, not yet offered to consumers
        self._done = 0  # messages delivered and not yet forgotten
        self._done_since_s = 0.0  # the first of them, monotonic
        self._forget_timer = False
        self._damage: StoreDamaged | None = None  # of the database, after which nothing is done with it
        self._trouble = ""  # why the database refuses, as last said to the log
        self._orphans = OrphanQueues()
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
        self._attachments.left(message)

    def on_forget_due(self, message: ForgetDue) -> None:
        self._forget_timer = False
        if self._done_for_s() >= SHARED_S:  # else they have come since the timer was set
            self._done = max(self._done, FORGET_MESSAGES)

    def on_turn_end(self) -> None:
        """Commit everything that this turn brought, then answer all of it.

        What was delivered is forgotten with one of the next commits, for each costs a sync to disk: a crash
        before it only delivers again.
        """
        turn = self._turn
        if turn.appends or turn.sessions or self._done >= FORGET_MESSAGES:
            self._turn = Turn()
            if self._done >= SHARED_MESSAGES or self._done_for_s() >= SHARED_S:
                self._done = 0
            else:
                self._turn.put_off(turn)
            self._attachments.send_from_memory()
            self._finish(turn)
        if self._turn and not self._forget_timer:
            self._forget_timer = True
            self.set_timer(max(SHARED_S, FORGET_S - self._done_for_s()), ForgetDue())

    def _done_for_s(self) -> float:
        return self.clock.monotonic_s() - self._done_since_s

    def on_turn_over(self) -> None:
        """Note what was stored, and serve consumers: publishers, who wait, have their answer by now."""
        self._offer_stored()
        if self._store is not None:
            self._serve(self._store)

    def _offer_stored(self) -> None:
        """Note what was stored, and offer it to the consumers."""
        stored, self._stored = self._stored, []
        fresh: dict[str, list[Run]] = {}
        for first, segments in stored:
            self._note(first, segments, fresh)
        self._attachments.offer(fresh)

    def _serve(self, store: MessageStore) -> None:
        try:
            self._attachments.serve(store, self._report)
            forgotten = not (self._turn.delivered or self._turn.poison)
            self._attachments.tell_watchers(store, all_forgotten=forgotten)
        except StoreDamaged as exc:
            self._end_damaged(exc)
        except StoreError as exc:
            self._report(exc)

    def _finish(self, turn: Turn) -> None:
        self._cleanup.disturb()
        if self._damage is not None:  # found earlier in this turn
            self._refuse(turn, self._damage)
            return
        try:
            self._commit(turn)
        except StoreDamaged as exc:
            self._refuse(turn, exc)
            self._end_damaged(exc)
        except StoreFull as exc:
            self._finish_without_space(turn, exc)
        except StoreError as exc:
            self._refuse(turn, exc)
        except Exception:
            if not turn.appends:
                raise
            if turn.has_only_one_append():
                self._commit_around_poison(*turn.appends[0])
            else:
                log.exception("one of %d batches cannot be stored; each is tried alone", len(turn.appends))
                for part in turn.one_by_one():
                    self._finish(part)
        else:
            if self._trouble and turn.appends:
                self._trouble = ""
                log.info("messages are stored again")
            self._answer(turn)

    def _commit(self, turn: Turn) -> None:
        """Write one transaction."""
        assert self._store is not None
        self._stored.append(write(self._store, turn, self.clock))

    def _note(self, first: int, segments: list[Segment], fresh: dict[str, list[Run]]) -> None:
        """These messages were stored: add to `fresh` what consumers get of them."""
        self._trail.stored(self.clock.now_s(), first, segments)
        if segments:
            self._metrics.stored(first, segments)
        for endpoint_id, run in runs_of(segments, first):
            if endpoint_id in self._attachments:
                fresh.setdefault(endpoint_id, []).append(run)
            else:
                self._attachments.missed(endpoint_id)

    def _answer(self, turn: Turn) -> None:
        stored: dict[str, list[int]] = {}
        for envelope, _ in turn.appends:
            stored.setdefault(envelope.sender, []).append(envelope.correlation_id)
        for head, batches in stored.items():
            self.tell(head, Stored(tuple(batches)))
        for envelope, request in turn.sessions:
            self.reply(SessionSaved(request.identity), envelope)
        gone = [request.identity for _, request in turn.sessions if isinstance(request, ForgetClient)]
        if gone:
            self._offer_stored()
            self._attachments.read_anew(queue_of(identity) for identity in gone)

    def _finish_without_space(self, turn: Turn, error: StoreFull) -> None:
        """Forget what was delivered, which makes space; store what fits, or what older ones make way for.

        One batch after the other: a small one may fit where all of them do not.
        """
        turn.put_off(self._turn)
        if not turn.appends:
            self._refuse(turn, error)
            return
        if turn.delivered or turn.poison or turn.sessions:
            self._finish(Turn(delivered=turn.delivered, poison=turn.poison, sessions=turn.sessions))
            self._finish(Turn(turn.appends))
        elif len(turn.appends) > 1:
            for append in turn.appends:
                self._finish(Turn([append]))
        else:
            self._store_instead_of_oldest(turn, error)

    def _store_instead_of_oldest(self, turn: Turn, error: StoreFull) -> None:
        """Store one batch in the place of older messages, if it may have that."""
        for _ in range(MOST_DROPS if self._drops_oldest else 0):
            if not self._drop_oldest():
                break
            try:
                self._commit(turn)
            except StoreFull as exc:
                error = exc
            else:
                self._answer(turn)
                return
        self._refuse(turn, error)

    def _drop_oldest(self) -> bool:
        """Give up a slice of what matters least; False when there is none."""
        assert self._store is not None
        try:
            dropped = drop_oldest(self._store)
        except StoreError as exc:
            self._report(exc)
            return False
        self._offer_stored()
        self._attachments.read_anew(dropped)
        return bool(dropped)

    def _end_damaged(self, error: StoreDamaged) -> None:
        """End the process: its next start salvages what can be read, before anything else."""
        store, self._store = self._store, None
        if store is not None:
            self._damage = error
            store.close()
            self.context.give_up(str(error))

    def _commit_around_poison(self, envelope: Envelope, message: Append) -> None:
        """Store a batch message by message, without those that cannot be."""
        assert self._store is not None
        answered, clock = Turn(), self.clock
        try:
            for written in write_one_by_one(self._store, envelope, message, clock, self._is_poison):
                self._stored.append(written)  # also when a later one fails
            answered = Turn([(envelope, message)])
        except StoreError as exc:
            self._refuse(Turn([(envelope, message)]), exc)
        except Exception as exc:  # noqa: BLE001 - it is not the messages
            self._guard.failed(message.identity, message.epoch)
            self.context.dead_letter(envelope, exc)
        self._answer(answered)

    def _is_poison(self, letter: Envelope, error: Exception) -> None:
        self.context.dead_letter(letter, error)
        log.error("a message of %s cannot be stored and is dropped", letter.body[0])

    def _refuse(self, turn: Turn, error: StoreError) -> None:
        """The database cannot take it: tell the publishers, keep what was delivered for the next turn."""
        self._report(error)
        for envelope, append in turn.appends:
            self._guard.failed(append.identity, append.epoch)
            self._metrics.not_stored([header for header, _ in append.headers], append.entries)
            self.reply(RequestFailed("Append", self.address, str(error)), envelope)
        for envelope, request in turn.sessions:
            self.reply(RequestFailed(type(request).__name__, self.address, str(error)), envelope)
        for endpoint_id, ranges in turn.delivered.items():
            self._turn.delivered.setdefault(endpoint_id, []).extend(ranges)
        self._turn.poison.extend(turn.poison)
        self._done_since_s = self.clock.monotonic_s()  # or it would be tried again at once, and for ever

    def _report(self, error: StoreError) -> None:
        """Tell the log, once: it is tried again with each batch, or many times a second."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("messages are refused until this is over: %s", error)

    # consumers

    def _make_room(self, message: Delivered | Undeliverable) -> None:
        if not self._done:
            self._done_since_s = self.clock.monotonic_s()
        self._done += sum(last - first + 1 for first, last in message.ranges)
        self._attachments.left(message)

    def on_attach(self, message: Attach) -> None:
        self._attachments.attach(message, self.envelope.sender)
        self._forget_now()

    def on_detach(self, message: Detach) -> None:
        self._attachments.detach(message.endpoint_id)

    def on_watch_queues(self, message: WatchQueues) -> None:
        self._attachments.watch(message, self.envelope.sender)
        self._forget_now()

    def on_count_queues(self, message: CountQueues) -> None:
        assert self._store is not None
        names = [name for name in self._store.endpoint_ids() if name.startswith(message.prefix)]
        counts = ((name, self._store.pending(name)) for name in names)
        self.reply(QueueCounts(tuple((name, count) for name, count in counts if count)))

    def _forget_now(self) -> None:
        """Forget what has arrived at the end of this turn, or it is still there when the queue is read."""
        if self._turn.delivered or self._turn.poison:
            self._done = FORGET_MESSAGES

    # where messages went

    def _follow(self, hop: str, message: Delivered | Undeliverable | Expired) -> None:
        if self._trail.follows(message.endpoint_id):
            self._trail.happened(self.clock.now_s(), hop, message.endpoint_id, message.ranges)

    def on_trace_storage(self, message: TraceStorage) -> None:
        assert self._store is not None
        self.reply(self._trail.answer(message, self._store, self.clock.now_s()))

    # queues that no route leads to

    def on_keep_queues(self, message: KeepQueues) -> None:
        assert self._store is not None
        self._orphans.choose(self._store.endpoint_ids(), message.endpoint_ids)
        self._attachments.hold(self._orphans.endpoint_ids())
        if self._orphans and self._turn.delivered:
            self._done = FORGET_MESSAGES  # what has arrived is delivered, not given up
        self._drop_soon(0.0)

    def on_drop_due(self, message: DropDue) -> None:
        """Give up a slice of the queues that no route leads to."""
        assert self._store is not None
        self._drop_timer = False
        if not self._orphans:  # a route leads there again
            return
        try:
            self._orphans.drop_slice(self._store)
        except StoreDamaged as exc:
            self._end_damaged(exc)
        except StoreError as exc:
            self._report(exc)
            self._drop_soon(SWEEP_S)
        else:
            self._attachments.hold(self._orphans.endpoint_ids())
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
        """Clean up a little; is there more to do?"""
        assert self._store is not None
        self._attachments.retry()
        try:
            expired, more = self._cleanup.sweep(self._store, self.clock)
        except StoreDamaged as exc:
            self._end_damaged(exc)
            return False
        except StoreError as exc:  # delivering goes on meanwhile
            self._report(exc)
            return False
        self._attachments.read_anew(expired)
        return more

    def describe(self) -> dict[str, Any]:
        consumers = map(endpoint_of, self._attachments.endpoint_ids())
        return {"consumers": tuple(dict.fromkeys(consumers))}
