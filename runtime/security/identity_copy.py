"""The hub's own copy of the identities, so that known clients are served when no agent is there to ask."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgpack

from actors.hub.identity import HubIdentity, KnownIdentities
from messaging.envelope import Secret
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)


class IdentityFile:
    """Implements `actors.hub.identities.IdentityCopy`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> KnownIdentities | None:
        """Return the copy; None when there is none, or a damaged one, which the agent's answer replaces."""
        try:
            content = msgpack.unpackb(self._path.read_bytes(), use_list=False)
            return _decode(content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as exc:
            log.warning("%s is damaged (%s): waiting for the agent to send the identities", self._path, exc)
            return None

    def save(self, known: KnownIdentities) -> None:
        """Replace the copy."""
        content = {
            "identities": [_encode_identity(identity) for identity in known.identities],
            "authorities": known.authorities,
            "left": known.left,
        }
        write_private_file(self._path, msgpack.packb(content))


def _decode(content: Any) -> KnownIdentities:
    if isinstance(content, tuple):  # written when tokens were all there was
        return KnownIdentities(
            tuple(
                HubIdentity(str(name), keys=(Secret(bytes(first)), Secret(bytes(second))), enabled=bool(on))
                for name, first, second, on in content
            )
        )
    return KnownIdentities(
        tuple(map(_decode_identity, content["identities"])),
        tuple(map(bytes, content["authorities"])),
        tuple(map(str, content.get("left", ()))),
    )


def _encode_identity(identity: HubIdentity) -> tuple[Any, ...]:
    name, auth_type, keys, *rest = identity.entry()
    return (name, auth_type, [key.reveal() for key in keys], *rest)


def _decode_identity(entry: Any) -> HubIdentity:
    name, auth_type, keys, thumbprints, enabled, scope, parents, *rest = entry
    generation = str(rest[0]) if rest else ""  # copies of earlier releases have none
    return HubIdentity(
        str(name),
        auth_type,
        tuple(map(Secret, keys)),
        thumbprints,
        bool(enabled),
        str(scope),
        parents,
        generation,
    )
