"""What waits for AMQP clients: inputs of modules and messages from the cloud, until each has its outcome.

Source: hub-protocols.md sections 3.4, 3.5, 7.3, 7.4; row 64 of section 8.4
"""

from __future__ import annotations

import uuid

from actors.heads.amqp_deliveries import FIRST_RESUME_S, MOST_C2D_DELIVERIES
from actors.heads.attached import C2D_WINDOW_MESSAGES
from actors.hub.router import Endpoints
from actors.store.messages import Attach, Delivered, Detach, Expired, Undeliverable
from messaging import system_properties as names
from messaging.amqp.addresses import LinkKind
from messaging.amqp.link import Link, RcvSettleMode
from messaging.lifecycle import ActorRestarted
from messaging.message import encode_header
from messaging.time_text import iso_utc
from tests.actors.amqp_world import HEAD, LEAF, ROUTER, SENSOR, STORE, AmqpPeer, AmqpWorld

IN1 = (f"{SENSOR}/inputs/in1", SENSOR, "in1")
IN2 = (f"{SENSOR}/inputs/in2", SENSOR, "in2")
QUEUE = "leaf/$c2d"
ACK_S = 30.0


class Inputs:
    """A module that listens on its inputs."""

    def __init__(self, credit: int = 100) -> None:
        self.world = AmqpWorld(endpoints=[IN1, IN2])
        self.peer: AmqpPeer = self.world.connect()
        self.link: Link = self.world.link(self.peer, LinkKind.INPUTS, credit=credit)
        self.attached = {one.endpoint_id: one for one in self.world.told(STORE, Attach)}
        self.in1 = self.attached[IN1[0]]

    def ready(self, first: int, *bodies: bytes, header: bytes | None = None) -> None:
        if header is None:
            self.world.ready(self.in1, first, *bodies)
        else:
            self.world.ready(self.in1, first, *bodies, header=header)
        self.peer.go()

    def bodies(self) -> list[bytes]:
        return [message.body for _, message in self.peer.received()]

    def delivered(self) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
        self.peer.go()
        return [(one.endpoint_id, one.ranges) for one in self.world.told(STORE, Delivered)]

    def advance(self, seconds: float) -> None:
        self.world.system.advance(seconds)
        self.peer.go()


class Cloud(Inputs):
    """A device that wants what the cloud sends."""

    def __init__(self) -> None:
        self.world = AmqpWorld()
        self.peer = self.world.connect(LEAF)
        self.link = self.world.link(self.peer, LinkKind.C2D, LEAF, rcv_settle_mode=RcvSettleMode.SECOND)
        [self.in1] = self.world.told(STORE, Attach)


def test_a_link_for_inputs_is_attached_to_all_of_them() -> None:
    module = Inputs()

    assert set(module.attached) == {IN1[0], IN2[0]}
    module.link.detach()
    module.peer.go()
    assert {one.endpoint_id for one in module.world.told(STORE, Detach)} == {IN1[0], IN2[0]}


def test_a_message_names_its_input_and_its_sender_and_is_delivered_when_accepted() -> None:
    module = Inputs()
    header = encode_header(
        "/messages/", {"k": "v"}, {"connectionDeviceId": "leaf", "contentType": "application/json"}
    )

    module.ready(7, b"{}", header=header)

    [(delivery, message)] = module.peer.received()
    assert message.body == b"{}"
    assert message.application_properties == {"k": "v"}
    assert message.content_type == "application/json"
    assert message.annotations["x-opt-input-name"] == "in1"
    assert message.annotations["iothub-connection-device-id"] == "leaf"
    assert message.annotations["x-opt-lock-token"] == str(uuid.UUID(bytes_le=delivery.tag))
    assert module.delivered() == []
    delivery.accept()
    assert module.delivered() == [(IN1[0], ((7, 7),))]


def test_no_more_is_sent_than_the_client_has_credit_for() -> None:
    module = Inputs(credit=2)

    module.ready(1, b"1", b"2", b"3", b"4")

    first = module.peer.received()
    assert [message.body for _, message in first] == [b"1", b"2"]
    for delivery, _ in first:
        delivery.accept()
    assert module.delivered() == [(IN1[0], ((1, 2),))]
    assert module.bodies() == []
    module.link.grant(1)
    assert module.bodies() == [b"3"]


def test_what_is_given_back_comes_again_in_order_and_before_what_is_behind_it() -> None:
    module = Inputs(credit=3)
    module.ready(1, b"1", b"2", b"3", b"4")
    received = module.peer.received()

    for delivery, message in received:
        if message.body == b"2":
            delivery.accept()
        else:
            delivery.release()
    module.link.grant(10)
    assert module.delivered() == [(IN1[0], ((2, 2),))]
    assert module.bodies() == []  # for a while: nobody shall spin

    module.advance(FIRST_RESUME_S + 1)
    assert module.bodies() == [b"1", b"3", b"4"]


def test_what_is_rejected_is_dropped_and_counted() -> None:
    module = Inputs()
    module.ready(1, b"1", b"2")
    (first, _), (second, _) = module.peer.received()

    first.reject("amqp:internal-error", "not wanted")
    second.accept()

    assert module.delivered() == [(IN1[0], ((2, 2),))]
    assert [one.ranges for one in module.world.told(STORE, Undeliverable)] == [((1, 1),)]


def test_modified_is_no_answer_and_the_message_comes_when_its_time_is_over() -> None:
    module = Inputs()
    module.ready(1, b"1")
    [(delivery, _)] = module.peer.received()

    delivery.modify()
    module.peer.go()
    module.advance(ACK_S - 5)
    assert module.bodies() == []
    module.advance(10)

    assert module.bodies() == [b"1"]
    assert module.delivered() == []
    assert module.world.told(STORE, Undeliverable) == []


def test_a_client_that_answers_nothing_gets_everything_again() -> None:
    module = Inputs()
    module.ready(1, b"1", b"2")
    old = module.peer.received()

    module.advance(ACK_S + 2)

    again = module.peer.received()
    assert [message.body for _, message in again] == [b"1", b"2"]
    for delivery, _ in old:
        delivery.accept()  # too late, and of no meaning
    assert module.delivered() == []
    for delivery, _ in again:
        delivery.accept()
    assert module.delivered() == [(IN1[0], ((1, 2),))]


def test_a_message_that_was_passed_over_comes_again() -> None:
    module = Inputs()
    module.ready(1, b"1", b"2", b"3")
    received = module.peer.received()

    module.advance(ACK_S - 2)
    received[1][0].accept()
    received[2][0].accept()
    module.peer.go()
    module.advance(5)

    assert module.bodies() == [b"1"]


def test_a_client_that_works_them_off_in_turn_gets_none_twice() -> None:
    module = Inputs()
    module.ready(1, *[b"x"] * 5)
    received = module.peer.received()

    for delivery, _ in received:
        module.advance(20)
        delivery.accept()
        module.peer.go()

    assert module.bodies() == []


def test_a_client_that_does_not_read_is_sent_nothing_more() -> None:
    module = Inputs()

    module.peer.stop_reading()
    module.ready(1, b"1")
    assert module.bodies() == []
    module.peer.read_again()

    assert module.bodies() == [b"1"]


def test_a_message_that_the_client_cannot_take_is_dropped() -> None:
    module = Inputs()
    link = module.world.system.cells[HEAD]._behaviour._clients.find(SENSOR).links[LinkKind.INPUTS].link
    link.max_message_bytes = 200

    module.ready(1, b"x" * 200, b"small")

    assert module.bodies() == [b"small"]
    assert [one.ranges for one in module.world.told(STORE, Undeliverable)] == [((1, 1),)]


def test_a_header_that_cannot_be_read_is_dropped_and_the_next_one_comes() -> None:
    module = Inputs()

    module.ready(1, b"poison", header=b"\xc1")
    module.ready(2, b"good")

    assert module.bodies() == [b"good"]
    assert [one.ranges for one in module.world.told(STORE, Undeliverable)] == [((1, 1),)]


def test_routes_that_change_attach_and_detach() -> None:
    module = Inputs()
    module.ready(1, b"1")
    [(delivery, _)] = module.peer.received()

    module.world.tell(HEAD, Endpoints((IN2,)), ROUTER)
    assert [one.endpoint_id for one in module.world.told(STORE, Detach)] == [IN1[0]]
    delivery.accept()
    assert module.delivered() == []

    module.world.tell(HEAD, Endpoints((IN1, IN2)), ROUTER)
    [again] = module.world.told(STORE, Attach)
    module.world.ready(again, 1, b"1")
    assert module.bodies() == [b"1"]


def test_what_a_client_has_when_the_store_restarts_is_not_sent_again() -> None:
    module = Inputs()
    module.ready(1, b"1")
    [(delivery, _)] = module.peer.received()

    module.world.tell(HEAD, ActorRestarted(STORE, "boom", 1), STORE)
    again = {one.endpoint_id: one for one in module.world.told(STORE, Attach)}
    module.world.ready(again[IN1[0]], 1, b"1", b"2")
    bodies = module.bodies()
    delivery.accept()

    assert set(again) == set(module.attached)
    assert bodies == [b"2"]
    assert module.delivered() == [(IN1[0], ((1, 1),))]


def test_what_a_client_has_answered_since_the_store_restarted_is_said_again() -> None:
    module = Inputs()
    module.ready(1, b"1")
    [(delivery, _)] = module.peer.received()
    module.world.tell(HEAD, ActorRestarted(STORE, "boom", 1), STORE)
    again = {one.endpoint_id: one for one in module.world.told(STORE, Attach)}
    delivery.accept()
    said = module.delivered()

    module.world.ready(again[IN1[0]], 1, b"1", b"2")

    assert module.bodies() == [b"2"]
    assert said == module.delivered() == [(IN1[0], ((1, 1),))]


# from the cloud


def test_a_message_from_the_cloud_is_settled_in_two_steps() -> None:
    device = Cloud()
    assert (device.in1.endpoint_id, device.in1.window_messages) == (QUEUE, C2D_WINDOW_MESSAGES)
    header = encode_header("", {}, {names.ACK: "full", names.TO: "/somewhere"})

    device.ready(1, b"1", header=header)
    [(delivery, message)] = device.peer.received()
    assert message.to == "/devices/leaf"
    assert message.application_properties["iothub-ack"] == "full"
    delivery.accept()
    assert not delivery.settled

    assert device.delivered() == [(QUEUE, ((1, 1),))]
    assert delivery.settled


def test_a_module_gets_nothing_from_the_cloud() -> None:
    world = AmqpWorld()
    peer = world.connect()

    world.link(peer, LinkKind.C2D)

    assert world.told(STORE, Attach) == []


def test_a_device_may_give_a_message_back_so_often_and_no_more() -> None:
    device = Cloud()
    device.ready(1, b"1")

    for times in range(1, MOST_C2D_DELIVERIES + 1):
        [(delivery, _)] = device.peer.received()
        delivery.release()
        device.peer.go()
        if times < MOST_C2D_DELIVERIES:
            device.advance(FIRST_RESUME_S * 2 ** (times - 1) + 2)

    device.advance(400)
    assert device.bodies() == []
    assert [one.ranges for one in device.world.told(STORE, Undeliverable)] == [((1, 1),)]


def test_a_message_that_expires_while_it_waits_for_credit_is_left_out() -> None:
    world = AmqpWorld()
    peer = world.connect(LEAF)
    link = world.link(peer, LinkKind.C2D, LEAF, credit=0)
    [attach] = world.told(STORE, Attach)
    expiry = iso_utc(world.clock.now_s() + 60)
    world.ready(attach, 1, b"1", header=encode_header("", {}, {names.EXPIRY: expiry}))

    world.system.advance(61)
    link.grant(1)

    assert peer.received() == []
    assert [one.ranges for one in world.told(STORE, Expired)] == [((1, 1),)]
