"""One AMQP 1.0 connection without I/O, either end: bytes in, events out; calls in, bytes out.

Give every read to `receive_data` and handle the events in order; after that, and after any call that could
make something to send, write what `data_to_send` returns. Call `tick` when it said so. Not thread-safe.

The peer's mistake never raises: it is an `Ended` event behind the events in front of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from messaging.amqp.events import Event
from messaging.amqp.link import MAX_MESSAGE_BYTES, Link, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import ClientSasl, ServerSasl


class Connection:
    """One connection: a server if `sasl` is a ServerSasl, else a client (None: one that skips SASL).

    Args:
        container_id: Our name in Open.
        hostname: A client's Open names the host it wants.
        max_frame_bytes: The longest frame we take.
        idle_timeout_s: We announce this; a peer that is silent for longer is Ended.
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
    ) -> None: ...

    @property
    def ended(self) -> bool:
        """Whether Ended was told, or the Close of both ends is through."""
        raise NotImplementedError

    def receive_data(self, data: bytes) -> list[Event]:
        """Return what these bytes bring; never raises for what a peer sends. b"" says that it closed."""
        raise NotImplementedError

    def data_to_send(self) -> bytes:
        """Return all that is to be written now, b"" for nothing."""
        raise NotImplementedError

    def tick(self, now_s: float) -> tuple[list[Event], float | None]:
        """Do what the time asks for: heart-beats (in `data_to_send`), Ended for a silent peer.

        Args:
            now_s: A monotonic clock's; call first when the connection starts.

        Returns:
            Events, and when to call again at the latest (None: no need to).
        """
        raise NotImplementedError

    def sasl_outcome(self, ok: bool) -> list[Event]:
        """Server: answer SaslDone. Returns what waited behind it; a refusal brings Ended."""
        raise NotImplementedError

    def open(self) -> None:
        """Send Open: a client at the start, a server in answer to Opened."""
        raise NotImplementedError

    def close(self, condition: str = "", description: str = "") -> None:
        """Send Close, behind an Open if there was none. Ended follows when the peer has closed too."""
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError
