"""Checks of settings, home, identities and certificates: all that lies on this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from messaging.errors import ConfigError
from messaging.text import quoted
from runtime.checks.judge import (
    judge_expiry,
    judge_host_name,
    judge_space,
    judge_storage,
    judge_sync,
)
from runtime.checks.outcome import Outcome, error, fatal, ignored, ok, skipped, warning, worst
from runtime.checks.scene import Scene
from runtime.config import apply
from runtime.config.reader import CONFIG_VARIABLE
from runtime.config.settings import origin_of
from runtime.machine.system_info import mount_of
from runtime.run_directory import check_home
from runtime.security import certificates
from runtime.security.key_store import KeyStore
from runtime.security.renewal import DEFAULT_THRESHOLD, Threshold
from runtime.security.secret_files import NamedFile
from runtime.security.trust_bundle import certificates_in
from runtime.storage.message_ledger import read_ledger

SYNCS: Final = 5
_SYNC_BYTES: Final = 4096
_PROXIES: Final = ("https_proxy", "HTTPS_PROXY")


def settings_are_well_formed(scene: Scene) -> Outcome:
    """Read all settings as a start of the edge would, and the files that they name."""
    home = scene.home.path
    # Without a right to look, all that follows would be guessed.
    if not _may_look(home):
        return fatal(_not_permitted(home))
    found = apply.check({"home": str(home)}, scene.options.environment, socket.gethostname(), scene.now_s)
    scene.settings = found.settings
    if found.problems:
        return error(*found.problems)
    return warning(*found.remarks) if found.remarks else ok()


def settings_are_in_force(scene: Scene) -> Outcome:
    """Compare the file that a user edits with the one in the home, and that with the start of the edge."""
    if scene.options.environment.get(CONFIG_VARIABLE):
        return ignored(f"{CONFIG_VARIABLE} names the file that is read at each start")
    source, applied = apply.default_file(), scene.home.config
    if source.exists() and (not applied.exists() or source.read_bytes() != applied.read_bytes()):
        return warning(f"{source} is not what is in force; put it in force: `edge-actors config apply`")
    if not applied.exists():
        return ignored("there is no file with settings")
    if scene.agent is not None and applied.stat().st_mtime > scene.agent.started_at_s:
        return warning(f"{applied} is newer than the edge that runs; start it again to have what it says")
    return ok(file=str(applied))


def proxy_is_not_expected(scene: Scene) -> Outcome:
    """Tell those who set a proxy that it has no effect."""
    given = [name for name in _PROXIES if scene.options.environment.get(name)]
    if not given:
        return ok()
    return warning(
        f"{given[0]} is set, but the link to the cloud takes no proxy: it needs a way of its own to the "
        "IoT Hub"
    )


def host_name_is_ours(scene: Scene) -> Outcome:
    """Look whether clients find this machine by the name that is in its certificate."""
    settings = scene.settings
    assert settings is not None
    config = scene.hub_config
    name = config.host_names[0] if config is not None and config.host_names else settings.hostname
    is_local = all(address.is_loopback for address in settings.listen)
    return judge_host_name(name, socket.gethostname(), is_local or config is not None, _is_here(name))


def home_is_usable(scene: Scene) -> Outcome:
    """Look whether there is a home, it is ours, and nobody else reads what is secret in it."""
    home = scene.home.path
    check_home(home)
    try:
        status = home.stat()
    except FileNotFoundError:
        return warning(
            f"there is no home {home} yet; `edge-actors run --home {home}` makes it, or name another"
        )
    if status.st_mode & 0o066:
        mode = stat.S_IMODE(status.st_mode)
        return error(f"home {home} is open to other users (mode {mode:04o}): `chmod go-rw {home}`")
    open_files = [path for path in _secrets(scene) if path.stat().st_mode & 0o077]
    if open_files:
        paths = " ".join(map(str, open_files))
        return error(f"secrets in {home} can be read by other users: `chmod 600 {paths}`")
    return ok(home=str(home))


def identities_are_kept(scene: Scene) -> Outcome:
    """Read identities and keys, and see that all that names this device names the same one."""
    if not scene.home.keys.exists():
        return ignored("the first run of the edge makes its identities")
    keys = KeyStore.open(scene.home.keys)
    names = {"keys.json": keys.device_id}
    if scene.settings is not None:
        names["the settings"] = scene.settings.device_id
    if scene.provisioned is not None:
        names["provisioned.json"] = scene.provisioned.device_id
    if len(set(names.values())) > 1:
        told = ", ".join(f"{name} {quoted(place)}" for place, name in names.items())
        return error(
            f"this home names several devices: {told}; restore it from one backup, or begin anew with "
            f"`edge-actors down --purge --home {scene.home.path}`"
        )
    modules = [identity.module_id for identity in keys.identities() if identity.module_id]
    return ok(device_id=keys.device_id, modules=len(modules))


def certificates_are_read(scene: Scene) -> Outcome:
    """Read all certificates that this edge uses."""
    settings = scene.settings
    assert settings is not None
    files = [(path, "") for path in _pairs(scene) if path.exists()]
    if scene.home.cloud_ca.exists():
        files.append((scene.home.cloud_ca, ""))
    for name in ("edge_ca_cert", "identity_cert", "trust_bundle_cert", "cloud_ca"):
        named = getattr(settings, name)
        if named is not None:
            files.append((named, origin_of(settings, name)))
    if not files:
        return ignored("the first run of the edge makes its certificates")
    found = []
    for path, name in files:
        try:
            certificates_in(path, name or "certificates of this edge")
            found.append(ok(**{str(path): "readable"}))
        except ConfigError as exc:
            way_out = "" if name else "; restore it from a backup, or remove it to have a new one issued"
            found.append(error(f"{exc}{way_out}"))
    return worst(found)


def keys_belong_to_certificates(scene: Scene) -> Outcome:
    """Compare the private keys of the edge CA and of the hub with their certificates."""
    from runtime.security import certificate_issue

    found = []
    for path in _pairs(scene):
        if not path.exists():
            continue
        try:
            certificate_issue.inspect(path.read_bytes())
            found.append(ok())
        except ValueError as exc:
            found.append(
                error(f"{path}: {exc}; restore it from a backup, or remove it to have a new one issued")
            )
    return worst(found) if found else ok()  # those that are named were compared with the settings


def edge_ca_lasts(scene: Scene) -> Outcome:
    """See how long the edge CA is still good."""
    settings = scene.settings
    assert settings is not None
    if settings.edge_ca_cert is not None:
        return _named_lasts(scene, "edge_ca_cert", settings.edge_ca_cert, "the edge CA")
    return _made_lasts(scene, certificates.CA_FILE, "the edge CA", settings.edge_ca_renewal_threshold)


def hub_certificate_lasts(scene: Scene) -> Outcome:
    """See how long the certificate that the hub shows its clients is still good."""
    return _made_lasts(scene, certificates.SERVER_FILE, "the hub's certificate", DEFAULT_THRESHOLD)


def identity_certificate_lasts(scene: Scene) -> Outcome:
    """See how long the certificate is still good by which the device proves itself, if it has one."""
    settings, found = scene.settings, scene.provisioned
    assert settings is not None
    path = settings.identity_cert
    if path is None and found is not None and found.identity is not None:
        path = found.identity.cert
    if path is None:
        return ignored("this device proves itself with a key")
    return _named_lasts(scene, "identity_cert", path, "the certificate of this device")


def there_is_space(scene: Scene) -> Outcome:
    """See how much room there is for the home and for messages."""
    found = []
    for folder in dict.fromkeys((scene.home.path, scene.database.parent)):
        place = _existing(folder)
        space = os.statvfs(place)
        files = space.f_favail if space.f_files else None
        found.append(
            judge_space(str(folder), space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize, files)
        )
    return worst(found)


def home_outlasts_a_reboot(scene: Scene) -> Outcome:
    """See on what kind of file system the home is."""
    return _outlasts(scene.home.path, "the home")


def messages_outlast_a_reboot(scene: Scene) -> Outcome:
    """See on what kind of file system messages are kept, and that the disk syncs what is written."""
    folder = scene.database.parent
    kept = _outlasts(folder, "the message database")
    if not folder.is_dir():
        return kept
    try:
        return worst((kept, judge_sync(str(folder), _sync_s(folder))))
    except OSError as exc:
        return error(
            f"{folder} cannot be written: {exc.strerror}; make it writable for this user, or free some space"
        )


def messages_are_accounted_for(scene: Scene) -> Outcome:
    """See that every message that was ever accepted is accounted for."""
    if not scene.database.exists():
        return ignored("no message was ever kept here")
    ledger = read_ledger(scene.database)
    pending = sum(row.pending for row in ledger.endpoints.values())
    info = {"received": ledger.total.received, "pending": pending}
    wrong = ledger.imbalances()
    if wrong:
        return error(f"the ledger does not balance: {wrong[0]}; please tell us", *wrong[1:], **info)
    if ledger.epoch.number > 1:
        lost = "an unknown number of" if ledger.epoch.lost is None else ledger.epoch.lost
        return warning(
            f"the message database was damaged once: {ledger.epoch.salvaged} messages were salvaged and "
            f"{lost} lost; what is left of it is in {ledger.epoch.quarantine}; see to the disk (`dmesg`)",
            **info,
        )
    return ok(**info)


def _made_lasts(scene: Scene, name: str, what: str, threshold: Threshold) -> Outcome:
    from runtime.security import certificate_issue

    path = scene.home.certificates / name
    if not path.exists():
        return ignored("the first run of the edge makes it")
    leaf = certificate_issue.inspect(path.read_bytes())
    running = scene.agent is not None
    told = f"{what} ({path})"
    return judge_expiry(told, leaf.not_before_s, leaf.not_after_s, scene.now_s, "", running, threshold)


def _named_lasts(scene: Scene, name: str, path: Path, what: str) -> Outcome:
    """See to a certificate that somebody else has to renew."""
    from runtime.security.certificate_files import load_certificates

    settings = scene.settings
    assert settings is not None
    one = load_certificates(NamedFile(path, origin_of(settings, name)))[0]
    return judge_expiry(
        f"{what} ({path})",
        one.not_valid_before_utc.timestamp(),
        one.not_valid_after_utc.timestamp(),
        scene.now_s,
        f"put a new one with its key in the place of '{path}'",
        scene.agent is not None,
    )


def _outlasts(folder: Path, what: str) -> Outcome:
    mount = mount_of(folder)
    if mount is None:
        return skipped("this system does not tell what is mounted")
    return judge_storage(what, os.path.realpath(folder), mount.kind, mount.options)


def _sync_s(folder: Path) -> float:
    """Return how long the disk takes for a small write that is to stay: the median of some."""
    path = folder / f".edge-actors-{os.getpid()}.new"
    took_s = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(SYNCS):
            began_s = time.monotonic()
            os.pwrite(file, bytes(_SYNC_BYTES), 0)
            os.fsync(file)
            took_s.append(time.monotonic() - began_s)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(took_s)


def _secrets(scene: Scene) -> Iterator[Path]:
    home = scene.home
    for path in (home.keys, home.provisioned, home.last_deployment, *_pairs(scene)):
        if path.exists():
            yield path


def _pairs(scene: Scene) -> tuple[Path, Path]:
    folder = scene.home.certificates
    return folder / certificates.CA_FILE, folder / certificates.SERVER_FILE


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _is_here(name: str) -> bool | None:
    """Return whether a name is one of this machine's addresses; None when nobody knows it."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return None
    return any(_is_own_address(str(address)) for address in found)


def _is_own_address(address: str) -> bool:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _may_look(home: Path) -> bool:
    try:
        is_folder = stat.S_ISDIR(home.stat().st_mode)
    except PermissionError:
        return False
    except OSError:
        return True  # the next check tells
    return not is_folder or os.access(home, os.R_OK | os.W_OK | os.X_OK)


def _not_permitted(home: Path) -> str:
    return (
        f"home {home} may not be used by this user; run this as the user of the edge: "
        f"`sudo edge-actors check --home {home}`"
    )
