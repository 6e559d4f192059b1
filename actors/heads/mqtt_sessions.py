"""The subscriptions of MQTT clients, and on disk those of persistent sessions.

The Python SDK subscribes once in its life: what it asked for must survive its connection and the hub, and is
on disk before it is acknowledged (hub-protocols.md section 1.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.broker.user_topics import UserTopics
from actors.heads.mqtt_client import SESSION, MqttClient
from actors.kernel.base import EdgeActor
from actors.store.messages import DeleteSession, ForgetClient, SaveSession, SessionSaved
from messaging.mqtt.packets import SUBSCRIPTION_FAILURE, SubAck, Subscribe, UnsubAck, Unsubscribe

MOST_FILTERS: Final = 100  # per client; IoT Hub's own clients use six at most
MOST_FILTER_BYTES: Final = 64 * 1024  # of all filters of a client
MOST_SUBSCRIPTION_ANSWERS: Final = 100  # waiting for the disk; beyond, the client is not read

Ask = Callable[[object, Callable[[object], None]], None]


class Subscriptions:
    """Who subscribed to what. A part of the head, which says what follows from a change."""

    def __init__(
        self,
        head: EdgeActor,
        store: str,
        ask_store: Ask,
        close: Callable[[MqttClient, str], None],
        changed: Callable[[MqttClient], None],
        topics: UserTopics | None,
    ) -> None:
        self._head = head
        self._store = store
        self._ask_store = ask_store
        self._close = close
        self._changed = changed
        self._topics = topics
        self._kept: dict[str, dict[str, int]] = {}  # of persistent sessions: client id → filter → QoS

    def load(self, sessions: dict[str, tuple[tuple[str, int], ...]]) -> None:
        """Take over what is on disk."""
        self._kept = {identity: dict(filters) for identity, filters in sessions.items()}
        if self._topics is not None:
            self._topics.restore(self._kept)

    def begin(self, client: MqttClient) -> bool:
        """Start the session of a client; return whether there was one that goes on (SessionPresent)."""
        kept = self._kept.get(client.client_id)
        if client.clean_session and kept is not None:
            del self._kept[client.client_id]
            self._head.tell(self._store, DeleteSession(client.client_id))
            kept = None
        if kept:
            client.subscriptions = dict(kept)
        return kept is not None

    def forget(self, identity: str, then: Callable[[object], None]) -> None:
        """Forget the session of an identity that is gone, and what waits for it; `then` gets the answer."""

        def forgotten(answer: object) -> None:
            self._kept.pop(identity, None)  # its last one may have been on the way to the disk
            then(answer)

        self._kept.pop(identity, None)
        self._ask_store(ForgetClient(identity), forgotten)

    def end(self, identity: str) -> None:
        """End a session whose client is not here."""
        if self._kept.pop(identity, None) is not None:
            self._head.tell(self._store, DeleteSession(identity))

    def kept(self) -> dict[str, dict[str, int]]:
        """Return the persistent sessions: client id → filter → QoS."""
        return self._kept

    def subscribe(self, client: MqttClient, packet: Subscribe) -> None:
        """Note what a client wants; `keep` answers."""
        wanted = client.subscriptions
        if self._topics is not None:
            granted = []
            for topic_filter, qos in packet.topic_filters:
                code = self._topics.grant(client, wanted, topic_filter, qos)
                granted.append(code)
                if code != SUBSCRIPTION_FAILURE:
                    wanted[topic_filter] = code
                    client.subscription_changes.append((topic_filter, code))
            client.subscription_answers.append(SubAck(packet.packet_id, tuple(granted)))
            return
        wanted.update({topic_filter: min(qos, 1) for topic_filter, qos in packet.topic_filters})
        if len(wanted) > MOST_FILTERS:
            self._close(client, f"subscribed to {len(wanted)} filters; the limit is {MOST_FILTERS}")
            return
        size_bytes = sum(map(len, wanted))
        if size_bytes > MOST_FILTER_BYTES:
            self._close(client, f"its filters have {size_bytes} bytes; the limit is {MOST_FILTER_BYTES}")
            return
        codes = tuple(min(qos, 1) for _, qos in packet.topic_filters)
        client.subscription_answers.append(SubAck(packet.packet_id, codes))

    def unsubscribe(self, client: MqttClient, packet: Unsubscribe) -> None:
        """Note what a client wants no more; `keep` answers."""
        for topic_filter in packet.topic_filters:
            if client.subscriptions.pop(topic_filter, None) is not None:
                client.subscription_changes.append((topic_filter, None))
        client.subscription_answers.append(UnsubAck(packet.packet_id))

    def keep(self, client: MqttClient) -> None:
        """Apply the subscriptions; those of a persistent session are on disk before they are acknowledged.

        Once for all that a read brought, and one save at a time: a client may change its mind a thousand
        times in one read.
        """
        if client.saving:
            if len(client.subscription_answers) > MOST_SUBSCRIPTION_ANSWERS:
                client.hold(SESSION)
            return
        client_id, wanted = client.client_id, dict(client.subscriptions)
        answers, client.subscription_answers = client.subscription_answers, []
        changes, client.subscription_changes = client.subscription_changes, []

        def kept(saved: object) -> None:
            client.saving = False
            if isinstance(saved, SessionSaved):
                self._kept[client_id] = wanted
            if self._topics is not None and isinstance(saved, SessionSaved | None):
                self._topics.apply(client, changes)
            if client.closed:
                return
            if not isinstance(saved, SessionSaved | None):
                self._close(client, f"its subscriptions could not be stored: {saved}")
                return
            client.transport.write(b"".join(map(client.codec.send, answers)))
            self._changed(client)
            if self._topics is not None:
                self._topics.end_of_turn()  # retained messages come behind the SUBACK
            if client.subscription_answers:
                self.keep(client)
            client.release(SESSION, self._head.clock.monotonic_s())

        if client.clean_session or self._kept.get(client_id, {}) == wanted:
            kept(None)
            return
        client.saving = True
        self._ask_store(SaveSession(client_id, tuple(wanted.items())), kept)
