"""The ZeroMQ bus: mailboxes are PULL sockets, senders keep one PUSH per thread and destination.

Inside a process frames travel over inproc, between processes over ipc sockets in the run directory. No
broker, no blocking send, no high-water mark (it counts per sender and would deadlock two actors at once).
Between processes delivery is at most once: a frame for a process that is not there is a PeerDown, and what
spans processes is reconciled in full at PeerUp (DESIGN.md).
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from messaging.address import process_of, socket_name
from messaging.bus import Faults, Observer, first_id
from messaging.clock import Clock, SystemClock
from messaging.dead_letters import DeadLetter, DeadLetters
from messaging.envelope import VERSION, Envelope, Mail, encode, lane_of, new_packer
from messaging.errors import AddressInUse
from messaging.kinds import DATA, kind_of
from messaging.lifecycle import NOTICES, Hello, PeerDown, PeerUp

log = logging.getLogger(__name__)

MAX_SOCKETS: Final = 8192  # ZeroMQ's default of 1023 is used up by threads × destinations
LINGER_MS: Final = 1000  # 0 loses last words
RECONNECT_MS: Final = 20
LOOK_AHEAD: Final = 1024  # data frames taken over at once
LONGEST_WAIT_MS: Final = 1000  # one value for all long waits saves setting the option each time
CONNECT_LIMIT_MS: Final = 100  # first send of a thread to a living peer: a local connect takes < 1 ms
OUTSIDE_LIMIT_MS: Final = 1000  # likewise, of a client that only asks: it has nothing else to do
GREETING: Final = kind_of(Hello).name
_EVENTS: Final = int(zmq.EVENTS)  # plain numbers: the enumeration's own operators cost 1 µs
_POLLIN: Final = int(zmq.POLLIN)
EPHEMERAL: Final = "cli-"  # processes that come, ask and go: no socket is kept for them


class Mailbox:
    """The PULL socket of one actor. Opened, read and closed in the actor's own thread."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, path: Path | None) -> None:
        self._socket = socket
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._path = path
        self._control: deque[Mail] = deque()
        self._data: deque[Mail] = deque()
        self._wait_ms = -2
        self._socket_is_dry = False
        self._is_watched = False  # the descriptor, by an event loop
        self.wake: Callable[[], None] = lambda: None  # called with each frame of the mailbox's own thread
        self._recv: Callable[..., bytes] = self._socket.recv
        self._get: Any = self._socket.getsockopt
        self._socket.bind(endpoint)
        if path is not None:
            path.unlink(missing_ok=True)  # whoever bound it before is dead: we hold the process lock
            self._socket.bind(f"ipc://{path}")
            path.chmod(0o600)

    @property
    def is_dry(self) -> bool:
        """Whether the last `take` has left nothing, so that the descriptor tells of whatever comes next."""
        return self._socket_is_dry and not (self._control or self._data)

    @property
    def fd(self) -> int:
        """The edge-triggered descriptor for an event loop: drain until empty after each wake-up.

        Who asks for it says `socket_stirs` with each wake-up: without one, nothing can have come that way.
        """
        self._is_watched = True
        return int(self._socket.getsockopt(zmq.FD))

    def socket_stirs(self) -> None:
        """Look at the socket with the next `take`."""
        self._socket_is_dry = False

    def waiting(self) -> tuple[int, int]:
        """Return how many frames of the control and the data lane were taken over from ZeroMQ and not given
        out. From any thread.
        """
        return len(self._control), len(self._data)

    def put(self, mail: Mail, lane: int) -> None:
        """Take what an actor on the same thread sends, which has no socket to pass through."""
        (self._data if lane else self._control).append(mail)
        self.wake()

    def take(self, most: int) -> list[Mail]:
        """Return up to `most` of what waits, control lane first; never waits itself."""
        control, data = self._control, self._data
        if not (self._socket_is_dry and self._is_watched):
            self._socket_is_dry = not self._get(_EVENTS) & _POLLIN  # a third of the price of an Again
        if not self._socket_is_dry:
            self._sort(self._recv(zmq.NOBLOCK))
            if self._get(_EVENTS) & _POLLIN:
                self._drain()
        if len(control) + len(data) <= most:
            everything = [*control, *data]
            control.clear()
            data.clear()
            return everything
        frames = [control.popleft() for _ in range(min(most, len(control)))]
        frames.extend(data.popleft() for _ in range(min(most - len(frames), len(data))))
        return frames

    def next(self, limit_s: float | None) -> Mail | None:
        """Return the next one, waiting for it up to a limit; None when that is over, or now and then."""
        if self._control:
            return self._control.popleft()
        if self._data:
            return self._data.popleft()
        wait_ms = -1 if limit_s is None else min(LONGEST_WAIT_MS, max(0, int(limit_s * 1000) + 1))
        if wait_ms != self._wait_ms:
            self._socket.setsockopt(zmq.RCVTIMEO, wait_ms)
            self._wait_ms = wait_ms
        try:
            return self._recv()
        except zmq.Again:
            return None

    def _sort(self, frame: bytes) -> None:
        (self._data if lane_of(frame) else self._control).append(frame)

    def _drain(self) -> None:
        """Take over what waits, so that control need not wait behind the data of a burst."""
        recv, data = self._recv, self._data
        try:
            while len(data) < LOOK_AHEAD:
                self._sort(recv(zmq.NOBLOCK))
        except zmq.Again:
            pass

    def close(self) -> list[Mail]:
        """Close the socket; returns what was waiting."""
        self._is_watched = False
        rest: list[Mail] = []
        while frames := self.take(1024):
            rest.extend(frames)
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        return rest


class _Sender(NamedTuple):
    send: Callable[[bytes, int], object]
    socket: zmq.Socket[bytes]
    peer: str  # the other process, "" when the receiver is in this one
    generation: int  # of the receiver's mailbox: inproc does not reconnect to a new one


class _Senders(threading.local):
    """How one thread reaches whom: mailboxes of its own by hand, all others by a PUSH socket each."""

    def __init__(self) -> None:
        self.mailboxes: dict[str, Mailbox] = {}
        self.by_address: dict[str, _Sender] = {}
        self.packer = new_packer()


class ZmqBus:
    """The bus of one process. `run_dir` must be short, ours and locked for this process name."""

    def __init__(self, process: str, run_dir: Path, clock: Clock | None = None) -> None:
        seed = int.from_bytes(os.urandom(5), "big")
        self.process = process
        self.run_dir = run_dir
        self.epoch = seed | 1
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.dead_letters = DeadLetters(quiet=process.startswith(EPHEMERAL))
        self.observer: Observer | None = None
        self.faults: Faults | None = None
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zmq.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._ids = itertools.count(first_id(seed))
        self._generations = itertools.count(1)
        self._local: dict[str, int] = {}  # address → generation
        self._senders = _Senders()
        self._lock = threading.Lock()
        self._peers: dict[str, int] = {}  # process → epoch, while it is up
        self._watchers: dict[str, set[str]] = {}

    def observe(self, observer: Observer | None) -> None:
        """Have `observer` see what the actors of this process take from their mailboxes from now on."""
        self.observer = observer

    def next_id(self) -> int:
        """Return a new envelope id."""
        return next(self._ids)

    def reserve(self, address: str) -> None:
        """Take an address before its thread opens the mailbox: what is sent meanwhile waits for it.

        Raises:
            AddressInUse: somebody has it.
        """
        with self._lock:
            if address in self._local:
                raise AddressInUse(f"address {address!r} is taken")
            self._local[address] = next(self._generations)

    def is_taken(self, address: str) -> bool:
        """Tell whether an actor of this process has an address."""
        return address in self._local

    def release(self, address: str) -> None:
        """Give an address back; later messages to it are dead letters."""
        with self._lock:
            self._local.pop(address, None)
        self._senders.mailboxes.pop(address, None)

    def open(self, address: str, exported: bool = False) -> Mailbox:
        """Open the mailbox of a reserved address, in the thread that will read it."""
        path = self.run_dir / socket_name(address) if exported else None
        generation = self._local[address]
        mailbox = Mailbox(self._zmq.socket(zmq.PULL), f"inproc://{address}#{generation}", path)
        mine = self._senders
        known = mine.by_address.get(address)
        if known is None or known.generation != generation:  # else what it sent before would be overtaken
            mine.mailboxes[address] = mailbox
        return mailbox

    def send(
        self, to: str, message: object, *, sender: str = "", correlation_id: int = 0, deadline_s: float = 0.0
    ) -> int:
        """Send one message; returns its envelope id. Never blocks, never raises for the receiver's sake.

        Raises:
            EnvelopeError: the message is too large or holds what msgpack cannot carry.
        """
        mine = self._senders
        own = mine.mailboxes.get(to)
        out = None
        if own is not None:
            peer = ""
        else:
            out = mine.by_address.get(to)
            if out is None or (not out.peer and self._local.get(to) != out.generation):
                out = self._open_sender(to)
            peer = out.peer if out is not None else process_of(to)
        kind = kind_of(type(message))
        envelope_id = next(self._ids)
        fields = (
            VERSION,
            kind.lane,
            envelope_id,
            kind.name,
            to,
            sender,
            self._epoch_for(peer, kind.name) if peer else self.epoch,
            correlation_id,
            self.clock.now_s(),
            deadline_s,
            kind.values(message),
        )
        if own is not None and kind.lane == DATA:
            own.put(tuple.__new__(Envelope, fields), DATA)  # not by its constructor, which costs 3 x
            return envelope_id
        frame = encode(fields, mine.packer)
        if own is not None:
            own.put(frame, kind.lane)
            return envelope_id
        if out is None:
            self._undeliverable(Envelope(*fields), f"no actor at {to!r}")
            return envelope_id
        try:
            out.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self._undeliverable(Envelope(*fields), f"process {peer!r} is not there")
            self.peer_lost(peer)
        if peer.startswith(EPHEMERAL):
            self._senders.by_address.pop(to).socket.close(LINGER_MS)
        return envelope_id

    def watch_peer(self, process: str, address: str) -> None:
        """Send PeerUp and PeerDown of `process` to `address` from now on; PeerUp at once when it is up."""
        with self._lock:
            self._watchers.setdefault(process, set()).add(address)
            epoch = self._peers.get(process)
        if epoch is not None:
            self.send(address, PeerUp(process, epoch))

    def peer_seen(self, process: str, epoch: int) -> None:
        """Note that another process runs in this incarnation; watchers hear of a new one."""
        with self._lock:
            known = self._peers.get(process)
            self._peers[process] = epoch
            watchers = sorted(self._watchers.get(process, ()))
        if known == epoch:
            return
        for address in watchers:
            if known is not None:
                self.send(address, PeerDown(process))
            self.send(address, PeerUp(process, epoch))

    def peer_lost(self, process: str) -> None:
        """Note that another process is gone; watchers hear of it once."""
        with self._lock:
            if self._peers.pop(process, None) is None:
                return
            watchers = sorted(self._watchers.get(process, ()))
        for address in watchers:
            self.send(address, PeerDown(process))

    def close_thread(self) -> None:
        """Close the sending sockets of the calling thread; its last words still go out."""
        for sender in self._senders.by_address.values():
            sender.socket.close(LINGER_MS)
        self._senders.by_address.clear()

    def close(self) -> None:
        """End the bus after its actors. While some still run, their sockets are left to the process's end:
        ZeroMQ aborts a process that closes a socket under the thread that uses it.
        """
        self.close_thread()
        if self._local:
            log.error("the bus stays open, for actors still run: %s", ", ".join(sorted(self._local)))
        else:
            self._zmq.destroy(LINGER_MS)

    def _epoch_for(self, peer: str, kind: str) -> int:
        # A Hello for the former incarnation would be refused, and the present one never be known.
        return 0 if kind == GREETING else self._peers.get(peer, 0)

    def _open_sender(self, to: str) -> _Sender | None:
        known = self._senders.by_address.pop(to, None)
        if known is not None:
            known.socket.close(LINGER_MS)
        peer = process_of(to)
        generation = self._local.get(to, 0)
        path = self.run_dir / socket_name(to)
        if peer == self.process:
            if not generation:
                return None
            peer, endpoint = "", f"inproc://{to}#{generation}"
        elif path.exists():
            endpoint = f"ipc://{path}"
        else:
            return None
        socket = self._zmq.socket(zmq.PUSH)
        socket.set_hwm(0)
        socket.linger = LINGER_MS
        if peer and not peer.startswith(EPHEMERAL):
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.connect(endpoint)
        if peer and not peer.startswith(EPHEMERAL):
            only_asks = self.process.startswith(EPHEMERAL)
            socket.poll(OUTSIDE_LIMIT_MS if only_asks else CONNECT_LIMIT_MS, zmq.POLLOUT)
        sender = _Sender(socket.send, socket, peer, generation)
        self._senders.by_address[to] = sender
        return sender

    def _undeliverable(self, envelope: Envelope, reason: str) -> None:
        if envelope.kind not in NOTICES:
            self.dead_letters.add(DeadLetter(envelope, reason, "", self.clock.now_s()))
