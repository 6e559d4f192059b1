"""Cloud-to-device messages: each device has a queue in the store, like an input of a module.

A link to the cloud may have to acknowledge a message as soon as it has it: the Python SDK does. So the hub
keeps it until the device has it, in order, one at a time, and not longer than the cloud would.

Source: hub-protocols.md sections 1.14, 7.2 and 7.4
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from messaging import system_properties as names
from messaging.errors import EnvelopeError
from messaging.message import decode_header
from messaging.mqtt.filters import MAX_TEXT_BYTES, matches
from messaging.property_bag import encode_bag
from messaging.time_text import from_iso
from messaging.topics import Feature, c2d_topic, classify_filter

LONGEST_WAIT_S: Final = 2 * 24 * 3600.0  # IoT Hub's longest time to live; the device may be gone for good
_ACK: Final = "iothub-ack"  # IoT Hub's name for it, which its SDKs read; the reference hub writes `ack`
_NAME: Final = "/$c2d"
FORMER_DEVICES: Final = _NAME  # where the ledger sums up devices for which nothing waits; no id is empty

Run = tuple[int, tuple[bytes, ...], tuple[tuple[int, bytes], ...]]
"""First position, headers, entries (index of header, body): what a `Ready` has."""


def queue_of(device_id: str) -> str:
    """Return the endpoint id of the queue of a device. That of an input of a module has two slashes."""
    return device_id + _NAME


def is_c2d_queue(endpoint_id: str) -> bool:
    """Say whether an endpoint is the queue of a device."""
    return endpoint_id.endswith(_NAME) and endpoint_id.count("/") == 1


def granted_qos(client_id: str, subscriptions: Mapping[str, int]) -> int | None:
    """Return at which QoS a client wants messages from the cloud; None: not at all, or it is a module."""
    if "/" in client_id:
        return None
    topic = c2d_topic(client_id, "")
    granted = [
        qos
        for wanted, qos in subscriptions.items()
        if classify_filter(wanted) is Feature.C2D and matches(wanted, topic)
    ]
    return max(granted, default=None)


def time_to_live_s(header: bytes, now_s: float) -> float:
    """Return how long a message may wait; 0 when it has expired already.

    Raises:
        EnvelopeError: `header` is not the header of a message.
    """
    expires_s = _expires_s(header)
    return LONGEST_WAIT_S if expires_s is None else min(LONGEST_WAIT_S, max(0.0, expires_s - now_s))


def in_time(runs: Iterable[Run], now_s: float) -> tuple[tuple[Run, ...], tuple[tuple[int, int], ...]]:
    """Part messages that may still be delivered from the positions of those that have expired."""
    kept: list[Run] = []
    late: list[tuple[int, int]] = []
    for first, headers, entries in runs:
        over = [_is_over(header, now_s) for header in headers]
        if not any(over):
            kept.append((first, headers, entries))
            continue
        for position, (index, body) in enumerate(entries, first):
            if over[index]:
                late.append((position, position))
            else:
                kept.append((position, (headers[index],), ((0, body),)))
    return tuple(kept), tuple(late)


def topic_of(endpoint_id: str, header: bytes) -> bytes | None:
    """Return the topic under which a message goes to its device; None when its properties do not fit.

    Raises:
        EnvelopeError: `header` is not the header of a message.
    """
    message = decode_header(header, b"")
    properties, system_properties = dict(message.properties), dict(message.system_properties)
    ack = system_properties.pop(names.ACK, None)
    if ack is not None:
        properties[_ACK] = ack
    bag = encode_bag(properties, system_properties)
    topic = c2d_topic(endpoint_id.removesuffix(_NAME), bag).encode()
    return topic if len(topic) <= MAX_TEXT_BYTES else None


def _is_over(header: bytes, now_s: float) -> bool:
    try:
        expires_s = _expires_s(header)
    except EnvelopeError:
        return False  # it has no topic either, and is dropped for that
    return expires_s is not None and expires_s <= now_s


def _expires_s(header: bytes) -> float | None:
    """Return when a message expires; a time that nobody can read is none."""
    text = decode_header(header, b"").system_properties.get(names.EXPIRY)
    try:
        return from_iso(text) if text else None
    except ValueError:
        return None
