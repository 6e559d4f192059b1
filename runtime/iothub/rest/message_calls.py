"""REST: cloud-to-device messages, their feedback, and the stream of device messages.

IoT Hub takes C2D messages and gives device messages over AMQP alone; the two calls for it here, POST
`/devices/{device}/messages/devicebound` and GET `/messages/events`, are our own.

Source: spec sheet security-daemon.md sections 4.6 and 4.7
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, cast, get_args

from messaging import system_properties as names
from messaging.message import FEEDBACK_TYPE
from messaging.text import quoted
from messaging.time_text import from_iso
from runtime.iothub import refusals, shown
from runtime.iothub.policies import Permission
from runtime.iothub.records import Ack
from runtime.iothub.rest.call import MOST_ITEMS, Call, Route, member, no_content
from runtime.net.http_messages import Response, json_response

LONGEST_WAIT_S: Final = 30
MAX_SEQUENCE_NUMBER: Final = 2**62

_SYSTEM_PROPERTIES: Final = {
    "messageId": names.MESSAGE_ID,
    "correlationId": names.CORRELATION_ID,
    "userId": names.USER_ID,
    "contentType": names.CONTENT_TYPE,
    "contentEncoding": names.CONTENT_ENCODING,
}


async def purge(call: Call) -> Response:
    device_id = call.identity.device_id
    count = await call.hub.purge_c2d(device_id)
    return json_response(200, {"deviceId": device_id, "moduleId": None, "totalMessagesPurged": count})


async def send(call: Call) -> Response:
    body = call.object_body()
    ack = member(body, "ack", str, "none").lower()
    if ack not in get_args(Ack):
        raise refusals.argument_invalid(f"ack {quoted(ack)} is none of {', '.join(get_args(Ack))}")
    message = await call.hub.send_c2d(
        call.identity.device_id,
        _bytes(body),
        _texts(body, "properties"),
        {_SYSTEM_PROPERTIES[name]: text for name, text in _system_properties(body).items()},
        cast(Ack, ack),
        _expiry_s(body),
    )
    return json_response(201, {"messageId": message.message_id, "sequenceNumber": message.sequence_number})


async def receive_feedback(call: Call) -> Response:
    batch = await call.hub.receive_feedback()
    if batch is None:
        return no_content()
    headers = (
        ("Content-Type", FEEDBACK_TYPE),
        ("ETag", f'"{batch.lock}"'),
        ("iothub-lockToken", batch.lock),
    )
    return Response(200, shown.feedback_body(batch.records), headers)


async def complete_feedback(call: Call) -> Response:
    await call.hub.complete_feedback(call.ids["lock"])
    return no_content()


async def abandon_feedback(call: Call) -> Response:
    await call.hub.abandon_feedback(call.ids["lock"])
    return no_content()


async def events(call: Call) -> Response:
    after = call.number("after", 0, -1, MAX_SEQUENCE_NUMBER)
    if after == -1:  # from now on
        after = await call.hub.last_sequence_number()
    found = await call.hub.events(
        after,
        call.number("maxCount", MOST_ITEMS, 1, MOST_ITEMS),
        call.number("waitSeconds", 0, 0, LONGEST_WAIT_S),
    )
    content = [
        {
            "sequenceNumber": event.sequence_number,
            "annotations": shown.event_annotations(event),
            "properties": event.telemetry.properties,
            "systemProperties": event.telemetry.system_properties,
            "body": event.telemetry.body,  # bytes become base64
        }
        for event in found
    ]
    last = found[-1].sequence_number if found else after
    return json_response(200, {"events": content, "after": last})


def _bytes(body: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(member(body, "body", str, ""), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise refusals.argument_invalid("body is not base64") from exc


def _texts(body: dict[str, Any], name: str) -> dict[str, str | None]:
    texts = member(body, name, dict, {})
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise refusals.argument_invalid(f"{name} has a value that is not a text")
    return texts


def _system_properties(body: dict[str, Any]) -> dict[str, str | None]:
    properties = _texts(body, "systemProperties")
    for name in properties:
        if name not in _SYSTEM_PROPERTIES:
            raise refusals.argument_invalid(
                f"systemProperties has {quoted(name)}; allowed are {', '.join(_SYSTEM_PROPERTIES)}"
            )
    return properties


def _expiry_s(body: dict[str, Any]) -> float | None:
    text = member(body, "expiryTimeUtc", str, "")
    if not text:
        return None
    try:
        return from_iso(text)
    except ValueError as exc:
        raise refusals.argument_invalid(f"expiryTimeUtc {quoted(text)} is not an ISO 8601 time") from exc


_SERVICE = Permission.SERVICE_CONNECT
_FEEDBACK = "/messages/serviceBound/feedback"

ROUTES = (
    Route("DELETE", "/devices/{device}/commands", purge, _SERVICE),
    Route("POST", "/devices/{device}/messages/devicebound", send, _SERVICE),
    Route("GET", _FEEDBACK, receive_feedback, _SERVICE),
    Route("DELETE", _FEEDBACK + "/{lock}", complete_feedback, _SERVICE),
    Route("POST", _FEEDBACK + "/{lock}/abandon", abandon_feedback, _SERVICE),
    Route("GET", "/messages/events", events, _SERVICE),
)
