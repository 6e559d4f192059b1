"""Links of an AMQP connection and the deliveries on them, for either role.

Source: AMQP 1.0 part 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

MAX_MESSAGE_BYTES = 1_048_576  # spec sheet hub-protocols.md section 3.4


class SndSettleMode(IntEnum):
    """Whether the sender settles what it sends at once."""

    UNSETTLED = 0
    SETTLED = 1
    MIXED = 2


class RcvSettleMode(IntEnum):
    """Whether the receiver settles first, or second: after the sender has."""

    FIRST = 0
    SECOND = 1


class Link:
    """One link. Made by `Connection.attach_sender`, `attach_receiver`, or by the peer (LinkAttached)."""

    name: str
    is_sender: bool  # we send
    address: (
        str  # of the peer's node: the target of a link on which the client sends, the source of the other
    )
    source: str  # "" for none
    target: str
    properties: Mapping[str, object]  # the peer's
    source_filter: Mapping[str, object]  # of the peer's attach; a described value as the value alone
    snd_settle_mode: SndSettleMode  # the peer asked for; once attached: what holds
    rcv_settle_mode: RcvSettleMode
    max_message_bytes: int  # the peer takes; 0: no limit named
    context: object  # the owner's
    is_open: bool  # attached by both and detached by neither

    @property
    def credit(self) -> int:
        """How many messages may be sent now; receivers: how many the peer may still send."""
        raise NotImplementedError

    @property
    def drain(self) -> bool:
        """Senders: the peer wants its credit used up now: send what there is, then call `drained`."""
        raise NotImplementedError

    def accept(
        self,
        *,
        snd_settle_mode: SndSettleMode | None = None,
        rcv_settle_mode: RcvSettleMode | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Answer an attach of the peer; a settle mode left out is the one asked for."""
        raise NotImplementedError

    def refuse(self, condition: str, description: str) -> None:
        """Answer an attach of the peer with an attach without terminus, and a detach with this error."""
        raise NotImplementedError

    def detach(self, condition: str = "", description: str = "") -> None:
        """End the link, with an error or without; there will be no LinkDetached."""
        raise NotImplementedError

    def grant(self, credit: int) -> None:
        """Receivers: let the peer send this many messages more."""
        raise NotImplementedError

    def drained(self) -> None:
        """Senders: give back what credit is left."""
        raise NotImplementedError

    def send(self, encoded: bytes, tag: bytes, *, settled: bool, message_format: int = 0) -> Delivery:
        """Send one message, `tag` being unique among the unsettled ones of the link (at most 28 bytes).

        Raises:
            LocalProtocolError: No credit, not open, not a sender, or longer than the peer takes.
        """
        raise NotImplementedError


class Delivery:
    """One message on a link. `context` is the owner's.

    An outcome settles, unless the link has RcvSettleMode.SECOND: then the sender settles, and the receiver's
    Settled follows. Each may be called when link or connection have ended, and does nothing then.
    """

    __slots__ = ("context", "data", "link", "message_format", "settled", "tag")

    link: Link
    tag: bytes
    message_format: int
    settled: bool  # by the peer; a message that came settled needs no outcome
    data: bytes  # of a received one
    context: object

    def accept(self) -> None:
        raise NotImplementedError

    def reject(self, condition: str, description: str = "") -> None:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def modify(self, *, failed: bool = True, undeliverable_here: bool = False) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Forget it without an outcome of ours."""
        raise NotImplementedError
