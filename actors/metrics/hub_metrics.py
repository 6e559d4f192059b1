"""The metrics of edgeHub, by what happens in it. Shared by the actors of the hub process; outlives restarts.

What happens often is told once for a batch or a run, with their counts.

Source: spec sheet observability.md section 2; where it has no word, the comment says so
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from actors.hub.c2d_queues import is_c2d_queue
from actors.hub.trail import Way
from actors.metrics.registry import Registry
from actors.metrics.window import Window
from actors.store.stored import Match, Run, Segment, bodies_bytes, priority_of, rank_of, seq_of
from messaging import system_properties as names
from messaging.clock import SystemClock
from messaging.errors import EnvelopeError
from messaging.identity import Identity
from messaging.message import Message, decode_header, sender_of
from messaging.upstream_queues import UPSTREAM, endpoint_of

REMEMBERED_HEADERS: Final = 4096
LONGEST_REMEMBERED_BYTES: Final = 2048
MOST_TIMES: Final = 4096  # of commits that are remembered; beyond, every second one is forgotten

TO_UPSTREAM: Final = "upstream"
# With their leading blanks, as dashboards know them.
RETRY_TO_CLOUD: Final = " SendMessageToCloud"
RETRY_TO_MODULE: Final = " SendMessageToModule"
GET_TWIN: Final = "GetTwin"
UPDATE_REPORTED: Final = "UpdateReportedProperties"

_ROUTE: Final = ("from", "to", "from_route_output", "to_route_input")
_index_of = itemgetter(0)


class Facts(NamedTuple):
    """What the labels of a message are made of."""

    kinds: tuple[tuple[str, str], ...]  # one: its sender, and the output that it came from
    properties_bytes: int  # names and values of the application's

    @property
    def kind(self) -> tuple[str, str]:
        """Sender and output."""
        return self.kinds[0]


class Flight(NamedTuple):
    """A run that was sent to its consumer: whose messages they are."""

    sent_s: float
    kinds: tuple[tuple[str, str], ...]  # (sender, output)
    indices: Sequence[int] | None  # for each message which of the kinds; None: there is one


class Arrived(NamedTuple):
    """Consecutive messages of a run that have arrived."""

    flight: Flight
    offset: int  # of the first in its run
    first_position: int
    length: int


def facts_of(message: Message) -> Facts:
    """Return the facts of a message."""
    output = message.system_properties.get(names.OUTPUT_NAME) or ""
    size = sum(len(name) + len(value or "") for name, value in message.properties.items())
    return Facts(((sender_of(message.system_properties), output),), size)


def destination(queue_id: str) -> tuple[str, str] | None:
    """Return the labels `to` and `to_route_input` of a queue; None for one that no route leads to."""
    if is_c2d_queue(queue_id):
        return None
    endpoint_id = endpoint_of(queue_id)
    if endpoint_id == UPSTREAM:
        return TO_UPSTREAM, ""
    device, _, rest = endpoint_id.partition("/")
    module, _, name = rest.partition("/")
    return f"{device}/{module}", name


class _Out(NamedTuple):
    """What is counted of messages of one kind on their way out of one queue."""

    sent: list[float]
    send_s: Window
    process_s: Window


class HubMetrics:
    """What is counted in the hub. Everything on messages belongs to the thread of router and store."""

    def __init__(self, registry: Registry, iothub: str = "") -> None:
        """Take where to count; `iothub` is the host name of the IoT Hub."""
        self.registry = registry
        self.is_on = registry.is_on
        self._iothub = iothub
        self._monotonic_s = registry.clock.monotonic_s
        self._known: dict[bytes, Facts] = {}
        # What is counted into, found by what is at hand. Cleared when they grow; the series stay.
        self._received_cells: dict[tuple[str, str], list[float]] = {}
        self._size_windows: dict[str, Window] = {}
        self._out: dict[tuple[str, tuple[str, str], int], _Out] = {}
        self._destinations: dict[str, tuple[str, str] | None] = {}
        self._seqs: list[int] = []  # the first of a commit …
        self._stored_s: list[float] = []  # … and when that was, monotonic
        self.lanes: set[tuple[str, int]] = set()  # endpoint and priority of what was ever stored
        self._seen_matches: set[tuple[Match, ...]] = set()
        self._link_changed_s = registry.clock.monotonic_s()  # a link that was never up is down from the start
        self._link_is_up = False
        counter, gauge = registry.counter, registry.gauge
        histogram, duration = registry.histogram, registry.duration
        self._get_twin = counter("edgehub_gettwin", "Twins asked for", ("source", "id"), ms="True")
        self._get_twin_s = duration("edgehub_gettwin_duration", "Time for a twin", ("source", "id"))
        self._received = counter(
            "edgehub_messages_received", "Messages received from clients", ("id", "route_output"), ms="True"
        )
        self._sent = counter(
            "edgehub_messages_sent", "Messages sent to modules or the cloud", (*_ROUTE, "priority"), ms="True"
        )
        self._reported = counter(
            "edgehub_reported_properties", "Updates of reported properties", ("target", "id"), ms="True"
        )
        self._reported_s = duration(
            "edgehub_reported_properties_update_duration",
            "Time for an update of reported properties",
            ("target", "id"),
        )
        self._size = histogram("edgehub_message_size_bytes", "Bytes of messages from clients", ("id",))
        self._send_s = duration("edgehub_message_send_duration", "From sending to acknowledgement", _ROUTE)
        self._process_s = duration(
            "edgehub_message_process_duration",
            "From storing to acknowledgement",
            ("from", "to", "priority"),
            ms="True",
        )
        self._method_s = duration(
            "edgehub_direct_method_duration", "Time for a direct method", ("from", "to")
        )
        self._methods = counter("edgehub_direct_methods", "Direct methods called", ("from", "to"), ms="True")
        self._dropped = counter(
            "edgehub_messages_dropped", "Messages dropped", ("reason", "from", "from_route_output"), ms="True"
        )
        self._unack = counter(
            "edgehub_messages_unack",
            "Messages not acknowledged",
            ("reason", "from", "from_route_output"),
            ms="True",
        )
        self._offline = counter("edgehub_offline_count", "Times the cloud was lost", ("id",), ms="True")
        self._offline_s = duration("edgehub_offline_duration", "Time without the cloud", ("id",), ms="True")
        self._retry = counter(
            "edgehub_operation_retry", "Operations repeated", ("id", "operation"), ms="True"
        )
        self._connect_failed = counter(
            "edgehub_client_connect_failed", "Clients refused", ("id", "reason"), ms="True"
        )
        self._clients = gauge("edgehub_connected_clients", "Clients that are connected")
        self._connects = counter("edgehub_client_connect_success", "Connections of clients", ("id",))
        self._disconnects = counter("edgehub_client_disconnect", "Ends of connections of clients", ("id",))

    # messages

    def saw(self, header: bytes, message: Message) -> None:
        """Take note of a message while it is decoded; the body does not matter."""
        if self.is_on and header not in self._known:
            self._know(header, facts_of(message))

    def _know(self, header: bytes, facts: Facts) -> Facts:
        if len(header) <= LONGEST_REMEMBERED_BYTES:
            if len(self._known) >= REMEMBERED_HEADERS:
                self._known.clear()
            self._known[header] = facts
        return facts

    def _facts(self, header: bytes) -> Facts:
        known = self._known.get(header)
        if known is not None:
            return known
        try:
            return self._know(header, facts_of(decode_header(header, b"")))
        except EnvelopeError:
            return Facts((("", ""),), 0)

    def received(
        self, identity: str, ways: Sequence[tuple[bytes, Way]], entries: Sequence[tuple[int, bytes]]
    ) -> None:
        """The router has a batch of a client."""
        if not self.is_on or not entries:
            return
        length = len(entries)
        total = bodies_bytes(entries)
        counts = {0: length} if len(ways) == 1 else Counter(map(_index_of, entries))
        for index, count in counts.items():
            header, way = ways[index]
            facts = self._facts(header)
            total += count * facts.properties_bytes
            _, output = facts.kinds[0]
            cell = self._received_cells.get((identity, output))
            if cell is None:
                cell = self._new_cell(identity, output)
            cell[0] += count
            if not way.matches:
                self._dropped.add(("no_route", identity, output), count)
        window = self._size_windows.get(identity)
        if window is None:
            window = self._new_window(identity)
        window.observe(total / length, length, total, self._monotonic_s())

    def _new_cell(self, identity: str, output: str) -> list[float]:
        if len(self._received_cells) >= REMEMBERED_HEADERS:
            self._received_cells.clear()
        cell = self._received_cells[identity, output] = self._received.cell((identity, output))
        return cell

    def _new_window(self, identity: str) -> Window:
        if len(self._size_windows) >= REMEMBERED_HEADERS:
            self._size_windows.clear()
        window = self._size_windows[identity] = self._size.window((identity,))
        return window

    def stored(self, first_seq: int, segments: Iterable[Segment]) -> None:
        """These were just committed, with this number and the ones that follow."""
        if self.is_on:
            for segment in segments:
                if segment.matches not in self._seen_matches:
                    self._see(segment.matches)
            if len(self._seqs) >= MOST_TIMES:
                del self._seqs[::2], self._stored_s[::2]
            self._seqs.append(first_seq)
            self._stored_s.append(self._monotonic_s())

    def _see(self, matches: tuple[Match, ...]) -> None:
        if len(self._seen_matches) >= REMEMBERED_HEADERS:
            self._seen_matches.clear()
        self._seen_matches.add(matches)
        for queue_id, priority, _ in matches:
            if not is_c2d_queue(queue_id):
                self.lanes.add((endpoint_of(queue_id), priority))

    def not_stored(self, headers: Iterable[bytes], entries: Sequence[tuple[int, bytes]]) -> None:
        """A batch could not be stored."""
        if self.is_on:
            counts = Counter(map(_index_of, entries))
            for index, header in enumerate(headers):
                facts = self._facts(header)
                self._unack.add(("storage_failure", *facts.kind), counts[index])

    def expired(self, due: Iterable[tuple[bytes, int]]) -> None:
        """Messages are deleted because their time is over: headers and how many."""
        for header, count in due:
            facts = self._facts(header)
            self._dropped.add(("ttl_expiry", *facts.kind), count)

    def flight(self, queue_id: str, run: Run, now_s: float) -> Flight | None:
        """Return what to remember of a run that is sent; None when it is not counted."""
        if not self.is_on or self._destination(queue_id) is None:
            return None
        headers = run.headers
        if len(headers) == 1:
            return Flight(now_s, self._facts(headers[0]).kinds, None)
        kinds = [self._facts(header).kind for header in headers]
        distinct = tuple(dict.fromkeys(kinds))
        if len(distinct) == 1:
            return Flight(now_s, distinct, None)
        places = {kind: place for place, kind in enumerate(distinct)}
        numbers = [places[kind] for kind in kinds]
        return Flight(now_s, distinct, [numbers[index] for index, _ in run.entries])

    def arrived(self, queue_id: str, parts: Iterable[Arrived], now_s: float) -> None:
        """A consumer has messages of runs that were sent to it."""
        for flight, offset, position, length in parts:
            if flight.indices is None:
                self._arrived(queue_id, flight.kinds[0], flight.sent_s, position, length, now_s)
                continue
            for index, count in Counter(flight.indices[offset : offset + length]).items():
                self._arrived(queue_id, flight.kinds[index], flight.sent_s, position, count, now_s)

    def _arrived(
        self, queue_id: str, kind: tuple[str, str], sent_s: float, position: int, count: int, now_s: float
    ) -> None:
        key = (queue_id, kind, rank_of(position))
        out = self._out.get(key)
        if out is None:
            if len(self._out) >= REMEMBERED_HEADERS:
                self._out.clear()
            out = self._out[key] = self._new_out(queue_id, kind, position)
        out.sent[0] += count
        out.send_s.observe(now_s - sent_s, count, (now_s - sent_s) * count, now_s)
        stored_s = self._when_stored(seq_of(position))
        if stored_s is not None:
            out.process_s.observe(now_s - stored_s, count, (now_s - stored_s) * count, now_s)

    def _new_out(self, queue_id: str, kind: tuple[str, str], position: int) -> _Out:
        (sender, output), (to, to_input) = kind, self._destination(queue_id) or ("", "")
        priority = str(priority_of(position))
        return _Out(
            self._sent.cell((sender, to, output, to_input, priority)),
            self._send_s.window((sender, to, output, to_input)),
            self._process_s.window((sender, to, priority)),
        )

    def _destination(self, queue_id: str) -> tuple[str, str] | None:
        try:
            return self._destinations[queue_id]
        except KeyError:
            if len(self._destinations) >= REMEMBERED_HEADERS:
                self._destinations.clear()
            found = self._destinations[queue_id] = destination(queue_id)
            return found

    def _when_stored(self, seq: int) -> float | None:
        """Return when a message was stored, None when that was before this process or is forgotten."""
        at = bisect_right(self._seqs, seq) - 1
        return None if at < 0 else self._stored_s[at]

    # clients

    def connected(self, identity: str, clients: int) -> None:
        """A client has connected; so many are connected now."""
        self._connects.add((self._in_words(identity),))
        self._clients.set(clients)

    def disconnected(self, identity: str, clients: int) -> None:
        """A client is not connected any more."""
        self._disconnects.add((self._in_words(identity),))
        self._clients.set(clients)

    def refused(self, identity: str) -> None:
        """Somebody could not prove to be this client."""
        self._connect_failed.add((identity, "not_authenticated"))

    def _in_words(self, identity: str) -> str:
        device, _, module = identity.partition("/")
        named = f"DeviceId: {device}; ModuleId: {module}" if module else f"DeviceId: {device}"
        return f"{named} [IotHubHostName: {self._iothub}]"

    # twins, methods, the cloud

    def twin_told(self, source: str, identity: str, took_s: float) -> None:
        """A twin was told: by `edge_hub` to a client, or by `upstream` to the hub."""
        self._get_twin.add((source, identity))
        self._get_twin_s.observe(max(0.0, took_s), (source, identity))

    def reported(self, target: str, identity: str, took_s: float) -> None:
        """Reported properties were updated at `edge_hub` or `upstream`."""
        self._reported.add((target, identity))
        self._reported_s.observe(max(0.0, took_s), (target, identity))

    def method_called(self, caller: str, target: str, took_s: float) -> None:
        """A direct method was called, whatever came of it."""
        self._methods.add((caller, target))
        self._method_s.observe(max(0.0, took_s), (caller, target))

    def link_changed(self, device_id: str, is_up: bool) -> None:
        """The cloud is there, or is not any more."""
        if is_up == self._link_is_up:
            return
        hub, now_s = (Identity.edge_hub(device_id).id,), self.registry.clock.monotonic_s()
        self._link_is_up = is_up
        if is_up:
            self._offline_s.observe(now_s - self._link_changed_s, hub)
        else:
            self._offline.add(hub)
        self._link_changed_s = now_s

    def repeated(self, identity: str, operation: str) -> None:
        """An operation is tried again."""
        self._retry.add((identity, operation))


OFF: Final = HubMetrics(Registry(SystemClock(), is_on=False))
