"""The provisioning service (DPS) behind its protocols: lets devices in by enrollment and registers them here.

There is one hub, this one, so every allocation policy chooses it. What is answered is on disk.

Source: spec sheet security-daemon.md sections 5.2 and 5.3; learn.microsoft.com: azure/iot-dps,
concepts-service and concepts-device-reprovision
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from messaging import sas
from messaging.clock import Clock
from messaging.errors import AuthError, IotHubError
from messaging.identity import Identity
from messaging.text import quoted
from messaging.time_text import iso_utc
from runtime.iothub import enrollments, refusals
from runtime.iothub.enrollments import Enrollment, Kind
from runtime.iothub.hub import IotHub

log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 1  # what a client is told to wait before it asks how its registration went
SCOPE_PREFIX: Final = "0ne"  # of every id scope
REGISTRATION: Final = "registration"
SETTINGS: Final = "provisioning"
OWES_TWIN: Final = "owesTwin"  # in a record: the device has not got its initial twin yet
_INTERNAL = ("enrollment", "operationId", OWES_TWIN)  # of a record, not shown

Json = dict[str, Any]


class Registrant(Struct, frozen=True):
    """A device that has proven that an enrollment means it."""

    registration_id: str
    enrollment: Enrollment
    certificate: bytes | None  # DER, when that was the proof


class Provisioning:
    """One provisioning service in front of one hub. `await Provisioning.open(...)`; belongs to its loop."""

    def __init__(self, hub: IotHub, host_name: str, clock: Clock, id_scope: str) -> None:
        self.id_scope = id_scope
        self._hub = hub
        self._host_name = host_name
        self._clock = clock
        self._enrollments: dict[Kind, dict[str, Enrollment]] = {"enrollment": {}, "enrollmentGroup": {}}
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def open(cls, hub: IotHub, host_name: str, clock: Clock) -> Provisioning:
        """Load what the hub's database keeps; the first time an id scope is made.

        Raises:
            StoreError: the database cannot.
        """
        settings = await hub.document(SETTINGS, "idScope")
        if settings is None:
            settings = {"idScope": f"{SCOPE_PREFIX}{secrets.randbelow(16**8):08X}"}
            await hub.save_document(SETTINGS, "idScope", settings)
        service = cls(hub, host_name, clock, settings["idScope"])
        for kind, found in service._enrollments.items():
            documents = await hub.documents(kind)
            found.update((key, enrollments.from_document(kept)) for key, kept in documents.items())
        return service

    # ---- devices

    def authenticate(
        self, id_scope: str, registration_id: str, token: str | None, chain: Sequence[bytes]
    ) -> Registrant:
        """Return who registers. A token counts before certificates if there are both.

        An individual enrollment counts alone, also a disabled one; groups are for everybody else.

        Args:
            token: A shared access signature as sent, None or '' for none.
            chain: The certificates that the client showed, DER, its own first.

        Raises:
            IotHubError: 400 the registration id, 401002 no proof or a wrong one, 404 scope or enrollment.
        """
        if id_scope != self.id_scope:
            raise IotHubError(
                404001,
                "ServiceNotFound",
                f"there is no provisioning service with the id scope {quoted(id_scope)}",
            )
        enrollments.check_id(registration_id)
        own = self._enrollments["enrollment"].get(registration_id.lower())
        candidates = [own] if own else list(self._enrollments["enrollmentGroup"].values())
        wanted = "symmetricKey" if token else "x509"
        fitting = [one for one in candidates if one.attestation.type == wanted]
        if not candidates:
            raise _no_enrollment(registration_id)
        if not token and not chain:
            raise _unauthorized(f"'{registration_id}' has sent neither a token nor a certificate")
        if not fitting:
            kind = "a token" if token else "a certificate"
            raise _unauthorized(f"no enrollment lets '{registration_id}' in with {kind}")
        try:
            if token:
                return self._by_token(registration_id, token, fitting)
            return self._by_certificate(registration_id, chain, fitting)
        except AuthError as exc:
            raise _unauthorized(str(exc)) from exc

    async def register(self, registrant: Registrant) -> Json:
        """Register a device and return the operation, which is still to be asked how it went.

        Raises:
            StoreError: the database could not.
        """
        async with self._one_at_a_time:
            operation_id = f"4.{secrets.token_hex(8)}.{_uuid()}"
            key = registrant.registration_id.lower()
            before = await self._hub.document(REGISTRATION, key)
            record = await self._begun(registrant, before, operation_id)
            # First, so that a device whose registration is cut short still gets its initial twin.
            await self._hub.save_document(REGISTRATION, key, record)
            try:
                if registrant.enrollment.is_enabled:
                    await self._assign(registrant, record)
                else:
                    what = "enrollment group" if registrant.enrollment.enrollment_group_id else "enrollment"
                    record |= {
                        "status": "disabled",
                        "errorCode": 401002,
                        "errorMessage": f"{what} '{registrant.enrollment.id}' is disabled",
                    }
            except IotHubError as exc:
                record |= {"status": "failed", "errorCode": exc.code, "errorMessage": str(exc)}
            await self._hub.save_document(REGISTRATION, key, record)
        told = record.get("errorMessage") or f"device '{record['deviceId']}' {record.get('substatus', '')}"
        log.info("registration of '%s': %s: %s", registrant.registration_id, record["status"], told)
        return {"operationId": operation_id, "status": "assigning"}

    async def operation(self, registrant: Registrant, operation_id: str) -> Json:
        """Return how a registration went.

        Raises:
            IotHubError: 404202 there is no such operation.
        """
        record = await self._hub.document(REGISTRATION, registrant.registration_id.lower())
        if record is None or record["operationId"] != operation_id:
            raise IotHubError(
                404202, "OperationNotFound", f"'{registrant.registration_id}' has no operation with this id"
            )
        return {
            "operationId": operation_id,
            "status": record["status"],
            "registrationState": _state(record),
        }

    # ---- services

    def list(self, kind: Kind) -> list[Enrollment]:
        """Return all enrollments of a kind, in order of their ids."""
        return [found for _, found in sorted(self._enrollments[kind].items())]

    def get(self, kind: Kind, enrollment_id: str) -> Enrollment:
        """Return an enrollment with its keys.

        Raises:
            IotHubError: 404201 there is none.
        """
        found = self._enrollments[kind].get(enrollment_id.lower())
        if found is None:
            raise _unknown(kind, enrollment_id)
        return found

    async def put(self, kind: Kind, enrollment_id: str, body: object, if_match: str | None) -> Enrollment:
        """Create an enrollment, or change one when `if_match` is its etag or `*`.

        Raises:
            IotHubError: 400 body; 404201 unknown; 409201 there is one; 412001 another etag.
        """
        before = self._enrollments[kind].get(enrollment_id.lower())
        if before is not None and if_match is None:
            raise IotHubError(
                409201, "EnrollmentAlreadyExists", f"{_called(kind)} '{before.id}' exists already"
            )
        if before is None and if_match not in (None, "*", '"*"'):
            raise _unknown(kind, enrollment_id)
        if before is not None:
            _check_etag(kind, before, if_match)
        wanted = enrollments.wanted_enrollment(
            kind, enrollment_id, body, before, self._host_name, self._clock.now_s()
        )
        if wanted.attestation.type == "x509":
            _check_certificates(wanted)
        await self._hub.save_document(kind, enrollment_id.lower(), enrollments.to_document(wanted))
        self._enrollments[kind][enrollment_id.lower()] = wanted
        return wanted

    async def delete(self, kind: Kind, enrollment_id: str, if_match: str | None) -> None:
        """Delete an enrollment and the records of what registered by it. The devices stay in the hub.

        Raises:
            IotHubError: 404201 unknown; 412001 another etag.
        """
        key = enrollment_id.lower()
        _check_etag(kind, self.get(kind, enrollment_id), if_match)
        # Records first: after a crash in between the enrollment is still there to be deleted.
        for name, record in (await self._hub.documents(REGISTRATION)).items():
            if record["enrollment"] == [kind, key]:
                await self._hub.save_document(REGISTRATION, name, None)
        await self._hub.save_document(kind, key, None)
        self._enrollments[kind].pop(key, None)

    async def registration(self, registration_id: str) -> Json:
        """Return how the last registration of a device went.

        Raises:
            IotHubError: 404202 it has never registered.
        """
        record = await self._hub.document(REGISTRATION, registration_id.lower())
        if record is None:
            raise _never_registered(registration_id)
        return _state(record)

    async def delete_registration(self, registration_id: str) -> None:
        """Forget that a device has registered; the next time counts as its first.

        Raises:
            IotHubError: 404202 it has never registered.
        """
        await self.registration(registration_id)
        await self._hub.save_document(REGISTRATION, registration_id.lower(), None)

    # ---- inside

    def _by_token(self, registration_id: str, text: str, fitting: Sequence[Enrollment]) -> Registrant:
        token = sas.parse_token(text)
        failure = AuthError(f"no enrollment lets '{registration_id}' in")
        for enrollment in fitting:
            keys = [sas.decode_key(key) for key in enrollment.keys_for(registration_id)]
            try:
                sas.check_resource(
                    token,
                    keys,
                    registration_id,
                    f"/registrations/{registration_id}",
                    [self.id_scope],
                    self._clock.now_s(),
                )
            except AuthError as exc:
                failure = exc
            else:
                return Registrant(registration_id, enrollment, None)
        raise failure

    def _by_certificate(
        self, registration_id: str, chain: Sequence[bytes], fitting: Sequence[Enrollment]
    ) -> Registrant:
        from runtime.iothub import device_certificates  # heavy

        failure = AuthError(f"no enrollment lets '{registration_id}' in")
        for enrollment in fitting:
            try:
                device_certificates.check_device(
                    registration_id,
                    chain,
                    enrollment.certificates_der(),
                    bool(enrollment.enrollment_group_id),
                    self._clock.now_s(),
                )
            except AuthError as exc:
                failure = exc
            else:
                return Registrant(registration_id, enrollment, chain[0])
        raise failure

    async def _begun(
        self, registrant: Registrant, before: Mapping[str, Any] | None, operation_id: str
    ) -> Json:
        """Return the record of a registration that begins; what an earlier one left undone is in it."""
        enrollment = registrant.enrollment
        device_id = enrollment.device_id or registrant.registration_id
        exists = await self._is_registered(Identity(device_id))
        again = exists and before is not None and "assignedHub" in before and before["deviceId"] == device_id
        now = iso_utc(self._clock.now_s())
        record = {
            "registrationId": registrant.registration_id,
            "enrollment": [enrollment.kind, enrollment.id.lower()],
            "operationId": operation_id,
            "status": "assigning",
            "deviceId": device_id,
            "createdDateTimeUtc": before["createdDateTimeUtc"] if before else now,
            "lastUpdatedDateTimeUtc": now,
            "etag": f'"{secrets.token_hex(8)}"',
            OWES_TWIN: not exists or bool(before and before[OWES_TWIN]),
        }
        if again and before is not None:
            record |= {name: before[name] for name in ("assignedHub", "substatus")}
        return record

    async def _assign(self, registrant: Registrant, record: Json) -> None:
        """Make or update the device; what came of it goes into `record`."""
        policy = registrant.enrollment.reprovision_policy
        identity = Identity(record["deviceId"])
        again = "assignedHub" in record
        if again and not policy.update_hub_assignment:
            record["status"] = "assigned"
            return
        exists = await self._is_registered(identity)
        await self._hub.put(identity, _wanted(registrant), if_match="*" if exists else None)
        substatus = "initialAssignment"
        if again:
            substatus = "deviceDataMigrated" if policy.migrate_device_data else "deviceDataReset"
        if record[OWES_TWIN] or substatus == "deviceDataReset":
            twin = registrant.enrollment.initial_twin or {}
            desired = twin.get("properties", {}).get("desired") or {}
            if twin or substatus == "deviceDataReset":
                whole = {"tags": twin.get("tags") or {}, "properties": {"desired": desired}}
                await self._hub.replace_twin(identity, whole)
        record |= {
            "status": "assigned",
            "substatus": substatus,
            "assignedHub": self._host_name,
            OWES_TWIN: False,
        }

    async def _is_registered(self, identity: Identity) -> bool:
        try:
            await self._hub.find(identity)
        except IotHubError as exc:
            if exc.status != 404:
                raise
            return False
        return True


def _wanted(registrant: Registrant) -> Json:
    """Return the device as the registry is to have it: its proof here is its proof there."""
    enrollment = registrant.enrollment
    wanted: Json = {"capabilities": {"iotEdge": True}} if enrollment.capabilities.iot_edge else {}
    if registrant.certificate is None:
        primary, secondary = enrollment.keys_for(registrant.registration_id)
        keys = {"primaryKey": primary, "secondaryKey": secondary}
        return wanted | {"authentication": {"type": "sas", "symmetricKey": keys}}
    from runtime.iothub.device_certificates import thumbprint

    prints = {"primaryThumbprint": thumbprint(registrant.certificate)}
    if not enrollment.enrollment_group_id:
        others = [der for der in enrollment.certificates_der() if der != registrant.certificate]
        if others:  # the one to which the device may roll, or from which it came
            prints["secondaryThumbprint"] = thumbprint(others[0])
    return wanted | {"authentication": {"type": "selfSigned", "x509Thumbprint": prints}}


def _state(record: Mapping[str, Any]) -> Json:
    """Return a record as devices and services are shown it."""
    return {name: value for name, value in record.items() if name not in _INTERNAL}


def _check_certificates(enrollment: Enrollment) -> None:
    from runtime.iothub import device_certificates  # heavy

    for der in enrollment.certificates_der():
        try:
            name = device_certificates.check_readable(der, bool(enrollment.enrollment_group_id))
        except ValueError as exc:
            raise refusals.argument_invalid(
                f"a certificate of '{enrollment.id}' is not usable: {exc}"
            ) from exc
        if enrollment.registration_id and name.lower() != enrollment.registration_id.lower():
            raise refusals.argument_invalid(
                f"the certificate's common name is {quoted(name)}, the registration id "
                f"'{enrollment.registration_id}'; they have to be the same"
            )


def _check_etag(kind: Kind, enrollment: Enrollment, if_match: str | None) -> None:
    if if_match is not None and if_match.strip('"') not in ("*", enrollment.etag.strip('"')):
        raise refusals.precondition_failed(f"{_called(kind)} '{enrollment.id}'", enrollment.etag)


def _called(kind: Kind) -> str:
    return "enrollment" if kind == "enrollment" else "enrollment group"


def _unknown(kind: Kind, enrollment_id: str) -> IotHubError:
    return IotHubError(404201, "EnrollmentNotFound", f"there is no {_called(kind)} {quoted(enrollment_id)}")


def _no_enrollment(registration_id: str) -> IotHubError:
    return IotHubError(
        404201, "EnrollmentNotFound", f"no enrollment or enrollment group lets '{registration_id}' in"
    )


def _never_registered(registration_id: str) -> IotHubError:
    return IotHubError(
        404202, "RegistrationNotFound", f"{quoted(registration_id)} has not registered by any enrollment"
    )


def _unauthorized(message: str) -> IotHubError:
    return IotHubError(401002, "Unauthorized", message)


def _uuid() -> str:
    text = secrets.token_hex(16)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
