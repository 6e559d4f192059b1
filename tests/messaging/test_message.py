import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import EnvelopeError
from messaging.identity import Identity
from messaging.message import Message, decode_header, encode_header, source_path, stamp_sender


@pytest.mark.parametrize(
    ("system_properties", "path"),
    [
        ({"connectionDeviceId": "D"}, "/messages/"),
        ({"connectionDeviceId": "D", "outputName": "o"}, "/messages/"),
        ({"connectionModuleId": "M"}, "/messages/modules/M/"),
        ({"connectionModuleId": "M", "outputName": ""}, "/messages/modules/M/"),
        ({"connectionModuleId": "M", "outputName": None}, "/messages/modules/M/"),
        ({"connectionModuleId": "M", "outputName": "o"}, "/messages/modules/M/outputs/o/"),
        ({"connectionModuleId": "M", "messageType": "TwinChangeNotification"}, "/twinChangeNotifications/"),
        ({"connectionModuleId": "M", "messageType": "other"}, "/messages/modules/M/"),
        ({}, "/messages/"),
    ],
)
def test_the_source_path_follows_from_the_system_properties(
    system_properties: dict[str, str | None], path: str
) -> None:
    assert source_path(system_properties) == path


def test_size_is_the_body_in_bytes_and_the_properties_in_characters() -> None:
    message = Message("/messages/", {"ä": "öü", "k": None}, {"messageId": "7"}, b"12345")

    assert message.size_bytes == 5 + 3 + 1 + 10


@pytest.mark.parametrize(
    ("sender", "model_id", "expected"),
    [
        (
            Identity("edge", "M"),
            "",
            {"connectionDeviceId": "edge", "connectionModuleId": "M", "edgeHubOriginInterface": "internal"},
        ),
        (
            Identity("leaf"),
            "dtmi:a;1",
            {"connectionDeviceId": "leaf", "edgeHubOriginInterface": "downstream", "modelId": "dtmi:a;1"},
        ),
    ],
)
def test_the_hub_stamps_who_sent_a_message(
    sender: Identity, model_id: str, expected: dict[str, str | None]
) -> None:
    sent: dict[str, str | None] = {"messageId": "7"}

    assert stamp_sender(sent, sender, "edge", model_id) == {"messageId": "7", **expected}
    assert sent == {"messageId": "7"}


texts = st.text(st.characters(exclude_categories=["Cs"]))
bags = st.dictionaries(texts, st.none() | texts)


@given(texts, bags, bags, st.binary())
def test_a_header_that_is_written_is_read(
    source: str, properties: dict[str, str | None], system: dict[str, str | None], body: bytes
) -> None:
    header = encode_header(source, properties, system)

    assert decode_header(header, body) == Message(source, properties, system, body)
    assert encode_header(source, dict(properties), dict(system)) == header


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        msgpack.packb("text"),
        msgpack.packb(7),
        msgpack.packb(["/messages/", {}]),
        msgpack.packb(["/messages/", {}, []]),
        msgpack.packb([7, {}, {}]),
        msgpack.packb(["/messages/", {"k": 1}, {}]),
        msgpack.packb(["/messages/", {1: "v"}, {}]),
        msgpack.packb(["/messages/", {}, {}]) + b"\x00",
    ],
)
def test_bytes_that_are_no_header_are_refused(header: bytes) -> None:
    with pytest.raises(EnvelopeError, match="header"):
        decode_header(header, b"")


@given(st.binary())
def test_any_bytes_are_read_or_refused(header: bytes) -> None:
    try:
        decode_header(header, b"")
    except EnvelopeError:
        return
