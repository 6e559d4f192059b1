"""Rows of the sheet's case table that no other test names, and that none is left without one.

Source: hub-protocols.md section 8.4
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.addresses import METHODS as METHOD_ACTOR
from actors.hub.client_services import InvokeMethod, MethodFailed, Twin
from actors.store.messages import Delivered
from messaging.identity import Identity
from messaging.mqtt.packets import PubAck, Publish, Subscribe
from messaging.topics import Telemetry, parse_topic
from tests.actors.head_world import HEAD, STORE, TWINS, HeadWorld
from tests.actors.hub_world import message_in
from tests.actors.whole_hub import DEVICE, PUBACK, A, B, HubWorld

METHOD_FILTER = "$iothub/methods/POST/#"
TWIN_FILTER = "$iothub/twin/res/#"
ROWS = range(1, 69)
ON_AMQP = {22, 27, 64}  # also, beside those from 57 on, which are on AMQP alone
NAMED = re.compile(r"8\.4,\s+rows? ([0-9, to and]+)")


def rows_named(text: str) -> set[int]:
    """Return the rows that a file's docstrings name: `row 5`, `rows 1 to 3`, `rows 5 and 6`."""
    rows: set[int] = set()
    for listed in NAMED.findall(text):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", listed):
            rows.update(range(int(first), int(last or first) + 1))
    return rows


def named_by(pattern: str) -> set[int]:
    tests = Path(__file__).parents[2]
    named: set[int] = set()
    for path in tests.rglob(pattern):
        if "iothub" not in path.parts:  # the stand-in has its own
            named |= rows_named(path.read_text(encoding="utf-8"))
    return named


def test_every_row_is_named_by_a_test_of_the_hub() -> None:
    named = named_by("test_*.py")

    assert [row for row in ROWS if row not in named] == []


def test_rows_for_both_protocols_are_named_by_tests_over_amqp() -> None:
    assert ON_AMQP - named_by("test_*amqp*.py") == set()


def test_a_feature_that_was_unsubscribed_stays_off_after_a_reconnect() -> None:
    """Source: hub-protocols.md section 8.4, row 11."""
    hub = HubWorld()
    take = hub.system.mailbox("test")
    peer = hub.open().connect(A, clean=False)
    peer.subscribe(METHOD_FILTER)
    peer.unsubscribe(METHOD_FILTER)
    peer.gone()
    hub.open().connect(A, clean=False)

    hub.system.bus.send(METHOD_ACTOR, InvokeMethod(A, "m", b"", 5, 0), sender="test", correlation_id=3)
    hub.system.run()

    [answer] = [message_in(letter) for letter in take()]
    assert isinstance(answer, MethodFailed)
    assert answer.status == 404


@pytest.mark.parametrize("end", ["/", ""])
def test_a_topic_that_two_templates_fit_is_read_by_the_first(end: str) -> None:
    """Source: hub-protocols.md section 8.4, row 20: a bag with the last slash, not one that ends in it."""
    found = parse_topic(f"devices/leaf/messages/events/a=b{end}", Identity("leaf", None))

    assert isinstance(found, Telemetry)
    assert found.properties == {"a": "b"}


def test_twenty_publishes_without_waiting_are_stored_and_acknowledged_in_order() -> None:
    """Source: hub-protocols.md section 8.4, row 24."""
    hub = HubWorld()
    peer = hub.open().connect(A)
    topic = hub.topic_of(A)

    for first in (1, 8, 15):  # in three reads
        count = min(7, 21 - first)
        peer.send(*(Publish(topic, b"%d" % n, 1, n) for n in range(first, first + count)))

    answers = [int.from_bytes(body, "big") for kind, body in peer.received() if kind == PUBACK]
    stored = [hub.disk.contents.messages[key][1] for key in sorted(hub.disk.contents.messages)]
    assert answers == list(range(1, 21))
    assert stored == [b"%d" % n for n in range(1, 21)]


def test_a_message_for_an_input_that_nobody_subscribed_to_waits_and_holds_up_no_other() -> None:
    """Source: hub-protocols.md section 8.4, row 33.

    The reference drops it; here it waits for a subscription as that of an absent module does, or expires.
    """
    routes = {
        name: f'FROM /messages/modules/a/outputs/{name} INTO BrokeredEndpoint("/modules/b/inputs/{name}")'
        for name in ("i1", "i2")
    }
    hub = HubWorld(routes)
    sender, receiver = hub.open().connect(A), hub.open().connect(B)
    receiver.subscribe(f"devices/{DEVICE}/modules/b/inputs/i1/#")
    receiver.received()
    topic = hub.topic_of(A)
    for number, name in enumerate(("i2", "i1"), start=1):
        sender.send(Publish(f"{topic}%24.on={name}", name.encode(), 1, number))

    first = [body[-2:] for _, body in receiver.received()]
    receiver.subscribe(f"devices/{DEVICE}/modules/b/inputs/i2/#")
    later = [body[-2:] for kind, body in receiver.received() if kind == 0x30]

    assert first == [b"i1"]
    assert later == [b"i2"]


def test_acknowledgements_of_what_is_no_message_settle_nothing() -> None:
    """Source: hub-protocols.md section 8.4, row 35."""
    world = HeadWorld()
    client = world.connect(clean_session=True)
    world.send(client, Subscribe(1, ((TWIN_FILTER, 1),)), Publish("$iothub/twin/GET/?$rid=1", b"", 0))
    asked = [letter for letter in world.letters(TWINS) if letter.correlation_id][-1]
    world.tell(HEAD, Twin("edge1/sensor", b"{}"), TWINS, asked.correlation_id)
    [reply] = [packet for packet in client.received() if isinstance(packet, Publish)]
    world.letters(STORE)

    world.send(client, PubAck(reply.packet_id), PubAck(reply.packet_id), PubAck(777))

    assert not client.transport.closed
    assert world.told(STORE, Delivered) == []
