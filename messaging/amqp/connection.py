"""One AMQP 1.0 connection without I/O, either end: bytes in, events out; calls in, bytes out.

Give every read to `receive_data` and handle the events in order; after that, and after any call that could
make something to send, write what `data_to_send` returns. Call `tick` when it said so. Not thread-safe.

The peer's mistake never raises: it is an `Ended` event behind the events in front of it.

The engine (Apache Qpid Proton) is used through its C functions, not through its Python classes, which cost
more than the engine itself. Its own SASL is not used (sasl.py), and it knows no message-format (frames.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cproton_ffi import ffi, lib

from messaging.amqp import frames
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
    set_condition,
)
from messaging.amqp.sasl import ClientHandshake, ClientSasl, Handshake, ServerHandshake, ServerSasl
from messaging.amqp.values import Described, Symbol, get, put
from messaging.errors import LocalProtocolError, RemoteProtocolError

MIN_PEER_IDLE_TIMEOUT_MS = 5_000  # a client that asks for less is refused: spec sheet section 3.1
HEART_BEAT_S = 120.0  # for a peer that announces no idle time-out: spec sheet section 3.1
MAX_SESSIONS = 1_024
MAX_LINKS = 8_192
MAX_PARTIAL_BYTES = 8 * MAX_MESSAGE_BYTES  # of messages that have not arrived whole, over all links
_MAX_BATCH_TAGS = 4_096
_SCRATCH_BYTES = 65_536

_OUTCOMES = {
    0: Outcome.NONE,
    0x24: Outcome.ACCEPTED,
    0x25: Outcome.REJECTED,
    0x26: Outcome.RELEASED,
    0x27: Outcome.MODIFIED,
}

# Memory of the engine's side for one message or one write; taking and giving back is atomic.
_scratches: list[Any] = []


class Connection:
    """One connection: a server if `sasl` is a ServerSasl, else a client (None: one that skips SASL).

    Args:
        container_id: Our name in Open.
        hostname: A client's Open names the host it wants.
        sasl: See above.
        max_frame_bytes: The longest frame we take.
        idle_timeout_s: We announce this; a peer that was silent for twice as long is Ended (AMQP 1.0 part
            2.4.5 advises to announce half of what one bears).
        properties: Of our Open.
    """

    def __init__(
        self,
        *,
        container_id: str,
        hostname: str = "",
        sasl: ServerSasl | ClientSasl | None = None,
        max_frame_bytes: int = 65_536,
        idle_timeout_s: float = 240.0,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        self.is_client = not isinstance(sasl, ServerSasl)
        self.ended = False
        self._handshake: Handshake | None = None
        if isinstance(sasl, ServerSasl):
            self._handshake = ServerHandshake(sasl)
        elif sasl is not None:
            self._handshake = ClientHandshake(sasl)
        self._max_frame_bytes = max_frame_bytes
        self._closing = False  # our Close is sent or waits to be
        self._links: dict[Any, Link] = {}  # by the engine's
        self._session: Any = None  # a client's one
        self._partial_bytes = 0
        self._sent_tags: set[bytes] = set()  # of deliveries that go out as BATCH_FORMAT
        self._batch_tags: set[bytes] = set()  # of deliveries that came as BATCH_FORMAT
        self._heart_beat = b""
        self._heart_beat_at_s = 0.0
        self._frames_sent = 0
        # The start of a frame whose rest has not arrived, and how many bytes make looking at it worth while.
        self._buffer = bytearray()
        self._wanted_bytes = 8
        self._header_seen = False
        self._said = b""  # of the handshake, and not taken yet

        self._transport = lib.pn_transport()
        self._connection = lib.pn_connection()
        self._collector = lib.pn_collector()
        lib.pn_connection_collect(self._connection, self._collector)
        lib.pn_connection_set_container(self._connection, container_id.encode())
        if hostname:
            lib.pn_connection_set_hostname(self._connection, hostname.encode())
        if properties:
            put(lib.pn_connection_properties(self._connection), _fields(properties))
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
        lib.pn_transport_unbind(transport)
        lib.pn_connection_collect(self._connection, ffi.NULL)
        lib.pn_collector_release(self._collector)
        lib.pn_connection_release(self._connection)
        lib.pn_decref(self._connection)
        lib.pn_decref(transport)
        lib.pn_collector_free(self._collector)
        self._connection = self._collector = self._session = None

    # Bytes

    def receive_data(self, data: bytes) -> list[Event]:
        """Return what these bytes bring; never raises for what a peer sends. b"" says that it closed."""
        events: list[Event] = []
        if self.ended:
            return events
        if not data:
            self._end(events, "", "the peer closed the transport", offence=False)
        elif self._handshake is not None:
            self._buffer += data
            self._shake_hands(events)
        else:
            self._receive_frames(data, events)
        return events

    def _shake_hands(self, events: list[Event]) -> None:
        handshake = self._handshake
        assert handshake is not None
        try:
            done = handshake.receive(self._buffer)
        except RemoteProtocolError as exc:
            self._end(events, "amqp:unauthorized-access", str(exc), offence=True)
            return
        if done is not None:
            events.append(done)
        elif handshake.done:
            self._handshake = None
            self._said = bytes(handshake.output)
            data = bytes(self._buffer)
            self._buffer.clear()
            if data:
                self._receive_frames(data, events)

    def _receive_frames(self, data: bytes, events: list[Event]) -> None:
        """Give the whole frames of these bytes to the engine, and keep the rest."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._wanted_bytes:
                return
            data = bytes(buffer)
            buffer.clear()
        start = pos = 0
        end = len(data)
        if not self._header_seen:
            if end < 8:
                buffer += data
                self._wanted_bytes = 8
                return
            self._header_seen = True
            pos = 8
        limit = self._max_frame_bytes
        patched: bytearray | None = None
        if frames.BATCH_BYTES in data:
            patched = bytearray(data)
        wanted = 8
        while end - pos >= 8:
            stop = pos + int.from_bytes(data[pos : pos + 4], "big")
            if stop - pos < 8 or stop - pos > limit:
                pos = end  # the engine says what is wrong with it
                break
            if stop > end:
                wanted = stop - pos
                break
            if patched is not None:
                tag = frames.batch_to_tag(patched, pos, stop)
                if tag is not None:
                    self._batch_tags.add(tag)
            pos = stop
        if pos < end:
            buffer += data[pos:]
            self._wanted_bytes = wanted
        if pos > start:
            self._push(data if patched is None else bytes(patched), pos, events)

    def _push(self, data: bytes, end: int, events: list[Event]) -> None:
        transport = self._transport
        source = ffi.from_buffer(data)
        pos = 0
        while pos < end and not self.ended:
            room = lib.pn_transport_capacity(transport)
            if room <= 0:
                break
            took = lib.pn_transport_push(transport, source + pos, min(room, end - pos))
            if took <= 0:
                break
            pos += took
            self._collect(events)
        if not self.ended:
            self._collect(events)
        if len(self._batch_tags) > _MAX_BATCH_TAGS:
            self._batch_tags.clear()  # left by deliveries dropped half-way; an honest peer has one per link

    def data_to_send(self) -> bytes:
        """Return all that is to be written now, b"" for nothing."""
        if self._handshake is not None:
            said = bytes(self._handshake.output)
            self._handshake.output.clear()
            return said
        transport = self._transport
        if transport is None:
            return b""
        chunks = [self._said] if self._said else []
        self._said = b""
        scratch = _scratches.pop() if _scratches else ffi.new("char[]", _SCRATCH_BYTES)
        while (pending := lib.pn_transport_pending(transport)) > 0:
            taken = lib.pn_transport_peek(transport, scratch, min(pending, _SCRATCH_BYTES))
            chunks.append(ffi.unpack(scratch, taken))
            lib.pn_transport_pop(transport, taken)
        _scratches.append(scratch)
        if self._heart_beat:
            chunks.append(self._heart_beat)
            self._heart_beat = b""
        if self.ended:
            self._free()
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return self._with_formats(data) if self._sent_tags else data

    def _with_formats(self, data: bytes) -> bytes:
        """Say BATCH_FORMAT where it belongs; `data` is whole frames, because all is taken from the engine."""
        patched = bytearray(data)
        pos = 8 if patched.startswith(b"AMQP") else 0
        while pos < len(patched) and self._sent_tags:
            stop = pos + int.from_bytes(patched[pos : pos + 4], "big")
            frames.tag_to_batch(patched, pos, stop, self._sent_tags)
            pos = stop
        return bytes(patched)

    def mark_format(self, tag: bytes, message_format: int) -> bytes:
        """Return the tag that the engine gets for a delivery that is to go out with this format."""
        if message_format != BATCH_FORMAT:
            raise LocalProtocolError(f"message-format {message_format:#x} is not known here")
        marked = tag + frames.BATCH_BYTES
        self._sent_tags.add(marked)
        return marked

    # Time

    def tick(self, now_s: float) -> tuple[list[Event], float | None]:
        """Do what the time asks for: heart-beats (in `data_to_send`), Ended for a silent peer.

        Args:
            now_s: A monotonic clock's; call first when the connection starts.

        Returns:
            Events, and when to call again at the latest (None: no need to).
        """
        events: list[Event] = []
        if self.ended:
            return events, None
        due_ms = lib.pn_transport_tick(self._transport, int(now_s * 1000))
        self._collect(events)
        if self.ended:
            return events, None
        due_s = due_ms / 1000 if due_ms else None
        state = lib.pn_connection_state(self._connection)
        both = lib.PN_LOCAL_ACTIVE | lib.PN_REMOTE_ACTIVE
        if state & both == both and not lib.pn_transport_get_remote_idle_timeout(self._transport):
            frames_sent = lib.pn_transport_get_frames_output(self._transport)
            if frames_sent != self._frames_sent:
                self._frames_sent = frames_sent
                self._heart_beat_at_s = now_s + HEART_BEAT_S
            elif now_s >= self._heart_beat_at_s:
                self._heart_beat = frames.EMPTY_FRAME
                self._heart_beat_at_s = now_s + HEART_BEAT_S
            due_s = min(due_s or self._heart_beat_at_s, self._heart_beat_at_s)
        return events, due_s

    # What the owner does

    def sasl_outcome(self, ok: bool) -> list[Event]:
        """Server: answer SaslDone. Returns what waited behind it; a refusal brings Ended."""
        events: list[Event] = []
        handshake = self._handshake
        if self.ended or not isinstance(handshake, ServerHandshake) or not handshake.waits:
            return events
        handshake.outcome(ok)
        if ok:
            self._shake_hands(events)
        else:
            self._end(events, "amqp:unauthorized-access", "SASL: user or password is wrong", offence=True)
        return events

    def open(self) -> None:
        """Send Open: a client at the start, a server in answer to Opened."""
        if not self.ended:
            lib.pn_connection_open(self._connection)

    def close(self, condition: str = "", description: str = "") -> None:
        """Send Close, behind an Open if there was none. Ended follows when the peer has closed too.

        Before the end of SASL there is no Close to be sent, and the connection has ended.
        """
        if self.ended or self._closing:
            return
        if self._handshake is not None:
            self.ended = True
            return
        self._closing = True
        lib.pn_connection_open(self._connection)
        if condition:
            set_condition(lib.pn_connection_condition(self._connection), condition, description)
        lib.pn_connection_close(self._connection)

    def attach_sender(
        self,
        name: str,
        target: str,
        *,
        source: str = "",
        properties: Mapping[str, object] | None = None,
        snd_settle_mode: SndSettleMode = SndSettleMode.MIXED,
        rcv_settle_mode: RcvSettleMode = RcvSettleMode.FIRST,
    ) -> Link:
        """Ask for a link on which we send; LinkAttached or LinkDetached follows."""
        pn = lib.pn_sender(self._own_session(), name.encode())
        return self._attach(
            Link(self, pn, name, True), source, target, snd_settle_mode, rcv_settle_mode, 0, properties
        )

    def attach_receiver(
        self,
        name: str,
        source: str,
        *,
        target: str = "",
        properties: Mapping[str, object] | None = None,
        source_filter: Mapping[str, object] | None = None,
        snd_settle_mode: SndSettleMode = SndSettleMode.MIXED,
        rcv_settle_mode: RcvSettleMode = RcvSettleMode.FIRST,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> Link:
        """Ask for a link on which we receive; `grant` credit at once or later."""
        pn = lib.pn_receiver(self._own_session(), name.encode())
        if source_filter:
            put(lib.pn_terminus_filter(lib.pn_link_source(pn)), _fields(source_filter))
        link = Link(self, pn, name, False)
        return self._attach(
            link, source, target, snd_settle_mode, rcv_settle_mode, max_message_bytes, properties
        )

    def _own_session(self) -> Any:
        if self.ended:
            raise LocalProtocolError("the AMQP connection has ended")
        if self._session is None:
            self._session = lib.pn_session(self._connection)
            lib.pn_session_open(self._session)
        return self._session

    def _attach(
        self,
        link: Link,
        source: str,
        target: str,
        snd_settle_mode: SndSettleMode,
        rcv_settle_mode: RcvSettleMode,
        max_message_bytes: int,
        properties: Mapping[str, object] | None,
    ) -> Link:
        pn = link._pn
        link.source, link.target = source, target
        lib.pn_terminus_set_address(lib.pn_link_source(pn), source.encode() if source else ffi.NULL)
        lib.pn_terminus_set_address(lib.pn_link_target(pn), target.encode() if target else ffi.NULL)
        lib.pn_link_set_snd_settle_mode(pn, snd_settle_mode)
        lib.pn_link_set_rcv_settle_mode(pn, rcv_settle_mode)
        link.snd_settle_mode, link.rcv_settle_mode = snd_settle_mode, rcv_settle_mode
        link._announce(max_message_bytes, properties)
        lib.pn_link_open(pn)
        self._links[pn] = link
        return link

    # What the engine tells

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
            self._drop(
                link, "amqp:link:message-size-exceeded", f"a message of more than {limit} bytes", events
            )
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
        if size <= _SCRATCH_BYTES:
            scratch = _scratches.pop() if _scratches else ffi.new("char[]", _SCRATCH_BYTES)
            delivery.data = ffi.unpack(scratch, max(lib.pn_link_recv(pn_link, scratch, size), 0))
            _scratches.append(scratch)
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
        lib.pn_connection_open(self._connection)
        lib.pn_connection_close(self._connection)
        self._end(events, condition, description, offence=False)

    def _on_transport_error(self, event: Any, events: list[Event]) -> None:
        condition, description = _condition(lib.pn_transport_condition(self._transport))
        self._end(events, condition, description, offence=True)

    def _on_transport_closed(self, event: Any, events: list[Event]) -> None:
        self._end(events, "", "", offence=False)

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
        lib.pn_session_free(session)

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
        lib.pn_link_free(pn)

    def _on_flow(self, event: Any, events: list[Event]) -> None:
        link = self._links.get(lib.pn_event_link(event))
        if link is None or not link.is_sender or not link.is_open:
            return
        # The engine says this also when a message of ours has left.
        credit = lib.pn_link_credit(link._pn)
        if credit > link._credit_told or (credit > 0 and link.drain):
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


def _fields(values: Mapping[str, object]) -> dict[object, object]:
    return {Symbol(key): value for key, value in values.items()}


def _text(text: Any) -> str:
    """Return a string of the engine."""
    return ffi.string(text).decode(errors="replace") if text else ""


def _condition(condition: Any) -> tuple[str, str]:
    """Return name and description of an error of the engine, "" for what it has not."""
    if not lib.pn_condition_is_set(condition):
        return "", ""
    return _text(lib.pn_condition_get_name(condition)), _text(lib.pn_condition_get_description(condition))


_ENDINGS = frozenset({lib.PN_CONNECTION_REMOTE_CLOSE, lib.PN_TRANSPORT_ERROR, lib.PN_TRANSPORT_CLOSED})
_ON_EVENT: dict[int, Callable[[Connection, Any, list[Event]], None]] = {
    lib.PN_CONNECTION_REMOTE_OPEN: Connection._on_open,
    lib.PN_CONNECTION_REMOTE_CLOSE: Connection._on_close,
    lib.PN_SESSION_REMOTE_OPEN: Connection._on_begin,
    lib.PN_SESSION_REMOTE_CLOSE: Connection._on_session_end,
    lib.PN_LINK_REMOTE_OPEN: Connection._on_attach,
    lib.PN_LINK_REMOTE_CLOSE: Connection._on_detach,
    lib.PN_LINK_REMOTE_DETACH: Connection._on_detach,
    lib.PN_LINK_FLOW: Connection._on_flow,
    lib.PN_TRANSPORT_ERROR: Connection._on_transport_error,
    lib.PN_TRANSPORT_CLOSED: Connection._on_transport_closed,
}
