"""The identities of this edge and their keys: the device, its modules, and the leaf devices behind it.

One private file, replaced as a whole at each change. The agent process uses it while the edge runs, the
command line while it is stopped; whoever opens it for writing holds the lock of the home.

Module keys are not kept but derived from a random master key, as the reference derives them, so a module that
is removed and made again gets other keys with its new generation id. Leaf devices get random keys.

Source: spec sheet security-daemon.md sections 1.3, 1.4 and 4.2
"""

from __future__ import annotations

import hmac
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actors.hub.identity import AuthType, HubIdentity, capital_thumbprint
from messaging.errors import AuthError, ConfigError
from messaging.identity import EDGE_AGENT, EDGE_HUB
from messaging.nearest import did_you_mean
from runtime.security import aes_gcm
from runtime.security.key_content import (
    Content,
    Device,
    Identity,
    LeafChange,
    as_cloud_has,
    device_identity,
    encode,
    followed,
    linked,
    module_identity,
    new_content,
    new_device,
    next_generation,
    read,
    with_leaf,
    with_module,
    without_module,
)
from runtime.storage.atomic_file import make_private_folder, write_private_file

# Source: spec sheet security-daemon.md section 4.4
_ID = re.compile(r"[A-Za-z0-9\-.+%_#*?!(),:=@$']{1,128}")

_SEALED_TAG_LAST = b"\x02"  # ciphertext, then tag: what is written
_SEALED_TAG_FIRST = b"\x01"  # tag, then ciphertext: read only, from release 1.1


class KeyStore:
    """Identities and keys, in memory and on disk.

    Any thread may call; a change is on disk when the call returns.
    """

    def __init__(self, path: Path, content: Content) -> None:
        """Take what `open` or `ensure` read; callers use those."""
        self._path = path
        self._content = content
        self._changing = threading.Lock()
        self._unused: set[str] = set()  # modules made since, of which nobody was told anything yet

    @classmethod
    def open(cls, path: Path) -> KeyStore:
        """Return the key store kept at `path`.

        Raises:
            ConfigError: there is none yet, it cannot be read, it is damaged, or a newer version wrote it.
        """
        content = read(path)
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
        content = read(path)
        is_new = content is None
        if content is None:
            make_private_folder(path.parent)
            content = new_content(device_id, now_s)
            write_private_file(path, encode(content))
        if content.device_id != device_id:
            raise ConfigError(
                f"the identities at '{path}' are of device '{content.device_id}', not of '{device_id}'; "
                "use that device id, or another home"
            )
        store = cls(path, content)
        if is_new:
            store._unused.update(content.modules)
        return store

    @property
    def device_id(self) -> str:
        """The id of the edge device."""
        return self._content.device_id

    def identities(self) -> tuple[Identity, ...]:
        """Return all identities with their keys: the device, its modules by id, the leaf devices by id."""
        content = self._content
        modules = (module_identity(content, module_id) for module_id in sorted(content.modules))
        leaves = (
            device_identity(device_id, device) for device_id, device in sorted(content.leaf_devices.items())
        )
        return (device_identity(content.device_id, content.device), *modules, *leaves)

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
                self._keep(with_module(self._content, module_id, now_s))
                self._unused.add(module_id)
            return module_identity(self._content, module_id)

    def waits_for_cloud(self, module_id: str) -> bool:
        """Tell whether a module may still take the generation id of its identity in the cloud."""
        return module_id in self._unused and not self._content.modules[module_id].cloud_generation_id

    def use_module(self, module_id: str) -> Identity:
        """Return the identity of a module that is about to be told; its keys stay as they are from now on."""
        with self._changing:
            self._unused.discard(module_id)
            return module_identity(self._content, module_id)

    def remove_module(self, module_id: str) -> None:
        """Forget a module; its tokens are refused from now on. One that is not there is no error.

        Raises:
            ConfigError: the module is `$edgeAgent` or `$edgeHub`.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        if module_id in (EDGE_AGENT, EDGE_HUB):
            raise ConfigError(f"module '{module_id}' is part of the edge itself and cannot be removed")
        with self._changing:
            content = without_module(self._content, module_id)
            if content is not self._content:
                self._keep(content)

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
            generation = next_generation(content.last_generation, now_s)
            if auth_type == "sas":
                device = new_device(generation)
            else:
                device = Device(str(generation), "enabled", b"", b"", auth_type, prints)
            # The cloud has one still that was deleted here, and was not told yet.
            is_there = device_id in content.leaf_changes
            device = replace(device, in_cloud=is_there, replaces=is_there)
            self._keep(with_leaf(replace(content, last_generation=generation), device_id, device))
            return device_identity(device_id, device)

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
                self._keep(with_leaf(self._content, device_id, changed))

    def delete_device(self, device_id: str) -> None:
        """Forget a leaf device; made again it gets other keys.

        Raises:
            ConfigError: there is no leaf device of that id.
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            self._leaf_device(device_id)
            self._keep(with_leaf(self._content, device_id, None))

    # what the cloud knows of it

    def link(self, host_name: str) -> None:
        """Belong to this IoT Hub from now on; what another one knew counts no more.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            if self._content.cloud != host_name:
                self._keep(linked(self._content, host_name))

    def cloud_modules(self) -> Mapping[str, str]:
        """Return the modules there are here, each with its generation id in the cloud, "" for none yet."""
        modules = self._content.modules
        return {name: modules[name].cloud_generation_id for name in sorted(modules)}

    def cloud_deletes(self) -> Mapping[str, str]:
        """Return the modules that are to be deleted in the cloud, each with its generation id there."""
        return self._content.cloud_deletes

    def register_module(self, module_id: str, cloud_generation_id: str) -> Identity | None:
        """Take note that the cloud has an identity for a module; return it, None when it is gone here.

        A module of which nobody was told anything yet takes the generation id of the cloud. One that is in
        use keeps its own, and so its keys: a client may have signed tokens with them.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            module = self._content.modules.get(module_id)
            if module is None:
                return None
            generation_id = cloud_generation_id if module_id in self._unused else module.generation_id
            registered = replace(module, generation_id=generation_id, cloud_generation_id=cloud_generation_id)
            if registered != module:
                modules = {**self._content.modules, module_id: registered}
                self._keep(replace(self._content, modules=modules))
            return module_identity(self._content, module_id)

    def module_deleted(self, module_id: str) -> None:
        """Take note that a module of `cloud_deletes` is gone from the cloud.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            deletes = {k: v for k, v in self._content.cloud_deletes.items() if k != module_id}
            self._keep(replace(self._content, cloud_deletes=deletes))

    def pending(self) -> frozenset[str]:
        """Return the ids, `D` or `D/M`, of what changed here and the cloud was not told yet."""
        content = self._content
        modules = (f"{content.device_id}/{name}" for name in content.cloud_deletes)
        return frozenset((*modules, *content.leaf_changes))

    def leaf_changes(self) -> Mapping[str, LeafChange]:
        """Return the leaf devices that our own stand-in has to be told of."""
        content = self._content
        changes = {}
        for device_id in content.leaf_changes:
            device = content.leaf_devices.get(device_id)
            shown = None if device is None else device_identity(device_id, device)
            replaces = device is not None and device.replaces
            changes[device_id] = LeafChange(shown, device is None or device.in_cloud, replaces)
        return changes

    def leaf_told(self, device_id: str, told: Identity | None) -> None:
        """Take note that our own stand-in knows a leaf device as `told`, None that it is deleted.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            content = self._content
            device = content.leaf_devices.get(device_id)
            changes = tuple(name for name in content.leaf_changes if name != device_id)
            if told != (None if device is None else device_identity(device_id, device)):
                changes = (*changes, device_id)  # changed meanwhile
            leaves = dict(content.leaf_devices)
            if device is not None:
                # Made anew once more meanwhile, it replaces the one that was told.
                replaces = told is not None and told.generation_id != device.generation_id
                leaves[device_id] = replace(device, in_cloud=told is not None, replaces=replaces)
            self._keep(replace(content, leaf_devices=leaves, leaf_changes=changes))

    def adopt_leaf(self, theirs: HubIdentity) -> None:
        """Have a leaf device that our own stand-in has; one that is here, or was deleted here, stays so.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            content = self._content
            if theirs.id in content.leaf_devices or theirs.id in content.leaf_changes:
                return
            generation = next_generation(content.last_generation, 0)
            empty = Device(str(generation), "enabled", b"", b"", in_cloud=True)
            leaves = {**content.leaf_devices, theirs.id: as_cloud_has(empty, theirs)}
            self._keep(replace(content, last_generation=generation, leaf_devices=leaves))

    def keep_leaves_here(self) -> None:
        """Take note that nobody is to be told of leaf devices: the IoT Hub is not our own stand-in.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            if self._content.leaf_changes:
                self._keep(replace(self._content, leaf_changes=()))

    def follow_cloud(self, scope: Mapping[str, HubIdentity]) -> None:
        """Make leaf devices that our own stand-in has, too, what it says of them; delete those it lacks.

        Raises:
            EnvironmentFault: the store cannot be written; nothing changed.
        """
        with self._changing:
            content = followed(self._content, scope)
            if content != self._content:
                self._keep(content)

    def _leaf_device(self, device_id: str) -> Device:
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
        return hmac.digest(module_identity(content, module_id).primary_key, data, "sha256")

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

    def _keep(self, content: Content) -> None:
        # First the disk: when that fails, memory must not know more than the next start will find.
        write_private_file(self._path, encode(content))
        self._content = content


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
