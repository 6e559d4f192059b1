"""Enrollments: which devices the provisioning service lets in, and as what. Plain values and rules, no I/O.

An individual enrollment is one device; a group is all devices whose key derives from the group's, or whose
certificate the group's authority issued. The shapes are those of the REST API of the Device Provisioning
Service, and documents on disk have them too.

Source: spec sheet security-daemon.md section 5.2; learn.microsoft.com: rest/api/iot-dps/service
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from messaging.errors import ConfigError
from messaging.identity import Identity
from messaging.text import quoted
from messaging.time_text import iso_utc
from messaging.twin import checked_patch
from runtime.iothub.refusals import argument_invalid

LONGEST_ID: Final = 128
SHORTEST_KEY_BYTES: Final = 16
LONGEST_KEY_BYTES: Final = 64
ALLOCATION_POLICIES: Final = ("hashed", "geoLatency", "static")  # one hub: all of them choose it

_ID = re.compile(r"[A-Za-z0-9\-._:]*[A-Za-z0-9\-]", re.ASCII)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)

Kind = Literal["enrollment", "enrollmentGroup"]


class SymmetricKeys(msgspec.Struct, rename="camel"):
    """The keys of an enrollment, base64; of a group those from which its devices' derive."""

    primary_key: str = ""
    secondary_key: str = ""

    def __repr__(self) -> str:
        return "SymmetricKeys(…)"


class CertificateText(msgspec.Struct, rename="camel"):
    """A certificate as PEM or base64 of DER."""

    certificate: str = ""


class CertificatePair(msgspec.Struct, rename="camel"):
    """Two certificates, so that one can be rolled."""

    primary: CertificateText | None = None
    secondary: CertificateText | None = None


class Certificates(msgspec.Struct, rename="camel"):
    """The device's own certificates, or those of the authority that signs them."""

    client_certificates: CertificatePair | None = None
    signing_certificates: CertificatePair | None = None


class Attestation(msgspec.Struct, rename="camel", omit_defaults=True):
    """How a device proves that it is meant."""

    type: str
    symmetric_key: SymmetricKeys | None = None
    x509: Certificates | None = None


class Capabilities(msgspec.Struct, rename="camel"):
    """What the registered device will be."""

    iot_edge: bool = False


class ReprovisionPolicy(msgspec.Struct, rename="camel"):
    """What happens to a device that registers again."""

    update_hub_assignment: bool = True
    migrate_device_data: bool = True


class Enrollment(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """An individual enrollment (`registration_id`) or a group (`enrollment_group_id`)."""

    attestation: Attestation
    registration_id: str = ""
    enrollment_group_id: str = ""
    device_id: str = ""
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
    initial_twin: dict[str, Any] | None = None
    provisioning_status: str = "enabled"
    reprovision_policy: ReprovisionPolicy = msgspec.field(default_factory=ReprovisionPolicy)
    allocation_policy: str = "hashed"
    iot_hub_host_name: str = ""
    iot_hubs: list[str] = []
    etag: str = ""
    created_date_time_utc: str = ""
    last_updated_date_time_utc: str = ""

    @property
    def kind(self) -> Kind:
        return "enrollmentGroup" if self.enrollment_group_id else "enrollment"

    @property
    def id(self) -> str:
        return self.enrollment_group_id or self.registration_id

    @property
    def is_enabled(self) -> bool:
        return self.provisioning_status == "enabled"

    def certificates_der(self) -> list[bytes]:
        """Return the certificates of an X.509 enrollment: primary, secondary."""
        x509 = self.attestation.x509
        if x509 is None:
            return []
        pair = x509.signing_certificates if self.enrollment_group_id else x509.client_certificates
        return [der_of(text.certificate) for text in (pair.primary, pair.secondary) if text] if pair else []

    def keys_for(self, registration_id: str) -> tuple[str, str]:
        """Return both keys with which this device signs, base64: the enrollment's, or derived from a group's.

        Source: spec sheet security-daemon.md section 5.2
        """
        keys = self.attestation.symmetric_key
        assert keys is not None, "asked of enrollments with symmetric keys alone"
        if not self.enrollment_group_id:
            return keys.primary_key, keys.secondary_key
        return derived_key(keys.primary_key, registration_id), derived_key(
            keys.secondary_key, registration_id
        )


def derived_key(group_key: str, registration_id: str) -> str:
    """Return the key of a device of a group; both are base64. The case of the registration id is ignored."""
    key = base64.b64decode(group_key)
    return base64.b64encode(hmac.digest(key, registration_id.lower().encode(), hashlib.sha256)).decode()


def wanted_enrollment(
    kind: Kind, enrollment_id: str, body: object, before: Enrollment | None, host_name: str, now_s: float
) -> Enrollment:
    """Return the enrollment that a PUT asks for; symmetric keys that it lacks stay or are generated.

    Args:
        body: The JSON of the request.
        before: The enrollment that there is by this id.
        host_name: Of the one hub there is.

    Raises:
        IotHubError: 400 with what is wrong.
    """
    check_id(enrollment_id)
    wanted = _converted(body)
    member = "registrationId" if kind == "enrollment" else "enrollmentGroupId"
    named = wanted.registration_id if kind == "enrollment" else wanted.enrollment_group_id
    other = wanted.enrollment_group_id if kind == "enrollment" else wanted.registration_id
    if other or named not in ("", enrollment_id):
        raise argument_invalid(f"{member} in the body is not {quoted(enrollment_id)} as in the path")
    wanted.registration_id = enrollment_id if kind == "enrollment" else ""
    wanted.enrollment_group_id = enrollment_id if kind == "enrollmentGroup" else ""
    _check_members(wanted, host_name)
    _complete_attestation(wanted, before)
    wanted.iot_hub_host_name = host_name
    wanted.iot_hubs = []
    wanted.etag = f'"{secrets.token_hex(8)}"'
    now = iso_utc(now_s)
    wanted.created_date_time_utc = before.created_date_time_utc if before else now
    wanted.last_updated_date_time_utc = now
    return wanted


def from_document(document: Mapping[str, Any]) -> Enrollment:
    """Return the enrollment that `to_document` made this of."""
    return msgspec.convert(document, Enrollment)


def to_document(enrollment: Enrollment) -> dict[str, Any]:
    """Return an enrollment as it is kept: with its keys."""
    document: dict[str, Any] = msgspec.to_builtins(enrollment)
    return document


def shown(enrollment: Enrollment) -> dict[str, Any]:
    """Return an enrollment as REST shows it: without its keys, which have a request of their own."""
    document = to_document(enrollment)
    document["attestation"].pop("symmetricKey", None)
    document.setdefault("provisioningStatus", "enabled")
    document.setdefault("allocationPolicy", "hashed")
    document.setdefault("capabilities", {"iotEdge": enrollment.capabilities.iot_edge})
    document.setdefault("reprovisionPolicy", msgspec.to_builtins(enrollment.reprovision_policy))
    return document


def check_id(text: str) -> None:
    """Return when `text` may be a registration or group id.

    Raises:
        IotHubError: 400 it may not.
    """
    if len(text) > LONGEST_ID or not _ID.fullmatch(text):
        raise argument_invalid(
            f"{quoted(text)} is no registration id: 1 to {LONGEST_ID} letters, digits and - . _ :, "
            "with a letter, a digit or - at the end"
        )


def der_of(text: str) -> bytes:
    """Return the first certificate of a PEM text, or one that is base64 alone.

    Raises:
        IotHubError: 400 it is neither.
    """
    found = _PEM.search(text)
    try:
        return base64.b64decode("".join((found[1] if found else text).split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise argument_invalid("a certificate is neither PEM nor base64 of DER") from exc


def _converted(body: object) -> Enrollment:
    try:
        return msgspec.convert(body, Enrollment)
    except msgspec.ValidationError as exc:  # names member and type, never the value
        raise argument_invalid(f"the enrollment is not what is expected: {exc}") from exc


def _check_members(wanted: Enrollment, host_name: str) -> None:
    if wanted.provisioning_status not in ("enabled", "disabled"):
        raise argument_invalid(
            f"provisioningStatus {quoted(wanted.provisioning_status)} is neither enabled nor disabled"
        )
    if wanted.allocation_policy not in ALLOCATION_POLICIES:
        raise argument_invalid(
            f"allocationPolicy {quoted(wanted.allocation_policy)} is none of {', '.join(ALLOCATION_POLICIES)}"
        )
    for hub in (wanted.iot_hub_host_name, *wanted.iot_hubs):
        if hub and hub.lower() != host_name.lower():
            raise argument_invalid(f"IoT Hub {quoted(hub)} is not linked; there is one, '{host_name}'")
    if wanted.device_id:
        if wanted.enrollment_group_id:
            raise argument_invalid("a group has no deviceId: its devices are called as they register")
        try:
            Identity(wanted.device_id)
        except ConfigError as exc:
            raise argument_invalid(str(exc)) from exc
    twin = wanted.initial_twin
    if twin is None:
        return
    properties = twin.get("properties", {})
    if (
        not isinstance(properties, dict)
        or set(properties) - {"desired"}
        or set(twin) - {"tags", "properties"}
    ):
        raise argument_invalid("initialTwin has other members than tags and properties.desired")
    checked_patch("tags", twin.get("tags") or {})
    checked_patch("desired", properties.get("desired") or {})


def _complete_attestation(wanted: Enrollment, before: Enrollment | None) -> None:
    attestation = wanted.attestation
    if attestation.type == "symmetricKey":
        attestation.x509 = None
        old = before.attestation.symmetric_key if before else None
        sent = attestation.symmetric_key or SymmetricKeys()
        attestation.symmetric_key = SymmetricKeys(
            _key(sent.primary_key, old.primary_key if old else ""),
            _key(sent.secondary_key, old.secondary_key if old else ""),
        )
    elif attestation.type == "x509":
        attestation.symmetric_key = None
        if not wanted.certificates_der():
            member = "signingCertificates" if wanted.enrollment_group_id else "clientCertificates"
            raise argument_invalid(f"attestation.x509.{member}.primary.certificate is missing")
    else:
        raise argument_invalid(
            f"attestation.type {quoted(attestation.type)} is not supported; there are symmetricKey and x509"
        )


def _key(sent: str, before: str) -> str:
    if not sent:
        return before or base64.b64encode(secrets.token_bytes(LONGEST_KEY_BYTES)).decode()
    try:
        length = len(base64.b64decode(sent, validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not SHORTEST_KEY_BYTES <= length <= LONGEST_KEY_BYTES:
        raise argument_invalid(
            f"a symmetric key is not base64 of {SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes"
        )
    return sent
