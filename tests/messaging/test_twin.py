"""The rules of twins, as a table of the spec sheet's cases and as laws of merging."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import twin
from messaging.errors import IotHubError
from messaging.time_text import iso_utc
from messaging.twin import Section, difference, merge, new_section, patched, replaced

NOW_S = 1_800_000_000.25
LATER_S = NOW_S + 60


def nested(levels: int, leaf: Any = 1) -> dict[str, Any]:
    value: Any = leaf
    for level in range(levels):
        value = {f"l{levels - level}": value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("values", "patch", "merged"),
    [
        pytest.param({"a": 1}, {"b": 2}, {"a": 1, "b": 2}, id="adds"),
        pytest.param({"a": 1}, {"a": 2}, {"a": 2}, id="replaces a scalar"),
        pytest.param({"a": 1, "b": 2}, {"a": None}, {"b": 2}, id="null removes"),
        pytest.param({}, {"a": None}, {}, id="null for what is not there"),
        pytest.param(
            {"a": {"x": 1, "y": 2}}, {"a": {"y": None, "z": 3}}, {"a": {"x": 1, "z": 3}}, id="inner"
        ),
        pytest.param({"a": 1}, {"a": {"x": 1, "y": None}}, {"a": {"x": 1}}, id="object for a scalar"),
        pytest.param({"a": {"x": 1}}, {"a": 5}, {"a": 5}, id="scalar for an object"),
        pytest.param({"a": {"x": 1}}, {"a": {}}, {"a": {"x": 1}}, id="empty object changes nothing"),
        pytest.param({"a": {"x": 1}}, {"a": {"x": None}}, {"a": {}}, id="the last member leaves an object"),
        pytest.param({"a": [1, 2]}, {"a": [3]}, {"a": [3]}, id="arrays are replaced"),
    ],
)
def test_a_patch_is_merged(values: Any, patch: Any, merged: Any) -> None:
    assert merge(values, patch) == merged


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        pytest.param([1], "not an array", id="an array"),
        pytest.param("x", "not a text", id="a text"),
        pytest.param(None, "not null", id="null"),
        pytest.param(True, "not a truth value", id="true"),
        pytest.param(7, "not a number", id="a number"),
        pytest.param({"": 1}, "empty", id="empty key"),
        pytest.param({"a.b": 1}, "'a.b'", id="dot in a key"),
        pytest.param({"$version": 1}, "'$version'", id="dollar in a key"),
        pytest.param({"a b": 1}, "blank", id="blank in a key"),
        pytest.param({"a\tb": 1}, "control character", id="control character C0"),
        pytest.param({"a\x85b": 1}, "control character", id="control character C1"),
        pytest.param({"k" * 1025: 1}, "1024 bytes", id="long key"),
        pytest.param({"ä" * 513: 1}, "1024 bytes", id="key long in bytes"),
        pytest.param({"a": {"b": {"c d": 1}}}, "'c d'", id="key of an inner object"),
        pytest.param({"a": [{"c d": 1}]}, "'c d'", id="key of an object in an array"),
        pytest.param({"a": "x" * 4097}, "4096 bytes", id="long text"),
        pytest.param({"a": "ä" * 2049}, "4096 bytes", id="text long in bytes"),
        pytest.param({"a": ["x" * 4097]}, "4096 bytes", id="long text in an array"),
        pytest.param({"a": 2**52}, "integer", id="integer too large"),
        pytest.param({"a": -(2**52) - 1}, "integer", id="integer too small"),
        pytest.param({"a": float("nan")}, "not a value of JSON", id="not a number"),
        pytest.param({"a": float("inf")}, "not a value of JSON", id="infinite"),
        pytest.param({"a": b"x"}, "not a value of JSON", id="bytes"),
        pytest.param({1: 1}, "not a text", id="a key that is no text"),
        pytest.param({"a": [1, None]}, "null", id="null in an array"),
        pytest.param(nested(12), "deeper than 10", id="eleven levels"),
        pytest.param({"a": [[[[[[[[[[[[1]]]]]]]]]]]]}, "deeper than 10", id="arrays inside each other"),
        pytest.param({"a": "\ud800"}, "surrogate", id="half a surrogate pair"),
    ],
)
def test_a_patch_that_breaks_a_rule_is_refused_and_says_which(patch: object, words: str) -> None:
    with pytest.raises(IotHubError, match="reported properties: ") as refused:
        patched("reported", Section(), patch, NOW_S)

    assert words in str(refused.value)
    assert (refused.value.status, refused.value.code) == (400, 400004)


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"a#b": 1}, id="number sign in a key"),
        pytest.param({"k" * 1024: 1}, id="longest key"),
        pytest.param({"a": "x" * 4096}, id="longest text"),
        pytest.param({"a": 2**52 - 1, "b": -(2**52)}, id="largest and smallest integer"),
        pytest.param({"a": 1e300}, id="a large number with a point"),
        pytest.param({"a": [1, [2], {"b": 3}]}, id="mixed array"),
        pytest.param(nested(11), id="ten levels with a property in the tenth"),
    ],
)
def test_what_just_keeps_the_rules_is_taken(patch: Any) -> None:
    section = patched("desired", Section(), patch, NOW_S)

    assert section.values == patch


@pytest.mark.parametrize(("name", "limit"), [("tags", 8192), ("desired", 32768), ("reported", 32768)])
def test_a_section_may_grow_up_to_its_limit_and_not_over_it(name: twin.SectionName, limit: int) -> None:
    fill = {f"k{number:03}": "x" * 1000 for number in range(limit // 1024)}
    room = limit - twin.size_bytes(fill) - len(',"rest":""')
    largest = patched(name, Section(), {**fill, "rest": "x" * room}, NOW_S)

    assert twin.size_bytes(largest.values) == limit
    with pytest.raises(IotHubError, match=f"{limit + 1} bytes; at most {limit}"):
        patched(name, largest, {"rest": "x" * (room + 1)}, NOW_S)


def test_each_accepted_update_raises_the_version_by_one() -> None:
    section = new_section(NOW_S)

    section = patched("desired", section, {"a": 1}, NOW_S)
    section = patched("desired", section, {}, NOW_S)
    section = replaced("desired", section, {"b": 1}, NOW_S)

    assert section.version == 4
    assert section.told() == {"b": 1, "$version": 4}


def test_metadata_tells_when_and_by_which_version_a_property_was_set() -> None:
    first = patched("desired", new_section(NOW_S), {"a": {"x": 1, "y": 1}, "b": [1]}, NOW_S)

    second = patched("desired", first, {"a": {"y": 2}, "b": None}, LATER_S)

    old = {"$lastUpdated": iso_utc(NOW_S), "$lastUpdatedVersion": 2}
    new = {"$lastUpdated": iso_utc(LATER_S), "$lastUpdatedVersion": 3}
    assert second.shown() == {
        "a": {"x": 1, "y": 2},
        "$version": 3,
        "$metadata": {**new, "a": {**new, "x": old, "y": new}},
    }


def test_metadata_of_reported_properties_has_times_alone() -> None:
    section = patched("reported", new_section(NOW_S), {"a": 1}, NOW_S)

    assert section.metadata == {
        "$lastUpdated": "2027-01-15T08:00:00.250000Z",
        "a": {"$lastUpdated": "2027-01-15T08:00:00.250000Z"},
    }


def test_metadata_of_a_replaced_object_keeps_nothing_of_what_is_gone() -> None:
    section = patched("reported", Section(), {"a": {"x": 1}}, NOW_S)

    section = patched("reported", section, {"a": 5}, LATER_S)

    assert section.metadata["a"] == {"$lastUpdated": iso_utc(LATER_S)}


def test_a_section_sent_back_as_it_was_read_is_taken() -> None:
    section = patched("desired", new_section(NOW_S), {"a": 1}, NOW_S)

    again = replaced("desired", section, twin.without_own_members(section.shown()), NOW_S)

    assert again.values == {"a": 1}


keys = st.text("abc", min_size=1, max_size=2)
scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text("xy", max_size=3))
arrays = st.lists(scalars, max_size=3)
objects = st.recursive(
    st.dictionaries(keys, st.one_of(scalars, arrays), max_size=4),
    lambda inner: st.dictionaries(keys, st.one_of(scalars, arrays, inner), max_size=4),
    max_leaves=12,
)
patches = st.recursive(
    st.dictionaries(keys, st.one_of(scalars, arrays, st.none()), max_size=4),
    lambda inner: st.dictionaries(keys, st.one_of(scalars, arrays, st.none(), inner), max_size=4),
    max_leaves=12,
)


def named_by_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: named_by_metadata(inner) for key, inner in metadata.items() if not key.startswith("$")}


def named_by_values(values: object) -> dict[str, Any]:
    if not isinstance(values, dict):
        return {}
    return {key: named_by_values(inner) for key, inner in values.items()}


@given(objects, objects)
def test_the_difference_of_two_twins_turns_one_into_the_other(old: Any, new: Any) -> None:
    """Source: agent.md section 8, row 91."""
    made = merge(old, difference(old, new))

    assert msgspec.json.encode(made, order="deterministic") == msgspec.json.encode(new, order="deterministic")


@given(objects)
def test_equal_twins_have_no_difference(values: Any) -> None:
    assert difference(values, copy.deepcopy(values)) == {}


@given(objects, patches)
def test_merging_a_patch_twice_is_merging_it_once_and_leaves_no_null(values: Any, patch: Any) -> None:
    before = copy.deepcopy((values, patch))

    once = merge(values, patch)

    assert merge(once, patch) == once
    assert (values, patch) == before
    assert "null" not in msgspec.json.encode(once).decode()


@given(objects, st.lists(patches, max_size=4))
def test_metadata_names_exactly_what_is_there(values: Any, several: list[Any]) -> None:
    section = replaced("desired", Section(), values, NOW_S)

    for patch in several:
        section = patched("desired", section, patch, LATER_S)

    assert named_by_metadata(section.metadata) == named_by_values(section.values)
    assert section.version == 2 + len(several)
