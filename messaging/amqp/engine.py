"""The engine of a connection, and what it tells, as events.

Apache Qpid Proton is used through its C functions, not through its Python classes, which cost more than the
engine itself. It keeps sessions, links, credit and deliveries; what it lets pass and should not is refused
here: messages without credit or too long, too many links, too much that is not whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cproton_ffi import ffi, lib

from messaging.amqp.codec import BATCH_FORMAT
from messaging.amqp.events import (
    CreditGranted,
    Ended,
    Event,
    LinkAttached,
    LinkDetached,
    Opened,
    Outcome,
    Received,
    Settled,
)
from messaging.amqp.link import (
    MAX_MESSAGE_BYTES,
    Delivery,
    Link,
    RcvSettleMode,
    SndSettleMode,
    octets,
)
from messaging.amqp.values import Described, Symbol, ULong, encode_value, get, put_fields
from messaging.errors import LocalProtocolError, RemoteProtocolError

MIN_PEER_IDLE_TIMEOUT_MS = 5_000  # a client that asks for less is refused: spec sheet section 3.1
MAX_SESSIONS = 1_024
MAX_LINKS = 8_192
MAX_PARTIAL_BYTES = 8 * MAX_MESSAGE_BYTES  # of messages that have not arrived whole, over all links
SCRATCH_BYTES = 65_536

_OUTCOMES = {
    0: Outcome.NONE,
    0x24: Outcome.ACCEPTED,
    0x25: Outcome.REJECTED,
    0x26: Outcome.RELEASED,
    0x27: Outcome.MODIFIED,
}

# The engine's room for one message or one write; taking one and giving it back is atomic.
scratches: list[Any] = []


@ffi.def_extern()  # type: ignore[untyped-decorator]
def pn_pytracer(transport: object, text: object) -> None:
    """Leave unsaid what the engine would write on stderr about a peer."""


class Engine:
    """The reading half of a connection; see `Connection`."""

    def __init__(
        self,
        *,
        is_client: bool,
        container_id: str,
        hostname: str,
        max_frame_bytes: int,
        idle_timeout_s: float,
        properties: Mapping[str, object] | None,
    ) -> None:
        self.is_client = is_client
        self.ended = False
        self._closing = False  # our Close is sent or waits to be
        self._last_words = b""  # our Close, while it waits
        self._links: dict[Any, Link] = {}  # by the engine's
        self._session: Any = None  # a client's one
        # Links and sessions that ended, and what frees them: to be called when Detach or End are out, because
        # those that are freed earlier stay in memory as long as the connection.
        self._leaving: list[tuple[Callable[[Any], None], Any]] = []
        self._partial_bytes = 0
        self._marks: dict[bytes, bytes] = {}  # of links on which messages come, see frames.py
        self._batch_tags: set[bytes] = set()  # of deliveries that came as BATCH_FORMAT, with their marks
        self._sent_tags: set[bytes] = set()  # of deliveries that go out as BATCH_FORMAT, with their marks

        self._transport = lib.pn_transport()
        self._connection = lib.pn_connection()
        self._collector = lib.pn_collector()
        lib.pn_connection_collect(self._connection, self._collector)
        lib.pn_connection_set_container(self._connection, container_id.encode())
        if hostname:
            lib.pn_connection_set_hostname(self._connection, hostname.encode())
        if properties:
            put_fields(lib.pn_connection_properties(self._connection), properties)
        lib.pn_transport_set_tracer(self._transport, lib.pn_pytracer)
        lib.pn_transport_set_max_frame(self._transport, max_frame_bytes)
        lib.pn_transport_set_channel_max(self._transport, MAX_SESSIONS - 1)
        # The engine announces half of this.
        lib.pn_transport_set_idle_timeout(self._transport, int(idle_timeout_s * 2000))
        lib.pn_transport_bind(self._transport, self._connection)

    def __del__(self) -> None:
        self._free()

    def _free(self) -> None:
        """Give the engine's memory back."""
        transport = getattr(self, "_transport", None)
        if transport is None:
            return
        self._transport = None
        for link in self._links.values():
            link._forget()
        self._links.clear()
        self._leaving.clear()
        lib.pn_transport_unbind(transport)
        lib.pn_connection_collect(self._connection, ffi.NULL)
        lib.pn_collector_release(self._collector)
        lib.pn_connection_release(self._connection)
        lib.pn_decref(self._connection)
        lib.pn_decref(transport)
        lib.pn_collector_free(self._collector)
        self._connection = self._collector = self._session = None

    def mark_format(self, tag: bytes, message_format: int, mark: bytes) -> bytes:
        """Return the tag that the engine gets for a delivery that is to go out with this format."""
        if message_format != BATCH_FORMAT:
            raise LocalProtocolError(f"message-format {message_format:#x} is not known here")
        marked = tag + mark
        self._sent_tags.add(marked)
        return marked

    def unmark_format(self, marked: bytes) -> None:
        """Forget a delivery that may not have gone out whole."""
        self._sent_tags.discard(marked)

    def close(self, condition: str = "", description: str = "") -> None:
        """Send Close, behind an Open if there was none. Ended follows when the peer has closed too."""
        if self.ended or self._closing:
            return
        self._closing = True
        lib.pn_connection_open(self._connection)
        # The engine would keep its Close back until the peer has opened, and has taken all that is queued.
        error = Described(ULong(0x1D), [Symbol(condition), description]) if condition else None
        close = b"\x02\x00\x00\x00" + encode_value(Described(ULong(0x18), [error]))
        self._last_words = (len(close) + 4).to_bytes(4, "big") + close

    def _collect(self, events: list[Event]) -> None:
        """Turn the engine's events into ours."""
        collector = self._collector
        while True:
            event = lib.pn_collector_peek(collector)
            if not event:
                return
            kind = lib.pn_event_type(event)
            if kind == lib.PN_DELIVERY:
                if not self._closing:
                    self._on_delivery(lib.pn_event_link(event), lib.pn_event_delivery(event), events)
            else:
                on_event = _ON_EVENT.get(kind)
                if on_event is not None and (not self._closing or kind in _ENDINGS):
                    on_event(self, event, events)
            lib.pn_collector_pop(collector)
            if self.ended:
                return

    def _on_delivery(self, pn_link: Any, pn: Any, events: list[Event]) -> None:
        link = self._links.get(pn_link)
        if link is None:
            return
        delivery = link._deliveries.get(pn)
        if delivery is not None:
            self._on_disposition(link, delivery, pn, events)
        elif not link.is_sender and lib.pn_link_current(pn_link) == pn:
            self._on_transfer(link, pn_link, pn, events)

    def _on_transfer(self, link: Link, pn_link: Any, pn: Any, events: list[Event]) -> None:
        if link._pn is None:
            lib.pn_delivery_settle(pn)  # the peer could not know yet that the link ended
            return
        size = lib.pn_delivery_pending(pn)
        limit = link._max_received_bytes
        if 0 < limit < size:
            text = f"a message of more than {limit} bytes"
            self._drop(link, "amqp:link:message-size-exceeded", text, events)
            return
        if lib.pn_delivery_partial(pn):
            self._partial_bytes += size - link._partial_bytes
            link._partial_bytes = size
            if self._partial_bytes > MAX_PARTIAL_BYTES:
                self._refuse("amqp:resource-limit-exceeded", "too many messages that are not whole", events)
            return
        if link._partial_bytes:
            self._partial_bytes -= link._partial_bytes
            link._partial_bytes = 0
        if lib.pn_delivery_aborted(pn):
            lib.pn_delivery_settle(pn)
            return
        delivery = Delivery(link, None)
        if size <= SCRATCH_BYTES:
            scratch = scratches.pop() if scratches else ffi.new("char[]", SCRATCH_BYTES)
            delivery.data = ffi.unpack(scratch, max(lib.pn_link_recv(pn_link, scratch, size), 0))
            scratches.append(scratch)
        else:
            room = ffi.new("char[]", size)
            delivery.data = ffi.unpack(room, lib.pn_link_recv(pn_link, room, size))
        if self._batch_tags and (tag := octets(lib.pn_delivery_tag(pn))) in self._batch_tags:
            self._batch_tags.discard(tag)
            delivery.message_format = BATCH_FORMAT
        if lib.pn_delivery_settled(pn):
            delivery.settled = True
            lib.pn_delivery_settle(pn)
        else:
            lib.pn_link_advance(pn_link)
            delivery._pn = pn
            link._deliveries[pn] = delivery
        if lib.pn_link_credit(pn_link) < 0:
            self._drop(link, "amqp:link:transfer-limit-exceeded", "a message without credit for it", events)
            return
        events.append(Received(delivery))

    def _on_disposition(self, link: Link, delivery: Delivery, pn: Any, events: list[Event]) -> None:
        settled = bool(lib.pn_delivery_settled(pn))
        if not link.is_sender:
            if settled and not delivery.settled:
                delivery.settled = True
                if lib.pn_delivery_local_state(pn):  # the last step of RcvSettleMode.SECOND
                    outcome = _OUTCOMES.get(lib.pn_delivery_local_state(pn), Outcome.NONE)
                    delivery.settle()
                    events.append(Settled(delivery, outcome, "", ""))
            return
        outcome = _OUTCOMES.get(lib.pn_delivery_remote_state(pn), Outcome.NONE)
        if outcome is Outcome.NONE and not settled:
            return  # not its last word
        condition = description = ""
        if outcome is Outcome.REJECTED:
            remote = lib.pn_disposition_condition(lib.pn_delivery_remote(pn))
            condition, description = _condition(remote)
        delivery.settled = settled
        told = delivery._told
        delivery._told = True
        if settled or link.rcv_settle_mode is RcvSettleMode.FIRST:
            delivery.settle()
        if not told:
            events.append(Settled(delivery, outcome, condition, description))

    def _on_open(self, event: Any, events: list[Event]) -> None:
        idle_timeout_ms = lib.pn_transport_get_remote_idle_timeout(self._transport)
        if not self.is_client and 0 < idle_timeout_ms < MIN_PEER_IDLE_TIMEOUT_MS:
            text = f"idle-time-out {idle_timeout_ms} ms is too short: {MIN_PEER_IDLE_TIMEOUT_MS} ms at least"
            self._refuse("amqp:not-allowed", text, events)
            return
        properties = self._read_fields(lib.pn_connection_remote_properties(self._connection), events)
        if properties is not None:
            container_id = _text(lib.pn_connection_remote_container(self._connection))
            hostname = _text(lib.pn_connection_remote_hostname(self._connection))
            events.append(Opened(container_id, hostname, properties))

    def _on_close(self, event: Any, events: list[Event]) -> None:
        condition, description = _condition(lib.pn_connection_remote_condition(self._connection))
        if not self._closing:
            lib.pn_connection_open(self._connection)
            lib.pn_connection_close(self._connection)
        self._end(events, condition, description, offence=False)

    def _on_transport_error(self, event: Any, events: list[Event]) -> None:
        condition, description = _condition(lib.pn_transport_condition(self._transport))
        self._end(events, condition, description, offence=True)

    def _on_transport_closed(self, event: Any, events: list[Event]) -> None:
        """The engine reads no more, without having said why: that is so for frames that it cannot read."""
        self._refuse("amqp:connection:framing-error", "a frame that cannot be read", events)

    def _on_begin(self, event: Any, events: list[Event]) -> None:
        lib.pn_session_open(lib.pn_event_session(event))

    def _on_session_end(self, event: Any, events: list[Event]) -> None:
        session = lib.pn_event_session(event)
        condition, description = _condition(lib.pn_session_remote_condition(session))
        for pn, link in list(self._links.items()):
            if lib.pn_link_session(pn) == session:
                del self._links[pn]
                self._lose(link, condition, description, events)
        if session == self._session:
            self._session = None
        lib.pn_session_close(session)
        self._leaving.append((lib.pn_session_free, session))

    def _on_attach(self, event: Any, events: list[Event]) -> None:
        pn = lib.pn_event_link(event)
        link = self._links.get(pn)
        asked = link is None  # by the peer
        if link is None:
            if len(self._links) >= MAX_LINKS:
                self._refuse("amqp:resource-limit-exceeded", f"more than {MAX_LINKS} links", events)
                return
            link = Link(self, pn, _text(lib.pn_link_name(pn)), bool(lib.pn_link_is_sender(pn)))
            self._links[pn] = link
            if self.is_client:
                link.refuse("amqp:not-allowed", "this client takes no links")
                return
        source, target = lib.pn_link_remote_source(pn), lib.pn_link_remote_target(pn)
        node = target if link.is_sender is self.is_client else source
        if not asked and lib.pn_terminus_get_type(node) == lib.PN_UNSPECIFIED:
            return  # refused: a detach follows, with the reason
        properties = self._read_fields(lib.pn_link_remote_properties(pn), events)
        source_filter = self._read_fields(lib.pn_terminus_filter(source), events) if asked else {}
        if properties is None or source_filter is None or link._pn is None:
            return
        link.properties = properties
        link.max_message_bytes = lib.pn_link_remote_max_message_size(pn)
        snd_settle_mode = lib.pn_link_remote_snd_settle_mode(pn)
        rcv_settle_mode = lib.pn_link_remote_rcv_settle_mode(pn)
        if snd_settle_mode > SndSettleMode.MIXED or rcv_settle_mode > RcvSettleMode.SECOND:
            self._refuse("amqp:invalid-field", "a settle mode that there is not", events)
            return
        link.snd_settle_mode = SndSettleMode(snd_settle_mode)
        link.rcv_settle_mode = RcvSettleMode(rcv_settle_mode)
        if asked:
            link.source = _text(lib.pn_terminus_get_address(source))
            link.target = _text(lib.pn_terminus_get_address(target))
            link.source_filter = {
                key: value.value if isinstance(value, Described) else value
                for key, value in source_filter.items()
            }
        else:
            link.is_open = True
        events.append(LinkAttached(link))

    def _on_detach(self, event: Any, events: list[Event]) -> None:
        pn = lib.pn_event_link(event)
        link = self._links.pop(pn, None)
        if link is None:
            return
        condition, description = _condition(lib.pn_link_remote_condition(pn))
        self._lose(link, condition, description, events)
        lib.pn_link_open(pn)
        if lib.pn_event_type(event) == lib.PN_LINK_REMOTE_CLOSE:
            lib.pn_link_close(pn)
        else:
            lib.pn_link_detach(pn)
        self._leaving.append((lib.pn_link_free, pn))

    def _on_flow(self, event: Any, events: list[Event]) -> None:
        link = self._links.get(lib.pn_event_link(event))
        if link is None or not link.is_sender or link._pn is None:
            return
        # The engine says this also when a message of ours has left.
        credit = lib.pn_link_credit(link._pn)
        if credit > link._credit_told or (credit > 0 and lib.pn_link_get_drain(link._pn)):
            events.append(CreditGranted(link))
        link._credit_told = credit

    def _read_fields(self, data: Any, events: list[Event]) -> dict[str, object] | None:
        """Return a map of the peer with names as keys; after a wrong one, None, and the connection ends."""
        if not data:
            return {}
        try:
            lib.pn_data_rewind(data)
            fields = get(data) if lib.pn_data_next(data) else None
            if fields is None:
                return {}
            if isinstance(fields, dict) and all(isinstance(key, str) for key in fields):
                return fields
        except (RemoteProtocolError, RecursionError, UnicodeDecodeError):
            pass
        self._refuse("amqp:decode-error", "properties or a filter that cannot be read", events)
        return None

    # Ends

    def _lose(self, link: Link, condition: str, description: str, events: list[Event]) -> None:
        """Tell of a link that the peer ended, or that has to end for what the peer did."""
        self._partial_bytes -= link._partial_bytes
        link._partial_bytes = 0
        if link._pn is not None:
            link._forget()
            events.append(LinkDetached(link, condition, description))

    def _drop(self, link: Link, condition: str, description: str, events: list[Event]) -> None:
        """End a link for what the peer did."""
        pn = link._pn
        link.detach(condition, description)
        if current := lib.pn_link_current(pn):
            lib.pn_delivery_settle(current)
        self._partial_bytes -= link._partial_bytes
        link._partial_bytes = 0
        events.append(LinkDetached(link, condition, description))

    def _refuse(self, condition: str, description: str, events: list[Event]) -> None:
        """End the connection for what the peer did."""
        self.close(condition, description)
        self._end(events, condition, description, offence=True)

    def _end(self, events: list[Event], condition: str, description: str, *, offence: bool) -> None:
        if self.ended:
            return
        self.ended = True
        for link in self._links.values():
            link._forget()
        events.append(Ended(condition, description, offence))


def _text(text: Any) -> str:
    """Return a string of the engine."""
    return ffi.string(text).decode(errors="replace") if text else ""


def _condition(condition: Any) -> tuple[str, str]:
    """Return name and description of an error of the engine, "" for what it has not."""
    if not lib.pn_condition_is_set(condition):
        return "", ""
    return _text(lib.pn_condition_get_name(condition)), _text(lib.pn_condition_get_description(condition))


_ENDINGS = frozenset({lib.PN_CONNECTION_REMOTE_CLOSE, lib.PN_TRANSPORT_ERROR, lib.PN_TRANSPORT_TAIL_CLOSED})
_ON_EVENT: dict[int, Callable[[Engine, Any, list[Event]], None]] = {
    lib.PN_CONNECTION_REMOTE_OPEN: Engine._on_open,
    lib.PN_CONNECTION_REMOTE_CLOSE: Engine._on_close,
    lib.PN_SESSION_REMOTE_OPEN: Engine._on_begin,
    lib.PN_SESSION_REMOTE_CLOSE: Engine._on_session_end,
    lib.PN_LINK_REMOTE_OPEN: Engine._on_attach,
    lib.PN_LINK_REMOTE_CLOSE: Engine._on_detach,
    lib.PN_LINK_REMOTE_DETACH: Engine._on_detach,
    lib.PN_LINK_FLOW: Engine._on_flow,
    lib.PN_TRANSPORT_ERROR: Engine._on_transport_error,
    lib.PN_TRANSPORT_TAIL_CLOSED: Engine._on_transport_closed,
}
