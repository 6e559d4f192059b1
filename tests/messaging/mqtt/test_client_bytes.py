"""Packets that real clients sent, recorded from a local socket: read as meant, and ours are the same bytes.

azure-iot-device 2.14.0 (Python 3.11, over TLS), paho-mqtt 1.6.1, and of Debian 12 mosquitto_pub and
mosquitto_sub 2.0.11. The keys and tokens in them open nothing.
"""

from __future__ import annotations

import pytest

from messaging.errors import RemoteProtocolError
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReturnCode,
    Subscribe,
    Unsubscribe,
    Will,
)

TOKEN = b"SharedAccessSignature sr=s&sig=x&se=1"

CONVERSATIONS: dict[str, list[tuple[bytes, Packet]]] = {
    "azure-iot-device 2.14.0, module sends to an output": [
        (
            b"\x10\xd3\x02\x00\x04MQTT\x04\xc0\x00<\x00\redge-1/filter\x00\xa9hub.example/edge-1/filter/"
            b"?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0%283.11.7%3B"
            b"Linux%20%231%20SMP%20PREEMPT_DYNAMIC%20%400%3Bx86_64%29\x00\x8dSharedAccessSignature "
            b"sr=hub.example%2Fdevices%2Fedge-1%2Fmodules%2Ffilter&sig=XzddXQid8Mi3zshGAby5q9D1RHzebtB%2F"
            b"jF4WHbdqyqg%3D&se=1795256891",
            Connect(
                "edge-1/filter",
                clean_session=False,
                keep_alive_s=60,
                user_name="hub.example/edge-1/filter/?api-version=2019-10-01&DeviceClientType="
                "azure-iot-device-iothub-py%2F2.14.0%283.11.7%3B"
                "Linux%20%231%20SMP%20PREEMPT_DYNAMIC%20%400%3Bx86_64%29",
                password=b"SharedAccessSignature sr=hub.example%2Fdevices%2Fedge-1%2Fmodules%2Ffilter"
                b"&sig=XzddXQid8Mi3zshGAby5q9D1RHzebtB%2FjF4WHbdqyqg%3D&se=1795256891",
            ),
        ),
        (
            b"\x82+\x00\x01\x00&devices/edge-1/modules/filter/inputs/#\x01",
            Subscribe(1, (("devices/edge-1/modules/filter/inputs/#", 1),)),
        ),
        (
            b"2\x89\x01\x00\x81devices/edge-1/modules/filter/messages/events/%24.on=out&%24.mid=m-1"
            b"&%24.ct=application%2Fjson&%24.ce=utf-8&level=hot%20%26%20dry\x00\x0221.5",
            Publish(
                "devices/edge-1/modules/filter/messages/events/%24.on=out&%24.mid=m-1"
                "&%24.ct=application%2Fjson&%24.ce=utf-8&level=hot%20%26%20dry",
                b"21.5",
                1,
                2,
            ),
        ),
        (b"\xe0\x00", Disconnect()),
    ],
    "paho-mqtt 1.6.1, every packet a client has": [
        (
            b"\x10\xc8\x01\x00\x04MQTT\x04\xec\x00<\x00\redge-1/filter\x00.devices/edge-1/modules/filter/"
            b"messages/events/\x00\x04gone\x00Phub.example/edge-1/filter/?api-version=2019-10-01"
            b"&DeviceClientType=py-iot%2F2.14\x00%" + TOKEN,
            Connect(
                "edge-1/filter",
                clean_session=False,
                user_name="hub.example/edge-1/filter/?api-version=2019-10-01&DeviceClientType=py-iot%2F2.14",
                password=TOKEN,
                will=Will("devices/edge-1/modules/filter/messages/events/", b"gone", 1, True),
            ),
        ),
        (
            b"\x82+\x00\x01\x00&devices/edge-1/modules/filter/inputs/#\x01",
            Subscribe(1, (("devices/edge-1/modules/filter/inputs/#", 1),)),
        ),
        (b"@\x02\x00\t", PubAck(9)),
        (b"P\x02\x00\n", PubRec(10)),
        (b"p\x02\x00\n", PubComp(10)),
        (
            b"\x82\x1d\x00\x02\x00\x03a/+\x00\x00\x12$iothub/twin/res/#\x01",
            Subscribe(2, (("a/+", 0), ("$iothub/twin/res/#", 1))),
        ),
        (
            b"0=\x008devices/edge-1/modules/filter/messages/events/%24.on=outhot",
            Publish("devices/edge-1/modules/filter/messages/events/%24.on=out", b"hot"),
        ),
        (
            b"2?\x008devices/edge-1/modules/filter/messages/events/%24.on=out\x00\x04hot",
            Publish("devices/edge-1/modules/filter/messages/events/%24.on=out", b"hot", 1, 4),
        ),
        (
            b"5?\x008devices/edge-1/modules/filter/messages/events/%24.on=out\x00\x05hot",
            Publish("devices/edge-1/modules/filter/messages/events/%24.on=out", b"hot", 2, 5, retain=True),
        ),
        (b"b\x02\x00\x05", PubRel(5)),
        (b"\xc0\x00", PingReq()),
        (b"\xa2\x0c\x00\x06\x00\x03a/+\x00\x03b/#", Unsubscribe(6, ("a/+", "b/#"))),
        (b"\xe0\x00", Disconnect()),
    ],
    "mosquitto_pub 2.0.11 -q 1": [
        (
            b"\x10e\x00\x04MQTT\x04\xc2\x00<\x00\x06leaf-1\x00*hub.example/leaf-1/?api-version=2021-04-12"
            b"\x00%" + TOKEN,
            Connect("leaf-1", user_name="hub.example/leaf-1/?api-version=2021-04-12", password=TOKEN),
        ),
        (
            b"2'\x00\x1fdevices/leaf-1/messages/events/\x00\x0121.5",
            Publish("devices/leaf-1/messages/events/", b"21.5", 1, 1),
        ),
        (b"\xe0\x00", Disconnect()),
    ],
    "mosquitto_pub 2.0.11 -q 2 -r with a will": [
        (
            b"\x109\x00\x04MQTT\x04.\x00<\x00\x06leaf-1\x00\x1fdevices/leaf-1/messages/events/\x00\x04gone",
            Connect("leaf-1", will=Will("devices/leaf-1/messages/events/", b"gone", 1, True)),
        ),
        (
            b"5'\x00\x1fdevices/leaf-1/messages/events/\x00\x0121.5",
            Publish("devices/leaf-1/messages/events/", b"21.5", 2, 1, retain=True),
        ),
        (b"b\x02\x00\x01", PubRel(1)),
        (b"\xe0\x00", Disconnect()),
    ],
    "mosquitto_pub 2.0.11 -q 0": [
        (b"\x10\x12\x00\x04MQTT\x04\x02\x00<\x00\x06leaf-1", Connect("leaf-1")),
        (
            b"0%\x00\x1fdevices/leaf-1/messages/events/21.5",
            Publish("devices/leaf-1/messages/events/", b"21.5"),
        ),
        (b"\xe0\x00", Disconnect()),
    ],
    "mosquitto_sub 2.0.11 -c with two filters and -U": [
        (b"\x10\x12\x00\x04MQTT\x04\x00\x00<\x00\x06leaf-1", Connect("leaf-1", clean_session=False)),
        (
            b"\x82C\x00\x01\x00%devices/leaf-1/messages/devicebound/#\x01\x00\x16$iothub/methods/POST/#\x01",
            Subscribe(1, (("devices/leaf-1/messages/devicebound/#", 1), ("$iothub/methods/POST/#", 1))),
        ),
        (b"\xa2\t\x00\x02\x00\x05old/+", Unsubscribe(2, ("old/+",))),
        (b"@\x02\x00\t", PubAck(9)),
        (b"P\x02\x00\n", PubRec(10)),
        (b"p\x02\x00\n", PubComp(10)),
        (b"\xe0\x00", Disconnect()),
    ],
}


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_real_clients_packets_are_read_as_meant(conversation: list[tuple[bytes, Packet]]) -> None:
    server = ServerConnection()
    (connect_bytes, connect), *others = conversation

    assert server.receive_data(connect_bytes) == [connect]
    server.send(ConnAck(ReturnCode.ACCEPTED))
    server.authenticated()

    assert server.receive_data(b"".join(data for data, _ in others)) == [packet for _, packet in others]


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_we_would_send_the_very_bytes_of_the_real_client(conversation: list[tuple[bytes, Packet]]) -> None:
    assert [packet.encode() for _, packet in conversation] == [data for data, _ in conversation]


def test_mosquitto_pub_2_0_11_speaking_mqtt_5_is_answered_with_connack_1() -> None:
    with pytest.raises(RemoteProtocolError, match="level is 5") as caught:
        ServerConnection().receive_data(b"\x10\x16\x00\x04MQTT\x05\x02\x00<\x03!\x00\x14\x00\x06leaf-1")

    assert caught.value.answer == b"\x20\x02\x00\x01"


def test_mosquitto_pub_2_0_11_speaking_mqtt_3_1_gets_no_answer() -> None:
    with pytest.raises(RemoteProtocolError, match="MQIsdp") as caught:
        ServerConnection().receive_data(b"\x10\x14\x00\x06MQIsdp\x03\x02\x00<\x00\x06leaf-1")

    assert caught.value.answer == b""
