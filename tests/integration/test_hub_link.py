"""A hub and its link to the stand-in: telemetry, twins, methods and messages of unmodified SDK clients."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from actors.upstream.protocol import UpstreamProtocol
from messaging.identity import Identity
from tests.integration.linked_hub import OWN, LinkedHub
from tests.integration.sdk_clients import SdkPublisher, sdk_client
from tests.runtime.client_certificates import make_client
from tests.waiting import wait_until

ROUTES = {"up": "FROM /messages/* INTO $upstream"}
PUMP, FAN, LEAF, CAMERA = "edge1/pump", "edge1/fan", "leaf", "camera"
LIMIT_S = 20.0


@pytest.fixture(params=[UpstreamProtocol.MQTT, UpstreamProtocol.AMQP], ids=str)
def linked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LinkedHub]:
    shown, protocol = make_client(tmp_path, CAMERA), request.param
    with LinkedHub(ROUTES, ("pump", "fan"), (LEAF,), certificates=[shown], protocol=protocol) as made:
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(linked: LinkedHub, ending: ExitStack, name: str) -> Any:
    client = sdk_client(linked.hub, name)
    ending.callback(client.shutdown)
    client.connect()
    return client


def publishing(linked: LinkedHub, ending: ExitStack, name: str, per_s: float = 50.0) -> SdkPublisher:
    publisher = SdkPublisher(linked.hub, name, per_s)
    ending.callback(publisher.client.shutdown)
    publisher.start()
    return publisher


def check_all_arrived(linked: LinkedHub, name: str, publisher: SdkPublisher) -> None:
    sent = publisher.numbers()
    wait_until(lambda: str(sent[-1]).encode() in linked.taken(name), what=f"the last of {name} in the cloud")
    arrived = [int(body) for body in linked.taken(name)]
    assert set(sent) <= set(arrived)
    assert list(dict.fromkeys(arrived)) == sorted(set(arrived))


def answering(client: Any, status: int) -> None:
    """Have methods answered with what they were called with."""

    def answer(request: Any) -> None:
        from azure.iot.device import MethodResponse

        payload = {"was": request.payload}
        client.send_method_response(MethodResponse.create_from_method_request(request, status, payload))

    client.on_method_request_received = answer


def test_telemetry_goes_up_under_the_name_of_each_sender(linked: LinkedHub, ending: ExitStack) -> None:
    publishers = {name: publishing(linked, ending, name) for name in (PUMP, LEAF)}
    for publisher in publishers.values():
        publisher.wait_for(50)
        publisher.stop()

    for name, publisher in publishers.items():
        check_all_arrived(linked, name, publisher)
    assert linked.taken(FAN) == []


def test_twins_methods_and_messages_go_both_ways(linked: LinkedHub, ending: ExitStack) -> None:
    linked.patch_desired(PUMP, {"rate": 5})
    pump, leaf = connected(linked, ending, PUMP), connected(linked, ending, LEAF)
    patches: queue.Queue[Any] = queue.Queue()
    came: queue.Queue[Any] = queue.Queue()
    pump.on_twin_desired_properties_patch_received = patches.put
    leaf.on_message_received = came.put
    answering(leaf, 201)
    wait_until(lambda: (state := linked.state()) and state.is_up)

    wait_until(lambda: pump.get_twin()["desired"].get("rate") == 5)
    linked.patch_desired(PUMP, {"rate": 6})
    pump.patch_twin_reported_properties({"is": 4})
    result = linked.cloud.call(
        linked.cloud.hub.invoke_method(Identity("leaf"), "reset", {"hard": True}, connect_timeout_s=LIMIT_S)
    )
    linked.cloud.call(linked.cloud.hub.send_c2d("leaf", b"hello", {"k": "v"}, {}))

    while patches.get(timeout=LIMIT_S).get("rate") != 6:
        pass
    assert (result.status, result.payload) == (201, {"was": {"hard": True}})
    message = came.get(timeout=LIMIT_S)
    assert (message.data, message.custom_properties) == (b"hello", {"k": "v"})
    wait_until(lambda: linked.reported(PUMP).get("is") == 4)
    wait_until(lambda: "clients" in linked.reported(OWN))


def test_a_device_that_only_has_a_certificate_has_the_whole_cloud_under_its_own_name(
    linked: LinkedHub, ending: ExitStack
) -> None:
    camera = connected(linked, ending, CAMERA)
    patches: queue.Queue[Any] = queue.Queue()
    came: queue.Queue[Any] = queue.Queue()
    camera.on_twin_desired_properties_patch_received = patches.put
    camera.on_message_received = came.put
    answering(camera, 202)
    camera.send_message("picture")
    wait_until(lambda: linked.taken(CAMERA) == [b"picture"])

    linked.patch_desired(CAMERA, {"rate": 6})
    camera.patch_twin_reported_properties({"is": 4})
    hub = linked.cloud.hub
    result = linked.cloud.call(
        hub.invoke_method(Identity(CAMERA), "turn", {"by": 90}, connect_timeout_s=LIMIT_S)
    )
    linked.cloud.call(hub.send_c2d(CAMERA, b"hello", {"k": "v"}, {}))

    assert (result.status, result.payload) == (202, {"was": {"by": 90}})
    while patches.get(timeout=LIMIT_S).get("rate") != 6:
        pass
    assert came.get(timeout=LIMIT_S).data == b"hello"
    wait_until(lambda: linked.reported(CAMERA).get("is") == 4)


def test_what_is_sent_and_changed_while_the_line_is_cut_is_there_after_its_return(
    linked: LinkedHub, ending: ExitStack
) -> None:
    publishers = {name: publishing(linked, ending, name) for name in (PUMP, LEAF)}
    pump = publishers[PUMP].client
    leaf_came: queue.Queue[Any] = queue.Queue()
    publishers[LEAF].client.on_message_received = leaf_came.put
    wait_until(lambda: linked.taken(PUMP) and linked.taken(LEAF))
    wait_until(lambda: (state := linked.state()) and state.is_up)

    linked.line.cut()
    wait_until(lambda: (state := linked.state()) and not state.is_up)
    pump.patch_twin_reported_properties({"offline": True})
    linked.patch_desired(PUMP, {"while": "away"})
    linked.cloud.call(linked.cloud.hub.send_c2d("leaf", b"held", {}, {}))
    for publisher in publishers.values():
        publisher.wait_for(len(publisher.acknowledged) + 100)
    while_away = {name: len(linked.taken(name)) for name in publishers}
    linked.line.restore()
    resumed_s = wait_until(lambda: all(len(linked.taken(n)) > while_away[n] for n in publishers))
    back_before_messages = linked.reported(PUMP).get("offline")

    for name, publisher in publishers.items():
        publisher.stop()
        check_all_arrived(linked, name, publisher)
    assert resumed_s < 3.0  # under a second on an idle machine
    assert back_before_messages
    assert leaf_came.get(timeout=LIMIT_S).data == b"held"
    wait_until(lambda: pump.get_twin()["desired"].get("while") == "away")


def test_a_hub_that_is_killed_on_the_way_up_loses_and_reorders_nothing(
    linked: LinkedHub, ending: ExitStack
) -> None:
    publishers = {name: publishing(linked, ending, name, 200.0) for name in (PUMP, LEAF)}
    for _ in range(3):
        goal = {name: len(linked.taken(name)) + 50 for name in publishers}
        wait_until(lambda goal=goal: all(len(linked.taken(name)) >= goal[name] for name in goal))
        linked.hub.kill()
        linked.hub.start()
    for name, publisher in publishers.items():
        publisher.wait_for(len(publisher.acknowledged) + 50)
        publisher.stop()
        check_all_arrived(linked, name, publisher)
    wait_until(lambda: (state := linked.state()) and not any(source[6] for source in state.sources))
    ending.close()  # while there is a hub to say goodbye to
    assert linked.hub.stop() == 0
    assert linked.hub.ledger().endpoints["iothub"].pending == 0


def test_an_identity_that_is_disabled_while_it_sends_keeps_its_messages_and_the_others_go_on(
    linked: LinkedHub, ending: ExitStack
) -> None:
    publishers = {name: publishing(linked, ending, name) for name in (PUMP, LEAF)}
    wait_until(lambda: linked.taken(PUMP) and linked.taken(LEAF))
    linked.cloud.create(LEAF, if_match="*", status="disabled")

    def refused() -> bool:
        state = linked.state()
        return state is not None and any(s[0] == LEAF and s[3] == "unauthorized" for s in state.sources)

    wait_until(refused)
    for publisher in publishers.values():
        publisher.wait_for(len(publisher.acknowledged) + 50)
    publishers[PUMP].stop()
    check_all_arrived(linked, PUMP, publishers[PUMP])
    linked.cloud.create(LEAF, if_match="*", status="enabled")
    publishers[LEAF].stop()
    check_all_arrived(linked, LEAF, publishers[LEAF])


@pytest.mark.slow
def test_a_line_that_is_cut_reset_and_half_open_in_turn_costs_no_message_and_no_order(
    linked: LinkedHub, ending: ExitStack
) -> None:
    publishers = {name: publishing(linked, ending, name) for name in (PUMP, LEAF)}
    came: list[bytes] = []
    publishers[LEAF].client.on_message_received = lambda message: came.append(message.data)
    resumed: list[float] = []

    def goes_on() -> None:
        counts = {name: len(linked.taken(name)) for name in publishers}
        resumed.append(wait_until(lambda: all(len(linked.taken(name)) > counts[name] for name in counts)))

    goes_on()
    sent: list[bytes] = []
    for number, trouble in enumerate((linked.line.cut, linked.line.reset, linked.line.swallow) * 2):
        trouble()
        sent.append(b"%d" % number)
        linked.cloud.call(linked.cloud.hub.send_c2d("leaf", sent[-1], {}, {}))
        for publisher in publishers.values():
            publisher.wait_for(len(publisher.acknowledged) + 20)
        linked.line.restore()
        goes_on()

    wait_until(lambda: set(sent) <= set(came), what="every message for the leaf")
    for name, publisher in publishers.items():
        publisher.stop()
        check_all_arrived(linked, name, publisher)
    assert list(dict.fromkeys(came)) == sent
    wait_until(lambda: (state := linked.state()) and not any(source[6] for source in state.sources))
    ending.close()
    assert linked.hub.stop() == 0
    ledger = linked.hub.ledger().endpoints["iothub"]
    assert (ledger.pending, ledger.dropped) == (0, 0)
    assert max(resumed) < 10.0  # under a second on an idle machine
