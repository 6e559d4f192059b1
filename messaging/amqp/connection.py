"""One AMQP 1.0 connection without I/O, either end: bytes in, events out; calls in, bytes out.

Give every read to `receive_data` and handle the events in order; after that, and after any call that could
make something to send, write what `data_to_send` returns. Call `tick` when it said so. Not thread-safe.

The peer's mistake never raises: it is an `Ended` event behind the events in front of it.

The engine (Apache Qpid Proton) is used through its C functions, not through its Python classes, which cost
more than the engine itself. Its own SASL is not used (sasl.py), and it knows no message-format (frames.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cproton_ffi import ffi, lib

from messaging.amqp import frames
from messaging.amqp.engine import SCRATCH_BYTES, Engine, scratches
from messaging.amqp.events import Event
from messaging.amqp.full_frames import with_all_fields
from messaging.amqp.guard import Guard
from messaging.amqp.link import MAX_MESSAGE_BYTES, Link, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import ClientHandshake, ClientSasl, Handshake, ServerHandshake, ServerSasl
from messaging.amqp.values import put_fields
from messaging.errors import LocalProtocolError, RemoteProtocolError

HEART_BEAT_S = 120.0  # for a peer that announces no idle time-out: spec sheet section 3.1
_MAX_BATCH_TAGS = 4_096


class Connection(Engine):
    """One connection: a server if `sasl` is a ServerSasl, else a client (None: one that skips SASL).

    Args:
        container_id: Our name in Open.
        hostname: A client's Open names the host it wants.
        sasl: See above.
        max_frame_bytes: The longest frame we take.
        idle_timeout_s: We announce this; a peer that was silent for twice as long is Ended (AMQP 1.0 part
            2.4.5 advises to announce half of what one bears).
        properties: Of our Open.
        all_fields: Write performatives with all their fields: see full_frames.py.

    Attributes:
        is_client: As told by `sasl`.
        ended: Ended was told, or there is nobody to tell it.
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
        all_fields: bool = False,
    ) -> None:
        super().__init__(
            is_client=not isinstance(sasl, ServerSasl),
            container_id=container_id,
            hostname=hostname,
            max_frame_bytes=max_frame_bytes,
            idle_timeout_s=idle_timeout_s,
            properties=properties,
        )
        self._handshake: Handshake | None = None
        if isinstance(sasl, ServerSasl):
            self._handshake = ServerHandshake(sasl)
        elif sasl is not None:
            self._handshake = ClientHandshake(sasl)
        self._max_frame_bytes = max_frame_bytes
        self._guard = Guard()
        self._all_fields = all_fields
        self._heart_beat = b""
        self._heart_beat_at_s = 0.0
        self._frames_sent = 0
        # The start of a frame whose rest has not arrived, and how many bytes make looking at it worth while.
        self._buffer = bytearray()
        self._wanted_bytes = 8
        self._header_seen = False
        self._said = b""  # of the handshake, and not taken yet

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
            condition = "amqp:unauthorized-access" if handshake.denied else "amqp:connection:framing-error"
            self._end(events, condition, str(exc), offence=True)
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
        pos = 0
        end = len(data)
        if not self._header_seen:
            if end < 8:
                buffer += data
                self._wanted_bytes = 8
                return
            self._header_seen = True
            pos = 8
        limit = self._max_frame_bytes
        guard = self._guard
        known = guard.transfers
        patched = bytearray(data) if frames.BATCH_BYTES in data else None
        offence = ""
        wanted = 8
        while end - pos >= 8:
            stop = pos + int.from_bytes(data[pos : pos + 4], "big")
            if stop - pos < 8 or stop - pos > limit:
                offence = f"a frame of {stop - pos} bytes"
                break
            if stop > end:
                wanted = stop - pos
                break
            # A transfer on a link known to be the peer's to send on needs no look at more than this.
            start = data[pos + 4 : pos + 12], data[pos + 14 : pos + 16]
            if start not in known or stop - pos < 16 or data[pos + 12] < 3:
                try:
                    if not guard.check(data, pos, stop):
                        data = data[:pos] + data[stop:]
                        if patched is not None:
                            del patched[pos:stop]
                        end = len(data)
                        continue
                except RemoteProtocolError as exc:
                    offence = str(exc)
                    break
            if patched is not None:
                tag = frames.batch_to_tag(patched, pos, stop, self._marks)
                if tag is not None:
                    self._batch_tags.add(tag)
            pos = stop
        if pos:
            self._push(data if patched is None else bytes(patched), pos, events)
        if offence:
            if not self.ended:
                self._refuse("amqp:connection:framing-error", offence, events)
        elif pos < end:
            buffer += data[pos:]
            self._wanted_bytes = wanted

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
        chunks = [self._said] if self._said else []
        self._said = b""
        if transport is not None and (self._last_words or not self._closing):
            scratch = scratches.pop() if scratches else ffi.new("char[]", SCRATCH_BYTES)
            while (pending := lib.pn_transport_pending(transport)) > 0:
                taken = lib.pn_transport_peek(transport, scratch, min(pending, SCRATCH_BYTES))
                chunks.append(ffi.unpack(scratch, taken))
                lib.pn_transport_pop(transport, taken)
            scratches.append(scratch)
            for free, pn in self._leaving:
                free(pn)
            self._leaving.clear()
            chunks.append(self._last_words or self._heart_beat)
            self._heart_beat = self._last_words = b""
        data = b"".join(chunks)
        if self._sent_tags:
            data = self._with_formats(data)
        if self._all_fields and data and transport is not None:
            data = with_all_fields(data, lib.pn_transport_get_remote_max_frame(transport))
        if self.ended:
            self._free()
        return data

    def _with_formats(self, data: bytes) -> bytes:
        """Say BATCH_FORMAT where it belongs; `data` is whole frames, because all is taken from the engine."""
        patched = bytearray(data)
        pos = 0
        while pos < len(patched) and self._sent_tags:
            stop = pos + int.from_bytes(patched[pos : pos + 4], "big")
            frames.tag_to_batch(patched, pos, stop, self._sent_tags)
            pos = stop
        return bytes(patched)

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
        if self._handshake is not None:
            self.ended = True
        super().close(condition, description)

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
            put_fields(lib.pn_terminus_filter(lib.pn_link_source(pn)), source_filter)
        link = Link(self, pn, name, False)
        return self._attach(
            link, source, target, snd_settle_mode, rcv_settle_mode, max_message_bytes, properties
        )

    def _own_session(self) -> Any:
        if self.ended:
            raise LocalProtocolError("the AMQP connection has ended")
        if self._session is None:
            self._session = lib.pn_session(self._connection)
            self._guard.answers += 1
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
