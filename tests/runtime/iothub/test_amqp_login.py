"""Who may do what over AMQP at the stand-in: SASL, tokens, attaches, take-over, the registry, expiry."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from messaging import sas
from messaging.amqp import cbs
from messaging.amqp.addresses import LinkKind
from messaging.amqp.codec import AmqpMessage
from messaging.amqp.events import Outcome
from messaging.amqp.sasl import ClientSasl
from messaging.envelope import Secret
from messaging.identity import Identity
from runtime.iothub.amqp.front import STRANGER_LIMIT_S
from runtime.iothub.amqp.tokens import ShownTokens
from runtime.iothub.policies import Permission
from runtime.iothub.records import CutOff
from tests.runtime.client_certificates import make_client
from tests.runtime.iothub.amqp_client import AmqpClient, connect
from tests.runtime.iothub.mqtt_scene import HOST, Scene

D1, D2 = Identity("d1"), Identity("d2")
UNAUTHORIZED = "amqp:unauthorized-access"
PUT = {"operation": "put-token", "type": "azure-devices.net:sastoken", "name": "n"}


def can_send(client: AmqpClient, client_id: str) -> bool:
    """Attach a link for messages and send one."""
    link = client.attach(LinkKind.EVENTS, client_id)
    return client.send(link, AmqpMessage(body=client_id.encode())).outcome is Outcome.ACCEPTED


# ---- SASL


@pytest.mark.parametrize(
    "sasl",
    [None, ClientSasl("ANONYMOUS"), ClientSasl("MSSBCBS")],
    ids=["none", "ANONYMOUS", "MSSBCBS"],
)
def test_a_client_that_shows_tokens_needs_no_name_before(scene: Scene, sasl: ClientSasl | None) -> None:
    client = AmqpClient(scene, sasl).opened()

    assert client.put_token("d1") == 200
    assert can_send(client, "d1")


@pytest.mark.parametrize("host", ["sas.hub", "hub"])
def test_plain_with_a_token_is_as_good_as_a_token_on_cbs(scene: Scene, host: str) -> None:
    client = AmqpClient(scene, ClientSasl("PLAIN", f"d1@{host}", secret(scene.token("d1")))).opened()

    assert can_send(client, "d1")
    assert client.refused(client.ask(LinkKind.EVENTS, "d2"))[0] == UNAUTHORIZED


def test_plain_lets_a_module_in_with_the_token_of_its_device(scene: Scene) -> None:
    scene.create("d1/m")
    plain = ClientSasl("PLAIN", "d1/modules/m@sas.hub", secret(scene.token("d1")))

    client = AmqpClient(scene, plain).opened()

    assert can_send(client, "d1/m")


@pytest.mark.parametrize(
    ("user", "signed_by"),
    [("d1@sas.hub", "d2"), ("d2@sas.hub", "d1"), ("nobody@sas.hub", "d1"), ("d1", "d1")],
    ids=["another's key", "another's token", "unknown", "no host"],
)
def test_plain_that_proves_nothing_is_refused_in_sasl(scene: Scene, user: str, signed_by: str) -> None:
    token = scene.token("d1", signed_by=signed_by)

    client = AmqpClient(scene, ClientSasl("PLAIN", user, secret(token)))

    end = client.wait_for_end()
    assert "PLAIN" in end.description
    assert not client.transport.known


def test_plain_of_a_policy_permits_what_the_policy_permits(scene: Scene) -> None:
    policy = scene.hub.policies.find("service")
    token = sas.make_token(HOST, policy.keys[0], int(scene.clock.now_s() + 60), "service")
    client = AmqpClient(scene, ClientSasl("PLAIN", "service@sas.root.hub", secret(token))).opened()

    assert tokens_of(client).permit(Permission.SERVICE_CONNECT, "/messages/devicebound") == "service"
    assert client.refused(client.ask(LinkKind.EVENTS, "d1"))[0] == UNAUTHORIZED


@pytest.mark.parametrize(
    ("user", "key_name"),
    [("service@sas.root.hub", "service"), ("iothubowner@sas.root.hub", "service"), ("x@sas.root.hub", "x")],
    ids=["another key", "another name", "unknown"],
)
def test_plain_of_a_policy_needs_its_own_key(scene: Scene, user: str, key_name: str) -> None:
    key = scene.hub.policies.find("device" if user.startswith("service") else "service").keys[0]
    token = sas.make_token(HOST, key, int(scene.clock.now_s() + 60), key_name)

    client = AmqpClient(scene, ClientSasl("PLAIN", user, secret(token)))

    client.wait_for_end()


# ---- tokens


@pytest.mark.parametrize(
    "message_id", ["text", 7, uuid.uuid4(), b"\x01\x02"], ids=["string", "ulong", "uuid", "binary"]
)
def test_the_answer_to_a_token_has_the_id_of_the_request_in_its_type(scene: Scene, message_id: Any) -> None:
    client = AmqpClient(scene).opened()
    request = cbs.put_token(sas.audience_of(HOST, D1), scene.token("d1"), message_id)

    answer = client.ask_cbs(request)

    assert (answer.status, answer.correlation_id) == (200, message_id)
    assert type(answer.correlation_id) is type(message_id) or isinstance(message_id, int)


@pytest.mark.parametrize(
    ("client_id", "made", "status"),
    [
        ("d1", {"signed_by": "d2"}, 401),
        ("d1", {"life_s": -301}, 400),
        ("d1", {"life_s": -299}, 200),
        ("nobody", {}, 401),
    ],
    ids=["wrong key", "expired", "expired within the skew", "unknown"],
)
def test_a_token_is_checked_when_it_is_shown(
    scene: Scene, client_id: str, made: dict[str, Any], status: int
) -> None:
    client = AmqpClient(scene).opened()

    assert client.put_token(client_id, scene.token(client_id, **made)) == status


@pytest.mark.parametrize(
    "change",
    [
        {"application_properties": {**PUT, "operation": "get-token"}},
        {"application_properties": {**PUT, "type": "jwt"}},
        {"application_properties": {**PUT, "name": ""}},
        {"is_value": False, "body": b"x"},
        {"value": "SharedAccessSignature sr=x"},
    ],
    ids=["operation", "type", "name", "body", "form"],
)
def test_a_request_that_is_none_is_answered_with_400_and_the_next_is_served(
    scene: Scene, change: dict[str, Any]
) -> None:
    client = AmqpClient(scene).opened()
    request = cbs.put_token(sas.audience_of(HOST, D1), scene.token("d1"), "1")
    for name, value in change.items():
        setattr(request, name, value)

    assert client.ask_cbs(request).status == 400
    assert client.put_token("d1") == 200


def test_a_token_that_was_refused_is_not_in_the_log(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = scene.token("d1", signed_by="d2")

    AmqpClient(scene).opened().put_token("d1", token)

    assert "a token is refused" in caplog.text
    assert token not in caplog.text
    assert token.partition("sig=")[2].partition("&")[0] not in caplog.text


def test_a_disabled_device_hears_it_when_it_shows_its_token(scene: Scene) -> None:
    scene.create("d1", if_match="*", status="disabled")
    client = AmqpClient(scene).opened()

    answer = client.ask_cbs(cbs.put_token(sas.audience_of(HOST, D1), scene.token("d1"), "1"))

    assert answer.status == 401
    assert "disabled" in answer.description


# ---- attaches


def test_several_identities_share_a_connection(scene: Scene) -> None:
    scene.create("d1/m")
    client = connect(scene, "d1/m", "d2")

    assert can_send(client, "d1/m")
    assert can_send(client, "d2")
    assert [event.identity.id for event in scene.events()] == ["d1/m", "d2"]


def test_the_token_of_a_device_counts_for_its_modules(scene: Scene) -> None:
    scene.create("d1/m")
    client = connect(scene, "d1")

    assert can_send(client, "d1/m")


@pytest.mark.parametrize("client_id", ["d2", "d2/m", "d1/unknown"])
def test_a_link_of_another_identity_is_refused_and_the_others_stay(scene: Scene, client_id: str) -> None:
    scene.create("d2/m")
    client = connect(scene, "d1")
    own = client.attach(LinkKind.EVENTS, "d1")

    condition, description = client.refused(client.ask(LinkKind.EVENTS, client_id))

    assert condition == UNAUTHORIZED
    assert json.loads(description)["message"]
    assert client.send(own, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED


def test_the_token_of_a_module_does_not_count_for_its_device_or_for_others(scene: Scene) -> None:
    scene.create("d1/m")
    scene.create("d1/n")
    client = connect(scene, "d1/m")

    for client_id in ("d1", "d1/n"):
        assert client.refused(client.ask(LinkKind.EVENTS, client_id))[0] == UNAUTHORIZED


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("/devices/d1/messages/events", True),
        ("amqps://h:5671/Devices/d1/Messages/Events", True),
        ("devices/d1/messages/events", True),
        ("/devices/d1/unknown", False),
        ("/devices/d1/messages/devicebound", False),
        ("", False),
    ],
)
def test_addresses_are_those_of_the_sheet(scene: Scene, address: str, taken: bool) -> None:
    client = connect(scene, "d1")

    link = client.engine.attach_sender("link", address)

    if taken:
        client.rest()
        assert link.is_open
    else:
        assert client.refused(link)[0] == "amqp:not-allowed"


def test_the_token_of_a_device_is_none_of_a_service(scene: Scene) -> None:
    client = connect(scene, "d1")
    link = client.engine.attach_sender("c2d", "/messages/devicebound")

    assert client.refused(link)[0] == UNAUTHORIZED


def test_tokens_and_attaches_need_not_wait_for_each_other(scene: Scene) -> None:
    client = AmqpClient(scene).opened()
    client.put_token("d2")
    sender, _ = client.cbs
    client.start(sender, cbs.put_token(sas.audience_of(HOST, D1), scene.token("d1"), "9"))
    token = client.engine.data_to_send()
    link = client.ask(LinkKind.EVENTS, "d1")
    attach = client.engine.data_to_send()

    client.send_bytes(token + attach)

    client.rest()
    assert link.is_open


# ---- an edge hub speaks for its scope


@pytest.fixture
def edge(scene: Scene) -> Scene:
    """An edge device with its hub, a leaf below it and a device that is not."""
    scene.create("edge", capabilities={"iotEdge": True})
    scope = scene.run(scene.hub.find(Identity("edge"))).device_scope
    scene.create("edge/$edgeHub", if_match="*", authentication={"type": "sas"})
    scene.create("leaf", deviceScope=scope)
    scene.create("edge/mod")
    return scene


@pytest.mark.parametrize("chain", [(), ("leaf", "edge")], ids=["no chain", "chain"])
def test_the_token_of_an_edge_hub_counts_for_its_scope(edge: Scene, chain: tuple[str, ...]) -> None:
    client = connect(edge, "edge/$edgeHub")

    for client_id in ("leaf", "edge/mod", "edge/$edgeHub"):
        link = client.attach(LinkKind.EVENTS, client_id, chain=chain)
        assert client.send(link, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED

    assert [event.identity.id for event in edge.events()] == ["leaf", "edge/mod", "edge/$edgeHub"]


def test_the_token_of_an_edge_hub_does_not_count_outside_its_scope(edge: Scene) -> None:
    client = connect(edge, "edge/$edgeHub")

    assert client.refused(client.ask(LinkKind.EVENTS, "d1", chain=("d1", "edge")))[0] == UNAUTHORIZED


def test_a_renewed_token_of_an_edge_hub_keeps_the_links_of_its_scope(edge: Scene) -> None:
    client = AmqpClient(edge).opened()
    client.put_token("edge/$edgeHub", edge.token("edge/$edgeHub", 60))
    link = client.attach(LinkKind.EVENTS, "leaf")
    client.put_token("edge/$edgeHub", edge.token("edge/$edgeHub", 3600))

    edge.clock.advance(120)
    edge.look()

    assert client.send(link, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("whose", "change"),
    [
        ("edge", {"status": "disabled"}),
        ("edge/$edgeHub", {"authentication": {"symmetricKey": {"primaryKey": "a" * 44, "secondaryKey": ""}}}),
    ],
    ids=["the edge is disabled", "its hub has another key"],
)
def test_whom_an_edge_hub_has_spoken_for_goes_with_it(
    edge: Scene, whose: str, change: dict[str, Any]
) -> None:
    client = connect(edge, "edge/$edgeHub", "d1")
    link, other = client.attach(LinkKind.EVENTS, "leaf"), client.attach(LinkKind.EVENTS, "d1")

    edge.create(whose, if_match="*", **change)

    assert client.refused(link)[0] == UNAUTHORIZED
    assert client.refused(client.ask(LinkKind.EVENTS, "leaf"))[0] == UNAUTHORIZED
    assert client.send(other, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED


# ---- certificates


def test_a_certificate_lets_its_own_identity_in_without_a_token(scene: Scene, tmp_path: Path) -> None:
    scene.clock.advance(time.time() - scene.clock.now_s())  # the certificate is of today
    shown = make_client(tmp_path, "leaf")
    thumbprint = hashlib.sha256(shown.ders[0]).hexdigest()
    prints = {"primaryThumbprint": thumbprint, "secondaryThumbprint": thumbprint}
    scene.create("leaf", authentication={"type": "selfSigned", "x509Thumbprint": prints})
    client = AmqpClient(scene, None, shown.ders).opened()
    assert not client.transport.known

    assert can_send(client, "leaf")

    assert client.transport.known
    assert client.refused(client.ask(LinkKind.EVENTS, "d1"))[0] == UNAUTHORIZED


def test_a_token_that_does_not_count_is_not_made_good_by_a_certificate(scene: Scene, tmp_path: Path) -> None:
    scene.clock.advance(time.time() - scene.clock.now_s())  # the certificate is of today
    shown = make_client(tmp_path, "leaf")
    thumbprint = hashlib.sha256(shown.ders[0]).hexdigest()
    prints = {"primaryThumbprint": thumbprint, "secondaryThumbprint": thumbprint}
    scene.create("leaf", authentication={"type": "selfSigned", "x509Thumbprint": prints})
    client = AmqpClient(scene, None, shown.ders).opened()

    assert client.put_token("leaf") == 401


# ---- at most one connection per identity


def test_a_second_connection_takes_an_identity_over_and_leaves_the_others(scene: Scene) -> None:
    first, second = connect(scene, "d1", "d2"), connect(scene, "d1")
    mine, other = first.attach(LinkKind.EVENTS, "d1"), first.attach(LinkKind.EVENTS, "d2")

    assert can_send(second, "d1")

    assert first.refused(mine)[0] == "amqp:link:stolen"
    assert first.send(other, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED
    assert scene.hub.is_connected(D1)


def test_mqtt_takes_over_from_amqp_and_the_other_way_round(scene: Scene) -> None:
    client = connect(scene, "d1")
    link = client.attach(LinkKind.EVENTS, "d1")

    device = scene.connect("d1")
    assert client.refused(link)[0] == "amqp:link:stolen"
    assert not client.transport.closed

    assert can_send(client, "d1")
    assert device.wait_for_end() == []


def test_an_identity_counts_as_connected_from_its_first_link_to_its_last(scene: Scene) -> None:
    client = connect(scene, "d1")
    assert not scene.hub.is_connected(D1)
    first, second = client.attach(LinkKind.EVENTS, "d1"), client.attach(LinkKind.C2D, "d1")
    assert scene.hub.is_connected(D1)

    first.detach()
    client.rest()
    assert scene.hub.is_connected(D1)
    second.detach()
    client.rest()
    assert not scene.hub.is_connected(D1)
    assert can_send(client, "d1")


@pytest.mark.parametrize("how", ["lost", "closed"])
def test_with_the_connection_all_of_its_identities_are_gone(scene: Scene, how: str) -> None:
    client = connect(scene, "d1", "d2")
    for client_id in ("d1", "d2"):
        client.attach(LinkKind.EVENTS, client_id)

    if how == "lost":
        client.lose()
    else:
        client.engine.close()
        client.wait_for_end()

    assert not scene.hub.is_connected(D1)
    assert not scene.hub.is_connected(D2)


# ---- the registry


@pytest.mark.parametrize("change", ["disabled", "deleted", "given another key"])
def test_who_may_not_be_connected_any_more_loses_its_links_and_nobody_else_notices(
    scene: Scene, change: str
) -> None:
    scene.create("d1/m")
    client = connect(scene, "d1", "d2")
    links = [
        client.attach(kind, client_id)
        for kind, client_id in (
            (LinkKind.EVENTS, "d1"),
            (LinkKind.C2D, "d1"),
            (LinkKind.TWIN_ANSWERS, "d1/m"),
        )
    ]
    other = client.attach(LinkKind.EVENTS, "d2")
    if change == "disabled":
        scene.create("d1", if_match="*", status="disabled")
    elif change == "deleted":
        scene.run(scene.hub.delete(D1))
    else:
        key = {"symmetricKey": {"primaryKey": "a" * 44, "secondaryKey": "b" * 44}}
        scene.create("d1", if_match="*", authentication=key)

    for link in links:
        condition, description = client.refused(link)
        assert condition == UNAUTHORIZED
        assert CutOff.REFUSED.value in description
    assert client.send(other, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED
    if change == "disabled":
        assert client.refused(client.ask(LinkKind.EVENTS, "d1"))[0] == UNAUTHORIZED
        scene.create("d1", if_match="*", status="enabled")
        assert can_send(client, "d1")


# ---- time


def test_an_expired_token_ends_the_links_of_its_identity_alone(scene: Scene) -> None:
    client = AmqpClient(scene).opened()
    client.put_token("d1", scene.token("d1", 60))
    client.put_token("d2", scene.token("d2", 3600))
    link, other = client.attach(LinkKind.EVENTS, "d1"), client.attach(LinkKind.EVENTS, "d2")

    scene.clock.advance(60)
    scene.look()

    condition, description = client.refused(link)
    assert condition == UNAUTHORIZED
    assert "expired" in description
    assert not scene.hub.is_connected(D1)
    assert client.send(other, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED
    client.put_token("d1")
    assert can_send(client, "d1")


def test_a_renewed_token_keeps_the_links(scene: Scene) -> None:
    client = AmqpClient(scene).opened()
    client.put_token("d1", scene.token("d1", 60))
    link = client.attach(LinkKind.EVENTS, "d1")
    assert client.put_token("d1", scene.token("d1", 600)) == 200

    scene.clock.advance(400)
    scene.look()

    assert client.send(link, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED


def test_a_wrong_renewal_is_told_and_changes_nothing(scene: Scene) -> None:
    client = connect(scene, "d1")
    link = client.attach(LinkKind.EVENTS, "d1")

    assert client.put_token("d1", scene.token("d1", signed_by="d2")) == 401

    assert client.send(link, AmqpMessage(body=b"x")).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("says", ["nothing", "open", "a wrong token"])
def test_who_proves_nothing_is_closed(scene: Scene, says: str) -> None:
    client = AmqpClient(scene)
    if says != "nothing":
        client.opened()
    if says == "a wrong token":
        client.put_token("d1", scene.token("d1", signed_by="d2"))

    scene.clock.advance(STRANGER_LIMIT_S + 1)
    scene.look()

    assert client.transport.closed


def test_who_has_shown_a_token_may_be_silent(scene: Scene) -> None:
    client = connect(scene, "d1")

    for _ in range(10):
        scene.clock.advance(STRANGER_LIMIT_S)
        scene.look()
        client.rest()

    assert not client.transport.closed
    assert can_send(client, "d1")


# ---- bad input


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x10\x20\x00\x04MQTT", b"AMQP\x03\x01\x00\x00" + b"\xff" * 64, bytes(64)],
    ids=["HTTP", "MQTT", "SASL", "zeros"],
)
def test_bytes_that_are_no_amqp_close_the_connection_and_no_other(scene: Scene, data: bytes) -> None:
    other = connect(scene, "d2")
    client = AmqpClient(scene, None)

    client.send_bytes(data)

    assert client.transport.closed
    assert can_send(other, "d2")


def test_a_frame_that_cannot_be_read_is_answered_with_close(scene: Scene) -> None:
    client = AmqpClient(scene, None).opened()

    client.send_bytes(b"\x00\x00\x00\x10\x02\x00\x00\x00\x00\x53\x99\x45\x00\x00\x00\x00")

    assert client.wait_for_end().condition


@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_were_changed_on_their_way_harm_nobody_else(
    scene: Scene, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    chance = random.Random(seed)
    other = connect(scene, "d2")
    client = AmqpClient(scene, None)
    pieces = said(client)

    broken = AmqpClient(scene, None)
    for piece in pieces:
        changed = bytearray(piece)
        for _ in range(chance.randrange(4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if chance.random() < 0.2:
            del changed[chance.randrange(len(changed)) :]
        if changed:
            broken.send_bytes(bytes(changed))
    scene.look()
    broken.lose()

    assert can_send(other, "d2")
    assert "internal error" not in caplog.text


def said(client: AmqpClient) -> list[bytes]:
    """Return what a client sends that shows its token, listens to everything and sends a message."""
    pieces: list[bytes] = []
    send = client.send_bytes

    def keep(data: bytes) -> None:
        pieces.append(data)
        send(data)

    client.send_bytes = keep  # type: ignore[method-assign]
    client.opened().put_token("d1")
    for kind in LinkKind:
        if kind is not LinkKind.INPUTS:
            client.attach(kind, "d1")
    can_send(client, "d1")
    return pieces


def test_a_hub_that_stops_says_so_to_all(scene: Scene) -> None:
    client = connect(scene, "d1")
    client.attach(LinkKind.EVENTS, "d1")

    scene.do(scene.amqp_server.close)

    assert client.wait_for_end().condition == "amqp:connection:forced"
    assert not scene.hub.is_connected(D1)


def secret(text: str) -> Secret:
    """Return a password."""
    return Secret(text.encode())


def tokens_of(client: AmqpClient) -> ShownTokens:
    """Return what the hub holds of a client's tokens."""
    tokens: ShownTokens = client.known.tokens
    return tokens
