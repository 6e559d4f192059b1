"""One identity on an AMQP line to IoT Hub: its links, and exactly one answer for each number.

The link for telemetry is attached first and proves that the cloud lets the identity in; when it or any other
link ends, the connection of this identity is lost, and no other's. Links for twins, methods and messages from
the cloud are attached when they are needed. It is one state machine, hence one file; what both protocols have
in common, and what can be said without its state, stands in the files beside it.

Source: spec sheet hub-protocols.md sections 3.3 to 3.8
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections import deque
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

from actors.upstream.connection import CloudAccess, CloudFault, CloudObserver, Fault
from messaging.amqp.addresses import LinkKind, address_of, link_properties
from messaging.amqp.codec import BATCH_FORMAT, MessageId, decode, encode, join_batch
from messaging.amqp.conditions import Refusal
from messaging.amqp.events import Outcome
from messaging.amqp.heads import CloudWriter
from messaging.amqp.mapping import read_cloud_message
from messaging.amqp.method_messages import MethodCall, method_answer, parse_method_call
from messaging.amqp.twin_messages import (
    DesiredPatch,
    TwinAnswer,
    TwinOperation,
    parse_twin_answer,
    twin_request,
)
from messaging.errors import RemoteProtocolError
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.topics import Feature
from messaging.version import VERSION
from runtime.upstream import faults
from runtime.upstream.batches import Batch, Batches
from runtime.upstream.held import HeldMessages
from runtime.upstream.identity_connection import IdentityConnection

if TYPE_CHECKING:
    from messaging.amqp.codec import AmqpMessage
    from messaging.amqp.link import Delivery, Link
    from runtime.upstream.amqp_line import Line

log = logging.getLogger(__name__)

_END_FOLLOWS_S: Final = 0.2  # the end of a link, behind what is forgotten with it
_CREDIT: Final = 100  # calls and twin answers that may come before some have been read
_TWIN: Final = (LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS)
_METHODS: Final = (LinkKind.METHOD_RESPONSES, LinkKind.METHOD_CALLS)
_SENDERS: Final = frozenset({LinkKind.EVENTS, LinkKind.TWIN_REQUESTS, LinkKind.METHOD_RESPONSES})
_FINAL: Final = frozenset({Fault.TOO_LARGE, Fault.REFUSED})


class _State(Enum):
    CLOSED = "closed"
    JOINING = "joining"  # the line is not up
    CLAIMING = "claiming"  # the token is not taken
    ATTACHING = "attaching"  # the link for telemetry is not there
    JUDGING = "judging"  # the cloud does not let it in: is it the key, or the clock
    UP = "up"


_OPENING: Final = frozenset({_State.JOINING, _State.CLAIMING, _State.ATTACHING, _State.JUDGING})


class AmqpConnection(IdentityConnection[MessageId]):
    """Implements `CloudConnection`, `Member` and `Holder`."""

    def __init__(self, access: CloudAccess, observer: CloudObserver, line: Line, batches: Batches) -> None:
        super().__init__(access, observer, line.shared)
        self._line = line
        self._host_name = access.host_name
        self._state = _State.CLOSED
        self._since_s = 0.0  # when it began to open
        self._attempt = 0
        self._links: dict[LinkKind, Link] = {}
        self._attaching: dict[LinkKind, float] = {}  # since when
        self._writer = CloudWriter()
        self._batches = batches
        self._tags = itertools.count(1)
        self._following: dict[str, float] = {}  # asked to (not) be told of desired properties, since when
        self._is_following = False
        self._answers: deque[bytes] = deque()  # to methods, encoded
        self._held = HeldMessages()

    @property
    def _is_connected(self) -> bool:
        return self._state is _State.UP

    # opening

    def _open(self) -> None:
        if self._state is _State.CLOSED and not self._is_closed:
            self._state = _State.JOINING
            self._since_s = time.monotonic()
            self._line.join(self)

    def line_is_up(self) -> None:
        assert self._line.tokens is not None
        self._state = _State.CLAIMING
        self._since_s = time.monotonic()
        self._line.tokens.claim(self)

    def token_taken(self) -> None:
        if self._state is _State.CLAIMING:
            self._state = _State.ATTACHING
            self._attach(LinkKind.EVENTS)
            self._attach_wanted()

    def token_refused(self, fault: CloudFault) -> None:
        if not self._is_judging:
            self._lose(fault)

    def _attach_wanted(self) -> None:
        if Feature.METHODS in self._wanted:
            self._attach(*_METHODS)
        if Feature.C2D in self._wanted and self.access.identity.module_id is None:
            self._attach(LinkKind.C2D)
        if Feature.DESIRED_PROPERTIES in self._wanted:
            self._attach(*_TWIN)

    def _attach(self, *kinds: LinkKind) -> None:
        """Attach links that are not there; those of a pair have a channel in common."""
        channel = str(uuid.uuid4())
        identity, signer = self.access.identity, self.access.signer
        chain = () if signer is None else (identity.device_id, signer.device_id)
        for kind in kinds:
            if kind in self._links:
                continue
            properties = link_properties(
                kind,
                f"edge-actors/{VERSION}",
                channel=channel,
                model_id=self.access.model_id,
                auth_chain=chain,
            )
            address = address_of(kind, identity)
            if kind in _SENDERS:
                settled = kind is not LinkKind.EVENTS
                link = self._line.attach_sender(self, address, properties, settled=settled)
            else:
                is_c2d = kind is LinkKind.C2D
                credit = self._held.most if is_c2d else _CREDIT
                link = self._line.attach_receiver(
                    self, address, properties, credit=credit, settled=not is_c2d, twice=is_c2d
                )
            self._links[kind] = link
            self._attaching[kind] = time.monotonic()

    def attached(self, link: Link) -> None:
        kind = self._kind(link)
        if kind is None:
            return
        self._attaching.pop(kind, None)
        if kind is LinkKind.EVENTS and self._state is _State.ATTACHING:
            self._state = _State.UP
            self._observer.connected()
        self._go_on()

    def _go_on(self) -> None:
        """Do what waited for links."""
        if self._state is not _State.UP or self._attaching:
            return  # what is asked in order is done in order: links first
        self._follow()
        self._ask_waiting()
        self._answer_waiting()

    def _kind(self, link: Link) -> LinkKind | None:
        return next((kind for kind, its in self._links.items() if its is link), None)

    # ending

    def detached(self, link: Link, condition: str, description: str) -> None:
        kind = self._kind(link)
        if kind is not None:
            del self._links[kind]
            if not self._is_judging:
                self._lose(faults.of_detach(self._who, self._host_name, condition, description))

    def line_is_lost(self, fault: CloudFault) -> None:
        self._links.clear()
        self._told_lost(fault)

    def _lose(self, fault: CloudFault) -> None:
        """End the connection of this identity, because of what the cloud did or did not do."""
        was_opening = self._state in _OPENING
        if was_opening and fault.kind is Fault.UNAUTHORIZED and fault.status and not self._is_judging:
            self._state = _State.JUDGING
            self._attempt += 1
            self._shared.openers.run(partial(self._judge, self._attempt, fault))
            return
        self._leave(is_doubtful=fault.kind is Fault.UNAUTHORIZED)
        self._told_lost(fault)

    @property
    def _is_judging(self) -> bool:
        return self._state is _State.JUDGING

    def _judge(self, attempt: int, fault: CloudFault) -> None:
        """Find out whether the key was refused or the time. Runs in a thread of its own."""
        judged = self._shared.key_or_clock(self.access, fault)
        self._loop.call(self._judged, attempt, judged)

    def _judged(self, attempt: int, fault: CloudFault) -> None:
        if attempt == self._attempt and self._is_judging:
            self._lose(fault)

    def _told_lost(self, fault: CloudFault) -> None:
        """Say so; what had no answer has failed, in the order of asking."""
        failed = [*self._batches.take_all(), *self._requests.take_all()]
        self._forget_all()
        for number in failed:
            self._observer.failed(number, fault)
        self._observer.lost(fault)

    def _drop(self, fault: CloudFault) -> None:
        if self._state is not _State.CLOSED:
            self._lose(fault)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            owed = self.waits_since()
            self._leave(is_doubtful=False)
            self._forget_all()
            if owed is not None:
                self._line.given_up(owed[0])
            self.on_closed()

    def _leave(self, *, is_doubtful: bool) -> None:
        """Detach the links, and have nothing to do with the line any more."""
        if self._state is _State.CLOSED:
            return
        for link in self._links.values():
            link.context = None
            link.detach()
        if self._line.tokens is not None:
            self._line.tokens.release(self, is_doubtful=is_doubtful)
        self._line.leave(self)

    def _forget_all(self) -> None:
        self._attempt += 1
        self._state = _State.CLOSED
        self._links.clear()
        self._attaching.clear()
        self._batches.take_all()
        self._requests.take_all()
        self._following.clear()
        self._is_following = False
        self._calls.clear()
        self._answers.clear()
        self._held.forget()

    # looked after each second

    def tick(self, now_s: float) -> None:
        self._fail_overdue(now_s)
        if self._state in (_State.CLAIMING, _State.ATTACHING):
            if now_s - self._since_s > self._times.open_s:
                self._lose(faults.silent(self._host_name, self._times.open_s))
            return
        late_s = now_s - self._times.open_s
        if any(since_s < late_s for since_s in (*self._attaching.values(), *self._following.values())):
            self._lose(faults.silent(self._host_name, self._times.open_s))

    def waits_since(self) -> tuple[float, int] | None:
        if self._state in (_State.CLAIMING, _State.ATTACHING):
            return self._since_s, 0
        since_s = min((*self._attaching.values(), *self._following.values()), default=None)
        oldest = self._batches.oldest()
        if oldest is not None:
            return min(oldest.sent_s, since_s or oldest.sent_s), oldest.size_bytes
        return None if since_s is None else (since_s, 0)

    # subscriptions

    def _want(self, features: frozenset[Feature]) -> None:
        before, self._wanted = self._wanted, features
        if self._state not in (_State.ATTACHING, _State.UP):
            return
        gone = before - features
        if Feature.METHODS in gone:
            self._detach(*_METHODS)
            self._calls.clear()
            self._answers.clear()
        if Feature.C2D in gone:
            self._give_c2d_back()
        self._attach_wanted()
        self._go_on()

    def _detach(self, *kinds: LinkKind) -> None:
        for kind in kinds:
            self._attaching.pop(kind, None)
            link = self._links.pop(kind, None)
            if link is not None:
                link.context = None
                link.detach()
        self._line.has_more()

    def _follow(self) -> None:
        """Ask to be told of desired properties, or not to be told any more."""
        wants = Feature.DESIRED_PROPERTIES in self._wanted
        if wants is self._is_following or LinkKind.TWIN_REQUESTS not in self._links:
            return
        operation = TwinOperation.PUT if wants else TwinOperation.DELETE
        request_id = self._next_id()
        if self._say(LinkKind.TWIN_REQUESTS, twin_request(operation, request_id)):
            self._is_following = wants
            self._following[request_id] = time.monotonic()

    # telemetry

    def _send_telemetry(self, number: int, message: Message) -> None:
        size_bytes = message.size_bytes
        if size_bytes > LARGEST_MESSAGE_BYTES:
            self._observer.failed(number, faults.too_large(size_bytes, LARGEST_MESSAGE_BYTES))
            return
        encoded = self._writer.write(message)
        most_bytes = self._links[LinkKind.EVENTS].max_message_bytes
        if 0 < most_bytes < len(encoded):
            self._observer.failed(number, faults.too_large(len(encoded), most_bytes))
            return
        self._batches.add(number, encoded)
        self._line.has_telemetry(self)

    def send_batch(self, now_s: float) -> int:
        link = self._links.get(LinkKind.EVENTS)
        if link is None or link.credit <= 0 or not self._batches.is_due:
            return 0  # the answer, or the credit, that is missing gives it its turn again
        batch = self._batches.take(now_s, link.max_message_bytes)
        if len(batch.messages) == 1:
            data, message_format = batch.messages[0].encoded, 0
        else:
            data = join_batch([message.encoded for message in batch.messages])
            message_format = BATCH_FORMAT
        tag = next(self._tags).to_bytes(8, "big")
        delivery = link.send(data, tag, settled=False, message_format=message_format)
        self._batches.sent(delivery, batch)
        return batch.size_bytes

    def credit_granted(self, link: Link) -> None:
        if link is self._links.get(LinkKind.EVENTS):
            self._line.has_telemetry(self)
        else:
            self._go_on()

    def settled(self, delivery: Delivery, outcome: Outcome, condition: str, description: str) -> None:
        fault = None
        if outcome is Outcome.REJECTED:
            fault = faults.of_rejection(self._who, self._host_name, condition, description)
        elif outcome is not Outcome.ACCEPTED:
            fault = faults.not_taken(self._who, self._host_name)
        if outcome is Outcome.NONE:  # perhaps with its link, whose end has the reason and comes behind this
            self._loop.later(_END_FOLLOWS_S, partial(self._settled, delivery, fault))
        else:
            self._settled(delivery, fault)

    def _settled(self, delivery: Delivery, fault: CloudFault | None) -> None:
        self._batches.answered(delivery, fault, time.monotonic())
        while (answer := self._batches.next_answer()) is not None:
            self._tell_outcome(*answer)
        self._line.has_telemetry(self)

    def _tell_outcome(self, batch: Batch, fault: CloudFault | None) -> None:
        if fault is None:
            for number in batch.numbers:
                self._observer.done(number, b"")
        elif fault.kind not in _FINAL:
            for number in batch.numbers:
                self._observer.failed(number, fault)
            self._lose(fault)
        elif len(batch.messages) == 1:
            self._observer.failed(batch.messages[0].number, fault)
        else:
            self._batches.again_in_parts(batch)

    # twins

    def _send_requests(self) -> None:
        self._attach(*_TWIN)
        self._go_on()

    def _ask_waiting(self) -> None:
        link = self._links.get(LinkKind.TWIN_REQUESTS)
        while link is not None and link.credit > 0:
            request = self._requests.next_to_leave()
            if request is None:
                return
            operation = TwinOperation.GET if request.is_get else TwinOperation.PATCH
            self._say(LinkKind.TWIN_REQUESTS, twin_request(operation, request.request_id, request.payload))

    def _twin_told(self, data: bytes) -> None:
        what = parse_twin_answer(decode(data))
        if isinstance(what, DesiredPatch):
            if Feature.DESIRED_PROPERTIES in self._wanted:
                self._observer.desired_changed(what.patch)
        elif isinstance(what, TwinAnswer):
            self._answer_came(what)
        else:
            log.warning("the cloud, to '%s': %s", self._who, what.reason)

    def _answer_came(self, answer: TwinAnswer) -> None:
        request_id = str(answer.correlation_id)
        if self._following.pop(request_id, None) is None:
            self._twin_answered(request_id, answer.status, answer.body)
        elif answer.status >= 300:
            what = "to be told of desired properties was asked for"
            self._lose(faults.of_status(answer.status, what, answer.body))

    # what the cloud sends

    def received(self, delivery: Delivery) -> None:
        link = delivery.link
        kind = self._kind(link)
        try:
            if kind is LinkKind.C2D:
                self._message_came(delivery)
                return
            delivery.accept()
            if link.credit < _CREDIT // 2:
                link.grant(_CREDIT - link.credit)
            if kind is LinkKind.TWIN_ANSWERS:
                self._twin_told(delivery.data)
            elif kind is LinkKind.METHOD_CALLS:
                self._call_came(delivery.data)
        except RemoteProtocolError as exc:
            log.warning("the cloud, to '%s': %s", self._who, exc)
            delivery.reject("amqp:decode-error", "this message cannot be read")

    def _call_came(self, data: bytes) -> None:
        call = parse_method_call(decode(data))
        if isinstance(call, MethodCall):
            self._called(call.correlation_id, call.name, call.payload)
        else:
            log.warning("the cloud, to '%s': %s", self._who, call.reason)

    def _send_answer(self, cloud_id: MessageId, status: int, payload: bytes) -> None:
        self._answers.append(encode(method_answer(cloud_id, status, payload)))
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        link = self._links.get(LinkKind.METHOD_RESPONSES)
        while link is not None and link.credit > 0 and self._answers:
            link.send(self._answers.popleft(), next(self._tags).to_bytes(8, "big"), settled=True)
            self._line.has_more()

    def _say(self, kind: LinkKind, message: AmqpMessage) -> bool:
        """Send what nobody acknowledges; False when there is no credit for it now."""
        link = self._links.get(kind)
        if link is None or link.credit <= 0:
            return False
        link.send(encode(message), next(self._tags).to_bytes(8, "big"), settled=True)
        self._line.has_more()
        return True

    # cloud-to-device messages

    def _message_came(self, delivery: Delivery) -> None:
        message = read_cloud_message(decode(delivery.data))
        if isinstance(message, Refusal):
            raise RemoteProtocolError(message.reason)
        if Feature.C2D not in self._wanted:
            delivery.release()
            return
        self._held.hold(delivery)
        self._observer.message_received(message, partial(self._loop.call, self._taken, delivery))

    def _taken(self, delivery: Delivery, is_taken: bool) -> None:
        if self._held.decide(delivery, is_taken):
            link = delivery.link
            missing = self._held.missing(link.credit)
            if Feature.C2D not in self._wanted:
                self._give_c2d_back()
            elif missing:
                link.grant(missing)
            self._line.has_more()

    def _give_c2d_back(self) -> None:
        """Detach, once what is on its way to the disk has got there: it would come again."""
        if not self._held:
            self._detach(LinkKind.C2D)
            self._held.forget()
