"""The values of the stand-in: identities as registered, messages to and from devices, who is connected."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from msgspec import Struct

from messaging.identity import Identity
from messaging.property_bag import Properties

AuthType = Literal["sas", "selfSigned", "certificateAuthority", "none"]
Status = Literal["enabled", "disabled"]
Ack = Literal["none", "positive", "negative", "full"]
Outcome = Literal["Success", "Expired", "DeliveryCountExceeded", "Rejected", "Purged"]


@dataclass(frozen=True, slots=True)
class Authentication:
    """How an identity proves who it is: exactly one type. Keys are base64, thumbprints capital hex."""

    type: AuthType = "sas"
    primary_key: str = field(default="", repr=False)
    secondary_key: str = field(default="", repr=False)
    primary_thumbprint: str = ""
    secondary_thumbprint: str = ""


class Registered(Struct, frozen=True):
    """A device or a module as the registry holds it."""

    identity: Identity
    generation_id: str  # numeric text, fresh at each creation
    etag: str  # without quotes; another one after each update
    authentication: Authentication
    status: Status = "enabled"  # of a device; a module is as enabled as its device
    status_reason: str = ""
    status_updated_s: float = 0.0
    is_edge: bool = False
    device_scope: str = ""  # an edge's own; of a leaf its parent's
    parent_scopes: tuple[str, ...] = ()
    managed_by: str = ""  # of a module


class Grant(Struct, frozen=True):
    """What a successful authentication is worth; the stamp of everything that its holder sends."""

    identity: Identity
    generation_id: str
    auth_method: str  # JSON text as in `iothub-connection-auth-method`
    expires_s: float | None  # when its token ends, seconds since 1970-01-01 UTC; None for a certificate
    speaker: Identity | None = None  # the `$edgeHub` whose token it was, if it was not its own


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A message of a device, as it sends it."""

    properties: Properties
    system_properties: Properties  # by canonical name: messaging/system_properties.py
    body: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """What counts against the limit of a message: its body, names and values of its properties."""
        size = len(self.body)
        for properties in (self.properties, self.system_properties):
            for name, value in properties.items():
                size += len(name) + len(value or "")
        return size


class Event(Struct, frozen=True):
    """A telemetry message as a reader of the stream gets it, with what the hub added."""

    sequence_number: int
    enqueued_s: float
    identity: Identity
    generation_id: str
    auth_method: str
    telemetry: Telemetry
    source: str = "Telemetry"  # `iothub-message-source`


class Extent(Struct, frozen=True):
    """Which messages the stream holds, by sequence number."""

    first: int
    last: int  # `first` - 1 when there never was one
    last_enqueued_s: float  # 0 when there never was one


@dataclass(frozen=True, slots=True)
class C2dMessage:
    """A message from the cloud to a device."""

    message_id: str
    properties: Properties
    system_properties: Properties  # by canonical name, `to`, `ack` and `absolute-expiry-time` included
    body: bytes = field(repr=False)
    sequence_number: int = 0
    enqueued_s: float = 0.0
    expires_s: float = 0.0
    delivery_count: int = 0
    ack: Ack = "none"


class Feedback(Struct, frozen=True):
    """What became of a C2D message whose sender wanted to know."""

    original_message_id: str
    device_id: str
    generation_id: str
    outcome: Outcome
    at_s: float


class FeedbackBatch(Struct, frozen=True):
    """Records that a service has under a lock."""

    lock: str  # a UUID
    enqueued_s: float  # when the batch was made
    records: Sequence[Feedback]


class MethodResult(Struct, frozen=True):
    """What a device answered a direct method with. The status is its own; `payload` any JSON value."""

    status: int
    payload: Any


class Features(Struct, frozen=True):
    """What a connected client listens for."""

    methods: bool = False
    desired: bool = False
    c2d: bool = False


class CutOff(enum.Enum):
    """Why a connection is ended by the hub, and how it is told."""

    REPLACED = "the same identity connected anew"
    REFUSED = "the identity was deleted, disabled or given other credentials"
    STOPPING = "the hub stops"


class DeviceSession(Protocol):
    """One live connection of an identity, implemented by a protocol head.

    The hub calls it in the thread of its loop; nothing here may block or raise.
    """

    def desired_patched(self, patch: Mapping[str, Any], version: int) -> None:
        """Pass on a patch of desired properties; `version` is `$version` after it."""

    def method(self, request_id: str, name: str, payload: bytes) -> None:
        """Pass on a direct method; the answer goes to `IotHub.method_answered`. Empty payload: none."""

    def c2d(self, message: C2dMessage, lock: str) -> None:
        """Pass on a C2D message; the client's acknowledgement goes to `IotHub.complete_c2d` with `lock`."""

    def cut_off(self, why: CutOff) -> None:
        """End the connection of this identity."""
