"""Values of AMQP as plain ones of Python, whichever of several types a peer has chosen."""

from __future__ import annotations

from messaging.amqp.codec import MessageId


def id_text(value: MessageId) -> str:
    """Return a message id or correlation id as text, whichever of its four types it has; binary as hex."""
    return value.hex() if isinstance(value, bytes) else str(value)


def number_of(value: object) -> int | None:
    """Return a value that is a whole number of any type; None for all others, truth values included."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
