"""What the hub knows of an identity: how it proves who it is, and below which edge it stands.

Filled from the identities that this edge made, and in the same shape from the cloud's list of all devices and
modules in the scope of the edge.

Source: spec sheet hub-protocols.md section 5.4
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from messaging.envelope import Secret

AuthType = Literal["sas", "selfSigned", "certificateAuthority", "none"]
AUTH_TYPES: Final[tuple[AuthType, ...]] = ("sas", "selfSigned", "certificateAuthority", "none")
CERTIFICATES: Final = ("selfSigned", "certificateAuthority")  # only the device has the key of it

# A HubIdentity as an envelope can carry it: its fields in order.
Entry = tuple[str, AuthType, tuple[Secret, ...], tuple[str, ...], bool, str, tuple[str, ...], str]


class HubIdentity(Struct, frozen=True):
    """A device or module that may connect, with exactly one way to prove itself."""

    id: str  # `D` or `D/M`
    auth_type: AuthType = "sas"
    keys: tuple[Secret, ...] = ()  # of "sas": primary, secondary
    thumbprints: tuple[str, ...] = ()  # of "selfSigned": SHA-1 or SHA-256 of the certificate, capital hex
    enabled: bool = True
    device_scope: str = ""  # of an edge its own, of a leaf its parent's; "" for a module
    parent_scopes: tuple[str, ...] = ()
    generation_id: str = ""  # another one: made anew under an old name; "" when it is not known

    def entry(self) -> Entry:
        """Return the fields in order."""
        return (
            self.id,
            self.auth_type,
            self.keys,
            self.thumbprints,
            self.enabled,
            self.device_scope,
            self.parent_scopes,
            self.generation_id,
        )

    def proves_as(self, other: HubIdentity) -> bool:
        """Return whether what proved the one proves the other: otherwise its connections must end."""
        return self.entry()[:5] == other.entry()[:5]

    def is_same(self, other: HubIdentity) -> bool:
        """Return whether the two are one identity, and not one made anew under the name of the other.

        Who proves itself in the same way goes on to be itself: a generation may also become known, or be
        that of the cloud from now on.
        """
        generations = {self.generation_id, other.generation_id} - {""}
        return self.id == other.id and (len(generations) < 2 or self.proves_as(other))


class KnownIdentities(Struct, frozen=True):
    """All who may connect, and the CA certificates (DER) that devices of "certificateAuthority" may be of."""

    identities: tuple[HubIdentity, ...]
    authorities: tuple[bytes, ...] = ()
    left: tuple[str, ...] = ()  # ids of who is gone, as long as something of them is kept
    is_whole: bool = (
        True  # False: what the cloud said of devices is lost, so nobody is gone for being missing
    )


def capital_thumbprint(text: str) -> str:
    """Return a thumbprint as it is compared: `aa:bb…` and `AABB…` are the same.

    Raises:
        ValueError: it is no SHA-1 or SHA-256 in hex.
    """
    plain = text.strip().replace(":", "").upper()
    if len(plain) not in (40, 64) or set(plain) - set("0123456789ABCDEF"):
        raise ValueError("40 (SHA-1) or 64 (SHA-256) hex digits, with or without ':'")
    return plain
