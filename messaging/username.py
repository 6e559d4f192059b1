"""The MQTT user name of CONNECT: who connects, and with which SDK.

Source: spec sheet hub-protocols.md section 1.2
"""

from __future__ import annotations

from urllib.parse import unquote

from msgspec import Struct

from messaging.errors import ConfigError, RemoteProtocolError
from messaging.identity import Identity
from messaging.text import quoted

# An SDK of 2017 wrote slashes where later ones write `?` and `&`, and percent-encoded nothing.
_LEGACY_API_VERSION = "2017-06-30"
_LEGACY_PRODUCT = "Microsoft.Azure.Devices.Client/1.5.1-preview-003"
_LEGACY_END = f"/api-version={_LEGACY_API_VERSION}/DeviceClientType={_LEGACY_PRODUCT}".lower()
_EXPECTED = "expected {IoT Hub}/{device}/[{module}/]?api-version=..."


class UserName(Struct, frozen=True):
    """What a user name says. The host in it is not kept: clients write the IoT Hub or the gateway there."""

    identity: Identity
    api_version: str
    product: str = ""  # `DeviceClientType`, the SDK and its version
    model_id: str = ""  # `model-id`, plug and play
    auth_chain: tuple[str, ...] = ()  # device ids, only from the hub of a nested edge


def parse_user_name(text: str) -> UserName:
    """Read the user name of an MQTT CONNECT.

    Raises:
        RemoteProtocolError: it is not of a form that IoT Hub clients send.
    """
    segments = text.split("/")
    if len(segments) == 6 and text.lower().endswith(_LEGACY_END):
        return UserName(_identity(text, segments[1], segments[2]), _LEGACY_API_VERSION, _LEGACY_PRODUCT)
    if len(segments) not in (3, 4):
        raise RemoteProtocolError(f"user name {quoted(text)} has {len(segments)} segments; {_EXPECTED}")

    identity = _identity(text, segments[1], segments[2] if len(segments) == 4 else None)
    properties = _properties(text, segments[-1])
    if not properties.get("api-version", "").strip():
        raise RemoteProtocolError(f"user name {quoted(text)} has no api-version; {_EXPECTED}")
    return UserName(
        identity,
        api_version=properties["api-version"],
        product=properties.get("DeviceClientType", ""),
        model_id=properties.get("model-id", ""),
        auth_chain=tuple(link for link in properties.get("auth-chain", "").split(";") if link),
    )


def _identity(text: str, device_id: str, module_id: str | None) -> Identity:
    try:
        return Identity(device_id.strip(), module_id if module_id is None else module_id.strip())
    except ConfigError as exc:
        raise RemoteProtocolError(f"user name {quoted(text)}: {exc}; {_EXPECTED}") from exc


def _properties(text: str, segment: str) -> dict[str, str]:
    if not segment.startswith("?") and "api-version=" not in segment:
        raise RemoteProtocolError(f"user name {quoted(text)} does not end in properties; {_EXPECTED}")
    properties: dict[str, str] = {}
    for pair in segment.removeprefix("?").split("&"):
        name, _, value = pair.partition("=")
        properties.setdefault(name, unquote(value))  # of two properties of one name the first counts
    return properties
