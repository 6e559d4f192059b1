"""The bridges as clients of the local broker. A part of the broker's actor, on the event loop of the heads.

Each bridge has a persistent session, subscribed to what its rules carry out before anybody can publish: what
is acknowledged to a publisher is on disk in that session, and goes from it when the bridge has it on disk.

Source: spec sheet broker.md section 7.4
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

from actors.broker.bridge_messages import (
    BrokerDelivery,
    DeliveryTaken,
    JoinBroker,
    LeaveBroker,
    PublishedToBroker,
    PublishToBroker,
    client_id_of,
    is_bridge,
    parts,
)
from actors.broker.hub_broker import HubBroker
from actors.kernel.base import EdgeActor
from messaging.broker.bridges import Bridge, Direction
from messaging.broker.delivery import Outgoing
from messaging.broker.local_client import LocalClient
from messaging.broker.session import Session
from messaging.envelope import Envelope
from messaging.lifecycle import RequestFailed
from messaging.mqtt.packets import Publish

QOS: Final = 1
LONGEST_HOLD_S: Final = 5.0  # a bridge waits 20 s for its answers


class _Participant:
    """One bridge."""

    def __init__(self, client_id: str, number: int, address: str) -> None:
        self.client_id = client_id
        self.number = number
        self.address = address  # of the actor
        self.client: LocalClient
        self.delivered: deque[int] = deque()  # packet ids in order of delivery, 0 at QoS 0
        self.held_s: float | None = None  # since when subscribers do not keep up with what it publishes …
        self.answers: list[Callable[[], None]] = []  # … so it hears later that it may go on


class BridgeParticipants:
    """Speaks to the engine for BridgesActor."""

    def __init__(self, actor: EdgeActor, broker: HubBroker) -> None:
        self._actor = actor
        self._broker = broker
        self._participants: dict[str, _Participant] = {}

    def restore(self, device_id: str, bridges: Collection[Bridge]) -> None:
        """Bring back the sessions of these bridges, before anybody publishes; those of others end."""
        now_s = self._actor.clock.steady_s()
        engine = self._broker.engine
        wanted = {client_id_of(device_id, bridge.endpoint) for bridge in bridges}
        for session in list(engine.sessions()):
            if is_bridge(session.name) and session.name not in wanted:
                engine.drop(session)
        for bridge in bridges:
            filters = {rule.source: QOS for rule in bridge.rules if rule.direction is Direction.OUT}
            session = engine.restore(client_id_of(device_id, bridge.endpoint), filters, now_s)
            self._mark(session)

    def join(self, message: JoinBroker, address: str) -> None:
        """Be there as this session, subscribed to these filters and to no others."""
        now_s = self._actor.clock.steady_s()
        known = self._participants.get(message.client_id)
        if known is not None and known.number != message.number:
            known.client.leave(now_s)
            known = None
        participant = known or self._joined(message, address, now_s)
        client = participant.client
        filters = client.session.filters
        for gone in [name for name in filters if name not in message.filters]:
            client.unsubscribe(gone)
        for new in [name for name in message.filters if name not in filters]:
            client.subscribe(new, QOS, now_s)
        if known is None:
            client.resume()

    def _joined(self, message: JoinBroker, address: str, now_s: float) -> _Participant:
        participant = _Participant(message.client_id, message.number, address)
        self._participants[message.client_id] = participant
        engine = self._broker.engine
        session = engine.session(message.client_id)
        if session is not None:  # still with the behaviour of the actor that was before this one
            engine.detach(session, now_s)
        participant.client = LocalClient(
            engine,
            message.client_id,
            partial(self._deliver, participant),
            clean=False,
            now_s=now_s,
            hold=partial(self._hold, participant),
            release=partial(self._release, participant),
            changed=lambda: self._broker.ask_to_write(self._actor.tell),
        )
        self._mark(participant.client.session)
        return participant

    @staticmethod
    def _mark(session: Session) -> None:
        """What a bridge publishes does not come back to it, and what it is owed is not dropped at once.

        It keeps a queue of its own, with limits of its own; until it has joined, messages wait here.
        """
        session.hears_itself = False
        session.keeps_all = True

    def leave(self, message: LeaveBroker) -> None:
        """End a session for good."""
        participant = self._participants.pop(message.client_id, None)
        if participant is not None:
            participant.client.leave(self._actor.clock.steady_s(), for_good=True)

    # to the bridge

    def _deliver(self, participant: _Participant, outs: Sequence[Outgoing]) -> None:
        participant.delivered += [out.packet_id if out.qos else 0 for out in outs]
        for part in parts((out.topic, out.payload, out.qos, out.retain) for out in outs):
            delivery = BrokerDelivery(participant.client_id, participant.number, part)
            self._actor.tell(participant.address, delivery)

    def taken(self, message: DeliveryTaken) -> None:
        """The bridge has so many messages on disk."""
        participant = self._participants.get(message.client_id)
        if participant is not None and participant.number == message.number:
            delivered = participant.delivered
            count = min(message.count, len(delivered))
            packet_ids = [packet_id for _ in range(count) if (packet_id := delivered.popleft())]
            participant.client.acknowledge(packet_ids)

    # from the bridge

    def publish(self, message: PublishToBroker, envelope: Envelope) -> None:
        """Deliver what came from elsewhere; answered when that is on disk, and the subscribers keep up."""
        participant = self._participants.get(message.client_id)
        if participant is None:
            reason = f"'{message.client_id}' has not joined"
            self._actor.reply(RequestFailed(PublishToBroker.__name__, self._actor.address, reason), envelope)
            return
        messages = [
            Publish(topic, payload, qos, retain=retain) for topic, payload, qos, retain in message.messages
        ]
        clock = self._actor.clock
        then = partial(self._published, participant, envelope, len(messages))
        participant.client.publish(messages, clock.steady_s(), clock.monotonic_s(), then)

    def _published(self, participant: _Participant, envelope: Envelope, count: int, problem: str) -> None:
        answer: object = PublishedToBroker(participant.client_id, count)
        if problem:
            answer = RequestFailed(PublishToBroker.__name__, self._actor.address, problem)
        if participant.held_s is not None:
            participant.answers.append(partial(self._actor.reply, answer, envelope))
        else:
            self._actor.reply(answer, envelope)

    def tick(self) -> None:
        """Let nobody wait for so long that it publishes once more."""
        now_s = self._actor.clock.monotonic_s()
        for participant in self._participants.values():
            if participant.held_s is not None and now_s - participant.held_s >= LONGEST_HOLD_S:
                self._release(participant)

    def _hold(self, participant: _Participant) -> None:
        participant.held_s = self._actor.clock.monotonic_s()

    def _release(self, participant: _Participant) -> None:
        participant.held_s = None
        answers, participant.answers = participant.answers, []
        for answer in answers:
            answer()
