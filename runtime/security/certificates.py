"""The edge CA and the hub's server certificate: kept on disk, checked cheaply, issued anew when due.

Each is ONE file that holds the private key and then the certificates, so a single rename replaces key and
certificate together and a power cut cannot leave a pair that does not match. `ssl.SSLContext.load_cert_chain`
reads such a file as it is. Beside it lies a summary (dates, names, hash of the file), so that most starts do
not load the `cryptography` package. The summary is a cache: when it is missing, damaged or of another file,
the file itself is inspected.

Source: spec sheet security-daemon.md sections 3.1, 3.3 and 3.5
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from messaging.errors import ConfigError, EnvironmentFault
from runtime.security.renewal import DEFAULT_THRESHOLD, Threshold
from runtime.storage.atomic_file import make_private_folder, write_private_file

log = logging.getLogger(__name__)

CA_FILE = "edge-ca.pem"
SERVER_FILE = "hub-server.pem"
CA_VALID_DAYS = 90
LEAF_VALID_DAYS = 30
BACKDATED_S = 86_400  # clocks on a site differ

_SUMMARY_VERSION = 2
_CERTIFICATE_MARK = b"-----BEGIN CERTIFICATE-----"


class EdgeCa(Struct, frozen=True):
    """The certificate authority of this edge. Its private key stays in the file at `path`."""

    path: Path
    certificate_pem: str  # then those above it, as far as the file has them
    not_before_s: int
    not_after_s: int
    threshold: Threshold = DEFAULT_THRESHOLD
    key_path: Path | None = None  # None: in the same file
    permitted: tuple[tuple[str, ...], ...] = ()  # the names it may sign for, of each that is limited

    @property
    def renew_at_s(self) -> float:
        """When to call `ensure_edge_ca` again, in seconds since 1970-01-01 UTC."""
        return self.threshold.time_s(self.not_before_s, self.not_after_s)


class CaPlan(Struct, frozen=True):
    """How an edge makes its CA."""

    common_name: str = ""  # "": of the device
    valid_days: int = CA_VALID_DAYS
    threshold: Threshold = DEFAULT_THRESHOLD
    rotates_key: bool = True


class ServerCertificate(Struct, frozen=True):
    """What the hub shows its clients. The file at `path` holds key, leaf and edge CA, as `ssl` loads them."""

    path: Path
    chain_pem: str
    names: tuple[str, ...]
    not_before_s: int
    not_after_s: int

    @property
    def renew_at_s(self) -> float:
        """When to call `ensure_server_certificate` again, in seconds since 1970-01-01 UTC."""
        return DEFAULT_THRESHOLD.time_s(self.not_before_s, self.not_after_s)


def server_names(host_name: str, listen: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the hub's certificate, each once: host name, localhost, edgeHub, addresses.

    A wildcard listen address (0.0.0.0, ::) is left out: nobody can connect to it.
    """
    addresses = (address for address in listen if not _is_wildcard(address))
    return tuple(dict.fromkeys((host_name, "localhost", "edgeHub", *addresses)))


def ensure_edge_ca(folder: Path, device_id: str, now_s: float, plan: CaPlan | None = None) -> EdgeCa:
    """Return the edge CA in `folder`; issue a new one when there is none or it is due.

    Raises:
        ConfigError: the file is damaged, cannot be read, or its key is not the one of its certificate.
        EnvironmentFault: the new file cannot be written.
    """
    make_private_folder(folder)
    path = folder / CA_FILE
    plan = plan or CaPlan()
    found = _read(path)
    if found is None or plan.threshold.is_due(found.not_before_s, found.not_after_s, now_s):
        from runtime.security import (
            certificate_issue,  # heavy: only when there is something to issue or inspect
        )

        name = plan.common_name or f"aziot-edge CA {device_id}"
        key_pem = None if found is None or plan.rotates_key else path.read_bytes()
        issued = certificate_issue.issue_ca(name, now_s, plan.valid_days, key_pem=key_pem)
        if found is not None:
            log.warning(
                "the edge CA is renewed; devices that trust the one before need the new one%s: "
                "`edge-actors cert show --pem`",
                "" if plan.rotates_key else f" before {_date(found.not_after_s)}",
            )
        found = _write(path, issued.private_key_pem + issued.chain_pem)
        log.info("edge CA issued, valid until %s", _date(found.not_after_s))
    _warn_when_not_yet_valid(path, found, now_s)
    return EdgeCa(path, found.certificates_pem, found.not_before_s, found.not_after_s, plan.threshold)


def ensure_named_ca(
    folder: Path, common_name: str, names: tuple[str, ...], now_s: float, valid_days: int
) -> EdgeCa:
    """Return the CA in `folder` that clients need to trust for `names` and nothing else.

    Its name constraints hold it to these. A new one is issued when there is none, it is due, or it lacks one
    of `names`; it keeps those that the last one had.

    Raises:
        ConfigError, EnvironmentFault: as `ensure_edge_ca`; a name cannot stand in a certificate.
    """
    make_private_folder(folder)
    path = folder / CA_FILE
    names = tuple(_as_in_certificate(name) for name in names)
    found = _read(path)
    if (
        found is None
        or DEFAULT_THRESHOLD.is_due(found.not_before_s, found.not_after_s, now_s)
        or set(names) - set(found.permitted)
    ):
        from runtime.security import certificate_issue

        before = found
        permitted = tuple(dict.fromkeys((*names, *(found.permitted if found else ()))))
        issued = certificate_issue.issue_ca(common_name, now_s, valid_days, permitted)
        found = _write(path, issued.private_key_pem + issued.chain_pem)
        log.log(
            logging.WARNING if before else logging.INFO,
            "CA issued for %s alone, valid until %s%s",
            ", ".join(permitted),
            _date(found.not_after_s),
            "; clients that trust the CA before need this one" if before else "",
        )
    _warn_when_not_yet_valid(path, found, now_s)
    return EdgeCa(path, found.certificates_pem, found.not_before_s, found.not_after_s)


def ensure_server_certificate(
    folder: Path, names: tuple[str, ...], ca: EdgeCa, now_s: float, valid_days: int = LEAF_VALID_DAYS
) -> ServerCertificate:
    """Return the hub's server certificate in `folder`.

    A new one, with a new key, is issued when there is none, it is due, it lacks one of `names`, or another
    edge CA issued it.

    Args:
        folder: Where it is kept, together with the edge CA.
        names: What clients may call the hub (see `server_names`); the first becomes the common name.
        ca: The edge CA that issues, as `ensure_edge_ca` returned it.
        now_s: Seconds since 1970-01-01 UTC.
        valid_days: Life of a new certificate; it ends earlier when the edge CA does.

    Raises:
        ConfigError: a name cannot stand in a certificate; the file is damaged, cannot be read, or its key is
            not the one of its certificate.
        EnvironmentFault: the new file cannot be written.
    """
    make_private_folder(folder)
    path = folder / SERVER_FILE
    names = tuple(_as_in_certificate(name) for name in names)
    found = _read(path)
    usable = (
        found is not None
        and found.certificates_pem.endswith(ca.certificate_pem)
        and set(names) <= set(found.names)
        and (
            not DEFAULT_THRESHOLD.is_due(found.not_before_s, found.not_after_s, now_s)
            or found.not_after_s == ca.not_after_s > now_s  # another one would not last longer
        )
    )
    if found is None or not usable:
        from runtime.security import certificate_issue

        issued = certificate_issue.issue_server(ca, names[0], names, now_s, valid_days)
        found = _write(path, issued.private_key_pem + issued.chain_pem)
        log.info(
            "hub server certificate issued for %s, valid until %s", ", ".join(names), _date(found.not_after_s)
        )
    _warn_when_not_yet_valid(path, found, now_s)
    return ServerCertificate(path, found.certificates_pem, found.names, found.not_before_s, found.not_after_s)


class _Found(Struct, frozen=True):
    """A key and certificate file whose key is known to match. Only the certificates are kept in memory."""

    certificates_pem: str
    names: tuple[str, ...]
    permitted: tuple[str, ...]
    not_before_s: int
    not_after_s: int


def _read(path: Path) -> _Found | None:
    """Return what the file holds, or None when there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(
            f"cannot read '{path}': {exc.strerror}; repair its owner and mode, "
            "or remove it to have a new one issued"
        ) from exc
    return _from_summary(path, content) or _inspect(path, content)


def _from_summary(path: Path, content: bytes) -> _Found | None:
    try:
        summary = json.loads(_summary_path(path).read_bytes())
        if summary["version"] != _SUMMARY_VERSION or summary["sha256"] != hashlib.sha256(content).hexdigest():
            return None
        return _Found(
            _certificates(content),
            tuple(summary["names"]),
            tuple(summary["permitted"]),
            int(summary["not_before_s"]),
            int(summary["not_after_s"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # only a cache: the file itself is inspected instead


def _inspect(path: Path, content: bytes) -> _Found:
    from runtime.security import certificate_issue

    try:
        leaf = certificate_issue.inspect(content)
    except ValueError as exc:
        raise ConfigError(
            f"'{path}' is not usable: {exc}; restore it from a backup, or remove it to have a new one issued "
            "(after a new edge CA, downstream devices need its certificate)"
        ) from exc
    summary = {
        "version": _SUMMARY_VERSION,
        "sha256": hashlib.sha256(content).hexdigest(),
        "names": leaf.names,
        "permitted": leaf.permitted,
        "not_before_s": leaf.not_before_s,
        "not_after_s": leaf.not_after_s,
    }
    try:
        write_private_file(_summary_path(path), json.dumps(summary, indent=1).encode())
    except EnvironmentFault as exc:
        log.warning("%s; without this summary the next start only takes longer", exc)
    return _Found(_certificates(content), leaf.names, leaf.permitted, leaf.not_before_s, leaf.not_after_s)


def _write(path: Path, pem: str) -> _Found:
    content = pem.encode("ascii")
    write_private_file(path, content)
    return _inspect(path, content)


def _certificates(content: bytes) -> str:
    # The key comes first, so what leaves this file starts at the first certificate.
    return content[content.index(_CERTIFICATE_MARK) :].decode("ascii")


def _summary_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _warn_when_not_yet_valid(path: Path, found: _Found, now_s: float) -> None:
    if now_s < found.not_before_s:
        log.warning(
            "'%s' is valid only from %s and the clock says %s: set the clock, or remove the file to have a "
            "new one issued; until then clients with this clock refuse it",
            path,
            _date(found.not_before_s),
            _date(now_s),
        )


def _date(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")


def _as_in_certificate(name: str) -> str:
    """Return an IP address in the spelling in which a certificate gives it back; other names unchanged."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _is_wildcard(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False
