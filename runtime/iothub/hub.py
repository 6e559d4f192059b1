"""The IoT Hub stand-in behind its protocols: what devices and services can do, and the rules for it.

Everything here runs in one asyncio loop. What changes something returns when it is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from messaging.clock import Clock, SystemClock
from messaging.errors import AuthError, IotHubError, StoreError
from messaging.identity import Identity
from messaging.message import LARGEST_MESSAGE_BYTES
from messaging.twin import Json
from runtime.iothub import documents, identities, methods, proofs, refusals, twins
from runtime.iothub.c2d import C2dQueues
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.diagnostics import Diagnostics, is_diagnostics
from runtime.iothub.feedback import FeedbackQueue
from runtime.iothub.identities import Change
from runtime.iothub.methods import MethodCalls
from runtime.iothub.policies import Policies
from runtime.iothub.records import (
    Ack,
    C2dMessage,
    CutOff,
    DeviceSession,
    Event,
    Extent,
    Features,
    FeedbackBatch,
    Grant,
    MethodResult,
    Registered,
    Telemetry,
)
from runtime.iothub.service import ServiceSide
from runtime.iothub.sessions import Sessions
from runtime.iothub.telemetry import HELD_BYTES, RING_BYTES, Follower, TelemetryStream
from runtime.iothub.twins import DesiredChange

log = logging.getLogger(__name__)

AUTHORITY: Final = "authority"  # kind of document: a CA whose certificates devices may show
SWEEP_S: Final = 1.0


class IotHub:
    """One IoT Hub. `await IotHub.open(...)`, and `await close()` at the end."""

    def __init__(
        self,
        db: CloudDb,
        hosts: Sequence[str],
        policies: Policies,
        clock: Clock,
        ring_bytes: int,
        folder: Path,
    ) -> None:
        self.hosts = tuple(hosts)
        self.policies = policies
        self.clock = clock
        self.opened_s = clock.now_s()
        self._db = db
        self._sessions = Sessions(db, clock)
        self._stream = TelemetryStream(db, clock, ring_bytes)
        self._diagnostics = Diagnostics(folder, clock)
        self._methods = MethodCalls(self._sessions)
        self._c2d = C2dQueues(db, clock, self._sessions)
        self._feedback = FeedbackQueue(db, clock)
        self.service = ServiceSide(db, self._sessions, clock, self._tell_desired)
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        folder: Path,
        host_name: str,
        aliases: Collection[str] = (),
        clock: Clock = SystemClock(),  # noqa: B008 - it has no state
        ring_bytes: int = RING_BYTES,
    ) -> IotHub:
        """Open the hub whose database and accounts are in `folder`; what is missing there is made.

        Args:
            folder: Holds `cloud.db` and `policies.json`, both for their owner alone.
            host_name: What the hub calls itself.
            aliases: Other names and addresses by which clients may call it.

        Raises:
            StoreError: the database cannot be opened, is damaged, or is of a newer release.
            ConfigError: the file of the accounts cannot be read.
            EnvironmentFault: the file of the accounts cannot be written.
        """
        policies = Policies.load(folder / "policies.json")
        db = await CloudDb.open(folder / "cloud.db")
        hub = cls(db, (host_name, *aliases), policies, clock, ring_bytes, folder)
        await hub._sessions.load()
        hub._sweeper = asyncio.create_task(hub._sweep_for_ever())
        return hub

    @property
    def host_name(self) -> str:
        """What the hub calls itself."""
        return self.hosts[0]

    async def close(self) -> None:
        """Cut off who is connected, commit what waits, close the database."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connected in self._sessions.all():
            self._sessions.cut_off(connected.grant.identity, CutOff.STOPPING)
        await self._db.close()

    # ---- who may connect, who is connected

    async def authenticate(
        self,
        identity: Identity,
        token: str | None,
        certificate: bytes | None,
        issuers: Sequence[bytes] = (),
    ) -> Grant:
        """Check the proof of an identity. A token counts before a certificate if there are both.

        Args:
            certificate: The client's own, DER; that it has the key is known from TLS.
            issuers: What it sent along with it, DER.

        Raises:
            AuthError: unknown, disabled, other type of authentication, wrong, expired. It is final.
            StoreError: the database does not answer; it may be tried again.
        """
        now_s = self.clock.now_s()

        def look_up(connection: sqlite3.Connection) -> tuple[Registered, Registered, list[Registered], Any]:
            registered = identities.get(connection, identity)
            device = identities.device_of(connection, identity)
            speakers = identities.hubs_above(connection, identity)
            return registered, device, speakers, documents.all_of(connection, AUTHORITY)

        try:
            registered, device, speakers, authorities = await self._db.run(look_up)
        except IotHubError as exc:
            raise AuthError(str(exc)) from exc
        if device.status != "enabled":
            raise AuthError(f"device '{identity.device_id}' is disabled")
        if token:
            return proofs.check_token(token, registered, device, speakers, self.policies, self.hosts, now_s)
        if certificate:
            ders = [document["der"] for document in authorities.values()]
            return proofs.check_certificate(certificate, issuers, registered, ders, now_s)
        raise AuthError(f"'{identity}' shows neither a token nor a certificate")

    def connected(self, grant: Grant, session: DeviceSession) -> None:
        """Count the identity as connected; an older session of it is cut off."""
        self._sessions.connected(grant, session)
        self._c2d.release(grant.identity)

    def features_changed(self, grant: Grant, session: DeviceSession, features: Features) -> None:
        """Say what the client listens for now: C2D messages and methods that wait are passed on."""
        if self._sessions.features_changed(grant, session, features) and features.c2d:
            self._c2d.deliver(grant.identity)

    def disconnected(self, grant: Grant, session: DeviceSession) -> None:
        """Count the identity as gone, unless a newer session took over. Its locks are released."""
        if self._sessions.disconnected(grant, session):
            self._c2d.release(grant.identity)

    def is_connected(self, identity: Identity) -> bool:
        """Tell whether somebody is connected as this identity."""
        return self._sessions.find(identity) is not None

    # ---- telemetry

    def telemetry(self, grant: Grant, messages: Sequence[Telemetry]) -> asyncio.Future[None]:
        """Append messages to the stream; the future is done when they are on disk, StoreError if not.

        What an edge tells about itself is kept elsewhere.

        Raises:
            IotHubError: 413001 one of them is too large; nothing of them is kept.
        """
        for message in messages:
            if message.size_bytes > LARGEST_MESSAGE_BYTES:
                raise refusals.too_large(
                    f"a message of '{grant.identity}' is over {LARGEST_MESSAGE_BYTES} bytes"
                )
        self._sessions.active(grant.identity)
        told = [message for message in messages if is_diagnostics(message)]
        if told:
            self._diagnostics.take(grant, told)
            messages = [message for message in messages if not is_diagnostics(message)]
            if not messages:
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                done.set_result(None)
                return done
        return self._stream.append(grant, messages)

    def follow_telemetry(self, follower: Follower) -> None:
        """Have somebody told of telemetry that was stored; see `TelemetryStream.follow`."""
        self._stream.follow(follower)

    async def events(
        self, after: int, max_count: int = 1000, wait_s: float = 0.0, most_bytes: int = HELD_BYTES
    ) -> list[Event]:
        """Return what follows sequence number `after` (0: from the oldest kept) in order.

        Waits up to `wait_s` for something when there is nothing. With `most_bytes` it stops at about that
        much, behind one message at least.
        """
        return await self._stream.read(after, max_count, wait_s, most_bytes)

    async def stream_extent(self) -> Extent:
        """Return which messages the stream holds."""
        return await self._stream.extent()

    async def last_before(self, at_ms: int, inclusive: bool = False) -> int:
        """Return the number in front of the first message enqueued after a time, or at it if `inclusive`.

        That is the number of the newest message when there is none. The time is in ms since 1970-01-01 UTC.
        """
        return await self._stream.last_before(at_ms, inclusive)

    async def last_sequence_number(self) -> int:
        """Return the number of the newest message, 0 when there never was one."""
        return await self._stream.last()

    # ---- twins

    async def twin(self, identity: Identity) -> Json:
        """Return the twin as the service side shows it: tags, properties with $metadata, state.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        return await self._db.run(lambda connection: self.service.shown_twin(connection, identity))

    async def device_twin(self, identity: Identity) -> Json:
        """Return `{"desired": {..., "$version": n}, "reported": {...}}` as a device gets it.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        self._sessions.active(identity)
        stored = await self._db.run(lambda connection: twins.get(connection, identity))
        return {"desired": stored.desired.told(), "reported": stored.reported.told()}

    async def patch_reported(self, identity: Identity, patch: object) -> int:
        """Merge a patch into the reported properties and return their new $version.

        Raises:
            IotHubError: 400004 the patch breaks a rule of twins; 404001, 404010 unknown.
        """
        now_s = self.clock.now_s()
        self._sessions.active(identity)
        stored = await self._db.run(
            lambda connection: twins.patch_reported(connection, identity, patch, now_s)
        )
        return stored.reported.version

    async def patch_twin(
        self, identity: Identity, patch: Mapping[str, Any], if_match: str | None = None
    ) -> Json:
        """Merge `tags` and `properties.desired` of `patch` into the twin and return the whole twin.

        Raises:
            IotHubError: 400004 a rule of twins; 404001, 404010 unknown; 412001 another etag.
        """
        return await self._change_twin(identity, patch, if_match, whole=False)

    async def replace_twin(
        self, identity: Identity, wanted: Mapping[str, Any], if_match: str | None = None
    ) -> Json:
        """Replace `tags` and `properties.desired`, each if it is there, and return the whole twin.

        Raises:
            IotHubError: as `patch_twin`.
        """
        return await self._change_twin(identity, wanted, if_match, whole=True)

    async def _change_twin(
        self, identity: Identity, wanted: Mapping[str, Any], if_match: str | None, whole: bool
    ) -> Json:
        now_s = self.clock.now_s()

        def change(connection: sqlite3.Connection) -> tuple[Json, DesiredChange | None]:
            identities.get(connection, identity)
            _, told = twins.change(connection, identity, wanted, if_match, now_s, whole)
            return self.service.shown_twin(connection, identity), told

        def tell(result: tuple[Json, DesiredChange | None]) -> None:
            if result[1] is not None:
                self._tell_desired(identity, result[1])

        twin, _ = await self._db.run(change, tell)
        return twin

    def _tell_desired(self, identity: Identity, change: DesiredChange) -> None:
        found = self._sessions.find(identity)
        if found is not None and found.features.desired:
            found.session.desired_patched(change.patch, change.version)

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
            IotHubError: 400004 arguments; 404001, 404010 unknown; 404103 not online; 413001 too large;
                504101 no answer.
        """
        methods.check_name(name)
        encoded = methods.encode_payload(payload)
        await self.find(identity)
        return await self._methods.invoke(identity, name, encoded, response_timeout_s, connect_timeout_s)

    def method_answered(self, grant: Grant, request_id: str, status: int, payload: bytes) -> None:
        """Take the answer to `DeviceSession.method`; a late or unknown one is dropped."""
        self._methods.answered(grant, request_id, status, payload)

    # ---- cloud-to-device messages

    async def send_c2d(
        self,
        device_id: str,
        body: bytes,
        properties: Mapping[str, str | None] | None = None,
        system_properties: Mapping[str, str | None] | None = None,
        ack: Ack = "none",
        expires_s: float | None = None,
    ) -> C2dMessage:
        """Queue a message for a device.

        Args:
            expires_s: When it is given up, in seconds since 1970-01-01 UTC; None: after an hour.

        Raises:
            IotHubError: 404001 unknown; 403004 its queue is full; 413001 too large.
        """
        return await self._c2d.send(
            device_id, body, properties or {}, system_properties or {}, ack, expires_s
        )

    def complete_c2d(self, grant: Grant, lock: str) -> Coroutine[Any, Any, None]:
        """The device has the message, as of this call. A token that is not locked (any more) is let pass."""
        return self._c2d.settle(grant, lock, "Success")

    def reject_c2d(self, grant: Grant, lock: str) -> Coroutine[Any, Any, None]:
        """The device does not want the message, as of this call."""
        return self._c2d.settle(grant, lock, "Rejected")

    def abandon_c2d(self, grant: Grant, lock: str) -> Coroutine[Any, Any, None]:
        """Back to the queue, as of this call; too often is too often."""
        return self._c2d.abandon(grant, lock)

    def release_c2d(self, grant: Grant) -> None:
        """The device has stopped to listen: what it had not decided on waits again."""
        self._c2d.release(grant.identity)

    async def purge_c2d(self, device_id: str) -> int:
        """Empty the queue of a device and return how many messages that were.

        Raises:
            IotHubError: 404001 unknown.
        """
        return await self._c2d.purge(device_id)

    async def receive_feedback(self) -> FeedbackBatch | None:
        """Return what became of messages whose senders asked, None when there is nothing."""
        return await self._feedback.receive()

    async def next_feedback(self) -> FeedbackBatch:
        """Wait for a whole batch of feedback: 64 records, or what came within 15 s."""
        return await self._feedback.next()

    async def complete_feedback(self, lock: str) -> None:
        """The service has the records, or wants none of them.

        Raises:
            IotHubError: 412002 the lock is unknown or has run out.
        """
        await self._feedback.complete(lock)

    async def abandon_feedback(self, lock: str) -> None:
        """The service wants the records later; too often is too often. Raises as `complete_feedback`."""
        await self._feedback.abandon(lock)

    def release_feedback(self, lock: str) -> None:
        """The service is gone without a word on the records: others may have them at once."""
        self._feedback.release(lock)

    async def sweep(self) -> None:
        """Do what is due by the clock: expired messages, locks that ran out. Called each second."""
        await self._c2d.sweep()
        await self._feedback.sweep()

    # ---- what a protocol head keeps of a client, MQTT sessions for example

    async def load_session(self, identity: Identity) -> bytes | None:
        """Return what `save_session` kept."""
        return await self._db.run(lambda connection: identities.session_of(connection, identity))

    async def save_session(self, identity: Identity, record: bytes | None) -> None:
        """Keep `record` for the identity as long as it is registered; None forgets it."""
        await self._db.run(lambda connection: identities.save_session(connection, identity, record))

    # ---- registry

    async def find(self, identity: Identity) -> Registered:
        """Return a device or module.

        Raises:
            IotHubError: 404001 or 404010 unknown.
        """
        return await self._db.run(lambda connection: identities.get(connection, identity))

    async def put(
        self, identity: Identity, wanted: Mapping[str, Any], if_match: str | None = None
    ) -> Registered:
        """Create a device or module, or update it when `if_match` is given.

        Args:
            wanted: As in the body of REST: `authentication`, `status`, `capabilities`, `parentScopes`, ...;
                missing or empty keys of a new identity are generated.
            if_match: An etag or `*`, in quotes or not; None creates only.

        Raises:
            IotHubError: 400004, 400028 body; 403002, 413002, 413003 a limit; 404001, 404010 unknown;
                409001, 409301 exists already; 412001 another etag.
        """
        now_s = self.clock.now_s()
        change = await self._db.run(
            lambda connection: identities.put(connection, identity, wanted, if_match, now_s),
            lambda change: self._enforce([change]),
        )
        assert change.after is not None
        return change.after

    async def delete(self, identity: Identity, if_match: str | None = None) -> None:
        """Delete a device with its modules, or a module; twins, queue and connections go with it.

        Raises:
            IotHubError: 404001, 404010 unknown; 412001 another etag.
        """
        await self._db.run(
            lambda connection: identities.delete(connection, identity, if_match), self._enforce
        )

    def _enforce(self, changes: Sequence[Change]) -> None:
        """End the connections of those who may not be connected as they are."""
        for change in changes:
            if change.before is None or not change.cuts_off:
                continue
            identity = change.before.identity
            # A device that is disabled or has other keys speaks for its modules, a hub for its scope.
            whom = {identity: None}
            for connected in self._sessions.all():
                grant = connected.grant
                if any(_covers(identity, who) for who in (grant.identity, grant.speaker) if who is not None):
                    whom[grant.identity] = None
            for each in whom:
                self._sessions.cut_off(each, CutOff.REFUSED)
                self._c2d.release(each)
            if change.after is None:
                self._sessions.forget(identity)

    # ---- documents: enrollments of DPS, CAs of devices

    async def document(self, kind: str, key: str) -> Json | None:
        """Return the document that `save_document` kept, None when there is none."""
        return await self._db.run(lambda connection: documents.get(connection, kind, key))

    async def documents(self, kind: str) -> dict[str, Json]:
        """Return all documents of a kind by key, in order of their keys."""
        return await self._db.run(lambda connection: documents.all_of(connection, kind))

    async def save_document(self, kind: str, key: str, content: Mapping[str, Any] | None) -> None:
        """Keep a document (msgpack values); None deletes it. Kinds of DPS: `enrollment`, for example.

        The kind `AUTHORITY` is of CAs that devices' certificates may be of: `{"der": bytes}`.
        """

        def job(connection: sqlite3.Connection) -> None:
            if content is None:
                documents.delete(connection, kind, key)
            else:
                documents.save(connection, kind, key, content)

        await self._db.run(job)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except StoreError as exc:
                log.error("expired messages stay for now: %s", exc)


def _covers(identity: Identity, who: Identity) -> bool:
    """Whether somebody is this identity, or a module of this device."""
    return who == identity or (identity.module_id is None and who.device_id == identity.device_id)
