"""What `edge-actors config` does: checks a file with all that it names, puts it in force, writes a first one.

Source: spec sheet security-daemon.md section 5.5
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from messaging.connection_string import ConnectionString, format_connection_string
from messaging.errors import ConfigError, EdgeError, EnvironmentFault
from runtime.config.bridge_settings import OwnNames, check_bridge_settings
from runtime.config.file import read_config_file
from runtime.config.reader import read_settings
from runtime.config.settings import Settings, origin_of
from runtime.home import CONFIG, Home
from runtime.machine.system_service import is_user
from runtime.security.certificates import server_names
from runtime.security.given_ca import GivenCa, ca_source, names_within
from runtime.security.trust_bundle import certificates_in, trusted_pem
from runtime.storage.atomic_file import write_private_file
from runtime.storage.store_place import check_folder
from runtime.upstream.provisioning import check_given

SYSTEM_FILE: Final = Path("/etc/edge-actors") / CONFIG


class Checked(Struct, frozen=True):
    """What was found in a file and in all that it names."""

    settings: Settings | None  # None when it cannot be read at all
    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def default_file() -> Path:
    """Return where a user keeps the file: root and our service in /etc/edge-actors, others below ~/.config.

    The user of another service has none of its own, and reads that of root.
    """
    uid = os.geteuid()
    if uid == 0 or is_user(uid):
        return SYSTEM_FILE
    given = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(given) if Path(given).is_absolute() else Path.home() / ".config"
    own = folder / "edge-actors" / CONFIG
    return SYSTEM_FILE if SYSTEM_FILE.exists() and not own.exists() else own


def check(
    options: Mapping[str, str | None], environment: Mapping[str, str], host_name: str, now_s: float
) -> Checked:
    """Read the settings as a start does, and everything that they name. Writes nothing that stays.

    Args:
        options, environment, host_name: As of `read_settings`.
        now_s: Seconds since 1970-01-01 UTC, for certificates.
    """
    try:
        settings = read_settings(options, environment, host_name)
    except EdgeError as exc:
        return Checked(None, tuple(str(exc).split("\n")), ())
    problems: list[str] = []
    remarks = list(settings.remarks)
    steps: list[Callable[[], object]] = [
        lambda: check_given(settings),
        lambda: trusted_pem(settings),
        lambda: _check_cloud_ca(settings),
        lambda: _check_storage(settings),
        lambda: _check_bridges(settings),
        lambda: remarks.extend(_check_ca(settings, now_s)),
    ]
    for step in steps:
        try:
            step()
        except EdgeError as exc:
            problems.append(str(exc))
    return Checked(settings, tuple(problems), tuple(remarks))


def apply(source: Path, home: Path, start_anew: Callable[[], None]) -> bool:
    """Put a file that was checked in force: copy it into the home, from where the next start reads it.

    Args:
        start_anew: Has the edge that runs, if there is one, take it; raises ConfigError when it does not.

    Returns:
        Whether it is another one than before.

    Raises:
        EnvironmentFault: the home cannot be written, or the edge that runs does not answer.
        ConfigError: it refuses. What was in force stays in these cases.
    """
    content = read_config_file(source).text.encode()
    target = Home(home).config
    try:
        before = target.read_bytes()
    except FileNotFoundError:
        before = None
    except OSError as exc:
        raise EnvironmentFault(f"{target}: cannot be read: {exc.strerror}; repair owner and mode") from exc
    if before == content:
        return False
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise EnvironmentFault(
            f"home {home} cannot be created: {exc.strerror}; choose another --home"
        ) from exc
    _write_for_owner(target, content)
    try:
        start_anew()
    except EdgeError:
        if before is None:
            target.unlink()
        else:
            _write_for_owner(target, before)
        raise
    return True


def _write_for_owner(target: Path, content: bytes) -> None:
    """Write a file that the user of the edge may read, who need not be the one that applies it."""
    write_private_file(target, content)
    owner = target.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(target, owner.st_uid, owner.st_gid)


def write_minimal(found: ConnectionString, target: Path, force: bool) -> None:
    """Write a file with nothing but a connection string.

    Raises:
        ConfigError: there is a file.
        EnvironmentFault: it cannot be written.
    """
    if target.exists() and not force:
        raise ConfigError(f"{target}: there is a file already; edit it, or replace it with --force")
    text = f"""# Which device this edge is. All keys: `edge-actors config show`
auto_reprovisioning_mode = "OnErrorOnly"

[provisioning]
source = "manual"
connection_string = "{format_connection_string(found)}"
"""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise EnvironmentFault(
            f"{target.parent} cannot be created: {exc.strerror}; choose another -o"
        ) from exc
    write_private_file(target, text.encode())


def _check_cloud_ca(settings: Settings) -> None:
    if settings.cloud_ca is not None:
        certificates_in(settings.cloud_ca, origin_of(settings, "cloud_ca"))


def _check_storage(settings: Settings) -> None:
    if settings.storage_folder is not None:
        check_folder(settings.storage_folder, origin_of(settings, "storage_folder"))


def _check_bridges(settings: Settings) -> None:
    path = settings.bridge_settings or Home(settings.home).bridges
    if settings.bridge_settings is not None and not path.exists():
        raise ConfigError(
            f"{origin_of(settings, 'bridge_settings')}: there is no '{path}'; make it, or leave this out"
        )
    check_bridge_settings(path, OwnNames(settings.device_id, settings.iothub_hostname))


def _check_ca(settings: Settings, now_s: float) -> list[str]:
    """Check an edge CA that is supplied; returns what it cannot do."""
    source = ca_source(settings)
    if not isinstance(source, GivenCa):
        return []
    with tempfile.TemporaryDirectory() as folder:
        ca = source.read(Path(folder), settings.hostname, now_s)
    names = server_names(settings.hostname, (address.host for address in settings.listen))
    missing = [name for name in names if name not in names_within(ca, names)]
    remarks = []
    if missing:
        remarks.append(
            f"{source.cert.origin}: the authority may not sign for {', '.join(missing)}, so clients that "
            "call the hub by these names refuse it"
        )
    if not _ends_at_root(ca.certificate_pem) and settings.trust_bundle_cert is None:
        remarks.append(
            f"{source.cert.origin}: the chain in '{source.cert.path}' does not end at a root; add the root "
            "to it, or name the root with trust_bundle_cert: modules trust nothing less"
        )
    return remarks


def _ends_at_root(chain_pem: str) -> bool:
    from cryptography import x509

    last = x509.load_pem_x509_certificates(chain_pem.encode())[-1]
    return last.issuer == last.subject
