"""Who may do what at the broker of a real hub. Numbers are rows of the spec sheet broker.md, section 14."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from actors.addresses import ROUTER
from actors.store.messages import Stored
from actors.upstream.messages import C2dReceived
from messaging.client import Client
from messaging.message import encode_header
from messaging.mqtt.packets import Disconnect, Will
from tests.integration.broker_world import (
    CONNECT,
    LEAF,
    LIMIT_S,
    M1,
    M2,
    User,
    change_policy,
    configure,
    spec,
    statement,
    upstream,
    user,
)
from tests.integration.hub_process import DEVICE, IOTHUB, HubProcess

REFUSED = 0x80
UP = {"up": "FROM /messages/* INTO $upstream"}
MODULES = ("m1", "m2")
INPUTS = f"devices/{DEVICE}/modules/m1/inputs/#"
EVENTS = f"devices/{DEVICE}/modules/m1/messages/events/"


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def hub_with(ending: ExitStack, *statements: dict[str, Any], devices: Sequence[str] = (LEAF,)) -> HubProcess:
    made = HubProcess(UP, MODULES, devices, broker=spec(*statements))
    return ending.enter_context(made)


def test_1_without_authorizations_nobody_connects(ending: ExitStack) -> None:
    hub = hub_with(ending)

    assert User(hub, M1).log_in().return_code == 5


def test_2_and_3_who_may_connect_has_its_own_iot_hub_topics(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT)
    module = user(hub, M1)

    assert module.publish(EVENTS, b"1")
    assert module.subscribe((INPUTS, 1), ("$iothub/twin/res/#", 0)) == (1, 0)
    assert upstream(hub, 1) == [b"1"]


def test_4_a_publish_that_is_denied_ends_the_connection_and_the_will_is_sent(ending: ExitStack) -> None:
    hub = hub_with(
        ending,
        CONNECT,
        statement("publish", on=["w"], of=f"{IOTHUB}/{M1}"),
        statement("subscribe", on=["w"], of=M2),
    )
    watcher = user(hub, M2)
    assert watcher.subscribe(("w", 1)) == (1,)
    module = user(hub, M1, will=Will("w", b"gone", 1, False))

    assert not module.publish("x", b"1")
    assert watcher.message() == ("w", b"gone")


def test_5_and_55_a_denied_filter_is_refused_alone(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, statement("subscribe", on=["ok/#"]))
    module = user(hub, M1)

    assert module.subscribe(("x", 1), (INPUTS, 1)) == (REFUSED, 1)
    assert module.subscribe(("ok/a", 1), ("x", 1), ("ok/b", 2)) == (1, REFUSED, 2)


def test_6_a_client_id_that_is_not_the_identity_is_refused(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT)

    assert User(hub, M1).log_in(user=M2).return_code == 5


def test_7_a_token_of_another_key_is_refused(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT)

    assert User(hub, M1).log_in(password=hub.token(M2)).return_code == 4


def test_a_will_on_a_topic_that_is_denied_is_refused_with_the_connection(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, statement("publish", on=["ok"]))

    assert User(hub, M1).log_in(will=Will("secret", b"1", 1, False)).return_code == 5
    assert User(hub, M1).log_in(will=Will("ok", b"1", 1, False)).return_code == 0


PUBLISHES: dict[str, tuple[list[dict[str, Any]], str, bool]] = {
    "12: an earlier allow beats a later deny": (
        [statement("publish", on=["a/#"]), statement("publish", on=["z"], deny=["a/b"])],
        "a/b",
        True,
    ),
    "13: deny beats allow of one statement": ([statement("publish", on=["a/#"], deny=["a/b"])], "a/b", False),
    "13: and only where it fits": ([statement("publish", on=["a/#"], deny=["a/b"])], "a/c", True),
    "14: an earlier deny beats a later allow": (
        [statement("publish", on=["z"], deny=["a/b"]), statement("publish", on=["a/#"])],
        "a/b",
        False,
    ),
    "15: own device": ([statement("publish", on=["t/{{iot:device_id}}/#"])], f"t/{DEVICE}/x", True),
    "15: other device": ([statement("publish", on=["t/{{iot:device_id}}/#"])], "t/d2/x", False),
    "own module": ([statement("publish", on=["t/{{iot:module_id}}"])], "t/m1", True),
    "17: # is not $": ([statement("publish", on=["#"])], "$custom/x", False),
    "18: another module's": ([statement("publish", on=["#"], of=f"{IOTHUB}/{M2}")], "x", False),
    "another identity's telemetry": (
        [statement("publish", on=["#", "$edgehub/#"])],
        f"devices/{DEVICE}/modules/m2/messages/events/",
        False,
    ),
}


@pytest.fixture(scope="module")
def one_hub() -> Iterator[HubProcess]:
    with HubProcess(UP, MODULES, (LEAF,), broker=spec(CONNECT)) as made:
        user(made, M1)  # waits until it serves
        yield made


@pytest.mark.parametrize(("statements", "topic", "accepted"), PUBLISHES.values(), ids=PUBLISHES)
def test_the_rules_decide_what_is_published(
    one_hub: HubProcess, statements: list[dict[str, Any]], topic: str, accepted: bool
) -> None:
    change_policy(one_hub, CONNECT, *statements)

    assert user(one_hub, M1).publish(topic, b"1") is accepted


SUBSCRIPTIONS: dict[str, tuple[list[dict[str, Any]], str, int]] = {
    "16: more than is allowed": ([statement("subscribe", on=["a/+"])], "a/#", REFUSED),
    "one of what is allowed": ([statement("subscribe", on=["a/+"])], "a/b", 1),
    "what is denied is not had by more": ([statement("subscribe", on=["a/#"], deny=["a/b"])], "a/+", REFUSED),
    "17: # is not $": ([statement("subscribe", on=["#"])], "$custom/x", REFUSED),
    "45: another identity's": ([statement("subscribe", on=["#"])], f"$edgehub/{M2}/twin/desired/#", REFUSED),
    "46: own, by the reference's name": ([], f"$edgehub/{M1}/messages/c2d/post/#", 1),
}


@pytest.mark.parametrize(("statements", "topic_filter", "code"), SUBSCRIPTIONS.values(), ids=SUBSCRIPTIONS)
def test_the_rules_decide_what_is_subscribed_to(
    one_hub: HubProcess, statements: list[dict[str, Any]], topic_filter: str, code: int
) -> None:
    change_policy(one_hub, CONNECT, *statements)

    assert user(one_hub, M1).subscribe((topic_filter, 1)) == (code,)


NEWS = statement("publish", "subscribe", on=["x", "w", "news/#"])


def test_33_who_may_not_subscribe_any_more_loses_connection_and_session(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, NEWS)
    module, other = user(hub, M1, clean=False), user(hub, M2)
    assert module.subscribe(("x", 1)) == (1,)
    assert other.subscribe(("news/a", 1)) == (1,)

    change_policy(hub, CONNECT, statement("publish", "subscribe", on=["w", "news/#"]))

    assert module.is_closed()
    back = User(hub, M1)
    assert back.log_in(clean=False).session_present is False
    assert other.publish("news/a", b"still here")
    assert other.message() == ("news/a", b"still here")


def test_33_the_will_of_who_is_cut_off_is_sent(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, NEWS)
    watcher = user(hub, M2)
    assert watcher.subscribe(("w", 1)) == (1,)
    module = user(hub, M1, will=Will("w", b"gone", 1, False))
    assert module.subscribe(("x", 0)) == (0,)

    change_policy(hub, CONNECT, statement("publish", "subscribe", on=["w"]))

    assert module.is_closed()
    assert watcher.message() == ("w", b"gone")


def test_a_will_that_has_been_denied_since_is_not_sent(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, NEWS)
    watcher = user(hub, M2)
    assert watcher.subscribe(("w", 1)) == (1,)
    module = user(hub, M1, will=Will("w", b"gone", 1, False))

    change_policy(hub, CONNECT, statement("subscribe", on=["w"]), statement("publish", on=["w"], of=M2))
    module.close()

    hub.wait_for_log("its will is dropped: it may not publish to 'w'")
    assert watcher.publish("w", b"next")
    assert watcher.message() == ("w", b"next")


def test_34_who_may_not_connect_any_more_loses_its_session_while_it_is_away(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, NEWS)
    module, other = user(hub, M1, clean=False), user(hub, M2, clean=False)
    assert module.subscribe(("x", 1)) == (1,)
    assert other.subscribe(("x", 1)) == (1,)
    for away in (module, other):
        away.send(Disconnect())
        assert away.is_closed()

    change_policy(hub, statement("connect", of=M2), NEWS)
    change_policy(hub, CONNECT, NEWS)

    assert User(hub, M1).log_in(clean=False).session_present is False
    assert User(hub, M2).log_in(clean=False).session_present is True


def test_34_rules_that_changed_while_no_hub_ran_count_for_the_sessions_on_disk(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, NEWS)
    for name, topic in ((M1, "x"), (M2, "news/a")):
        away = user(hub, name, clean=False)
        assert away.subscribe((topic, 1)) == (1,)
    hub.kill()
    configure(hub, CONNECT, statement("subscribe", on=["news/#"]))

    hub.start()

    assert User(hub, M1).log_in(clean=False).session_present is False
    assert User(hub, M2).log_in(clean=False).session_present is True


def test_33_many_sessions_are_looked_at_in_turns_and_none_is_left_out(ending: ExitStack) -> None:
    leaves = tuple(f"leaf{number}" for number in range(6))
    hub = hub_with(ending, CONNECT, NEWS, devices=leaves)
    clients = [user(hub, leaf, clean=False) for leaf in leaves]
    for client in clients:
        filters = [(f"news/{number}", 0) for number in range(900)]
        assert client.subscribe(*filters, ("x", 0)) == (0,) * 901
    for away in clients[:3]:
        away.send(Disconnect())
        assert away.is_closed()

    change_policy(hub, CONNECT, statement("subscribe", on=["news/#"]))

    assert [client.is_closed() for client in clients[3:]] == [True] * 3
    assert [User(hub, leaf).log_in(clean=False).session_present for leaf in leaves] == [False] * 6


def test_the_same_rules_again_cut_off_nobody(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT, NEWS)
    module = user(hub, M1)
    assert module.subscribe(("x", 1)) == (1,)

    change_policy(hub, CONNECT, NEWS)

    assert module.publish("x", b"1")
    assert module.message() == ("x", b"1")


def test_46_by_the_reference_s_name_messages_come_under_the_sdks_name(ending: ExitStack) -> None:
    hub = hub_with(ending, CONNECT)
    leaf = user(hub, LEAF)
    assert leaf.subscribe((f"$edgehub/{LEAF}/messages/c2d/post/#", 1)) == (1,)

    with Client.outside(hub.run_dir) as cloud:
        cloud.tell(ROUTER, C2dReceived(LEAF, encode_header("", {"a": "b"}, {}), b"hello"))
        cloud.receive(Stored, LIMIT_S)

    topic, body = leaf.message()
    assert topic.startswith(f"devices/{LEAF}/messages/devicebound/")
    assert body == b"hello"


def test_47_and_48_a_broadcast_reaches_all_who_subscribed_and_no_route(ending: ExitStack) -> None:
    leaves = tuple(f"leaf{number}" for number in range(10))
    hub = hub_with(ending, CONNECT, NEWS, devices=leaves)
    publisher = user(hub, M1)
    subscribers = [user(hub, leaf) for leaf in leaves]
    for subscriber in subscribers:
        assert subscriber.subscribe(("news/#", 1)) == (1,)

    assert publisher.publish("news/today", b"once")
    assert [subscriber.message() for subscriber in subscribers] == [("news/today", b"once")] * 10
    # What comes next to each is the next message: nobody got two, and the publisher none.
    assert publisher.publish("news/today", b"twice")
    assert [subscriber.message() for subscriber in subscribers] == [("news/today", b"twice")] * 10
    assert publisher.subscribe(("news/#", 1)) == (1,)
    assert publisher.publish(EVENTS, b"telemetry")
    assert publisher.publish("news/today", b"thrice")
    assert publisher.message() == ("news/today", b"thrice")
    assert upstream(hub, 1) == [b"telemetry"]


def test_49_and_50_without_a_broker_user_topics_are_what_they_were(ending: ExitStack) -> None:
    """A filter that the hub does not know has no effect; a message there is dropped and acknowledged.

    Row 50 has the connection closed; hub-protocols.md section 0.2, which this hub follows, has not.
    """
    hub = ending.enter_context(HubProcess(UP, MODULES))
    module = user(hub, M1)

    assert module.subscribe(("foo", 1)) == (1,)
    assert module.publish("foo", b"1")
    assert module.publish(EVENTS, b"2")
    assert upstream(hub, 1) == [b"2"]
