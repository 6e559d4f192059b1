"""Who may do what: order of rules, variables, filters; the numbers are the rows of the sheet's section 14."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.broker.policy import REMEMBERED_TOPICS, ClientOfBroker, Operation, Policy, Rule
from messaging.mqtt.filters import contains, matches, overlaps

HUB = "h1.azure-devices.net"
CONNECT, PUBLISH, SUBSCRIBE = Operation.CONNECT, Operation.PUBLISH, Operation.SUBSCRIBE
ANYBODY = ("{{iot:identity}}",)
M1 = ClientOfBroker("d1/m1", "d1/m1")
M2 = ClientOfBroker("d1/m2", "d1/m2")
LEAF = ClientOfBroker("leaf", "leaf")


def policy(*rules: Rule, hub: str = HUB) -> Policy:
    return Policy(rules, iothub_hostname=hub, edge_device_id="d1")


def allow(
    *resources: str, who: tuple[str, ...] = ANYBODY, to: tuple[Operation, ...] = (PUBLISH, SUBSCRIBE)
) -> Rule:
    return Rule(True, who, to, resources)


def deny(
    *resources: str, who: tuple[str, ...] = ANYBODY, to: tuple[Operation, ...] = (PUBLISH, SUBSCRIBE)
) -> Rule:
    return Rule(False, who, to, resources)


def test_1_without_rules_nobody_may_connect() -> None:
    assert not policy().may(M1, CONNECT)


def test_2_a_rule_for_every_identity_lets_it_connect_without_resources() -> None:
    assert policy(allow(to=(CONNECT,))).may(M1, CONNECT)


def test_4_to_connect_is_not_to_publish() -> None:
    assert not policy(allow(to=(CONNECT,))).may(M1, PUBLISH, "x")


ORDERS = {
    "12: an earlier allow beats a later deny": ([allow("a/#"), deny("a/b")], "a/b", True),
    "13: deny first": ([deny("a/b"), allow("a/#")], "a/b", False),
    "13: deny is about its resource alone": ([deny("a/b"), allow("a/#")], "a/c", True),
    "none fits": ([allow("a/#")], "b", False),
    "exact and variable identities are one order": (
        [deny("a", who=("{{mqtt:client_id}}",)), allow("a", who=(f"{HUB}/d1/m1",))],
        "a",
        False,
    ),
    "the order of variables as text is no order": (
        [allow("a", who=("{{mqtt:client_id}}",)), deny("a", who=("{{iot:identity}}",))],
        "a",
        True,
    ),
    "another resource of the same rule": ([allow("x", "a")], "a", True),
}


@pytest.mark.parametrize(("rules", "topic", "expected"), ORDERS.values(), ids=ORDERS)
def test_the_first_rule_that_fits_decides(rules: list[Rule], topic: str, expected: bool) -> None:
    decided = policy(*rules)

    assert decided.may(M1, PUBLISH, topic) is expected
    assert decided.may(M1, PUBLISH, topic) is expected  # as it is remembered
    assert decided.may(M1, SUBSCRIBE, topic) is expected


def test_operations_are_apart() -> None:
    decided = policy(deny("a", to=(PUBLISH,)), allow("a"), deny(to=(CONNECT,)))

    assert not decided.may(M1, PUBLISH, "a")
    assert decided.may(M1, SUBSCRIBE, "a")
    assert not decided.may(M1, CONNECT)


IDENTITIES = {
    "the full name": (f"{HUB}/d1/m1", M1, True),
    "18: of another module": (f"{HUB}/d1/m1", M2, False),
    "without the hub": ("d1/m1", M1, True),
    "of another hub": ("h2.azure-devices.net/d1/m1", M1, False),
    "a device is not its modules": (f"{HUB}/d1", M1, False),
    "case counts": (f"{HUB}/d1/M1", M1, False),
    "a wildcard is none": (f"{HUB}/*", M1, False),
    "the client's identity": ("{{iot:identity}}", M1, True),
    "the client's id": ("{{mqtt:client_id}}", M1, True),
    "modules of every device": (f"{HUB}/{{{{iot:device_id}}}}/m1", M1, True),
    "modules of the edge": (f"{HUB}/{{{{iot:this_device_id}}}}/{{{{iot:module_id}}}}", M1, True),
    "a leaf is no module of the edge": (
        f"{HUB}/{{{{iot:this_device_id}}}}/{{{{iot:module_id}}}}",
        LEAF,
        False,
    ),
    "a leaf has no module id": (f"{HUB}/{{{{iot:device_id}}}}/{{{{iot:module_id}}}}", LEAF, False),
    "a leaf by its device id": (f"{HUB}/{{{{iot:device_id}}}}", LEAF, True),
}


@pytest.mark.parametrize(("identity", "who", "expected"), IDENTITIES.values(), ids=IDENTITIES)
def test_a_rule_is_about_its_identities(identity: str, who: ClientOfBroker, expected: bool) -> None:
    assert policy(allow(to=(CONNECT,), who=(identity,))).may(who, CONNECT) is expected


def test_a_device_that_is_called_like_the_hub_does_not_pass_for_another() -> None:
    decided = policy(allow(to=(CONNECT,), who=("hub/d1",)), hub="hub")

    assert decided.may(ClientOfBroker("d1", "d1"), CONNECT)
    assert not decided.may(ClientOfBroker("hub/d1", "hub/d1"), CONNECT)


VARIABLES = {
    "15: own device": ("telemetry/{{iot:device_id}}/#", M1, "telemetry/d1/x", True),
    "15: other device": ("telemetry/{{iot:device_id}}/#", M1, "telemetry/d2/x", False),
    "module": ("{{iot:module_id}}/x", M1, "m1/x", True),
    "identity": ("i/{{iot:identity}}", M1, f"i/{HUB}/d1/m1", True),
    "client id": ("c/{{mqtt:client_id}}/#", M1, "c/d1/m1/x", True),
    "this device": ("{{iot:this_device_id}}/x", LEAF, "d1/x", True),
    "several": ("{{iot:device_id}}-{{iot:module_id}}", M1, "d1-m1", True),
    "module of a device that is none": ("a/{{iot:module_id}}/x", LEAF, "a//x", False),
    "not taken for its own name": ("a/{{iot:module_id}}/x", LEAF, "a/{{iot:module_id}}/x", False),
}


@pytest.mark.parametrize(("resource", "who", "topic", "expected"), VARIABLES.values(), ids=VARIABLES)
def test_variables_are_as_documented(resource: str, who: ClientOfBroker, topic: str, expected: bool) -> None:
    decided = policy(allow(resource))

    assert decided.may(who, PUBLISH, topic) is expected
    assert decided.may(who, SUBSCRIBE, topic) is expected


@pytest.mark.parametrize("client_id", ["+", "#", "a/#"])
def test_a_client_does_not_widen_a_rule_by_its_client_id(client_id: str) -> None:
    who = ClientOfBroker("d1/m1", client_id)

    decided = policy(allow("c/{{mqtt:client_id}}"))

    assert not decided.may(who, PUBLISH, "c/x")
    assert not decided.may(who, SUBSCRIBE, f"c/{client_id}")


SUBSCRIPTIONS = {
    "16: more levels than allowed": ("a/+", "a/#", False),
    "one of them": ("a/+", "a/b", True),
    "all of them": ("a/+", "a/+", True),
    "below": ("a/#", "a/b/+", True),
    "the parent": ("a/#", "a", True),
    "above": ("a/b", "a/+", False),
    "everything is not $": ("#", "$internal/#", False),
    "17: not one of $ either": ("#", "$custom/x", False),
}


@pytest.mark.parametrize(("resource", "wanted", "expected"), SUBSCRIPTIONS.values(), ids=SUBSCRIPTIONS)
def test_a_subscription_has_to_be_contained(resource: str, wanted: str, expected: bool) -> None:
    assert policy(allow(resource)).may(M1, SUBSCRIBE, wanted) is expected


def test_a_denied_topic_is_not_had_by_a_wider_filter() -> None:
    decided = policy(deny("a/secret"), allow("a/#"))

    assert not decided.may(M1, SUBSCRIBE, "a/#")
    assert not decided.may(M1, SUBSCRIBE, "a/+")
    assert decided.may(M1, SUBSCRIBE, "a/open")
    assert decided.may(M1, SUBSCRIBE, "a/+/x")


def test_17_everything_is_not_what_begins_with_a_dollar() -> None:
    assert not policy(allow("#")).may(M1, PUBLISH, "$custom/x")


level = st.sampled_from(("", "a", "b", "$a", "+"))
some_filters = st.lists(level, min_size=1, max_size=3).map("/".join).filter(bool) | st.sampled_from(
    ("#", "a/#")
)


@given(
    rules=st.lists(st.tuples(st.booleans(), st.lists(some_filters, min_size=1, max_size=3)), max_size=6),
    wanted=some_filters,
)
def test_however_rules_are_looked_up_they_count_in_their_order(
    rules: list[tuple[bool, list[str]]], wanted: str
) -> None:
    decided = policy(
        *(Rule(allowed, ANYBODY, (PUBLISH, SUBSCRIBE), tuple(names)) for allowed, names in rules)
    )
    ordered = [(allowed, name) for allowed, names in rules for name in names]

    subscribed = [allow for allow, name in ordered if (contains if allow else overlaps)(name, wanted)]
    assert decided.may(M1, SUBSCRIBE, wanted) is (subscribed or [False])[0]
    topic = wanted.replace("+", "a").replace("#", "b")
    published = [allow for allow, name in ordered if matches(name, topic)]
    assert decided.may(M1, PUBLISH, topic) is (published or [False])[0]


def test_what_is_remembered_stays_bounded_however_many_topics_come() -> None:
    decided = policy(allow("a/#"))
    decided.may(M1, PUBLISH, "a")
    tracemalloc.start()
    try:
        for number in range(3 * REMEMBERED_TOPICS):
            assert decided.may(M1, PUBLISH, f"a/{number}")
        for number in range(500):
            assert decided.may(M1, PUBLISH, f"a/{'x' * 60_000}/{number}")
            assert decided.may(ClientOfBroker(f"d1/{number}", f"d1/{number}"), SUBSCRIBE, "a/b")
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept_bytes < 8_000_000
