"""The broker without I/O: who subscribed to what, who gets which message, what has to be on disk.

A connection *attaches* as a session, with an outlet for what it is to get. What one read of it brought is one
`publish`; then `flush` hands over, once for each subscriber, whatever is to be sent. Methods that return
whether the disk is involved leave it to the caller to wait for that (`journal.when_written`) before it
acknowledges.

**Order.** To a transient session, and at QoS 0, messages go at once. To a persistent one those of QoS 1 and 2
go when they are on disk, all of them in the order in which they came: so nothing is delivered that a crash
would deliver again under another packet id.

**Who is slow** holds up who publishes to it, for as long as it moves at all; who stands still for a second
does not, and its queue follows the limits of `when_full`. Nobody is held up by its own queue, nor by one that
cannot move because it is held up itself.

Who may do what is not decided here. Source: OASIS MQTT 3.1.1; spec sheet broker.md sections 2, 9 and 11
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from messaging.broker.delivery import Body, Outlet, Run
from messaging.broker.journal import Changes, Journal, Kept, Then, decode_message, encode_message
from messaging.broker.limits import DEFAULT_LIMITS, Limits
from messaging.broker.retained import RetainedMessages
from messaging.broker.routes import LONGEST_REMEMBERED, Routes
from messaging.broker.session import Session, Shared
from messaging.mqtt.packets import Publish

# Clients choose topics, so what is remembered of them is bounded.
COUNTED_TOPICS: Final = 1000
MOST_IN_RUN: Final = 512


class Counts(Struct, frozen=True):
    """What the broker has done since it started."""

    published: tuple[int, ...]  # at QoS 0, 1 and 2
    sent: tuple[int, ...]  # likewise
    dropped: int
    not_retained: int


class Broker:
    """The topics of one hub. Not thread-safe; times are passed in, `now_s` since 1970-01-01 UTC."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._shared = Shared(limits)
        self.retained = RetainedMessages(limits)
        self._routes = Routes()
        self._sessions: dict[str, Session] = {}
        self._touched: list[Outlet] = []
        self._looked_at: set[Session] = set()  # sessions that may be stuck
        self.published_to: dict[str, int] = {}  # topic → messages, of the first ones
        self._published = [0, 0, 0]  # at QoS 0, 1 and 2
        self._not_retained = 0

    @property
    def journal(self) -> Journal:
        """What has to be written."""
        return self._shared.journal

    # life

    def load(self, kept: Kept, now_s: float) -> None:
        """Take over what is on disk, in an empty broker. What nobody holds any more is removed."""
        journal = self.journal
        journal.start(
            max(kept.bodies, default=0) + 1, max((number for number, _, _ in kept.sessions), default=0) + 1
        )
        by_number: dict[int, Session] = {}
        for number, name, left_s in kept.sessions:
            session = Session(self._shared, name, number)
            session.left_s = now_s if left_s is None else left_s
            by_number[number] = self._sessions[name] = session
            journal.note_session(number, name, session.left_s)
        for number, packet_id in kept.incoming:
            if number in by_number:
                by_number[number].incoming.add(packet_id)
        self._load_queues(kept, by_number)
        loaded = [decode_message(record) for record in kept.retained.values()]
        for message, at_s in sorted(loaded, key=lambda pair: pair[1]):
            self.retained.put(message, at_s)

    def _load_queues(self, kept: Kept, by_number: dict[int, Session]) -> None:
        bodies: dict[int, tuple[Publish, Body]] = {}
        if kept.queued:
            _, _, last_id, _, _ = max(kept.queued, key=lambda row: row[1])
            self._shared.packet_ids.go_on_after(last_id)
        for number, seq, packet_id, flags, received in kept.queued:
            session, record = by_number.get(number), kept.bodies.get(seq)
            if session is None or record is None:
                continue
            if seq not in bodies:
                bodies[seq] = decode_message(record)[0], Body(seq)
            message, body = bodies[seq]
            body.holders += 1
            session.restore(message, body, packet_id, flags, received=received)
        self.journal.forget_bodies(seq for seq in kept.bodies if seq not in bodies)

    def sessions(self) -> Collection[Session]:
        """Return all sessions, those of clients that are away too."""
        return self._sessions.values()

    def session(self, name: str) -> Session | None:
        """Return the session of a client."""
        return self._sessions.get(name)

    def counts(self) -> Counts:
        """Return what was done so far."""
        return Counts(
            tuple(self._published), tuple(self._shared.sent), self._shared.dropped, self._not_retained
        )

    # sessions

    def attach(self, name: str, outlet: Outlet, *, clean: bool, now_s: float) -> tuple[Session, bool]:
        """Connect a client; return its session, and whether there was one that goes on.

        The connection before has to be detached. What is owed to the client is sent by `resume`, which the
        caller calls when the client may be sent something.
        """
        session = self._sessions.get(name)
        if session is not None and (clean or not session.is_persistent):
            self.drop(session)
            session = None
        present = session is not None
        if session is None:
            number = 0 if clean else self.journal.new_session(name)
            session = self._sessions[name] = Session(self._shared, name, number)
        elif session.left_s is not None:
            self.journal.note_session(session.number, name, None)
        session.left_s = None
        session.is_unread = session.is_stuck = False
        outlet.touched = self._touched
        session.outlet = outlet
        return session, present

    def restore(self, name: str, filters: Mapping[str, int], now_s: float) -> Session:
        """Bring back a persistent session whose client is away, with its subscriptions."""
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session(self._shared, name, self.journal.new_session(name))
            session.left_s = now_s
            self.journal.note_session(session.number, name, now_s)
        for topic_filter, qos in filters.items():
            self._subscribe(session, topic_filter, qos)
        return session

    def detach(self, session: Session, now_s: float) -> None:
        """The connection is gone. A transient session ends with it."""
        outlet, session.outlet = session.outlet, None
        if outlet is None:
            return
        for other in outlet.blocked_by:
            assert isinstance(other, Session)
            other.waiters.discard(outlet)
        outlet.blocked_by.clear()
        if outlet in self._touched:
            self._touched.remove(outlet)
        session.let_go()
        if session.is_persistent and not session.is_gone:
            session.left_s = now_s
            self.journal.note_session(session.number, session.name, now_s)
        else:
            self.drop(session)

    def drop(self, session: Session) -> None:
        """End a session and forget all of it, whether its client is there or not."""
        if session.is_gone:
            return
        session.is_gone = True
        session.let_go()
        self._looked_at.discard(session)
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
        if session.filters:
            self._routes.remove_all(session)
            session.filters = {}
        bodies = session.forget_queue()
        if session.number:
            self.journal.drop_session(session.number)
            for body in bodies:
                self.journal.let_go(body)

    def resume(self, session: Session) -> None:
        """Send a client that has come back what it is owed."""
        session.resume()

    def unread(self, session: Session, now_s: float) -> None:
        """The client does not read what it is sent."""
        session.is_unread = True
        session.moved_s = now_s
        self._looked_at.add(session)

    def read_again(self, session: Session) -> None:
        """It does again."""
        session.is_unread = session.is_stuck = False
        session.let_go()

    def tick(self, now_s: float, monotonic_s: float) -> list[str]:
        """Look for who stands still, and for what has expired; return whose sessions have ended for that.

        Once a second or so.
        """
        self._shared.now_s = monotonic_s
        for session in list(self._looked_at):
            session.look(monotonic_s)
            if not session.waiters and not session.is_unread:
                self._looked_at.discard(session)
        for topic in self.retained.expired(now_s):
            self._unretain(topic)
        before_s = now_s - self.limits.session_expiry_s
        late = [s for s in self._sessions.values() if s.left_s is not None and s.left_s < before_s]
        for session in late:
            self.drop(session)
        return [session.name for session in late]

    # subscriptions

    def subscribe(self, session: Session, topic_filter: str, qos: int, now_s: float) -> bool:
        """Subscribe to a valid filter, and send the retained messages that it matches [MQTT-3.3.1-6].

        Returns whether some of these have to be written first; they follow by themselves.
        """
        self._subscribe(session, topic_filter, qos)
        by_qos: dict[int, list[Publish]] = {}
        for message in self.retained.matching(topic_filter):
            by_qos.setdefault(min(message.qos, qos), []).append(message)
        waits = False
        for effective, messages in by_qos.items():
            for at in range(0, len(messages), MOST_IN_RUN):
                waits |= self._deliver_retained(session, messages[at : at + MOST_IN_RUN], effective)
        return waits

    def _deliver_retained(self, session: Session, messages: list[Publish], qos: int) -> bool:
        if not qos:
            session.offer_once(Run(messages, 0, 0, retain=True))
            return False
        persistent = [session] if session.is_persistent else []
        transient = [] if session.is_persistent else [session]
        return self._deliver(messages, qos, transient, persistent, None, retain=True)

    def _subscribe(self, session: Session, topic_filter: str, qos: int) -> None:
        self._routes.subscribe(session, topic_filter, qos)
        session.filters[topic_filter] = qos

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """Remove the subscription with exactly this filter; what is in flight or queued is still sent."""
        if session.filters.pop(topic_filter, None) is not None:
            self._routes.unsubscribe(session, topic_filter)

    # messages

    def publish(
        self, messages: Sequence[Publish], sender: Session | None, now_s: float, monotonic_s: float
    ) -> bool:
        """Deliver what a client published; returns whether its acknowledgement has to wait for the disk.

        A QoS 2 message whose packet id waits for PUBREL already is the same once more, and goes nowhere
        [MQTT-4.3.3-2]. Topics are valid.
        """
        shared = self._shared
        shared.now_s = monotonic_s
        shared.crowded.clear()
        waits = False
        if sender is not None:
            sender.published += len(messages)
            if any(message.qos == 2 for message in messages):
                messages, waits = self._first_time(messages, sender)
        at, count = 0, len(messages)
        while at < count:
            first = messages[at]
            topic, qos = first.topic, first.qos
            end = at + 1
            last = min(count, at + MOST_IN_RUN)
            while end < last and messages[end].topic == topic and messages[end].qos == qos:
                end += 1
            part = messages[at:end] if end - at < count else messages
            self._published[qos] += end - at
            self._count(topic, end - at)
            if any(message.retain for message in part):
                self._retain(part, now_s)
                waits = True
            outlet = sender.outlet if sender is not None else None
            for effective, transient, persistent in self._routes.to(topic).ways(qos):
                if sender is not None and not sender.hears_itself:
                    transient = [session for session in transient if session is not sender]
                    persistent = [session for session in persistent if session is not sender]
                if not effective:
                    run = Run(part, 0, 0)
                    for session in transient:
                        session.offer_once(run)
                else:
                    waits |= self._deliver(part, effective, transient, persistent, outlet)
            at = end
        if shared.crowded and sender is not None and sender.outlet is not None:
            self._hold(sender.outlet)
        return waits

    def _deliver(
        self,
        messages: Sequence[Publish],
        qos: int,
        transient: list[Session],
        persistent: list[Session],
        outlet: Outlet | None,
        *,
        retain: bool = False,
    ) -> bool:
        """Deliver at QoS 1 or 2; returns whether something has to be on disk first."""
        shared = self._shared
        wanted: list[tuple[Session, int]] = []
        for session in persistent:
            count = (
                len(messages) if shared.limits.drops_oldest else min(len(messages), max(0, session.room()))
            )
            session.count_dropped(len(messages) - count)
            if count:
                wanted.append((session, count))
        bodies = shared.journal.new_bodies(messages) if wanted else ()
        run = Run(messages, qos, shared.packet_ids.take(len(messages)), bodies, retain=retain)
        for session in transient:
            session.offer(run)
        if not wanted:
            return False
        outs = run.outs
        for session, count in wanted:
            shared.journal.queue(session.number, outs[:count])
            session.awaiting += count
        shared.journal.when_written(lambda problem: self._written(run, wanted, outlet, problem))
        return True

    def _written(
        self, run: Run, wanted: list[tuple[Session, int]], outlet: Outlet | None, problem: str
    ) -> None:
        """Messages for persistent sessions are on disk, or will never be."""
        self._shared.crowded.clear()
        for session, count in wanted:
            session.awaiting -= count
            if problem or session.is_gone:
                for out in run.outs[:count]:
                    assert out.body is not None
                    self.journal.let_go(out.body)
            elif count == len(run.outs):
                session.offer(run)
            else:
                session.offer_some(run, count)
        if self._shared.crowded and outlet is not None:
            self._hold(outlet)

    def _first_time(self, messages: Sequence[Publish], sender: Session) -> tuple[list[Publish], bool]:
        """Leave out what was published before, by the packet ids of QoS 2 that wait for PUBREL."""
        kept = []
        waits = False
        for message in messages:
            if message.qos == 2:
                if message.packet_id in sender.incoming:
                    continue
                sender.incoming.add(message.packet_id)
                if sender.number:
                    self.journal.note_incoming(sender.number, message.packet_id, held=True)
                    waits = True
            kept.append(message)
        return kept, waits

    def released(self, sender: Session, packet_id: int) -> bool:
        """PUBREL: the packet id means a new message from now on; returns whether PUBCOMP has to wait."""
        if packet_id not in sender.incoming:
            return False
        sender.incoming.discard(packet_id)
        if sender.number:
            self.journal.note_incoming(sender.number, packet_id, held=False)
        return sender.number != 0

    def _count(self, topic: str, count: int) -> None:
        counted = self.published_to
        known = counted.get(topic)
        if known is not None:
            counted[topic] = known + count
        elif len(counted) < COUNTED_TOPICS and len(topic) <= LONGEST_REMEMBERED:
            counted[topic] = count

    def _retain(self, messages: Sequence[Publish], now_s: float) -> None:
        for message in messages:
            if not message.retain:
                continue
            if not message.payload:
                self._unretain(message.topic)  # [MQTT-3.3.1-10]
            else:
                kept = Publish(message.topic, message.payload, message.qos)
                if self.retained.put(kept, now_s):
                    self.journal.retain(message.topic, encode_message(kept, now_s))
                else:
                    self._not_retained += 1

    def _unretain(self, topic: str) -> None:
        if self.retained.remove(topic):
            self.journal.retain(topic, None)

    def _hold(self, outlet: Outlet) -> None:
        """Have a publisher wait for those who cannot keep up with it."""
        was_free = not outlet.blocked_by
        for session in self._shared.crowded:
            its = session.outlet
            if its is None or its is outlet or its.blocked_by or session.is_stuck:
                continue
            if not session.waiters and not session.is_unread:
                session.moved_s = self._shared.now_s
            session.waiters.add(outlet)
            outlet.blocked_by.add(session)
            self._looked_at.add(session)
        if was_free and outlet.blocked_by:
            outlet.hold()

    def flush(self) -> None:
        """Hand over what is to be sent, once for each client."""
        while self._touched:
            touched = self._touched[:]
            self._touched.clear()
            for outlet in touched:
                outlet.flush()

    # the disk

    def take_changes(self) -> tuple[Changes, list[Then]] | None:
        """Return what is to be written, and who waits for it; None for nothing."""
        return self.journal.take() if self.journal.is_dirty else None

    def written(self, then: list[Then], problem: str = "") -> None:
        """It is written, or why it is not: tell who waits, and send what follows."""
        for tell in then:
            tell(problem)
        self.flush()
