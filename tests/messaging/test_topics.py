import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import topics
from messaging.errors import RemoteProtocolError
from messaging.identity import Identity
from messaging.property_bag import encode_bag
from messaging.topics import (
    Feature,
    Incoming,
    MethodResponse,
    Telemetry,
    TwinGet,
    TwinReported,
    Unknown,
    classify_filter,
    parse_topic,
)

DEVICE = Identity("D")
MODULE = Identity("D", "M")
REPORTED = "$iothub/twin/PATCH/properties/reported"
JSON = {"contentType": "application/json"}


@pytest.mark.parametrize(
    ("topic", "sender", "expected"),
    [
        pytest.param(
            "devices/D/messages/events/k=v&%24.ct=application%2Fjson/",
            DEVICE,
            Telemetry(DEVICE, None, {"k": "v"}, JSON),
            id="row 15",
        ),
        pytest.param(
            "devices/D/messages/events/k=v&%24.ct=application%2Fjson",
            DEVICE,
            Telemetry(DEVICE, None, {"k": "v"}, JSON),
            id="row 15 without the last slash",
        ),
        pytest.param(
            "devices/D/messages/events/?foo=1", DEVICE, Telemetry(DEVICE, None, {"foo": "1"}, {}), id="row 16"
        ),
        pytest.param(
            "devices/D/modules/M/messages/events/%24.on=out&x=1",
            MODULE,
            Telemetry(MODULE, "out", {"x": "1"}, {"outputName": "out"}),
            id="row 17",
        ),
        pytest.param("devices/D/messages/events/", DEVICE, Telemetry(DEVICE, None, {}, {}), id="no bag"),
        pytest.param("devices/D/messages/events", DEVICE, Telemetry(DEVICE, None, {}, {}), id="no slash"),
        pytest.param(
            "devices/D/modules/M/messages/events/%24.on=/",
            MODULE,
            Telemetry(MODULE, None, {}, {"outputName": ""}),
            id="an empty output is none",
        ),
        pytest.param(
            "devices/a$b(c/messages/events/",
            Identity("a$b(c"),
            Telemetry(Identity("a$b(c"), None, {}, {}),
            id="signs in an id",
        ),
        pytest.param("$iothub/twin/GET/?$rid=6f2c8", DEVICE, TwinGet("6f2c8"), id="twin"),
        pytest.param("$iothub/twin/GET/?x=1&$rid=Ab%2F&y", DEVICE, TwinGet("Ab%2F"), id="twin, rid verbatim"),
        pytest.param(f"{REPORTED}/?$rid=5&$version=1", DEVICE, TwinReported("5"), id="patch"),
        pytest.param(f"{REPORTED}/", DEVICE, TwinReported(None), id="patch, no rid"),
        pytest.param(f"{REPORTED}/?$rid=", DEVICE, TwinReported(None), id="patch, empty rid"),
        pytest.param("$iothub/methods/res/200/?$rid=7", DEVICE, MethodResponse(200, "7"), id="method"),
        pytest.param("$iothub/methods/res/-1/?$rid=aB&k=v", DEVICE, MethodResponse(-1, "aB"), id="ends at &"),
        pytest.param("$iothub/methods/res/x/?$rid=7", DEVICE, MethodResponse(400000, "7"), id="row 37"),
        pytest.param("$iothub/methods/res//?$rid=7", DEVICE, MethodResponse(400000, "7"), id="empty status"),
        pytest.param(
            "$iothub/methods/res/9999999999/?$rid=7", DEVICE, MethodResponse(400000, "7"), id="huge status"
        ),
    ],
)
def test_a_topic_is_read(topic: str, sender: Identity, expected: Incoming) -> None:
    assert parse_topic(topic, sender) == expected


@pytest.mark.parametrize(
    ("topic", "sender", "reason"),
    [
        pytest.param("devices/other/messages/events/", DEVICE, "another identity's", id="row 18"),
        pytest.param("devices/D/modules/M/messages/events/", DEVICE, "another identity's", id="own module"),
        pytest.param("devices/D/messages/events/", MODULE, "another identity's", id="own device"),
        pytest.param("devices/d/messages/events/", DEVICE, "another identity's", id="another case"),
        pytest.param("devices//messages/events/", DEVICE, "another identity's", id="empty id"),
        pytest.param("devices/D/messages/eve/x", DEVICE, "knows", id="row 19: eve"),
        pytest.param("devices/D/messages/devicebound/", DEVICE, "knows", id="row 19: devicebound"),
        pytest.param("$iothub/foo", DEVICE, "knows", id="row 19: $iothub"),
        pytest.param("devices/D/modules/M/inputs/i", MODULE, "knows", id="an input"),
        pytest.param("x/devices/D/messages/events/", DEVICE, "knows", id="anchored at the start"),
        pytest.param("devices/D/messages/events/a=1/b", DEVICE, "knows", id="a raw slash in a value"),
        pytest.param("devices/D/messages/events/a=1//", DEVICE, "knows", id="two slashes at the end"),
        pytest.param("devices/D/messages/eventsX", DEVICE, "knows", id="no slash before the bag"),
        pytest.param("devices/D/messages/events\n", DEVICE, "knows", id="newline at the end"),
        pytest.param("Devices/D/messages/events/", DEVICE, "knows", id="case counts"),
        pytest.param("devices/D/messages/events/a=1&a=2", DEVICE, "'a' is there twice", id="bad bag"),
        pytest.param("$iothub/methods/res/200/?$rid=", DEVICE, "knows", id="method without rid"),
        pytest.param("$iothub/methods/res/200/", DEVICE, "knows", id="method without properties"),
        pytest.param("$iothub/methods/POST/reboot/?$rid=1", DEVICE, "knows", id="a method call"),
        pytest.param("temperature", DEVICE, "knows", id="any topic"),
    ],
)
def test_a_topic_that_means_nothing_is_unknown_with_the_reason(
    topic: str, sender: Identity, reason: str
) -> None:
    result = parse_topic(topic, sender)

    assert isinstance(result, Unknown)
    assert reason in result.reason


@pytest.mark.parametrize(
    "topic",
    [
        "$iothub/twin/foo",
        "$iothub/twin/",
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?$rid=",
        "$iothub/twin/GET/x/?$rid=1",
        "$iothub/twin/get/?$rid=1",
        f"{REPORTED}/x?$rid=1",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
    ],
)
def test_a_malformed_twin_topic_breaks_the_protocol(topic: str) -> None:
    with pytest.raises(RemoteProtocolError, match="twin"):
        parse_topic(topic, DEVICE)


@pytest.mark.parametrize(
    ("topic_filter", "feature"),
    [
        ("$iothub/methods/POST/#", Feature.METHODS),
        ("$iothub/methods/POST/reboot/+", Feature.METHODS),
        ("$iothub/twin/PATCH/properties/desired/#", Feature.DESIRED_PROPERTIES),
        ("devices/D/messages/devicebound/#", Feature.C2D),
        ("devices/other/messages/devicebound/#", Feature.C2D),
        ("$iothub/twin/res/#", Feature.TWIN_RESPONSES),
        ("devices/D/modules/M/#", Feature.MODULE_MESSAGES),
        ("devices/D/modules/M/inputs/#", Feature.MODULE_MESSAGES),
        ("devices/D/modules/M/inputs/i1/#", Feature.MODULE_MESSAGES),
        ("devices/D/modules//#", Feature.UNKNOWN),
        ("/devices/D/modules/M/#", Feature.UNKNOWN),
        ("a/b", Feature.UNKNOWN),
        ("devices/D/modules/M/inputs/i", Feature.UNKNOWN),
        ("devices/D/messages/devicebound/#/x", Feature.UNKNOWN),
        ("devices/D/modules/M/#\n", Feature.UNKNOWN),
        ("$iothub/twin/res/200/#", Feature.UNKNOWN),
        ("$IOTHUB/methods/POST/#", Feature.UNKNOWN),
        ("#", Feature.UNKNOWN),
    ],
)
def test_a_filter_switches_a_feature_on(topic_filter: str, feature: Feature) -> None:
    assert classify_filter(topic_filter) is feature


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (topics.events_topic(DEVICE), "devices/D/messages/events"),
        (topics.events_topic(MODULE), "devices/D/modules/M/messages/events"),
        (topics.module_input_topic(MODULE, "i1", ""), "devices/D/modules/M/inputs/i1/"),
        (topics.module_input_topic(MODULE, "i1", "a=1"), "devices/D/modules/M/inputs/i1/a=1"),
        (topics.c2d_topic("D", ""), "devices/D/messages/devicebound/"),
        (topics.c2d_topic("D", "a=1"), "devices/D/messages/devicebound/a=1"),
        (topics.method_topic("reboot", "7"), "$iothub/methods/POST/reboot/?$rid=7"),
        (topics.twin_response_topic(200, "7"), "$iothub/twin/res/200/?$rid=7"),
        (topics.twin_response_topic(204, "7", 3), "$iothub/twin/res/204/?$rid=7&$version=3"),
        (topics.desired_patch_topic(4), "$iothub/twin/PATCH/properties/desired/?$version=4"),
    ],
)
def test_outgoing_topics_are_what_the_sdks_look_for(topic: str, expected: str) -> None:
    assert topic == expected


ids = st.from_regex(r"[A-Za-z0-9\-.%_*?!(),:=@$']{1,30}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(ids, st.none() | ids, st.dictionaries(texts.filter(lambda t: "$." not in t and t != "ack"), texts))
def test_a_senders_own_topic_is_its_telemetry_and_nobody_elses(
    device_id: str, module_id: str | None, properties: dict[str, str]
) -> None:
    sender = Identity(device_id, module_id)
    bag = encode_bag(properties, {})

    for end in ("", "/"):
        topic = f"{topics.events_topic(sender)}/{bag}{end}"
        if bag or end:
            assert parse_topic(topic, sender) == Telemetry(sender, None, properties, {})
        other = Identity(device_id + "x"[: 128 - len(device_id)], module_id)
        assert isinstance(parse_topic(topic, other), Unknown)


@given(st.text())
def test_any_topic_is_read_unknown_or_refused(text: str) -> None:
    for topic in (
        text,
        f"devices/D/messages/events/{text}",
        f"$iothub/twin/{text}",
        f"$iothub/methods/res/{text}",
    ):
        try:
            parse_topic(topic, DEVICE)
        except RemoteProtocolError:
            assert topic.startswith("$iothub/twin/")
