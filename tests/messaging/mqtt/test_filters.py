"""Topic names and filters by the text of section 4.7, and the tree against the plain reading of it."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.mqtt.filters import SubscriptionTree, matches, validate_filter, validate_topic
from tests.messaging.mqtt import strategies

MATCHES = {
    "the same": ("a/b", "a/b", True),
    "shorter": ("a/b", "a", False),
    "longer": ("a", "a/b", False),
    "case counts": ("a/B", "a/b", False),
    "# takes everything": ("#", "a/b/c", True),
    "# takes the parent too": ("sport/tennis/player1/#", "sport/tennis/player1", True),
    "# takes a child": ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    "# takes deep levels": ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    "# takes an empty level": ("sport/#", "sport/", True),
    "# does not take a sibling": ("sport/tennis/#", "sport/tennis2", False),
    "+ takes one level": ("sport/tennis/+", "sport/tennis/player1", True),
    "+ does not take two": ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    "+ does not take the parent": ("sport/+", "sport", False),
    "+ takes an empty level": ("sport/+", "sport/", True),
    "+ inside": ("a/+/c", "a/b/c", True),
    "+ and #": ("+/tennis/#", "sport/tennis/x/y", True),
    "leading slash, + and +": ("+/+", "/finance", True),
    "leading slash, + behind": ("/+", "/finance", True),
    "leading slash, one +": ("+", "/finance", False),
    "leading slash is a level": ("finance", "/finance", False),
    "$ is hidden from #": ("#", "$SYS/x", False),
    "$ is hidden from +": ("+/monitor/Clients", "$SYS/monitor/Clients", False),
    "$ is hidden from a lone +": ("+", "$SYS", False),
    "$ by name and #": ("$SYS/#", "$SYS/monitor", True),
    "$ by name and # as parent": ("$SYS/#", "$SYS", True),
    "$ by name and +": ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    "$ further on is plain": ("a/+", "a/$b", True),
    "space is a character": ("a b", "a b", True),
    "iot hub: cloud to device": (
        "devices/d/messages/devicebound/#",
        "devices/d/messages/devicebound/%24.mid=1&k=v",
        True,
    ),
    "iot hub: module input": ("devices/d/modules/m/#", "devices/d/modules/m/inputs/i1/%24.cid=1", True),
    "iot hub: other module": ("devices/d/modules/m/inputs/#", "devices/d/modules/n/inputs/i1", False),
    "iot hub: twin answer": ("$iothub/twin/res/#", "$iothub/twin/res/200/?$rid=1", True),
    "iot hub: twin answer is hidden from #": ("#", "$iothub/twin/res/200/?$rid=1", False),
}


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES.values(), ids=MATCHES)
def test_a_filter_matches_as_section_4_7_says(topic_filter: str, topic: str, expected: bool) -> None:
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.subscribe(topic_filter, "k", "v")

    assert matches(topic_filter, topic) is expected
    assert tree.match(topic) == (["v"] if expected else [])


BAD_FILTERS = {
    "empty": ("", "empty"),
    "# before the end": ("a/#/b", "last level"),
    "two #": ("#/#", "last level"),
    "# in a word": ("a#", "level of its own"),
    "# doubled": ("##", "level of its own"),
    "+ in a word": ("sport+", "level of its own"),
    "+ doubled": ("a/++", "level of its own"),
    "+#": ("a/+#", "level of its own"),
    "U+0000": ("a\0", r"U\+0000"),
    "surrogate": ("a\ud800", "surrogate at 1"),
    "too long": ("ü" * 32_768, "65536 bytes"),
    "too many levels": ("/" * 200, "201 levels"),
}
GOOD_FILTERS = ["#", "+", "/", "//", "+/+", "/#", "a/+/b/#", " ", "$SYS/#", "/" * 199, "x" * 65_535]


@pytest.mark.parametrize(("topic_filter", "reason"), BAD_FILTERS.values(), ids=BAD_FILTERS)
def test_a_bad_filter_is_refused_with_its_reason(topic_filter: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        validate_filter(topic_filter)
    with pytest.raises(ValueError, match=reason):
        SubscriptionTree[int]().subscribe(topic_filter, "k", 1)


@pytest.mark.parametrize("topic_filter", GOOD_FILTERS, ids=lambda text: text[:12])
def test_an_unusual_but_valid_filter_is_taken(topic_filter: str) -> None:
    validate_filter(topic_filter)


BAD_TOPICS = {
    "empty": ("", "empty"),
    "+": ("a/+", "wildcard"),
    "#": ("#", "wildcard"),
    "wildcard in a word": ("a+b", "wildcard"),
    "U+0000": ("a\0b", r"U\+0000"),
    "surrogate": ("\udfff", "surrogate at 0"),
    "too long": ("x" * 65_536, "65536 bytes"),
}


@pytest.mark.parametrize(("topic", "reason"), BAD_TOPICS.values(), ids=BAD_TOPICS)
def test_a_bad_topic_is_refused_with_its_reason(topic: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        validate_topic(topic)


@pytest.mark.parametrize(
    "topic", ["/", " ", "$SYS", "a//b", "\ufeff", "x" * 65_535], ids=lambda text: text[:12]
)
def test_an_unusual_but_valid_topic_is_taken(topic: str) -> None:
    validate_topic(topic)


def test_a_long_bad_topic_is_cut_in_the_error() -> None:
    with pytest.raises(ValueError) as caught:
        validate_topic("x" * 60_000 + "#")

    assert len(str(caught.value)) < 200


def test_overlapping_filters_of_one_key_all_count() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.subscribe("a/#", "k", 0)
    tree.subscribe("a/+", "k", 1)
    tree.subscribe("a/b", "k", 2)

    assert sorted(tree.match("a/b")) == [0, 1, 2]


def test_the_same_filter_again_replaces_its_value() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.subscribe("a", "k", 0)
    tree.subscribe("a", "k", 1)

    assert tree.match("a") == [1]
    assert len(tree) == 1


def test_unsubscribe_takes_only_its_own_key_and_exact_filter() -> None:
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.subscribe("a/+", "k", "k+")
    tree.subscribe("a/b", "k", "kb")
    tree.subscribe("a/b", "other", "ob")

    assert tree.unsubscribe("a/b", "k") is True
    assert tree.unsubscribe("a/b", "k") is False
    assert tree.unsubscribe("a/#", "k") is False
    assert tree.unsubscribe("a/+", "nobody") is False
    assert sorted(tree.match("a/b")) == ["k+", "ob"]


def test_remove_all_takes_every_filter_of_a_key_and_no_other() -> None:
    tree: SubscriptionTree[str] = SubscriptionTree()
    for topic_filter in ("a", "a/b", "a/#", "#", "+/b"):
        tree.subscribe(topic_filter, "k", "k")
        tree.subscribe(topic_filter, "other", "other")

    tree.remove_all("k")
    tree.remove_all("nobody")

    assert tree.match("a/b") == ["other"] * 4
    assert len(tree) == 5


def test_a_tree_gives_memory_back_when_its_subscriptions_are_gone() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()

    def come_and_go() -> None:
        for n in range(500):
            tree.subscribe(f"devices/d{n}/+/x{n}/#", n, n)
            tree.subscribe(f"devices/d{n}", n, n)
        for n in range(0, 500, 2):
            tree.unsubscribe(f"devices/d{n}/+/x{n}/#", n)
            tree.unsubscribe(f"devices/d{n}", n)
        for n in range(500):
            tree.remove_all(n)

    tracemalloc.start()
    try:
        come_and_go()
        before_bytes, _ = tracemalloc.get_traced_memory()
        come_and_go()
        after_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(tree) == 0
    assert peak_bytes - before_bytes > 200_000, "the test is too small to see a leak"
    assert after_bytes - before_bytes < 10_000


KEYS = st.sampled_from(["k1", "k2", "k3"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), strategies.filters, KEYS),
        st.tuples(st.just("unsubscribe"), strategies.filters, KEYS),
        st.tuples(st.just("remove_all"), st.just(""), KEYS),
    ),
    max_size=25,
)
TOPICS = st.lists(
    st.lists(strategies.levels.filter(lambda level: level != "+"), min_size=1, max_size=6)
    .map("/".join)
    .filter(bool),
    min_size=1,
    max_size=8,
)


@given(STEPS, TOPICS)
def test_the_tree_answers_as_the_plain_reading_does(
    steps: list[tuple[str, str, str]], topics: list[str]
) -> None:
    tree: SubscriptionTree[tuple[str, str, int]] = SubscriptionTree()
    model: dict[tuple[str, str], tuple[str, str, int]] = {}

    for number, (what, topic_filter, key) in enumerate(steps):
        if what == "subscribe":
            tree.subscribe(topic_filter, key, (topic_filter, key, number))
            model[topic_filter, key] = (topic_filter, key, number)
        elif what == "unsubscribe":
            assert tree.unsubscribe(topic_filter, key) is ((topic_filter, key) in model)
            model.pop((topic_filter, key), None)
        else:
            tree.remove_all(key)
            model = {pair: value for pair, value in model.items() if pair[1] != key}

    assert len(tree) == len(model)
    for topic in topics:
        expected = [value for (topic_filter, _), value in model.items() if matches(topic_filter, topic)]
        assert Counter(tree.match(topic)) == Counter(expected)
