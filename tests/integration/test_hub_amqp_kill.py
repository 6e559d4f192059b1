"""kill -9 of the hub while many AMQP messages are under way: order and completeness seen from both ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from messaging.amqp import codec
from messaging.amqp.codec import AmqpMessage
from messaging.amqp.events import Ended, LinkDetached, Outcome, Settled
from messaging.amqp.link import Link
from tests.integration.amqp_socket import AmqpSocket, LinkRefused
from tests.integration.hub_process import HubProcess
from tests.integration.test_hub_kill import IN_FLIGHT, PipelinedPublisher, run_through_kills


class AmqpPublisher(PipelinedPublisher):
    """The same over AMQP and TLS: after a lost connection, what was not accepted is sent again first."""

    def _connect(self) -> None:
        with AmqpSocket(self._hub) as connection:
            try:
                link = connection.log_in(self.name).events_sender(self.name)
            except LinkRefused as exc:
                raise EOFError(str(exc)) from exc
            for number in self._under_way:
                self._send(link, number)
            self._serve_link(connection, link)

    def _serve_link(self, connection: AmqpSocket, link: Link) -> None:
        while self._under_way or not self._stopped.is_set():
            if not self._stopped.is_set():
                for number in range(self._next, self._next + IN_FLIGHT - len(self._under_way)):
                    self._next = number + 1
                    self._under_way.append(number)
                    self._send(link, number)
            connection.flush()
            for event in connection.read():
                if isinstance(event, (Ended, LinkDetached)):
                    raise EOFError(event.description)
                if isinstance(event, Settled):
                    number = self._under_way.popleft()
                    assert event.outcome is Outcome.ACCEPTED, event
                    assert event.delivery.tag == b"%d" % number, "accepted out of order"
                    self.acknowledged.append(number)

    @staticmethod
    def _send(link: Link, number: int) -> None:
        link.send(codec.encode(AmqpMessage(body=b"%d" % number)), b"%d" % number, settled=False)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess({"up": "FROM /messages/* INTO $upstream"}, devices=("d0", "d1", "d2")) as hub:
        yield hub


def test_nothing_accepted_is_lost_or_out_of_order_though_the_hub_is_killed_under_full_load(
    hub: HubProcess,
) -> None:
    run_through_kills(hub, 3, (AmqpPublisher, PipelinedPublisher))


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_a_hundred_kills_under_full_load(hub: HubProcess) -> None:
    run_through_kills(hub, 100, (AmqpPublisher, PipelinedPublisher))
