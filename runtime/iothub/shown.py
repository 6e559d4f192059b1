"""Devices, modules and twins as REST shows them.

Source: spec sheet security-daemon.md sections 4.3, 4.5 and 4.6
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from messaging.time_text import iso_utc
from messaging.twin import Json
from runtime.iothub.records import Authentication, Event, Feedback, Registered
from runtime.iothub.sessions import LastSeen
from runtime.iothub.twins import StoredTwin


def device_json(device: Registered, connected: bool, seen: LastSeen, c2d_count: int) -> Json:
    """Return a device as the service side gets it."""
    return {
        "deviceId": device.identity.device_id,
        "generationId": device.generation_id,
        "etag": device.etag,
        "status": device.status,
        "statusReason": device.status_reason or None,
        "statusUpdatedTime": iso_utc(device.status_updated_s),
        **_connection(connected, seen),
        "cloudToDeviceMessageCount": c2d_count,
        "authentication": authentication_json(device.authentication),
        **_place(device),
    }


def module_json(module: Registered, connected: bool, seen: LastSeen) -> Json:
    """Return a module as the service side gets it."""
    return {
        "moduleId": module.identity.module_id,
        "managedBy": module.managed_by or None,
        "deviceId": module.identity.device_id,
        "generationId": module.generation_id,
        "etag": module.etag,
        **_connection(connected, seen),
        "cloudToDeviceMessageCount": 0,
        "authentication": authentication_json(module.authentication),
    }


def twin_json(
    registered: Registered,
    device: Registered,
    twin: StoredTwin,
    connected: bool,
    seen: LastSeen,
    c2d_count: int,
) -> Json:
    """Return a twin as the service side gets it."""
    identity = registered.identity
    auth = registered.authentication
    shown: Json = {"deviceId": identity.device_id}
    if identity.module_id is not None:
        shown["moduleId"] = identity.module_id
    shown |= {
        "etag": twin.etag,
        "deviceEtag": registered.etag,
        "status": device.status,
        "statusReason": device.status_reason or None,
        "statusUpdateTime": iso_utc(device.status_updated_s),
        "connectionState": _state(connected),
        "lastActivityTime": iso_utc(seen.active_s),
        "cloudToDeviceMessageCount": c2d_count,
        "authenticationType": auth.type,
        "x509Thumbprint": _thumbprints(auth),
        "modelId": "",
        "version": twin.version,
        "tags": twin.tags,
        "properties": {"desired": twin.desired.shown(), "reported": twin.reported.shown()},
    }
    if identity.module_id is None:
        shown |= _place(device)
    else:
        shown["managedBy"] = registered.managed_by or None
    return shown


def in_scope_json(registered: Registered) -> Json:
    """Return a device or module as an edge's hub gets it in answer to a scope call."""
    identity = registered.identity
    shown: Json = {"deviceId": identity.device_id}
    if identity.module_id is not None:
        shown |= {"moduleId": identity.module_id, "managedBy": registered.managed_by or None}
    shown |= {
        "generationId": registered.generation_id,
        "etag": f'"{registered.etag}"',
        "authentication": authentication_json(registered.authentication),
    }
    if identity.module_id is None:
        shown |= {"status": registered.status, **_place(registered)}
    return shown


def for_identity_service(shown: Json) -> Json:
    """Return a module as the identity service of an edge device reads it: one type for all certificates.

    Source: spec sheet security-daemon.md section 4.3
    """
    auth = shown["authentication"]
    if auth["type"] in ("selfSigned", "certificateAuthority"):
        return {**shown, "authentication": {**auth, "type": "x509"}}
    return shown


def authentication_json(auth: Authentication) -> Json:
    """Return how an identity proves itself; keys and thumbprints that it does not have are null."""
    return {
        "symmetricKey": {"primaryKey": auth.primary_key or None, "secondaryKey": auth.secondary_key or None},
        "x509Thumbprint": _thumbprints(auth),
        "type": auth.type,
    }


def feedback_body(records: Sequence[Feedback]) -> bytes:
    """Return what became of messages, as their senders get it: a JSON array."""
    return msgspec.json.encode([_feedback_json(record) for record in records])


def _feedback_json(feedback: Feedback) -> Json:
    return {
        "originalMessageId": feedback.original_message_id,
        "enqueuedTimeUtc": iso_utc(feedback.at_s),
        "statusCode": feedback.outcome,
        "description": feedback.outcome,
        "deviceId": feedback.device_id,
        "deviceGenerationId": feedback.generation_id,
    }


def event_annotations(event: Event) -> dict[str, Any]:
    """Return what the hub adds to a message, under the names of the Event Hubs-compatible endpoint."""
    annotations = {
        "iothub-connection-device-id": event.identity.device_id,
        "iothub-connection-auth-method": event.auth_method,
        "iothub-connection-auth-generation-id": event.generation_id,
        "iothub-enqueuedtime": iso_utc(event.enqueued_s),
        "iothub-message-source": event.source,
        "x-opt-sequence-number": event.sequence_number,
        "x-opt-offset": str(event.sequence_number),
        "x-opt-enqueued-time": iso_utc(event.enqueued_s),
    }
    if event.identity.module_id is not None:
        annotations["iothub-connection-module-id"] = event.identity.module_id
    return annotations


def _place(device: Registered) -> Json:
    shown: Json = {"capabilities": {"iotEdge": device.is_edge}}
    if device.device_scope:
        shown["deviceScope"] = device.device_scope
    if device.parent_scopes:
        shown["parentScopes"] = list(device.parent_scopes)
    return shown


def _connection(connected: bool, seen: LastSeen) -> Json:
    return {
        "connectionState": _state(connected),
        "connectionStateUpdatedTime": iso_utc(seen.changed_s),
        "lastActivityTime": iso_utc(seen.active_s),
    }


def _state(connected: bool) -> str:
    return "Connected" if connected else "Disconnected"


def _thumbprints(auth: Authentication) -> Json:
    return {
        "primaryThumbprint": auth.primary_thumbprint or None,
        "secondaryThumbprint": auth.secondary_thumbprint or None,
    }
