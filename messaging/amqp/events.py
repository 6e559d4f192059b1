"""What an AMQP connection tells its owner: the events that `Connection.receive_data` and `tick` return."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from messaging.envelope import Secret

if TYPE_CHECKING:
    from messaging.amqp.link import Delivery, Link


class Outcome(Enum):
    """What the receiver of a delivery made of it. Source: AMQP 1.0 part 3.4."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RELEASED = "released"
    MODIFIED = "modified"
    NONE = "none"  # settled without an outcome, or link or connection ended first


class SaslDone(NamedTuple):
    """Server: the client chose a mechanism. Answer with `Connection.sasl_outcome`, now or later.

    A client that skips SASL brings none.
    """

    mechanism: str  # "ANONYMOUS", "MSSBCBS" or "PLAIN"
    user: str  # PLAIN alone, else ""
    password: Secret | None  # PLAIN alone


class Opened(NamedTuple):
    """The peer's Open arrived. A server answers it with `Connection.open`, or `close` with a condition."""

    container_id: str
    hostname: str  # "" if it named none
    properties: Mapping[str, object]


class LinkAttached(NamedTuple):
    """Server: the peer asks for a link; answer with `accept` or `refuse`. Client: it is attached."""

    link: Link


class LinkDetached(NamedTuple):
    """The peer ended the link, or refused it, or its session ended; or we ended it for what the peer did.

    `link` and its deliveries are of no more use.
    """

    link: Link
    condition: str  # "" without an error
    description: str


class Received(NamedTuple):
    """A whole message arrived; answer with one of the outcomes of `Delivery`."""

    delivery: Delivery


class Settled(NamedTuple):
    """What we sent has its outcome; each delivery sent unsettled gets this once, or its link's LinkDetached.

    On a link with RcvSettleMode.SECOND the owner now calls `delivery.settle()`; on others that is done. The
    receiver on such a link gets Settled too, when the sender has settled after the receiver's outcome.
    """

    delivery: Delivery
    outcome: Outcome
    condition: str  # of REJECTED, else ""
    description: str


class CreditGranted(NamedTuple):
    """A link of which we are the sender has credit: see `link.credit` and `link.drain`.

    It may come right behind LinkAttached; who accepts a link later looks at its credit then.
    """

    link: Link


class Ended(NamedTuple):
    """The last event: write what `data_to_send` has, then close the transport.

    Without condition the peer closed in good order. `offence` says that the peer broke the protocol, was
    silent for too long or failed in SASL: then the condition is ours.
    """

    condition: str
    description: str
    offence: bool


Event = SaslDone | Opened | LinkAttached | LinkDetached | Received | Settled | CreditGranted | Ended
