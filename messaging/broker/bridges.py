"""Which topics a bridge carries to another broker and back, and what they are called there.

The source of a rule is `inPrefix` + topic, at whichever end messages come from; at the other end `outPrefix`
stands where `inPrefix` stood. That is what the reference's code did. Its documentation has `inPrefix` always
be the local one, which is the same for `out` and the opposite for `in`.

Source: spec sheet broker.md sections 7.1 and 7.2
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from messaging.mqtt.filters import MAX_TEXT_BYTES

UPSTREAM: Final = "$upstream"  # the endpoint that is the parent of this edge


class Direction(StrEnum):
    """From where to where. `both` of a deployment is one rule `in` and one rule `out`."""

    IN = "in"  # from the other broker to this one
    OUT = "out"


class BridgeRule(Struct, frozen=True):
    """One rule of a bridge. No `/` is added to prefixes."""

    direction: Direction
    topic: str
    in_prefix: str = ""
    out_prefix: str = ""

    @property
    def source(self) -> str:
        """The filter to subscribe to at the end from which messages come."""
        # `floor` and `#` make no filter; what is meant are the topics below `floor`.
        slash = "/" if self.topic == "#" and self.in_prefix and not self.in_prefix.endswith("/") else ""
        return f"{self.in_prefix}{slash}{self.topic}"

    def destination(self, topic: str) -> str | None:
        """Return the topic at the other end for one that `source` matches; None: it can have none there.

        That is when nothing is left of it without its prefix, or when it is longer than topics may be.
        """
        made = self.out_prefix + topic[len(self.in_prefix) :]
        return made if 0 < len(made.encode()) <= MAX_TEXT_BYTES else None


class Bridge(Struct, frozen=True):
    """A bridge to one endpoint. Where several rules of a direction fit a topic, the first of them counts."""

    endpoint: str
    rules: tuple[BridgeRule, ...] = ()
