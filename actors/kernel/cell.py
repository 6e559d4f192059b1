"""The cell: what stays of an actor when its behaviour is replaced.

Holds address, timers, open requests, children and counters; feeds frames to the behaviour, catches whatever
it raises, and decides about restarts. It has no thread and does no I/O: a host (a Pykka thread, an event
loop, or the single thread of virtual time) calls `receive`, `run_due_timers`, `turn_ended` and `turn_over`.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from actors.kernel import restart_intensity
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.handler_times import HandlerTimes
from actors.kernel.timers import Timers
from messaging import lifecycle
from messaging.address import child_of
from messaging.bus import Bus, Faults, Observer
from messaging.clock import Clock
from messaging.dead_letters import DeadLetter
from messaging.envelope import VERSION, Envelope, Mail, decode, encode, opened
from messaging.errors import EnvelopeError
from messaging.kinds import kind_named, kind_of, message_class

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

CHILD_STOP_LIMIT_S: Final = 15.0  # a child that does not stop in time is left behind, and said so


class System(Protocol):
    """Starts cells in the way of this process: threads, loops, or virtual time."""

    def spawn(self, spec: ChildSpec, address: str, parent: str) -> None: ...


class ActorCell:
    """One actor. Implements the Context of its behaviour."""

    def __init__(
        self,
        address: str,
        parent: str,
        build: Callable[[], EdgeActor],
        bus: Bus,
        system: System,
        on_end: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.address = address
        self.epoch = bus.epoch
        self.clock: Clock = bus.clock
        self.ended = False
        # Messages taken over by the host and not handled yet: of the control lane, of the data lane.
        self.waiting: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.times = HandlerTimes()
        self.handled = 0
        self.failures = 0
        self.restarts = 0
        self.last_error = ""
        self._parent = parent
        self._build = build
        self._bus = bus
        self._system = system
        self._on_end = on_end
        self._behaviour: EdgeActor
        self._handlers: dict[str, tuple[Callable[[Any], None], Callable[..., Any]]] = {}  # and its message
        self._timers = Timers()
        self._late = Timers()  # frames that a fault script holds back; they outlive a restart as others do
        self._requests: dict[int, Envelope] = {}  # unanswered, in order of sending
        self._watchers: set[str] = set()
        self._children: dict[str, str] = {}  # name → address, in order of start
        self.ends_turns = False  # whether the behaviour has something to do at the end of a turn
        self._method = "on_start"  # what runs without a message: on_start, on_turn_end, on_turn_over
        self._stopping = False
        self._waits_for_child = ""
        self._failed_at_s: tuple[float, ...] = ()
        self._own_kinds: dict[str, Callable[[Any], None]] = {
            "Stop": self._on_stop,
            "Watch": self._on_watch,
            "Describe": self._on_describe,
        }

    # called by the host

    def start(self) -> None:
        """Make the first behaviour and run its `on_start`; a failure counts like any other."""
        if self._renew("", None) and self._parent:
            self._send_plain(self._parent, lifecycle.ActorStarted(self.address))

    def receive(self, frame: Mail, is_judged: bool = False) -> None:
        """Decode one frame and handle it. Nothing that goes wrong in it leaves this method.

        Args:
            frame: What came; as an envelope, what never left this thread.
            is_judged: Whether fault scripts have had their say about it.
        """
        faults = self._bus.faults
        if isinstance(frame, Envelope):
            if faults is None and self._bus.observer is None:
                self.deliver(frame)
                return
            frame = encode(frame)
        if faults is not None and not is_judged:
            self._receive_faulty(frame, faults)
            return
        try:
            envelope = decode(frame)
        except EnvelopeError as exc:
            self._bus.dead_letters.add(DeadLetter(None, f"{self.address}: {exc}", "", self.clock.now_s()))
            return
        observer = self._bus.observer
        if observer is None:
            self.deliver(envelope)
        else:
            self._deliver_observed(envelope, frame, observer)

    def _receive_faulty(self, frame: bytes, faults: Faults) -> None:
        """Do to a frame what a fault script wants."""
        verdict = faults.judge(frame, self.clock.monotonic_s())
        for due_s, late in verdict.later:
            self._late.add(due_s, late)
        for now in verdict.now:
            if verdict.fails:
                self._fail(decode(now), FaultInjected("a fault script wants it so"))
                continue
            if verdict.hangs_s:
                self._behaviour.envelope = decode(now)  # what the lookout will name
                faults.hang(verdict.hangs_s)
            self.receive(now, is_judged=True)

    def _deliver_observed(self, envelope: Envelope, frame: bytes, observer: Observer) -> None:
        failures, clock = self.failures, self.clock
        observer.received(envelope, frame)
        began_s = clock.monotonic_s()
        self.deliver(envelope)
        observer.handled(envelope, frame, clock.monotonic_s() - began_s, self.failures != failures)

    def deliver(self, envelope: Envelope) -> None:
        """Handle one decoded envelope."""
        _, _, _, kind, _, _, epoch, correlation_id, _, deadline_s, body = envelope
        if epoch and epoch != self.epoch:
            self._refuse(envelope, f"meant for incarnation {epoch:x}, this is {self.epoch:x}")
            return
        if deadline_s and deadline_s < self.clock.monotonic_s():
            self._refuse(envelope, "its deadline had passed")
            return
        if correlation_id and self._requests:
            self._requests.pop(correlation_id, None)
        if kind == "ActorStopped" and not self._child_stopped(envelope, kind not in self._handlers):
            return
        known = self._handlers.get(kind)
        if known is None:
            self._deliver_unhandled(envelope)
            return
        handler, build = known
        try:
            message = build(*body)
        except TypeError as exc:
            self._refuse(envelope, f"its fields do not fit {kind}: {exc}")
            return
        self._behaviour.envelope = envelope
        times = self.times
        try:
            if self.handled < times.next_at:
                handler(message)
            else:
                began_s = self.clock.monotonic_s()
                handler(message)
                times.add(self.handled, self.clock.monotonic_s() - began_s)
        except BaseException as exc:  # noqa: BLE001 - a cell outlives whatever its behaviour does
            self._fail(envelope, exc)
        else:
            self.handled += 1

    def turn_ended(self) -> None:
        """Tell the behaviour that nothing waits any more, or that others want their turn."""
        if self.ends_turns:
            self._run("on_turn_end")

    def turn_over(self) -> None:
        """Tell the behaviour that what it told at the end of its turn is on its way."""
        if self.ends_turns:
            self._run("on_turn_over")

    def _run(self, method: str) -> None:
        self._method = method
        try:
            getattr(self._behaviour, method)()
        except BaseException as exc:  # noqa: BLE001 - a cell outlives whatever its behaviour does
            self._fail(None, exc)
        self._method = ""

    def doing(self) -> tuple[object, str]:
        """Return what stands for the message being handled, and its kind. From any thread, during a turn."""
        envelope = getattr(getattr(self, "_behaviour", None), "envelope", None)
        return envelope, self._method or (envelope.kind if envelope is not None else "on_start")

    @property
    def parent(self) -> str:
        """The address of whoever started it; "" of a root."""
        return self._parent

    @property
    def state(self) -> str:
        """Whether it is starting, running, stopping or ended. From any thread."""
        if self.ended:
            return "ended"
        if self._stopping:
            return "stopping"
        return "starting" if self._method == "on_start" else "running"

    @property
    def behaviour_name(self) -> str:
        """The class of the behaviour; "" before the first one is made. From any thread."""
        behaviour = getattr(self, "_behaviour", None)
        return "" if behaviour is None else type(behaviour).__name__

    def next_due_s(self) -> float | None:
        """Return when the next timer or deadline is due on the monotonic clock, or None."""
        due_s = self._timers.earliest_s
        if self._bus.faults is not None:
            due_s = min(due_s, self._late.earliest_s)
        return None if due_s == math.inf else due_s

    def run_due_timers(self) -> None:
        """Handle the messages of all timers that are due."""
        if self._bus.faults is not None:
            while (frame := self._late.take(self.clock.monotonic_s())) is not None:
                assert isinstance(frame, bytes)
                self.receive(frame, is_judged=True)
                if self.ended:
                    return
        if self._timers.earliest_s > self.clock.monotonic_s():
            return
        while (message := self._timers.take(self.clock.monotonic_s())) is not None:
            if isinstance(message, lifecycle.DeadlinePassed):
                if self._requests.pop(message.correlation_id, None) is None:
                    continue
                if "DeadlinePassed" not in self._handlers:
                    continue
            if isinstance(message, _ChildStopLimit):
                self._child_did_not_stop(message.address)
                continue
            self.deliver(self._own_envelope(message))
            if self.ended:
                return

    # Context

    def send(
        self,
        to: str,
        message: object,
        *,
        sender: str | None = None,
        correlation_id: int = 0,
        deadline_s: float = 0.0,
    ) -> int:
        """Send one message; returns the envelope's id."""
        return self._bus.send(
            to,
            message,
            sender=self.address if sender is None else sender,
            correlation_id=correlation_id,
            deadline_s=deadline_s,
        )

    def request(self, to: str, message: object, timeout_s: float) -> int:
        """Send a message that wants an answer; see EdgeActor.request."""
        bus = self._bus
        correlation_id = bus.next_id()
        deadline_s = self.clock.monotonic_s() + timeout_s
        kind = kind_of(type(message)).name
        self._requests[correlation_id] = self._own_envelope(message)
        passed = lifecycle.DeadlinePassed(kind, to, correlation_id)
        self._timers.add(deadline_s, passed)
        bus.send(to, message, sender=self.address, correlation_id=correlation_id, deadline_s=deadline_s)
        return correlation_id

    def set_timer(self, after_s: float, message: object) -> int:
        """See EdgeActor.set_timer. Returns an id for `cancel_timer`."""
        return self._timers.add(self.clock.monotonic_s() + after_s, message)

    def cancel_timer(self, timer_id: int) -> None:
        """Forget a timer; one that already fired is no error."""
        self._timers.cancel(timer_id)

    def tell_self(self, message: object) -> None:
        """Send to this actor, from whatever thread: how callbacks of the outside world come in."""
        self._bus.send(self.address, message, sender="", correlation_id=0, deadline_s=0.0)

    def start_child(self, spec: ChildSpec) -> str:
        """Start a child; it tells ActorStarted when it is up. Returns its address.

        A child that outlived a restart of its parent goes on as it is, and only ActorStarted is told.
        """
        address = child_of(self.address, spec.name)
        if spec.name in self._children:
            self._send_plain(self.address, lifecycle.ActorStarted(address))
            return address
        self._children[spec.name] = address
        self._system.spawn(spec, address, self.address)
        return address

    def stop_child(self, name: str) -> None:
        """Ask one child to stop; ActorStopped follows."""
        self._send_plain(self._children[name], lifecycle.Stop())

    def ready_to_stop(self) -> None:
        """Let the stop that was asked for go on to its end."""
        if self._stopping and not self.ended:
            self._close_behaviour()
            self.end("")

    def give_up(self, reason: str) -> None:
        """End now, without stopping the children; whoever started this actor hears why."""
        log.error("%s gives up: %s", self.address, reason)
        self._close_behaviour()
        self.end(reason)

    def watch_peer(self, process: str) -> None:
        """Be told PeerUp and PeerDown of another process."""
        self._bus.watch_peer(process, self.address)

    def peer_seen(self, process: str, epoch: int) -> None:
        """Tell the bus that another process runs in this incarnation."""
        self._bus.peer_seen(process, epoch)

    def peer_lost(self, process: str) -> None:
        """Tell the bus that another process is gone."""
        self._bus.peer_lost(process)

    def dead_letters(self) -> tuple[int, tuple[dict[str, Any], ...]]:
        """Return how many dead letters there were, and the last ones."""
        letters = self._bus.dead_letters
        return letters.count, tuple(
            letter.summary() | {"number": number} for number, letter in letters.numbered()
        )

    def dead_letter(self, envelope: Envelope, error: BaseException) -> None:
        """Put one message aside that the behaviour itself found impossible, and answer its sender so."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        text = "".join(traceback.format_exception(error))
        self._bus.dead_letters.add(DeadLetter(envelope, self.last_error, text, self.clock.now_s()))
        self._answer_failure(envelope)

    # failing and restarting

    def _fail(self, envelope: Envelope | None, error: BaseException) -> None:
        """Dead-letter what could not be handled and start again with a new behaviour."""
        reason = f"{type(error).__name__}: {error}"
        self.failures += 1
        self.last_error = reason
        text = "".join(traceback.format_exception(error))
        self._bus.dead_letters.add(DeadLetter(envelope, reason, text, self.clock.now_s()))
        if envelope is not None:
            self._answer_failure(envelope)
        self._renew(reason, error)

    def _renew(self, reason: str, error: BaseException | None) -> bool:
        """Replace the behaviour, again and again while `on_start` fails; False when it gave up."""
        while True:
            if error is not None:
                now_s = self.clock.monotonic_s()
                verdict = restart_intensity.decide(self._failed_at_s, now_s)
                self._failed_at_s = verdict.failed_at_s
                self._close_behaviour()
                if not verdict.restart:
                    log.error("%s failed too often and gives up: %s", self.address, reason)
                    self.end(f"failed too often: {reason}")
                    return False
            self._timers.clear()
            self._requests.clear()
            try:
                behaviour = self._build()
                behaviour.context = self
                self._behaviour = behaviour
                self.ends_turns = type(behaviour).on_turn_end is not EdgeActor.on_turn_end
                self._handlers = {
                    kind: (getattr(behaviour, method), message_class(kind))
                    for kind, method in behaviour.handlers.items()
                }
                behaviour.envelope = self._own_envelope(lifecycle.Describe())
                self._method = "on_start"
                behaviour.on_start()
                self._method = ""
            except BaseException as exc:  # noqa: BLE001 - a cell outlives whatever its behaviour does
                error, reason = exc, f"{type(exc).__name__}: {exc}"
                self.failures += 1
                self.last_error = reason
                self._method = ""
                text = "".join(traceback.format_exception(exc))
                self._bus.dead_letters.add(
                    DeadLetter(None, f"{self.address} could not start: {reason}", text, self.clock.now_s())
                )
                continue
            if error is not None:
                self.restarts += 1
                log.warning("%s restarted: %s", self.address, reason)
                notice = lifecycle.ActorRestarted(self.address, reason, self.restarts)
                self._tell_all(self._interested(), notice)
            return True

    def _close_behaviour(self) -> None:
        behaviour = getattr(self, "_behaviour", None)
        if behaviour is None:
            return
        try:
            behaviour.on_stop()
        except BaseException as exc:  # noqa: BLE001 - a cell outlives whatever its behaviour does
            self.last_error = f"{type(exc).__name__}: {exc}"
            text = "".join(traceback.format_exception(exc))
            self._bus.dead_letters.add(
                DeadLetter(None, f"{self.address} did not close cleanly", text, self.clock.now_s())
            )

    def end(self, reason: str) -> None:
        """Be gone. The host takes address and mailbox away, then calls `announce_end`."""
        self.ended = True
        self._on_end(reason)

    def announce_end(self, reason: str, frames: Iterable[Mail]) -> None:
        """Dead-letter what still waited, answer its requests with a failure, tell parent and watchers.

        Comes after the address is free, so that a parent may start the child anew at once.
        """
        for frame in frames:
            try:
                envelope = opened(frame)
            except EnvelopeError:
                continue
            self._refuse(envelope, f"{self.address} has stopped")
        self._tell_all(self._interested(), lifecycle.ActorStopped(self.address, reason))

    # stopping

    def _on_stop(self, envelope: Envelope) -> None:
        if not self._stopping:
            self._stopping = True
            self._stop_next()

    def _stop_next(self) -> None:
        """Stop the youngest child that is left; without any, the behaviour."""
        if self._children:
            name = next(reversed(self._children))
            self._waits_for_child = self._children[name]
            self._send_plain(self._waits_for_child, lifecycle.Stop())
            limit = _ChildStopLimit(self._waits_for_child)
            self._timers.add(self.clock.monotonic_s() + CHILD_STOP_LIMIT_S, limit)
            return
        self._waits_for_child = ""
        try:
            self._behaviour.on_stopping()
        except BaseException as exc:
            self.last_error = f"{type(exc).__name__}: {exc}"
            log.exception("%s: stopping failed", self.address)
            self.ready_to_stop()

    def _child_did_not_stop(self, address: str) -> None:
        if self._stopping and address == self._waits_for_child:
            log.error("%s did not stop within %.0f s and is left behind", address, CHILD_STOP_LIMIT_S)
            self._forget_child(address)
            self._stop_next()

    def _forget_child(self, address: str) -> None:
        for name, known in list(self._children.items()):
            if known == address:
                del self._children[name]

    # messages of the cell itself

    def _deliver_unhandled(self, envelope: Envelope) -> None:
        self._behaviour.envelope = envelope
        own = self._own_kinds.get(envelope.kind)
        if own is not None:
            own(envelope)
        elif envelope.kind in lifecycle.NOTICES or envelope.kind == "RequestFailed":
            pass  # for whoever cares
        elif kind_named(envelope.kind) is None:
            self._refuse(envelope, f"unknown kind {envelope.kind!r}")
        else:
            self._refuse(envelope, f"{type(self._behaviour).__name__} does not understand {envelope.kind}")

    def _child_stopped(self, envelope: Envelope, escalate: bool) -> bool:
        """Note that somebody stopped; returns whether the behaviour has still to hear of it.

        A child that gave up is a failure of its parent, unless the behaviour handles ActorStopped itself.
        """
        address, reason = envelope.body
        known = address in self._children.values()
        self._forget_child(address)
        if self._stopping and address == self._waits_for_child:
            self._stop_next()
            return False
        if known and reason and escalate and not self._stopping:
            self._fail(None, ChildGaveUp(f"{address} {reason}"))
            return False
        return True

    def _on_watch(self, envelope: Envelope) -> None:
        self._watchers.add(envelope.sender)

    def _on_describe(self, envelope: Envelope) -> None:
        values = {
            "behaviour": type(self._behaviour).__name__,
            "handled": self.handled,
            "failures": self.failures,
            "restarts": self.restarts,
            "last_error": self.last_error,
            "children": tuple(self._children.values()),
            **self._behaviour.describe(),
        }
        self._send_plain(envelope.sender, lifecycle.Described(self.address, values), envelope.correlation_id)

    # helpers

    def _interested(self) -> list[str]:
        return [address for address in (self._parent, *sorted(self._watchers - {self._parent})) if address]

    def _tell_all(self, addresses: Iterable[str], message: object) -> None:
        for address in addresses:
            self._send_plain(address, message)

    def _send_plain(self, to: str, message: object, correlation_id: int = 0) -> None:
        self._bus.send(to, message, sender=self.address, correlation_id=correlation_id, deadline_s=0.0)

    def _own_envelope(self, message: object) -> Envelope:
        kind = kind_of(type(message))
        now_s = self.clock.now_s()
        return Envelope(
            VERSION,
            kind.lane,
            0,
            kind.name,
            self.address,
            self.address,
            0,
            0,
            now_s,
            0.0,
            kind.values(message),
        )

    def _refuse(self, envelope: Envelope, reason: str) -> None:
        self._bus.dead_letters.add(DeadLetter(envelope, reason, "", self.clock.now_s()))
        self._answer_failure(envelope, reason)

    def _answer_failure(self, envelope: Envelope, reason: str = "") -> None:
        if envelope.is_request and envelope.sender and envelope.sender != self.address:
            failed = lifecycle.RequestFailed(envelope.kind, self.address, reason or self.last_error)
            self._send_plain(envelope.sender, failed, envelope.correlation_id)


class ChildGaveUp(Exception):
    """A child ended by itself; the parent counts it as its own failure."""


class FaultInjected(Exception):
    """Nothing is wrong with the actor: a fault script asked for a failure."""


class _ChildStopLimit:
    """Timer: the child at `address` had its time to stop."""

    def __init__(self, address: str) -> None:
        self.address = address
