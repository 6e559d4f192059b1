"""Who may connect to the hub: what the key store has, and what the cloud says of the scope of this edge."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from actors.hub.identity import HubIdentity
from actors.hub.scope import SCOPE
from messaging import sas
from messaging.envelope import Secret
from messaging.identity import Identity as Name
from runtime.security.key_content import Identity
from runtime.upstream.provisioning import Provisioned


def own_identities(kept: Sequence[Identity]) -> tuple[HubIdentity, ...]:
    """Return the identities of a key store, the edge device first."""
    edge = kept[0]
    scope = f"{SCOPE}{edge.device_id}-{edge.generation_id}"
    return tuple(_hub_identity(identity, edge, scope) for identity in kept)


def with_scope(
    own: Sequence[HubIdentity],
    scope: Sequence[HubIdentity],
    provisioned: Provisioned,
    pending: Collection[str] = (),
) -> tuple[HubIdentity, ...]:
    """Return all who may connect, the edge device first.

    Of the edge itself and of devices the cloud knows best; of modules that are here, we do: their keys are
    ours, and the cloud gets them from us. What only one side knows is known, so a device that was made here
    before there was a cloud goes on to work.

    Args:
        own: From `own_identities`.
        scope: What the cloud said last.
        pending: Ids of what changed here, or was deleted, and the cloud was not told yet: our word counts.
    """
    edge = own[0]
    said = {identity.id: identity for identity in scope if identity.id not in pending}
    # With a certificate, what the cloud has of it is said by the scope.
    key = provisioned.device_key.reveal().decode()
    keys = (Secret(sas.decode_key(key)),) if key else ()
    first = said.get(edge.id) or replace(edge, keys=keys)
    known = {first.id: first}
    for identity in own[1:]:
        is_module = "/" in identity.id
        theirs = None if is_module else said.get(identity.id)
        ours = (
            identity
            if is_module
            else replace(identity, device_scope=first.device_scope, parent_scopes=(first.device_scope,))
        )
        known[identity.id] = theirs or ours
    for name, identity in said.items():
        known.setdefault(name, identity)
    return tuple(known.values())


def _hub_identity(identity: Identity, edge: Identity, scope: str) -> HubIdentity:
    keys = (identity.primary_key, identity.secondary_key) if identity.auth_type == "sas" else ()
    is_leaf = identity.module_id is None and identity is not edge
    return HubIdentity(
        Name(identity.device_id, identity.module_id).id,
        identity.auth_type,
        tuple(map(Secret, keys)),
        identity.thumbprints,
        identity.status == "enabled",
        scope if identity.module_id is None else "",
        (scope,) if is_leaf else (),
        identity.generation_id,
    )
