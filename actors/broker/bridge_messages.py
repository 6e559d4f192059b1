"""What the bridges and the local broker say to each other, and what is asked of the bridges.

To the broker a bridge is a client of its own, with a persistent session and without a connection: it is
authenticated by being a part of this process, and everything is allowed to it. What it publishes is not
delivered to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from messaging.broker.bridges import Bridge
from messaging.kinds import data_message, message

_BRIDGE: Final = "/$bridge"


def client_id_of(device_id: str, endpoint: str) -> str:
    """Return as which client of the local broker a bridge is known; no other client can be it."""
    return f"{device_id}/{endpoint}{_BRIDGE}"


def is_bridge(client_id: str) -> bool:
    """Say whether a client of the local broker is a bridge."""
    return client_id.endswith(_BRIDGE)


# topic, payload, QoS, retain
BrokerMessage = tuple[str, bytes, int, bool]
PART_BYTES: Final = 4 * 1024 * 1024  # of one envelope, if that holds more than one message


def parts(messages: Iterable[BrokerMessage]) -> Iterator[tuple[BrokerMessage, ...]]:
    """Yield messages in their order, as many together as an envelope should hold."""
    part: list[BrokerMessage] = []
    size_bytes = 0
    for one in messages:
        its_bytes = len(one[0]) + len(one[1])
        if part and size_bytes + its_bytes > PART_BYTES:
            yield tuple(part)
            part, size_bytes = [], 0
        part.append(one)
        size_bytes += its_bytes
    if part:
        yield tuple(part)


@message
class JoinBroker:
    """To the broker: be my session from now on, subscribed to these filters at QoS 1, and to no others.

    Whoever asks has forgotten what it was delivered and did not take: that comes again. `number` is new with
    each join that begins anew, and the same when only filters changed.
    """

    client_id: str
    number: int
    filters: tuple[str, ...]


@message
class LeaveBroker:
    """To the broker: forget this session, with all that waits in it."""

    client_id: str


@data_message
class BrokerDelivery:
    """From the broker: the next messages for a session, in order."""

    client_id: str
    number: int  # of the join
    messages: tuple[BrokerMessage, ...]


@message
class DeliveryTaken:
    """To the broker: so many more messages, in the order of their delivery, are on disk here."""

    client_id: str
    number: int
    count: int


@data_message
class PublishToBroker:
    """To the broker: deliver these, in order. Answered with PublishedToBroker."""

    client_id: str
    messages: tuple[BrokerMessage, ...]


@message
class PublishedToBroker:
    """From the broker: they are delivered, and on disk where somebody has to get them later."""

    client_id: str
    count: int


@message
class BridgesReport:
    """To the hub's own client: how the bridges are, for the twin of `$edgeHub`; counts are not in it."""

    bridges: tuple[tuple[str, str, str, str], ...]  # endpoint, status, connected since or "", error


@message
class ListBridges:
    """Tell how the bridges are doing. Answered with Bridges."""


@message
class Bridges:
    """All bridges, each as plain values; see `Bridge.shown`."""

    bridges: tuple[dict[str, object], ...]


@message
class SetBridges:
    """Let there be these bridges, with these rules, from now on."""

    specs: bytes  # a list of Bridge; JSON


def set_bridges(specs: Iterable[Bridge]) -> SetBridges:
    """Return the message that puts these bridges in force."""
    return SetBridges(msgspec.json.encode(list(specs)))


def specs_in(message: SetBridges) -> tuple[Bridge, ...]:
    """Return the bridges that a message puts in force."""
    return msgspec.json.decode(message.specs, type=tuple[Bridge, ...])
