"""Shared access signatures: the tokens with which devices and modules prove who they are.

A token is an HMAC over an audience (`sr`) and the time of expiry (`se`). The audience is signed exactly as it
was sent: clients differ in how they percent-encode it (`%2F`, `%2f`, raw slashes), so it is never re-encoded.

Source: spec sheet hub-protocols.md section 5.1
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, unquote_plus

from messaging.errors import AuthError
from messaging.identity import Identity
from messaging.text import quoted

SCHEME = "SharedAccessSignature"
CLOCK_SKEW_S = 300

_URI_SCHEME = re.compile(r"^[a-z]+://", re.ASCII | re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class SasToken:
    """A token as it was sent; nothing in it is proven before `check`."""

    audience: str  # `sr`, not decoded
    expiry: str  # `se`, decoded: seconds since 1970-01-01 UTC
    signature: bytes = field(repr=False)
    key_name: str = ""  # `skn`

    @property
    def expires_s(self) -> float:
        """When the token ends, in seconds since 1970-01-01 UTC; `CLOCK_SKEW_S` are granted on top."""
        return float(self.expiry)


def decode_key(text: str) -> bytes:
    """Return the key that a connection string or an identity holds as base64.

    Raises:
        AuthError: `text` is empty or not base64.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise AuthError("a shared access key is not base64") from exc
    if not key:
        raise AuthError("a shared access key is empty")
    return key


def audience_of(host: str, identity: Identity) -> str:
    """Return the audience of a token for `identity`, not percent-encoded."""
    audience = f"{host}/devices/{identity.device_id}"
    return audience if identity.module_id is None else f"{audience}/modules/{identity.module_id}"


def make_token(audience: str, key: bytes, expires_s: int, key_name: str = "") -> str:
    """Return a token for `audience` (see `audience_of`) that ends at `expires_s`, seconds since 1970 UTC."""
    encoded = quote(audience, safe="")
    signature = base64.b64encode(_sign(encoded, str(expires_s), key)).decode("ascii")
    token = f"{SCHEME} sr={encoded}&sig={quote(signature, safe='')}&se={expires_s}"
    return f"{token}&skn={quote(key_name, safe='')}" if key_name else token


def parse_token(text: str) -> SasToken:
    """Read a token; whether it is genuine and in time is for `check` to say.

    Raises:
        AuthError: it does not have the form of a token. The message never shows the token.
    """
    words = text.split()
    if len(words) != 2 or words[0] != SCHEME:
        raise AuthError(f"the token does not have the form '{SCHEME} sr=...&sig=...&se=...'")
    fields: dict[str, str] = {}
    for part in words[1].split("&"):
        if not part:
            continue
        name, equals, value = part.partition("=")
        name = name.lower()
        if not equals or "=" in value:
            raise AuthError(f"the token's field {quoted(name)} is not name=value; '=' in a value must be %3D")
        if name in fields:
            raise AuthError(f"the token has the field {quoted(name)} twice")
        fields[name] = value if name == "sr" else unquote_plus(value)
    missing = [name for name in ("sr", "sig", "se") if not fields.get(name)]
    if missing:
        raise AuthError(f"the token has no {', '.join(missing)}")
    if not _SECONDS.fullmatch(fields["se"]):
        raise AuthError(f"the token's se {quoted(fields['se'])} is not a number of seconds since 1970")
    try:
        signature = base64.b64decode(fields["sig"], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise AuthError("the token's sig is not percent-encoded base64") from exc
    return SasToken(fields["sr"], fields["se"], signature, fields.get("skn", ""))


def named_by(token: SasToken) -> str:
    """Return the id that a token's audience names, `d` or `d/m` in lower case; "" when it names none."""
    segments = unquote(unquote(token.audience)).lower().split("/")
    return "/".join(segments[2::2]) if len(segments) in (3, 5) else ""


def check(
    token: SasToken, keys: Iterable[bytes], identity: Identity, hosts: Collection[str], now_s: float
) -> None:
    """Return when `token` proves that its sender is `identity`.

    Args:
        keys: The identity's keys, usually primary and secondary; one of them must have signed.
        hosts: Host names that the audience may start with: of the IoT Hub and of this hub; case is ignored.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        AuthError: expired, meant for another host or identity, or signed with another key.
    """
    _check_time(token, identity.id, now_s)
    _check_audience(token, identity, hosts)
    _check_signature(token, keys, identity.id)


def check_resource(
    token: SasToken, keys: Iterable[bytes], signer: str, resource: str, hosts: Collection[str], now_s: float
) -> None:
    """Return when `token` lets its bearer use a resource of REST: its audience is that or lies above it.

    Args:
        keys: Of the shared access policy, device or module that the token claims to be of.
        signer: Its name, for errors.
        resource: The path of the request, decoded: `/devices/d`.
        hosts: Host names of the IoT Hub; a scheme before one in the audience and a port behind it are let
            pass, case is ignored.
        now_s: Seconds since 1970-01-01 UTC.

    Raises:
        AuthError: expired, meant for another host or resource, or signed with another key.

    Source: spec sheet security-daemon.md sections 4.3 and 4.6
    """
    _check_time(token, signer, now_s)
    audience = unquote(token.audience)
    host, path = _host_and_path(token)
    _check_host(host.partition(":")[0], signer, hosts)
    above = path.rstrip("/").lower()
    if above and above != resource.lower() and not resource.lower().startswith(f"{above}/"):
        raise AuthError(f"token of '{signer}': audience {quoted(audience)} is another resource than this")
    _check_signature(token, keys, signer)


def resource_of(token: SasToken) -> str:
    """Return the path in a token's audience, decoded: `/devices/d`; "" when it is a host alone."""
    return _host_and_path(token)[1]


def _host_and_path(token: SasToken) -> tuple[str, str]:
    audience = _URI_SCHEME.sub("", unquote(token.audience), 1)
    host, slash, path = audience.partition("/")
    return host, f"{slash}{unquote(path)}"


def _check_time(token: SasToken, signer: str, now_s: float) -> None:
    late_s = now_s - token.expires_s
    if late_s > CLOCK_SKEW_S:
        raise AuthError(
            f"token of '{signer}' expired {late_s:.0f} s ago; "
            f"{CLOCK_SKEW_S} s of clock difference are allowed, so make a new token or set the clock"
        )


def _check_signature(token: SasToken, keys: Iterable[bytes], signer: str) -> None:
    # Every key is tried, so that the time taken does not tell which one fits.
    genuine = [hmac.compare_digest(_sign(token.audience, token.expiry, key), token.signature) for key in keys]
    if not any(genuine):
        raise AuthError(f"token of '{signer}' is signed with a key that is not the identity's")


def _check_host(host: str, signer: str, hosts: Collection[str]) -> None:
    if host.lower() not in {host.lower() for host in hosts}:
        raise AuthError(
            f"token of '{signer}': audience names the host {quoted(host)}, "
            f"expected {' or '.join(sorted(hosts))}"
        )


def _sign(audience: str, expiry: str, key: bytes) -> bytes:
    return hmac.digest(key, f"{audience}\n{expiry}".encode(), hashlib.sha256)


def _check_audience(token: SasToken, identity: Identity, hosts: Collection[str]) -> None:
    audience = unquote(token.audience)
    segments = audience.split("/")
    if len(segments) not in (3, 5):
        raise AuthError(
            f"token of '{identity}': audience {quoted(audience)} is neither "
            "{host}/devices/{device} nor {host}/devices/{device}/modules/{module}"
        )
    _check_host(segments[0], identity.id, hosts)
    # A token of the device covers its modules, too; one of a module covers that module alone.
    covered = _same_id(segments[2], identity.device_id) and (
        len(segments) == 3 or (identity.module_id is not None and _same_id(segments[4], identity.module_id))
    )
    if not covered:
        raise AuthError(f"token of '{identity}': audience {quoted(audience)} is another identity's")


def _same_id(sent: str, own: str) -> bool:
    """Ids in an audience may be percent-encoded once more than the audience itself; case is ignored."""
    return own.lower() in (sent.lower(), unquote(sent).lower())
