"""What changes with identities that are told anew: who is gone, who has other keys, who is cut off. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.hub.identity import CERTIFICATES, HubIdentity
from actors.hub.scope import edges_above
from messaging.identity import EDGE_HUB


def others(before: Mapping[str, HubIdentity], told: Sequence[HubIdentity]) -> tuple[HubIdentity, ...]:
    """Return who was known, is not named now, and does not belong to the edge, which is named first."""
    named = {identity.id for identity in told}
    edge = told[0].id if told else ""
    return tuple(
        known for name, known in before.items() if name not in named and name.partition("/")[0] != edge
    )


def gone(before: Mapping[str, HubIdentity], now: Iterable[HubIdentity]) -> list[str]:
    """Return who is not there any more, those included whose name somebody else has now."""
    after = {identity.id: identity for identity in now}
    return [name for name, known in before.items() if name not in after or not after[name].is_same(known)]


def changed(before: Mapping[str, HubIdentity], now: Mapping[str, HubIdentity], own_id: str) -> list[str]:
    """Return whose access is another one, new ones and those that are gone included.

    With that of the hub `own_id` also that of all for whom it speaks.
    """
    found = {
        identity
        for identity in {**before, **now}
        if (known := before.get(identity)) is None
        or (after := now.get(identity)) is None
        or not after.proves_as(known)
    }
    spoken_for = now.values() if own_id in found else ()
    found |= {identity.id for identity in spoken_for if identity.auth_type in CERTIFICATES}
    return [identity for identity in {**before, **now} if identity in found]


def cut_off(
    before: Mapping[str, HubIdentity], now: Mapping[str, HubIdentity], same_authorities: bool
) -> list[str]:
    """Return who may be connected and would have to prove itself anew.

    The modules of a device with it, and those for whom the hub of an edge may connect no longer.
    """
    changed = set()
    for identity, known in before.items():
        after = now.get(identity)
        by_authority = known.auth_type == "certificateAuthority"
        if after is None or not after.proves_as(known) or (by_authority and not same_authorities):
            changed.add(identity)
    changed |= {identity for identity in before if identity.partition("/")[0] in changed}
    return [
        identity
        for identity in before
        if identity in changed or not _actors(identity, before) <= _actors(identity, now) - changed
    ]


def _actors(identity: str, known: Mapping[str, HubIdentity]) -> set[str]:
    """Return the hubs of edges that may connect for an identity."""
    hubs = (f"{edge}/{EDGE_HUB}" for edge in edges_above(identity, known))
    return {hub for hub in hubs if hub in known}
