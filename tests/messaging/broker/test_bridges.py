"""What bridges carry, and which rules would carry their own copies back."""

from __future__ import annotations

import pytest

from messaging.broker.bridges import BridgeRule, Direction
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
