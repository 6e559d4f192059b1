"""What clients of a head have published and the disk does not hold yet.

A publish is acknowledged when the store says that it is on disk. Credit bounds how much waits for that:
beyond it, sockets are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from actors.base import EdgeActor
from actors.mqtt_client import CREDIT, Batch, MqttClient, Unanswered
from actors.router import Publish
from messaging.mqtt.packets import Packet, encode_puback_many

STORE_LIMIT_S: Final = 20.0  # a publish that is not on disk by then closes its connection
CLIENT_CREDIT_BYTES: Final = 4 * 1024 * 1024  # unanswered Publish bytes of one client …
HEAD_CREDIT_BYTES: Final = 16 * 1024 * 1024  # … and of all: beyond, sockets are not read
MOST_LATE: Final = 1024  # batches of connections that are gone


class Intake:
    """The batches on their way to the disk. A part of the head, which calls it for each."""

    def __init__(
        self, head: EdgeActor, router: str, next_id: Callable[[], int], most_unacknowledged: int | None
    ) -> None:
        """Take what is needed; a client may have so many messages on their way to the disk, None: any."""
        self._head = head
        self._router = router
        self._next_id = next_id
        self._most_unacknowledged = most_unacknowledged
        self._batches: dict[int, tuple[MqttClient, Unanswered]] = {}  # by correlation id of the Publish
        self._late: dict[int, Unanswered] = {}  # the same for connections that are gone, oldest first
        self._paused: set[MqttClient] = set()  # for want of credit
        self.unanswered_bytes = 0

    def publish(self, client: MqttClient, batch: Batch, packets: Sequence[Packet]) -> None:
        """Send what one read brought to the router; without messages in it, acknowledge it in its turn."""
        now_s = self._head.clock.monotonic_s()
        unanswered = Unanswered(batch.packet_ids, batch.size_bytes, now_s, done=not batch.entries)
        client.unanswered.append(unanswered)
        if batch.packet_ids:
            client.remember(packets, unanswered)
        if not batch.entries:
            self._acknowledge(client)
            return
        client.unanswered_bytes += batch.size_bytes
        self.unanswered_bytes += batch.size_bytes
        batch_id = self._next_id()
        self._batches[batch_id] = (client, unanswered)
        publish = Publish(
            client.client_id, client.epoch, client.next_index, tuple(batch.headers), tuple(batch.entries)
        )
        client.next_index += 1
        self._head.context.send(
            self._router, publish, correlation_id=batch_id, deadline_s=now_s + STORE_LIMIT_S
        )
        over = client.unanswered_bytes > CLIENT_CREDIT_BYTES or self.unanswered_bytes > HEAD_CREDIT_BYTES
        if (over or self._has_too_many(client)) and client not in self._paused:
            self._paused.add(client)
            client.hold(CREDIT)

    def stored(self, batch_ids: tuple[int, ...]) -> None:
        """These batches are on disk."""
        clients: dict[int, MqttClient] = {}
        for batch_id in batch_ids:
            found = self._batches.pop(batch_id, None)
            if found is not None:
                client, unanswered = found
                unanswered.done = True
                clients[client.number] = client
            elif (late := self._late.pop(batch_id, None)) is not None:
                late.done = True
        for client in clients.values():
            self._acknowledge(client)
        self._resume_readers()

    def failed(self, batch_id: int) -> MqttClient | None:
        """Forget a batch that was not stored; return its client, whose connection has to end."""
        self._late.pop(batch_id, None)
        found = self._batches.pop(batch_id, None)
        return found[0] if found is not None else None

    def forget(self, client: MqttClient) -> None:
        """The connection is gone: nothing of it will be acknowledged any more, though it may be stored."""
        for batch_id in [k for k, (owner, _) in self._batches.items() if owner is client]:
            self._late[batch_id] = self._batches.pop(batch_id)[1]
        while len(self._late) > MOST_LATE:
            del self._late[next(iter(self._late))]
        self.unanswered_bytes -= client.unanswered_bytes
        client.unanswered.clear()
        client.unanswered_bytes = 0
        self._paused.discard(client)
        self._resume_readers()

    def _acknowledge(self, client: MqttClient) -> None:
        before = client.unanswered_bytes
        packet_ids = client.acknowledged()
        self.unanswered_bytes -= before - client.unanswered_bytes
        if packet_ids:
            client.transport.write(encode_puback_many(packet_ids))

    def _resume_readers(self) -> None:
        if not self._paused or self.unanswered_bytes > HEAD_CREDIT_BYTES // 2:
            return
        for client in list(self._paused):
            if client.unanswered_bytes <= CLIENT_CREDIT_BYTES // 2 and not self._has_too_many(client):
                self._paused.discard(client)
                client.release(CREDIT, self._head.clock.monotonic_s())

    def _has_too_many(self, client: MqttClient) -> bool:
        most = self._most_unacknowledged
        return most is not None and sum(len(one.packet_ids) for one in client.unanswered) > most
