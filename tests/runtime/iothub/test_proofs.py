"""Who may be a device or module."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from messaging.clock import ManualClock
from messaging.errors import AuthError
from messaging.identity import EDGE_HUB, Identity
from messaging.sas import audience_of, decode_key, make_token
from runtime.iothub.hub import AUTHORITY, IotHub
from tests.runtime.iothub.fakes import HOST, run, token_of

D = Identity("d")
M = Identity("d", "m")

Key = ec.EllipticCurvePrivateKey


class Certificate:
    """A certificate with its key, issued by another one or by itself."""

    def __init__(
        self, name: str, now_s: float, issuer: Certificate | None = None, is_ca: bool = False, days: int = 1
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        begin = datetime.fromtimestamp(now_s, UTC) - timedelta(days=abs(days))
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(datetime.fromtimestamp(now_s, UTC) + timedelta(days=days, hours=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .sign(issuer.key if issuer else self.key, hashes.SHA256())
        )
        self.der = self.certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "which", ["own key", "second key", "device's key for its module", "policy device", "policy owner"]
)
def test_a_good_token_is_accepted(tmp_path: Path, which: str) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        for identity in (D, M):
            await hub.put(identity, {})
        end = int(clock.now_s()) + 60
        auth = (await hub.find(M)).authentication
        token = {
            "own key": await token_of(hub, M),
            "second key": make_token(audience_of(HOST, M), decode_key(auth.secondary_key), end),
            "device's key for its module": await token_of(hub, D),
            "policy device": _policy_token(hub, "device", end),
            "policy owner": _policy_token(hub, "iothubowner", end),
        }[which]

        grant = await hub.authenticate(M, token, None)

        scope = "hub" if which.startswith("policy") else "module"
        assert grant.auth_method == f'{{"scope":"{scope}","type":"sas","issuer":"iothub"}}'
        assert grant.expires_s == end

    run(tmp_path, test)


@pytest.mark.parametrize(
    "which", ["module's key for its device", "another device's", "policy without it", "expired", "disabled"]
)
def test_a_token_of_somebody_else_or_of_yesterday_is_refused(tmp_path: Path, which: str) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        for identity in (D, M, Identity("e")):
            await hub.put(identity, {})
        tokens = {
            "module's key for its device": await token_of(hub, M),
            "another device's": await token_of(hub, Identity("e")),
            "policy without it": _policy_token(hub, "service", int(clock.now_s()) + 60),
            "expired": await token_of(hub, D, seconds=-301),
            "disabled": await token_of(hub, D),
        }
        if which == "disabled":
            await hub.put(D, {"status": "disabled"}, "*")

        with pytest.raises(AuthError):
            await hub.authenticate(D, tokens[which], None)

    run(tmp_path, test)


def test_the_hub_of_an_edge_speaks_for_what_is_below_it_and_for_nobody_else(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        edge = await hub.put(Identity("e1"), {"capabilities": {"iotEdge": True}})
        key = {"primaryKey": "A" * 43 + "="}
        await hub.put(Identity("e1", EDGE_HUB), {"authentication": {"symmetricKey": key}}, "*")
        await hub.put(Identity("leaf"), {"deviceScope": edge.device_scope})
        await hub.put(Identity("e1", "m"), {})
        await hub.put(D, {})
        token = await token_of(hub, Identity("e1", EDGE_HUB))

        for below in (Identity("e1"), Identity("leaf"), Identity("e1", "m"), Identity("e1", EDGE_HUB)):
            assert (await hub.authenticate(below, token, None)).identity == below
        with pytest.raises(AuthError):
            await hub.authenticate(D, token, None)

    run(tmp_path, test)


@pytest.mark.parametrize("algorithm", [hashlib.sha1, hashlib.sha256], ids=["SHA-1", "SHA-256"])
@pytest.mark.parametrize("which", ["primaryThumbprint", "secondaryThumbprint"])
def test_a_registered_thumbprint_is_accepted(tmp_path: Path, algorithm: Any, which: str) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        shown = Certificate("any name", clock.now_s())
        prints = {which: algorithm(shown.der).hexdigest()}
        await hub.put(D, {"authentication": {"type": "selfSigned", "x509Thumbprint": prints}})

        grant = await hub.authenticate(D, None, shown.der)

        assert grant.auth_method == '{"scope":"device","type":"x509Certificate","issuer":"iothub"}'
        assert grant.expires_s is None
        with pytest.raises(AuthError, match="thumbprint"):
            await hub.authenticate(D, None, Certificate("d", clock.now_s()).der)
        with pytest.raises(AuthError, match="not with a token"):
            await hub.authenticate(D, make_token(audience_of(HOST, D), b"k" * 32, int(2e9)), shown.der)

    run(tmp_path, test)


Chain = Callable[[float], tuple[Certificate, list[Certificate], Certificate]]


def _direct(now_s: float) -> tuple[Certificate, list[Certificate], Certificate]:
    ca = Certificate("root", now_s, is_ca=True)
    return Certificate("d", now_s, ca), [], ca


def _with_intermediates(now_s: float) -> tuple[Certificate, list[Certificate], Certificate]:
    ca = Certificate("root", now_s, is_ca=True)
    middle = Certificate("middle", now_s, ca, is_ca=True)
    low = Certificate("low", now_s, middle, is_ca=True)
    return Certificate("d", now_s, low), [middle, low, ca], ca


@pytest.mark.parametrize("chain", [_direct, _with_intermediates])
def test_a_certificate_of_a_registered_ca_is_accepted(tmp_path: Path, chain: Chain) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        shown, issuers, ca = chain(clock.now_s())
        await hub.save_document(AUTHORITY, "ca", {"der": ca.der})
        await hub.put(D, {"authentication": {"type": "certificateAuthority"}})

        assert (await hub.authenticate(D, None, shown.der, [each.der for each in issuers])).identity == D

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda ca, now: Certificate("x", now, ca), "common name", id="another name"),
        pytest.param(lambda ca, now: Certificate("d", now, ca, is_ca=True), "one of a CA", id="a CA itself"),
        pytest.param(lambda ca, now: Certificate("d", now, ca, days=-2), "valid from", id="expired"),
        pytest.param(lambda ca, now: Certificate("d", now), "no CA", id="signed by itself"),
        pytest.param(
            lambda ca, now: Certificate("d", now, Certificate("root", now, is_ca=True)),
            "no CA",
            id="a CA of the same name",
        ),
    ],
)
def test_another_certificate_is_refused(tmp_path: Path, make: Any, words: str) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        ca = Certificate("root", clock.now_s(), is_ca=True)
        await hub.save_document(AUTHORITY, "ca", {"der": ca.der})
        await hub.put(D, {"authentication": {"type": "certificateAuthority"}})

        with pytest.raises(AuthError, match=words):
            await hub.authenticate(D, None, make(ca, clock.now_s()).der)

    run(tmp_path, test)


def test_a_leaf_cannot_stand_between_a_ca_and_another_leaf(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        ca = Certificate("root", clock.now_s(), is_ca=True)
        leaf = Certificate("other", clock.now_s(), ca)
        forged = Certificate("d", clock.now_s(), leaf)
        await hub.save_document(AUTHORITY, "ca", {"der": ca.der})
        await hub.put(D, {"authentication": {"type": "certificateAuthority"}})

        with pytest.raises(AuthError, match="no CA"):
            await hub.authenticate(D, None, forged.der, [leaf.der])

    run(tmp_path, test)


def test_who_shows_nothing_or_is_unknown_is_refused(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        with pytest.raises(AuthError, match="neither"):
            await hub.authenticate(D, None, None)
        with pytest.raises(AuthError, match="not registered"):
            await hub.authenticate(Identity("x"), "token", None)
        with pytest.raises(AuthError, match="not with a certificate"):
            await hub.authenticate(D, None, Certificate("d", clock.now_s()).der)
        with pytest.raises(AuthError, match="cannot be read"):
            await hub.authenticate(D, None, b"no certificate")

    run(tmp_path, test)


def _policy_token(hub: IotHub, name: str, expires_s: int) -> str:
    return make_token(HOST, decode_key(hub.policies.find(name).primary_key), expires_s, name)
