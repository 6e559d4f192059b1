"""AMQP at the IoT Hub stand-in over real sockets: the engine of the C SDK, and many identities on a line."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging import sas
from messaging.amqp import cbs, codec
from messaging.amqp.addresses import LinkKind, address_of, link_properties
from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage
from messaging.amqp.connection import Connection
from messaging.amqp.events import Event, LinkAttached, LinkDetached, Outcome, Received, Settled
from messaging.amqp.link import Link
from messaging.amqp.sasl import ClientSasl
from messaging.identity import Identity
from tests.integration.cloud import AMQP_PORT, Cloud
from tests.integration.sdk_clients import loopback_address
from tests.integration.sdk_site import PROGRAMS, PythonLeaf

D1 = Identity("d1")
LIMIT_S = 20.0
IDENTITIES = 20


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud(loopback_address()) as made:
        made.create("d1")
        yield made


@pytest.fixture
def device(cloud: Cloud) -> Iterator[PythonLeaf]:
    """The device `d1` on uamqp, connected."""
    pytest.importorskip("uamqp")
    device = PythonLeaf(PROGRAMS["uamqp"], cloud.connection_string("d1"), cloud.ca_file)
    try:
        device.ask("open", {}, False)
        yield device
    finally:
        device.close()


# ---- uamqp


def test_telemetry_of_uamqp_is_a_batch_and_arrives_with_its_properties(
    cloud: Cloud, device: PythonLeaf
) -> None:
    device.ask("send", {"body": '{"t":1}', "properties": {"a": "ü"}, "messageId": "m-1"})

    (event,) = cloud.call(cloud.hub.events(0))
    assert (event.identity, event.telemetry.body) == (D1, b'{"t":1}')
    assert event.telemetry.properties == {"a": "ü"}
    assert event.telemetry.system_properties["messageId"] == "m-1"


def test_uamqp_reads_and_reports_its_twin_and_hears_of_changes(cloud: Cloud, device: PythonLeaf) -> None:
    device.ask("desired")
    device.ask("report", {"level": 3})
    cloud.call(cloud.hub.patch_twin(D1, {"properties": {"desired": {"rate": 5}}}))

    patch = device.event("desired", lambda event: "rate" in event["patch"])
    twin = device.ask("twin")

    assert patch["patch"] == {"rate": 5, "$version": 2}
    assert (twin["desired"]["rate"], twin["reported"]["level"]) == (5, 3)


def test_uamqp_answers_a_method(cloud: Cloud, device: PythonLeaf) -> None:
    device.ask("method", "reboot", 207)

    result = cloud.call(cloud.hub.invoke_method(D1, "reboot", {"k": 1}, connect_timeout_s=10))

    assert (result.status, result.payload) == (207, {"name": "reboot", "payload": {"k": 1}})


def test_uamqp_gets_c2d_messages_that_waited_and_they_are_done(cloud: Cloud, device: PythonLeaf) -> None:
    for number in range(3):
        cloud.call(cloud.hub.send_c2d("d1", str(number).encode(), {"a": "b"}, ack="full"))

    device.ask("listen")

    messages = [device.event("message") for _ in range(3)]
    assert [message["body"] for message in messages] == ["0", "1", "2"]
    told: list[str] = []
    while len(told) < 3:
        found = cloud.call(cloud.hub.receive_feedback())
        told += [] if found is None else [record.outcome for record in found.records]
    assert told == ["Success"] * 3


def test_a_renewed_token_of_uamqp_keeps_its_links(cloud: Cloud, device: PythonLeaf) -> None:
    device.ask("method", "m", 207)
    device.ask("renew")

    result = cloud.call(cloud.hub.invoke_method(D1, "m", None, connect_timeout_s=10))

    assert result.status == 207
    device.ask("send", {"body": "after"})
    assert [event.telemetry.body for event in cloud.call(cloud.hub.events(0))] == [b"after"]


# ---- many identities on one connection


class Line:
    """A connection over a socket with TLS, our engine at its end; `with` closes it."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        context = ssl.create_default_context(cafile=str(cloud.ca_file))
        plain = socket.create_connection((cloud.address, AMQP_PORT), LIMIT_S)
        self._socket = context.wrap_socket(plain, server_hostname=cloud.address)
        self.engine = Connection(container_id="line", hostname=cloud.address, sasl=ClientSasl("MSSBCBS"))
        self.events: list[Event] = []
        self.engine.open()
        self._sender = self.engine.attach_sender("cbs-s", "$cbs")
        self._answers = self.engine.attach_receiver("cbs-r", "$cbs")
        self._answers.grant(1000)
        self.until(lambda: self._sender.credit > 0 and self._answers.is_open, "links for tokens")

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Send and receive until it is so."""
        deadline_s = time.monotonic() + LIMIT_S
        self._socket.settimeout(0.05)
        while True:
            data = self.engine.data_to_send()
            if data:
                self._socket.settimeout(LIMIT_S)
                self._socket.sendall(data)
                self._socket.settimeout(0.05)
            if is_so():
                return
            assert time.monotonic() < deadline_s, f"waited in vain for {what}: {self.events[-5:]}"
            try:
                self.events += self.engine.receive_data(self._socket.recv(65536))
            except TimeoutError:
                continue

    def put_token(self, client_id: str, token: str) -> int:
        """Show a token, and return the status."""
        audience = sas.audience_of(self._cloud.name, Identity.parse(client_id))
        request = cbs.put_token(audience, token, client_id)
        self._sender.send(codec.encode(request), client_id.encode()[-32:], settled=False)
        found: list[int] = []

        def came() -> bool:
            for event in self.events:
                if isinstance(event, Received) and event.delivery.link is self._answers:
                    self.events.remove(event)
                    event.delivery.accept()
                    found.append(cbs.parse_answer(codec.decode(event.delivery.data)).status)
            return bool(found)

        self.until(came, "an answer to a token")
        return found[0]

    def events_link(self, client_id: str) -> Link:
        """Attach a link for messages."""
        kind, identity = LinkKind.EVENTS, Identity.parse(client_id)
        link = self.engine.attach_sender(
            client_id, address_of(kind, identity), properties=link_properties(kind, "test")
        )
        self.until(lambda: link.credit > 0, f"the link of {client_id}")
        return link

    def outcomes(self) -> list[Outcome]:
        """Return and forget what became of messages."""
        found = [event.outcome for event in self.events if isinstance(event, Settled)]
        self.events = [event for event in self.events if not isinstance(event, Settled | LinkAttached)]
        return found


def test_twenty_identities_share_a_line_and_one_that_is_disabled_is_no_matter_to_the_others(
    cloud: Cloud,
) -> None:
    names = [f"t{number}" for number in range(IDENTITIES)]
    with Line(cloud) as line:
        links: dict[str, Link] = {}
        for name in names:
            cloud.create(name)
            assert line.put_token(name, cloud.token(name)) == 200
            links[name] = line.events_link(name)
        line.outcomes()

        sent = [line_send(links[name], number) for number in range(50) for name in names]
        cloud.create("t7", if_match="*", status="disabled")
        line.until(lambda: not links["t7"].is_open, "the end of its link")
        more = [line_send(links[name], number) for number in range(50, 60) for name in names if name != "t7"]
        settled: list[Outcome] = []

        def all_settled() -> bool:
            settled.extend(line.outcomes())
            return len(settled) >= len(sent) - 50 + len(more)

        line.until(all_settled, "outcomes")
        (end,) = [event for event in line.events if isinstance(event, LinkDetached)]
        assert end.condition == "amqp:unauthorized-access"
        assert set(settled) == {Outcome.ACCEPTED}
    stored = cloud.call(cloud.hub.events(0, 10_000))
    for name in names:
        bodies = [int(event.telemetry.body) for event in stored if event.identity.device_id == name]
        assert bodies == list(range(60)) if name != "t7" else bodies == list(range(len(bodies)))


def line_send(link: Link, number: int) -> None:
    """Send a message with a number."""
    encoded = codec.encode(AmqpMessage(body=str(number).encode()))
    link.send(encoded, number.to_bytes(4, "big"), settled=False)


def test_what_was_accepted_survives_a_kill(cloud: Cloud) -> None:
    cloud.stop()
    cloud.start_process()
    token = cloud.token("d1")
    with Line(cloud) as line:
        assert line.put_token("d1", token) == 200
        link = line.events_link("d1")
        line.outcomes()
        batches = 20
        for number in range(batches):
            elements = [
                codec.encode(AmqpMessage(body=json.dumps([number, element]).encode()))
                for element in range(10)
            ]
            link.send(
                codec.join_batch(elements),
                number.to_bytes(4, "big"),
                settled=False,
                message_format=BATCH_FORMAT,
            )
        accepted: list[Outcome] = []

        def some() -> bool:
            accepted.extend(line.outcomes())
            return bool(accepted)

        line.until(some, "an outcome")
        cloud.kill_process()
    cloud.start()

    stored: list[Any] = [json.loads(event.telemetry.body) for event in cloud.call(cloud.hub.events(0))]
    assert stored == [[number, element] for number in range(len(stored) // 10) for element in range(10)]
    assert len(stored) >= len(accepted) * 10


def test_a_client_that_speaks_another_protocol_is_no_matter_to_others(cloud: Cloud, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(cloud.ca_file))
    with Line(cloud) as line:
        plain = socket.create_connection((cloud.address, AMQP_PORT), LIMIT_S)
        with context.wrap_socket(plain, server_hostname=cloud.address) as other:
            other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            other.settimeout(LIMIT_S)
            assert other.recv(100).startswith(b"AMQP")
            assert other.recv(100) == b""

        assert line.put_token("d1", cloud.token("d1")) == 200
