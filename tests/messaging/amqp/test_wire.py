"""Bytes of SDKs, and ours as they have to be: the C SDK looks at the AMQP type of every value.

The messages were encoded by azure-iot-amqp-base 2.5.3 with rhea 1.0.24 (Node), and by uamqp 1.6.11 (C).
"""

import uuid

import pytest

from messaging.amqp import cbs
from messaging.amqp.cbs import PutToken
from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage, decode, encode, join_batch
from messaging.amqp.heads import TelemetryReader
from messaging.amqp.mapping import message_to_device, read_message
from messaging.amqp.method_messages import method_answer, method_call, parse_method_answer
from messaging.amqp.service_messages import ToDevice, read_to_device
from messaging.amqp.twin_messages import TwinOperation, TwinRequest, parse_twin_request, twin_answer
from messaging.message import Message
from messaging.topics import MethodResponse

ONE = uuid.UUID("7d6c2d1e-0c1b-4a4e-9d55-2f6a3c8f9b01")
TWIN_ID = "b7a3a2c2-6f0f-4d2b-9a36-0b0f7f1f1a11"

NODE_TELEMETRY = bytes.fromhex(
    "00537045005372d10000001d00000002a30a64742d7375626a656374a10b746865726d6f7374617431005373d0000000"
    "5f00000009987d6c2d1e0c1b4a4e9d552f6a3c8f9b0140a11a2f646576696365732f442f6d657373616765732f657665"
    "6e74734040a1076f726465722d37a3106170706c69636174696f6e2f6a736f6ea3057574662d38830000018bcfe5687b"
    "005374d10000001500000004a105636f6c6f72a103726564a1016e5205005375a00a7b2274223a32312e357d"
)
NODE_OUTPUT = bytes.fromhex(
    "00537045005373d00000002c000000034040a1242f646576696365732f442f6d6f64756c65732f4d2f6d657373616765"
    "732f6576656e7473005374d10000001c00000002a111696f746875622d6f75747075746e616d65a1036f7574005375a0"
    "0178"
)
NODE_GET = bytes.fromhex(
    "00537045005372d10000001400000002a3096f7065726174696f6ea103474554005373d00000002f0000000640404040"
    "40a12462376133613263322d366630662d346432622d396133362d306230663766316631613131005375a00120"
)
NODE_PATCH = bytes.fromhex(
    "00537045005372d10000003600000004a3096f7065726174696f6ea1055041544348a3087265736f75726365a1142f70"
    "726f706572746965732f7265706f72746564005373d00000002f000000064040404040a12462376133613263322d3666"
    "30662d346432622d396133362d306230663766316631613131005375a0077b2261223a317d"
)
NODE_CBS = bytes.fromhex(
    "00537045005373d00000001700000005a1043061306240a1042463627340a103636273005374d10000005800000006a1"
    "096f7065726174696f6ea1097075742d746f6b656ea10474797065a11f736572766963656275732e77696e646f77732e"
    "6e65743a736173746f6b656ea1046e616d65a10f682532466465766963657325324644005377a1435368617265644163"
    "636573735369676e61747572652073723d682532466465766963657325324644267369673d6541253344253344267365"
    "3d31373030303033363030"
)
NODE_METHOD = bytes.fromhex(
    "00537045005373d00000001a000000064040404040987d6c2d1e0c1b4a4e9d552f6a3c8f9b01005374d1000000180000"
    "0002a10d496f546875622d73746174757371000000c8005375a00b7b226f6b223a747275657d"
)
NODE_C2D = bytes.fromhex(
    "00537045005373d00000003c00000009a1026d3140a1232f646576696365732f61253234622f6d657373616765732f64"
    "6576696365626f756e644040404040830000018bcfe5687b005374d10000001c00000004a10a696f746875622d61636b"
    "a10466756c6ca10170a10176005375a0026869"
)
C_C2D = bytes.fromhex(
    "005373c04009a1026d3140a11f2f646576696365732f442f6d657373616765732f646576696365626f756e64404040a3"
    "0a746578742f706c61696e40830000018bcfe5687b005374c11904a10a696f746875622d61636ba10466756c6ca10170"
    "a10176005375a0026869"
)
C_PROPERTIES = bytes.fromhex("005373c00401a1016d")
C_APPLICATION_PROPERTIES = bytes.fromhex("005374c10702a1016ba10176")
C_ANNOTATIONS = bytes.fromhex("005372c11302a10d446961676e6f737469632d4964a10164")
C_DATA = bytes.fromhex("005375a003616263")


def test_telemetry_of_node_keeps_texts_and_its_uuid() -> None:
    assert read_message(decode(NODE_TELEMETRY)) == Message(
        "",
        {"color": "red", "n": None},
        {
            "messageId": str(ONE),
            "cid": "order-7",
            "to": "/devices/D/messages/events",
            "contentType": "application/json",
            "contentEncoding": "utf-8",
            "absolute-expiry-time": "2023-11-14T22:13:20.123Z",
            "dt-subject": "thermostat1",
        },
        b'{"t":21.5}',
    )


def test_an_output_of_node_is_named() -> None:
    message = read_message(decode(NODE_OUTPUT))

    assert isinstance(message, Message)
    assert message.system_properties["outputName"] == "out"
    assert message.properties == {}


def test_a_batch_of_the_c_sdk_is_read_though_its_sections_stand_in_another_order() -> None:
    element = C_PROPERTIES + C_APPLICATION_PROPERTIES + C_ANNOTATIONS + C_DATA
    reader = TelemetryReader(lambda message: message)

    read = reader.read(join_batch([element, element]), BATCH_FORMAT)

    assert read == [(Message("", {"k": "v"}, {"messageId": "m"}, b""), b"abc")] * 2


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        pytest.param(NODE_GET, TwinRequest(TwinOperation.GET, TWIN_ID, b""), id="GET"),
        pytest.param(NODE_PATCH, TwinRequest(TwinOperation.PATCH, TWIN_ID, b'{"a":1}'), id="PATCH"),
    ],
)
def test_twin_requests_of_node_are_read(data: bytes, request_: TwinRequest) -> None:
    assert parse_twin_request(decode(data)) == request_


def test_the_token_of_node_is_taken() -> None:
    request = decode(NODE_CBS)

    token = cbs.parse_put_token(request, 1_700_000_000.0)

    assert isinstance(token, PutToken)
    assert (token.holder, token.expires_s) == ("d", 1_700_003_600)
    assert cbs.answer(request).correlation_id == "0a0b"


def test_the_answer_of_node_to_a_method_call_is_read() -> None:
    message = decode(NODE_METHOD)

    assert parse_method_answer(message) == MethodResponse(200, str(ONE))
    assert message.body == b'{"ok":true}'


@pytest.mark.parametrize(
    ("data", "device_id", "content_type"),
    [
        pytest.param(NODE_C2D, "a$b", None, id="Node"),
        pytest.param(C_C2D, "D", "text/plain", id="Python, which uses the C engine"),
    ],
)
def test_messages_of_service_sdks_to_devices_are_read(
    data: bytes, device_id: str, content_type: str | None
) -> None:
    system_properties = {"messageId": "m1"} | ({"contentType": content_type} if content_type else {})

    assert read_to_device(decode(data)) == ToDevice(
        device_id, Message("", {"p": "v"}, system_properties, b"hi"), "full", 1_700_000_000.123
    )


# Types: 50 ubyte, 53 small ulong, 71 int, 81 long, 83 timestamp, 98 uuid, a0 binary, a1 string, a3 symbol.
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            cbs.answer(AmqpMessage(message_id=7)),
            "005373d00000000b0000000640404040405307005374d10000002e00000004a10b7374617475732d636f646571"
            "000000c8a1127374617475732d6465736372697074696f6ea1024f4b005375a000",
            id="row 59: answer to a token, its id a ulong, its status an int",
        ),
        pytest.param(
            method_call("reboot", str(ONE), b""),
            "005373d00000001a000000064040404040987d6c2d1e0c1b4a4e9d552f6a3c8f9b01005374d10000001f000000"
            "02a111496f546875622d6d6574686f646e616d65a1067265626f6f74005375a000",
            id="row 66: method call, its id a uuid, with a body of no bytes",
        ),
        pytest.param(
            method_answer(ONE, 200, b"null"),
            "005373d00000001a000000064040404040987d6c2d1e0c1b4a4e9d552f6a3c8f9b01005374d100000018000000"
            "02a10d496f546875622d73746174757371000000c8005375a0046e756c6c",
            id="answer to a method call, its status an int",
        ),
        pytest.param(
            twin_answer("a", 204, version=300),
            "005372d10000002300000004a30673746174757371000000cca30776657273696f6e81000000000000012c0053"
            "73d00000000c000000064040404040a10161005375a000",
            id="row 65: answer to a patch, its status an int, the version a long, names are symbols",
        ),
        pytest.param(
            message_to_device(
                Message(
                    "",
                    {"p": "v"},
                    {
                        "messageId": "m",
                        "userId": "u",
                        "contentType": "text/plain",
                        "absolute-expiry-time": "2023-11-14T22:13:20.123Z",
                        "enqueuedTime": "2023-11-14T22:13:20.123Z",
                        "deliveryCount": "1",
                        "sequenceNumber": "9",
                    },
                    b"hi",
                ),
                ONE,
                to="/devices/D",
            ),
            "005372d10000008b00000008a310782d6f70742d6c6f636b2d746f6b656ea12437643663326431652d30633162"
            "2d346134652d396435352d326636613363386639623031a313696f746875622d656e71756575656474696d6583"
            "0000018bcfe5687ba314696f746875622d64656c6976657279636f756e745001a315782d6f70742d7365717565"
            "6e63652d6e756d6265725309005373d00000002f00000009a1016da00175a10a2f646576696365732f44404040"
            "a30a746578742f706c61696e40830000018bcfe5687b005374d10000000a00000002a10170a10176005375a002"
            "6869",
            id="message of the cloud: timestamp, ubyte and ulong in the annotations",
        ),
    ],
)
def test_types_are_those_that_the_c_sdk_asks_for(message: AmqpMessage, expected: str) -> None:
    assert encode(message).hex() == expected
