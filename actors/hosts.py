"""Hosts: what runs a cell. Pykka actors whose mailbox is a ZeroMQ socket, on a thread or an event loop.

Pykka's own error and stop paths are never reached: its teardown would eat the messages that wait, and a new
thread would mean new sockets and a broken order. Everything is caught in the cell (DESIGN.md).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import pykka
from pykka._envelope import Envelope as PykkaEnvelope
from pykka.messages import _ActorStop

from actors.base import ChildSpec
from actors.cell import ActorCell
from messaging.lifecycle import Stop
from messaging.zmq_bus import ZmqBus

log = logging.getLogger(__name__)

TURN: Final = 64  # frames handled before `turn_ended`, and before an event loop serves its sockets again
_RUN: Final = PykkaEnvelope(None)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class ZmqInbox:
    """Pykka's inbox seam: tells Pykka's loop to let the host run, and turns Pykka's stop into ours."""

    def __init__(self) -> None:
        self.stop: Callable[[], None] = lambda: None

    def put(self, envelope: PykkaEnvelope[Any], /) -> None:
        """Take what `ActorRef` sends. Only its stop has a meaning here: messages travel as envelopes.

        Raises:
            TypeError: anything but Pykka's stop message.
        """
        if not isinstance(envelope.message, _ActorStop):
            raise TypeError("send messages over the bus: actors have addresses, their ActorRefs are not used")
        self.stop()

    def get(self) -> PykkaEnvelope[Any]:
        return _RUN

    def empty(self) -> bool:
        return True


class ThreadHost(pykka.ThreadingActor):
    """Runs one cell on a thread of its own."""

    use_daemon_thread = True  # a hung handler must not keep a process alive that was told to end

    def __init__(
        self, bus: ZmqBus, make_cell: Callable[[Callable[[str], None]], ActorCell], exported: bool
    ) -> None:
        super().__init__()
        self._bus = bus
        self._exported = exported
        self._frames: deque[bytes] = deque()  # of the turn that is being handled
        self.cell = make_cell(self._end)
        bus.reserve(self.cell.address)
        self.actor_inbox.stop = lambda: bus.send(self.cell.address, Stop()) and None  # type: ignore[attr-defined]

    @staticmethod
    def _create_actor_inbox() -> Any:
        return ZmqInbox()

    def on_start(self) -> None:
        threading.current_thread().name = self.cell.address
        self.mailbox = self._bus.open(self.cell.address, self._exported)
        self.cell.start()

    def on_receive(self, message: Any) -> None:
        """Run until the cell ends. Pykka calls this once, with what its inbox gave out."""
        cell, mailbox, now_s = self.cell, self.mailbox, self.cell.clock.monotonic_s
        while not cell.ended:
            due_s = cell.next_due_s()
            mailbox.wait(None if due_s is None else due_s - now_s())
            self._handle_turn()

    def _handle_turn(self) -> bool:
        """Handle everything that waits, up to one turn; returns whether there was anything."""
        cell = self.cell
        frames = self._frames
        frames.extend(self.mailbox.take(TURN))
        busy = bool(frames)
        receive = cell.receive
        while frames:
            receive(frames.popleft())
            if cell.ended:
                return False
        cell.run_due_timers()
        if not cell.ended:
            cell.turn_ended()
        return busy and not cell.ended

    def _end(self, reason: str) -> None:
        """The cell has ended: give address, mailbox and thread back."""
        self._bus.release(self.cell.address)
        self.cell.announce_end(reason, [*self._frames, *self.mailbox.close()])
        self._frames.clear()
        self._bus.close_thread()
        self.actor_stopped.set()
        pykka.ActorRegistry.unregister(self.actor_ref)


class LoopHost(ThreadHost):
    """Runs one cell inside an event loop: a protocol head serves sockets and mailbox on one thread."""

    def __init__(
        self,
        bus: ZmqBus,
        make_cell: Callable[[Callable[[str], None]], ActorCell],
        exported: bool,
        new_loop: LoopFactory,
    ) -> None:
        super().__init__(bus, make_cell, exported)
        self._new_loop = new_loop
        self._timer: asyncio.TimerHandle | None = None

    def _actor_loop(self) -> None:
        self._loop = self._new_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._open)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _open(self) -> None:
        self.on_start()
        if not self.cell.ended:
            self._loop.add_reader(self.mailbox.fd, self._turn)
            self._turn()

    def _turn(self) -> None:
        """Handle one turn; come back at once if it had frames: the descriptor will not say so again."""
        if self.cell.ended:
            return
        if self._handle_turn():
            self._loop.call_soon(self._turn)
        elif not self.cell.ended:
            self.arm_timer()

    def arm_timer(self) -> None:
        """Wake up for the earliest timer of the cell; called after anything that may have set one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self.cell.next_due_s()
        if due_s is not None:
            self._timer = self._loop.call_later(max(0.0, due_s - self.cell.clock.monotonic_s()), self._turn)

    def _end(self, reason: str) -> None:
        self._loop.remove_reader(self.mailbox.fd)
        super()._end(reason)
        self._loop.call_soon(self._loop.stop)


class ThreadSystem:
    """Spawns actors of this process as threads and event loops."""

    def __init__(self, bus: ZmqBus, new_loop: LoopFactory = asyncio.new_event_loop) -> None:
        self._bus = bus
        self._new_loop = new_loop

    def spawn(
        self,
        spec: ChildSpec,
        address: str,
        parent: str,
        on_end: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Start one actor; it reports ActorStarted to its parent.

        Raises:
            AddressInUse: an actor of that address runs.
        """

        def make_cell(host_end: Callable[[str], None]) -> ActorCell:
            def end(reason: str) -> None:
                host_end(reason)
                on_end(reason)

            return ActorCell(address, parent, spec.build, self._bus, self, end)

        if spec.placement == "loop":
            LoopHost.start(self._bus, make_cell, spec.exported, self._new_loop)
        else:
            ThreadHost.start(self._bus, make_cell, spec.exported)
