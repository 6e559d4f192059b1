"""What MQTT clients publish and subscribe beside the topics of IoT Hub. A part of the MQTT head.

The head knows connections and their order; here is what the broker's engine wants of them. With the broker
off the head has none of this.

Source: spec sheet broker.md sections 3.2 and 5
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from actors.broker.hub_broker import HubBroker
from actors.heads.mqtt_client import MqttClient
from actors.kernel.base import EdgeActor
from messaging.broker.access import Place, own_name, place_of, why_cut_off
from messaging.broker.limits import FIRST_PACKET_ID
from messaging.broker.policy import ClientOfBroker, Operation, Policy
from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity
from messaging.mqtt.packets import SUBSCRIPTION_FAILURE, Publish, Will
from messaging.text import quoted

log = logging.getLogger(__name__)

MOST_FILTERS: Final = 1000  # of one client; further ones are refused, one by one
MOST_FILTER_BYTES: Final = 256 * 1024  # of all of them
MOST_LEVELS: Final = 200  # of a topic, as of a filter
MOST_REMEMBERED: Final = 1000  # topics that a client may publish to, not to be asked about again
LONGEST_REMEMBERED: Final = 512
CROWD: Final = "crowd"  # why a socket is not read: subscribers cannot keep up with what it brings

Changes = Sequence[tuple[str, int | None]]  # (filter, granted QoS, None: unsubscribed), in order


class UserTopics:
    """The clients of this head at the broker."""

    def __init__(self, head: EdgeActor, broker: HubBroker) -> None:
        self._head = head
        self._broker = broker
        self._engine = broker.engine

    @property
    def _policy(self) -> Policy:
        return self._broker.config.policy

    def restore(self, sessions: Mapping[str, Mapping[str, int]]) -> None:
        """Bring back the sessions whose clients are away: client id → filter → QoS."""
        for name, filters in sessions.items():
            identity = _identity_of(name)
            users = {
                wanted: qos
                for wanted, qos in filters.items()
                if identity is None or place_of(wanted, identity) is Place.USER
            }
            self._engine.restore(name, users, self._head.clock.steady_s())
        self.end_of_turn()

    # CONNECT and the end

    def refusal(self, client: MqttClient) -> str:
        """Return why a client may not connect, "" when it may; its will needs the right to publish."""
        who = self._who(client)
        if not self._policy.may(who, Operation.CONNECT):
            return "the deployment's mqttBroker.authorizations do not allow mqtt:connect"
        if client.will is not None:
            topic = client.will.topic
            place = self._place(client, topic)
            if place is Place.FOREIGN or (
                place is Place.USER and not self._policy.may(who, Operation.PUBLISH, topic)
            ):
                return f"may not publish to {quoted(topic)}, the topic of its will"
        return ""

    def begin(self, client: MqttClient) -> bool:
        """Attach a client whose CONNECT is accepted; return whether it has a session that goes on."""
        from messaging.broker.delivery import WireOutlet  # only where there is a broker

        clock = self._head.clock

        def release() -> None:
            client.release(CROWD, clock.monotonic_s())

        outlet = WireOutlet(client.transport.write, lambda: client.hold(CROWD), release)
        client.session, present = self._engine.attach(
            client.client_id, outlet, clean=client.clean_session, now_s=clock.steady_s()
        )
        client.accepts_topic = lambda topic: self._accepts(client, topic)
        return present

    def resume(self, client: MqttClient) -> None:
        """Send what is owed to a client that has heard CONNACK."""
        assert client.session is not None
        self._engine.resume(client.session)

    def end(self, client: MqttClient) -> None:
        """The connection is gone."""
        if client.session is not None:
            self._engine.detach(client.session, self._head.clock.steady_s())
            self.end_of_turn()

    def forget(self, name: str) -> None:
        """A client is gone for good: so is what it has here."""
        session = self._engine.session(name)
        if session is not None:
            self._engine.drop(session)
            self.end_of_turn()

    def takes_will(self, client: MqttClient, will: Will) -> bool:
        """Publish the will of a client if it is for the broker; returns whether it is.

        The rules may have changed since its CONNECT.
        """
        if client.session is None or self._place(client, will.topic) is not Place.USER:
            return False
        if not self._policy.may(self._who(client), Operation.PUBLISH, will.topic):
            log.warning(
                "%s: its will is dropped: it may not publish to %s", client.client_id, quoted(will.topic)
            )
            return True
        message = Publish(will.topic, will.message, will.qos, retain=will.retain)
        clock = self._head.clock
        self._engine.publish([message], None, clock.steady_s(), clock.monotonic_s())
        self.end_of_turn()
        return True

    # who may what

    def _accepts(self, client: MqttClient, topic: str) -> bool:
        """Say whether the broker has to do with a topic that a client publishes to.

        Raises:
            AuthError: it may not publish there; the connection has to be closed.
        """
        place = self._place(client, topic)
        if place is Place.OWN:
            return False
        if place is Place.FOREIGN:
            raise AuthError(f"published to {quoted(topic)}, which is an IoT Hub topic of somebody else")
        if not self._policy.may(self._who(client), Operation.PUBLISH, topic):
            raise AuthError(f"published to {quoted(topic)}, which the deployment does not allow it")
        levels = topic.count("/") + 1
        if levels > MOST_LEVELS:
            raise AuthError(f"published to a topic of {levels} levels; the limit is {MOST_LEVELS}")
        if len(topic) <= LONGEST_REMEMBERED:
            if len(client.user_topics) >= MOST_REMEMBERED:
                client.user_topics.clear()
            client.user_topics.add(topic)
        return True

    def grant(self, client: MqttClient, wanted: Mapping[str, int], topic_filter: str, qos: int) -> int:
        """Return the answer to one filter of a SUBSCRIBE: its QoS, or that it is refused."""
        place = self._place(client, topic_filter)
        if place is Place.OWN:
            return min(qos, 1)  # IoT Hub has no QoS 2
        reason = ""
        if place is Place.FOREIGN or not self._policy.may(
            self._who(client), Operation.SUBSCRIBE, topic_filter
        ):
            reason = "is not allowed it"
        elif topic_filter not in wanted and len(wanted) >= MOST_FILTERS:
            reason = f"has {MOST_FILTERS} filters, which is the limit"
        elif sum(map(len, wanted)) + len(topic_filter) > MOST_FILTER_BYTES:
            reason = f"has filters of {MOST_FILTER_BYTES} bytes together, which is the limit"
        if not reason:
            return qos
        log.warning("%s: subscription to %s refused: it %s", client.client_id, quoted(topic_filter), reason)
        return SUBSCRIPTION_FAILURE

    def apply(self, client: MqttClient, changes: Changes) -> None:
        """Change the subscriptions; for the new ones retained messages are on their way then."""
        session = client.session
        if session is None or session.is_gone:
            return
        now_s = self._head.clock.steady_s()
        for topic_filter, qos in changes:
            if qos is None:
                self._engine.unsubscribe(session, topic_filter)
            elif self._place(client, topic_filter) is Place.USER:
                self._engine.subscribe(session, topic_filter, qos, now_s)

    def why_cut_off(self, name: str, filters: Iterable[str]) -> str:
        """Return why a session has to end under the policy of now, "" when it may go on."""
        if _identity_of(name) is None:
            return ""
        return why_cut_off(self._policy, ClientOfBroker(name, name), filters)

    def _place(self, client: MqttClient, text: str) -> Place:
        assert client.identity is not None
        return place_of(text, client.identity)

    @staticmethod
    def _who(client: MqttClient) -> ClientOfBroker:
        assert client.identity is not None
        return ClientOfBroker(client.identity.id, client.client_id)

    # packets

    def publish(self, client: MqttClient, messages: Sequence[Publish]) -> bool:
        """Deliver; returns whether what is to be answered has to wait for the disk."""
        clock = self._head.clock
        return self._engine.publish(messages, client.session, clock.steady_s(), clock.monotonic_s())

    def when_written(self, then: Callable[[str], None]) -> None:
        """Call it when all so far is on disk, with "" or why it is not."""
        self._engine.journal.when_written(then)

    def acknowledged(self, client: MqttClient, packet_ids: Sequence[int]) -> None:
        """PUBACKs of which some are not of IoT Hub messages."""
        if client.session is not None:
            client.session.acknowledged(packet_ids)

    def received(self, client: MqttClient, packet_id: int) -> None:
        """PUBREC."""
        if client.session is not None and packet_id >= FIRST_PACKET_ID:
            client.session.received(packet_id)

    def released(self, client: MqttClient, packet_id: int) -> bool:
        """PUBREL; returns whether PUBCOMP has to wait for the disk."""
        return client.session is not None and self._engine.released(client.session, packet_id)

    def completed(self, client: MqttClient, packet_id: int) -> None:
        """PUBCOMP."""
        if client.session is not None:
            client.session.completed(packet_id)

    def unread(self, client: MqttClient) -> None:
        """The client does not read."""
        if client.session is not None:
            self._engine.unread(client.session, self._head.clock.monotonic_s())

    def read_again(self, client: MqttClient) -> None:
        """It reads again."""
        if client.session is not None:
            self._engine.read_again(client.session)
            self.end_of_turn()

    def end_of_turn(self) -> None:
        """Send what there is to send, and have written what has changed."""
        self._engine.flush()
        self._broker.ask_to_write(self._head.tell)


def _identity_of(name: str) -> Identity | None:
    """Return who has this client id; None where any name may connect, as to the listener for test suites."""
    try:
        return Identity.parse(name)
    except ConfigError:
        return None


def iothub_filters(client: MqttClient) -> dict[str, int]:
    """Return the subscriptions of a client as IoT Hub's services know them: SDKs' names, QoS 1 at most."""
    if client.session is None or client.identity is None:
        return client.subscriptions
    identity = client.identity
    return {own_name(name, identity): min(qos, 1) for name, qos in client.subscriptions.items()}
