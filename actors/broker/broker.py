"""Owns what the broker has on disk, and puts into force what the deployment says of the broker.

Understands: WriteDue, WriteSoon, SetBroker, DescribeTopics, BrokerTick; JoinBroker, PublishToBroker,
             DeliveryTaken, LeaveBroker of the bridges
Tells:       hub/mqtt (PolicyChanged), hub/bridges (SetBridges, BrokerDelivery, PublishedToBroker);
             whoever asks (BrokerSet, Topics)
Started by:  HubRootActor where the deployment has a broker, on the event loop of the heads

The engine itself is used by the heads directly (hub_broker.py): what one read brought would otherwise cost an
envelope for each subscriber. Everything that waits is written in one transaction, and then the engine goes on
with what had to wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from actors.addresses import BRIDGES, MQTT
from actors.broker.bridge_messages import DeliveryTaken, JoinBroker, LeaveBroker, PublishToBroker, set_bridges
from actors.broker.bridge_participants import BridgeParticipants
from actors.broker.hub_broker import (
    HubBroker,
    PolicyApplied,
    PolicyChanged,
    SessionsEnded,
    WriteDue,
    WriteSoon,
)
from actors.broker.settings import BrokerSet, SetBroker, spec_in
from actors.broker.topics import DescribeTopics, Topics, described
from actors.kernel.base import EdgeActor
from actors.metrics.broker_metrics import Stands, stand_of
from actors.ports.storage import BrokerStore
from messaging.broker.config import BrokerConfig, BrokerSpec
from messaging.broker.limits import MOST_QUEUED_BYTES, MOST_RETAINED_BYTES
from messaging.envelope import Envelope
from messaging.errors import StoreDamaged, StoreError
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, RequestFailed

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
SOON_S: Final = 0.05  # latest, after nobody waited for it, that a change is written
TIDY_EVERY: Final = 60  # ticks
TELL_EVERY: Final = 60  # ticks between two lines of the log on what did not find room
RECHECK_LIMIT_S: Final = 60.0


@message
class BrokerTick:
    """Timer: count rates, let expire what has."""


class BrokerActor(EdgeActor):
    """The only owner of the broker's database."""

    def __init__(
        self,
        device_id: str,
        broker: HubBroker,
        open_store: Callable[[], BrokerStore],
        compile_spec: Callable[[BrokerSpec], BrokerConfig],
        stands: Stands | None = None,
    ) -> None:
        """Take what is shared.

        Args:
            device_id: Of this edge.
            broker: What outlives this actor.
            open_store: Called in this actor's thread; what it opens is loaded the first time only.
            compile_spec: Makes rules of what the deployment says.
            stands: Where to say what the broker stands at; None: nobody wants to know.
        """
        self._device_id = device_id
        self._broker = broker
        self._bridges = BridgeParticipants(self, broker)
        self._open_store = open_store
        self._compile = compile_spec
        self._stands = stands
        self._store: BrokerStore | None = None
        self._trouble = ""
        self._ticks = 0
        self._told = broker.engine.counts()  # in the log
        self._told_at = -TELL_EVERY  # tick
        self._counted: dict[str, int] = {}  # topic → messages at the last tick
        self._rates: dict[str, float] = {}  # topic → messages/s, of some seconds
        self._spec = b""  # in force
        self._recheck = 0  # the request to the head that is under way
        self._awaiting: list[Envelope] = []  # who is told when it is done

    def on_start(self) -> None:
        self._store = self._open_store()
        if not self._broker.is_loaded:
            self._broker.engine.load(self._store.load(), self.clock.steady_s())
            self._bridges.restore(self._device_id, self._broker.config.bridges)
            self._broker.is_loaded = True
        self._broker.writing()
        self._write()
        self.set_timer(TICK_S, BrokerTick())

    def on_stop(self) -> None:
        if self._store is not None:
            try:
                self._write()
            finally:
                self._store.close()
                self._store = None

    # the disk

    def on_write_due(self, message: WriteDue) -> None:
        self._write()

    def on_write_soon(self, message: WriteSoon) -> None:
        self.set_timer(SOON_S, WriteDue())

    def _write(self) -> None:
        """Write what has changed, then let those go on who waited for it."""
        self._broker.writing()
        engine = self._broker.engine
        found = engine.take_changes()
        if found is None or self._store is None:
            return
        changes, then = found
        problem = ""
        try:
            self._store.write(changes)
            self._trouble = ""
        except StoreDamaged as exc:
            self.context.give_up(str(exc))
            problem = str(exc)
        except StoreError as exc:
            problem = str(exc)
            engine.journal.put_back(changes)
            self._report(problem)
        engine.written(then, problem)
        self._broker.ask_to_write(self.tell)

    def _report(self, problem: str) -> None:
        """Tell the log, once: it is tried again with each batch."""
        if problem != self._trouble:
            self._trouble = problem
            log.error("messages to topics are refused until this is over: %s", problem)

    def on_broker_tick(self, message: BrokerTick) -> None:
        self.set_timer(TICK_S, BrokerTick())
        self._ticks += 1
        engine = self._broker.engine
        counted = dict(engine.published_to)
        self._rates = {topic: float(count - self._counted.get(topic, 0)) for topic, count in counted.items()}
        self._counted = counted
        self._bridges.tick()
        if self._stands is not None:
            self._stands.broker = stand_of(engine)
        ended = engine.tick(self.clock.steady_s(), self.clock.monotonic_s())
        if ended:
            log.info("sessions end, for nobody has come for them: %s", ", ".join(ended))
            self.tell(MQTT, SessionsEnded(tuple(ended)))
        self._tell_what_found_no_room()
        if self._ticks % TIDY_EVERY == 0 and self._store is not None:
            try:
                self._store.tidy()
            except StoreError as exc:
                self._report(str(exc))
        self._broker.ask_to_write(self.tell)

    def _tell_what_found_no_room(self) -> None:
        """Tell the log, at once and then each minute while there is more."""
        counts, told, engine = self._broker.engine.counts(), self._told, self._broker.engine
        not_retained, dropped = counts.not_retained - told.not_retained, counts.dropped - told.dropped
        if self._ticks - self._told_at < TELL_EVERY or not (not_retained or dropped):
            return
        self._told, self._told_at = counts, self._ticks
        if not_retained:
            log.warning(
                "%d messages were passed on and not retained: there is room for %d, of %d MiB together, and "
                "%d are retained; one is removed by an empty message with RETAIN on its topic",
                not_retained,
                engine.limits.max_retained,
                MOST_RETAINED_BYTES >> 20,
                len(engine.retained),
            )
        if dropped:
            log.warning(
                "%d messages were dropped: their subscribers do not take them, and %d may wait for each, of "
                "%d MiB for all together; `edge-actors topics` names them",
                dropped,
                engine.limits.max_queued,
                MOST_QUEUED_BYTES >> 20,
            )

    # what the deployment says

    def on_set_broker(self, message: SetBroker) -> None:
        """Put rules and bridges in force; the head cuts off whoever may no longer do what it does."""
        self._awaiting.append(self.envelope)
        if message.spec != self._spec:
            self._spec = message.spec
            self._broker.config = self._compile(spec_in(message))
            self.tell(BRIDGES, set_bridges(self._broker.config.bridges))
            self._recheck = self.request(MQTT, PolicyChanged(), RECHECK_LIMIT_S)
        elif not self._recheck:
            self._set(BrokerSet())

    def on_policy_applied(self, message: PolicyApplied) -> None:
        if self.envelope.correlation_id == self._recheck:
            self._set(BrokerSet())

    def on_request_failed(self, message: RequestFailed) -> None:
        if self.envelope.correlation_id == self._recheck:
            self._spec = b""  # asked for once more, it is done once more
            self._set(message)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        if message.correlation_id == self._recheck:
            self._spec = b""
            self._set(
                RequestFailed(SetBroker.__name__, message.address, f"{message.address} does not answer")
            )

    def _set(self, answer: object) -> None:
        self._recheck = 0
        awaiting, self._awaiting = self._awaiting, []
        for asked in awaiting:
            self.reply(answer, asked)

    # bridges

    def on_join_broker(self, message: JoinBroker) -> None:
        self._bridges.join(message, self.envelope.sender)

    def on_leave_broker(self, message: LeaveBroker) -> None:
        self._bridges.leave(message)

    def on_delivery_taken(self, message: DeliveryTaken) -> None:
        self._bridges.taken(message)

    def on_publish_to_broker(self, message: PublishToBroker) -> None:
        self._bridges.publish(message, self.envelope)

    # what is told

    def on_describe_topics(self, message: DescribeTopics) -> None:
        self.reply(Topics(described(self._broker.engine, self._rates)))

    def describe(self) -> dict[str, Any]:
        engine = self._broker.engine
        counts = engine.counts()
        return {
            "sessions": len(engine.sessions()),
            "retained": len(engine.retained),
            "published": sum(counts.published),
            "sent": sum(counts.sent),
            "dropped": counts.dropped,
        }
