"""A fault inside a handler of the running hub: that actor starts again, the others do not notice."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.addresses import HUB, IDENTITIES, MQTT, ROUTER, STORE, UPSTREAM
from actors.hub.router import Publish as PublishBatch
from actors.store.messages import Append, Stored
from messaging.client import Client
from messaging.lifecycle import DeadLetterList, Describe, Described, ListDeadLetters
from messaging.mqtt.packets import ConnAck, PubAck, Publish, ReturnCode
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import LIMIT_S, MqttSocket
from tests.integration.picky_hub import POISON

ALL = (STORE, ROUTER, MQTT, IDENTITIES, UPSTREAM)
TOPIC = "devices/leaf/messages/events/"


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess({"up": "FROM /messages/* INTO $upstream"}, devices=("leaf",)) as hub:
        yield hub


def restarts(client: Client) -> dict[str, int]:
    return {name: client.ask(name, Describe(), Described).values["restarts"] for name in ALL}


@pytest.mark.parametrize(
    ("address", "message", "error"),
    [
        pytest.param(STORE, Append("leaf", "first", 0, (), ()), "TypeError", id="store"),  # type: ignore[arg-type]
        pytest.param(ROUTER, PublishBatch("leaf", 1, 0, (5,), 5), "TypeError", id="router"),  # type: ignore[arg-type]
        pytest.param(MQTT, Stored(5), "TypeError", id="head"),  # type: ignore[arg-type]
    ],
)
def test_a_fault_in_a_handler_restarts_that_actor_alone_and_its_mailbox_goes_on(
    hub: HubProcess, address: str, message: object, error: str
) -> None:
    sent: list[bytes] = []

    def publish(connection: MqttSocket, count: int) -> None:
        for _ in range(count):
            sent.append(b"%d" % len(sent))
            connection.send(Publish(TOPIC, sent[-1], 1, len(sent)))
        for number in range(count):
            assert connection.receive() == PubAck(len(sent) - count + 1 + number)

    with MqttSocket(hub) as connection, Client.outside(hub.run_dir) as client:
        assert connection.connect(hub, "leaf") == ConnAck(ReturnCode.ACCEPTED)
        publish(connection, 20)

        for _ in range(2):  # the second one waits in the mailbox while the first is fatal
            client.tell(address, message)
        deadline_s = time.monotonic() + LIMIT_S
        while restarts(client)[address] < 2:  # a question overtakes them
            assert time.monotonic() < deadline_s

        assert restarts(client) == {name: 2 if name == address else 0 for name in ALL}
        letters = client.ask(HUB, ListDeadLetters(), DeadLetterList).letters
        assert [letter["kind"] for letter in letters] == [type(message).__name__] * 2
        assert all(letter["reason"].startswith(error) for letter in letters)
        assert all(f"in on_{_snake(type(message).__name__)}" in letter["traceback"] for letter in letters)
        assert all("leaf" in letter["message"] or address == MQTT for letter in letters)
        if address != MQTT:  # whose restart closes the connections
            publish(connection, 20)
    with MqttSocket(hub) as again:
        assert again.connect(hub, "leaf") == ConnAck(ReturnCode.ACCEPTED)
        publish(again, 20)
    arrived = hub.upstream(len(sent))
    assert len(arrived) == len(sent)
    assert hub.stop() == 0
    assert hub.ledger().imbalances() == []
    assert hub.ledger().endpoints["iothub"].delivered == len(sent)


def test_poison_in_a_batch_is_dropped_for_good_and_the_innocent_are_delivered() -> None:
    bodies = [POISON if number == 10 else b"%d" % number for number in range(20)]
    routes = {"up": "FROM /messages/* INTO $upstream"}
    program = "tests.integration.picky_hub"
    with HubProcess(routes, devices=("leaf",), program=program) as hub:
        with MqttSocket(hub) as connection, Client.outside(hub.run_dir) as client:
            assert connection.connect(hub, "leaf") == ConnAck(ReturnCode.ACCEPTED)
            # In one write, so that they come as one batch.
            connection.send(*(Publish(TOPIC, body, 1, number) for number, body in enumerate(bodies, 1)))
            for number in range(1, 21):
                assert connection.receive() == PubAck(number)
            arrived = hub.upstream(19)
            assert restarts(client) == dict.fromkeys(ALL, 0)
            letters = client.ask(HUB, ListDeadLetters(), DeadLetterList).letters
        assert hub.stop() == 0
        ledger = hub.ledger()

    assert len(arrived) == 19
    assert [letter["reason"] for letter in letters if "no place for this" in letter["reason"]]
    assert ledger.imbalances() == []
    endpoint = ledger.endpoints["iothub"]
    assert (endpoint.accepted, endpoint.delivered, endpoint.pending) == (20, 19, 0)
    assert endpoint.dropped_by_reason == {"poison": 1}


def test_an_actor_that_fails_again_and_again_ends_the_hub_with_an_exit_code(hub: HubProcess) -> None:
    with MqttSocket(hub) as connection, Client.outside(hub.run_dir) as client:
        connection.connect(hub, "leaf")

        for _ in range(60):
            client.tell(ROUTER, PublishBatch("leaf", 1, 0, (5,), 5))  # type: ignore[arg-type]

        assert hub.process is not None
        assert hub.process.wait(20) == 70
    assert "hub/router failed too often" in hub.wait_for_log("the hub ends")[0]


def _snake(name: str) -> str:
    return name.lower()


def test_it_ends_when_another_than_its_main_thread_takes_the_signal(hub: HubProcess) -> None:
    """The kernel may choose any; the main thread is only what it prefers."""
    hub.wait_for_log("MQTT over TLS")
    assert hub.process is not None
    pid = hub.process.pid
    names = {path.parent.name: path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")}
    ordinary = [int(tid) for tid, name in names.items() if int(tid) != pid and not name.startswith("ZMQbg")]

    assert ctypes.CDLL(None, use_errno=True).tgkill(pid, ordinary[-1], signal.SIGTERM) == 0

    assert hub.process.wait(LIMIT_S) == 0
