"""Everything that goes over the link of a hub at once, and everybody's books of it.

Modules and a leaf device publish, as unmodified SDK clients; the cloud sends messages to the leaf device,
patches desired properties and calls methods; a module reports. At the end whoever sent something says what it
was, and whoever has to have it says what came.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from messaging.identity import Identity
from tests.integration.linked_hub import LinkedHub
from tests.integration.sdk_clients import SdkPublisher, once
from tests.waiting import wait_until

PUMP: Final = "edge1/pump"
FAN: Final = "edge1/fan"
LEAF: Final = "leaf"
SOURCES: Final = (PUMP, FAN, LEAF)
LIMIT_S: Final = 60.0


class LinkStory:
    """A hub with its link to the cloud, three sources, and the cloud's own wishes."""

    def __init__(self, linked: LinkedHub, per_s: float) -> None:
        self.linked = linked
        self.answered_s: list[float] = []  # from the return of the line to the answer of a method
        self.resumed_s: list[float] = []  # the same to the next message of each source
        self._calls = itertools.count()
        self._changes = 0
        self._c2d: list[str] = []  # as they came
        self._desired: dict[str, Any] = {}  # of the pump, from all patches
        self._publishers = {name: SdkPublisher(linked.hub, name, per_s) for name in SOURCES}
        for name, publisher in self._publishers.items():
            self._answer_methods(name, publisher.client)
        pump, leaf = self._publishers[PUMP].client, self._publishers[LEAF].client
        pump.on_twin_desired_properties_patch_received = self._desired.update
        leaf.on_message_received = lambda message: self._c2d.append(message.data.decode())

    def start(self) -> None:
        """Have everybody connected, and everything of everybody arriving."""
        for publisher in self._publishers.values():
            publisher.start()
        wait_until(lambda: all(self.linked.taken(name) for name in SOURCES), what="a message of each source")
        self.change()
        self.wait_for_changes()
        for name in SOURCES:
            self._call(name)

    @property
    def published(self) -> int:
        """How many messages the hub has acknowledged to all sources."""
        return sum(len(publisher.acknowledged) for publisher in self._publishers.values())

    # while it goes on

    def publish(self, count: int) -> None:
        """Wait until each source has published so many more messages."""
        for publisher in self._publishers.values():
            publisher.wait_for(len(publisher.acknowledged) + count, LIMIT_S)

    def change(self) -> None:
        """Send a message to the leaf device, patch desired properties, report others."""
        linked, number = self.linked, self._changes
        self._changes += 1
        linked.cloud.call(linked.cloud.hub.send_c2d(LEAF, str(number).encode(), {}, {}))
        linked.patch_desired(PUMP, {f"d{number}": number})
        self._publishers[PUMP].client.patch_twin_reported_properties({f"r{number}": number})

    def wait_for_changes(self) -> None:
        """Wait until all of them have come to where they belong."""
        wanted = range(self._changes)
        wait_until(
            lambda: {f"d{n}": n for n in wanted}.items() <= self._desired.items(), "each patch", LIMIT_S
        )
        wait_until(
            lambda: {f"r{n}": n for n in wanted}.items() <= self._reported().items(), "each report", LIMIT_S
        )
        wait_until(
            lambda: once(list(self._c2d)) == [str(n) for n in wanted], "each message for the leaf", LIMIT_S
        )

    def flows(self) -> None:
        """Wait for another message of each source."""
        counts = {name: len(self.linked.taken(name)) for name in SOURCES}
        more = lambda: all(len(self.linked.taken(name)) > counts[name] for name in SOURCES)  # noqa: E731
        self.resumed_s.append(wait_until(more, "a message of each source", LIMIT_S))

    def returned(self) -> None:
        """The line is good again: call a method of everybody, at once, and see that messages come."""
        began_s = time.monotonic()
        with ThreadPoolExecutor() as pool:
            calls = [pool.submit(self._call, name) for name in SOURCES]
            self.flows()
            for call in calls:
                self.answered_s.append(call.result(LIMIT_S) - began_s)

    # in the end

    def end(self) -> None:
        """Compare the books of all."""
        linked = self.linked
        for publisher in self._publishers.values():
            publisher.stop()
        for name, publisher in self._publishers.items():
            wait_until(lambda n=name, p=publisher: self._arrived(n)[-1:] == [p.numbers()[-1]], name, LIMIT_S)
            sent, arrived = publisher.numbers(), self._arrived(name)
            assert not publisher.errors
            assert once(arrived) == sent, f"{name}: lost or out of order"
        self.wait_for_changes()
        wait_until(lambda: (state := linked.state()) and not any(source[6] for source in state.sources))
        for publisher in self._publishers.values():
            publisher.client.shutdown()
        assert linked.hub.stop() == 0
        self._check_ledgers()

    def _check_ledgers(self) -> None:
        """See that the equations hold, here and in the cloud, and that the two tell the same."""
        ledger = self.linked.hub.ledger()
        iothub = ledger.endpoints["iothub"]
        assert ledger.imbalances() == []
        assert iothub.accepted == iothub.delivered == self.published
        assert (iothub.pending, iothub.expired, iothub.dropped) == (0, 0, 0)
        c2d = [row for name, row in ledger.endpoints.items() if name.endswith("$c2d")]
        assert sum(row.pending for row in c2d) == 0
        assert sum(row.delivered for row in c2d) >= self._changes
        cloud = self.linked.cloud
        came = sum(len(self.linked.taken(name)) for name in SOURCES)
        assert cloud.call(cloud.hub.last_sequence_number()) == came >= iothub.delivered

    # helpers

    def _arrived(self, name: str) -> list[int]:
        return [int(body) for body in self.linked.taken(name)]

    def _reported(self) -> dict[str, Any]:
        return dict(self.linked.reported(PUMP))

    def _call(self, name: str) -> float:
        """Call a method; return when it was answered."""
        cloud, wanted = self.linked.cloud, next(self._calls)
        call = cloud.hub.invoke_method(
            Identity.parse(name), "echo", wanted, response_timeout_s=LIMIT_S, connect_timeout_s=LIMIT_S
        )
        result = cloud.start_call(call).result(2 * LIMIT_S)
        assert (result.status, result.payload) == (200, {name: wanted})
        return time.monotonic()

    def _answer_methods(self, name: str, client: Any) -> None:
        def answer(request: Any) -> None:
            from azure.iot.device import MethodResponse

            payload = {name: request.payload}
            client.send_method_response(MethodResponse.create_from_method_request(request, 200, payload))

        client.on_method_request_received = answer
