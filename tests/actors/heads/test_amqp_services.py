"""Twins and direct methods of AMQP clients.

Source: hub-protocols.md section 3.7; rows 65 and 66 of section 8.4
"""

from __future__ import annotations

import json
import uuid

import pytest

from actors.heads.amqp_links import MOST_WAITING
from actors.hub.client_services import (
    CallMethod,
    ClientChanged,
    DesiredPatch,
    DesiredTold,
    GetTwin,
    MethodAnswered,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from messaging.amqp.addresses import LinkKind
from messaging.amqp.codec import AmqpMessage, Int, MessageId
from messaging.amqp.twin_messages import TwinOperation, twin_request
from messaging.lifecycle import ActorRestarted
from tests.actors.amqp_world import HEAD, METHODS, SENSOR, TWINS, AmqpWorld

CALL = "11112222-3333-4444-5555-666677778888"


class Client:
    """A module with links for twins and methods."""

    def __init__(self, credit: int = 100) -> None:
        self.world = AmqpWorld()
        self.peer = self.world.connect()
        self.requests = self.world.link(self.peer, LinkKind.TWIN_REQUESTS)
        self.answers = self.world.link(self.peer, LinkKind.TWIN_ANSWERS, credit=credit)
        self.responses = self.world.link(self.peer, LinkKind.METHOD_RESPONSES)
        self.calls = self.world.link(self.peer, LinkKind.METHOD_CALLS, credit=credit)
        self.world.told(TWINS, ClientChanged)

    def ask(self, operation: TwinOperation, correlation_id: MessageId | None, patch: bytes = b"") -> None:
        request = twin_request(operation, correlation_id, patch)  # type: ignore[arg-type]
        self.peer.send(self.requests, request, settled=True)

    def received(self) -> list[AmqpMessage]:
        return [message for _, message in self.peer.received()]


@pytest.mark.parametrize("correlation_id", ["a", uuid.UUID(CALL), 5], ids=["text", "uuid", "number"])
def test_a_twin_is_answered_under_the_same_id(correlation_id: MessageId) -> None:
    client = Client()

    client.ask(TwinOperation.GET, correlation_id)
    [letter] = [one for one in client.world.letters(TWINS) if one.kind == GetTwin.__name__]
    client.world.tell(HEAD, Twin(SENSOR, b'{"desired":{}}'), TWINS, letter.correlation_id)

    [answer] = client.received()
    assert answer.correlation_id == correlation_id
    assert answer.annotations["status"] == 200
    assert type(answer.annotations["status"]) is Int
    assert answer.body == b'{"desired":{}}'


def test_reported_properties_are_answered_with_204_when_they_are_on_disk() -> None:
    client = Client()

    client.ask(TwinOperation.PATCH, "a", b'{"k":1}')
    [letter] = [one for one in client.world.letters(TWINS) if one.kind == PatchReported.__name__]
    assert letter.body[1] == b'{"k":1}'
    assert client.received() == []
    client.world.tell(HEAD, ReportedPatched(SENSOR), TWINS, letter.correlation_id)

    [answer] = client.received()
    assert (answer.correlation_id, answer.annotations["status"], answer.body) == ("a", 204, b"")


def test_a_patch_that_nobody_waits_for_is_applied_and_not_answered() -> None:
    client = Client()

    client.ask(TwinOperation.PATCH, None, b"{}")
    [letter] = [one for one in client.world.letters(TWINS) if one.kind == PatchReported.__name__]
    client.world.tell(HEAD, ReportedPatched(SENSOR), TWINS, letter.correlation_id)

    assert client.received() == []


def test_a_refusal_has_its_status_and_json_for_a_body() -> None:
    client = Client()

    client.ask(TwinOperation.PATCH, "a", b"{")
    [letter] = [one for one in client.world.letters(TWINS) if one.kind == PatchReported.__name__]
    client.world.tell(HEAD, TwinRefused(SENSOR, 400, "not JSON"), TWINS, letter.correlation_id)

    [answer] = client.received()
    assert answer.annotations["status"] == 400
    assert json.loads(answer.body) == {"errorCode": 400, "message": "not JSON"}


def test_twins_that_do_not_answer_are_answered_for() -> None:
    client = Client()

    client.ask(TwinOperation.GET, "a")
    client.world.system.advance(25)

    [answer] = client.received()
    assert answer.annotations["status"] == 504


def test_patches_of_desired_properties_are_switched_on_and_off() -> None:
    client = Client()
    changed = []

    for operation in (TwinOperation.DELETE, TwinOperation.PUT):
        client.ask(operation, operation.value)
        [answer] = client.received()
        assert (answer.correlation_id, answer.annotations["status"]) == (operation.value, 200)
        changed += [one.features for one in client.world.told(TWINS, ClientChanged)]

    assert changed == [("METHODS",), ("DESIRED_PROPERTIES", "METHODS")]


def test_a_patch_has_no_id_and_counts_as_told_when_it_was_sent() -> None:
    client = Client(credit=0)

    client.world.tell(HEAD, DesiredPatch(SENSOR, 3, b'{"k":1,"$version":3}'), TWINS)
    assert client.world.told(TWINS, DesiredTold) == []
    client.answers.grant(1)

    [patch] = client.received()
    assert (patch.correlation_id, patch.body) == (None, b'{"k":1,"$version":3}')
    assert client.world.told(TWINS, DesiredTold) == [DesiredTold(SENSOR, 3)]


@pytest.mark.parametrize(
    "message",
    [
        AmqpMessage(),
        AmqpMessage(annotations={"operation": "POST"}),
        AmqpMessage(annotations={"operation": 1}),
    ],
    ids=["none", "unknown", "no text"],
)
def test_a_request_that_there_is_not_is_passed_over(message: AmqpMessage) -> None:
    client = Client()

    client.peer.send(client.requests, message)
    client.ask(TwinOperation.PUT, "next")

    assert [answer.correlation_id for answer in client.received()] == ["next"]
    assert client.requests.credit == 100


def test_a_method_call_has_a_uuid_and_its_answer_goes_to_the_caller() -> None:
    client = Client()

    client.world.tell(HEAD, CallMethod(SENSOR, CALL, "reboot", b'{"in":1}'), METHODS)
    [call] = client.received()
    assert call.correlation_id == uuid.UUID(CALL)
    assert call.application_properties["IoThub-methodname"] == "reboot"
    assert call.body == b'{"in":1}'
    answer = AmqpMessage(
        body=b"{}", correlation_id=call.correlation_id, application_properties={"IoThub-status": Int(201)}
    )
    client.peer.send(client.responses, answer, settled=True)

    assert client.world.told(METHODS, MethodAnswered) == [MethodAnswered(SENSOR, CALL, 201, b"{}")]


def test_calls_for_a_client_without_credit_wait_and_not_without_end() -> None:
    client = Client(credit=0)

    for number in range(MOST_WAITING + 10):
        client.world.tell(HEAD, CallMethod(SENSOR, str(number), "m", b""), METHODS)
    client.calls.grant(1000)

    assert [call.correlation_id for call in client.received()] == [str(n) for n in range(MOST_WAITING)]


def test_a_call_for_who_has_no_link_for_it_goes_nowhere() -> None:
    client = Client()
    client.calls.detach()
    client.peer.go()

    client.world.tell(HEAD, CallMethod(SENSOR, CALL, "m", b""), METHODS)
    client.world.tell(HEAD, CallMethod("nobody", CALL, "m", b""), METHODS)

    assert client.received() == []


def test_requests_are_bounded_by_those_that_have_no_answer() -> None:
    client = Client()

    for number in range(3):
        client.ask(TwinOperation.GET, str(number))
    assert client.requests.credit == 97
    for letter in client.world.letters(TWINS):
        client.world.tell(HEAD, Twin(SENSOR, b"{}"), TWINS, letter.correlation_id)
    client.peer.go()

    assert client.requests.credit == 100


def test_a_service_that_restarts_is_told_again_who_there_is() -> None:
    client = Client()
    client.world.told(METHODS, ClientChanged)

    client.world.tell(HEAD, ActorRestarted(METHODS, "boom", 1), METHODS)

    assert [one.identity for one in client.world.told(METHODS, ClientChanged)] == [SENSOR]
