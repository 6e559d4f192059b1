"""AMQP on a running hub, over TLS: the rows of the sheet's case table that are about it.

Source: hub-protocols.md sections 3 and 8.4
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from actors.hub.client_services import MethodResult
from messaging import sas
from messaging.amqp import codec
from messaging.amqp.codec import AmqpMessage, Int, MessageId
from messaging.amqp.events import Outcome, Received
from messaging.amqp.link import Delivery, Link, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import MECHANISMS, ClientSasl
from messaging.amqp.values import Symbol, ULong, decode_value, encode_value
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import LARGEST_MESSAGE_BYTES
from messaging.mqtt.packets import PubAck, Publish, Subscribe
from tests.integration.amqp_scene import call_method, desire_until, receive_c2d
from tests.integration.amqp_socket import AmqpSocket, LinkRefused, path_of
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import MqttSocket

ROUTES = {
    "up": "FROM /messages/* INTO $upstream",
    "in": 'FROM /messages/* INTO BrokeredEndpoint("/modules/filter/inputs/in")',
}
FILTER = "edge1/filter"
CHANNEL = Symbol("com.microsoft:channel-correlation-id")
AT_ONCE = {"snd_settle_mode": SndSettleMode.SETTLED, "rcv_settle_mode": RcvSettleMode.FIRST}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with HubProcess(ROUTES, modules=("filter", "a", "b"), devices=("leaf", "other")) as made:
        with AmqpSocket(made):
            pass  # it is up; what is said to its actors before that is lost
        yield made


def upstream_of(hub: HubProcess, body: bytes) -> dict[str, Any]:
    """Wait for the message with this body upstream."""
    wanted = base64.b64encode(body).decode()
    count = 0
    while True:
        records = hub.upstream(count + 1)
        count = len(records)
        for record in records:
            if record["Body"] == wanted:
                return record


# who a client is


def put(**changes: object) -> Callable[[HubProcess], AmqpMessage]:
    def make(hub: HubProcess) -> AmqpMessage:
        properties = {
            "operation": "put-token",
            "type": "servicebus.windows.net:sastoken",
            "name": f"{hub.iothub}/devices/leaf",
        }
        message = AmqpMessage(message_id="1", value=hub.token("leaf"), is_value=True)
        for name, value in changes.items():
            if name in properties:
                properties[name] = str(value)
            else:
                setattr(message, name, value)
        message.application_properties = dict(properties)
        return message

    return make


def expired(hub: HubProcess) -> AmqpMessage:
    return put(value=hub.token("leaf", life_s=-400))(hub)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        pytest.param(put(), 200, id="good"),
        pytest.param(put(type="azure-devices.net:sastoken", operation="Put-Token"), 200, id="other names"),
        pytest.param(put(type="jwt"), 400, id="type"),
        pytest.param(put(operation="get-token"), 400, id="operation"),
        pytest.param(put(name=""), 400, id="no name"),
        pytest.param(put(value=7), 400, id="a number as token"),
        pytest.param(put(value=None, is_value=False, body=b"SharedAccessSignature"), 400, id="data"),
        pytest.param(put(value="let me in"), 400, id="no token"),
        pytest.param(expired, 400, id="expired"),
    ],
)
def test_a_token_is_answered_with_the_status_of_its_request(
    hub: HubProcess, make: Callable[[HubProcess], AmqpMessage], status: int
) -> None:
    """Source: hub-protocols.md section 8.4, row 57."""
    with AmqpSocket(hub) as client:
        answer = client.put_token("leaf", request=make(hub))

        assert answer.application_properties["status-code"] == status
        assert type(answer.application_properties["status-code"]) is Int
        assert isinstance(answer.application_properties["status-description"], str)


def test_a_wrong_signature_is_noticed_when_a_link_is_attached(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 58."""
    audience = sas.audience_of(hub.iothub, Identity("leaf"))
    forged = sas.make_token(audience, b"k" * 32, int(time.time()) + 3600)
    with AmqpSocket(hub) as client:
        answer = client.put_token("leaf", forged)
        assert answer.application_properties["status-code"] == 200

        with pytest.raises(LinkRefused) as caught:
            client.events_sender("leaf")

    assert caught.value.condition == "amqp:unauthorized-access"
    assert "SharedAccessSignature" not in str(caught.value)


@pytest.mark.parametrize(
    "message_id", [ULong(7), "a text", uuid.UUID(int=7)], ids=["ulong", "string", "uuid"]
)
def test_the_answer_to_a_token_has_the_id_of_the_request_in_its_type(
    hub: HubProcess, message_id: MessageId
) -> None:
    """Source: hub-protocols.md section 8.4, row 59."""
    with AmqpSocket(hub) as client:
        answer = client.put_token("leaf", message_id=message_id)

        assert answer.correlation_id == message_id
        # An int is an AMQP ulong, see codec.py.
        assert isinstance(answer.correlation_id, int if isinstance(message_id, int) else type(message_id))


def test_two_identities_share_a_connection_which_ends_with_their_last_link(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 60."""
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        of_leaf = client.events_sender("leaf")
        client.send_ok(of_leaf, b"60 leaf")
        client.log_in("edge1/a")
        of_module = client.events_sender("edge1/a")
        client.send_ok(of_module, b"60 module")
        of_leaf.detach()
        client.flush()
        client.send_ok(of_module, b"60 module again")
        of_module.detach()
        client.flush()

        assert not client.end().offence
    sender = upstream_of(hub, b"60 leaf")["SystemProperties"]
    assert sender["connectionDeviceId"] == "leaf"
    assert "connectionModuleId" not in sender
    sender = upstream_of(hub, b"60 module again")["SystemProperties"]
    assert (sender["connectionDeviceId"], sender["connectionModuleId"]) == ("edge1", "a")


# links


@pytest.mark.parametrize(
    "address", ["/Devices/leaf/Messages/Events", "amqps://h:5671/devices/leaf/messages/events"]
)
def test_addresses_are_known_by_their_path_in_any_case(hub: HubProcess, address: str) -> None:
    """Source: hub-protocols.md section 8.4, row 61."""
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        link = client.sender(address)
        client.send_ok(link, f"61 {address}".encode())

    assert upstream_of(hub, f"61 {address}".encode())


@pytest.mark.parametrize(
    ("address", "sends"),
    [
        pytest.param("/devices/leaf/unknown", True, id="unknown"),
        pytest.param("/messages/serviceBound/feedback", False, id="of services"),
        pytest.param("/devices/leaf/messages/events", False, id="to be read"),
        pytest.param("/devices/leaf/messages/devicebound", True, id="to be written"),
        pytest.param("", True, id="none"),
    ],
)
def test_a_link_that_there_is_not_is_detached(hub: HubProcess, address: str, sends: bool) -> None:
    """Source: hub-protocols.md section 8.4, row 61."""
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        link = client.events_sender("leaf")

        with pytest.raises(LinkRefused) as caught:
            client.sender(address) if sends else client.receiver(address)

        assert caught.value.condition == "amqp:not-allowed"
        client.send_ok(link, b"61 goes on")


def test_a_second_link_of_the_same_kind_closes_the_first(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 62."""
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        first = client.events_sender("leaf")
        second = client.events_sender("leaf")

        client.detached(first)
        client.send_ok(second, b"62")


def pair(client: AmqpSocket, identity: str, node: str, channel: str) -> tuple[Link, Link]:
    properties = {CHANNEL: channel}
    address = f"{path_of(identity)}/{node}"
    sender = client.sender(address, properties=properties, **AT_ONCE)
    return sender, client.receiver(address, properties=properties, **AT_ONCE)


@pytest.mark.parametrize("node", ["twin", "methods/devicebound"])
def test_a_pair_with_another_channel_closes_the_older_one(hub: HubProcess, node: str) -> None:
    """Source: hub-protocols.md section 8.4, row 62."""
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        older = pair(client, "leaf", node, "x:one")
        newer = pair(client, "leaf", node, "x:two")

        for link in older:
            client.detached(link)
        assert all(link.is_open for link in newer)


# messages


def test_elements_of_a_batch_have_their_sections_in_any_order(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 63."""

    def element(body: bytes) -> bytes:  # in the order of the C SDK
        return (
            b"\x00\x53\x73" + encode_value(["id-" + body.decode()])
            + b"\x00\x53\x74" + encode_value({"a": "b"})
            + b"\x00\x53\x72" + encode_value({Symbol("iothub-interface-id"): "urn:i"})
            + b"\x00\x53\x75" + encode_value(body)
        )  # fmt: skip

    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        link = client.events_sender("leaf")
        batch = codec.join_batch([element(b"63-%d" % number) for number in range(20)])

        settled = client.send(link, batch, message_format=codec.BATCH_FORMAT)

    assert settled.outcome is Outcome.ACCEPTED
    for number in range(20):
        record = upstream_of(hub, b"63-%d" % number)
        assert record["SystemProperties"]["messageId"] == f"id-63-{number}"
        assert record["Properties"] == {"a": "b"}


def test_a_message_may_have_256_kib_and_not_a_byte_more(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 22."""
    properties = {"name": "value"}
    room = LARGEST_MESSAGE_BYTES - len("namevalue")
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        link = client.events_sender("leaf")

        largest = client.send(link, AmqpMessage(body=b"x" * room, application_properties=dict(properties)))
        over = client.send(link, AmqpMessage(body=b"y" * (room + 1), application_properties=dict(properties)))
        client.send_ok(link, b"22 behind it")

    assert largest.outcome is Outcome.ACCEPTED
    assert (over.outcome, over.condition) == (Outcome.REJECTED, "amqp:link:message-size-exceeded")
    assert upstream_of(hub, b"22 behind it")


def test_what_comes_with_its_end_in_one_segment_counts(hub: HubProcess) -> None:
    """As row 25 has it of MQTT: messages settled when they are sent, Detach and Close at once."""
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        link = client.sender(f"{path_of('leaf')}/messages/events", snd_settle_mode=SndSettleMode.SETTLED)
        for number in range(3):
            link.send(codec.encode(AmqpMessage(body=b"25-%d" % number)), b"%d" % number, settled=True)
        link.detach()
        client.engine.close()
        client.flush()
        client.end()

    for number in range(3):
        assert upstream_of(hub, b"25-%d" % number)


def settle(client: AmqpSocket, delivery: Delivery, outcome: str) -> None:
    if outcome == "reject":
        delivery.reject("amqp:internal-error", "not wanted")
    else:
        getattr(delivery, outcome)()
    client.flush()


TIMES = {"accept": 1, "release": 2, "reject": 1, "modify": 2}  # that a message comes in the end


@pytest.mark.parametrize("outcome", TIMES)
def test_each_outcome_of_a_message_from_the_cloud_has_its_effect(hub: HubProcess, outcome: str) -> None:
    """Source: hub-protocols.md section 8.4, row 64."""
    address = "/devices/other/messages/devicebound"
    bodies = [outcome.encode(), b"behind it"]
    receive_c2d(hub, "other", bodies[0])
    with settled_first(hub, "other", address, outcome) as (client, link, first):
        receive_c2d(hub, "other", bodies[1])
        got = [first.body, *accepted_until(client, link, bodies[1])]
        client.close()

    assert first.to == "/devices/other"
    assert got == [bodies[0]] * TIMES[outcome] + [bodies[1]]


@pytest.mark.parametrize("outcome", TIMES)
def test_each_outcome_of_a_message_at_an_input_has_its_effect(hub: HubProcess, outcome: str) -> None:
    """Source: hub-protocols.md section 8.4, row 64."""
    bodies = [f"64 {outcome} {number}".encode() for number in range(2)]
    address = f"{path_of(FILTER)}/messages/events"
    with AmqpSocket(hub) as sending, AmqpSocket(hub) as earlier:
        earlier.log_in(FILTER)
        drain(hub, earlier, earlier.receiver(address))
        sending.log_in("leaf")
        sender = sending.events_sender("leaf")
        sending.send_ok(sender, bodies[0])
        with settled_first(hub, FILTER, address, outcome) as (client, link, first):
            sending.send_ok(sender, bodies[1])
            got = [first.body, *accepted_until(client, link, bodies[1])]
            client.close()

    assert first.annotations["x-opt-input-name"] == "in"
    assert first.annotations["iothub-connection-device-id"] == "leaf"
    assert got == [bodies[0]] * TIMES[outcome] + [bodies[1]]


@contextmanager
def settled_first(
    hub: HubProcess, client_id: str, address: str, outcome: str
) -> Iterator[tuple[AmqpSocket, Link, AmqpMessage]]:
    """Answer the first message with an outcome; yields the connection to go on with, its link, the message.

    Modified is no answer: the message comes again in MessageAckTimeoutSecs, or at once on another link.
    """
    with ExitStack() as stack:
        client = stack.enter_context(AmqpSocket(hub)).log_in(client_id)
        link = client.receiver(address)
        delivery, message = client.receive(link)
        settle(client, delivery, outcome)
        if outcome == "modify":
            client.close()
            client = stack.enter_context(AmqpSocket(hub)).log_in(client_id)
            link = client.receiver(address)
        yield client, link, message


def accepted_until(client: AmqpSocket, link: Link, last: bytes) -> list[bytes]:
    """Accept what comes until this has come; return the bodies."""
    got: list[bytes] = []
    while last not in got:
        delivery, message = client.receive(link)
        link.grant(1)
        settle(client, delivery, "accept")
        got.append(message.body)
    return got


def drain(hub: HubProcess, client: AmqpSocket, link: Link) -> None:
    """Accept what waited for this input; it is over when a message sent now comes."""
    with AmqpSocket(hub) as sending:
        sending.log_in("edge1/b")
        mark = uuid.uuid4().bytes
        sending.send_ok(sending.events_sender("edge1/b"), mark)
    accepted_until(client, link, mark)
    client.close()


# twins and methods


def test_requests_for_a_twin_have_their_status_and_switch_patches_on_and_off(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 65."""
    with AmqpSocket(hub) as client:
        client.log_in("edge1/a")
        sender, receiver = pair(client, "edge1/a", "twin", "twin:65")

        def ask(operation: str, body: bytes = b" ") -> tuple[object, AmqpMessage]:
            request = AmqpMessage(
                body=body, correlation_id=f"c-{operation}", annotations={"operation": operation}
            )
            sender.send(codec.encode(request), operation.encode(), settled=True)
            client.flush()
            while True:
                delivery, answer = client.receive(receiver)
                receiver.grant(1)
                client.flush()
                if answer.correlation_id is not None:
                    assert delivery.settled
                    assert answer.correlation_id == f"c-{operation}"
                    return answer.annotations["status"], answer

        def next_patch(limit_s: float) -> Any:
            _, patch = client.receive(receiver, limit_s)
            assert patch.correlation_id is None
            receiver.grant(1)
            client.flush()
            return json.loads(patch.body)

        status, twin = ask("GET")
        assert status == 200
        assert type(status) is Int
        assert json.loads(twin.body)["reported"] == {"$version": 1}
        status, answer = ask("PATCH", b'{"rpm": 65}')
        assert (status, answer.body) == (204, b"")
        assert json.loads(ask("GET")[1].body)["reported"] == {"rpm": 65, "$version": 2}
        refused, why = ask("PATCH", b'{"a.b": 1}')
        assert refused == 400
        assert json.loads(why.body)  # the Node SDK parses it
        assert ask("PUT")[0] == 200
        patch = desire_until(hub, "a", {"limit": 65}, next_patch)
        assert patch["limit"] == 65
        assert ask("DELETE")[0] == 200
        desire_until(hub, "a", {"limit": 66}, lambda limit_s: no_patch(client, limit_s))
        assert json.loads(ask("GET")[1].body)["desired"]["limit"] == 66
        assert not any(isinstance(event, Received) for event in client.events)


def no_patch(client: AmqpSocket, limit_s: float) -> None:
    """Take what comes for a while; patches are among the events then."""
    ends_s = time.monotonic() + limit_s
    while (left_s := ends_s - time.monotonic()) > 0:
        try:
            client.events += client.read(left_s)
        except TimeoutError:
            return


def test_a_method_is_called_with_a_uuid_which_the_answer_repeats(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 66: the hub never sends another type, which C rejects."""
    results: queue.Queue[object] = queue.Queue()
    with AmqpSocket(hub) as client:
        client.log_in("leaf")
        sender, receiver = pair(client, "leaf", "methods/devicebound", "leaf")  # as C names it
        caller = threading.Thread(
            target=lambda: results.put(call_method(hub, "leaf", "start", b'{"rpm": 1}')), daemon=True
        )
        caller.start()

        delivery, call = client.receive(receiver)
        assert delivery.settled
        assert isinstance(call.correlation_id, uuid.UUID)
        assert call.application_properties["IoThub-methodname"] == "start"
        assert call.body == b'{"rpm": 1}'
        answer = AmqpMessage(
            body=b'{"is": 2}',
            correlation_id=call.correlation_id,
            application_properties={"IoThub-status": Int(207)},
        )
        sender.send(codec.encode(answer), b"1", settled=True)
        client.flush()

        result = results.get(timeout=20)

    assert isinstance(result, MethodResult)
    assert (result.status, result.payload) == (207, b'{"is": 2}')


# the connection


def test_a_client_may_skip_sasl_and_external_is_not_offered(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 67."""
    with AmqpSocket(hub, connect=False) as plain, AmqpSocket(hub, connect=False) as asking:
        plain.send_bytes(b"AMQP\x00\x01\x00\x00")
        assert plain.socket.recv(8) == b"AMQP\x00\x01\x00\x00"
        asking.send_bytes(b"AMQP\x03\x01\x00\x00")
        said = b""
        while len(said) < 12 or len(said) < 8 + int.from_bytes(said[8:12], "big"):
            said += asking.socket.recv(4096)

    assert said.startswith(b"AMQP\x03\x01\x00\x00")
    mechanisms: Any = decode_value(said[16:])
    assert tuple(mechanisms.value[0]) == MECHANISMS


def test_a_user_of_sasl_plain_needs_no_other_token(hub: HubProcess) -> None:
    user = f"edge1/modules/a@sas.{hub.iothub.partition('.')[0]}"
    plain = ClientSasl("PLAIN", user, Secret(hub.token("edge1/a").encode()))
    with AmqpSocket(hub, sasl=plain) as client:
        client.send_ok(client.events_sender("edge1/a"), b"by PLAIN")

    assert upstream_of(hub, b"by PLAIN")["SystemProperties"]["connectionModuleId"] == "a"


def test_a_client_that_comes_over_another_protocol_takes_the_place_of_the_older(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 8.4, row 27."""
    with MqttSocket(hub) as mqtt, AmqpSocket(hub) as amqp, AmqpSocket(hub) as second:
        mqtt.connect(hub, "leaf")
        amqp.log_in("leaf", "edge1/a")
        of_module = amqp.events_sender("edge1/a")
        of_leaf = amqp.events_sender("leaf")
        assert mqtt.rest() == b""
        amqp.send_ok(of_leaf, b"27 AMQP")

        with MqttSocket(hub) as later:
            later.connect(hub, "leaf")
            amqp.detached(of_leaf)
            amqp.send_ok(of_module, b"27 the other identity of the connection stays")
            later.send(Publish("devices/leaf/messages/events/", b"27 MQTT", 1, 1))
            assert later.receive() == PubAck(1)

            second.log_in("leaf")
            second.send_ok(second.events_sender("leaf"), b"27 AMQP again")
            assert later.rest() == b""

    for body in (b"27 AMQP", b"27 MQTT", b"27 AMQP again"):
        assert upstream_of(hub, body)


def test_what_one_protocol_brings_the_other_delivers(hub: HubProcess) -> None:
    sent = {"body": b"across", "properties": {"odd = & / ü +%": "a b&c=d", "empty": ""}}
    with AmqpSocket(hub) as amqp, MqttSocket(hub) as mqtt:
        mqtt.connect(hub, FILTER)
        mqtt.send(Subscribe(1, (("devices/edge1/modules/filter/inputs/#", 1),)))
        mqtt.receive()
        amqp.log_in("leaf")
        message = AmqpMessage(
            body=b"AMQP to MQTT",
            message_id="m-1",
            content_type="application/json",
            application_properties=dict(sent["properties"]),  # type: ignore[call-overload]
        )
        assert amqp.send(amqp.events_sender("leaf"), message).outcome is Outcome.ACCEPTED
        while True:
            packet = mqtt.receive()
            assert isinstance(packet, Publish)
            mqtt.send(PubAck(packet.packet_id))
            if packet.payload == b"AMQP to MQTT":
                break

    assert "%24.mid=m-1" in packet.topic
    assert "%24.ct=application%2Fjson" in packet.topic
    assert "%24.cdid=leaf" in packet.topic
    assert "empty=" in packet.topic
