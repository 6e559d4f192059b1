"""What waits for AMQP clients in the store: inputs of modules, and messages from the cloud.

Each goes out as an unsettled delivery when the client has credit for it, and leaves the store when the client
has accepted it. What a client gives back is sent again, before anything behind it.

Source: spec sheet hub-protocols.md sections 3.4, 3.5 and 7.4
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from actors.heads.amqp_connection import AmqpClient
from actors.heads.amqp_links import MessageLink, Waiting
from actors.heads.attached import AttachedEndpoints
from actors.heads.mqtt_client import add_position
from actors.hub import c2d_queues
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, RETRY_TO_MODULE, HubMetrics
from actors.store.messages import Ready
from actors.store.redelivery import wait_s
from messaging.amqp.addresses import LinkKind
from messaging.amqp.events import Outcome, Settled
from messaging.amqp.heads import DeviceWriter
from messaging.amqp.link import RcvSettleMode
from messaging.errors import LocalProtocolError

log = logging.getLogger(__name__)

LONGEST_REDELIVER_S: Final = 300.0  # between two repetitions of what a client does not answer, or gives back
FIRST_RESUME_S: Final = 1.0  # after a client has given something back
MOST_C2D_DELIVERIES: Final = 10  # of one message, as in the cloud: hub-protocols.md section 7.2


class AmqpDeliveries:
    """The endpoints that clients of this head take messages from. A part of the head."""

    def __init__(
        self,
        head: EdgeActor,
        store: str,
        next_id: Callable[[], int],
        window_messages: int,
        ack_s: float,
        metrics: HubMetrics = OFF,
    ) -> None:
        """Take what is needed; what a client has not answered is sent again after `ack_s`."""
        self._head = head
        self._metrics = metrics
        self._ack_s = ack_s
        self._attached: AttachedEndpoints[MessageLink] = AttachedEndpoints(
            head, store, next_id, window_messages
        )
        self._inputs: dict[str, dict[str, str]] = {}  # client id → endpoint id → name of the input

    def attached(self) -> tuple[str, ...]:
        """Return the endpoints that somebody takes messages from."""
        return self._attached.endpoint_ids()

    def set_endpoints(self, endpoints: Iterable[tuple[str, str, str]]) -> None:
        """Replace the endpoints that routes lead to; `update` has to be called for every client then."""
        self._inputs = {}
        for endpoint_id, client_id, input_name in endpoints:
            self._inputs.setdefault(client_id, {})[endpoint_id] = input_name

    def update(self, client: AmqpClient) -> None:
        """Attach the endpoints that this client's links are for, detach the others."""
        wanted: dict[str, MessageLink] = {}
        link = client.links.get(LinkKind.INPUTS)
        if isinstance(link, MessageLink):
            for endpoint_id, input_name in self._inputs.get(client.client_id, {}).items():
                wanted[endpoint_id] = link
                link.writers.setdefault(endpoint_id, DeviceWriter(input_name=input_name))
        link = client.links.get(LinkKind.C2D)
        if isinstance(link, MessageLink) and client.identity.module_id is None:
            queue = c2d_queues.queue_of(client.client_id)
            wanted[queue] = link
            link.writers.setdefault(queue, DeviceWriter(to=f"/devices/{client.client_id}"))
        for endpoint_id, taker in self._attached.all():
            if taker.client is client and wanted.get(endpoint_id) is not taker:
                taker.forget(endpoint_id)
                self._attached.detach(endpoint_id)
        for endpoint_id, link in wanted.items():
            if self._attached.taker_of(endpoint_id) is not link:
                self._attached.attach(endpoint_id, link)

    def store_restarted(self) -> None:
        """The store has forgotten who takes what, and sends what was not delivered: all but new to us."""
        for endpoint_id, link in self._attached.all():
            self._attached.attach_again(endpoint_id, link.positions_of(endpoint_id))

    def ready(self, message: Ready) -> MessageLink | None:
        """Take messages of an endpoint; return the link on which they go out."""
        link = self._attached.taker_for(message)
        if link is None:
            return None
        endpoint_id = message.endpoint_id
        runs, again = self._attached.without_had(message)
        if again:  # what has been answered meanwhile will not be a second time
            has = link.positions_of(endpoint_id)
            answered = [(position, position) for position in again if position not in has]
            self._attached.tell_delivered({endpoint_id: answered} if answered else {})
        for position, headers, entries in self._attached.in_time(endpoint_id, runs):
            for at, (index, body) in enumerate(entries, position):
                link.waiting.append(Waiting(endpoint_id, at, headers[index], body))
        self.pump(link)
        return link

    def pump(self, link: MessageLink) -> None:
        """Send what credit allows, unless the client does not read or has just given something back."""
        now_s = self._head.clock.monotonic_s()
        poison: dict[str, list[tuple[int, int]]] = {}
        waiting, engine_link = link.waiting, link.link
        if not link.refused:
            while waiting and engine_link.credit > 0 and not link.connection.is_unread:
                one = waiting.popleft()
                if not self._attached.is_in_time(one.endpoint_id, one.position, one.header, one.body):
                    continue
                try:
                    link.write(one, now_s)
                except LocalProtocolError as exc:
                    log.error("%s: a message is dropped: %s", one.endpoint_id, exc)
                    add_position(poison, one.endpoint_id, one.position)
                except Exception:  # ours too: it would come with the next delivery again, and so on for ever
                    log.exception("%s: a message is dropped: it cannot be encoded", one.endpoint_id)
                    add_position(poison, one.endpoint_id, one.position)
        if engine_link.drain and not waiting:
            engine_link.drained()
        for endpoint_id, ranges in poison.items():
            self._attached.tell_undeliverable(endpoint_id, ranges)

    def settled(self, link: MessageLink, outcomes: list[Settled]) -> None:
        """A client has answered messages."""
        now_s = self._head.clock.monotonic_s()
        accepted: dict[str, list[tuple[int, int]]] = {}
        rejected: dict[str, list[tuple[int, int]]] = {}
        for delivery, outcome, condition, _ in outcomes:
            one = delivery.context
            if one not in link.in_flight:
                continue  # its endpoint was detached
            if outcome is Outcome.ACCEPTED:
                add_position(accepted, one.endpoint_id, one.position)
            elif outcome is Outcome.REJECTED:
                log.warning(
                    "%s has rejected a message of %s: %s", link.client.client_id, one.endpoint_id, condition
                )
                add_position(rejected, one.endpoint_id, one.position)
            elif outcome is Outcome.RELEASED:
                if link.kind is LinkKind.C2D and one.times >= MOST_C2D_DELIVERIES:
                    log.error("%s: a message is dropped: given back %d times", one.endpoint_id, one.times)
                    add_position(rejected, one.endpoint_id, one.position)
                else:
                    self._given_back(link, one, now_s)
            else:  # as if it had said nothing; what is behind it waits
                log.error("%s has answered a message with %s", link.client.client_id, outcome.value)
                link.take_back(one)
                link.resume_s = max(link.resume_s, now_s + self._ack_s)
            link.in_flight.pop(one, None)
            if link.link.rcv_settle_mode is RcvSettleMode.SECOND:
                delivery.settle()
        if accepted or rejected:
            link.taken_at_s = now_s
            link.repetitions = link.refusals = 0
        for endpoint_id, ranges in accepted.items():
            link.accepted_last[endpoint_id] = max(last for _, last in ranges)
        self._attached.tell_delivered(accepted)
        for endpoint_id, ranges in rejected.items():
            self._attached.tell_undeliverable(endpoint_id, ranges)

    def look(self, link: MessageLink) -> None:
        """Send again what was given back a while ago, and what the client has not answered in time."""
        now_s = self._head.clock.monotonic_s()
        if link.in_flight and not link.connection.is_unread:
            again = self._not_answered(link, now_s)
            if again:
                log.warning("%s does not answer: sending %d again", link.client.client_id, len(again))
                link.repetitions += 1
                self._metrics.repeated(link.client.client_id, RETRY_TO_MODULE)
            for one in again:
                if one.delivery is not None:
                    one.delivery.settle()
                link.take_back(one)
        if link.refused and now_s >= link.resume_s:
            link.go_on()
        self.pump(link)

    def _not_answered(self, link: MessageLink, now_s: float) -> list[Waiting]:
        """Return what has to be sent again: all, if nothing is answered, or what was passed over."""
        limit_s = wait_s(link.repetitions, self._ack_s, max(self._ack_s, LONGEST_REDELIVER_S))
        oldest_s = next(iter(link.in_flight)).sent_at_s
        if now_s - oldest_s <= limit_s:
            return []
        if now_s - link.taken_at_s > limit_s:
            return list(link.in_flight)
        last = link.accepted_last
        return [
            one
            for one in link.in_flight
            if now_s - one.sent_at_s > limit_s and one.position < last.get(one.endpoint_id, -1)
        ]

    def _given_back(self, link: MessageLink, one: Waiting, now_s: float) -> None:
        if not link.refused:
            link.resume_s = now_s + wait_s(link.refusals, FIRST_RESUME_S, LONGEST_REDELIVER_S)
            link.refusals += 1
        link.take_back(one)
