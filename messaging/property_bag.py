"""The property bag: the last segment of a telemetry topic, `name=value&name=value`, percent-encoded.

Application properties and system properties share it; system properties travel under short names (`$.ct`) and
are kept under canonical ones (`contentType`).

Source: spec sheet hub-protocols.md sections 1.10 and 1.11
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from messaging import system_properties as names
from messaging.errors import RemoteProtocolError
from messaging.text import quoted

# A property without `=` has no value: None, which is not the empty text.
Properties = Mapping[str, str | None]

# In the order in which the reference hub writes them.
_OUT: dict[str, str] = {
    names.EXPIRY: "$.exp",
    names.CORRELATION_ID: "$.cid",
    names.MESSAGE_ID: "$.mid",
    names.TO: "$.to",
    names.USER_ID: "$.uid",
    names.ACK: "ack",
    names.CONTENT_TYPE: "$.ct",
    names.CONTENT_ENCODING: "$.ce",
    names.MESSAGE_SCHEMA: "$.schema",
    names.OPERATION: "iothub-operation",
    names.CREATION_TIME: "$.ctime",
    names.CONNECTION_DEVICE_ID: "$.cdid",
    names.CONNECTION_MODULE_ID: "$.cmid",
    names.COMPONENT: "$.sub",
}
_OUT_ENCODED = {name: quote(wire, safe="") for name, wire in _OUT.items()}
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]*", re.ASCII)
_IN_ONLY = {"$.on": names.OUTPUT_NAME, "$.ifid": names.INTERFACE_ID}
_SENDER = ("$.cdid", "$.cmid")
_IN = {wire: name for name, wire in _OUT.items() if wire not in _SENDER} | _IN_ONLY
_SENT = {name: wire for wire, name in _IN.items()}
_SENT_ENCODED = {name: quote(wire, safe="") for name, wire in _SENT.items()}
# What an application property may never be called on its way out: it would pass for the hub's own word.
_NEVER_OUT = frozenset((*_SENDER, *_IN_ONLY))


def decode_bag(text: str) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Return (application properties, system properties by canonical name), both in the order sent.

    One leading `?` is let pass. `%XX` that is not UTF-8 stays as it was sent.

    Raises:
        RemoteProtocolError: a property without a name, a raw `=` in a value, a property that is there twice.
    """
    properties: dict[str, str | None] = {}
    system_properties: dict[str, str | None] = {}
    text = text.removeprefix("?")
    if not text:
        return properties, system_properties
    for pair in text.split("&"):
        wire_name, equals, raw_value = pair.partition("=")
        name = _decode(wire_name)
        if not name:
            raise RemoteProtocolError("property bag: a property has no name")
        if "=" in raw_value:
            raise RemoteProtocolError(f"property bag: value of {quoted(name)} has a raw '='; send %3D")
        value = _decode(raw_value) if equals else None
        canonical = _IN.get(name)
        target, key = (properties, name) if canonical is None else (system_properties, canonical)
        if key in target:
            raise RemoteProtocolError(f"property bag: {quoted(name)} is there twice")
        target[key] = value
    return properties, system_properties


def encode_bag(properties: Properties, system_properties: Properties) -> str:
    """Return the bag that a receiver gets: application properties, then system properties.

    The sender's ids go out as `$.cdid` and `$.cmid` and an application property of such a name never does;
    for a reported-properties message they are the reporter's. The name of the output never goes out.
    """
    outgoing: dict[str, str | None] = {k: v for k, v in properties.items() if k not in _NEVER_OUT}
    if system_properties.get(names.REPORTER_DEVICE_ID) is not None:
        system_properties = {
            **system_properties,
            names.CONNECTION_DEVICE_ID: system_properties[names.REPORTER_DEVICE_ID],
            names.CONNECTION_MODULE_ID: system_properties.get(names.REPORTER_MODULE_ID),
        }
    pairs = []
    for name, wire_name in _OUT.items():
        value = system_properties.get(name)
        if value is not None:
            outgoing.pop(wire_name, None)  # the hub's word replaces a property that uses its name
            pairs.append(f"{_OUT_ENCODED[name]}={_encode(value)}")
    custom = [_encode(k) if v is None else f"{_encode(k)}={_encode(v)}" for k, v in outgoing.items()]
    return "&".join(custom + pairs)


def encode_upstream_bag(properties: Properties, system_properties: Properties) -> str:
    """Return the bag with which a message goes on to the cloud: all that its sender wrote, and no more.

    What the hub alone adds (who sent it, when it came) is left out: the cloud stamps the connection's
    identity itself, and an application property of such a name would pass for its word.
    """
    pairs = [
        f"{_SENT_ENCODED[name]}={_encode(value)}"
        for name, value in system_properties.items()
        if value is not None and name in _SENT_ENCODED
    ]
    taken = {_SENT[name] for name, value in system_properties.items() if value is not None and name in _SENT}
    for name, value in properties.items():
        if name not in taken and name not in _SENDER:
            pairs.append(_encode(name) if value is None else f"{_encode(name)}={_encode(value)}")
    return "&".join(pairs)


def _encode(text: str) -> str:
    # quote() takes three times as long, and most ids and numbers do not need it.
    return text if _UNRESERVED.fullmatch(text) else quote(text, safe="")


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text
