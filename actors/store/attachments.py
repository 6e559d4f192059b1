"""Who takes messages out of the store: a consumer for each queue that somebody is attached to.

And who wants to know of the queues that nobody is attached to, because something waits in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from actors.hub.trail import StorageTrail
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.storage import MessageStore
from actors.store.consumer import Consumer
from actors.store.messages import Attach, Delivered, Expired, QueuesWaiting, Ready, Undeliverable, WatchQueues
from actors.store.stored import Run
from messaging.errors import StoreDamaged, StoreError

READ_MESSAGES: Final = 512  # from the database at once, for one consumer
READ_BYTES: Final = 1024 * 1024


class Attachments:
    """Sends consumers what their windows have room for. A part of the store's actor, which calls it."""

    def __init__(self, actor: EdgeActor, trail: StorageTrail, metrics: HubMetrics = OFF) -> None:
        self._actor = actor
        self._metrics = metrics
        self._trail = trail
        self._consumers: dict[str, Consumer] = {}
        self._to_serve: dict[str, Consumer] = {}
        self._unserved: dict[str, Consumer] = {}  # because the database could not be read
        self._held: frozenset[str] = frozenset()  # queues of which nothing is sent
        self._watchers: dict[str, str] = {}  # address → prefix of the queues it watches
        self._asked: set[str] = set()  # watchers that wait for their first answer
        self._told: set[str] = set()  # queues that their watchers know to wait
        self._to_tell: dict[str, None] = {}  # those of which they have to be told
        self._to_look: dict[str, None] = {}  # those in which something may wait that did not, or the reverse

    def __contains__(self, endpoint_id: str) -> bool:
        return endpoint_id in self._consumers

    def endpoint_ids(self) -> tuple[str, ...]:
        """Return the queues that have a consumer."""
        return tuple(self._consumers)

    def attach(self, message: Attach, address: str) -> None:
        """Serve a queue to this address, from the first message that was not delivered."""
        consumer = Consumer(
            message.endpoint_id,
            address,
            message.attachment,
            message.window_messages,
            message.window_bytes,
            self._actor.clock.monotonic_s(),
        )
        self._consumers[message.endpoint_id] = consumer
        self._to_serve[message.endpoint_id] = consumer
        self._unserved.pop(message.endpoint_id, None)
        self._told.discard(message.endpoint_id)
        self._to_tell.pop(message.endpoint_id, None)

    def detach(self, endpoint_id: str) -> None:
        """Serve a queue to nobody."""
        self._consumers.pop(endpoint_id, None)
        self._to_serve.pop(endpoint_id, None)
        self._unserved.pop(endpoint_id, None)
        self._look_into(endpoint_id)

    def left(self, message: Delivered | Undeliverable | Expired) -> None:
        """Make room in the window of the consumer that said so, unless another one is attached by now."""
        consumer = self._consumers.get(message.endpoint_id)
        if consumer is not None and consumer.attachment == message.attachment:
            arrived = consumer.delivered(message.ranges)
            if arrived and isinstance(message, Delivered):
                self._metrics.arrived(message.endpoint_id, arrived, self._actor.clock.monotonic_s())
            if consumer.waits:
                self._to_serve[message.endpoint_id] = consumer

    def missed(self, endpoint_id: str) -> None:
        """Take note that messages were stored for a queue without a consumer."""
        if endpoint_id not in self._told and self._is_watched(endpoint_id):
            self._told.add(endpoint_id)
            self._to_tell[endpoint_id] = None

    def offer(self, fresh: Mapping[str, Sequence[Run]]) -> None:
        """Take note of messages that were just stored, by their queues."""
        now_s = self._actor.clock.monotonic_s()
        for endpoint_id, runs in fresh.items():
            consumer = self._consumers[endpoint_id]
            for run in runs:
                consumer.offer(run, now_s)
            self._to_serve[endpoint_id] = consumer

    def read_anew(self, endpoint_ids: Iterable[str]) -> None:
        """Some of what waited in these queues is not there any more."""
        for endpoint_id in endpoint_ids:
            consumer = self._consumers.get(endpoint_id)
            if consumer is not None:
                consumer.forget_ready()
                self._to_serve[endpoint_id] = consumer
            else:
                self._look_into(endpoint_id)

    def hold(self, endpoint_ids: Iterable[str]) -> None:
        """Send nothing of these queues until further notice, and of all others again."""
        before, self._held = self._held, frozenset(endpoint_ids)
        self.read_anew(self._held ^ before)

    def retry(self) -> None:
        """Try the queues again that could not be read."""
        self._to_serve.update(self._unserved)
        self._unserved.clear()

    def serve(self, store: MessageStore, report: Callable[[StoreError], None]) -> None:
        """Send what windows have room for; a queue that cannot be read is reported, and waits for `retry`.

        Raises:
            StoreDamaged: Nothing more can be read at all.
        """
        served, self._to_serve = self._to_serve, {}
        for endpoint_id, consumer in served.items():
            if endpoint_id in self._held:
                continue
            try:
                self._serve(store, consumer)
            except StoreDamaged:
                raise
            except StoreError as exc:
                report(exc)
                self._unserved[endpoint_id] = consumer

    def send_from_memory(self) -> None:
        """Send what windows have room for again, without a read: its consumers take it during the commit."""
        now_s = self._actor.clock.monotonic_s()
        for endpoint_id, consumer in self._to_serve.items():
            if endpoint_id not in self._held:
                self._send(consumer, now_s)

    def watch(self, message: WatchQueues, address: str) -> None:
        """Tell this address of the queues that wait. It has just started, or we have: it is not attached."""
        for endpoint_id, consumer in list(self._consumers.items()):
            if consumer.address == address and endpoint_id.startswith(message.prefix):
                self.detach(endpoint_id)
        self._told = {name for name in self._told if not name.startswith(message.prefix)}
        self._watchers[address] = message.prefix
        self._asked.add(address)

    def tell_watchers(self, store: MessageStore, *, all_forgotten: bool) -> None:
        """Tell watchers what they wait for.

        Args:
            all_forgotten: Nothing that was delivered is still in its queue.

        Raises:
            StoreError: The queues cannot be looked into; the next call tries again.
        """
        now_s = self._actor.clock.steady_s()
        for address in list(self._asked):
            prefix = self._watchers[address]
            queues = [
                name for name in store.endpoint_ids() if name.startswith(prefix) and self._is_free(name)
            ]
            waiting = store.waiting(queues, now_s)
            self._told.update(waiting)
            for name in waiting:
                self._to_tell.pop(name, None)
            self._actor.tell(address, QueuesWaiting(tuple(waiting)))
            self._asked.discard(address)
        if self._to_look and all_forgotten:
            queues = [name for name in self._to_look if self._is_free(name)]
            waiting = store.waiting(queues, now_s)
            self._to_look.clear()
            self._told.difference_update(set(queues).difference(waiting))
            for name in waiting:
                self.missed(name)
        if self._to_tell:
            names, self._to_tell = self._to_tell, {}
            for address, prefix in self._watchers.items():
                if its := tuple(name for name in names if name.startswith(prefix)):
                    self._actor.tell(address, QueuesWaiting(its))

    def _look_into(self, endpoint_id: str) -> None:
        if self._is_watched(endpoint_id):
            self._to_look[endpoint_id] = None

    def _is_watched(self, endpoint_id: str) -> bool:
        return any(endpoint_id.startswith(prefix) for prefix in self._watchers.values())

    def _is_free(self, endpoint_id: str) -> bool:
        return endpoint_id not in self._consumers and endpoint_id not in self._held

    def _serve(self, store: MessageStore, consumer: Consumer) -> None:
        clock = self._actor.clock
        now_s = clock.monotonic_s()
        while True:
            self._send(consumer, now_s)
            wanted = consumer.wanted(now_s)
            if wanted is None:
                return
            found = store.read(
                consumer.endpoint_id,
                wanted.after_position,
                min(wanted.most, READ_MESSAGES),
                min(wanted.most_bytes, READ_BYTES),
                clock.steady_s(),
                wanted.last_position,
            )
            consumer.read(wanted, found)

    def _send(self, consumer: Consumer, now_s: float) -> None:
        """Send what is in memory, as far as the window has room."""
        metrics, queue_id = self._metrics, consumer.endpoint_id
        runs = consumer.take(now_s, lambda run: metrics.flight(queue_id, run, now_s))
        if runs:
            if self._trail.follows(queue_id):
                self._trail.sent(self._actor.clock.now_s(), queue_id, runs)
            ready = Ready(queue_id, consumer.attachment, tuple(runs))  # type: ignore[arg-type]
            self._actor.tell(consumer.address, ready)
