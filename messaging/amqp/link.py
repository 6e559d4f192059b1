"""Links of an AMQP connection and the deliveries on them, for either role.

Everything here may be called when link or connection have ended, and does nothing then; `send` alone raises.

Source: AMQP 1.0 parts 2.6 and 3.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from cproton_ffi import ffi, lib

from messaging.amqp import frames
from messaging.amqp.values import put_fields
from messaging.errors import LocalProtocolError

if TYPE_CHECKING:
    from messaging.amqp.engine import Engine

MAX_MESSAGE_BYTES = 1_048_576  # spec sheet hub-protocols.md section 3.4
MAX_TAG_BYTES = 32  # AMQP 1.0 part 2.8.7

_marks = itertools.count()
_ACCEPTED, _REJECTED, _RELEASED, _MODIFIED = 0x24, 0x25, 0x26, 0x27


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
    """One link. Made by `Connection.attach_sender`, `attach_receiver`, or by the peer (LinkAttached).

    Attributes:
        is_sender: We send on it.
        source, target: The addresses that the attach names, "" for none.
        properties: The peer's; a client has them, and the next four, from LinkAttached on.
        source_filter: Of the attach that asked for the link; a described value as the value alone.
        snd_settle_mode, rcv_settle_mode: What the peer's attach says.
        max_message_bytes: The longest message that the peer takes; 0: it named no limit.
        is_open: Attached by both and detached by neither.
        context: The owner's.
    """

    __slots__ = (
        "_connection",
        "_credit_told",
        "_deliveries",
        "_mark",
        "_max_received_bytes",
        "_partial_bytes",
        "_pn",
        "context",
        "is_open",
        "is_sender",
        "max_message_bytes",
        "name",
        "properties",
        "rcv_settle_mode",
        "snd_settle_mode",
        "source",
        "source_filter",
        "target",
    )

    def __init__(self, connection: Engine, pn: Any, name: str, is_sender: bool) -> None:
        self._connection = connection
        self._pn = pn  # None once link or connection have ended
        self._deliveries: dict[Any, Delivery] = {}  # the unsettled ones, by the engine's
        self._credit_told = 0
        self._mark = (next(_marks) & 0xFFFF_FFFF).to_bytes(4, "big")  # of batches it sends, see frames.py
        self._max_received_bytes = MAX_MESSAGE_BYTES
        self._partial_bytes = 0  # of a message that has not arrived whole
        self.name = name
        self.is_sender = is_sender
        self.source = ""
        self.target = ""
        self.properties: Mapping[str, object] = {}
        self.source_filter: Mapping[str, object] = {}
        self.snd_settle_mode = SndSettleMode.MIXED
        self.rcv_settle_mode = RcvSettleMode.FIRST
        self.max_message_bytes = 0
        self.is_open = False
        self.context: Any = None

    @property
    def address(self) -> str:
        """The node at the server's end: the target where the client sends, else the source."""
        return self.target if self.is_sender is self._connection.is_client else self.source

    @property
    def credit(self) -> int:
        """How many messages may be sent now; receivers: how many the peer may still send."""
        return int(lib.pn_link_credit(self._pn)) if self.is_open else 0

    @property
    def drain(self) -> bool:
        """Senders: the peer wants its credit used up now: send what there is, then call `drained`."""
        return self.is_open and bool(lib.pn_link_get_drain(self._pn))

    @property
    def held_bytes(self) -> int:
        """Senders: how much of all links of the session waits to be written, or for the session's window."""
        return int(lib.pn_session_outgoing_bytes(lib.pn_link_session(self._pn))) if self.is_open else 0

    @property
    def unsettled(self) -> int:
        """How many deliveries have no outcome yet, or are not settled by both ends."""
        return len(self._deliveries)

    def accept(
        self,
        *,
        snd_settle_mode: SndSettleMode | None = None,
        rcv_settle_mode: RcvSettleMode | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        """Answer an attach of the peer.

        Modes left out are those asked for, but as receiver we settle FIRST: senders built on uamqp ask for
        SECOND and then wait for ever for our settlement.
        """
        pn = self._pn
        if pn is None or self.is_open:
            return
        if snd_settle_mode is not None:
            self.snd_settle_mode = snd_settle_mode
        if rcv_settle_mode is not None:
            self.rcv_settle_mode = rcv_settle_mode
        elif not self.is_sender:
            self.rcv_settle_mode = RcvSettleMode.FIRST
        lib.pn_link_set_snd_settle_mode(pn, self.snd_settle_mode)
        lib.pn_link_set_rcv_settle_mode(pn, self.rcv_settle_mode)
        lib.pn_terminus_copy(lib.pn_link_source(pn), lib.pn_link_remote_source(pn))
        lib.pn_terminus_copy(lib.pn_link_target(pn), lib.pn_link_remote_target(pn))
        self._announce(max_message_bytes, properties)
        lib.pn_link_open(pn)
        self.is_open = True

    def refuse(self, condition: str, description: str, info: Mapping[str, object] | None = None) -> None:
        """Answer an attach of the peer with an attach without our terminus, and a detach with this error.

        `info` goes with the error; names are symbols.
        """
        pn = self._pn
        if pn is None or self.is_open:
            return
        ours, theirs = lib.pn_link_target(pn), lib.pn_link_source(pn)
        remote = lib.pn_link_remote_source(pn)
        if self.is_sender:
            ours, theirs = theirs, ours
            remote = lib.pn_link_remote_target(pn)
        lib.pn_terminus_copy(theirs, remote)
        lib.pn_terminus_set_type(ours, lib.PN_UNSPECIFIED)
        lib.pn_link_open(pn)
        if info:
            put_fields(lib.pn_condition_info(lib.pn_link_condition(pn)), info)
        self._detach(condition, description)

    def detach(self, condition: str = "", description: str = "") -> None:
        """End the link, with an error or without; LinkDetached will not be told."""
        if self._pn is None:
            return
        lib.pn_link_open(self._pn)
        self._detach(condition, description)

    def grant(self, credit: int) -> None:
        """Receivers: let the peer send this many messages more."""
        if self._pn is not None:
            lib.pn_link_flow(self._pn, credit)

    def drained(self) -> None:
        """Senders: give back what credit is left."""
        if self._pn is not None:
            lib.pn_link_drained(self._pn)
            self._credit_told = 0

    def send(self, encoded: bytes, tag: bytes, *, settled: bool, message_format: int = 0) -> Delivery:
        """Send one message.

        Args:
            encoded: The message.
            tag: Unique among the unsettled ones of the link, at most 32 bytes.
            settled: Nothing is to be heard of it again.
            message_format: 0 or BATCH_FORMAT.

        Raises:
            LocalProtocolError: No credit, not open, or longer than the peer takes.
        """
        if not self.is_open or not self.is_sender:
            raise LocalProtocolError(f"link {self.name!r} is not open for sending")
        if lib.pn_link_credit(self._pn) <= 0:
            raise LocalProtocolError(f"link {self.name!r} has no credit")
        if 0 < self.max_message_bytes < len(encoded):
            raise LocalProtocolError(
                f"link {self.name!r}: {len(encoded)} bytes; the peer takes {self.max_message_bytes}"
            )
        if not 0 < len(tag) <= MAX_TAG_BYTES:
            raise LocalProtocolError(f"link {self.name!r}: a delivery tag of {len(tag)} bytes")
        delivery = Delivery(self, tag, message_format)
        if message_format:
            tag = self._connection.mark_format(tag, message_format, self._mark)
        pn = lib.pn_delivery(self._pn, (len(tag), ffi.from_buffer(tag)))
        lib.pn_link_send(self._pn, encoded, len(encoded))
        lib.pn_link_advance(self._pn)
        self._credit_told -= 1
        if settled:
            delivery.settled = True
            lib.pn_delivery_settle(pn)
        else:
            delivery._pn = pn
            self._deliveries[pn] = delivery
        return delivery

    def _announce(self, max_message_bytes: int, properties: Mapping[str, object] | None) -> None:
        """Set what our attach says besides addresses and modes."""
        self._max_received_bytes = max_message_bytes
        lib.pn_link_set_max_message_size(self._pn, max_message_bytes)
        if properties:
            put_fields(lib.pn_link_properties(self._pn), properties)

    def _detach(self, condition: str, description: str) -> None:
        pn = self._pn
        self._forget()
        if condition:
            set_condition(lib.pn_link_condition(pn), condition, description)
        lib.pn_link_close(pn)

    def _forget(self) -> None:
        """Let go of the engine's link: it ends, and its deliveries with it."""
        self._pn = None
        self.is_open = False
        for delivery in self._deliveries.values():
            delivery._pn = None
            if self.is_sender and delivery.message_format:
                self._connection.unmark_format(delivery.tag + self._mark)
        self._deliveries.clear()


class Delivery:
    """One message on a link.

    An outcome settles, unless the link has RcvSettleMode.SECOND: then the sender does, and Settled follows.

    Attributes:
        message_format: BATCH_FORMAT, or 0 for any other.
        settled: By the peer: a message that came so needs no outcome.
        data: The message, if it was received.
        context: The owner's.
    """

    __slots__ = ("_pn", "_tag", "_told", "context", "data", "link", "message_format", "settled")

    def __init__(self, link: Link, tag: bytes | None, message_format: int = 0) -> None:
        self._pn: Any = None  # None once it is settled, or has ended with link or connection
        self._tag = tag
        self._told = False  # its outcome, if we sent it
        self.link = link
        self.message_format = message_format
        self.settled = False
        self.data = b""
        self.context: Any = None

    @property
    def tag(self) -> bytes:
        """The delivery tag; of a received one only while it is unsettled, then b""."""
        if self._tag is None:
            tag = octets(lib.pn_delivery_tag(self._pn)) if self._pn is not None else b""
            self._tag = frames.plain_tag(tag) if self.message_format else tag
        return self._tag

    def accept(self) -> None:
        self._decide(_ACCEPTED)

    def reject(self, condition: str, description: str = "") -> None:
        if self._pn is not None:
            disposition = lib.pn_delivery_local(self._pn)
            set_condition(lib.pn_disposition_condition(disposition), condition, description)
            self._decide(_REJECTED)

    def release(self) -> None:
        self._decide(_RELEASED)

    def modify(self, *, failed: bool = True, undeliverable_here: bool = False) -> None:
        if self._pn is not None:
            disposition = lib.pn_delivery_local(self._pn)
            lib.pn_disposition_set_failed(disposition, failed)
            lib.pn_disposition_set_undeliverable(disposition, undeliverable_here)
            self._decide(_MODIFIED)

    def settle(self) -> None:
        """Settle it: with the outcome given before, or without one."""
        pn = self._pn
        if pn is not None:
            self._pn = None
            del self.link._deliveries[pn]
            lib.pn_delivery_settle(pn)

    def _decide(self, outcome: int) -> None:
        pn = self._pn
        if pn is not None:
            lib.pn_delivery_update(pn, outcome)
            if self.settled or self.link.rcv_settle_mode is RcvSettleMode.FIRST:
                self._pn = None
                del self.link._deliveries[pn]
                lib.pn_delivery_settle(pn)


def octets(value: Any) -> bytes:
    """Return the engine's bytes as ours."""
    return bytes(ffi.unpack(value.start, value.size)) if value.size else b""


def set_condition(condition: Any, name: str, description: str) -> None:
    """Set an error of the engine."""
    lib.pn_condition_set_name(condition, name.encode())
    lib.pn_condition_set_description(condition, description.encode())
