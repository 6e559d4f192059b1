"""Requests for logs, and what becomes of each line. Source: spec sheet agent.md sections 5.3 and 8.9."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import regex

from actors.agent.log_query import (
    ContentType,
    Encoding,
    LogFilter,
    LogLine,
    MethodRefused,
    ParsedLine,
    Stopwatch,
    as_json,
    chosen,
    parse_line,
    parse_request,
    parse_time,
    selected,
)

NOW_S = 1_714_557_600.0  # 2024-05-01T10:00:00Z


def request(needs_url: bool = False, **members: Any) -> Any:
    payload = {"schemaVersion": "1.0", "items": {"id": "x"}} | members
    kept = {name: value for name, value in payload.items() if value is not None}
    return parse_request(json.dumps(kept).encode(), NOW_S, needs_url)


def test_one_item_without_more_is_json_without_a_filter() -> None:
    """Source: agent.md section 8, row 109."""
    asked = request()

    assert asked.items == (("x", LogFilter()),)
    assert (asked.encoding, asked.content_type) == (Encoding.NONE, ContentType.JSON)


def test_names_and_words_count_in_any_case() -> None:
    items = b'[{"ID": "x", "Filter": {"TAIL": 3}}]'
    payload = b'{"SCHEMAVERSION":"1.1","Items":%s,"ENCODING":"GZip","contenttype":"TEXT"}' % items

    asked = parse_request(payload, NOW_S, False)

    assert asked.items == (("x", LogFilter(tail=3)),)
    assert (asked.encoding, asked.content_type) == (Encoding.GZIP, ContentType.TEXT)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.5", "1.0.0"])
def test_schema_versions_of_major_1_are_understood(version: str) -> None:
    """Source: agent.md section 8, row 110."""
    assert request(schemaVersion=version).items


@pytest.mark.parametrize(
    ("members", "status", "reason"),
    [
        ({"schemaVersion": "2.0"}, 500, "schemaVersion '2.0' is not supported"),
        ({"schemaVersion": "0.0"}, 500, "schemaVersion '0.0' is not supported"),
        ({"schemaVersion": "abc"}, 500, "schemaVersion 'abc' is not supported"),
        ({"schemaVersion": "a.b.c"}, 500, "schemaVersion 'a.b.c' is not supported"),
        ({"schemaVersion": "  "}, 400, "schemaVersion is missing"),
        ({"schemaVersion": None}, 400, "schemaVersion is missing"),
        ({"items": None}, 400, "items is missing"),
        ({"items": []}, 400, "items is missing"),
        ({"items": "x"}, 400, "items is missing"),
        ({"items": {"id": ""}}, 400, "id is missing"),
        ({"items": {"name": "x"}}, 400, "id is missing"),
        ({"items": {"id": "("}}, 400, "id '(' is no regular expression"),
        ({"items": {"id": "x", "filter": {"regex": "["}}}, 400, "regex '[' is no regular expression"),
        ({"items": {"id": "x", "filter": {"tail": -1}}}, 400, "tail is not a whole number"),
        (
            {"items": {"id": "x", "filter": {"loglevel": 8}}},
            400,
            "loglevel is not a whole number from 0 to 7",
        ),
        ({"items": {"id": "x", "filter": {"since": "soon"}}}, 400, "since 'soon' is no time"),
        ({"encoding": "zip"}, 400, "encoding 'zip' is not allowed; allowed: none, gzip"),
        ({"contentType": "xml"}, 400, "contentType 'xml' is not allowed"),
    ],
)
def test_a_request_that_is_wrong_is_refused_with_its_status(
    members: dict[str, Any], status: int, reason: str
) -> None:
    """Source: agent.md section 8, row 110."""
    with pytest.raises(MethodRefused) as refused:
        request(**members)

    assert refused.value.status == status
    assert reason in str(refused.value)


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{", b"\xff", b"5"])
def test_a_payload_that_is_no_object_is_400(payload: bytes) -> None:
    with pytest.raises(MethodRefused) as refused:
        parse_request(payload, NOW_S, False)

    assert refused.value.status == 400


def test_an_upload_needs_an_url_which_is_shown_to_nobody() -> None:
    with pytest.raises(MethodRefused, match="sasUrl is missing"):
        request(needs_url=True)

    assert "sig=" not in repr(request(needs_url=True, sasUrl="https://a/b?sig=secret"))


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("2024-05-01T09:00:00Z", NOW_S - 3600),
        ("2024-05-01T11:00:00+02:00", NOW_S - 3600),
        ("1714557600", NOW_S),
        (1714557600, NOW_S),
        ("90m", NOW_S - 5400),
        ("1 day", NOW_S - 86_400),
        ("2h 30min", NOW_S - 9000),
        ("1h30m", NOW_S - 5400),
        (None, None),
    ],
)
def test_times_are_written_in_three_ways(text: Any, at_s: float | None) -> None:
    assert parse_time(text, NOW_S, "since") == at_s


@pytest.mark.parametrize("text", ["", "m", "5 lightyears", "2024-13-01T00:00:00Z", True, [], "1h x"])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(MethodRefused):
        parse_time(text, NOW_S, "since")


# which modules

NAMES = ["edgehub", "edgeAgent", "module1", "edgMod2", "eandt"]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("edge", ["edgehub", "edgeAgent"]),
        ("EDGE", ["edgehub", "edgeAgent"]),
        ("e.*t", ["edgeAgent", "eandt"]),
        ("^e.*", ["edgehub", "edgeAgent", "edgMod2", "eandt"]),
        ("ALL", NAMES),
        ("^x$", []),
    ],
)
def test_an_expression_names_modules_in_any_case_and_anywhere(expression: str, names: list[str]) -> None:
    """Source: agent.md section 8, row 113."""
    asked = request(items={"id": expression})

    assert [name for name, _ in chosen(asked, NAMES, Stopwatch(5.0))] == names


def test_the_first_item_that_names_a_module_counts() -> None:
    """Source: agent.md section 8, row 114."""
    items = [{"id": "edge", "filter": {"tail": 1}}, {"id": "edgeHub"}, {"id": "e.*e", "filter": {"tail": 3}}]
    asked = request(items=items)

    found = chosen(asked, ["edgeAgent", "edgeHub", "module1", "eModule2"], Stopwatch(5.0))

    assert [(name, wanted.tail) for name, wanted in found] == [
        ("edgeAgent", 1),
        ("edgeHub", 1),
        ("eModule2", 3),
    ]


# lines


OWN_OBJECT = '{"at": "2024-05-01T10:00:00.250Z", "level": "warning", "process": "edgeHub", "message": "x"}\n'


@pytest.mark.parametrize(
    ("payload", "parsed"),
    [
        ("<3> 2019-02-14 16:15:35.243 -08:00 [INF] x\n", ParsedLine(3, "[INF] x", 1_550_189_735.243)),
        ("2019-02-14 16:15:35.243 -08:00 [INF] x", ParsedLine(6, "[INF] x", 1_550_189_735.243)),
        ("<6> 2019-02-14 16:15:35.243 [INF] x\n", ParsedLine(6, "2019-02-14 16:15:35.243 [INF] x", None)),
        ("plain text\n", ParsedLine(6, "plain text", None)),
        (
            "<3> 2019-02-14 16:15:35.243 -08:00 \n",
            ParsedLine(3, "<3> 2019-02-14 16:15:35.243 -08:00 \n", 1_550_189_735.243),
        ),
        (
            OWN_OBJECT,
            ParsedLine(4, OWN_OBJECT.rstrip(), NOW_S + 0.25),
        ),
        ("<9> x\n", ParsedLine(6, "<9> x", None)),
        ("", ParsedLine(6, "", None)),
    ],
)
def test_a_line_is_taken_apart(payload: str, parsed: ParsedLine) -> None:
    """Source: agent.md section 8, rows 115 to 117."""
    assert parse_line(LogLine(payload)) == parsed


def test_the_time_that_the_engine_knows_goes_before_the_one_in_the_text() -> None:
    line = LogLine("2019-02-14 16:15:35.243 -08:00 x", written_s=NOW_S)

    assert parse_line(line) == ParsedLine(6, "x", NOW_S)


def numbered(levels: str) -> list[LogLine]:
    return [LogLine(f"<{level}> line {number}\n") for number, level in enumerate(levels, 1)]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (LogFilter(level=6), [1, 3]),
        (LogFilter(level=6, pattern=regex.compile("3")), [3]),
        (LogFilter(tail=2), [4, 5]),
        (LogFilter(tail=0), []),
        (LogFilter(tail=3, level=6), [3]),
        (LogFilter(tail=1, since_s=0.0, until_s=1e12, level=6), [3]),
        (LogFilter(pattern=regex.compile("LINE")), []),
    ],
)
def test_a_filter_lets_lines_through_in_its_order(wanted: LogFilter, numbers: list[int]) -> None:
    """Source: agent.md section 8, row 118."""
    found = selected(numbered("67643"), wanted, Stopwatch(5.0))

    assert [int(parsed.text.split()[1]) for _, parsed in found] == numbers


def test_the_tail_of_an_uploaded_text_with_both_ends_of_the_time_does_not_count() -> None:
    """Source: agent.md section 8, row 124."""
    wanted = LogFilter(tail=1, since_s=0.0, until_s=1e12)

    assert len(list(selected(numbered("666"), wanted, Stopwatch(5.0), cut=False))) == 3


def test_a_line_without_a_time_is_as_old_as_the_one_before() -> None:
    lines = [
        LogLine("old", written_s=10.0),
        LogLine("  more of it"),
        LogLine("new", written_s=20.0),
        LogLine("  too"),
    ]

    found = selected(lines, LogFilter(since_s=15.0), Stopwatch(5.0))

    assert [line.payload for line, _ in found] == ["new", "  too"]


def test_an_expression_that_takes_for_ever_is_stopped() -> None:
    evil = LogFilter(pattern=regex.compile(r"(?:x+x+)+y|(?:(?:a|aa)+)+$"))
    lines = [LogLine("a" * 60 + "!" * 5 + "x" * 60)] * 3
    began_s = time.monotonic()

    with pytest.raises(MethodRefused, match="takes too long"):
        list(selected(lines, evil, Stopwatch(0.5)))

    assert time.monotonic() - began_s < 5.0


def test_a_line_as_json_has_what_the_reference_gives() -> None:
    line = LogLine("<4> text\n", "stderr", NOW_S + 0.123)

    assert json.loads(as_json(line, parse_line(line), "hub.example", "dev1", "sensor")) == {
        "iothub": "hub.example",
        "device": "dev1",
        "id": "sensor",
        "stream": "stderr",
        "loglevel": 4,
        "text": "text",
        "timestamp": "2024-05-01T10:00:00.123000Z",
    }
