"""Addresses of links: whose a link is, and what it is for; what stands in its properties; how it settles.

A link has the direction that it has for the client, at whichever end of it we are.

Source: spec sheets hub-protocols.md sections 3.3, 3.4 and 3.9, security-daemon.md section 4.7
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from msgspec import Struct

from messaging.amqp.conditions import NOT_ALLOWED, Refusal
from messaging.amqp.link import RcvSettleMode, SndSettleMode
from messaging.errors import ConfigError
from messaging.identity import Identity
from messaging.text import quoted
from messaging.topics import Feature

CBS_NODE: Final = "$cbs"
CHANNEL_ID: Final = "com.microsoft:channel-correlation-id"
CLIENT_VERSION: Final = "com.microsoft:client-version"
API_VERSION: Final = "com.microsoft:api-version"
MODEL_ID: Final = "com.microsoft:model-id"
AUTH_CHAIN: Final = "com.microsoft:auth-chain"
_OUR_API_VERSION: Final = "2021-04-12"

_FLAGS: Final = re.IGNORECASE | re.ASCII
_AUTHORITY: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*", _FLAGS)
_DEVICE_PATH: Final = re.compile(
    r"/?devices/([^/]+)(?:/modules/([^/]+))?/"
    r"(messages/events|messages/devicebound|methods/devicebound|twin)(?:\?.*)?",
    _FLAGS,
)
_SERVICE_PATH: Final = re.compile(
    r"/?(messages/devicebound|messages/servicebound/feedback|messages/servicebound/filenotifications"
    r"|messages/events)/?(?:\?.*)?",
    _FLAGS,
)
_PARTITION_PATH: Final = re.compile(r"/?(.+)/consumergroups/([^/]+)/partitions/([^/?]+)(?:\?.*)?", _FLAGS)
_MANAGEMENT_PATH: Final = re.compile(r"/?(?:(.+)/)?\$management", _FLAGS)


class LinkKind(enum.Enum):
    """What a link of a device or module carries. Methods and twins have a pair of links."""

    EVENTS = "messages to the hub"
    INPUTS = "messages to a module"
    C2D = "cloud-to-device messages"
    METHOD_CALLS = "method calls"
    METHOD_RESPONSES = "answers to method calls"
    TWIN_REQUESTS = "twin requests"
    TWIN_ANSWERS = "twin answers and desired properties"


class ServiceKind(enum.Enum):
    """What a link of a service carries."""

    C2D = "messages to devices"
    FEEDBACK = "feedback on messages to devices"
    FILE_NOTIFICATIONS = "notifications of uploaded files"
    EVENTS = "messages of devices"
    ENDPOINT = "the question where the messages of devices are read"
    MANAGEMENT_REQUESTS = "questions about the stream of messages"
    MANAGEMENT_ANSWERS = "answers about the stream of messages"


class DeviceLink(Struct, frozen=True):
    """A link of a device or module."""

    kind: LinkKind
    identity: Identity


class ServiceLink(Struct, frozen=True):
    """A link of a service; the texts are those of EVENTS, the first one also that of MANAGEMENT."""

    kind: ServiceKind
    stream: str = ""  # name of the Event Hubs-compatible endpoint; "" when the address has none
    consumer_group: str = ""
    partition: str = ""


class Settlement(Struct, frozen=True):
    """When the deliveries of a link are settled; None: as the client asks."""

    sender: SndSettleMode | None
    receiver: RcvSettleMode | None


class LinkProperties(Struct, frozen=True):
    """What a client says of itself when it attaches a link; "" and () for what it does not say."""

    channel: str = ""  # what both links of a pair have in common
    client_version: str = ""  # the SDK and its version
    model_id: str = ""  # plug and play
    auth_chain: tuple[str, ...] = ()  # device ids, only from the hub of a nested edge


_FEATURES: Final = {
    LinkKind.INPUTS: Feature.MODULE_MESSAGES,
    LinkKind.C2D: Feature.C2D,
    LinkKind.METHOD_CALLS: Feature.METHODS,
    LinkKind.TWIN_ANSWERS: Feature.DESIRED_PROPERTIES,
}
_AT_MOST_ONCE: Final = Settlement(SndSettleMode.SETTLED, RcvSettleMode.FIRST)
_SETTLEMENTS: Final = {
    LinkKind.EVENTS: Settlement(None, None),
    LinkKind.INPUTS: Settlement(SndSettleMode.UNSETTLED, RcvSettleMode.FIRST),
    LinkKind.C2D: Settlement(SndSettleMode.UNSETTLED, RcvSettleMode.SECOND),
    LinkKind.METHOD_CALLS: _AT_MOST_ONCE,
    LinkKind.METHOD_RESPONSES: _AT_MOST_ONCE,
    LinkKind.TWIN_REQUESTS: _AT_MOST_ONCE,
    LinkKind.TWIN_ANSWERS: _AT_MOST_ONCE,
}
_PAIRS: Final = {
    LinkKind.METHOD_CALLS: "methods",
    LinkKind.METHOD_RESPONSES: "methods",
    LinkKind.TWIN_REQUESTS: "twin",
    LinkKind.TWIN_ANSWERS: "twin",
}
# By the end of the path: what the client sends, what it receives. A module may attach a link for messages of
# the cloud, on which nothing comes.
_ON_DEVICE: Final[Mapping[str, tuple[LinkKind | None, LinkKind | None]]] = {
    "messages/events": (LinkKind.EVENTS, None),
    "messages/devicebound": (None, LinkKind.C2D),
    "methods/devicebound": (LinkKind.METHOD_RESPONSES, LinkKind.METHOD_CALLS),
    "twin": (LinkKind.TWIN_REQUESTS, LinkKind.TWIN_ANSWERS),
}
_ON_MODULE: Final = {**_ON_DEVICE, "messages/events": (LinkKind.EVENTS, LinkKind.INPUTS)}
_ENDS: Final = {kind: end for end, kinds in _ON_MODULE.items() for kind in kinds if kind is not None}
_ON_SERVICE: Final[Mapping[str, tuple[ServiceKind | None, ServiceKind | None]]] = {
    "messages/devicebound": (ServiceKind.C2D, None),
    "messages/servicebound/feedback": (None, ServiceKind.FEEDBACK),
    "messages/servicebound/filenotifications": (None, ServiceKind.FILE_NOTIFICATIONS),
    "messages/events": (None, ServiceKind.ENDPOINT),
}


def is_cbs(address: str) -> bool:
    """Say whether an address is the node that takes tokens; it may be attached in both directions."""
    return _path(address).removeprefix("/").lower() == CBS_NODE


def parse_address(address: str, *, client_sends: bool) -> DeviceLink | Refusal:
    """Say what a link of a device or module is for.

    Args:
        address: Of the target when the client sends, else of the source: a path, or a URI with one.
            Words in the path may have any case, ids are percent-encoded once.
        client_sends: The client is the sending end.
    """
    found = _DEVICE_PATH.fullmatch(_path(address))
    if found is None:
        return Refusal(NOT_ALLOWED, f"address {quoted(address)} is not one that the hub knows")
    device_id, module_id, end = found[1], found[2], found[3].lower()
    sent, received = (_ON_DEVICE if module_id is None else _ON_MODULE)[end]
    kind = sent if client_sends else received
    if kind is None:
        return _wrong_direction(address, client_sends)
    try:
        identity = Identity(unquote(device_id), None if module_id is None else unquote(module_id))
    except ConfigError as exc:
        return Refusal(NOT_ALLOWED, f"address {quoted(address)}: {exc}")
    return DeviceLink(kind, identity)


def address_of(kind: LinkKind, identity: Identity) -> str:
    """Return the address with which `identity` attaches a link; ids are percent-encoded once."""
    module = "" if identity.module_id is None else f"/modules/{quote(identity.module_id, safe='')}"
    return f"/devices/{quote(identity.device_id, safe='')}{module}/{_ENDS[kind]}"


def parse_service_address(address: str, *, client_sends: bool) -> ServiceLink | Refusal:
    """Say what a link of a service is for; arguments as those of `parse_address`."""
    path = _path(address)
    if fixed := _SERVICE_PATH.fullmatch(path):
        sent, received = _ON_SERVICE[fixed[1].lower()]
        kind = sent if client_sends else received
        return _wrong_direction(address, client_sends) if kind is None else ServiceLink(kind)
    if management := _MANAGEMENT_PATH.fullmatch(path):
        kind = ServiceKind.MANAGEMENT_REQUESTS if client_sends else ServiceKind.MANAGEMENT_ANSWERS
        return ServiceLink(kind, unquote(management[1] or ""))
    if partition := _PARTITION_PATH.fullmatch(path):
        if client_sends:
            return _wrong_direction(address, client_sends)
        stream, consumer_group, number = (unquote(text) for text in partition.groups())
        return ServiceLink(ServiceKind.EVENTS, stream, consumer_group, number)
    return Refusal(NOT_ALLOWED, f"address {quoted(address)} is not one that IoT Hub knows")


def feature_of(link: DeviceLink) -> Feature | None:
    """Return what a client asks for by attaching a link, None when it asks for nothing.

    Twin answers come with the patches of desired properties until the client says otherwise.
    """
    if link.kind is LinkKind.C2D and link.identity.module_id is not None:
        return None
    return _FEATURES.get(link.kind)


def settlement_of(kind: LinkKind) -> Settlement:
    """Return how deliveries on a link are settled, whatever the client asked for."""
    return _SETTLEMENTS[kind]


def is_paired(kind: LinkKind) -> bool:
    """Say whether a link is one of two that must name the same channel."""
    return kind in _PAIRS


def replaced_by(kind: LinkKind, channel: str, attached: Mapping[LinkKind, str]) -> tuple[LinkKind, ...]:
    """Return which links of an identity end when it attaches another one.

    That is the one of the same kind, and the other one of a pair when it names another channel.

    Args:
        kind: Of the new link.
        channel: What it names, "" for nothing.
        attached: The channel of each link that there is, "" for nothing.
    """
    pair = _PAIRS.get(kind)
    return tuple(
        other
        for other, other_channel in attached.items()
        if other is kind or (pair and _PAIRS.get(other) == pair and other_channel != channel)
    )


def channel_id(kind: LinkKind, name: str) -> str:
    """Return the value of `CHANNEL_ID` for a link of the pair that is called `name`, say a UUID."""
    return f"{_PAIRS[kind]}:{name}"


def parse_link_properties(properties: Mapping[str, object]) -> LinkProperties:
    """Read what a client says of itself when it attaches a link; what is no text is passed over.

    The C SDK writes its method links' channel without a prefix: that is "" for both of them.
    """
    return LinkProperties(
        channel=_text(properties, CHANNEL_ID).partition(":")[2],
        client_version=_text(properties, CLIENT_VERSION),
        model_id=_text(properties, MODEL_ID),
        auth_chain=tuple(name for name in _text(properties, AUTH_CHAIN).split(";") if name),
    )


def link_properties(
    kind: LinkKind,
    client_version: str,
    *,
    channel: str = "",
    model_id: str = "",
    auth_chain: tuple[str, ...] = (),
) -> dict[str, object]:
    """Return the properties with which a client attaches a link; `channel` is for those of a pair."""
    properties: dict[str, object] = {CLIENT_VERSION: client_version, API_VERSION: _OUR_API_VERSION}
    if channel and is_paired(kind):
        properties[CHANNEL_ID] = channel_id(kind, channel)
    if model_id:
        properties[MODEL_ID] = model_id
    if auth_chain:
        properties[AUTH_CHAIN] = ";".join(auth_chain)
    return properties


def _path(address: str) -> str:
    authority = _AUTHORITY.match(address)
    return address if authority is None else address[authority.end() :]


def _wrong_direction(address: str, client_sends: bool) -> Refusal:
    what = "be sent to" if client_sends else "be received from"
    return Refusal(NOT_ALLOWED, f"nothing can {what} address {quoted(address)}")


def _text(properties: Mapping[str, object], name: str) -> str:
    value = properties.get(name)
    return value if isinstance(value, str) else ""
