"""C2D messages, methods and twins over AMQP at the stand-in."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec
import pytest

from messaging import system_properties as names
from messaging.amqp import codec
from messaging.amqp.addresses import LinkKind
from messaging.amqp.codec import AmqpMessage, Int, UByte, ULong
from messaging.amqp.events import LinkDetached, Received, Settled
from messaging.amqp.link import RcvSettleMode, SndSettleMode
from messaging.amqp.mapping import lock_tag
from messaging.amqp.method_messages import MethodCall, method_answer, parse_method_call
from messaging.amqp.twin_messages import TwinOperation, twin_request
from messaging.errors import IotHubError, StoreError
from messaging.identity import Identity
from runtime.iothub.amqp.outbox import MOST_WAITING_BYTES
from runtime.iothub.c2d import LOCK_S, MOST_DELIVERIES, QUEUE_DEPTH
from runtime.iothub.records import MethodResult
from tests.runtime.iothub.amqp_client import AmqpClient, connect
from tests.runtime.iothub.mqtt_scene import Scene

D1 = Identity("d1")


@pytest.fixture
def client(scene: Scene) -> AmqpClient:
    """A connection with the tokens of `d1` and of its module `m`."""
    scene.create("d1/m")
    return connect(scene, "d1", "d1/m")


# ---- C2D


def send_c2d(scene: Scene, body: bytes, **arguments: Any) -> None:
    """Queue a message for d1."""
    scene.run(scene.hub.send_c2d("d1", body, **arguments))


def waiting(scene: Scene) -> int:
    """Return how many messages wait for d1."""
    return int(scene.run(scene.hub.twin(D1))["cloudToDeviceMessageCount"])


def feedback(scene: Scene) -> list[str]:
    """Return the outcomes that services are told."""
    found = scene.run(scene.hub.receive_feedback())
    return [] if found is None else [record.outcome for record in found.records]


def test_a_c2d_message_has_all_that_iot_hub_says_of_it(scene: Scene, client: AmqpClient) -> None:
    send_c2d(scene, b"wake up", properties={"a": "b"}, system_properties={names.MESSAGE_ID: "m1"}, ack="full")
    link = client.attach(LinkKind.C2D, "d1")

    delivery = client.take(link)

    message = codec.decode(delivery.data)
    assert (message.body, message.message_id, message.to) == (
        b"wake up",
        "m1",
        "/devices/d1/messages/devicebound",
    )
    assert message.application_properties == {"a": "b", "iothub-ack": "full"}
    assert isinstance(message.annotations["x-opt-sequence-number"], ULong)
    assert isinstance(message.annotations["iothub-deliverycount"], UByte)
    assert delivery.tag == lock_tag(uuid.UUID(message.annotations["x-opt-lock-token"]))
    assert not delivery.settled
    assert (link.snd_settle_mode, link.rcv_settle_mode) == (SndSettleMode.UNSETTLED, RcvSettleMode.SECOND)


def test_a_completed_message_is_settled_when_it_is_off_the_disk(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.C2D, "d1", rcv_settle_mode=RcvSettleMode.SECOND)
    send_c2d(scene, b"x", ack="positive")
    delivery = client.take(link)
    completed: list[asyncio.Event] = []
    complete = scene.hub.complete_c2d

    async def complete_later(*arguments: Any) -> None:
        completed.append(asyncio.Event())
        await completed[0].wait()
        await complete(*arguments)

    scene.hub.complete_c2d = complete_later  # type: ignore[method-assign]
    delivery.accept()
    client.rest()
    assert not any(isinstance(event, Settled) for event in client.events)

    scene.do(completed[0].set)
    client.wait(Settled, delivery)

    assert waiting(scene) == 0
    assert feedback(scene) == ["Success"]


def test_a_rejected_message_is_gone_and_told(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.C2D, "d1")
    send_c2d(scene, b"x", ack="negative")

    client.take(link).reject("amqp:not-allowed", "no")
    client.rest()

    assert waiting(scene) == 0
    assert feedback(scene) == ["Rejected"]


@pytest.mark.parametrize("how", ["release", "modify", "settle"])
def test_what_is_not_taken_comes_again_until_it_was_too_often(
    scene: Scene, client: AmqpClient, how: str
) -> None:
    link = client.attach(LinkKind.C2D, "d1")
    send_c2d(scene, b"x", ack="full")

    for count in range(MOST_DELIVERIES):
        delivery = client.take(link)
        assert codec.decode(delivery.data).annotations["iothub-deliverycount"] == count
        getattr(delivery, how)()
    scene.wait(lambda: feedback_after(client) == ["DeliveryCountExceeded"], "feedback")

    assert waiting(scene) == 0


def feedback_after(client: AmqpClient) -> list[str]:
    """Let the client say what it has to say; return the outcomes that services are told."""
    client.exchange()
    return feedback(client.scene)


def test_messages_wait_for_credit_and_keep_their_order(scene: Scene, client: AmqpClient) -> None:
    bodies = [b"%d" % number for number in range(QUEUE_DEPTH)]
    for body in bodies:
        send_c2d(scene, body)
    link = client.attach(LinkKind.C2D, "d1", credit=0)
    assert client.received(link) == []

    link.grant(20)
    first = client.received(link)
    link.grant(100)
    second = client.received(link)

    assert len(first) == 20
    assert [codec.decode(delivery.data).body for delivery in first + second] == bodies
    for delivery in first + second:
        delivery.accept()
    client.rest()
    assert waiting(scene) == 0


def test_a_client_that_wants_its_credit_used_up_gets_what_there_is(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.C2D, "d1", credit=0)
    send_c2d(scene, b"x")

    link.grant(5)
    assert len(client.received(link)) == 1


def test_a_message_that_is_not_decided_in_time_comes_again(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.C2D, "d1")
    send_c2d(scene, b"x")
    late = client.take(link)

    scene.clock.advance(LOCK_S)
    scene.run(scene.hub.sweep())
    again = client.take(link)

    assert again.tag != late.tag
    late.accept()
    client.rest()
    assert waiting(scene) == 1
    again.accept()
    client.rest()
    assert waiting(scene) == 0


@pytest.mark.parametrize("how", ["detach", "lose", "take over"])
def test_what_was_not_decided_waits_for_whoever_listens_next(
    scene: Scene, client: AmqpClient, how: str
) -> None:
    link = client.attach(LinkKind.C2D, "d1")
    send_c2d(scene, b"x")
    client.take(link)
    if how == "detach":
        link.detach()
        client.rest()
        again, known = client.attach(LinkKind.C2D, "d1"), client
    else:
        if how == "lose":
            client.lose()
        known = connect(scene, "d1")
        again = known.attach(LinkKind.C2D, "d1")

    delivery = known.take(again)

    message = codec.decode(delivery.data)
    assert (message.body, message.annotations["iothub-deliverycount"]) == (b"x", 0)


@pytest.mark.parametrize("how", ["detach", "close"])
def test_an_outcome_counts_when_the_link_ends_in_the_same_read(
    scene: Scene, client: AmqpClient, how: str
) -> None:
    link = client.attach(LinkKind.C2D, "d1")
    send_c2d(scene, b"x", ack="full")
    client.take(link).accept()
    link.detach() if how == "detach" else client.engine.close()

    client.rest()

    assert waiting(scene) == 0
    assert feedback(scene) == ["Success"]


def test_a_second_link_for_c2d_ends_the_first_and_gets_what_it_had(scene: Scene, client: AmqpClient) -> None:
    first = client.attach(LinkKind.C2D, "d1")
    send_c2d(scene, b"x")
    client.take(first)

    second = client.attach(LinkKind.C2D, "d1")

    assert client.refused(first)[0] == "amqp:link:stolen"
    assert codec.decode(client.take(second).data).body == b"x"


def test_an_outcome_that_cannot_be_stored_ends_the_link_and_the_message_comes_again(
    scene: Scene, client: AmqpClient
) -> None:
    link = client.attach(LinkKind.C2D, "d1", rcv_settle_mode=RcvSettleMode.SECOND)
    send_c2d(scene, b"x")
    complete = scene.hub.complete_c2d

    async def fail(*_: Any) -> None:
        raise StoreError("the disk is gone")

    scene.hub.complete_c2d = fail  # type: ignore[method-assign]
    client.take(link).accept()
    end = client.wait(LinkDetached, link)
    scene.hub.complete_c2d = complete  # type: ignore[method-assign]

    assert "the disk is gone" in end.description
    delivery = client.take(client.attach(LinkKind.C2D, "d1"))
    delivery.accept()
    client.rest()
    assert waiting(scene) == 0


def test_a_module_may_listen_for_c2d_and_hears_nothing(scene: Scene, client: AmqpClient) -> None:
    link = client.attach(LinkKind.C2D, "d1/m")

    send_c2d(scene, b"x")

    assert client.received(link) == []


# ---- methods


class Caller:
    """Calls a method, while the client answers it."""

    def __init__(self, scene: Scene, identity: Identity, **arguments: Any) -> None:
        async def call() -> MethodResult:
            return await scene.hub.invoke_method(identity, "reboot", {"in": 5}, **arguments)

        self._scene = scene
        self._task = scene.loop.create_task(call())

    def result(self) -> MethodResult:
        """Return what it was answered."""
        return self._scene.loop.run_until_complete(self._task)


@pytest.mark.parametrize("client_id", ["d1", "d1/m"])
def test_a_method_is_called_and_answered(scene: Scene, client: AmqpClient, client_id: str) -> None:
    answers = client.attach(LinkKind.METHOD_RESPONSES, client_id, channel="c")
    calls = client.attach(LinkKind.METHOD_CALLS, client_id, channel="c")
    caller = Caller(scene, Identity.parse(client_id))

    delivery = client.take(calls)
    call = parse_method_call(codec.decode(delivery.data))
    assert delivery.settled
    assert isinstance(call, MethodCall)
    assert (call.name, call.payload) == ("reboot", b'{"in":5}')
    assert isinstance(call.correlation_id, uuid.UUID)
    client.start(answers, method_answer(call.correlation_id, 202, b'{"done":true}'), settled=True)
    client.rest()

    assert caller.result() == MethodResult(202, {"done": True})


def test_an_answer_with_the_id_as_a_text_counts_and_one_of_somebody_else_does_not(
    scene: Scene, client: AmqpClient
) -> None:
    answers = client.attach(LinkKind.METHOD_RESPONSES, "d1")
    calls = client.attach(LinkKind.METHOD_CALLS, "d1")
    foreign = client.attach(LinkKind.METHOD_RESPONSES, "d1/m")
    caller = Caller(scene, D1)
    request_id = codec.decode(client.take(calls).data).correlation_id

    client.start(foreign, method_answer(str(request_id), 1, b""), settled=True)
    client.start(answers, AmqpMessage(), settled=True)  # names no call
    client.rest()
    client.start(answers, method_answer(str(request_id).upper(), 200, b""), settled=True)
    client.rest()

    assert caller.result() == MethodResult(200, None)


def test_who_does_not_listen_for_methods_is_not_online_for_them(scene: Scene, client: AmqpClient) -> None:
    client.attach(LinkKind.EVENTS, "d1")
    calls = client.attach(LinkKind.METHOD_CALLS, "d1")
    calls.detach()
    client.rest()

    with pytest.raises(IotHubError) as refused:
        Caller(scene, D1).result()
    assert refused.value.code == 404103


def test_a_call_waits_for_credit(scene: Scene, client: AmqpClient) -> None:
    answers = client.attach(LinkKind.METHOD_RESPONSES, "d1")
    calls = client.attach(LinkKind.METHOD_CALLS, "d1", credit=0)
    caller = Caller(scene, D1)
    assert client.received(calls) == []

    calls.grant(1)
    request_id = codec.decode(client.take(calls).data).correlation_id
    assert request_id is not None
    client.start(answers, method_answer(request_id, 200, b""), settled=True)
    client.rest()

    assert caller.result().status == 200


@pytest.mark.parametrize(("first", "second", "stays"), [("a", "a", True), ("a", "b", False), ("", "", True)])
def test_the_links_of_a_pair_name_one_channel(
    client: AmqpClient, first: str, second: str, stays: bool
) -> None:
    older = client.attach(LinkKind.METHOD_RESPONSES, "d1", channel=first)

    client.attach(LinkKind.METHOD_CALLS, "d1", channel=second)
    client.rest()

    assert older.is_open is stays


# ---- twins


class TwinLinks:
    """Both links for the twin of an identity."""

    def __init__(self, client: AmqpClient, client_id: str = "d1") -> None:
        self.client = client
        self.requests = client.attach(LinkKind.TWIN_REQUESTS, client_id, channel="t")
        self.answers = client.attach(LinkKind.TWIN_ANSWERS, client_id, channel="t")

    def ask(self, operation: TwinOperation, patch: bytes = b"", request_id: str = "r1") -> AmqpMessage:
        """Send a request and return the answer."""
        self.client.start(self.requests, twin_request(operation, request_id, patch), settled=True)
        answer = self.client.receive(self.answers)
        assert answer.correlation_id == request_id
        assert isinstance(answer.annotations["status"], Int)
        return answer


@pytest.mark.parametrize("client_id", ["d1", "d1/m"])
def test_a_twin_is_read_and_reported_to(scene: Scene, client: AmqpClient, client_id: str) -> None:
    links = TwinLinks(client, client_id)

    patched = links.ask(TwinOperation.PATCH, b'{"level": 3}')
    read = links.ask(TwinOperation.GET)

    assert (patched.annotations["status"], patched.body) == (204, b"")
    assert patched.annotations["version"] == 2
    assert type(patched.annotations["version"]) is int  # an AMQP long
    assert read.annotations["status"] == 200
    assert msgspec.json.decode(read.body) == {
        "desired": {"$version": 1},
        "reported": {"level": 3, "$version": 2},
    }


def test_a_get_sees_the_patch_in_front_of_it(client: AmqpClient) -> None:
    links = TwinLinks(client)
    for number in range(20):
        patch = b'{"n": %d}' % number
        client.start(links.requests, twin_request(TwinOperation.PATCH, f"p{number}", patch), settled=True)
        client.start(links.requests, twin_request(TwinOperation.GET, f"g{number}"), settled=True)

    for number in range(20):
        assert client.receive(links.answers).correlation_id == f"p{number}"
        read = client.receive(links.answers)
        assert read.correlation_id == f"g{number}"
        assert msgspec.json.decode(read.body)["reported"]["n"] == number


def test_desired_patches_come_from_put_to_delete(scene: Scene, client: AmqpClient) -> None:
    links = TwinLinks(client)
    change = {"properties": {"desired": {"speed": 1}}}
    scene.run(scene.hub.patch_twin(D1, change))
    assert client.received(links.answers) == []

    assert links.ask(TwinOperation.PUT).annotations["status"] == 200
    scene.run(scene.hub.patch_twin(D1, change))
    patch = client.receive(links.answers)
    assert links.ask(TwinOperation.DELETE).annotations["status"] == 200
    scene.run(scene.hub.patch_twin(D1, change))

    assert patch.correlation_id is None
    assert msgspec.json.decode(patch.body) == {"speed": 1, "$version": 3}
    assert client.received(links.answers) == []


@pytest.mark.parametrize("patch", [b"{", b'{"$a": 1}', b"[]"], ids=["no JSON", "a rule", "no object"])
def test_a_patch_against_the_rules_is_answered_with_json(client: AmqpClient, patch: bytes) -> None:
    answer = TwinLinks(client).ask(TwinOperation.PATCH, patch)

    assert answer.annotations["status"] == 400
    assert msgspec.json.decode(answer.body)["errorCode"] == 400004


def test_requests_that_mean_nothing_are_passed_over(client: AmqpClient) -> None:
    links = TwinLinks(client)

    client.start(links.requests, AmqpMessage(correlation_id="x"), settled=True)
    client.start(links.requests, AmqpMessage(annotations={"operation": "GET"}), settled=True)

    assert links.ask(TwinOperation.GET).annotations["status"] == 200


def test_bytes_that_are_no_message_end_the_link_for_requests(client: AmqpClient) -> None:
    links = TwinLinks(client)

    client.start(links.requests, b"\x00nonsense", settled=True)

    assert client.refused(links.requests)[0] == "amqp:decode-error"
    assert links.answers.is_open


def test_a_pair_that_is_attached_anew_has_to_ask_for_patches_again(scene: Scene, client: AmqpClient) -> None:
    older = TwinLinks(client)
    older.ask(TwinOperation.PUT)

    newer = client.attach(LinkKind.TWIN_ANSWERS, "d1", channel="other")
    client.rest()

    assert not older.requests.is_open
    assert not older.answers.is_open
    scene.run(scene.hub.patch_twin(D1, {"properties": {"desired": {"speed": 1}}}))
    assert client.received(newer) == []


def test_a_client_that_takes_no_answers_is_kept_a_few_of_the_newest(client: AmqpClient) -> None:
    links = TwinLinks(client)
    links.ask(TwinOperation.PATCH, msgspec.json.encode({f"n{n}": "x" * 3000 for n in range(10)}))
    twin_bytes = len(links.ask(TwinOperation.GET).body)
    links.answers.detach()
    answers = client.attach(LinkKind.TWIN_ANSWERS, "d1", channel="t", credit=0)
    count = 2 * MOST_WAITING_BYTES // twin_bytes
    for number in range(count):
        client.start(links.requests, twin_request(TwinOperation.GET, f"{number}"), settled=True)
        client.rest()

    answers.grant(count)

    found = [codec.decode(delivery.data).correlation_id for delivery in client.received(answers)]
    assert found == [f"{number}" for number in range(count - len(found), count)]
    assert count // 3 < len(found) <= count // 2


def test_credit_for_requests_is_given_anew(client: AmqpClient) -> None:
    links = TwinLinks(client)

    for number in range(150):
        client.start(links.requests, twin_request(TwinOperation.GET, f"{number}"), settled=True)
        client.rest() if number % 50 == 0 else client.exchange()

    client.rest()
    links.answers.grant(100)
    client.rest()
    assert len([event for event in client.events if isinstance(event, Received)]) == 150
