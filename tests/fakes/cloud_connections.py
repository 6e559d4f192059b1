"""An IoT Hub in memory behind the port `actors/upstream/connection.py`, for tests to steer and to look into.

Everything happens in the caller's thread: `open` tells `connected` before it returns. With `hold()` answers
and acknowledgements wait for `release()`, so that a test decides what was on its way when the link broke.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from actors.upstream.connection import CloudAccess, CloudFault, CloudObserver, Fault
from messaging.envelope import Secret
from messaging.errors import IotHubError
from messaging.identity import Identity
from messaging.message import LARGEST_MESSAGE_BYTES, Message
from messaging.topics import Feature
from messaging.twin import Section, merge, patched

GONE = CloudFault(Fault.UNREACHABLE, "the connection was lost")


class MemoryCloud:
    """Implements `CloudConnections`. Identities are `D` or `D/M`, as `str(Identity)` gives them."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []  # telemetry taken, in order, by sender
        self.opened: list[str] = []  # each try to connect
        self.desired: dict[str, Section] = defaultdict(Section)
        self.reported: dict[str, Section] = defaultdict(Section)
        self.answers: dict[str, tuple[int, bytes]] = {}  # request id → status and payload of a method
        self.refusals: dict[str, CloudFault] = {}  # identity → why it is not let in
        self.failures: dict[str, deque[CloudFault]] = defaultdict(deque)  # identity → for its next requests
        self.access: dict[str, CloudAccess] = {}  # as which each identity connected last
        self.c2d: dict[str, deque[Message]] = defaultdict(deque)  # what the cloud has not forgotten
        self.connections: dict[str, MemoryConnection] = {}  # open ones
        self.closed = False
        self._reachable = True
        self._held: deque[tuple[MemoryConnection, Callable[[], None]]] | None = None
        self._probes: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._request_ids = itertools.count(1)

    # the port

    def make(self, access: CloudAccess, observer: CloudObserver) -> MemoryConnection:
        return MemoryConnection(self, access, observer)

    def probe(self, host_name: str, reached: Callable[[], None]) -> None:
        if self._reachable:
            reached()
        else:
            self._probes[host_name].append(reached)

    def close(self) -> None:
        self.closed = True
        self._probes.clear()
        for connection in list(self.connections.values()):
            connection.close()

    # steering

    @property
    def probing(self) -> list[str]:
        """Return the hosts that somebody waits for."""
        return [host for host, waiting in self._probes.items() if waiting]

    def bodies(self, identity: str) -> list[bytes]:
        """Return the bodies of the telemetry taken from an identity, in order."""
        return [message.body for sender, message in self.messages if sender == identity]

    def go_away(self) -> None:
        """Be unreachable, and break every connection."""
        self._reachable = False
        for identity in list(self.connections):
            self.cut(identity)

    def come_back(self) -> None:
        """Be reachable again; whoever probes hears of it."""
        self._reachable = True
        waiting = [reached for each in self._probes.values() for reached in each]
        self._probes.clear()
        for reached in waiting:
            reached()

    def cut(self, identity: str, fault: CloudFault = GONE) -> None:
        """Break the connection of one identity; what it asked and has no answer to has failed."""
        self.connections[identity].end(fault)

    def refuse(self, identity: str, fault: CloudFault) -> None:
        """Let an identity in no longer, and break its connection."""
        self.refusals[identity] = fault
        if identity in self.connections:
            self.cut(identity, fault)

    def hold(self) -> None:
        """Keep what is asked from now on unanswered: telemetry is not taken, nothing is merged."""
        if self._held is None:
            self._held = deque()

    def release(self, count: int | None = None) -> None:
        """Do and answer what was held, in order: all of it, which ends the holding, or the first `count`."""
        held = self._held
        while held and (count is None or count > 0):
            _, work = held.popleft()
            work()
            count = None if count is None else count - 1
        if count is None:
            self._held = None

    def patch_desired(self, identity: str, patch: dict[str, Any]) -> None:
        """Patch desired properties, as the service does."""
        section = self.desired[identity]
        section = self.desired[identity] = Section(merge(section.values, patch), {}, section.version + 1)
        connection = self.connections.get(identity)
        if connection is not None and Feature.DESIRED_PROPERTIES in connection.wanted:
            connection.observer.desired_changed(json.dumps({**patch, "$version": section.version}).encode())

    def call_method(self, identity: str, name: str, payload: bytes = b"null") -> str:
        """Call a method of an identity that is connected and wants that; the answer comes into `answers`."""
        connection = self.connections[identity]
        assert Feature.METHODS in connection.wanted, f"{identity} did not subscribe to methods"
        request_id = str(next(self._request_ids))
        connection.called.add(request_id)
        connection.observer.method_called(request_id, name, payload)
        return request_id

    def send_c2d(self, device_id: str, message: Message) -> None:
        """Send a cloud-to-device message: now, or when the device connects and wants it."""
        self.c2d[device_id].append(message)
        connection = self.connections.get(device_id)
        if connection is not None:
            connection.take_c2d()

    # for the connections

    def connect(self, connection: MemoryConnection) -> CloudFault | None:
        """Let a connection in, or say why not; an older one of that identity ends."""
        identity = connection.identity
        self.opened.append(identity)
        self.access[identity] = connection.access
        if not self._reachable:
            return CloudFault(Fault.UNREACHABLE, f"'{connection.access.host_name}' cannot be reached")
        if identity in self.refusals:
            return self.refusals[identity]
        if identity in self.connections:
            self.cut(identity)
        self.connections[identity] = connection
        return None

    def work(self, connection: MemoryConnection, work: Callable[[], None]) -> None:
        """Do what a connection asks, now or when it is released."""
        if self._held is None:
            work()
        else:
            self._held.append((connection, work))

    def forget(self, connection: MemoryConnection) -> None:
        """Do nothing any more of what a connection asked before it broke."""
        if self._held is not None:
            self._held = deque(held for held in self._held if held[0] is not connection)


class MemoryConnection:
    """Implements `CloudConnection`."""

    def __init__(self, cloud: MemoryCloud, access: CloudAccess, observer: CloudObserver) -> None:
        self.access = access
        self.identity = str(access.identity)
        self.observer = observer
        self.wanted: frozenset[Feature] = frozenset()
        self.called: set[str] = set()  # methods that have no answer yet
        self.is_open = False
        self._is_closed = False
        self._cloud = cloud
        self._asked: dict[int, None] = {}  # numbers without an answer, in order
        self._handed_over: list[Message] = []  # cloud-to-device messages of this connection, not forgotten

    def open(self) -> None:
        if self.is_open or self._is_closed:
            return
        fault = self._cloud.connect(self)
        if fault is not None:
            self.observer.lost(fault)
            return
        self.is_open = True
        self.observer.connected()
        self.take_c2d()

    def want(self, features: frozenset[Feature]) -> None:
        self.wanted = features
        self.take_c2d()

    def send(self, number: int, message: Message) -> None:
        def take() -> bytes:
            self._cloud.messages.append((self.identity, message))
            return b""

        if not self._is_closed and message.size_bytes > LARGEST_MESSAGE_BYTES:
            reason = f"a message of {message.size_bytes} bytes is too large; at most {LARGEST_MESSAGE_BYTES}"
            self.observer.failed(number, CloudFault(Fault.TOO_LARGE, reason, 413))
        else:
            self._ask(number, take)

    def get_twin(self, number: int) -> None:
        def twin() -> bytes:
            cloud = self._cloud
            sections = {"desired": cloud.desired[self.identity], "reported": cloud.reported[self.identity]}
            return json.dumps({name: section.told() for name, section in sections.items()}).encode()

        self._ask(number, twin)

    def patch_reported(self, number: int, patch: bytes) -> None:
        def merged() -> bytes:
            section = self._cloud.reported[self.identity]
            self._cloud.reported[self.identity] = patched("reported", section, json.loads(patch), 0.0)
            return b""

        self._ask(number, merged)

    def answer_method(self, request_id: str, status: int, payload: bytes) -> None:
        if self.is_open and request_id in self.called:
            self.called.discard(request_id)
            self._cloud.answers[request_id] = (status, payload)

    def close(self) -> None:
        self._is_closed = True
        if self.is_open:
            self.is_open = False
            del self._cloud.connections[self.identity]
        self._asked.clear()
        self._cloud.forget(self)

    def end(self, fault: CloudFault) -> None:
        """Lose the connection."""
        self.is_open = False
        self.called.clear()
        self._handed_over.clear()
        del self._cloud.connections[self.identity]
        self._cloud.forget(self)
        asked, self._asked = self._asked, {}
        for number in asked:
            self.observer.failed(number, fault)
        self.observer.lost(fault)

    def take_c2d(self) -> None:
        """Hand over what waits in the cloud and was not handed over on this connection."""
        if not self.is_open or Feature.C2D not in self.wanted:
            return
        for message in list(self._cloud.c2d[self.access.identity.device_id]):
            if not any(message is handed for handed in self._handed_over):
                self._handed_over.append(message)
                self.observer.message_received(message, self._forgetter(message))

    def _forgetter(self, message: Message) -> Callable[[bool], None]:
        handed_over = self._handed_over

        def taken(is_taken: bool) -> None:
            waiting = self._cloud.c2d[self.access.identity.device_id]
            if is_taken and self.is_open and any(message is handed for handed in handed_over):
                kept = [each for each in waiting if each is not message]
                waiting.clear()
                waiting.extend(kept)

        return taken

    def _ask(self, number: int, work: Callable[[], bytes]) -> None:
        if self._is_closed:
            return
        if not self.is_open:
            self.observer.failed(number, CloudFault(Fault.UNREACHABLE, "there is no connection"))
            return
        self._asked[number] = None
        self._cloud.work(self, lambda: self._answer(number, work))

    def _answer(self, number: int, work: Callable[[], bytes]) -> None:
        if number not in self._asked:
            return
        del self._asked[number]
        failures = self._cloud.failures[self.identity]
        if failures:
            self.observer.failed(number, failures.popleft())
            return
        try:
            answer = work()
        except (IotHubError, ValueError) as exc:
            self.observer.failed(number, CloudFault(Fault.REFUSED, str(exc), 400))
        else:
            self.observer.done(number, answer)


def access(client_id: str, host_name: str = "hub.example") -> CloudAccess:
    """Return the access of an identity to a cloud in memory, where keys do not count."""
    return CloudAccess(Identity.parse(client_id), host_name, Secret(b"a2V5"))
