"""The identities of this edge and their keys: the device, its modules, and the leaf devices behind it.

One private file, replaced as a whole at each change. The agent process uses it while the edge runs, the
command line while it is stopped; whoever opens it for writing holds the lock of the home.

Module keys are not kept but derived from a random master key, as the reference derives them, so a module that
is removed and made again gets other keys with its new generation id. Leaf devices get random keys.

Source: spec sheet security-daemon.md sections 1.3, 1.4 and 4.2
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from actors.hub_identity import AuthType, capital_thumbprint
from messaging.errors import AuthError, ConfigError
from messaging.nearest import did_you_mean
from runtime import aes_gcm
from runtime.atomic_file import make_private_folder, write_private_file

EDGE_AGENT = "$edgeAgent"
EDGE_HUB = "$edgeHub"
KEY_BYTES = 32

_FILE_VERSION = 2  # 1 had no devices with certificates; it is read as it is, and written anew as 2
# Source: spec sheet security-daemon.md section 4.4
_ID = re.compile(r"[A-Za-z0-9\-.+%_#*?!(),:=@$']{1,128}")
# Generation ids look like IoT Hub's: 100 ns ticks since the year 1.
_TICKS_PER_S = 10_000_000
_TICKS_AT_1970 = 621_355_968_000_000_000

_SEALED_TAG_LAST = b"\x02"  # ciphertext, then tag: what is written
_SEALED_TAG_FIRST = b"\x01"  # tag, then ciphertext: read only, from release 1.1

Status = Literal["enabled", "disabled"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who may connect: the device itself, one of its modules (`module_id` set), or a leaf device.

    One that proves itself with a certificate has no keys.
    """

    device_id: str
    module_id: str | None
    generation_id: str
    status: Status
    primary_key: bytes = field(repr=False)
    secondary_key: bytes = field(repr=False)
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()  # of "selfSigned", capital hex


@dataclass(frozen=True, slots=True)
class _Device:
    generation_id: str
    status: Status
    primary_key: bytes = field(repr=False)
    secondary_key: bytes = field(repr=False)
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Module:
    generation_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class _Content:
    """All that is kept. Never changed in place, so that another thread may read it while one writes."""

    device_id: str
    device: _Device
    module_master_key: bytes = field(repr=False)
    encryption_key: bytes = field(repr=False)
    last_generation: int
    modules: Mapping[str, _Module]
    leaf_devices: Mapping[str, _Device]


class _File(msgspec.Struct, frozen=True):
    version: int
    sha256: str
    content: msgspec.Raw


class KeyStore:
    """Identities and keys, in memory and on disk.

    Any thread may call; a change is on disk when the call returns.
    """

    def __init__(self, path: Path, content: _Content) -> None:
        """Take what `open` or `ensure` read; callers use those."""
        self._path = path
        self._content = content
        self._changing = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> KeyStore:
        """Return the key store kept at `path`.

        Raises:
            ConfigError: there is none yet, it cannot be read, it is damaged, or a newer version wrote it.
        """
        content = _read(path)
        if content is None:
            raise ConfigError(
                f"there are no identities at '{path}': this home has not been run yet; start the edge in it "
                "once, or name another home"
            )
        return cls(path, content)

    @classmethod
    def ensure(cls, path: Path, device_id: str, now_s: float) -> KeyStore:
        """Return the key store at `path`, a new one when there is none: the device, `$edgeAgent`, `$edgeHub`.

        Raises:
            ConfigError: as `open`; or IoT Hub does not allow the id; or the store is that of another device.
            EnvironmentFault: it cannot be written.
        """
        _check_id("device", device_id)
        content = _read(path)
        if content is None:
            make_private_folder(path.parent)
            content = _new_content(device_id, now_s)
            write_private_file(path, _encode(content))
        if content.device_id != device_id:
            raise ConfigError(
                f"the identities at '{path}' are of device '{content.device_id}', not of '{device_id}'; "
                "use that device id, or another home"
            )
        return cls(path, content)

    @property
    def device_id(self) -> str:
        """The id of the edge device."""
        return self._content.device_id

    def identities(self) -> tuple[Identity, ...]:
        """Return all identities with their keys: the device, its modules by id, the leaf devices by id."""
        content = self._content
        modules = (_module_identity(content, module_id) for module_id in sorted(content.modules))
        leaves = (
            _device_identity(device_id, device) for device_id, device in sorted(content.leaf_devices.items())
        )
        return (_device_identity(content.device_id, content.device), *modules, *leaves)

    def has_module(self, module_id: str) -> bool:
        """Tell whether a module has an identity here."""
        return module_id in self._content.modules

    def ensure_module(self, module_id: str, now_s: float) -> Identity:
        """Return the identity of a module; a new one, with a new generation id, when there is none.

        Raises:
            ConfigError: the id is not one IoT Hub allows.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        _check_id("module", module_id)
        with self._changing:
            if module_id not in self._content.modules:
                self._keep(_with_module(self._content, module_id, now_s))
            return _module_identity(self._content, module_id)

    def remove_module(self, module_id: str) -> None:
        """Forget a module; its tokens are refused from now on. One that is not there is no error.

        Raises:
            ConfigError: the module is `$edgeAgent` or `$edgeHub`.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        if module_id in (EDGE_AGENT, EDGE_HUB):
            raise ConfigError(f"module '{module_id}' is part of the edge itself and cannot be removed")
        with self._changing:
            modules = {name: module for name, module in self._content.modules.items() if name != module_id}
            if len(modules) < len(self._content.modules):
                self._keep(replace(self._content, modules=modules))

    def create_device(
        self,
        device_id: str,
        now_s: float,
        auth_type: AuthType = "sas",
        thumbprints: Sequence[str] = (),
    ) -> Identity:
        """Make the identity of a leaf device: with random keys, or to prove itself with a certificate.

        Args:
            thumbprints: One or two of "selfSigned", else none.

        Raises:
            ConfigError: the id exists, or is not one IoT Hub allows; a thumbprint is none.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        _check_id("device", device_id)
        prints = _thumbprints(device_id, auth_type, thumbprints)
        with self._changing:
            content = self._content
            if device_id == content.device_id or device_id in content.leaf_devices:
                raise ConfigError(f"device '{device_id}' exists already; choose another id")
            generation = _next_generation(content.last_generation, now_s)
            if auth_type == "sas":
                device = _new_device(generation)
            else:
                device = _Device(str(generation), "enabled", b"", b"", auth_type, prints)
            leaf_devices = {**content.leaf_devices, device_id: device}
            self._keep(replace(content, last_generation=generation, leaf_devices=leaf_devices))
            return _device_identity(device_id, device)

    def enable_device(self, device_id: str, enabled: bool) -> None:
        """Let a leaf device connect, or not any more; it keeps its keys.

        Raises:
            ConfigError: there is no leaf device of that id.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            device = self._leaf_device(device_id)
            changed = replace(device, status="enabled" if enabled else "disabled")
            if changed != device:
                leaf_devices = {**self._content.leaf_devices, device_id: changed}
                self._keep(replace(self._content, leaf_devices=leaf_devices))

    def delete_device(self, device_id: str) -> None:
        """Forget a leaf device; made again it gets other keys.

        Raises:
            ConfigError: there is no leaf device of that id.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            self._leaf_device(device_id)
            leaf_devices = {k: v for k, v in self._content.leaf_devices.items() if k != device_id}
            self._keep(replace(self._content, leaf_devices=leaf_devices))

    def _leaf_device(self, device_id: str) -> _Device:
        device = self._content.leaf_devices.get(device_id)
        if device is not None:
            return device
        if device_id == self._content.device_id:
            raise ConfigError(
                f"'{device_id}' is this edge itself; `edge-actors down` stops it, and leaf devices alone can "
                "be disabled or deleted"
            )
        hint = did_you_mean(device_id, self._content.leaf_devices) or "; see `edge-actors identity list`"
        raise ConfigError(f"there is no leaf device '{device_id}'{hint}")

    def sign(self, module_id: str, data: bytes) -> bytes:
        """Return the HMAC-SHA256 of `data` under the primary key of a module.

        Raises:
            AuthError: the module has no identity here.

        Source: spec sheet security-daemon.md section 1.3
        """
        content = self._content
        if module_id not in content.modules:
            raise AuthError(f"module '{module_id}' has no identity on this edge")
        return hmac.digest(_module_identity(content, module_id).primary_key, data, "sha256")

    def encrypt(self, module_id: str, generation_id: str, iv: bytes, plaintext: bytes) -> bytes:
        """Return `plaintext` sealed with AES-256-GCM for this module and generation id alone.

        Args:
            module_id: As in the request, `$` included.
            generation_id: Any text; not compared with the module's.
            iv: 1 to 128 bytes.
            plaintext: What to seal.

        Source: spec sheet security-daemon.md section 1.4
        """
        associated = f"{module_id}{generation_id}".encode()
        return _SEALED_TAG_LAST + aes_gcm.encrypt(self._content.encryption_key, iv, plaintext, associated)

    def decrypt(self, module_id: str, generation_id: str, iv: bytes, sealed: bytes) -> bytes:
        """Return what `encrypt` sealed with the same arguments.

        Raises:
            AuthError: another module, generation id or IV, or the text was altered.
        """
        order, rest = sealed[:1], sealed[1:]
        if order == _SEALED_TAG_FIRST:
            rest = rest[aes_gcm.TAG_BYTES :] + rest[: aes_gcm.TAG_BYTES]
        elif order != _SEALED_TAG_LAST:
            raise AuthError("the ciphertext does not start with a known version")
        associated = f"{module_id}{generation_id}".encode()
        try:
            return aes_gcm.decrypt(self._content.encryption_key, iv, rest, associated)
        except AuthError as exc:
            raise AuthError(
                "the ciphertext was made for another module, generation id or IV, or was altered"
            ) from exc

    def _keep(self, content: _Content) -> None:
        # First the disk: when that fails, memory must not know more than the next start will find.
        write_private_file(self._path, _encode(content))
        self._content = content


def _new_content(device_id: str, now_s: float) -> _Content:
    generation = _next_generation(0, now_s)
    content = _Content(
        device_id=device_id,
        device=_new_device(generation),
        module_master_key=secrets.token_bytes(KEY_BYTES),
        encryption_key=secrets.token_bytes(KEY_BYTES),
        last_generation=generation,
        modules={},
        leaf_devices={},
    )
    for module_id in (EDGE_AGENT, EDGE_HUB):
        content = _with_module(content, module_id, now_s)
    return content


def _new_device(generation: int) -> _Device:
    return _Device(str(generation), "enabled", secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))


def _with_module(content: _Content, module_id: str, now_s: float) -> _Content:
    generation = _next_generation(content.last_generation, now_s)
    modules = {**content.modules, module_id: _Module(str(generation), "enabled")}
    return replace(content, last_generation=generation, modules=modules)


def _next_generation(last: int, now_s: float) -> int:
    # Never the same twice, also when the clock was set back: an old key must not come to life again.
    return max(last + 1, _TICKS_AT_1970 + int(now_s * _TICKS_PER_S))


def _device_identity(device_id: str, device: _Device) -> Identity:
    return Identity(
        device_id,
        None,
        device.generation_id,
        device.status,
        device.primary_key,
        device.secondary_key,
        device.auth_type,
        device.thumbprints,
    )


def _module_identity(content: _Content, module_id: str) -> Identity:
    module = content.modules[module_id]
    primary, secondary = (
        hmac.digest(
            content.module_master_key, f"{module_id}:{module.generation_id}:{which}".encode(), "sha256"
        )
        for which in ("primary", "secondary")
    )
    return Identity(content.device_id, module_id, module.generation_id, module.status, primary, secondary)


def _thumbprints(device_id: str, auth_type: AuthType, given: Sequence[str]) -> tuple[str, ...]:
    if auth_type == "selfSigned":
        if not 1 <= len(given) <= 2:
            raise ConfigError(f"device '{device_id}' needs one or two thumbprints, not {len(given)}")
    elif given:
        raise ConfigError(f"device '{device_id}': thumbprints are for self-signed certificates alone")
    try:
        return tuple(map(capital_thumbprint, given))
    except ValueError as exc:
        raise ConfigError(f"device '{device_id}': a thumbprint is {exc}") from exc


def _check_id(kind: str, text: str) -> None:
    if not _ID.fullmatch(text):
        raise ConfigError(
            f"'{text}' cannot be the id of a {kind}: IoT Hub allows 1 to 128 letters, digits and "
            "- . + % _ # * ? ! ( ) , : = @ $ '"
        )


def _encode(content: _Content) -> bytes:
    raw = msgspec.json.encode(content)
    return msgspec.json.encode(_File(_FILE_VERSION, hashlib.sha256(raw).hexdigest(), msgspec.Raw(raw)))


def _read(path: Path) -> _Content | None:
    """Return what the file holds, or None when there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(
            f"cannot read the identities at '{path}': {exc.strerror}; repair the owner and mode of the file"
        ) from exc
    return _decode(path, data)


def _decode(path: Path, data: bytes) -> _Content:
    try:
        file = msgspec.json.decode(data, type=_File)
        if file.version > _FILE_VERSION:
            raise ConfigError(
                f"the identities at '{path}' were written by a newer version of edge-actors "
                f"(format {file.version}, this one reads {_FILE_VERSION}); upgrade, or name another home"
            )
        raw = bytes(file.content)
        if hashlib.sha256(raw).hexdigest() != file.sha256:
            raise ConfigError(_damaged(path, "its checksum is wrong"))
        return msgspec.json.decode(raw, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(_damaged(path, "it is not complete")) from exc


def _damaged(path: Path, reason: str) -> str:
    return (
        f"the identities at '{path}' are damaged ({reason}): restore the file from a backup, or remove it to "
        "have new keys made (downstream devices then need new connection strings)"
    )
