"""What waits for clients in the store: endpoints attached for those that listen, and their messages.

These are inputs of modules that routes lead to, and the queues of devices for messages from the cloud.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from actors.broker.user_topics import iothub_filters
from actors.heads.attached import AttachedEndpoints
from actors.heads.module_inputs import ModuleInputs
from actors.heads.mqtt_client import UNREAD, MqttClient
from actors.hub import c2d_queues
from actors.kernel.base import EdgeActor
from actors.store.messages import Ready
from messaging.mqtt.packets import encode_publish

log = logging.getLogger(__name__)


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
        self._close = close
        self._inputs = ModuleInputs()
        self._attached: AttachedEndpoints[MqttClient] = AttachedEndpoints(
            head, store, next_id, window_messages
        )
        self._qos: dict[str, int] = {}  # by endpoint: at which its messages are sent

    def attached(self) -> tuple[str, ...]:
        """Return the endpoints that somebody takes messages from."""
        return self._attached.endpoint_ids()

    def set_endpoints(self, endpoints: tuple[tuple[str, str, str], ...]) -> None:
        """Replace the endpoints that routes lead to; `update` has to be called for every client then."""
        self._inputs.set_endpoints(endpoints)

    def update(self, client: MqttClient) -> None:
        """Attach the endpoints that this client's subscriptions now cover, detach the others."""
        filters = iothub_filters(client)
        wanted = self._inputs.subscribe(client.client_id, filters)
        c2d_qos = c2d_queues.granted_qos(client.client_id, filters)
        if c2d_qos is not None:
            wanted[c2d_queues.queue_of(client.client_id)] = c2d_qos
        for endpoint_id in self._attached.of(client):
            if endpoint_id not in wanted:
                self._detach(endpoint_id)
                client.forget_in_flight(endpoint_id)
        for endpoint_id, qos in wanted.items():
            self._qos[endpoint_id] = qos
            if self._attached.taker_of(endpoint_id) is not client:
                self._attached.attach(endpoint_id, client)

    def forget(self, client: MqttClient) -> None:
        """The connection is gone."""
        self._inputs.remove(client.client_id)
        for endpoint_id in self._attached.of(client):
            self._detach(endpoint_id)

    def store_restarted(self) -> None:
        """The store has forgotten who takes what, and sends what was not delivered: all but new to us."""
        for endpoint_id, client in self._attached.all():
            self._attached.attach_again(endpoint_id, client.positions_of(endpoint_id))

    def acknowledged(self, by_endpoint: dict[str, list[tuple[int, int]]]) -> None:
        """A client has these messages."""
        self._attached.tell_delivered(by_endpoint)

    def unread_taken(self, client: MqttClient) -> None:
        """The socket took what had been written for a client that did not read."""
        unsaid, client.unsaid = client.unsaid, []
        for delivered in unsaid:
            self._head.tell(self._store, delivered)

    def ready(self, message: Ready) -> None:
        """Send messages of an endpoint to the client that takes them."""
        endpoint_id = message.endpoint_id
        client = self._attached.taker_for(message)
        if client is None:
            return  # detached meanwhile: the store sends them to whoever attaches next
        qos = self._qos[endpoint_id]
        now_s = self._head.clock.monotonic_s()
        frames: list[bytes] = []
        done: list[tuple[int, int]] = []  # QoS 0 is delivered when it is written
        poison: list[tuple[int, int]] = []
        runs, again = self._attached.without_had(message)
        if again:  # what has been answered meanwhile will not be a second time
            in_flight = client.in_flight_of(endpoint_id)
            done += [(position, position) for position in again if position not in in_flight]
        for run_first, headers, run_entries in self._attached.in_time(endpoint_id, runs):
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
            self._attached.tell_undeliverable(endpoint_id, poison)
        if done:
            delivered = self._attached.delivered(endpoint_id, done)
            if UNREAD in client.holds:
                client.unsaid.append(delivered)  # or the store would send more and more
            else:
                self._head.tell(self._store, delivered)

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

    def _detach(self, endpoint_id: str) -> None:
        self._attached.detach(endpoint_id)
        del self._qos[endpoint_id]
