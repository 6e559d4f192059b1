import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.message import Message
from messaging.routing.body import parse_body, parse_path, path_reader
from messaging.routing.lenient_json import loads_leniently
from messaging.routing.values import MISSING, UNDEFINED


def message(
    body: bytes, content_type: str | None = "application/json", encoding: str | None = "utf-8"
) -> Message:
    return Message("/messages/", {}, {"contentType": content_type, "contentEncoding": encoding}, body)


def value_at(path: str, body: bytes) -> object:
    return path_reader(parse_path(path))(parse_body(message(body)))


@pytest.mark.parametrize(
    ("body", "content_type", "encoding"),
    [
        (b'{"a":1}', "application/json", "utf-8"),
        (b'{"a":1}', "Application/JSON", "UTF-8"),
        ('{"a":1}'.encode("utf-16-le"), "application/json", "utf-16"),
        ('{"a":1}'.encode("utf-32-le"), "application/json", "Utf-32"),
        (b"  {'a': 1.0,} // lenient", "application/json", "utf-8"),
    ],
)
def test_a_json_object_with_type_and_encoding_can_be_asked(
    body: bytes, content_type: str, encoding: str
) -> None:
    assert parse_body(message(body, content_type, encoding)) == {"a": 1.0}


@pytest.mark.parametrize(
    ("body", "content_type", "encoding"),
    [
        pytest.param(b"{}", "application/json; charset=utf-8", "utf-8", id="type with a parameter"),
        pytest.param(b"{}", "text/plain", "utf-8", id="another type"),
        pytest.param(b"{}", None, "utf-8", id="no type"),
        pytest.param(b"{}", "application/json", "utf8", id="utf8"),
        pytest.param(b"{}", "application/json", "us-ascii", id="ascii"),
        pytest.param(b"{}", "application/json", None, id="no encoding"),
        pytest.param(b"{}", "application/json", "utf-16", id="wrong encoding"),
        pytest.param("{}".encode("utf-16-be"), "application/json", "utf-16", id="big endian"),
        pytest.param(b"\xef\xbb\xbf{}", "application/json", "utf-8", id="byte order mark"),
        pytest.param("\ufeff{}".encode("utf-16-le"), "application/json", "utf-16", id="mark in utf-16"),
        pytest.param(b"", "application/json", "utf-8", id="empty"),
        pytest.param(b"[1]", "application/json", "utf-8", id="an array"),
        pytest.param(b'"{}"', "application/json", "utf-8", id="a string"),
        pytest.param(b"{} x", "application/json", "utf-8", id="text behind"),
        pytest.param(b'{"a":', "application/json", "utf-8", id="cut off"),
        pytest.param(b'{"a":"\xff"}', "application/json", "utf-8", id="not UTF-8"),
        pytest.param(b'{"a":' + b"[" * 100_000, "application/json", "utf-8", id="deep and cut off"),
        pytest.param(
            b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json", "utf-8", id="too deep"
        ),
    ],
)
def test_any_other_body_is_undefined(body: bytes, content_type: str | None, encoding: str | None) -> None:
    root = parse_body(message(body, content_type, encoding))

    assert root is UNDEFINED
    assert path_reader(parse_path("a"))(root) is UNDEFINED


@pytest.mark.parametrize(
    ("path", "body", "value"),
    [
        ("a", b'{"a":true}', True),
        ("a", b'{"a":7}', 7.0),
        ("a", b'{"a":-1.5e1}', -15.0),
        ("a", b'{"a":12345678901234567890}', 12345678901234567890.0),
        ("a", b'{"a":' + b"9" * 5000 + b"}", float("inf")),
        ("a", b'{"a":1e999}', float("inf")),
        ("a", b'{"a":NaN}', UNDEFINED),
        ("a", b'{"a":"x"}', "x"),
        ("a", b'{"a":"\\ud83d\\ude00"}', "\U0001f600"),
        ("a", b'{"a":null}', None),
        ("a", b'{"a":1,"a":2}', 2.0),
        ("a", b'{"A":1}', MISSING),
        ("a", b'{"a":{}}', UNDEFINED),
        ("a", b'{"a":[]}', UNDEFINED),
        ("a.b", b'{"a":{"b":1}}', 1.0),
        ("a.b", b'{"a":1}', MISSING),
        ("a.b", b'{"a":"b"}', MISSING),
        ("a.b", b'{"a":null}', MISSING),
        ("a[1]", b'{"a":[1,2]}', 2.0),
        ("a[2]", b'{"a":[1,2]}', MISSING),
        ("a[99999999999999999999]", b'{"a":[1,2]}', MISSING),
        ("a[0]", b'{"a":{"0":1}}', MISSING),
        ("a[0]", b'{"a":"text"}', MISSING),
        ("a[1][0].b", b'{"a":[1,[{"b":3}]]}', 3.0),
        ("a.*", b'{"a":{"x":1}}', 1.0),
        ("a.*", b'{"a":[1]}', 1.0),
        ("a.*", b'{"a":[1,2]}', UNDEFINED),
        ("a.*", b'{"a":[]}', MISSING),
        ("*.b", b'{"x":{"b":1},"y":{"c":2}}', 1.0),
        ("a-b", b'{"a-b":1}', 1.0),
        ("größe", '{"größe":1}'.encode(), 1.0),
        ("a", b'{"a":"2031-05-06T07:08:09Z"}', UNDEFINED),
        ("a", b'{"a":"2031-05-06T07:08:09"}', UNDEFINED),
        ("a", b'{"a":"2031-05-06T07:08:09.1234567+02:00"}', UNDEFINED),
        ("a", b'{"a":"/Date(1234567890)/"}', UNDEFINED),
        ("a", b'{"a":"2031-05-06"}', "2031-05-06"),
        ("a", b'{"a":"2031-13-06T07:08:09Z"}', "2031-13-06T07:08:09Z"),
        ("a", b'{"a":"2031-05-06 07:08:09"}', "2031-05-06 07:08:09"),
        ("a", b'{"a":"at 2031-05-06T07:08:09Z"}', "at 2031-05-06T07:08:09Z"),
    ],
)
def test_a_path_leads_to_a_value(path: str, body: bytes, value: object) -> None:
    found = value_at(path, body)

    assert found == value
    assert found.__class__ is value.__class__


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a..b",
        "a.",
        ".a",
        "a[]",
        "a[-1]",
        "a[*]",
        "a['b']",
        "a[1:2]",
        "a[1",
        "a]",
        "[0]",
        "a[0]b",
        "7",
        "a.7",
    ],
)
def test_a_path_of_another_form_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|name"):
        parse_path(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 'it\"s'}", {"a": 'it"s'}),
        ("{a: 1, $b_2: 2}", {"a": 1.0, "$b_2": 2.0}),
        ('{"a": [1, 2,],}', {"a": [1.0, 2.0]}),
        ('/* x */ {"a": // y\n true}', {"a": True}),
        ("{a: -Infinity, b: null, c: false}", {"a": float("-inf"), "b": None, "c": False}),
        (r"{a: '\u0041\n\'\\\/'}", {"a": "A\n'\\/"}),
        (r"{a: '\ud83d\ude00'}", {"a": "\U0001f600"}),
        ("[]", []),
    ],
)
def test_almost_json_is_read(text: str, value: object) -> None:
    assert loads_leniently(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{a}",
        "{a:}",
        "{,}",
        "[,]",
        "[1 2]",
        "{a:1 b:2}",
        "'",
        "'a",
        r"'\x'",
        "{} {}",
        "+1",
        "01x",
        "/* {}",
    ],
)
def test_what_is_not_even_almost_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        loads_leniently(text)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.booleans())
def test_json_is_almost_json(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)

    assert loads_leniently(text) == json.loads(text)


@given(st.text() | st.text("{}[],:'\"\\ua1e-/*\n nul"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        loads_leniently(text)
    except ValueError:
        return


@given(st.binary(), st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_any_body_can_be_asked(body: bytes, encoding: str) -> None:
    root = parse_body(message(body, encoding=encoding))

    for path in ("a.b[0]", "*.*"):
        path_reader(parse_path(path))(root)
