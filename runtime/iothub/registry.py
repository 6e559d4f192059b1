"""The rules of the identity registry: what a request makes of a device or module, and how one is shown.

No I/O: plain values in, plain values out.

Source: spec sheet security-daemon.md sections 4.3, 4.5 and 4.6
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final, cast

from msgspec.structs import replace

from actors.hub import scope as scope_tree
from actors.hub.scope import SCOPE
from messaging.errors import ConfigError
from messaging.identity import EDGE_AGENT, EDGE_HUB, Identity
from messaging.text import quoted
from runtime.iothub import refusals
from runtime.iothub.records import Authentication, AuthType, Registered, Status

SYSTEM_MODULES: Final = (EDGE_AGENT, EDGE_HUB)
DEVICES: Final = 1_000_000  # of a hub
MODULES_PER_DEVICE: Final = 50
CHILDREN_PER_EDGE: Final = 100
EDGE_LEVELS: Final = 5  # edges below each other
SHORTEST_KEY_BYTES: Final = 16
LONGEST_KEY_BYTES: Final = 64
LONGEST_REASON: Final = 128

_THUMBPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_AUTH_TYPES: dict[str, AuthType] = {
    "sas": "sas",
    "selfsigned": "selfSigned",
    "certificateauthority": "certificateAuthority",
    "none": "none",
}


def identity_of(device_id: str, module_id: str | None = None) -> Identity:
    """Return the identity with these ids.

    Raises:
        IotHubError: 400004 one of them is not an id of IoT Hub.
    """
    try:
        return Identity(device_id, module_id)
    except ConfigError as exc:
        raise refusals.argument_invalid(str(exc)) from exc


def created(identity: Identity, wanted: Mapping[str, Any], now_s: float) -> Registered:
    """Return the new device or module that `wanted` describes; keys that it lacks are generated.

    Raises:
        IotHubError: 400004 a member is not what it may be.
    """
    _check_ids(identity, wanted)
    generation_id = str(int(now_s * 10_000_000) + secrets.randbelow(10_000))  # ticks, and never twice
    authentication = _authentication(wanted.get("authentication"), None)
    fresh = Registered(identity, generation_id, new_etag(), authentication)
    if identity.module_id is not None:
        return replace(fresh, managed_by=_text(wanted, "managedBy"))
    is_edge = _is_edge(wanted, before=False)
    return replace(
        fresh,
        status=_status(wanted, "enabled"),
        status_reason=_reason(wanted),
        is_edge=is_edge,
        device_scope=f"{SCOPE}{identity.device_id}-{generation_id}" if is_edge else "",
    )


def updated(before: Registered, wanted: Mapping[str, Any], now_s: float) -> Registered:
    """Return `before` as `wanted` changes it, with a new etag. What `wanted` does not name stays.

    Raises:
        IotHubError: 400004 a member is not what it may be.
    """
    _check_ids(before.identity, wanted)
    authentication = _authentication(wanted.get("authentication"), before.authentication)
    after = replace(before, etag=new_etag(), authentication=authentication)
    if before.identity.module_id is not None:
        return replace(after, managed_by=_text(wanted, "managedBy") or before.managed_by)
    status = _status(wanted, before.status)
    is_edge = _is_edge(wanted, before.is_edge)
    if before.is_edge and not is_edge:
        raise refusals.argument_invalid(
            f"device '{before.identity}' is an edge device and cannot become another; delete and create it"
        )
    scope = f"{SCOPE}{before.identity.device_id}-{before.generation_id}"
    return replace(
        after,
        status=status,
        status_reason=_reason(wanted) if "statusReason" in wanted else before.status_reason,
        status_updated_s=before.status_updated_s if status == before.status else now_s,
        is_edge=is_edge,
        device_scope=scope if is_edge else before.device_scope,
    )


def system_module(device_id: str, module_id: str, now_s: float) -> Registered:
    """Return `$edgeAgent` or `$edgeHub` of a new edge device: without keys until its daemon sends them."""
    wanted = {"managedBy": "iotEdge", "authentication": {"type": "none"}}
    return created(Identity(device_id, module_id), wanted, now_s)


def wanted_parent(registered: Registered, wanted: Mapping[str, Any]) -> str | None:
    """Return the scope of the parent that a request names, '' for no parent, None when it says nothing.

    Raises:
        IotHubError: 400004 not a scope, or more than one.
    """
    scopes = wanted.get("parentScopes")
    if scopes is not None:
        if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
            raise refusals.argument_invalid("parentScopes is not an array of texts")
        if len(scopes) > 1:
            raise refusals.argument_invalid("parentScopes has more than one entry; a device has one parent")
        if scopes:
            return str(scopes[0])
    if registered.is_edge:  # its own scope is in deviceScope
        return None if scopes is None else ""
    scope = wanted.get("deviceScope")
    if scope is None:
        return None if scopes is None else ""
    if not isinstance(scope, str):
        raise refusals.argument_invalid("deviceScope is not a text")
    return scope


def device_of_scope(scope: str) -> str:
    """Return the id of the edge device that a scope names.

    Raises:
        IotHubError: 400028 not of the form `ms-azure-iot-edge://{device}-{generation}`.
    """
    device_id = scope_tree.device_of_scope(scope)
    if not device_id:
        raise refusals.invalid_scope(f"{quoted(scope)} is not of the form {SCOPE}device-generation")
    return device_id


def with_parent(registered: Registered, scope: str) -> Registered:
    """Return the device below another parent; '' takes it from its parent."""
    scopes = (scope,) if scope else ()
    if registered.is_edge:
        return replace(registered, parent_scopes=scopes)
    return replace(registered, parent_scopes=scopes, device_scope=scope)


def check_etag(what: str, etag: str, if_match: str | None) -> None:
    """Return when `if_match`, in quotes or not, is `*` or the etag.

    Raises:
        IotHubError: 412001 it is another one.
    """
    if if_match is not None and bare_etag(if_match) not in ("*", etag):
        raise refusals.precondition_failed(what, etag)


def bare_etag(text: str) -> str:
    """Return an etag of a header without its quotes. SDKs also send `"*"` with them."""
    return text.strip().removeprefix("W/").strip('"')


def new_etag() -> str:
    """Return an etag that there never was."""
    return base64.b64encode(str(secrets.randbelow(10**9)).encode()).decode()


def new_key() -> str:
    """Return a random key of 32 bytes as base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _check_ids(identity: Identity, wanted: Mapping[str, Any]) -> None:
    for member, expected in (("deviceId", identity.device_id), ("moduleId", identity.module_id)):
        sent = wanted.get(member)
        if sent is not None and sent != expected:
            raise refusals.argument_invalid(
                f"{member} in the body is {quoted(str(sent))}, in the path {quoted(str(expected))}"
            )


def _authentication(wanted: object, before: Authentication | None) -> Authentication:
    if wanted is None and before is not None:
        return before
    if wanted is None:
        wanted = {}
    if not isinstance(wanted, dict):
        raise refusals.argument_invalid("authentication is not an object")
    keys = _members(wanted, "symmetricKey")
    prints = _members(wanted, "x509Thumbprint")
    primary_print, secondary_print = (
        _thumbprint(prints, f"{which}Thumbprint") for which in ("primary", "secondary")
    )
    auth_type = _auth_type(wanted.get("type"), has_thumbprint=bool(primary_print or secondary_print))
    if auth_type == "sas":
        old = before if before is not None and before.type == "sas" else Authentication()
        return Authentication(
            "sas",
            _key(keys, "primaryKey") or old.primary_key or new_key(),
            _key(keys, "secondaryKey") or old.secondary_key or new_key(),
        )
    if auth_type == "selfSigned":
        old = before if before is not None and before.type == "selfSigned" else Authentication()
        primary_print = primary_print or old.primary_thumbprint
        if not (primary_print or secondary_print):
            raise refusals.argument_invalid(
                "authentication.x509Thumbprint has no primaryThumbprint; type selfSigned needs one"
            )
        return Authentication(
            "selfSigned", primary_thumbprint=primary_print, secondary_thumbprint=secondary_print
        )
    return Authentication(auth_type)


def _auth_type(wanted: object, has_thumbprint: bool) -> AuthType:
    if wanted is None or wanted == "":
        return "selfSigned" if has_thumbprint else "sas"
    found = _AUTH_TYPES.get(wanted.lower()) if isinstance(wanted, str) else None
    if found is None:
        raise refusals.argument_invalid(
            f"authentication.type {quoted(str(wanted))} is none of {', '.join(_AUTH_TYPES.values())}"
        )
    return found


def _members(wanted: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = wanted.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise refusals.argument_invalid(f"authentication.{name} is not an object")
    return found


def _key(keys: Mapping[str, Any], name: str) -> str:
    key = keys.get(name)
    if key is None or key == "":
        return ""
    try:
        length = len(base64.b64decode(key, validate=True)) if isinstance(key, str) else 0
    except (binascii.Error, ValueError):
        length = 0
    if not SHORTEST_KEY_BYTES <= length <= LONGEST_KEY_BYTES:
        raise refusals.argument_invalid(
            f"authentication.symmetricKey.{name} is not base64 of "
            f"{SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes"
        )
    return cast(str, key)


def _thumbprint(prints: Mapping[str, Any], name: str) -> str:
    sent = prints.get(name)
    if sent is None or sent == "":
        return ""
    text = sent.replace(":", "").upper() if isinstance(sent, str) else ""
    if not _THUMBPRINT.fullmatch(text):
        raise refusals.argument_invalid(
            f"authentication.x509Thumbprint.{name} is not 40 (SHA-1) or 64 (SHA-256) hexadecimal digits"
        )
    return text


def _status(wanted: Mapping[str, Any], before: Status) -> Status:
    status = wanted.get("status")
    if status is None:
        return before
    lowered = status.lower() if isinstance(status, str) else ""
    if lowered not in ("enabled", "disabled"):
        raise refusals.argument_invalid(f"status {quoted(str(status))} is neither enabled nor disabled")
    return cast(Status, lowered)


def _reason(wanted: Mapping[str, Any]) -> str:
    reason = _text(wanted, "statusReason")
    if len(reason) > LONGEST_REASON:
        raise refusals.argument_invalid(f"statusReason is longer than {LONGEST_REASON} characters")
    return reason


def _is_edge(wanted: Mapping[str, Any], before: bool) -> bool:
    capabilities = wanted.get("capabilities")
    if capabilities is None:
        return before
    if not isinstance(capabilities, dict):
        raise refusals.argument_invalid("capabilities is not an object")
    is_edge = capabilities.get("iotEdge", before)
    if not isinstance(is_edge, bool):
        raise refusals.argument_invalid("capabilities.iotEdge is neither true nor false")
    return is_edge


def _text(wanted: Mapping[str, Any], name: str) -> str:
    value = wanted.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise refusals.argument_invalid(f"{name} is not a text")
    return value
