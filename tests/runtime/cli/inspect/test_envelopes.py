"""Envelopes as they are shown: whole, and without secrets."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.envelope import VERSION, Envelope, Secret, encode
from runtime.cli.inspect.envelopes import SeenEnvelope, Shown, seen, size_text, waited_s
from runtime.support.redaction import Redactor

KEY = b"0123456789abcdef0123456789abcdef"
IN_BASE64 = base64.b64encode(KEY).decode()
SAS = "SharedAccessSignature sr=h%2Fdevices%2Fd&sig=c2lnbmF0dXJl%3D&se=1"
SHOWN = Shown(Redactor([KEY]))


def seen_with(*values: Any, names: tuple[str, ...] = ()) -> SeenEnvelope:
    names = names or tuple(f"field{number}" for number in range(len(values)))
    envelope = Envelope(VERSION, 1, 171, "Cargo", "hub/store", "hub/mqtt", 9, 172, 1000.0, 0.0, values)
    frame = encode(envelope)
    return seen("hub", 1000.25, len(frame), frame, {"Cargo": names})


def test_an_envelope_is_shown_with_all_that_it_says() -> None:
    one = seen_with("text", 5, names=("name", "count"))

    assert SHOWN.values(one) == {
        "at": "1970-01-01T00:16:40.250000Z",
        "process": "hub",
        "id": "00000000000000ab",
        "kind": "Cargo",
        "to": "hub/store",
        "from": "hub/mqtt",
        "correlation": "00000000000000ac",
        "lane": "data",
        "size": one.size,
        "waited_ms": 250.0,
        "message": {"name": "text", "count": 5},
    }
    assert SHOWN.line(one).endswith(
        f"hub/mqtt → hub/store  Cargo  00000000000000ab  {one.size} B  waited 250 ms  "
        '{"name": "text", "count": 5}'
    )


def test_fields_whose_names_are_not_known_are_numbered() -> None:
    assert seen_with("a", "b").named(("only",)).of_message() == {"0": "a", "1": "b"}


def test_a_message_that_was_left_out_is_said_to_be() -> None:
    envelope = Envelope(VERSION, 1, 1, "Cargo", "hub/store", "", 9, 0, 1000.0, 0.0, ())
    one = seen("hub", 1000.0, 5_000_000, encode(envelope), {"Cargo": ("content",)})

    values = SHOWN.values(one)

    assert (values["message"], values["cut"], values["size"]) == (None, True, 5_000_000)
    assert SHOWN.line(one).endswith("5 MB  waited 0 ms  (too large to be shown)")


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        (Secret(KEY), IN_BASE64),
        (IN_BASE64, IN_BASE64),
        (f"HostName=h;SharedAccessKey={IN_BASE64}".encode(), IN_BASE64),
        (("a", {"b": (SAS,)}), "c2lnbmF0dXJl"),
        (msgpack.packb([SAS, 200]), "c2lnbmF0dXJl"),
        (b"\xff\xfe" + SAS.encode(), "c2lnbmF0dXJl"),
        ({"primaryKey": "short"}, "short"),
        (b'{"password": "hunter22"}', "hunter22"),
    ],
    ids=["secret", "key", "bytes", "nested", "packed", "binary", "name", "JSON"],
)
def test_secrets_are_masked_wherever_they_stand_and_it_is_noted(value: Any, hidden: str) -> None:
    one = seen_with(value)

    values = SHOWN.values(one)

    assert values["masked"] is True
    for text in (json.dumps(values), SHOWN.line(one)):
        assert hidden not in text
        assert base64.b64encode(KEY).decode()[:20] not in text


def test_what_has_no_secret_is_shown_as_it_is() -> None:
    body = b'{"temperature": 21.5, "key figures": [1, 2]}'

    values = SHOWN.values(seen_with(body, "Basic facts", {"a": (1, None)}, float("nan")))

    assert "masked" not in values
    assert values["message"]["field0"] == {"$text": body.decode()}


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20), st.text(max_size=20), st.integers(0, 3))
def test_a_known_key_never_comes_through(before: str, after: str, depth: int) -> None:
    value: Any = f"{before} {IN_BASE64} {after}"
    for _ in range(depth):
        value = (value, {"inner": value.encode() if isinstance(value, str) else value})

    assert IN_BASE64 not in json.dumps(SHOWN.values(seen_with(value)), ensure_ascii=False)


@pytest.mark.parametrize(
    ("at_s", "sent_s", "waited"),
    [(5.0, 4.5, 0.5), (5.0, 6.0, 0.0), (5.0, float("nan"), 0.0), (5.0, "x", 0.0), (5.0, 4, 0.0)],
    ids=["waited", "clock set back", "nan", "damaged", "damaged number"],
)
def test_how_long_it_waited_is_told_even_of_a_damaged_envelope(
    at_s: float, sent_s: Any, waited: float
) -> None:
    assert waited_s(at_s, sent_s) == waited


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (16_000_000, "16 MB")]
)
def test_sizes_are_told_in_few_characters(size: int, text: str) -> None:
    assert size_text(size) == text
