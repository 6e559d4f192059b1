"""What the cloud publishes to its clients, and what they subscribe to."""

from __future__ import annotations

import pytest

from messaging.cloud_topics import (
    C2d,
    DesiredPatch,
    FromCloud,
    MethodCall,
    TwinAnswer,
    filter_of,
    method_response_topic,
    parse_cloud_topic,
    twin_get_topic,
    twin_reported_topic,
)
from messaging.identity import Identity
from messaging.topics import (
    Feature,
    MethodResponse,
    TwinGet,
    TwinReported,
    Unknown,
    c2d_topic,
    classify_filter,
    desired_patch_topic,
    method_topic,
    parse_topic,
    twin_response_topic,
)

DEVICE = Identity("d1")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        pytest.param(twin_response_topic(200, "1f"), TwinAnswer(200, "1f"), id="twin"),
        pytest.param(twin_response_topic(204, "1f", 7), TwinAnswer(204, "1f"), id="reported with version"),
        pytest.param(method_topic("reboot", "ab-1"), MethodCall("reboot", "ab-1"), id="method"),
        pytest.param("$iothub/methods/POST/a%20b/?$rid=1", MethodCall("a b", "1"), id="encoded name"),
        pytest.param(desired_patch_topic(3), DesiredPatch(), id="desired"),
        pytest.param(c2d_topic("d1", "a=b&%24.mid=1"), C2d("a=b&%24.mid=1"), id="message"),
        pytest.param(c2d_topic("d1", ""), C2d(""), id="message without properties"),
        pytest.param("devices/d1/messages/devicebound", C2d(""), id="message without a slash"),
    ],
)
def test_a_topic_of_the_cloud_is_read(topic: str, expected: FromCloud) -> None:
    assert parse_cloud_topic(topic) == expected


@pytest.mark.parametrize(
    "topic", ["", "$iothub/twin/res/abc/?$rid=1", "$iothub/methods/POST/x", "other/topic"]
)
def test_any_other_topic_is_unknown(topic: str) -> None:
    assert isinstance(parse_cloud_topic(topic), Unknown)


@pytest.mark.parametrize(
    "feature", [Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D, Feature.TWIN_RESPONSES]
)
def test_a_filter_asks_for_the_feature_that_a_hub_reads_in_it(feature: Feature) -> None:
    assert classify_filter(filter_of(feature, DEVICE)) is feature


def test_what_is_asked_is_what_a_hub_reads() -> None:
    assert parse_topic(twin_get_topic("a"), DEVICE) == TwinGet("a")
    assert parse_topic(twin_reported_topic("b"), DEVICE) == TwinReported("b")
    assert parse_topic(method_response_topic(207, "c"), DEVICE) == MethodResponse(207, "c")
