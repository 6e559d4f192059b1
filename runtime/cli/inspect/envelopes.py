"""Envelopes as inspectors show them: plain values without secrets, and one line for people."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from actors.agent.reported import MASKED
from messaging.envelope import Envelope, Secret, decode
from messaging.plain_json import to_json
from messaging.text import quoted
from messaging.time_text import iso_utc
from runtime.home import Home
from runtime.support.bundle import known_secrets
from runtime.support.redaction import Redactor

LONGEST_BODY: Final = 160  # characters of a message on the line of its envelope
_LANES: Final = ("control", "data")


@dataclass(frozen=True, slots=True)
class SeenEnvelope:
    """One envelope as a tap brought it."""

    process: str
    at_s: float  # when its actor took it; seconds since 1970-01-01 UTC
    size: int
    envelope: Envelope
    names: Sequence[str]  # of the fields of its message; none when the edge does not know its kind
    cut: bool  # whether the message was left out because it is too large

    def named(self, names: Sequence[str]) -> SeenEnvelope:
        """Return the same with other names for the fields of its message."""
        return replace(self, names=names)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the envelope, those of `messaging/routing/envelopes.py`."""
        envelope = self.envelope
        return {
            "process": self.process,
            "id": id_text(envelope.id),
            "kind": envelope.kind,
            "to": envelope.to,
            "from": envelope.sender,
            "correlation": id_text(envelope.correlation_id) if envelope.correlation_id else None,
            "lane": _LANES[envelope.lane == 1],
            "size": self.size,
            "waited_ms": round(waited_s(self.at_s, envelope.sent_at_s) * 1000, 3),
        }

    def of_message(self) -> dict[str, Any]:
        """Return the fields of the message by name; by number where the names are not known."""
        body = self.envelope.body
        names = self.names if len(self.names) == len(body) else [str(at) for at in range(len(body))]
        return dict(zip(names, body, strict=True))


def seen(
    process: str, at_s: float, size: int, frame: bytes, fields: Mapping[str, Sequence[str]]
) -> SeenEnvelope:
    """Return what a tap brought, decoded; `fields` are the names of fields by kind."""
    envelope = decode(frame)
    names = fields.get(envelope.kind, ())
    return SeenEnvelope(process, at_s, size, envelope, names, cut=len(frame) != size)


class Shown:
    """Makes what is shown of envelopes, without the secrets of this edge."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    @classmethod
    def of(cls, home: Path) -> Shown:
        """Return what shows envelopes of the edge on a home."""
        return cls(Redactor(known_secrets(Home(home), os.environ)))

    def values(self, one: SeenEnvelope) -> dict[str, Any]:
        """Return an envelope as a JSON value. `masked` says that a replay of it would lack something."""
        message, masked = self.message(one.of_message())
        values = {"at": iso_utc(one.at_s), **one.fields(), "message": message}
        if one.cut:
            values |= {"message": None, "cut": True}
        return values | ({"masked": True} if masked else {})

    def message(self, fields: Mapping[str, Any]) -> tuple[Any, bool]:
        """Return the fields of a message as a JSON value, and whether something had to be masked."""
        without = {name: self._masked(value, name) for name, value in fields.items()}
        return to_json(without), without != dict(fields) or has_secret(fields)

    def line(self, one: SeenEnvelope) -> str:
        """Return an envelope in one line."""
        fields = one.fields()
        message = "(too large to be shown)" if one.cut else self._short(one)
        return (
            f"{clock(one.at_s)}  {fields['from'] or '-'} → {fields['to']}  {fields['kind']}  {fields['id']}"
            f"  {size_text(one.size)}  waited {fields['waited_ms']:.3g} ms  {message}"
        )

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self._redactor.text(text)

    def _short(self, one: SeenEnvelope) -> str:
        text = json.dumps(self.message(one.of_message())[0], ensure_ascii=False)
        return text if len(text) <= LONGEST_BODY else text[: LONGEST_BODY - 1] + "…"

    def _masked(self, value: Any, name: str) -> Any:
        """Return a value of a message without what looks like a secret, or is known as one."""
        if isinstance(value, Mapping):
            return {key: self._masked(member, str(key)) for key, member in value.items()}
        if isinstance(value, tuple | list):
            return tuple(self._masked(member, name) for member in value)
        if isinstance(value, bytes):
            return self._masked_bytes(value, name)
        return self._redactor.value(value, name) if isinstance(value, str) else value

    def _masked_bytes(self, value: bytes, name: str) -> bytes:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
            return value if self._redactor.value(text, name) == text else MASKED.encode()
        masked: str = self._redactor.value(text, name)
        return value if masked == text else masked.encode()


def has_secret(value: Any) -> bool:
    """Tell whether a Secret is somewhere in a value."""
    if isinstance(value, Mapping):
        return any(map(has_secret, value.values()))
    if isinstance(value, tuple | list):
        return any(map(has_secret, value))
    return isinstance(value, Secret)


def id_text(number: object) -> str:
    """Return the id of an envelope as it is shown: its 64 bits would not survive a JSON number.

    A damaged envelope may have anything there.
    """
    return f"{number:016x}" if isinstance(number, int) else quoted(repr(number))


def waited_s(at_s: float, sent_s: object) -> float:
    """Return how long an envelope waited; 0 when the clock was set meanwhile, or it is damaged."""
    return max(0.0, at_s - sent_s) if isinstance(sent_s, float) and math.isfinite(sent_s) else 0.0


def clock(at_s: float) -> str:
    """Return the time on the clock here, with milliseconds."""
    whole, milli = divmod(int(at_s * 1000), 1000)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{milli:03}"


def size_text(size: int) -> str:
    """Return a number of bytes in few characters."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1000:.3g} kB" if size < 1_000_000 else f"{size / 1_000_000:.3g} MB"
