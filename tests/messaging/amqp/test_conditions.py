import json

import pytest

from messaging.amqp import conditions
from messaging.amqp.conditions import Refusal, condition_of, reason_in, refusal_of, status_of
from messaging.errors import (
    AuthError,
    ConfigError,
    EdgeError,
    IotHubError,
    RemoteProtocolError,
    StoreError,
    StoreFull,
)

# Spec sheet hub-protocols.md section 3.5, as the SDKs compare them.
SYMBOLS = (
    "amqp:internal-error",
    "amqp:link:message-size-exceeded",
    "amqp:not-found",
    "amqp:not-implemented",
    "amqp:not-allowed",
    "amqp:resource-limit-exceeded",
    "amqp:unauthorized-access",
    "amqp:link:detach-forced",
    "com.microsoft:argument-error",
    "com.microsoft:argument-out-of-range",
    "com.microsoft:device-already-exists",
    "com.microsoft:device-container-throttled",
    "com.microsoft:iot-hub-suspended",
    "com.microsoft:iot-hub-not-found-error",
    "com.microsoft:message-lock-lost",
    "com.microsoft:precondition-failed",
    "com.microsoft:quota-exceeded",
    "com.microsoft:timeout",
)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_condition_of_the_sheet_is_known_by_its_symbol(symbol: str) -> None:
    known = [value for name, value in vars(conditions).items() if name.isupper()]

    assert symbol in known
    assert 400 <= status_of(symbol) < 600


@pytest.mark.parametrize(
    ("status", "condition"),
    [
        pytest.param(400, "com.microsoft:argument-error", id="400"),
        pytest.param(401, "amqp:unauthorized-access", id="401"),
        pytest.param(403, "amqp:resource-limit-exceeded", id="403 quota, or queue of a device full"),
        pytest.param(404, "amqp:not-found", id="404"),
        pytest.param(405, "amqp:not-allowed", id="405"),
        pytest.param(408, "com.microsoft:timeout", id="408"),
        pytest.param(409, "com.microsoft:device-already-exists", id="409"),
        pytest.param(412, "com.microsoft:precondition-failed", id="412"),
        pytest.param(413, "amqp:link:message-size-exceeded", id="413"),
        pytest.param(429, "com.microsoft:device-container-throttled", id="429"),
        pytest.param(500, "amqp:internal-error", id="500"),
        pytest.param(501, "amqp:not-implemented", id="501"),
        pytest.param(503, "com.microsoft:timeout", id="503 passes, as does a time-out"),
        pytest.param(504, "com.microsoft:timeout", id="504"),
        pytest.param(418, "amqp:internal-error", id="none for it"),
    ],
)
def test_a_status_has_the_condition_that_sdks_read_as_the_same_error(status: int, condition: str) -> None:
    assert condition_of(status) == condition


def test_a_condition_that_nobody_knows_counts_as_an_error_of_the_cloud() -> None:
    assert status_of("com.example:odd") == 500


@pytest.mark.parametrize(
    ("error", "condition", "code"),
    [
        pytest.param(
            IotHubError(404001, "DeviceNotFound", "no"), "amqp:not-found", 404001, id="unknown device"
        ),
        pytest.param(
            IotHubError(403004, "DeviceMaximumQueueDepthExceeded", "no"),
            "amqp:resource-limit-exceeded",
            403004,
            id="50 messages wait",
        ),
        pytest.param(
            IotHubError(412002, "DeviceMessageLockLost", "no"),
            "com.microsoft:message-lock-lost",
            412002,
            id="lock lost",
        ),
        pytest.param(AuthError("no"), "amqp:unauthorized-access", 401000, id="not who it says"),
        pytest.param(StoreFull("no"), "com.microsoft:device-container-throttled", 429000, id="store full"),
        pytest.param(StoreError("no"), "amqp:internal-error", 500000, id="store broken"),
        pytest.param(RemoteProtocolError("no"), "amqp:decode-error", 400000, id="no message"),
        pytest.param(ConfigError("no"), "com.microsoft:argument-error", 400000, id="not an id"),
        pytest.param(EdgeError("no"), "amqp:internal-error", 500000, id="anything else"),
    ],
)
def test_an_error_is_told_to_the_peer_with_condition_number_and_reason(
    error: EdgeError, condition: str, code: int
) -> None:
    refusal = refusal_of(error)

    assert refusal.condition == condition
    assert json.loads(refusal.description) == {"errorCode": code, "message": "no"}


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        pytest.param(Refusal("amqp:not-found", "gone", 404001).description, (404001, "gone"), id="our own"),
        pytest.param(
            '{"errorCode":404001,"trackingId":"x"}',
            (404001, '{"errorCode":404001,"trackingId":"x"}'),
            id="without a message",
        ),
        pytest.param('{"errorCode":true,"message":1}', (0, '{"errorCode":true,"message":1}'), id="odd types"),
        pytest.param("went wrong", (0, "went wrong"), id="plain text"),
        pytest.param("[1]", (0, "[1]"), id="JSON, no object"),
        pytest.param("", (0, ""), id="nothing"),
        pytest.param("[" * 100_000, (0, "[" * 100_000), id="deep"),
    ],
)
def test_the_reason_is_read_from_descriptions_of_the_cloud(
    description: str, expected: tuple[int, str]
) -> None:
    assert reason_in(description) == expected
