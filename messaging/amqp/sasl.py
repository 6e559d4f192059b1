"""SASL in front of AMQP, both ends: ANONYMOUS, MSSBCBS and PLAIN.

The engine is built without a SASL library and could offer ANONYMOUS alone, so these frames are ours; what
follows them goes to the engine.

Source: AMQP 1.0 part 5.3; spec sheet hub-protocols.md section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from messaging.envelope import Secret

MECHANISMS = ("ANONYMOUS", "MSSBCBS", "PLAIN")


@dataclass(frozen=True, slots=True)
class ServerSasl:
    """The server's end: offers these mechanisms, in this order; a client may also skip SASL."""

    mechanisms: tuple[str, ...] = MECHANISMS


@dataclass(frozen=True, slots=True)
class ClientSasl:
    """The client's end: asks for one mechanism. `user` and `password` count for PLAIN."""

    mechanism: str = "ANONYMOUS"
    user: str = ""
    password: Secret | None = None
