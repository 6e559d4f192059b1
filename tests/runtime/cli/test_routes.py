"""`edge-actors routes check` and `routes test`: by hand, and line by line for other programs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.message import Message
from runtime.cli.route_batch import answer, answer_lines
from runtime.cli.route_text import WIDTH, marked
from tests.actors.manifests import HUB, manifest_text
from tests.messaging.routing.test_condition import CASES, ERROR
from tests.runtime.cli.conftest import EdgeActors

TO_CLOUD = "FROM /messages/* INTO $upstream"
JSON_BODY = ("-s", "contentType=application/json", "-s", "contentEncoding=utf-8")


def as_json(message: Message) -> dict[str, Any]:
    return {
        "source": message.source.rstrip("/"),
        "properties": dict(message.properties),
        "systemProperties": dict(message.system_properties),
        "body": base64.b64encode(message.body).decode(),
    }


def asked(**line: Any) -> dict[str, Any]:
    return answer(json.dumps(line).encode())


# batch


@pytest.mark.parametrize("kind", ["route", "condition"])
@pytest.mark.parametrize(
    ("number", "condition", "of", "expected"), CASES, ids=[str(case[0]) for case in CASES]
)
def test_the_cases_of_the_sheet_are_answered(
    kind: str, number: int, condition: str, of: Message, expected: bool | str | None
) -> None:
    text = condition if kind == "condition" else f"FROM /* WHERE {condition} INTO $upstream"

    answered = asked(**{kind: text}, message=as_json(of))

    if expected == ERROR:
        [error] = answered["error"]
        assert set(error) == {"message", "line", "column"}
    else:
        assert answered == {"match": expected is True}


def test_answers_come_in_order_and_a_bad_line_ends_nothing() -> None:
    lines = [
        b'{"condition": "1 = 1", "message": {}}',
        b"no JSON",
        b"",
        b'{"condition": "1 = 2", "message": {}}',
        b'{"route": "' + TO_CLOUD.encode() + b'", "message": {"source": "/messages/modules/m/outputs/o"}}',
        b'{"route": "' + TO_CLOUD.encode() + b'", "message": {"source": "/twinChangeNotifications"}}',
        b'{"route": "' + TO_CLOUD.encode() + b'"}',
    ]
    answers = io.BytesIO()

    answer_lines(io.BytesIO(b"\n".join(lines)), answers)

    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [one.get("match", "error") for one in told] == [True, "error", "error", False, True, False, None]


def test_an_answer_is_there_before_the_next_line_is_read() -> None:
    answers = io.BytesIO()

    class Lines:
        def __iter__(self) -> Any:
            for count in range(3):
                assert answers.getvalue().count(b"\n") == count
                yield b'{"condition": "true"}\n'

    answer_lines(Lines(), answers)  # type: ignore[arg-type]

    assert answers.getvalue().count(b"\n") == 3


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ({"condition": "temp > 20"}, (1, 6)),
        ({"condition": "a = 'b' AND\n temp > 20"}, (2, 7)),
        ({"condition": "a ="}, (1, 4)),
        ({"condition": "(a = 'b'"}, (1, 1)),
        ({"condition": "level = 'warn' /* note */"}, (1, 26)),
        ({"condition": "*/ / a"}, (1, 1)),
        ({"route": "FROM /* WHERE temp > 20 INTO $upstream"}, (1, 20)),
        ({"route": ""}, (1, 1)),
    ],
)
def test_a_mistake_is_placed_in_the_text_that_was_asked_about(
    line: dict[str, str], place: tuple[int, int]
) -> None:
    [error] = asked(**line)["error"]

    assert (error["line"], error["column"]) == place


def test_an_empty_condition_is_undefined_which_is_no_match() -> None:
    assert asked(condition=" ", message={}) == {"match": False}


def test_the_source_follows_from_the_system_properties_when_it_is_not_said() -> None:
    route = "FROM /messages/modules/m/outputs/o INTO $upstream"

    system = {"connectionModuleId": "m", "outputName": "o"}

    assert asked(route=route, message={"systemProperties": system}) == {"match": True}
    assert asked(route=route, message={}) == {"match": False}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "a JSON object"),
        (b"{}", "needs"),
        (b'{"route": "x", "condition": "y"}', "one of them"),
        (b'{"condition": 5}', '"condition" has to be a string'),
        (b'{"condition": "a", "message": 5}', '"message" has to be an object'),
        (b'{"condition": "a", "message": {"source": 5}}', "message.source"),
        (b'{"condition": "a", "message": {"properties": []}}', "message.properties"),
        (b'{"condition": "a", "message": {"properties": {"a": 5}}}', 'value of "a" has to be a string'),
        (b'{"condition": "a", "message": {"body": 5}}', "message.body"),
        (b'{"condition": "a", "message": {"body": "%%%"}}', "not base64"),
        (b'{"condition": "a", "message": {"body": "\\u00e9"}}', "not base64"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "cannot be read"),
    ],
)
def test_a_line_that_is_not_understood_says_why(line: bytes, says: str) -> None:
    [error] = answer(line)["error"]

    assert says in error["message"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a = '" + "x" * 1_000_000 + "'", id="a megabyte"),
        pytest.param("(" * 10_000 + "true" + ")" * 10_000, id="10,000 brackets"),
        pytest.param("\ud800 = 'x\udfff", id="halves of characters"),
        pytest.param("a = '\x00", id="NUL"),
    ],
)
def test_hostile_text_gets_its_error(text: str) -> None:
    for line in ({"condition": text}, {"route": f"FROM /* WHERE {text} INTO $upstream"}):
        answered = asked(**line)

        assert list(answered) == ["error"]
        assert json.dumps(answered).isascii()


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        b"\xff\xff{",
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b"\xef\xbb\xbf{}",
    ],
    ids=["no JSON", "no UTF-8", "NaN", "a huge number", "deep arrays", "deep objects", "empty", "BOM"],
)
def test_hostile_bodies_are_answered(body: bytes) -> None:
    system = {"contentType": "application/json", "contentEncoding": "utf-8"}
    message = {"systemProperties": system, "body": base64.b64encode(body).decode()}

    answered = asked(condition="$body.a > 5", message=message)

    assert answered == {"match": b"9" * 100 in body}


@given(st.binary() | st.text().map(lambda text: json.dumps({"condition": text, "message": {}}).encode()))
def test_any_line_is_answered(line: bytes) -> None:
    answered = answer(line)

    assert list(answered) in (["match"], ["error"])
    json.dumps(answered)


# by hand


def test_a_message_that_passes_is_explained_part_by_part(edge_actors: EdgeActors) -> None:
    told = edge_actors("routes", "test", "level = 'warn' AND as_number(temp) > 20", *M1_OPTIONS)

    assert told.code == 0
    assert told.out == (
        "matches: the condition is true\n"
        "\n"
        "true        level = 'warn' AND as_number(temp) > 20\n"
        "  true        level = 'warn'\n"
        '    "warn"      level\n'
        "  true        as_number(temp) > 20\n"
        "    21.5        as_number(temp)\n"
        '      "21.5"      temp\n'
    )


M1_OPTIONS = ("-p", "level=warn", "-p", "temp=21.5")


def test_the_explanation_is_there_as_json(edge_actors: EdgeActors) -> None:
    found = edge_actors("routes", "test", "absent = 'x'", "--json").json

    assert found == {
        "match": False,
        "why": "the condition is undefined, and only a true one passes",
        "condition": {
            "text": "absent = 'x'",
            "value": "undefined",
            "parts": [
                {
                    "text": "absent",
                    "value": "undefined",
                    "note": "the message has no property 'absent'",
                }
            ],
        },
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((TO_CLOUD,), "matches: the route has no condition"),
        (
            (TO_CLOUD, "--source", "/twinChangeNotifications"),
            "comes from /twinChangeNotifications/, not from",
        ),
        (
            ("FROM /messages/modules/m INTO $upstream",),
            "comes from /messages/, not from /messages/modules/m/",
        ),
        (("FROM /messages/modules/m INTO $upstream", "-s", "connectionModuleId=m"), "matches: "),
        (("$body.a = 1", "--body", '{"a":1}'), "the content type is '', not exactly 'application/json'"),
        (
            ("$body.a = 1", "-s", "contentType=application/json"),
            "the content encoding is '', not one of utf-8",
        ),
        (("$body.a = 1", *JSON_BODY, "--body", "[1]"), "the body is not a JSON object"),
        (("$body.a = 1", *JSON_BODY, "--body", '{"a":1}'), "matches: the condition is true"),
        (
            ("$body.a > 1000", *JSON_BODY, "--body", "{}"),
            "a null and a number: kinds are ordered bool, number,",
        ),
        (("$body.a > 1000", *JSON_BODY, "--body", "{}"), "the body has nothing there"),
        (("$level = 'x'", "-p", "level=x"), "there is a property without $, level"),
        (("messageId = 'x'", "-s", "messageId=x"), "there is a system property, $messageId"),
        (("'x'",), 'the condition is "x", and only a true one passes'),
        (("null",), "the condition is false"),
        (("",), "an empty condition is undefined"),
    ],
)
def test_the_reason_is_said(edge_actors: EdgeActors, arguments: tuple[str, ...], says: str) -> None:
    told = edge_actors("routes", "test", *arguments)

    assert told.code == 0, told.err
    assert says in told.out


def test_the_body_comes_from_a_file(edge_actors: EdgeActors, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(b'{"a":1}')

    told = edge_actors("routes", "test", "$body.a = 1", *JSON_BODY, "--body", f"@{file}")

    assert told.out.startswith("matches")


def test_a_mistake_is_marked(edge_actors: EdgeActors) -> None:
    told = edge_actors("routes", "test", "temp > 20")

    assert told.code == 2
    assert told.err.startswith("error: line 1, column 6: Invalid operands to binary operator '>'")
    assert told.err.endswith("\n  temp > 20\n       ^\n")
    assert json.loads(edge_actors("routes", "test", "temp > 20", "--json").out)["error"][0]["column"] == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "missing ROUTE or CONDITION"),
        (("a", "--batch"), "--batch reads routes and messages from standard input alone"),
        (("a", "-p", "b"), "--property: 'b' is not NAME=VALUE"),
        (("a", "-s", "=b"), "--system: '=b' is not NAME=VALUE"),
        (("a", "--body", "@/no/such/file"), "--body: '/no/such/file' cannot be read: No such file"),
    ],
)
def test_wrong_options_are_named(edge_actors: EdgeActors, arguments: tuple[str, ...], says: str) -> None:
    told = edge_actors("routes", "test", *arguments)

    assert told.code == 2
    assert says in told.err


def test_a_long_line_is_shown_around_its_mistake() -> None:
    line, mark = marked("x" * 1000 + "!" + "y" * 1000, 1, 1001).split("\n")

    assert line[mark.index("^")] == "!"
    assert len(line) < WIDTH + 10


# check


def test_the_routes_of_a_manifest_are_checked(edge_actors: EdgeActors, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    routes = {"up": TO_CLOUD, "hot": {"route": TO_CLOUD, "priority": 3, "timeToLiveSecs": 60}, "bad": "FROM"}
    file.write_text(manifest_text(((*HUB, "routes"), routes)))

    told = edge_actors("routes", "check", str(file))
    values = json.loads(edge_actors("routes", "check", str(file), "--json").out)["routes"]

    assert told.code == 2
    assert told.out == (
        "'up' is right: from /messages/* to iothub\n"
        "'hot' is right: from /messages/* to iothub\n"
        "'bad' is wrong: line 1, column 5: Syntax error. (found the end of the route, expected /)\n"
        "  FROM\n"
        "      ^\n"
    )
    assert values[1] == {
        "name": "hot",
        "route": TO_CLOUD,
        "source": "/messages/*",
        "endpoint": "iothub",
        "priority": 3,
        "timeToLiveSecs": 60,
    }
    assert (values[2]["error"][0]["line"], values[2]["error"][0]["column"]) == (1, 5)


def test_one_route_is_checked_from_the_command_line_or_a_file(
    edge_actors: EdgeActors, tmp_path: Path
) -> None:
    file = tmp_path / "route.txt"
    file.write_text(f"{TO_CLOUD}\n")

    for told in (edge_actors("routes", "check", TO_CLOUD), edge_actors("routes", "check", str(file))):
        assert (told.code, told.out) == (0, "the route is right: from /messages/* to iothub\n")


def test_routes_that_are_too_much_for_a_twin_are_noted(edge_actors: EdgeActors, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    routes = {f"r{n}": f"FROM /messages/modules/module{n}/* INTO $upstream" for n in range(1000)}
    file.write_text(manifest_text(((*HUB, "routes"), routes)))

    told = edge_actors("routes", "check", str(file))

    assert told.code == 0
    assert "IoT Hub takes 32768" in told.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no file that can be read: No such file or directory"),
        (b"\xff", "neither a manifest nor the text of a route: byte 1 is not UTF-8"),
        (b"{", "d.json"),
        (b"", "the route is wrong: line 1, column 1"),
    ],
)
def test_a_file_that_cannot_be_checked_is_named(
    edge_actors: EdgeActors, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "d.json"
    if content is not None:
        file.write_bytes(content)

    told = edge_actors("routes", "check", str(file))

    assert told.code == 2
    assert says in told.out + told.err


def test_a_megabyte_on_the_command_line_is_an_error_of_one_screen(edge_actors: EdgeActors) -> None:
    told = edge_actors("routes", "check", "FROM /" + "a" * 100_000)
    other = edge_actors("routes", "check", "x" * 100_000)

    assert (told.code, other.code) == (2, 2)
    assert len(told.out) < 1000
    assert len(other.err) < 1000
