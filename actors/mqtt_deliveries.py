"""What waits for clients in the store: endpoints attached for those that listen, and their messages.

These are inputs of modules that routes lead to, and the queues of devices for messages from the cloud.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from actors import c2d_queues
from actors.base import EdgeActor
from actors.module_inputs import ModuleInputs
from actors.mqtt_client import UNREAD, MqttClient
from actors.store_messages import Attach, Delivered, Detach, Expired, Ready, Undeliverable
from messaging.mqtt.packets import encode_publish

log = logging.getLogger(__name__)

WINDOW_BYTES: Final = 1024 * 1024
C2D_WINDOW_MESSAGES: Final = 1  # hub-protocols.md section 1.14

Runs = tuple[tuple[int, tuple[bytes, ...], tuple[tuple[int, bytes], ...]], ...]  # as in Ready


class Deliveries:
    """The endpoints that clients of this head take messages from. A part of the head."""

    def __init__(
        self,
        head: EdgeActor,
        store: str,
        next_id: Callable[[], int],
        close: Callable[[MqttClient, str], None],
        window_messages: int,
    ) -> None:
        self._head = head
        self._store = store
        self._next_id = next_id
        self._close = close
        self._window_messages = window_messages
        self._inputs = ModuleInputs()
        self._attached: dict[str, tuple[int, MqttClient, int]] = {}  # endpoint → (attachment, client, QoS)

    def attached(self) -> tuple[str, ...]:
        """Return the endpoints that somebody takes messages from."""
        return tuple(sorted(self._attached))

    def set_endpoints(self, endpoints: tuple[tuple[str, str, str], ...]) -> None:
        """Replace the endpoints that routes lead to; `update` has to be called for every client then."""
        self._inputs.set_endpoints(endpoints)

    def update(self, client: MqttClient) -> None:
        """Attach the endpoints that this client's subscriptions now cover, detach the others."""
        wanted = self._inputs.subscribe(client.client_id, client.subscriptions)
        c2d_qos = c2d_queues.granted_qos(client.client_id, client.subscriptions)
        if c2d_qos is not None:
            wanted[c2d_queues.queue_of(client.client_id)] = c2d_qos
        for endpoint_id in [k for k, (_, owner, _) in self._attached.items() if owner is client]:
            if endpoint_id not in wanted:
                self._detach(endpoint_id)
                client.forget_in_flight(endpoint_id)
        for endpoint_id, qos in wanted.items():
            known = self._attached.get(endpoint_id)
            if known is None or known[1] is not client:
                self._attach(endpoint_id, client, qos)
            elif known[2] != qos:
                self._attached[endpoint_id] = (known[0], client, qos)

    def forget(self, client: MqttClient) -> None:
        """The connection is gone."""
        self._inputs.remove(client.client_id)
        for endpoint_id in [k for k, (_, owner, _) in self._attached.items() if owner is client]:
            self._detach(endpoint_id)

    def store_restarted(self) -> None:
        """The store has forgotten who takes what."""
        for endpoint_id, (_, client, qos) in list(self._attached.items()):
            client.forget_in_flight(endpoint_id)
            self._attach(endpoint_id, client, qos)

    def acknowledged(self, by_endpoint: dict[str, list[tuple[int, int]]]) -> None:
        """A client has these messages."""
        for endpoint_id, ranges in by_endpoint.items():
            attachment = self._attached.get(endpoint_id, (0,))[0]  # 0: unsubscribed in the same read
            self._head.tell(self._store, Delivered(endpoint_id, attachment, tuple(ranges)))

    def unread_taken(self, client: MqttClient) -> None:
        """The socket took what had been written for a client that did not read."""
        unsaid, client.unsaid = client.unsaid, []
        for delivered in unsaid:
            self._head.tell(self._store, delivered)

    def ready(self, message: Ready) -> None:
        """Send messages of an endpoint to the client that takes them."""
        endpoint_id = message.endpoint_id
        attachment, client, qos = self._attached.get(endpoint_id, (0, None, 0))
        if client is None or attachment != message.attachment:
            return  # detached meanwhile: the store sends them to whoever attaches next
        now_s = self._head.clock.monotonic_s()
        frames: list[bytes] = []
        done: list[tuple[int, int]] = []  # QoS 0 is delivered when it is written
        poison: list[tuple[int, int]] = []
        for run_first, headers, run_entries in self._in_time(message):
            topics = [self._topic_of(endpoint_id, header) for header in headers]
            parts = [(run_first, run_entries)]
            if None in topics:
                singles = [(run_first + at, (entry,)) for at, entry in enumerate(run_entries)]
                parts = [part for part in singles if topics[part[1][0][0]] is not None]
                poison += [(first, first) for first, (entry,) in singles if topics[entry[0]] is None]
            for first, entries in parts:
                if qos == 0:
                    frames += [encode_publish(topics[i], body, 0, 0) for i, body in entries]  # type: ignore[arg-type]
                    done.append((first, first + len(entries) - 1))
                elif not client.frame_run(endpoint_id, first, topics, entries, now_s, frames):
                    self._close(client, "acknowledges nothing: no packet id is left")
                    return
        if frames:
            client.transport.write(b"".join(frames))
        if poison:
            log.error("%s: %d messages dropped: they make no valid topic", endpoint_id, len(poison))
            self._head.tell(self._store, Undeliverable(endpoint_id, attachment, tuple(poison)))
        if done:
            delivered = Delivered(endpoint_id, attachment, tuple(done))
            if UNREAD in client.holds:
                client.unsaid.append(delivered)  # or the store would send more and more
            else:
                self._head.tell(self._store, delivered)

    def _in_time(self, message: Ready) -> Runs:
        """Return the runs without what the cloud wants delivered by a time that has passed.

        They may have waited in the store's memory, where nothing expires, for one before to be acknowledged.
        """
        endpoint_id = message.endpoint_id
        if not c2d_queues.is_c2d_queue(endpoint_id):
            return message.runs
        now_s = self._head.clock.now_s()
        kept, late = c2d_queues.in_time(message.runs, now_s)
        if late:
            log.info("%s: %d messages have expired", endpoint_id, len(late))
            self._head.tell(self._store, Expired(endpoint_id, message.attachment, late))
        return kept

    def _topic_of(self, endpoint_id: str, header: bytes) -> bytes | None:
        """Return the topic of a message; None for one that can have none, whatever the reason.

        A failure of ours would end with the next delivery of the same message, and so on for ever.
        """
        try:
            if c2d_queues.is_c2d_queue(endpoint_id):
                return c2d_queues.topic_of(endpoint_id, header)
            return self._inputs.topic_of(endpoint_id, header)
        except Exception:
            log.exception("%s: no topic can be made for a message", endpoint_id)
            return None

    def _attach(self, endpoint_id: str, client: MqttClient, qos: int) -> None:
        attachment = self._next_id()
        self._attached[endpoint_id] = (attachment, client, qos)
        one_by_one = c2d_queues.is_c2d_queue(endpoint_id)
        messages = C2D_WINDOW_MESSAGES if one_by_one else self._window_messages
        self._head.tell(self._store, Attach(endpoint_id, attachment, messages, WINDOW_BYTES))

    def _detach(self, endpoint_id: str) -> None:
        del self._attached[endpoint_id]
        self._head.tell(self._store, Detach(endpoint_id))
