"""What bridges carry, and which rules would carry their own copies back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.broker.bridges import BridgeRule, Direction, comes_back
from messaging.mqtt.filters import matches, validate_filter

# From the spec sheet, sections 7.2 and 14: topic, inPrefix, outPrefix, what comes, what goes.
CARRIED = {
    "28: both prefixes": ("t/#", "a/", "b/", "a/t/1", "b/t/1"),
    "29: outPrefix alone": ("t/#", "", "child/", "t/1", "child/t/1"),
    "30: no slash is added": ("#", "floor", "", "floor/x", "/x"),
    "inPrefix alone": ("#", "floor/", "", "floor/x", "x"),
    "no prefixes": ("t/#", "", "", "t/1", "t/1"),
    "the topic is the prefix": ("", "a/b", "c", "a/b", "c"),
    "a prefix inside a level": ("1/+", "floor", "site", "floor1/x", "site1/x"),
    "nothing is left of it": ("#", "floor/", "", "floor/", None),
    "too long": ("#", "", "x" * 65_535, "a", None),
}


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("topic", "in_prefix", "out_prefix", "comes", "goes"), CARRIED.values(), ids=CARRIED)
def test_prefixes_change_places_whatever_the_direction(
    direction: Direction, topic: str, in_prefix: str, out_prefix: str, comes: str, goes: str | None
) -> None:
    rule = BridgeRule(direction, topic, in_prefix, out_prefix)

    validate_filter(rule.source)
    assert matches(rule.source, comes)
    assert rule.destination(comes) == goes


def test_a_prefix_in_front_of_all_topics_means_those_below_it() -> None:
    assert BridgeRule(Direction.OUT, "#", "floor").source == "floor/#"
    assert BridgeRule(Direction.OUT, "#", "floor/").source == "floor/#"
    assert BridgeRule(Direction.OUT, "#").source == "#"


COMES_BACK = {
    "no prefixes": ("t/#", "", "", True),
    "everything": ("#", "", "", True),
    "the same prefixes": ("t/#", "a/", "a/", True),
    "into itself, deeper": ("#", "", "b/", True),
    "out of itself": ("#", "a/", "", True),
    "one tree into another": ("t/#", "a/", "b/", False),
    "one tree into another by no prefix": ("t/#", "a/", "", False),
    "a wildcard takes the other tree in": ("+/t", "", "b/", False),
    "any level below a wildcard": ("+/#", "", "b/", True),
    "to $": ("#", "", "$a/", False),
    "to what begins with $": ("+", "", "$a", False),
    "a level that is longer": ("+", "", "b", True),
    "another level above": ("+", "", "b/", False),
    "a prefix of a level": ("1/#", "floor", "floor", True),
}


@pytest.mark.parametrize(
    ("topic", "in_prefix", "out_prefix", "expected"), COMES_BACK.values(), ids=COMES_BACK
)
def test_a_rule_whose_copies_it_would_carry_again_is_known(
    topic: str, in_prefix: str, out_prefix: str, expected: bool
) -> None:
    assert comes_back(BridgeRule(Direction.IN, topic, in_prefix, out_prefix)) is expected


ENDS = [
    "/".join(path)
    for length in (1, 2, 3)
    for path in itertools.product(("", "a", "b", "ab", "$"), repeat=length)
]
prefixes = st.sampled_from(("", "a", "a/", "b/", "a/b/", "/", "$", "$/", "ab"))
topics = st.sampled_from(
    ("#", "+", "a", "b", "a/#", "+/#", "b/+", "+/a", "/#", "/+", "a/b/#", "+/+", "+/b/#", "", "b/#")
)


@given(topic=topics, in_prefix=prefixes, out_prefix=prefixes)
def test_what_comes_back_is_what_trying_it_out_shows(topic: str, in_prefix: str, out_prefix: str) -> None:
    rule = BridgeRule(Direction.OUT, topic, in_prefix, out_prefix)
    try:
        validate_filter(rule.source)
    except ValueError:
        return  # such a rule is refused
    tried = [
        in_prefix + end for end in [*ENDS, *(f"/{end}" for end in ENDS), *(f"{end}/a/b" for end in ENDS)]
    ]

    shown = any(
        topic
        and matches(rule.source, topic)
        and (made := rule.destination(topic))
        and matches(rule.source, made)
        for topic in tried
    )

    assert comes_back(rule) is shown
