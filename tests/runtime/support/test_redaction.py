"""What is masked in logs and values that leave the machine, and what is not."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agent.reported import MASKED
from runtime.support.redaction import Redactor

KEY = bytes(range(200, 232))
KEY_TEXT = base64.b64encode(KEY).decode()
PASSWORD = "p@ss w/rd+1"
REDACTOR = Redactor([KEY, PASSWORD])
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        pytest.param(f"uses {KEY_TEXT} now", KEY_TEXT, id="a key in base64"),
        pytest.param(f"uses {quote(KEY_TEXT, safe='')}", quote(KEY_TEXT, safe=""), id="percent-encoded"),
        pytest.param(f"uses {KEY_TEXT.rstrip('=')}", KEY_TEXT.rstrip("="), id="without padding"),
        pytest.param(f"uses {KEY.hex()}", KEY.hex(), id="in hexadecimal"),
        pytest.param(f"login {PASSWORD}!", PASSWORD, id="a password"),
        pytest.param(f"login {quote(PASSWORD, safe='')}!", quote(PASSWORD, safe=""), id="… in a URL"),
        pytest.param("HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0MTIz", "c2VjcmV0MTIz", id="connection"),
        pytest.param(
            "SharedAccessSignature sr=h%2Fdevices%2Fd&sig=abc%3D&se=99", "sig=abc%3D", id="token of a device"
        ),
        pytest.param("https://a.blob/c?sv=1&sig=AbC%2Bd&sp=w", "AbC%2Bd", id="URL of a storage account"),
        pytest.param("Authorization: Bearer abcdefgh12345", "abcdefgh12345", id="bearer"),
        pytest.param("pull https://user:hunter22@registry/x", "hunter22", id="URL with an account"),
        pytest.param(f"token is {JWT}", JWT, id="JSON web token"),
        pytest.param('{"password": "hunter22", "a": 1}', "hunter22", id="JSON"),
        pytest.param(r"{\"password\": \"hunter22\"}", "hunter22", id="JSON in JSON"),
        pytest.param("DB_PASSWORD=hunter22 started", "hunter22", id="variable"),
        pytest.param("api_key: hunter22", "hunter22", id="YAML"),
        pytest.param(
            "x -----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY----- y", "MHcC", id="private key"
        ),
    ],
)
def test_what_is_secret_is_masked(text: str, secret: str) -> None:
    found = REDACTOR.text(text)

    assert secret not in found
    assert MASKED in found


@pytest.mark.parametrize(
    "text",
    [
        "<6> 2026-11-21 12:00:00.123 +00:00 [INF] - connected from 127.0.0.1:5000",
        "route up: FROM /messages/* INTO $upstream",
        "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "monkey business, keyboard, tokenizer",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert REDACTOR.text(text) == text


def test_a_private_key_over_several_lines_of_a_log_is_gone() -> None:
    log = b"before\n-----BEGIN PRIVATE KEY-----\nMIGH\nAgEA\n-----END PRIVATE KEY-----\nafter\n"

    assert b"".join(REDACTOR.lines(log.splitlines(keepends=True))) == f"before\n{MASKED}\nafter\n".encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"Password": "x", "user": "u"}, {"Password": MASKED, "user": "u"}, id="by its name"),
        pytest.param({"pinSecret": 1234}, {"pinSecret": MASKED}, id="a number"),
        pytest.param(
            {"Env": ["API_TOKEN=x", "A=1"]}, {"Env": [f"API_TOKEN={MASKED}", "A=1"]}, id="container"
        ),
        pytest.param(
            {"env": {"DB_KEY": {"value": "x"}, "RATE": {"value": 2}}},
            {"env": {"DB_KEY": {"value": MASKED}, "RATE": {"value": 2}}},
            id="manifest",
        ),
        pytest.param({"a": [f"k {KEY_TEXT}"]}, {"a": [f"k {MASKED}"]}, id="known, deep inside"),
        pytest.param({"token": None, "key": ""}, {"token": None, "key": ""}, id="nothing there"),
        pytest.param({"keys": 3, "author": "me"}, {"keys": 3, "author": "me"}, id="names that only look so"),
    ],
)
def test_values_are_masked_by_name_and_content(value: Any, expected: Any) -> None:
    assert REDACTOR.value(value) == expected


@given(st.text(max_size=60), st.text(max_size=60), st.binary(min_size=16, max_size=64))
def test_a_known_key_is_never_left(before: str, after: str, key: bytes) -> None:
    encoded = base64.b64encode(key).decode()

    assert encoded not in Redactor([key]).text(f"{before} {encoded} {after}")


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    REDACTOR.text(text)
