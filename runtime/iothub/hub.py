"""The IoT Hub stand-in behind its protocols: what devices and services can do, and the rules for it.

Everything here runs in one asyncio loop. What changes something returns when it is on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from messaging.clock import Clock, SystemClock
from messaging.identity import Identity
from runtime.iothub.records import (
    Ack,
    C2dMessage,
    DeviceSession,
    Event,
    Features,
    Grant,
    MethodResult,
    Registered,
    Telemetry,
)


class IotHub:
    """One IoT Hub. `await IotHub.open(...)`, and `await close()` at the end."""

    @classmethod
    async def open(cls, path: Path, host_name: str, clock: Clock = SystemClock()) -> IotHub:  # noqa: B008
        """Open the database at `path` (made if there is none) for the hub that calls itself `host_name`.

        Raises:
            StoreError: the database cannot be opened, is damaged, or is of a newer release.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Commit what waits, cut off who is connected, close the database."""
        raise NotImplementedError

    # ---- who may connect, who is connected

    async def authenticate(self, identity: Identity, token: str | None, certificate: bytes | None) -> Grant:
        """Check the proof of an identity. A token counts before a certificate (DER) if there are both.

        Raises:
            AuthError: unknown, disabled, other type of authentication, wrong, expired. It is final.
        """
        raise NotImplementedError

    def connected(self, grant: Grant, session: DeviceSession) -> None:
        """Count the identity as connected; an older session of it is cut off."""
        raise NotImplementedError

    def features_changed(self, grant: Grant, session: DeviceSession, features: Features) -> None:
        """Say what the client listens for now: C2D messages and methods that wait are passed on."""
        raise NotImplementedError

    def disconnected(self, grant: Grant, session: DeviceSession) -> None:
        """Count the identity as gone, unless a newer session took over. Its locks are released."""
        raise NotImplementedError

    # ---- telemetry

    def telemetry(self, grant: Grant, messages: Sequence[Telemetry]) -> asyncio.Future[None]:
        """Append messages to the stream; the future is done when they are on disk, StoreError if not."""
        raise NotImplementedError

    async def events(self, after: int, max_count: int = 1000, wait_s: float = 0.0) -> list[Event]:
        """Return what follows sequence number `after` (0: from the oldest kept) in order.

        Waits up to `wait_s` for something when there is nothing.
        """
        raise NotImplementedError

    async def last_sequence_number(self) -> int:
        """Return the number of the newest message, 0 when there never was one."""
        raise NotImplementedError

    # ---- twins

    async def twin(self, identity: Identity) -> dict[str, Any]:
        """Return the twin as the service side shows it: tags, properties with $metadata, state.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        raise NotImplementedError

    async def device_twin(self, identity: Identity) -> dict[str, Any]:
        """Return `{"desired": {..., "$version": n}, "reported": {...}}` as a device gets it.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        raise NotImplementedError

    async def patch_reported(self, identity: Identity, patch: object) -> int:
        """Merge a patch into the reported properties and return their new $version.

        Raises:
            IotHubError: 400004 the patch breaks a rule of twins; 404001, 404010 unknown.
        """
        raise NotImplementedError

    # ---- direct methods

    async def invoke_method(
        self,
        identity: Identity,
        name: str,
        payload: Any,
        response_timeout_s: float = 30.0,
        connect_timeout_s: float = 0.0,
    ) -> MethodResult:
        """Call a direct method and return the device's answer.

        Raises:
            IotHubError: 400004 arguments; 404001, 404010 unknown; 404103 not online; 504101 no answer.
        """
        raise NotImplementedError

    def method_answered(self, grant: Grant, request_id: str, status: int, payload: bytes) -> None:
        """Take the answer to `DeviceSession.method`; a late or unknown one is dropped."""
        raise NotImplementedError

    # ---- cloud-to-device messages

    async def send_c2d(
        self,
        device_id: str,
        body: bytes,
        properties: Mapping[str, str | None] | None = None,
        system_properties: Mapping[str, str | None] | None = None,
        ack: Ack = "none",
        ttl_s: float | None = None,
    ) -> C2dMessage:
        """Queue a message for a device.

        Raises:
            IotHubError: 404001 unknown; 403004 its queue is full; 413001 too large.
        """
        raise NotImplementedError

    async def complete_c2d(self, grant: Grant, lock: str) -> None:
        """The device has the message. A token that is not locked (any more) is let pass."""
        raise NotImplementedError

    async def reject_c2d(self, grant: Grant, lock: str) -> None:
        """The device does not want the message."""
        raise NotImplementedError

    async def abandon_c2d(self, grant: Grant, lock: str) -> None:
        """Back to the queue; too often is too often."""
        raise NotImplementedError

    # ---- what a protocol head keeps of a client, MQTT sessions for example

    async def load_session(self, identity: Identity) -> bytes | None:
        """Return what `save_session` kept."""
        raise NotImplementedError

    async def save_session(self, identity: Identity, record: bytes | None) -> None:
        """Keep `record` for the identity as long as it is registered; None forgets it."""
        raise NotImplementedError

    # ---- registry (the service side and DPS)

    async def find(self, identity: Identity) -> Registered:
        """Return a device or module.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        raise NotImplementedError

    async def put(
        self, identity: Identity, wanted: Mapping[str, Any], if_match: str | None = None
    ) -> Registered:
        """Create a device or module, or update it when `if_match` is given.

        Args:
            wanted: As in the body of REST: `authentication`, `status`, `capabilities`, `parentScopes`, ...;
                missing or empty keys of a new identity are generated.
            if_match: An etag or `*`, in quotes or not; None creates only.

        Raises:
            IotHubError: 400004 body; 403002 a limit; 404001, 404010 unknown; 409001, 409301 exists already;
                412001 another etag.
        """
        raise NotImplementedError

    async def delete(self, identity: Identity, if_match: str | None = None) -> None:
        """Delete a device with its modules, or a module; twins, queue and connections go with it.

        Raises:
            IotHubError: 404001, 404010 unknown; 412001 another etag.
        """
        raise NotImplementedError

    async def patch_twin(
        self, identity: Identity, patch: Mapping[str, Any], if_match: str | None = None
    ) -> dict[str, Any]:
        """Merge `tags` and `properties.desired` of `patch` into the twin and return the whole twin.

        Raises:
            IotHubError: 400004 a rule of twins; 404001, 404010 unknown; 412001 another etag.
        """
        raise NotImplementedError

    async def replace_twin(
        self, identity: Identity, wanted: Mapping[str, Any], if_match: str | None = None
    ) -> dict[str, Any]:
        """Replace `tags` and `properties.desired`, each if it is there, and return the whole twin.

        Raises:
            IotHubError: as `patch_twin`.
        """
        raise NotImplementedError

    # ---- enrollments and other documents of DPS

    async def document(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the document that `save_document` kept, None when there is none."""
        raise NotImplementedError

    async def documents(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return all documents of a kind by key, in order of their keys."""
        raise NotImplementedError

    async def save_document(self, kind: str, key: str, content: Mapping[str, Any] | None) -> None:
        """Keep a document (msgpack values); None deletes it. Kinds of DPS: `enrollment`, for example."""
        raise NotImplementedError
