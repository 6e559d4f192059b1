"""What the IoT Hub said last of the identities in the scope of this edge: a private file in the home."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from actors.hub.identity import AuthType, HubIdentity
from messaging.envelope import Secret
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)

_VERSION: Final = 1


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    auth_type: AuthType
    keys: tuple[str, ...]
    thumbprints: tuple[str, ...]
    enabled: bool
    device_scope: str
    parent_scopes: tuple[str, ...]
    generation_id: str = ""


class _File(msgspec.Struct, frozen=True, rename="camel"):
    version: int
    at_s: float  # when the cloud said so, seconds since 1970-01-01 UTC
    identities: tuple[_Entry, ...]


class ScopeFile:
    """The last scope. One thread writes, any may read."""

    def __init__(self, path: Path) -> None:
        """Read the file. A damaged one counts as none: the hub's copy counts until the cloud answers."""
        self._path = path
        self._known = _load(path)

    @property
    def at_s(self) -> float:
        """When the cloud said so, seconds since 1970-01-01 UTC; 0: never."""
        return self._known[0]

    @property
    def identities(self) -> tuple[HubIdentity, ...]:
        """What it said."""
        return self._known[1]

    def replace(self, at_s: float, identities: Iterable[HubIdentity]) -> None:
        """Know this from now on, also after a restart.

        Raises:
            EnvironmentFault: it cannot be written; what was known stays.
        """
        known = (at_s, tuple(identities))
        file = _File(_VERSION, at_s, tuple(map(_entry, known[1])))
        write_private_file(self._path, msgspec.json.encode(file))
        self._known = known


def _load(path: Path) -> tuple[float, tuple[HubIdentity, ...]]:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        if file.version != _VERSION:
            raise ValueError(f"it has version {file.version}")
        return file.at_s, tuple(map(_identity, file.identities))
    except FileNotFoundError:
        return 0.0, ()
    except (OSError, ValueError, msgspec.DecodeError) as exc:
        log.warning("%s cannot be read (%s): the hub's copy counts until the cloud answers", path, exc)
        return 0.0, ()


def _identity(entry: _Entry) -> HubIdentity:
    keys = tuple(Secret(base64.b64decode(key, validate=True)) for key in entry.keys)
    return HubIdentity(
        entry.id,
        entry.auth_type,
        keys,
        entry.thumbprints,
        entry.enabled,
        entry.device_scope,
        entry.parent_scopes,
        entry.generation_id,
    )


def _entry(identity: HubIdentity) -> _Entry:
    return _Entry(
        identity.id,
        identity.auth_type,
        tuple(base64.b64encode(key.reveal()).decode() for key in identity.keys),
        identity.thumbprints,
        identity.enabled,
        identity.device_scope,
        identity.parent_scopes,
        identity.generation_id,
    )
