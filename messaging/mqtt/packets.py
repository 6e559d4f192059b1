"""The fourteen packets of MQTT 3.1.1, under the names of the standard; import them from here.

    packet.encode() -> bytes                     raises LocalProtocolError for values the standard forbids
    Type.decode(first, data, start, stop)        raises RemoteProtocolError likewise

`decode` is given the first byte of the packet (a key of `FIRST_BYTES`, so that type and flags are sound) and
the receive buffer, in which the packet's body is `data[start:stop]`. `messaging/mqtt/connection.py` cuts the
stream into packets and knows what is legal when.

Passwords and message bodies are left out of every `repr`, so that they reach no log.
"""

from __future__ import annotations

from messaging.mqtt.connect import ConnAck, Connect, Disconnect, PingReq, PingResp, ReturnCode, Will
from messaging.mqtt.publish import (
    PUBACK,
    PUBCOMP,
    PUBLISH_FLAGS,
    PUBREC,
    RUN_FIRST_BYTE,
    PubAck,
    PubAcks,
    PubComp,
    Publish,
    Publishes,
    PubRec,
    PubRel,
    encode_answers,
    encode_puback_many,
    encode_publish,
    encode_publishes,
    read_puback_run,
    read_pubacks,
    read_publish_run,
)
from messaging.mqtt.subscribe import SUBSCRIPTION_FAILURE, SubAck, Subscribe, UnsubAck, Unsubscribe

__all__ = [
    "FIRST_BYTES",
    "PUBACK",
    "PUBCOMP",
    "PUBREC",
    "RUN_FIRST_BYTE",
    "SUBSCRIPTION_FAILURE",
    "ConnAck",
    "Connect",
    "Disconnect",
    "OnePacket",
    "Packet",
    "PingReq",
    "PingResp",
    "PubAck",
    "PubAcks",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publish",
    "Publishes",
    "ReturnCode",
    "SubAck",
    "Subscribe",
    "UnsubAck",
    "Unsubscribe",
    "Will",
    "encode_answers",
    "encode_puback_many",
    "encode_publish",
    "encode_publishes",
    "read_puback_run",
    "read_pubacks",
    "read_publish_run",
]

OnePacket = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
)
Packet = OnePacket | PubAcks | Publishes  # what a connection returns

# Every first byte that exists. Types 0 and 15 are reserved (section 2.2.1), and so are all flags but those of
# PUBLISH: with other ones a packet is malformed [MQTT-2.2.2-2].
FIRST_BYTES: dict[int, type[OnePacket]] = dict.fromkeys(PUBLISH_FLAGS, Publish) | {
    kind.FIRST_BYTE: kind
    for kind in (
        Connect,
        ConnAck,
        PubAck,
        PubRec,
        PubRel,
        PubComp,
        Subscribe,
        SubAck,
        Unsubscribe,
        UnsubAck,
        PingReq,
        PingResp,
        Disconnect,
    )
}
