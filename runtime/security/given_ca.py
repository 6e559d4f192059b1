"""The edge CA that an operator supplies as files. It is read where it stands, and never renewed or copied.

What was checked is kept in a summary, so that most looks at the files do not load `cryptography`.

Source: spec sheet security-daemon.md section 3.1
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from messaging.errors import ConfigError
from runtime.config.settings import Settings, origin_of
from runtime.security.certificates import CaPlan, EdgeCa
from runtime.security.name_constraints import is_permitted
from runtime.security.secret_files import NamedFile, cannot_read, check_closed
from runtime.storage.atomic_file import make_private_folder, write_private_file

log = logging.getLogger(__name__)

SUMMARY_FILE: Final = "given-ca.json"
LOOK_EVERY_S: Final = 60.0  # whether the files are others by now


class _Summary(msgspec.Struct, frozen=True):
    """What a check of the files found."""

    sha256: str  # of host name, key and certificate
    certificates_pem: str
    permitted: tuple[tuple[str, ...], ...]
    not_before_s: int
    not_after_s: int


class GivenCa(Struct, frozen=True):
    """Where it is."""

    cert: NamedFile
    key: NamedFile

    def read(self, folder: Path, host_name: str, now_s: float) -> EdgeCa:
        """Return the CA as it is now; see `read_given_ca`."""
        return read_given_ca(folder, self.cert, self.key, host_name, now_s)


def ca_source(settings: Settings) -> CaPlan | GivenCa:
    """Return where the edge CA comes from."""
    if settings.edge_ca_cert is not None and settings.edge_ca_pk is not None:
        return GivenCa(
            NamedFile(settings.edge_ca_cert, origin_of(settings, "edge_ca_cert")),
            NamedFile(settings.edge_ca_pk, origin_of(settings, "edge_ca_pk")),
        )
    return CaPlan(
        settings.edge_ca_common_name,
        settings.edge_ca_expiry_days,
        settings.edge_ca_renewal_threshold,
        settings.edge_ca_rotate_key,
    )


def read_given_ca(folder: Path, cert: NamedFile, key: NamedFile, host_name: str, now_s: float) -> EdgeCa:
    """Return the CA in two files.

    Args:
        folder: Where the summary is kept.
        cert: Its certificate, then those above it.
        key: Its private key.
        host_name: Under which clients reach this edge.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        ConfigError: a file cannot be read or is open to everybody, the two do not match, the CA has expired,
            is none, or may not sign for `host_name`.
        EnvironmentFault: the summary cannot be written.
    """
    digest = hashlib.sha256(host_name.encode())
    for file in (key, cert):
        try:
            digest.update(hashlib.sha256(file.path.read_bytes()).digest())
        except OSError as exc:
            raise ConfigError(cannot_read(file.path, file.origin, exc)) from exc
    check_closed(key.path, key.origin)
    path = folder / SUMMARY_FILE
    found = _kept(path)
    if found is None or found.sha256 != digest.hexdigest() or now_s >= found.not_after_s:
        from runtime.security import certificate_files

        pair = certificate_files.load_pair(cert, key, now_s)
        certificate_files.check_authority(cert, pair, host_name)
        found = _Summary(digest.hexdigest(), pair.pem, pair.permitted, pair.not_before_s, pair.not_after_s)
        if folder.parent.is_dir():  # else there is no home yet: it is made later, with its mode
            make_private_folder(folder)
            write_private_file(path, msgspec.json.encode(found))
        log.info("the edge CA is that in '%s'", cert.path)
    return EdgeCa(
        cert.path,
        found.certificates_pem,
        found.not_before_s,
        found.not_after_s,
        key_path=key.path,
        permitted=found.permitted,
    )


def names_within(ca: EdgeCa, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that a CA may sign for; one that it may not would spoil the whole certificate."""
    return tuple(name for name in names if all(is_permitted(name, trees) for trees in ca.permitted))


def _kept(path: Path) -> _Summary | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Summary)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # only a cache: the files themselves are checked instead
