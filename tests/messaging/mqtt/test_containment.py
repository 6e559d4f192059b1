"""Which filters contain or overlap which, against what that means: topics that they match, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from messaging.mqtt.filters import contains, matches, overlaps

CONTAINS = {
    "the same": ("a/b", "a/b", True),
    "a level of any name": ("a/+", "a/b", True),
    "a level of any name and itself": ("a/+", "a/+", True),
    "all below is more than one level": ("a/+", "a/#", False),
    "all below has one level": ("a/#", "a/+", True),
    "all below has the level itself": ("a/#", "a", True),
    "all below and itself": ("a/#", "a/#", True),
    "all below, deeper": ("a/#", "a/b/c/#", True),
    "all below is not beside": ("a/b/#", "a/#", False),
    "a name is not any": ("a", "+", False),
    "everything": ("#", "a/+/#", True),
    "everything but $": ("#", "$internal/#", False),
    "any first level but $": ("+/x", "$internal/x", False),
    "$ by name": ("$internal/#", "$internal/x", True),
    "$ further on is plain": ("a/+", "a/$b", True),
    "everything written otherwise": ("+/#", "#", True),
    "all below nothing has two levels": ("/+/#", "/#", True),
    "an empty level is a level": ("a/+", "a/", True),
    "case counts": ("A/#", "a/b", False),
}


@pytest.mark.parametrize(("wide", "narrow", "expected"), CONTAINS.values(), ids=CONTAINS)
def test_a_filter_contains_another(wide: str, narrow: str, expected: bool) -> None:
    assert contains(wide, narrow) is expected


# One level more than any filter has, and a name that stands in none: nothing else tells filters apart.
NAMES = ("", "a", "$a", "z")
TOPICS = [
    topic
    for length in (1, 2, 3, 4)
    for topic in map("/".join, itertools.product(NAMES, repeat=length))
    if topic
]


def topics_of(topic_filter: str) -> frozenset[str]:
    return frozenset(topic for topic in TOPICS if matches(topic_filter, topic))


def short_filters() -> dict[str, frozenset[str]]:
    """Return all filters of up to three levels and the topics that they match."""
    levels = ("", "a", "$a", "+")
    paths = [path for length in (0, 1, 2, 3) for path in itertools.product(levels, repeat=length)]
    filters = ["/".join(path) for path in paths if path not in ((), ("",))]
    filters += ["/".join((*path, "#")) for path in paths if len(path) < 3]
    return {topic_filter: topics_of(topic_filter) for topic_filter in filters}


def test_every_short_filter_contains_exactly_those_whose_topics_it_matches() -> None:
    found = short_filters()

    wrong = [
        (wide, narrow)
        for wide, narrow in itertools.product(found, repeat=2)
        if contains(wide, narrow) is not (found[narrow] <= found[wide])
    ]

    assert len(found) == 104
    assert wrong == []


def test_every_short_filter_overlaps_exactly_those_with_which_it_shares_a_topic() -> None:
    found = short_filters()

    wrong = [
        (one, other)
        for one, other in itertools.product(found, repeat=2)
        if overlaps(one, other) is found[one].isdisjoint(found[other])
    ]

    assert wrong == []


level = st.sampled_from(("", "a", "b", "$a", "+", "+"))
filters = (
    st.builds(
        lambda path, rest: "/".join([*path, *rest]), st.lists(level, max_size=6), st.sampled_from(([], ["#"]))
    )
).filter(bool)


def topic_under(topic_filter: str, names: list[str], more: list[str]) -> str:
    """Return a topic with these names for the wildcards, and `more` in place of `#`."""
    given_names = iter(names)
    path = [next(given_names) if name == "+" else name for name in topic_filter.split("/") if name != "#"]
    return "/".join(path + (more if topic_filter.endswith("#") else []))


name = st.sampled_from(("", "a", "b", "$a", "z"))


@example(wide="+/#", narrow="#", names=["a"] * 6, more=[])
@given(
    wide=filters,
    narrow=filters,
    names=st.lists(name, min_size=6, max_size=6),
    more=st.lists(name, max_size=4),
)
def test_no_topic_of_a_contained_filter_escapes(
    wide: str, narrow: str, names: list[str], more: list[str]
) -> None:
    topic = topic_under(narrow, names, more)

    if topic and matches(narrow, topic) and contains(wide, narrow):
        assert matches(wide, topic)


@given(wide=filters, narrow=filters)
def test_a_filter_that_is_not_contained_has_a_topic_that_shows_it(wide: str, narrow: str) -> None:
    # z stands in no filter, so a wildcard of `narrow` filled with it fits wildcards alone.
    shown = [topic_under(narrow, ["z"] * 6, ["z"] * extra) for extra in range(8)]
    of_narrow = [topic for topic in shown if topic and matches(narrow, topic)]

    assert contains(wide, narrow) is all(matches(wide, topic) for topic in of_narrow)


@given(one=filters, other=filters)
def test_what_contains_overlaps_and_overlapping_has_no_order(one: str, other: str) -> None:
    assert overlaps(one, other) is overlaps(other, one)
    if contains(one, other):
        assert overlaps(one, other)
