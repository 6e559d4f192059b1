"""The query language over twins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import IotHubError
from messaging.query import parse_condition, parse_query

TWIN: dict[str, Any] = {
    "deviceId": "d1",
    "status": "enabled",
    "capabilities": {"iotEdge": True},
    "tags": {"site": "a", "floor": 3, "name with blanks": "x", "list": [1], "none": None},
    "properties": {"desired": {"$version": 4, "x": {"y": 1.5}}, "reported": {"ok": False, "fw": "1.2"}},
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("deviceId = 'd1'", True),
        ('deviceId = "d1"', True),
        ("deviceId='D1'", False),
        ("devices.deviceId = 'd1'", True),
        ("devices.modules.deviceId = 'd1'", True),
        ("capabilities.iotEdge = true", True),
        ("capabilities.iotEdge", True),
        ("capabilities.iotEdge = 'true'", False),
        ("capabilities.iotEdge = 1", False),
        ("tags.floor = 3", True),
        ("tags.floor = 3.0", True),
        ("tags.floor >= 3 AND tags.floor < 4", True),
        ("tags.floor > 3 or tags.site != 'b'", True),
        ("NOT tags.site = 'a'", False),
        ("not (tags.site = 'a' and tags.floor = 4)", True),
        ("tags.site <> 'a'", False),
        ("tags.site > 'A'", True),
        ("tags.site > 1", False),
        ("tags.missing = 1", False),
        ("tags.missing != 1", False),
        ("tags.none = null", True),
        ("is_defined(tags.missing)", False),
        ("IS_DEFINED(tags.none)", True),
        ("is_null(tags.none)", True),
        ("is_number(tags.floor) and is_string(tags.site) and is_bool(capabilities.iotEdge)", True),
        ("is_number(capabilities.iotEdge)", False),
        ("is_array(tags.list) and is_object(tags)", True),
        ("tags.site IN ['b', 'a']", True),
        ("tags.site NIN ['b', 'a']", False),
        ("tags.site NOT IN ['b']", True),
        ("tags.missing in ['b']", False),
        ("tags['name with blanks'] = 'x'", True),
        ("startswith(properties.reported.fw, '1.') and endswith(deviceId, '1')", True),
        ("contains(properties.reported.fw, 'x')", False),
        ("startswith(tags.floor, '3')", False),
        ("properties.desired.x.y = 1.5", True),
        ("properties.desired.$version > 3", True),
        ("properties.reported.ok = false", True),
        ("tags.site = 'it''s'", False),
        ("'a' = tags.site", True),
        ("tags.floor = -3", False),
        ("tags.floor < 1e3", True),
    ],
)
def test_a_condition_holds_or_not(condition: str, expected: bool) -> None:
    assert parse_condition(condition)(TWIN) is expected


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("SELECT * FROM devices", TWIN),
        ("select deviceId from devices", {"deviceId": "d1"}),
        ("SELECT deviceId AS id, tags.site FROM devices", {"id": "d1", "site": "a"}),
        ("SELECT properties.reported.fw, tags.missing FROM devices.modules", {"fw": "1.2"}),
        ("SELECT TOP 5 * FROM devices WHERE deviceId = 'd1'", TWIN),
        ("  SELECT\n*\tFROM devices  ", TWIN),
    ],
)
def test_a_query_shows_what_it_selects(text: str, row: Any) -> None:
    query = parse_query(text)

    assert query.matches(TWIN)
    assert query.row(TWIN) == row


def test_a_query_says_what_it_asks_for() -> None:
    query = parse_query("SELECT TOP 7 COUNT() AS n FROM devices.modules WHERE status = 'enabled'")

    assert (query.collection, query.count_as, query.top) == ("devices.modules", "n", 7)
    assert parse_query("SELECT COUNT(*) FROM devices").count_as == "count"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected SELECT, found its end"),
        ("DELETE FROM devices", "column 1: expected SELECT, found 'DELETE'"),
        ("SELECT * FROM jobs", "'jobs'; there are devices and devices.modules"),
        ("SELECT FROM devices", "found 'devices'"),
        ("SELECT * FROM devices WHERE", "found its end"),
        ("SELECT * FROM devices WHERE deviceId =", "expected a name, found its end"),
        ("SELECT * FROM devices WHERE deviceId = 'x", "column 40"),
        ("SELECT * FROM devices WHERE (a = 1", "expected ')'"),
        ("SELECT * FROM devices WHERE a = 1 b", "expected nothing more, found 'b'"),
        ("SELECT * FROM devices WHERE magic(a)", "'magic' is not known"),
        ("SELECT * FROM devices WHERE a IN 5", "expected '['"),
        ("SELECT * FROM devices WHERE a ~ 5", "column 31"),
        ("SELECT TOP x * FROM devices", "expected a number"),
        ("SELECT * FROM devices GROUP BY a", "expected nothing more"),
        ("SELECT * FROM devices WHERE " + "(" * 40 + "a" + ")" * 40, "at most 32 levels"),
        ("SELECT * FROM devices WHERE a = '" + "x" * 5000 + "'", "longer than 4096"),
    ],
)
def test_a_query_that_cannot_be_understood_says_where(text: str, words: str) -> None:
    with pytest.raises(IotHubError, match="the query cannot be understood") as refused:
        parse_query(text)

    assert words in str(refused.value)
    assert refused.value.code == 400004


WORDS = "SELECT * FROM devices WHERE AND OR NOT IN ( ) [ ] , . = <> 'x' 5 -1e9 true null is_defined a"


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS.split()), max_size=25).map(" ".join)))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for parse in (parse_query, parse_condition):
        try:
            understood = parse(text)
        except IotHubError:
            continue
        understood.matches(TWIN) if hasattr(understood, "matches") else understood(TWIN)
