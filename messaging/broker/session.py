"""The state of one client at the broker, whether it is connected or not.

    unsent ──PUBLISH──→ in flight ──PUBACK (QoS 1)──────────────────────────→ done
                        in flight ──PUBREC (QoS 2)──→ released ──PUBCOMP───→ done

Messages keep their packet id from the moment they are queued, so that what is on disk is what is sent, again
too. All of a session is in memory; what a persistent one must not lose is noted in the journal.

Source: OASIS MQTT 3.1.1 sections 3.1.2.4, 4.3, 4.4 and 4.6
"""

from __future__ import annotations

from collections.abc import Iterable

from messaging.broker.delivery import Body, Outgoing, Outlet, PacketIds, Run
from messaging.broker.journal import Journal
from messaging.broker.limits import FIRST_PACKET_ID, LAST_PACKET_ID, MOST_IN_FLIGHT, MOST_QUEUED_BYTES, Limits
from messaging.broker.waiting import Waiting
from messaging.mqtt.packets import Publish, PubRel

UNREAD_GRACE_S = 1.0  # for which what a subscriber does not take is held against publishers, not dropped


class Shared:
    """What the sessions of a broker have in common."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.window = limits.window
        self.most_queued = min(limits.max_queued or MOST_IN_FLIGHT, MOST_IN_FLIGHT)
        self.journal = Journal()
        self.packet_ids = PacketIds()
        self.queued_bytes = 0  # of all sessions together
        self.sent = [0, 0, 0]  # messages at QoS 0, 1 and 2, to all sessions there ever were …
        self.dropped = 0  # … and those that they did not get
        self.crowded: list[Session] = []  # sessions that cannot keep up, as a batch came upon them
        self.now_s = 0.0  # monotonic


class Session:
    """One client's subscriptions, queue and messages in flight. `number` is 0 for a transient one."""

    def __init__(self, shared: Shared, name: str, number: int = 0) -> None:
        self.name = name
        self.number = number
        self.outlet: Outlet | None = None  # None: its client is away
        self.left_s: float | None = None  # since when, since 1970-01-01 UTC
        self.filters: dict[str, int] = {}  # filter → granted QoS
        self.is_gone = False
        self.hears_itself = True  # whether it gets what it publishes and subscribes to
        self.keeps_all = False  # the limits of one queue are not for it; those of all together are
        self.is_unread = False  # its connection takes no more bytes for now
        self.is_stuck = False  # nothing has moved for a while, so nobody waits for it
        self.moved_s = 0.0  # when it last took something (monotonic)
        self.waiters: set[Outlet] = set()  # publishers that wait until it keeps up
        self.awaiting = 0  # messages on their way to the disk
        self.sent = 0
        self.published = 0
        self.dropped = 0
        self.pending: dict[int, Outgoing] = {}  # packet id → sent or unsent, of QoS 1 and 2, in order
        self.released: dict[int, None] = {}  # packet ids for which PUBREC has come, in that order
        self.unsent = Waiting()
        self.in_flight = 0
        self._has_qos_2 = False  # whether a PUBACK may be for a message that it does not end
        self.incoming: set[int] = set()  # packet ids of QoS 2 PUBLISHes of the client without PUBREL yet
        self.queued_bytes = 0
        self._shared = shared

    @property
    def is_persistent(self) -> bool:
        """Whether it outlives its connection."""
        return self.number != 0

    # messages for the client

    def offer_once(self, run: Run) -> None:
        """Deliver at QoS 0: now, or from memory when the client of a persistent session is back."""
        outlet = self.outlet
        if outlet is None:
            self._queue(run, len(run.messages))
        elif not self.is_unread or not self.is_stuck:
            outlet.put(run)
            self.sent += len(run.messages)
            self._shared.sent[0] += len(run.messages)
            if self.is_unread:
                self._shared.crowded.append(self)
        else:
            self.count_dropped(len(run.messages))

    def offer(self, run: Run) -> None:
        """Deliver at QoS 1 or 2: now as far as the window reaches, the others in their turn."""
        outlet = self.outlet
        count = len(run.messages)
        if (
            outlet is not None
            and not self.unsent
            and self.in_flight + count <= self._shared.window
            and self.pending.keys().isdisjoint(run.by_id)
        ):
            self.pending.update(run.by_id)
            self._has_qos_2 |= run.qos == 2
            self.in_flight += count
            self.sent += count
            self._shared.sent[run.qos] += count
            outlet.put(run)
            return
        self._queue(run, count)
        if outlet is not None:
            self.pump()
            if len(self.unsent) > self._shared.most_queued // 2 and not self.is_stuck:
                self._shared.crowded.append(self)

    def offer_some(self, run: Run, count: int) -> None:
        """Deliver the first messages of a run, the others having found no room."""
        self._queue(run, count)
        if self.outlet is not None:
            self.pump()

    def restore(self, message: Publish, body: Body, packet_id: int, flags: int, *, received: bool) -> None:
        """Take over a message that was on disk when the process started, behind those before it.

        Which of them were sent nobody knows, so what the window has room for counts as sent before.
        """
        again = self.in_flight < self._shared.window or received
        if packet_id in self.pending:  # it was sent under another one; on disk it has that of its run
            packet_id = self._free_id()
        out = Outgoing(message, flags & 3, packet_id, body, retain=bool(flags & 4), is_again=again)
        self.pending[packet_id] = out
        self._has_qos_2 |= out.qos == 2
        if received:
            self.released[packet_id] = None
        if again:
            self.in_flight += 1
        else:
            self.unsent.add(Run.of(out), 0, 1)
            self.queued_bytes += out.size_bytes
            self._shared.queued_bytes += out.size_bytes

    def room(self) -> int:
        """Return how many messages there is room for."""
        shared = self._shared
        most_queued = MOST_IN_FLIGHT if self.keeps_all else shared.most_queued
        room = most_queued - len(self.unsent) - self.awaiting
        if self.outlet is not None:
            room += max(0, shared.window - self.in_flight)
        return room

    def _queue(self, run: Run, count: int) -> None:
        """Let the first messages of a run wait."""
        shared, pending = self._shared, self.pending
        size_bytes = run.size_bytes(0, count)
        most_bytes = 0 if self.keeps_all else shared.limits.max_queued_bytes
        if (
            count == len(run.messages)
            and count <= self.room()
            and shared.queued_bytes + size_bytes <= MOST_QUEUED_BYTES
            and (not most_bytes or self.queued_bytes + size_bytes <= most_bytes)
            and run.qos
            and pending.keys().isdisjoint(run.by_id)
        ):
            pending.update(run.by_id)
            self._has_qos_2 |= run.qos == 2
            self.unsent.add(run, 0, count)
            self.queued_bytes += size_bytes
            shared.queued_bytes += size_bytes
            return
        for at in range(count):
            self._queue_one(run, at)

    def _queue_one(self, run: Run, at: int) -> None:
        shared, out = self._shared, run.outs[at]
        while not self._has_room(out.size_bytes):
            if not shared.limits.drops_oldest or not self.unsent:
                self._drop(out)
                return
            its_run, start, _ = self.unsent.take(1)
            oldest = its_run.outs[start]
            self.queued_bytes -= oldest.size_bytes
            shared.queued_bytes -= oldest.size_bytes
            self.pending.pop(oldest.packet_id, None)
            self._drop(oldest)
        if out.qos:
            if out.packet_id in self.pending:
                out = out.under(self._free_id())
                run, at = Run.of(out), 0
                if out.body is not None and self.number:
                    shared.journal.rename(self.number, out.body, out.packet_id)
            self.pending[out.packet_id] = out
            self._has_qos_2 |= out.qos == 2
        self.unsent.add(run, at, at + 1)
        self.queued_bytes += out.size_bytes
        shared.queued_bytes += out.size_bytes

    def _has_room(self, size_bytes: int) -> bool:
        shared = self._shared
        most_bytes = 0 if self.keeps_all else shared.limits.max_queued_bytes
        return (
            self.room() > 0
            and len(self.pending) < MOST_IN_FLIGHT
            and shared.queued_bytes + size_bytes <= MOST_QUEUED_BYTES
            and (not most_bytes or self.queued_bytes + size_bytes <= most_bytes)
        )

    def _drop(self, out: Outgoing) -> None:
        self.count_dropped(1)
        if out.body is not None and self.number:
            self._shared.journal.done(self.number, out.body)

    def count_dropped(self, count: int) -> None:
        """Count messages that it does not get."""
        self.dropped += count
        self._shared.dropped += count

    def _free_id(self) -> int:
        packet_id = self._shared.packet_ids.take(1)
        while packet_id in self.pending:
            packet_id = packet_id + 1 if packet_id < LAST_PACKET_ID else FIRST_PACKET_ID
        return packet_id

    def pump(self) -> None:
        """Send what the window has room for; at QoS 0 nothing takes room."""
        outlet, unsent, shared = self.outlet, self.unsent, self._shared
        room = shared.window - self.in_flight
        if outlet is None:
            return
        while room > 0 and unsent.count:
            run, start, stop = unsent.take(room)
            count = stop - start
            if run.qos:
                self.in_flight += count
                room -= count
            size_bytes = run.size_bytes(start, stop)
            self.queued_bytes -= size_bytes
            shared.queued_bytes -= size_bytes
            self.sent += count
            shared.sent[run.qos] += count
            outlet.put_part(run, start, stop)
        if self.waiters and unsent.count <= shared.most_queued // 4:
            self.let_go()

    def resume(self) -> None:
        """Send again what was in flight [MQTT-4.4.0-1], then what waits."""
        outlet = self.outlet
        assert outlet is not None
        sent = list(self.pending.values())[: self.in_flight]
        again = [out for out in sent if out.packet_id not in self.released]
        if again:
            outlet.put_again(again)
        if self.released:
            outlet.put_bytes(b"".join([PubRel(packet_id).encode() for packet_id in self.released]))
        self.pump()

    # what the client says of them

    def acknowledged(self, packet_ids: Iterable[int]) -> None:
        """PUBACK: these are the client's now."""
        pending, number = self.pending, self.number
        if not number and not self._has_qos_2:  # nothing to look at
            before, pop = len(pending), pending.pop
            for packet_id in packet_ids:
                pop(packet_id, None)
            self._moved(before - len(pending))
            return
        count = 0
        for packet_id in packet_ids:
            out = pending.get(packet_id)
            if out is not None and out.qos == 1:
                del pending[packet_id]
                count += 1
                if number and out.body is not None:
                    self._shared.journal.done(number, out.body)
        self._moved(count)

    def received(self, packet_id: int) -> None:
        """PUBREC: the client has it, and is told to release its packet id once that is sure to be known."""
        out = self.pending.get(packet_id)
        release = PubRel(packet_id).encode()
        if out is not None and out.qos == 2 and packet_id not in self.released:
            self.released[packet_id] = None
            if out.body is not None and self.number:
                journal = self._shared.journal
                journal.received(self.number, out.body)
                journal.when_written(lambda problem: self._release(packet_id, release, problem))
                return
        self._release(packet_id, release, "")

    def _release(self, packet_id: int, release: bytes, problem: str) -> None:
        """Send PUBREL; without it on disk, the client gets it when it is back, for its PUBREC is not lost."""
        if self.outlet is not None and not problem:
            self.outlet.put_bytes(release)

    def completed(self, packet_id: int) -> None:
        """PUBCOMP: it is done."""
        if packet_id in self.released:
            del self.released[packet_id]
            self._finish(packet_id)
            self._moved(1)

    def finished(self, packet_ids: Iterable[int]) -> None:
        """A participant without packets has these, whatever their QoS."""
        count = 0
        for packet_id in packet_ids:
            if packet_id in self.pending:
                self._finish(packet_id)
                count += 1
        self._moved(count)

    def _finish(self, packet_id: int) -> None:
        out = self.pending.pop(packet_id)
        if out.body is not None and self.number:
            self._shared.journal.done(self.number, out.body)

    def _moved(self, count: int) -> None:
        if count:
            self.in_flight = max(0, self.in_flight - count)
            self.moved_s = self._shared.now_s
            self.is_stuck = False
            if self.unsent.count:
                self.pump()

    # who waits for it

    def let_go(self) -> None:
        """Nobody has to wait for it any longer."""
        waiters, self.waiters = self.waiters, set()
        for outlet in waiters:
            outlet.blocked_by.discard(self)
            if not outlet.blocked_by:
                outlet.release()

    def look(self, now_s: float) -> None:
        """Find out whether it is stuck: publishers wait for who is slow, not for who stands still."""
        if (self.is_unread or self.waiters) and now_s - self.moved_s > UNREAD_GRACE_S:
            self.is_stuck = True
            self.let_go()

    def forget_queue(self) -> list[Body]:
        """Empty it; return what it held on disk."""
        self._shared.queued_bytes -= self.queued_bytes
        self.queued_bytes = 0
        bodies = [out.body for out in self.pending.values() if out.body is not None]
        self.pending.clear()
        self.unsent.clear()
        self.released.clear()
        self.in_flight = 0
        return bodies
