import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RemoteProtocolError
from messaging.property_bag import decode_bag, encode_bag, encode_upstream_bag

Bag = dict[str, str | None]

JSON = {"contentType": "application/json"}

EVERY_SYSTEM_PROPERTY = {
    "$.mid": "messageId",
    "$.cid": "cid",
    "$.uid": "userId",
    "$.to": "to",
    "$.ct": "contentType",
    "$.ce": "contentEncoding",
    "$.exp": "absolute-expiry-time",
    "$.ctime": "creationTime",
    "$.schema": "messageSchema",
    "iothub-operation": "operation",
    "ack": "ack",
    "$.on": "outputName",
    "$.ifid": "iothub-interface-id",
    "$.sub": "dt-subject",
}


@pytest.mark.parametrize(
    ("text", "properties", "system_properties"),
    [
        pytest.param("", {}, {}, id="empty"),
        pytest.param("?", {}, {}, id="only a question mark"),
        pytest.param(
            "k=v&%24.ct=application%2Fjson", {"k": "v"}, {"contentType": "application/json"}, id="row 15"
        ),
        pytest.param("?foo=1", {"foo": "1"}, {}, id="row 16"),
        pytest.param("%24.on=out&x=1", {"x": "1"}, {"outputName": "out"}, id="row 17"),
        pytest.param("??a=1", {"?a": "1"}, {}, id="one question mark is stripped"),
        pytest.param("k", {"k": None}, {}, id="no value"),
        pytest.param("k=", {"k": ""}, {}, id="empty value"),
        pytest.param("%24.mid", {}, {"messageId": None}, id="system property without a value"),
        pytest.param("a=1+2&b=x%2by", {"a": "1+2", "b": "x+y"}, {}, id="plus stays, hex in any case"),
        pytest.param("a=raw value, 100%", {"a": "raw value, 100%"}, {}, id="C SDK: raw values"),
        pytest.param("a=%C3%A4%ff", {"a": "%C3%A4%ff"}, {}, id="not UTF-8 stays as sent"),
        pytest.param("a=%3D%26", {"a": "=&"}, {}, id="separators encoded"),
        pytest.param("$.mid=7&%24.cid=8", {}, {"messageId": "7", "cid": "8"}, id="dollar raw or encoded"),
        pytest.param("$.cdid=evil&$.cmid=evil", {"$.cdid": "evil", "$.cmid": "evil"}, {}, id="no sender"),
        pytest.param("iothub-ack=full&$.x=1", {"iothub-ack": "full", "$.x": "1"}, {}, id="unknown names"),
        pytest.param("K=1&k=2", {"K": "1", "k": "2"}, {}, id="names differ by case"),
    ],
)
def test_a_bag_is_read(text: str, properties: Bag, system_properties: Bag) -> None:
    assert decode_bag(text) == (properties, system_properties)


@pytest.mark.parametrize(("wire_name", "canonical"), EVERY_SYSTEM_PROPERTY.items())
def test_every_system_property_is_known_by_its_canonical_name(wire_name: str, canonical: str) -> None:
    assert decode_bag(f"{wire_name}=x") == ({}, {canonical: "x"})


@pytest.mark.parametrize(
    "text",
    ["=v", "a=1&", "&a=1", "a=1&&b=2", "a=b=c", "a==", "k=1&k=2", "k&k=", "%24.ct=a&$.ct=b", "%24=a&$=b"],
)
def test_a_bag_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="property bag"):
        decode_bag(text)


@pytest.mark.parametrize(
    ("properties", "system_properties", "text"),
    [
        pytest.param({}, {}, "", id="empty"),
        pytest.param(
            {"Foo": "Bar"},
            {"contentType": "application/json", "connectionDeviceId": "D", "connectionModuleId": "A"},
            "Foo=Bar&%24.ct=application%2Fjson&%24.cdid=D&%24.cmid=A",
            id="row 29",
        ),
        pytest.param({"$.cdid": "evil"}, {"connectionDeviceId": "D"}, "%24.cdid=D", id="row 30"),
        pytest.param(
            {"$.cmid": "evil", "a": "1"},
            {"connectionDeviceId": "D"},
            "a=1&%24.cdid=D",
            id="a device cannot pass for a module",
        ),
        pytest.param(
            {"$.on": "x", "$.ifid": "y"},
            {"outputName": "out", "iothub-interface-id": "i"},
            "",
            id="output and interface stay",
        ),
        pytest.param(
            {"$.ct": "mine", "b": "2"}, {"contentType": "hub"}, "b=2&%24.ct=hub", id="system property wins"
        ),
        pytest.param(
            {"a": "1"},
            {
                "connectionDeviceId": "edge",
                "connectionModuleId": "$edgeHub",
                "rpSenderDeviceId": "leaf",
                "messageType": "twinChangeNotification",
            },
            "a=1&%24.cdid=leaf",
            id="the reporter, a device",
        ),
        pytest.param(
            {},
            {
                "connectionDeviceId": "edge",
                "connectionModuleId": "$edgeHub",
                "rpSenderDeviceId": "edge",
                "rpSenderModuleId": "M",
            },
            "%24.cdid=edge&%24.cmid=M",
            id="the reporter, a module",
        ),
        pytest.param({"k": None, "e": ""}, {"messageId": None}, "k&e=", id="no value, empty value"),
        pytest.param({"a b": "ä/+~._-"}, {}, "a%20b=%C3%A4%2F%2B~._-", id="all but unreserved is encoded"),
        pytest.param({}, {"edgeHubOriginInterface": "internal", "modelId": "dtmi:a;1"}, "", id="internal"),
        pytest.param(
            {},
            {canonical: str(number) for number, canonical in enumerate(EVERY_SYSTEM_PROPERTY.values())},
            "%24.exp=6&%24.cid=1&%24.mid=0&%24.to=3&%24.uid=2&ack=10&%24.ct=4&%24.ce=5&%24.schema=8"
            "&iothub-operation=9&%24.ctime=7&%24.sub=13",
            id="every system property",
        ),
    ],
)
def test_a_bag_is_written(properties: Bag, system_properties: Bag, text: str) -> None:
    assert encode_bag(properties, system_properties) == text


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
values = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
both_ways = sorted(set(EVERY_SYSTEM_PROPERTY.values()) - {"outputName", "iothub-interface-id"})


@given(
    properties=st.dictionaries(names.filter(lambda name: name not in EVERY_SYSTEM_PROPERTY), values),
    system_properties=st.dictionaries(st.sampled_from(both_ways), values.filter(lambda v: v is not None)),
)
def test_what_is_written_is_read(properties: Bag, system_properties: Bag) -> None:
    text = encode_bag(properties, system_properties)

    expected = {name: value for name, value in properties.items() if name not in ("$.cdid", "$.cmid")}
    assert decode_bag(text) == (expected, system_properties)
    assert "/" not in text
    assert text.isascii()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_or_refused_and_can_be_passed_on(text: str) -> None:
    try:
        properties, system_properties = decode_bag(text)
    except RemoteProtocolError:
        return
    encode_bag(properties, system_properties).encode("ascii")


def test_what_a_client_wrote_goes_on_to_the_cloud_as_it_was() -> None:
    text = "&".join([f"{wire}=v%201" for wire in EVERY_SYSTEM_PROPERTY] + ["a=b%26c", "empty=", "none"])
    properties, system_properties = decode_bag(text)

    assert decode_bag(encode_upstream_bag(properties, system_properties)) == (properties, system_properties)


def test_what_the_hub_added_does_not_go_on_to_the_cloud() -> None:
    added = {"connectionDeviceId": "d", "connectionModuleId": "m", "enqueuedTime": "t", "modelId": "i"}

    assert encode_upstream_bag({"$.cdid": "evil", "$.cmid": "evil"}, added) == ""


def test_an_application_property_does_not_pass_for_a_system_property_of_the_message() -> None:
    bag = encode_upstream_bag({"$.mid": "2", "k": "v"}, {"messageId": "1"})

    assert decode_bag(bag) == ({"k": "v"}, {"messageId": "1"})


@given(
    st.dictionaries(st.text(min_size=1).filter(lambda name: name[0] != "$"), st.none() | st.text()),
    st.dictionaries(st.sampled_from(["messageId", "cid", "contentType", "outputName"]), st.text()),
)
def test_any_message_survives_the_way_to_the_cloud(properties: Bag, system_properties: Bag) -> None:
    properties = {k: v for k, v in properties.items() if k not in EVERY_SYSTEM_PROPERTY}

    bag = encode_upstream_bag(properties, system_properties)

    assert decode_bag(bag) == (properties, system_properties)
