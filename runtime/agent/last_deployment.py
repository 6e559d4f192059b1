"""Keeps the last good deployment from the cloud, encrypted, for a start without the cloud.

HOME/deployment.sealed: one byte of version, the IV, then what the key store sealed. A deployment holds
passwords of registries and of modules; the key that opens it is in HOME/keys.json, which never leaves the
device, so that a copy of this file alone tells nothing.

Source: spec sheet agent.md section 6.2
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from actors.agent.deployment_keeper import KeptDeployment
from messaging.errors import AuthError
from runtime.security.key_store import KeyStore
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)

_VERSION: Final = b"\x01"
_IV_BYTES: Final = 12
_OWNER: Final = "$edgeAgent"
_PURPOSE: Final = "deployment"  # in the place of a generation id: no module can have it opened


class LastDeployment:
    """One file. Used by one thread at a time."""

    def __init__(self, path: Path, keys: KeyStore) -> None:
        self._path = path
        self._keys = keys

    def load(self) -> KeptDeployment | None:
        """Return what was kept; None when there is nothing, or nothing that can be read, which is logged."""
        try:
            content = self._path.read_bytes()
            iv, sealed = content[1 : 1 + _IV_BYTES], content[1 + _IV_BYTES :]
            if content[:1] != _VERSION:
                raise AuthError("it is of another version, or damaged")
            plain = self._keys.decrypt(_OWNER, _PURPOSE, iv, sealed)
            return msgspec.msgpack.decode(plain, type=KeptDeployment)
        except FileNotFoundError:
            return None
        except (OSError, AuthError, msgspec.MsgspecError) as exc:
            log.warning("%s cannot be used (%s): the edge waits for the cloud's deployment", self._path, exc)
            return None

    def keep(self, kept: KeptDeployment) -> None:
        """Replace what was kept; on disk when this returns.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        iv = os.urandom(_IV_BYTES)
        sealed = self._keys.encrypt(_OWNER, _PURPOSE, iv, msgspec.msgpack.encode(kept))
        write_private_file(self._path, _VERSION + iv + sealed)
