"""What the key store keeps, and its file: one JSON document with a checksum.

Plain values: a change makes new ones.

Source: spec sheet security-daemon.md section 4.2
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from actors.hub.identity import AuthType, HubIdentity
from messaging.errors import ConfigError
from messaging.identity import EDGE_AGENT, EDGE_HUB

KEY_BYTES: Final = 32

_FILE_VERSION: Final = 3  # 1 had no devices with certificates, 2 no cloud; both are read as they are
# Generation ids look like IoT Hub's: 100 ns ticks since the year 1.
_TICKS_PER_S: Final = 10_000_000
_TICKS_AT_1970: Final = 621_355_968_000_000_000

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
class Device:
    generation_id: str
    status: Status
    primary_key: bytes = field(repr=False)
    secondary_key: bytes = field(repr=False)
    auth_type: AuthType = "sas"
    thumbprints: tuple[str, ...] = ()
    in_cloud: bool = False  # our own stand-in has it too, and decides about it from then on
    replaces: bool = False  # what the stand-in has is one of the same name that was deleted here


@dataclass(frozen=True, slots=True)
class LeafChange:
    """What our own stand-in has to be told of a leaf device."""

    device: Identity | None  # as it is now; None: it is deleted
    in_cloud: bool  # whether the stand-in has one of that id from us
    replaces: bool = False  # that one was deleted here: its twin and its messages are not for this one


@dataclass(frozen=True, slots=True)
class Module:
    generation_id: str
    status: Status
    cloud_generation_id: str = ""  # of its identity in the registry of the cloud; "": has none yet


@dataclass(frozen=True, slots=True)
class Content:
    """All that is kept. Never changed in place, so that another thread may read it while one writes."""

    device_id: str
    device: Device
    module_master_key: bytes = field(repr=False)
    encryption_key: bytes = field(repr=False)
    last_generation: int
    modules: Mapping[str, Module]
    leaf_devices: Mapping[str, Device]
    cloud: str = ""  # host name of the IoT Hub that what follows, and the marks above, are about
    cloud_deletes: Mapping[str, str] = field(default_factory=dict)  # modules to be deleted there → generation
    leaf_changes: tuple[str, ...] = ()  # leaf devices made, changed or deleted here since it was told


class _File(msgspec.Struct, frozen=True):
    version: int
    sha256: str
    content: msgspec.Raw


def new_content(device_id: str, now_s: float) -> Content:
    generation = next_generation(0, now_s)
    content = Content(
        device_id=device_id,
        device=new_device(generation),
        module_master_key=secrets.token_bytes(KEY_BYTES),
        encryption_key=secrets.token_bytes(KEY_BYTES),
        last_generation=generation,
        modules={},
        leaf_devices={},
    )
    for module_id in (EDGE_AGENT, EDGE_HUB):
        content = with_module(content, module_id, now_s)
    return content


def new_device(generation: int) -> Device:
    return Device(str(generation), "enabled", secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))


def with_module(content: Content, module_id: str, now_s: float) -> Content:
    generation = next_generation(content.last_generation, now_s)
    modules = {**content.modules, module_id: Module(str(generation), "enabled")}
    return replace(content, last_generation=generation, modules=modules)


def next_generation(last: int, now_s: float) -> int:
    # Never the same twice, also when the clock was set back: an old key must not come to life again.
    return max(last + 1, _TICKS_AT_1970 + int(now_s * _TICKS_PER_S))


def device_identity(device_id: str, device: Device) -> Identity:
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


def module_identity(content: Content, module_id: str) -> Identity:
    module = content.modules[module_id]
    primary, secondary = (
        hmac.digest(
            content.module_master_key, f"{module_id}:{module.generation_id}:{which}".encode(), "sha256"
        )
        for which in ("primary", "secondary")
    )
    return Identity(content.device_id, module_id, module.generation_id, module.status, primary, secondary)


def without_module(content: Content, module_id: str) -> Content:
    """Return the content without a module, which is to be deleted in the cloud, too, if that knows it."""
    module = content.modules.get(module_id)
    if module is None:
        return content
    modules = {name: kept for name, kept in content.modules.items() if name != module_id}
    deletes = dict(content.cloud_deletes)
    if module.cloud_generation_id:
        deletes[module_id] = module.cloud_generation_id
    return replace(content, modules=modules, cloud_deletes=deletes)


def with_leaf(content: Content, device_id: str, device: Device | None) -> Content:
    """Return the content with a leaf device changed, made, or deleted: None.

    Of a deleted one our own stand-in is told only if it has it.
    """
    before = content.leaf_devices.get(device_id)
    leaves = {name: kept for name, kept in content.leaf_devices.items() if name != device_id}
    changes = tuple(name for name in content.leaf_changes if name != device_id)
    if device is not None:
        leaves[device_id] = device
    if device is not None or (before is not None and before.in_cloud):
        changes = (*changes, device_id)
    return replace(content, leaf_devices=leaves, leaf_changes=changes)


def linked(content: Content, host_name: str) -> Content:
    """Return the content of an edge that belongs to another IoT Hub than before, which knows nothing yet."""
    return replace(
        content,
        cloud=host_name,
        modules={k: replace(module, cloud_generation_id="") for k, module in content.modules.items()},
        leaf_devices={
            k: replace(device, in_cloud=False, replaces=False) for k, device in content.leaf_devices.items()
        },
        cloud_deletes={},
        leaf_changes=tuple(content.leaf_devices),
    )


def followed(content: Content, scope: Mapping[str, HubIdentity]) -> Content:
    """Return the content with the leaf devices that the cloud decides about as it has them."""
    leaves = dict(content.leaf_devices)
    for device_id, device in content.leaf_devices.items():
        if not device.in_cloud or device_id in content.leaf_changes:
            continue
        theirs = scope.get(device_id)
        if theirs is None:
            del leaves[device_id]
            continue
        leaves[device_id] = as_cloud_has(device, theirs)
    return replace(content, leaf_devices=leaves)


def as_cloud_has(device: Device, theirs: HubIdentity) -> Device:
    """Return a leaf device with status and proofs as the cloud says."""
    primary, secondary = (*(key.reveal() for key in theirs.keys), b"", b"")[:2]
    return replace(
        device,
        status="enabled" if theirs.enabled else "disabled",
        primary_key=primary,
        secondary_key=secondary,
        auth_type=theirs.auth_type,
        thumbprints=theirs.thumbprints,
    )


def encode(content: Content) -> bytes:
    raw = msgspec.json.encode(content)
    return msgspec.json.encode(_File(_FILE_VERSION, hashlib.sha256(raw).hexdigest(), msgspec.Raw(raw)))


def read(path: Path) -> Content | None:
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


def _decode(path: Path, data: bytes) -> Content:
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
        return msgspec.json.decode(raw, type=Content)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(_damaged(path, "it is not complete")) from exc


def _damaged(path: Path, reason: str) -> str:
    return (
        f"the identities at '{path}' are damaged ({reason}): restore the file from a backup, or remove it to "
        "have new keys made (downstream devices then need new connection strings)"
    )
