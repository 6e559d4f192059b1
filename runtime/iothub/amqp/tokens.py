"""The tokens that one AMQP connection of the stand-in has shown, and what they prove.

IoT Hub checks a token when it is shown, where an edge hub waits until a link is attached: whoever has a wrong
key hears 401 on `$cbs`.

Source: spec sheet hub-protocols.md sections 3.2, 5.1, 5.4 and 7.8
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from messaging import sas
from messaging.amqp.cbs import PutToken, Tokens
from messaging.amqp.conditions import UNAUTHORIZED_ACCESS, Refusal
from messaging.errors import AuthError, ConfigError
from messaging.identity import Identity
from messaging.sas import CLOCK_SKEW_S, SasToken
from runtime.iothub.hub import IotHub
from runtime.iothub.policies import Permission
from runtime.iothub.records import Grant

_HUB_MODULE: Final = "$edgeHub"


class Proof(Struct, frozen=True):
    """What an identity was let in with."""

    grant: Grant
    holder: str = ""  # whose token it was, as `holder_of` writes it; "" for a certificate


class ShownTokens:
    """Belongs to one connection."""

    def __init__(self, hub: IotHub) -> None:
        self._hub = hub
        self._tokens = Tokens()
        self._holders: dict[str, float] = {}  # when the token of each expires
        self._speakers: dict[str, Identity] = {}  # `$edgeHub` modules: their tokens count for their scope

    async def show(self, shown: PutToken, identity: Identity | None = None) -> Refusal | None:
        """Check a token and keep it; a refusal says that there are too many.

        Args:
            shown: The token.
            identity: For whom it has to count; None: for whom its audience names.

        Raises:
            AuthError: it is not genuine, or not for this hub, or its holder may not connect.
            StoreError: the database does not answer; it may be tried again.
        """
        text = shown.token.reveal().decode()
        token = sas.parse_token(text)
        if identity is None and shown.key_name and not _names_device(token):
            self._check_policy(token)
        else:
            identity = identity or _identity_of(token)
            await self._hub.authenticate(identity, text, None)
            if identity.module_id == _HUB_MODULE:
                self._speakers[shown.holder] = identity
        refusal = self._tokens.put(shown)
        if refusal is None:
            self._holders[shown.holder] = shown.expires_s
        return refusal

    async def authenticate(
        self, identity: Identity, chain: Sequence[str], certificates: Sequence[bytes]
    ) -> Proof | Refusal:
        """Say whether this connection may speak for an identity.

        Args:
            identity: Whose link it is.
            chain: The edges above it as the client names them, if it does.
            certificates: What the client showed in the TLS handshake, its own first, as DER.

        Raises:
            StoreError: the database does not answer; it may be tried again.
        """
        reason = ""
        for shown in self._candidates(identity, chain):
            try:
                grant = await self._hub.authenticate(identity, shown.token.reveal().decode(), None)
                return Proof(grant, shown.holder)
            except AuthError as exc:
                reason = reason or str(exc)
        if certificates and not reason:  # a token counts before a certificate
            try:
                return Proof(await self._hub.authenticate(identity, None, certificates[0], certificates[1:]))
            except AuthError as exc:
                reason = str(exc)
        return Refusal(
            UNAUTHORIZED_ACCESS,
            reason or f"no token that counts for '{identity}' was put on this connection",
        )

    def permit(self, permission: Permission, resource: str) -> str:
        """Return the name of a shared access policy, shown on this connection, that allows something.

        Args:
            permission: What it has to allow.
            resource: What a token has to cover, as a path: `/messages/devicebound`.

        Raises:
            AuthError: there is none.
        """
        reason = "no token of a shared access policy was put on this connection"
        for shown in self._tokens.of_services():
            token = sas.parse_token(shown.token.reveal().decode())
            try:
                self._check_policy(token, resource)
            except AuthError as exc:
                reason = str(exc)
                continue
            if permission in self._hub.policies.find(shown.key_name).permissions:
                return shown.key_name
            reason = f"the shared access policy '{shown.key_name}' does not allow this"
        raise AuthError(reason)

    def expires_s(self, holder: str) -> float:
        """Return when the token of a holder expires, in seconds since 1970-01-01 UTC."""
        return self._holders[holder]

    def any_valid(self, now_s: float) -> bool:
        """Whether a token counts now."""
        return any(now_s < expires_s + CLOCK_SKEW_S for expires_s in self._holders.values())

    def _candidates(self, identity: Identity, chain: Sequence[str]) -> Iterator[PutToken]:
        """What may prove an identity: its own token, its device's, one of an edge above it, a policy's."""
        named = [Identity(device_id, _HUB_MODULE) for device_id in chain]
        tried: set[str] = set()
        for one in (identity, *named, *self._speakers.values()):
            found = self._tokens.find(one)
            if found is not None and found.holder not in tried:
                tried.add(found.holder)
                yield found
        yield from (shown for shown in self._tokens.of_services() if shown.holder not in tried)

    def _check_policy(self, token: SasToken, resource: str | None = None) -> None:
        policy = self._hub.policies.find(token.key_name)
        if resource is None:
            resource = sas.resource_of(token)
        keys = (*policy.keys, *policy.event_hubs_keys)
        sas.check_resource(token, keys, policy.name, resource, self._hub.hosts, self._hub.clock.now_s())


def _names_device(token: SasToken) -> bool:
    return sas.resource_of(token).lower().startswith("/devices/")


def _identity_of(token: SasToken) -> Identity:
    """Return whom an audience names, in its own spelling: ids are told apart by case in the registry.

    Raises:
        AuthError: nobody.
    """
    segments = unquote(sas.resource_of(token)).split("/")
    try:
        return Identity(segments[2], segments[4] if len(segments) > 4 else None)
    except (IndexError, ConfigError) as exc:
        raise AuthError("the token's audience names no device and no module") from exc
