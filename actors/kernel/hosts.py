"""Hosts: what runs a cell. Pykka actors whose mailbox is a ZeroMQ socket, on a thread or an event loop.

Pykka's own error and stop paths are never reached: its teardown would eat the messages that wait, and a new
thread would mean new sockets and a broken order. Everything is caught in the cell (DESIGN.md).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

import pykka
from pykka._envelope import Envelope as PykkaEnvelope
from pykka.messages import _ActorStop

from actors.kernel.actor_sight import ActorSight
from actors.kernel.base import ChildSpec
from actors.kernel.cell import ActorCell
from actors.kernel.hung import LIMITS, Hung, HungLimits, Lookout, Sight
from actors.metrics.actor_metrics import ActorCounts
from messaging.envelope import Mail, lane_of
from messaging.lifecycle import Stop
from messaging.zmq_bus import ZmqBus

log = logging.getLogger(__name__)

TURN: Final = 64  # frames handled before `turn_ended`, and before an event loop serves its sockets again
MORE_S: Final = 0.0005  # for so long the actors of a loop that has more to read put off the end of their turn
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


class Turning:
    """What a thread is doing, for the lookout: written by that thread, twice a turn, and read by another."""

    __slots__ = ("beats", "ident", "name", "turn")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ident = threading.get_ident()
        self.turn: tuple[ActorCell] | None = None  # made anew for each turn: its identity is the turn's
        self.beats: object = None  # of an event loop; another object with each beat

    def sight(self) -> Sight | None:
        """Return what the thread is doing; see Carrier."""
        turn = self.turn
        if turn is not None:
            on, doing = turn[0].doing()
            return Sight(turn[0].address, doing, (turn, on))
        return Sight("", "what its sockets brought", (self.beats,)) if self.beats is not None else None


class ThreadHost(pykka.ThreadingActor):
    """Runs one cell on a thread of its own."""

    use_daemon_thread = True  # a hung handler must not keep a process alive that was told to end

    def __init__(
        self,
        bus: ZmqBus,
        make_cell: Callable[[Callable[[str], None]], ActorCell],
        exported: bool,
        lookout: Lookout,
    ) -> None:
        super().__init__()
        self._bus = bus
        self._lookout = lookout
        self._exported = exported
        self._frames: deque[Mail] = deque()  # of the turn that is being handled
        self.cell = make_cell(self._end)
        bus.reserve(self.cell.address)
        self.actor_inbox.stop = lambda: bus.send(self.cell.address, Stop()) and None  # type: ignore[attr-defined]

    @staticmethod
    def _create_actor_inbox() -> Any:
        return ZmqInbox()

    def on_start(self) -> None:
        threading.current_thread().name = self.cell.address
        self._open_mailbox()
        self._turning = Turning(self.cell.address)
        self._lookout.add(self._turning)
        self._turning.turn = (self.cell,)
        self.cell.start()
        self._turning.turn = None

    def on_receive(self, message: Any) -> None:
        """Run until the cell ends. Pykka calls this once, with what its inbox gave out."""
        cell, mailbox, now_s = self.cell, self.mailbox, self.cell.clock.monotonic_s
        turning = self._turning
        while not cell.ended:
            due_s = cell.next_due_s()
            frame = mailbox.next(None if due_s is None else due_s - now_s())
            turning.turn = (cell,)
            if frame is not None:
                cell.receive(frame)  # before looking for more: whoever asked is waiting
            if not cell.ended:
                self._handle_turn()
            turning.turn = None

    def _handle_turn(self) -> None:
        """Handle everything that waits, up to one turn."""
        self._handle_waiting()
        if not self.cell.ended:
            self.cell.turn_ended()
        if not self.cell.ended:
            self.cell.turn_over()

    def _handle_waiting(self) -> None:
        cell = self.cell
        frames = self._frames
        frames.extend(self.mailbox.take(TURN))
        receive = cell.receive
        while frames:
            receive(frames.popleft())
            if cell.ended:
                return
        cell.run_due_timers()

    def _open_mailbox(self) -> None:
        self.mailbox = mailbox = self._bus.open(self.cell.address, self._exported)
        frames = self._frames

        def waiting() -> tuple[int, int]:
            control, data = mailbox.waiting()
            of_turn = list(frames)
            in_data = sum(map(lane_of, of_turn))
            return control + len(of_turn) - in_data, data + in_data

        self.cell.waiting = waiting

    def _end(self, reason: str) -> None:
        """The cell has ended: give address, mailbox and thread back."""
        self._bus.release(self.cell.address)
        self.cell.announce_end(reason, [*self._frames, *self.mailbox.close()])
        self._frames.clear()
        self._close_senders()
        self.actor_stopped.set()
        pykka.ActorRegistry.unregister(self.actor_ref)

    def _close_senders(self) -> None:
        self._lookout.remove(self._turning)
        self._bus.close_thread()


class LoopThread:
    """An event loop on a thread of its own, carrying one actor or several.

    Actors that exchange a message for every batch are cheaper on one thread: waking another one costs more
    than handling the message does. What one sends to another is handled in the same round, so a batch goes
    through all of them before the loop looks at its sockets again.

    The end of a turn is where a batch is written to the disk, or to a socket. It waits for one look at the
    sockets that brings nothing more, or for MORE_S: what comes together is written together.
    """

    turning: Turning

    def __init__(self, name: str, bus: ZmqBus, new_loop: LoopFactory, lookout: Lookout) -> None:
        self.loop = new_loop()
        self._bus = bus
        self._lookout = lookout
        self._carried = 0
        self._ready: deque[LoopHost] = deque()  # something waits for them
        self._ending: dict[LoopHost, None] = {}  # their turn has not ended yet
        self._over: list[LoopHost] = []  # it has, in the round before
        self._more_until_s = 0.0  # until when that may be put off
        self._round_is_due = False
        self._now_s = bus.clock.monotonic_s  # the loop's own clock counts whole milliseconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def carry(self, open_host: Callable[[], None]) -> None:
        """Run one more actor. Called by whoever starts it, from any thread."""
        self._carried += 1
        if self._carried == 1:
            self.loop.call_soon(open_host)
            self._thread.start()
        else:
            self.loop.call_soon_threadsafe(open_host)

    def let_go(self) -> bool:
        """One actor has ended; with the last one the thread ends. Called on the loop."""
        self._carried -= 1
        if self._carried:
            return False
        self._bus.close_thread()
        self.loop.call_soon(self.loop.stop)
        return True

    def turn_soon(self, host: LoopHost) -> None:
        """Give a host its turn in this round, or in the next one."""
        self._ready.append(host)
        if not self._round_is_due:
            self._round_soon()

    def end_soon(self, host: LoopHost) -> None:
        """End the turn of a host when nothing more comes."""
        if not self._ending:
            self._more_until_s = self._now_s() + MORE_S
        self._ending[host] = None
        if not self._round_is_due:
            self._round_soon()

    def _round_soon(self) -> None:
        self._round_is_due = True
        self.loop.call_soon(self._round)

    def _round(self) -> None:
        """Let everybody have their turn; end turns after a round in which nobody had one."""
        try:
            over, self._over = self._over, []
            for host in over:
                host.do(ActorCell.turn_over)
            had_turns = bool(self._ready)
            if had_turns:
                self._turns()
            if not had_turns or self._now_s() >= self._more_until_s:
                self._over, self._ending = list(self._ending), {}
                for host in self._over:
                    host.do(ActorCell.turn_ended)
                if self._ready:
                    self._turns(self._over)
        finally:
            self._round_is_due = False
            if self._ready or self._ending or self._over:
                self._round_soon()

    def _turns(self, but: Collection[LoopHost] = ()) -> None:
        ready = self._ready
        later = []
        for _ in range(TURN):
            if not ready:
                break
            host = ready.popleft()
            if host in but:
                later.append(host)
            else:
                host.turn()
        ready.extendleft(reversed(later))

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.turning = Turning(self._thread.name)
        self._lookout.add(self.turning)
        if self._lookout.looks:
            self.loop.call_soon(self._beat)
        try:
            self.loop.run_forever()
        finally:
            self._lookout.remove(self.turning)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _beat(self) -> None:
        """Show that the loop turns, whatever its sockets bring."""
        self.turning.beats = object()
        self.loop.call_later(self._lookout.look_s, self._beat)


class LoopHost(ThreadHost):
    """Runs one cell on an event loop: a protocol head serves sockets and mailbox on one thread."""

    def __init__(
        self,
        bus: ZmqBus,
        make_cell: Callable[[Callable[[str], None]], ActorCell],
        exported: bool,
        lookout: Lookout,
        thread: LoopThread,
        on_empty: Callable[[], None],
    ) -> None:
        super().__init__(bus, make_cell, exported, lookout)
        self._thread = thread
        self._on_empty = on_empty
        self._loop = thread.loop
        self._timer: asyncio.TimerHandle | None = None
        self._due_s: float | None = None  # what the timer waits for
        self._turn_is_due = False

    def _start_actor_loop(self) -> None:
        self._thread.carry(self._open)

    def _open(self) -> None:
        self._open_mailbox()
        self.mailbox.wake = self._wake
        self._turning = self._thread.turning
        self._turning.turn = (self.cell,)
        self.cell.start()
        self._turning.turn = None
        if not self.cell.ended:
            self._loop.add_reader(self.mailbox.fd, self._stirred)
            self.turn()

    def _stirred(self) -> None:
        self.mailbox.socket_stirs()
        self.turn()

    def _wake(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._thread.turn_soon(self)

    def turn(self) -> None:
        """Handle what waits; come back if there may be more: the descriptor will not say so again."""
        self._turn_is_due = False
        cell = self.cell
        if cell.ended:
            return
        self._turning.turn = (cell,)
        self._handle_waiting()
        self._turning.turn = None
        if cell.ended:
            return
        if not self.mailbox.is_dry:
            self._wake()
        if cell.ends_turns:
            self._thread.end_soon(self)
        else:
            self._arm_timer()

    def do(self, what: Callable[[ActorCell], None]) -> None:
        """Let the behaviour do what it does once for all that came."""
        cell = self.cell
        if cell.ended:
            return
        self._turning.turn = (cell,)
        what(cell)
        self._turning.turn = None
        if not cell.ended:
            self._arm_timer()

    def _arm_timer(self) -> None:
        """Wake up for the earliest timer of the cell."""
        due_s = self.cell.next_due_s()
        if due_s == self._due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due_s = due_s
        if due_s is not None:
            wait_s = max(0.0, due_s - self.cell.clock.monotonic_s())
            self._timer = self._loop.call_later(wait_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = self._due_s = None
        self.turn()

    def _close_senders(self) -> None:
        if self._thread.let_go():
            self._on_empty()

    def _end(self, reason: str) -> None:
        self._loop.remove_reader(self.mailbox.fd)
        super()._end(reason)


def _sight(cell: ActorCell, busy: Hung | None) -> ActorSight:
    control, data = cell.waiting()
    return ActorSight(
        cell.address,
        cell.parent,
        cell.behaviour_name,
        cell.state,
        "" if busy is None else busy.sight.doing,
        0.0 if busy is None else busy.seconds,
        control,
        data,
        cell.handled,
        cell.failures,
        cell.restarts,
        cell.last_error,
        cell.times.percentiles(),
    )


class ThreadSystem:
    """Spawns the actors of this process: on threads of their own, or together on event loops."""

    def __init__(
        self,
        bus: ZmqBus,
        new_loop: LoopFactory = asyncio.new_event_loop,
        end_process: Callable[[str], None] | None = None,
        hung_limits: HungLimits = LIMITS,
    ) -> None:
        """Start nothing yet.

        Args:
            bus: What the actors speak over.
            new_loop: Makes the event loops.
            end_process: Ends the process at once, because a handler hangs; is told which. None: nobody looks.
            hung_limits: When a handler counts as hung.
        """
        self.bus = bus
        self._new_loop = new_loop
        self._lookout = Lookout(end_process, hung_limits)
        self._loops: dict[str, LoopThread] = {}
        self._cells: dict[str, ActorCell] = {}
        self._gave_up: dict[str, ActorSight] = {}  # until an actor of that address is started again
        self._lock = threading.Lock()

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
                self._cells.pop(address, None)
                if reason:
                    self._gave_up[address] = _sight(cell, None)._replace(last_error=reason)
                host_end(reason)
                on_end(reason)

            cell = ActorCell(address, parent, spec.build, self.bus, self, end)
            self._gave_up.pop(address, None)
            self._cells[address] = cell
            return cell

        if not spec.loop:
            ThreadHost.start(self.bus, make_cell, spec.exported, self._lookout)
            return
        with self._lock:
            thread = self._loops.get(spec.loop)
            if thread is None:
                thread = self._loops[spec.loop] = LoopThread(
                    spec.loop, self.bus, self._new_loop, self._lookout
                )
            LoopHost.start(
                self.bus, make_cell, spec.exported, self._lookout, thread, lambda: self._forget(spec.loop)
            )

    def counts(self) -> list[ActorCounts]:
        """Return how the actors of this process fare. From any thread."""
        return [
            ActorCounts(cell.address, sum(cell.waiting()), cell.handled, cell.failures, cell.restarts)
            for _, cell in sorted(self._cells.copy().items())
        ]

    def sights(self) -> list[ActorSight]:
        """Return how the actors of this process are, in order of start. From any thread."""
        busy = self._lookout.busy()
        ended = list(self._gave_up.copy().values())
        return [*(_sight(cell, busy.get(cell.address)) for cell in self._cells.copy().values()), *ended]

    def _forget(self, loop: str) -> None:
        with self._lock:
            del self._loops[loop]
