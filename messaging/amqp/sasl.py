"""SASL in front of AMQP, both ends: ANONYMOUS, MSSBCBS and PLAIN.

The engine is built without a SASL library and could offer ANONYMOUS alone, so these frames are ours. A
handshake is fed until it is `done`; what it leaves in the buffer then starts with the AMQP header and goes to
the engine.

Source: AMQP 1.0 parts 2.2 and 5.3; RFC 4616 (PLAIN); spec sheet hub-protocols.md section 3.1.
"""

from __future__ import annotations

from msgspec import Struct

from messaging.amqp.events import SaslDone
from messaging.amqp.values import Described, Symbol, decode_value, encode_value
from messaging.envelope import Secret
from messaging.errors import RemoteProtocolError

MECHANISMS = ("ANONYMOUS", "MSSBCBS", "PLAIN")
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
MAX_SASL_BYTES = 65_536  # one frame, and all that a client sends before it knows the outcome

_MECHANISMS, _INIT, _CHALLENGE, _RESPONSE, _OUTCOME = 0x40, 0x41, 0x42, 0x43, 0x44
_OK, _AUTH_FAILED = 0, 1


class ServerSasl(Struct, frozen=True):
    """The server's end: offers these mechanisms, in this order; a client may also skip SASL."""

    mechanisms: tuple[str, ...] = MECHANISMS


class ClientSasl(Struct, frozen=True):
    """The client's end: asks for one mechanism. `user` and `password` count for PLAIN."""

    mechanism: str = "ANONYMOUS"
    user: str = ""
    password: Secret | None = None


class Handshake:
    """What comes before AMQP on a connection, of either end."""

    def __init__(self) -> None:
        self.done = False
        self.denied = False  # it failed for who the client is, or how it wanted to prove it
        self.output = bytearray()

    def receive(self, buffer: bytearray) -> SaslDone | None:
        """Take from the front of `buffer` what belongs to the handshake.

        Raises:
            RemoteProtocolError: The peer broke the protocol, or refused. Write `output`, then close.
        """
        raise NotImplementedError

    def _take_header(self, buffer: bytearray, expected: tuple[bytes, ...], ours: bytes) -> bytes | None:
        """Return the protocol header at the front of `buffer`, None while it is incomplete."""
        start = bytes(buffer[:8])
        if not any(header.startswith(start) for header in expected):
            self.output += ours  # AMQP 1.0 part 2.2: answer with a header that we take, and close
            raise RemoteProtocolError("this is not the protocol header of AMQP 1.0")
        return start if len(start) == 8 else None

    @staticmethod
    def _take_frame(buffer: bytearray) -> Described | None:
        """Return the performative of the SASL frame at the front of `buffer`, None while it is incomplete."""
        if len(buffer) < 8:
            return None
        size = int.from_bytes(buffer[:4], "big")
        start = buffer[4] * 4
        if not 8 <= start <= size <= MAX_SASL_BYTES or buffer[5] != 1:
            raise RemoteProtocolError("this is not a SASL frame")
        if len(buffer) < size:
            return None
        performative = decode_value(bytes(buffer[start:size]))
        del buffer[:size]
        if not isinstance(performative, Described) or not isinstance(performative.value, list):
            raise RemoteProtocolError("this is not a SASL frame")
        return performative

    def _put_frame(self, code: int, body: bytes) -> None:
        performative = b"\x00\x53" + bytes((code,)) + body
        self.output += (len(performative) + 8).to_bytes(4, "big") + b"\x02\x01\x00\x00" + performative


class ServerHandshake(Handshake):
    """The server's end. When it returned SaslDone, `outcome` is to be called."""

    def __init__(self, sasl: ServerSasl) -> None:
        super().__init__()
        self._mechanisms = sasl.mechanisms
        self._expects: int | None = None  # which SASL frame; None: a header
        self._after_sasl = False
        self.waits = False  # for `outcome`

    def receive(self, buffer: bytearray) -> SaslDone | None:
        if self.waits:
            if len(buffer) > MAX_SASL_BYTES:
                raise RemoteProtocolError("too many bytes before the outcome of SASL")
            return None
        if self._expects is None:
            expected = (AMQP_HEADER,) if self._after_sasl else (AMQP_HEADER, SASL_HEADER)
            header = self._take_header(buffer, expected, AMQP_HEADER if self._after_sasl else SASL_HEADER)
            if header == AMQP_HEADER:
                self.done = True
            if header != SASL_HEADER:
                return None
            del buffer[:8]
            self.output += SASL_HEADER
            # An array, also of one: "multiple" of symbol.
            names = b"".join(bytes((len(name),)) + name.encode("ascii") for name in self._mechanisms)
            array = b"\xe0" + bytes((len(names) + 2, len(self._mechanisms))) + b"\xa3" + names
            self._put_frame(_MECHANISMS, b"\xc0" + bytes((len(array) + 1, 1)) + array)
            self._expects = _INIT
        frame = self._take_frame(buffer)
        if frame is None:
            return None
        if frame.descriptor != self._expects:
            raise RemoteProtocolError("this SASL frame is not expected now")
        fields = frame.value
        assert isinstance(fields, list)
        mechanism = "PLAIN" if self._expects == _RESPONSE else fields[0] if fields else None
        if mechanism not in self._mechanisms:
            self.outcome(ok=False)
            self.denied = True
            raise RemoteProtocolError(f"SASL mechanism {str(mechanism)[:40]!r} was not offered")
        response = fields[0] if self._expects == _RESPONSE else fields[1] if len(fields) > 1 else None
        if mechanism == "PLAIN" and response is None:
            if self._expects == _RESPONSE:
                raise RemoteProtocolError("a SASL response without content")
            self._put_frame(_CHALLENGE, b"\xc0\x03\x01\xa0\x00")
            self._expects = _RESPONSE
            return self.receive(buffer) if buffer else None
        self.waits = True
        if mechanism != "PLAIN":
            return SaslDone(str(mechanism), "", None)
        try:
            _, user, password = response.split(b"\0")  # type: ignore[union-attr]
            return SaslDone("PLAIN", user.decode(), Secret(password))
        except (AttributeError, TypeError, ValueError) as exc:
            self.outcome(ok=False)
            self.denied = True
            raise RemoteProtocolError("the response to SASL PLAIN is not: identity, user, password") from exc

    def outcome(self, ok: bool) -> None:
        """Send the outcome; behind a good one the client starts with the AMQP header."""
        self.waits = False
        self._expects = None
        self._after_sasl = True
        self._put_frame(_OUTCOME, b"\xc0\x03\x01\x50" + bytes((_OK if ok else _AUTH_FAILED,)))


class ClientHandshake(Handshake):
    """The client's end."""

    def __init__(self, sasl: ClientSasl) -> None:
        super().__init__()
        self._sasl = sasl
        self._expects: int | None = None
        self.output += SASL_HEADER

    def receive(self, buffer: bytearray) -> SaslDone | None:
        if self._expects is None:
            if self._take_header(buffer, (SASL_HEADER,), b"") is None:
                return None
            del buffer[:8]
            self._expects = _MECHANISMS
        while not self.done:
            frame = self._take_frame(buffer)
            if frame is None:
                return None
            self._answer(frame)
        return None

    def _answer(self, frame: Described) -> None:
        fields = frame.value
        assert isinstance(fields, list)
        if frame.descriptor != self._expects:
            raise RemoteProtocolError("this SASL frame is not expected now")
        mechanism = self._sasl.mechanism
        if self._expects == _MECHANISMS:
            offered = fields[0] if fields else None
            names = offered if isinstance(offered, list) else [offered]
            if mechanism not in names:
                self.denied = True
                raise RemoteProtocolError(f"the server does not offer SASL {mechanism}, but {names}")
            response = None
            if mechanism == "PLAIN":
                password = self._sasl.password.reveal() if self._sasl.password else b""
                response = b"\0" + self._sasl.user.encode() + b"\0" + password
            self._put_frame(_INIT, encode_value([Symbol(mechanism), response]))
            self._expects = _OUTCOME
            return
        code = fields[0] if fields else None
        if code != _OK:
            self.denied = True
            raise RemoteProtocolError(f"the server refused SASL {mechanism} with code {code}")
        self.done = True
