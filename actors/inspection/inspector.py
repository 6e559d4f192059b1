"""Shows inspectors what goes on in its process, and sends for them where the edge allows it.

Understands: LookAtActors, LookAtKinds, OpenTap, ReadTap, CloseTap, ReadFlow, FindHops, ShowLetter,
             ReplayLetter, SendMessage
Tells:       whoever asked; whom a message is sent to for an inspector
Started by:  the root of its process, on a thread of its own: who looks shall hold up nobody

An inspector fetches what it wants to see. So one that is slow, or dead, costs the edge what its tap may hold,
and that only until its lease ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from actors.inspection.envelope_watch import EnvelopeWatch
from actors.inspection.flow import Flow
from actors.inspection.messages import (
    ActorsSeen,
    CloseTap,
    FindHops,
    FlowRead,
    HopsFound,
    KindsSeen,
    LetterShown,
    LookAtActors,
    LookAtKinds,
    MessageSent,
    OpenTap,
    ReadFlow,
    ReadTap,
    ReplayLetter,
    SendMessage,
    ShowLetter,
    TapClosed,
    TapOpened,
    TapRead,
)
from actors.inspection.tap import LARGEST_BYTES, Tap, TapFilter
from actors.kernel.actor_sight import ActorSight, as_values
from actors.kernel.base import EdgeActor
from messaging.address import process_of
from messaging.bus import Observer
from messaging.dead_letters import DeadLetter, DeadLetters
from messaging.envelope import encode
from messaging.errors import ConfigError
from messaging.kinds import kind_named, message, names
from messaging.lifecycle import RequestFailed
from messaging.message_fields import field_names, make_message
from messaging.nearest import did_you_mean
from messaging.text import quoted
from messaging.version import VERSION

log = logging.getLogger(__name__)

LEASE_S: Final = 5.0  # a flow that nobody reads for so long ends; a tap only counts from then on
COUNTED_S: Final = 300.0  # and ends after this: who was stopped and goes on is told how many it missed
LOOK_S: Final = 1.0
LINGER_S: Final = 2.0  # after the last tap: answers to what was seen last are hops, too
HOPS_KEPT_S: Final = 600.0  # from then on; their memory is given back
MOST_TAPS: Final = 8
NOT_ALLOWED: Final = (
    "sending and replaying are off on this edge: it was started without --allow-faults; "
    "for a test, start it with `edge-actors run --allow-faults`"
)


@message
class LeaseDue:
    """Timer: see which inspectors are still there."""


class _Tapping:
    """One inspector that taps."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.kinds_shown = 0  # of so many kinds it knows the fields
        self.answer = TapRead(0, (), {})  # the last one that brought something; it may have got lost


class InspectorActor(EdgeActor):
    """Answers `edge-actors inspect`. Watches envelopes only while somebody taps or looks at the flow."""

    def __init__(
        self,
        observe: Callable[[Observer | None], None],
        look: Callable[[], Sequence[ActorSight]],
        letters: DeadLetters,
        *,
        allows_faults: bool,
    ) -> None:
        """Keep what is needed.

        Args:
            observe: Puts an observer on the bus of this process, or takes it away.
            look: Tells how the actors of this process are.
            letters: Those of this process.
            allows_faults: Whether it may send.
        """
        self._observe = observe
        self._look = look
        self._letters = letters
        self._allows_faults = allows_faults
        self._tapping: dict[int, _Tapping] = {}  # by the envelope that opened the tap, which is unique
        self._flow_due_s = 0.0
        self._idle_since_s = 0.0  # since when nobody looks; 0: somebody does, or nothing is remembered
        self._is_looking_after = False

    def on_start(self) -> None:
        self._watch = EnvelopeWatch(self.address, self.clock)

    def on_stop(self) -> None:
        self._observe(None)

    # actors

    def on_look_at_actors(self, message: LookAtActors) -> None:
        actors = tuple(as_values(sight) for sight in self._look())
        self.reply(ActorsSeen(process_of(self.address), VERSION, self._allows_faults, actors))

    def on_look_at_kinds(self, message: LookAtKinds) -> None:
        self.reply(KindsSeen(tuple(sorted(names()))))

    # taps

    def on_open_tap(self, message: OpenTap) -> None:
        if len(self._tapping) >= MOST_TAPS and not self._end_one_that_dozes():
            self._refuse("OpenTap", f"{MOST_TAPS} inspectors tap already; end one of them")
            return
        number = self.envelope.id
        wanted = TapFilter(message.to, message.sender, message.kinds)
        self._tapping[number] = _Tapping(Tap(wanted, self.clock.monotonic_s() + LEASE_S))
        self._taps_changed()
        self.reply(TapOpened(number))

    def on_read_tap(self, message: ReadTap) -> None:
        tapping = self._tapping.get(message.tap)
        if tapping is None:
            self._refuse("ReadTap", f"there is no such tap: it was not read for {COUNTED_S:g} s")
            return
        tapping.tap.wake()
        tapping.tap.due_s = self.clock.monotonic_s() + LEASE_S
        answer = tapping.answer
        if message.got == answer.number:
            answer = TapRead(answer.number, (), {})
            if message.most_bytes:  # a mere sign of life tells nothing
                answer = self._read(tapping, message.most_bytes)
        self.reply(answer)

    def _read(self, tapping: _Tapping, most_bytes: int) -> TapRead:
        tap, last = tapping.tap, tapping.answer
        taken = tap.take(most_bytes, self.clock.now_s())
        kinds = list(tap.kinds)[tapping.kinds_shown :]  # after `take`: what was put before is among them
        tapping.kinds_shown += len(kinds)
        number = last.number + 1 if taken or kinds else last.number
        tapping.answer = TapRead(number, taken, {kind: field_names(kind) for kind in kinds})
        return tapping.answer

    def on_close_tap(self, message: CloseTap) -> None:
        tapping = self._tapping.pop(message.tap, None)
        if tapping is not None:
            self._taps_changed()
        self.reply(TapClosed(0 if tapping is None else tapping.tap.missed))

    def _end_one_that_dozes(self) -> bool:
        """End the tap that has not been read for longest, to make room; False when all are read."""
        dozing = [number for number, tapping in self._tapping.items() if tapping.tap.is_dozing]
        if dozing:
            del self._tapping[min(dozing, key=lambda number: self._tapping[number].tap.due_s)]
        return bool(dozing)

    # flow and hops

    def on_read_flow(self, message: ReadFlow) -> None:
        watch = self._watch
        if watch.flow is None:
            watch.flow = Flow()
        self._flow_due_s = self.clock.monotonic_s() + LEASE_S
        self._look_after()
        self.reply(FlowRead(self.clock.monotonic_s(), watch.flow.counts()))

    def on_find_hops(self, message: FindHops) -> None:
        self.reply(HopsFound(tuple(self._watch.hops(message.id)), self._watch.hops_known()))

    # dead letters

    def on_show_letter(self, message: ShowLetter) -> None:
        letter = self._letter("ShowLetter", message.number)
        if letter is None:
            return
        envelope = letter.envelope
        frame = b"" if envelope is None else encode(envelope)
        fields = () if envelope is None else field_names(envelope.kind)
        size = len(frame)
        if envelope is not None and size > LARGEST_BYTES:
            frame = encode(envelope._replace(body=()))
        self.reply(
            LetterShown(message.number, letter.at_s, letter.reason, letter.traceback, size, frame, fields)
        )

    def on_replay_letter(self, message: ReplayLetter) -> None:
        if not self._allows_faults:
            self._refuse("ReplayLetter", NOT_ALLOWED)
            return
        letter = self._letter("ReplayLetter", message.number)
        if letter is None:
            return
        envelope = letter.envelope
        known = None if envelope is None else kind_named(envelope.kind)
        if envelope is None or known is None:
            what = "no envelope of ours" if envelope is None else f"of a kind unknown here, {envelope.kind!r}"
            self._refuse("ReplayLetter", f"dead letter {message.number} was {what}; it cannot be sent again")
            return
        try:
            again = known.build(*envelope.body)
        except TypeError as exc:
            self._refuse("ReplayLetter", f"the fields of dead letter {message.number} do not fit: {exc}")
            return
        # Whoever asked has given up on it; and a command line is gone.
        sender = "" if process_of(envelope.sender).startswith("cli-") else envelope.sender
        self._send(envelope.to, again, sender, envelope.kind)

    # sending

    def on_send_message(self, message: SendMessage) -> None:
        if not self._allows_faults:
            self._refuse("SendMessage", NOT_ALLOWED)
            return
        known = [sight.address for sight in self._look()]
        if message.to not in known:
            hint = did_you_mean(message.to, known) or f"; there are {', '.join(known)}"
            self._refuse("SendMessage", f"there is no actor {quoted(message.to)}{hint}")
            return
        try:
            made = make_message(message.kind, message.fields)
        except ConfigError as exc:
            self._refuse("SendMessage", str(exc))
            return
        self._send(message.to, made, message.sender, message.kind)

    def _send(self, to: str, what: object, sender: str, kind: str) -> None:
        log.warning("an inspector sends %s to %s", kind, to)
        self.reply(MessageSent(self.context.send(to, what, sender=sender), to, kind))

    # who looks

    def on_lease_due(self, message: LeaseDue) -> None:
        self._is_looking_after = False
        now_s = self.clock.monotonic_s()
        over = [number for number, tapping in self._tapping.items() if tapping.tap.due_s <= now_s]
        for number in over:
            tap = self._tapping[number].tap
            if tap.is_dozing:
                del self._tapping[number]
            else:
                log.info("an inspector has not read its tap for %g s; what comes is counted", LEASE_S)
                tap.doze()
                tap.due_s = now_s + COUNTED_S
        if self._watch.flow is not None and self._flow_due_s <= now_s:
            self._watch.flow = None
        if over:
            self._taps_changed()
        self._look_after()

    def _taps_changed(self) -> None:
        self._watch.taps = tuple(tapping.tap for tapping in self._tapping.values())
        self._look_after()

    def _look_after(self) -> None:
        """Watch as long as somebody looks, and a moment longer; forget later what was seen."""
        now_s = self.clock.monotonic_s()
        if self._tapping or self._watch.flow is not None:
            self._idle_since_s = 0.0
            self._observe(self._watch)
        elif not self._idle_since_s:
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s >= HOPS_KEPT_S:
            self._watch.forget_hops()
            return
        elif now_s - self._idle_since_s >= LINGER_S:
            self._observe(None)
        if not self._is_looking_after:
            self._is_looking_after = True
            self.set_timer(LOOK_S, LeaseDue())

    def _letter(self, asked: str, number: int) -> DeadLetter | None:
        letters = dict(self._letters.numbered())
        if number not in letters:
            kept = f"{min(letters)} to {max(letters)} are kept" if letters else "there is none"
            self._refuse(asked, f"there is no dead letter {number} of this process; {kept}")
            return None
        return letters[number]

    def _refuse(self, asked: str, reason: str) -> None:
        self.reply(RequestFailed(asked, self.address, reason))
