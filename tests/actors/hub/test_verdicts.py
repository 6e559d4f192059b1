"""Who is whom: tokens and real certificates against identities of each type.

Rows are those of the spec sheet hub-protocols.md section 8.4.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from actors.hub import verdicts
from actors.hub.identity import HubIdentity
from messaging import sas
from messaging.envelope import Secret
from messaging.errors import AuthError
from messaging.identity import Identity
from runtime.security.client_certificates import check_certificate, thumbprints_of
from tests.runtime.client_certificates import ClientCertificate, make_client, make_signer

KEY, SECOND_KEY, DEVICE_KEY, FOREIGN_KEY = b"k" * 32, b"s" * 32, b"d" * 32, b"f" * 32
HOSTS = ("iothub.test", "edge.local")
DAY_S = 86_400.0


def keyed(identity: str, *keys: bytes, enabled: bool = True) -> HubIdentity:
    return HubIdentity(identity, keys=tuple(map(Secret, keys)), enabled=enabled)


def check(
    identity: str,
    *known: HubIdentity,
    token: str = "",
    certificates: tuple[bytes, ...] = (),
    authorities: tuple[bytes, ...] = (),
    now_s: float | None = None,
) -> float:
    return verdicts.check(
        identity,
        token,
        certificates,
        {each.id: each for each in known},
        hosts=HOSTS,
        authorities=authorities,
        check_certificate=check_certificate,
        now_s=time.time() if now_s is None else now_s,
    )


def token(audience: str, key: bytes = KEY, expires_s: int = 2_000_000_000) -> str:
    return sas.make_token(audience, key, expires_s)


# tokens


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(token("iothub.test/devices/D/modules/M"), id="49 host of the IoT Hub"),
        pytest.param(token("EDGE.local/devices/D/modules/M"), id="49 host of the edge, any case"),
        pytest.param(token("iothub.test/devices/D"), id="50 audience is the device"),
        pytest.param(token("iothub.test/devices/D", DEVICE_KEY), id="50 the device's key as well"),
        pytest.param(token("iothub.test/devices/%44/modules/M"), id="50 encoded twice"),
        pytest.param(token("iothub.test/devices/d/modules/m"), id="ids in other case"),
        pytest.param(token("iothub.test/devices/D/modules/M", SECOND_KEY), id="48 secondary key"),
    ],
)
def test_a_token_of_the_module_or_of_its_device_is_accepted(sent: str) -> None:
    known = (keyed("D/M", KEY, SECOND_KEY), keyed("D", DEVICE_KEY))

    assert check("D/M", *known, token=sent, now_s=1e9) == 2_000_000_000 + sas.CLOCK_SKEW_S


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(token("other.net/devices/D/modules/M"), "names the host", id="49 another host"),
        pytest.param(token("iothub.test/devices/D/modules"), "neither", id="49 four segments"),
        pytest.param(token("iothub.test/devices/D/modules/X"), "another identity", id="50 another module"),
        pytest.param(token("iothub.test/devices/E"), "another identity", id="50 another device"),
        pytest.param(token("iothub.test/devices/D/modules/M", FOREIGN_KEY), "signed with", id="another key"),
        pytest.param(
            token("iothub.test/devices/D/modules/M", DEVICE_KEY),
            "signed with",
            id="the device's key in the module's name",
        ),
        pytest.param(token("iothub.test/devices/D", expires_s=999_999_640), "expired 360 s ago", id="48"),
        pytest.param("hunter2", "form", id="a password"),
    ],
)
def test_a_token_of_somebody_else_is_refused(sent: str, reason: str) -> None:
    known = (keyed("D/M", KEY, SECOND_KEY), keyed("D", DEVICE_KEY))

    with pytest.raises(AuthError, match=reason) as caught:
        check("D/M", *known, token=sent, now_s=1e9)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        pytest.param((), "'D/M' is not known on this edge", id="unknown"),
        pytest.param((keyed("D/M", KEY, enabled=False),), "'D/M' is disabled", id="51 disabled"),
        pytest.param(
            (keyed("D/M", KEY), keyed("D", KEY, enabled=False)), "device 'D' .* is disabled", id="its device"
        ),
        pytest.param((HubIdentity("D/M", "none"),), "with none, not with a token", id="none"),
        pytest.param((HubIdentity("D/M", "selfSigned"),), "with selfSigned, not with a token", id="mixed"),
    ],
)
def test_a_token_is_worth_nothing_to_who_may_not_use_it(known: tuple[HubIdentity, ...], reason: str) -> None:
    with pytest.raises(AuthError, match=reason):
        check("D/M", *known, token=token("iothub.test/devices/D/modules/M"))


def test_who_shows_nothing_is_refused() -> None:
    with pytest.raises(AuthError, match="neither a token nor a certificate"):
        check("D", keyed("D", KEY))


def test_the_device_key_of_a_device_with_a_certificate_covers_no_module() -> None:
    known = (keyed("D/M", KEY), HubIdentity("D", "selfSigned", (Secret(DEVICE_KEY),)))

    with pytest.raises(AuthError, match="signed with"):
        check("D/M", *known, token=token("iothub.test/devices/D", DEVICE_KEY))


# certificates by thumbprint


@dataclass(frozen=True)
class Shown:
    """A certificate, and its end."""

    client: ClientCertificate

    @property
    def ends_s(self) -> float:
        return x509.load_der_x509_certificate(self.client.ders[0]).not_valid_after_utc.timestamp()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def own(folder: Path) -> Shown:
    return Shown(make_client(folder, "D"))


@pytest.mark.parametrize("length", [40, 64], ids=["SHA-1", "52 SHA-256"])
@pytest.mark.parametrize("second", [False, True], ids=["primary", "52 secondary"])
def test_a_certificate_with_a_registered_thumbprint_is_accepted_until_its_end(
    own: Shown, length: int, second: bool
) -> None:
    """Source: hub-protocols.md section 8.4, row 52."""
    [thumbprint] = [text for text in thumbprints_of(own.client.ders[0]) if len(text) == length]
    known = HubIdentity("D", "selfSigned", thumbprints=(*(("0" * length,) * second), thumbprint))

    assert check("D", known, certificates=own.client.ders) == own.ends_s


def test_another_thumbprint_is_refused(own: Shown) -> None:
    known = HubIdentity("D", "selfSigned", thumbprints=("0" * 40, "0" * 64))

    with pytest.raises(AuthError, match="another thumbprint"):
        check("D", known, certificates=own.client.ders)


@pytest.mark.parametrize("off_days", [-61, 31], ids=["not yet valid", "52 expired"])
def test_a_certificate_that_is_not_valid_now_is_refused_with_its_dates(own: Shown, off_days: int) -> None:
    known = HubIdentity("D", "selfSigned", thumbprints=tuple(thumbprints_of(own.client.ders[0])))

    with pytest.raises(AuthError, match=r"is valid from .* set the clock"):
        check("D", known, certificates=own.client.ders, now_s=time.time() + off_days * DAY_S)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        pytest.param(keyed("D", KEY), "with sas, not with a certificate", id="symmetric keys"),
        pytest.param(HubIdentity("D", "none"), "with none, not with a certificate", id="none"),
    ],
)
def test_a_certificate_against_another_type_is_refused(own: Shown, known: HubIdentity, reason: str) -> None:
    with pytest.raises(AuthError, match=reason):
        check("D", known, certificates=own.client.ders)


def test_a_certificate_that_is_shown_decides_and_not_the_token(own: Shown) -> None:
    sent = token("iothub.test/devices/D")

    with pytest.raises(AuthError, match="not with a certificate"):
        check("D", keyed("D", KEY), token=sent, certificates=own.client.ders)


@pytest.mark.parametrize("auth_type", ["selfSigned", "certificateAuthority"])
def test_row_53_modules_do_not_use_certificates(own: Shown, auth_type: str) -> None:
    prints = tuple(thumbprints_of(own.client.ders[0]))
    known = HubIdentity("D/M", auth_type, thumbprints=prints)  # type: ignore[arg-type]

    with pytest.raises(AuthError, match="modules prove themselves with tokens"):
        check("D/M", known, certificates=own.client.ders)


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(AuthError, match="cannot be read"):
        check("D", HubIdentity("D", "selfSigned", thumbprints=("0" * 40,)), certificates=(b"0\x82",))


# certificates by CA

BY_CA = HubIdentity("D", "certificateAuthority")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_certificate_of_a_trusted_ca_is_accepted_directly_and_by_one_that_it_sends_along(
    folder: Path,
) -> None:
    root = make_signer("root")
    between = make_signer("between", issuer=root)
    direct = Shown(make_client(folder, "D", signer=root))
    further = Shown(make_client(folder, "D", signer=between, sent_along=[between]))
    trusted = (b"not a certificate", der(root.certificate))

    assert check("D", BY_CA, certificates=direct.client.ders, authorities=trusted) == direct.ends_s
    assert check("D", BY_CA, certificates=further.client.ders, authorities=trusted) <= further.ends_s


def test_row_53_certificates_of_a_ca_that_are_refused(folder: Path) -> None:
    """Source: hub-protocols.md section 8.4, row 53."""
    root, stranger = make_signer("root"), make_signer("stranger")
    between, no_ca = make_signer("between", issuer=root), make_signer("no CA", issuer=root, is_ca=False)
    expired_ca = make_signer("expired CA", days=-1)
    as_ca = make_signer("D", issuer=root)
    trusted = (der(root.certificate), der(expired_ca.certificate))
    rows = [
        ("common name", make_client(folder, "X", signer=root).ders, 0.0),
        ("is one of a CA", (der(as_ca.certificate),), 0.0),
        ("is valid from", make_client(folder, "D", signer=root, days=-1).ders, 0.0),
        ("is valid from", make_client(folder, "D", signer=root).ders, -61 * DAY_S),
        ("is of no CA", make_client(folder, "D", signer=between).ders, 0.0),  # without the one between
        ("is of no CA", make_client(folder, "D", signer=no_ca, sent_along=[no_ca]).ders, 0.0),
        ("is of no CA", make_client(folder, "D", signer=stranger, sent_along=[stranger]).ders, 0.0),
        ("is of no CA", make_client(folder, "D").ders, 0.0),
        ("is valid from", make_client(folder, "D", signer=expired_ca).ders, 0.0),
    ]

    for reason, certificates, later_s in rows:
        with pytest.raises(AuthError, match=reason):
            check("D", BY_CA, certificates=certificates, authorities=trusted, now_s=time.time() + later_s)


def test_what_proves_a_certificate_of_a_ca_is_no_token() -> None:
    with pytest.raises(AuthError, match="with certificateAuthority, not with a token"):
        check("D", BY_CA, token=sas.make_token(sas.audience_of(HOSTS[0], Identity("D")), KEY, 2_000_000_000))
