"""Who this edge is in the cloud: which device of which IoT Hub, and with what key.

That comes from a connection string or from the Device Provisioning Service, and is kept in the home, so that
a start without either, offline for example, is that device again. The service is asked when its settings
changed, or when the IoT Hub refuses the device; otherwise what it said last counts.

Source: spec sheet security-daemon.md sections 5.1 and 5.3
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from messaging.connection_string import ConnectionString
from messaging.envelope import Secret
from messaging.errors import ConfigError, EnvironmentFault
from messaging.text import quoted
from runtime.config.device_credentials import Enrollment, IdentityFiles
from runtime.config.device_file import kept_device_id
from runtime.config.link_settings import read_key, registration_id
from runtime.config.settings import LOCAL_HUB, Settings, about, origin_of
from runtime.home import Home
from runtime.security.secret_files import NamedFile, cannot_read
from runtime.security.trust_bundle import certificates_in, pem
from runtime.storage.atomic_file import make_private_folder, write_private_file

log = logging.getLogger(__name__)


class Provisioned(Struct, frozen=True):
    """A device of an IoT Hub."""

    host_name: str  # of the IoT Hub
    device_id: str
    device_key: Secret  # base64; empty for a device that has a certificate
    https_port: int = 443
    ca_pem: str = ""  # trusted for the cloud besides the system's own authorities
    enrollment: str = ""  # by which registration the provisioning service said so; "": a connection string
    identity: IdentityFiles | None = None  # by which the device proves itself, instead of a key


class _File(msgspec.Struct, frozen=True, rename="camel"):
    version: int
    host_name: str
    device_id: str
    device_key: str
    https_port: int = 443
    ca_pem: str = ""
    enrollment: str = ""
    identity_cert: str = ""
    identity_pk: str = ""


Register = Callable[[Enrollment, str], tuple[str, str]]  # what to trust → host name and device id


def provision(settings: Settings, register: Register | None = None) -> tuple[Settings, Provisioned | None]:
    """Return as which device this edge runs, and the settings with its id and its IoT Hub.

    Writes nothing; `remember` does. Asks the provisioning service only when nothing it said is kept.

    Args:
        register: Asks the provisioning service; `runtime.upstream.dps_client.register` by default.

    Raises:
        ConfigError: something that was given cannot be used, or is of another device than the home is.
        EnvironmentFault: the provisioning service is needed and does not answer.
    """
    kept = load(Home(settings.home))
    trusted = _cloud_ca(settings)
    given = settings.connection_string
    if given is not None:
        found = structs.replace(
            from_connection_string(given, settings.cloud_https_port, trusted),
            identity=_identity(settings, kept),
        )
    elif settings.dps_id_scope:
        found = _assigned(settings, trusted, kept, register)
    elif kept is not None:
        if kept.identity is not None:
            origin = str(Home(settings.home).provisioned)
            _check_identity(kept.identity, origin, origin, is_known=True)
        found = structs.replace(
            kept,
            https_port=kept.https_port if settings.cloud_https_port == 443 else settings.cloud_https_port,
            ca_pem=trusted or kept.ca_pem,
        )
    else:
        return settings, None
    return linked(settings, found), found


def from_connection_string(parts: ConnectionString, https_port: int = 443, ca_pem: str = "") -> Provisioned:
    """Return the device that a connection string is of."""
    key = Secret(parts.shared_access_key.encode())
    return Provisioned(parts.host_name, parts.identity.device_id, key, https_port, ca_pem)


def linked(settings: Settings, found: Provisioned) -> Settings:
    """Return the settings of an edge that is this device.

    Raises:
        ConfigError: the home, or what was set, is of another one.
    """
    owner = kept_device_id(settings.home)
    if owner is not None and owner != found.device_id:
        raise ConfigError(
            f"this edge is to be device {found.device_id!r} of {found.host_name}, but the home "
            f"{settings.home} belongs to device {owner!r}; choose another --home, or remove this one with "
            "`edge-actors down --purge`"
        )
    wanted = settings.iothub_hostname
    if wanted not in (LOCAL_HUB, found.host_name):
        raise ConfigError(
            f"{origin_of(settings, 'iothub_hostname')}: {wanted!r} is not allowed; this edge is linked to "
            f"{found.host_name!r}: leave it out, or give the connection string of the device there"
        )
    return replace(
        settings,
        device_id=found.device_id,
        iothub_hostname=found.host_name,
        cloud_https_port=found.https_port,
    )


def load(home: Home) -> Provisioned | None:
    """Return what the last run was, None when it had no cloud.

    Raises:
        ConfigError: the file cannot be read, is damaged, or of a newer version.
    """
    path = home.provisioned
    repair = "give the connection string once more, and remove that file"
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot be read: {exc.strerror}; repair the owner and mode of the file"
        ) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: damaged; {repair}") from exc
    if file.version != 1:
        raise ConfigError(f"{path}: of a newer version of edge-actors; upgrade, or {repair}")
    key = Secret(file.device_key.encode())
    identity = IdentityFiles(Path(file.identity_cert), Path(file.identity_pk)) if file.identity_cert else None
    return Provisioned(
        file.host_name, file.device_id, key, file.https_port, file.ca_pem, file.enrollment, identity
    )


def remember(home: Home, found: Provisioned | None, same_hub: bool = False) -> None:
    """Keep it for the next start, and say what is different from the last one.

    The home is there, and locked by the caller. `same_hub`: another name is only that of the same IoT Hub.

    Raises:
        EnvironmentFault: the home cannot be written.
    """
    before = load(home)
    if found is None:
        return
    _keep_ca(home, found.ca_pem)
    if found == before:
        return
    if before is None:
        log.info("this edge is device '%s' of %s from now on", found.device_id, found.host_name)
    elif before.host_name.lower() != found.host_name.lower() and not same_hub:
        log.warning(
            "this edge was a device of %s and is one of %s from now on; messages that still wait go there, "
            "and devices that the other one knew are known no more",
            before.host_name,
            found.host_name,
        )
        home.scope.unlink(missing_ok=True)
    elif before.device_key != found.device_key:
        log.info("device '%s' has a new key for %s", found.device_id, found.host_name)
    write_private_file(home.provisioned, _encode(found))


def _keep_ca(home: Home, ca_pem: str) -> None:
    """Have what the cloud is trusted by in a file of its own, for the hub."""
    if not ca_pem:
        home.cloud_ca.unlink(missing_ok=True)
    elif not home.cloud_ca.exists() or home.cloud_ca.read_bytes() != ca_pem.encode():
        make_private_folder(home.certificates)
        write_private_file(home.cloud_ca, ca_pem.encode())


def check_given(settings: Settings) -> None:
    """Read and check what says which device this is, as a first start does, but ask nobody.

    Raises:
        ConfigError: something of it cannot be used.
    """
    if settings.dps_id_scope:
        _given_enrollment(settings, None)
    else:
        _identity(settings, None)


def enrollment_of(settings: Settings, found: Provisioned | None) -> Enrollment | None:
    """Return as whom to ask the provisioning service again, None for an edge that it does not know."""
    if found is None or not found.enrollment or not settings.dps_id_scope:
        return None
    return _given_enrollment(settings, found, found.device_key.reveal().decode())


def _given_enrollment(settings: Settings, kept: Provisioned | None, key: str = "") -> Enrollment:
    """Return as whom to ask; `key` when its file has been read before, standard input perhaps."""
    host, port = settings.dps_endpoint
    files, registration_id = None, settings.dps_registration_id
    if settings.identity_cert is not None:
        files = _identity(settings, kept)
        registration_id = registration_id or _registration_id(settings)
    elif not key:
        path = settings.dps_key_file
        key = settings.dps_key or (read_key(path, origin_of(settings, "dps_key_file")) if path else "")
    return Enrollment(host, port, settings.dps_id_scope, registration_id, key, files, _payload(settings))


def _identity(settings: Settings, kept: Provisioned | None) -> IdentityFiles | None:
    """Return the certificate of this device, checked; None for a device with a key."""
    if settings.identity_cert is None or settings.identity_pk is None:
        return None
    files = IdentityFiles(settings.identity_cert, settings.identity_pk)
    origins = origin_of(settings, "identity_cert"), origin_of(settings, "identity_pk")
    _check_identity(files, *origins, is_known=kept is not None)
    return files


def _check_identity(files: IdentityFiles, origin: str, key_origin: str, is_known: bool) -> None:
    """Check the certificate of this device: an edge that has been one before does its work without, too."""
    from runtime.security.certificate_files import load_pair  # heavy

    try:
        load_pair(NamedFile(files.cert, origin), NamedFile(files.key, key_origin), time.time())
    except ConfigError as exc:
        if not is_known:
            raise
        log.error("%s; until then the IoT Hub is told of no new modules", exc)


def _registration_id(settings: Settings) -> str:
    """Return the common name of the device's certificate. Source: security-daemon.md section 5.1"""
    from runtime.security.certificate_files import load_certificates
    from runtime.security.client_certificates import common_name

    assert settings.identity_cert is not None
    origin = origin_of(settings, "identity_cert")
    name = common_name(load_certificates(NamedFile(settings.identity_cert, origin))[0])
    try:
        return registration_id(name)
    except ValueError as exc:
        raise ConfigError(
            f"{origin}: the common name {quoted(name)} of the certificate is no registration id ({exc}); "
            f"give one with {about('dps_registration_id').keys[0]}"
        ) from exc


def _payload(settings: Settings) -> str:
    path = settings.dps_payload_file
    if path is None:
        return ""
    origin = origin_of(settings, "dps_payload_file")
    try:
        text = path.read_text("utf-8")
        json.loads(text)
    except OSError as exc:
        raise ConfigError(cannot_read(path, origin, exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{origin}: '{path}' is no JSON, and nothing else is taken") from exc
    return text


def _assigned(
    settings: Settings, trusted: str, kept: Provisioned | None, register: Register | None
) -> Provisioned:
    enrollment = _given_enrollment(settings, kept)
    mark = _mark(enrollment)
    known = None
    if kept is not None and hmac.compare_digest(kept.enrollment, mark):
        known = structs.replace(
            kept, https_port=settings.cloud_https_port, ca_pem=trusted, identity=enrollment.files
        )
        if settings.auto_reprovisioning_mode != "AlwaysOnStartup":
            return known
    if register is None:
        from runtime.upstream import dps_client

        register = dps_client.register
    try:
        host_name, device_id = register(enrollment, trusted)
    except EnvironmentFault as exc:
        if known is None:
            raise
        log.warning("%s; what it said last counts", exc)
        return known
    log.debug(
        "the provisioning service %s assigned registration %s to %s as device %s",
        enrollment.host,
        quoted(enrollment.registration_id),
        quoted(host_name),
        quoted(device_id),
    )
    key = Secret(enrollment.key.encode())
    return Provisioned(host_name, device_id, key, settings.cloud_https_port, trusted, mark, enrollment.files)


def _mark(enrollment: Enrollment) -> str:
    """Return what tells one registration from another without saying its key."""
    parts = f"{enrollment.host}:{enrollment.port}\n{enrollment.id_scope}\n{enrollment.registration_id}"
    if enrollment.files is not None:  # which certificate is of no matter: they are renewed
        parts += "\nx509"
    if enrollment.payload:
        parts += f"\n{enrollment.payload}"
    return hmac.digest(enrollment.key.encode(), parts.encode(), hashlib.sha256).hex()


def _cloud_ca(settings: Settings) -> str:
    path: Path | None = settings.cloud_ca
    return "" if path is None else pem(certificates_in(path, origin_of(settings, "cloud_ca")))


def _encode(found: Provisioned) -> bytes:
    return msgspec.json.format(
        msgspec.json.encode(
            _File(
                1,
                found.host_name,
                found.device_id,
                found.device_key.reveal().decode(),
                found.https_port,
                found.ca_pem,
                found.enrollment,
                "" if found.identity is None else str(found.identity.cert),
                "" if found.identity is None else str(found.identity.key),
            )
        ),
        indent=1,
    )
