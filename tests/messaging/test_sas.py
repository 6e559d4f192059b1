import base64
import hashlib
import hmac
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import AuthError
from messaging.identity import Identity
from messaging.sas import audience_of, check, decode_key, make_token, parse_token

PRIMARY = b"primary key of the identity"
SECONDARY = b"secondary key"
HUB = "contoso.azure-devices.net"
EDGE = "Edge-7.local"
HOSTS = (HUB, EDGE)
NOW_S = 1_900_000_000
DEVICE = Identity("D")
MODULE = Identity("D", "M")


def token_for(audience: str, key: bytes = PRIMARY, expires_s: int = NOW_S + 3600) -> str:
    return make_token(audience, key, expires_s)


def accept(text: str, identity: Identity = DEVICE, now_s: float = NOW_S) -> None:
    check(parse_token(text), [PRIMARY, SECONDARY], identity, HOSTS, now_s)


def as_sent(sr: str, key: bytes = PRIMARY) -> str:
    """Sign `sr` exactly as given, as a client with its own way of percent-encoding does."""
    signature = quote(sign(sr, NOW_S + 60, key), safe="")
    return f"SharedAccessSignature sr={sr}&sig={signature}&se={NOW_S + 60}"


def sign(sr: str, expires_s: int, key: bytes) -> str:
    digest = hmac.new(key, f"{sr}\n{expires_s}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def test_the_signature_is_the_one_that_iot_hub_documents() -> None:
    # HMAC-SHA256 of "contoso.azure-devices.net%2Fdevices%2FD\n1900003600", computed with openssl
    token = make_token(f"{HUB}/devices/D", PRIMARY, 1_900_003_600)

    assert token == (
        "SharedAccessSignature sr=contoso.azure-devices.net%2Fdevices%2FD"
        "&sig=AQigp36aIKzp2eyflsd3nDX6oecE1siI8Q%2BxRpmz4x4%3D&se=1900003600"
    )


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        pytest.param(token_for(f"{HUB}/devices/D"), DEVICE, id="device"),
        pytest.param(token_for(f"{HUB}/devices/D/modules/M"), MODULE, id="module"),
        pytest.param(token_for(f"{HUB}/devices/D"), MODULE, id="a device's token covers its module"),
        pytest.param(token_for(f"{HUB}/devices/D", SECONDARY), DEVICE, id="secondary key"),
        pytest.param(token_for(f"{EDGE}/devices/D"), DEVICE, id="own host name"),
        pytest.param(token_for(f"{EDGE.upper()}/devices/D"), DEVICE, id="own host name in capitals"),
        pytest.param(token_for(f"{HUB}/devices/d"), DEVICE, id="ids in another case"),
        pytest.param(token_for(f"{HUB}/x/D/y/M"), MODULE, id="the words between are not compared"),
        pytest.param(as_sent(f"{HUB}%2Fdevices%2FD"), DEVICE, id="sr with %2F"),
        pytest.param(as_sent(f"{HUB}%2fdevices%2fD"), DEVICE, id="sr with %2f"),
        pytest.param(as_sent(f"{HUB}/devices/D"), DEVICE, id="sr with slashes"),
        pytest.param(as_sent(f"{HUB}%2Fdevices%2Fa%2540b"), Identity("a@b"), id="id encoded twice"),
        pytest.param(as_sent(f"{HUB}%2Fdevices%2Fa%40b"), Identity("a@b"), id="id encoded once"),
        pytest.param(as_sent(f"{HUB}%2Fdevices%2Fa%2525b"), Identity("a%b"), id="id with a percent sign"),
        pytest.param(token_for(f"{HUB}/devices/D") + "&skn=", DEVICE, id="empty skn"),
        pytest.param(make_token(f"{HUB}/devices/D", PRIMARY, NOW_S, "policy"), DEVICE, id="skn"),
        pytest.param(token_for(f"{HUB}/devices/D", expires_s=NOW_S - 240), DEVICE, id="se 4 min ago"),
        pytest.param(token_for(f"{HUB}/devices/D", expires_s=NOW_S - 300), DEVICE, id="se 5 min ago"),
    ],
)
def test_a_token_is_accepted(text: str, identity: Identity) -> None:
    """Source: hub-protocols.md section 8.4, rows 48 to 50."""
    accept(text, identity)


@pytest.mark.parametrize("order", [("se", "sr", "sig"), ("SIG", "Se", "SR")])
def test_order_and_case_of_the_fields_do_not_matter(order: tuple[str, ...]) -> None:
    fields = dict(f.split("=") for f in token_for(f"{HUB}/devices/D").split(" ")[1].split("&"))

    accept("SharedAccessSignature " + "&".join(f"{name}={fields[name.lower()]}" for name in order))


@pytest.mark.parametrize(
    ("text", "identity", "reason"),
    [
        pytest.param(token_for(f"{HUB}/devices/D", b"no"), DEVICE, "signed with a key", id="foreign key"),
        pytest.param(
            token_for(f"{HUB}/devices/D", expires_s=NOW_S - 360), DEVICE, "expired 360 s ago", id="expired"
        ),
        pytest.param(
            token_for(f"{HUB}/devices/D", expires_s=NOW_S - 301),
            DEVICE,
            "expired 301 s ago",
            id="just now",
        ),
        pytest.param(token_for("other.net/devices/D"), DEVICE, "'other.net'", id="foreign host"),
        pytest.param(token_for(f"{HUB}/devices/D/modules"), DEVICE, "neither", id="4 segments"),
        pytest.param(token_for(HUB), DEVICE, "neither", id="1 segment"),
        pytest.param(token_for(f"{HUB}/devices/X"), DEVICE, "another identity's", id="foreign device"),
        pytest.param(
            token_for(f"{HUB}/devices/D/modules/X"), MODULE, "another identity's", id="foreign module"
        ),
        pytest.param(
            token_for(f"{HUB}/devices/D/modules/M"),
            DEVICE,
            "another identity's",
            id="module for device",
        ),
        pytest.param(
            token_for(f"{HUB}/devices/D").replace("%2Fdevices", "%2fdevices"),
            DEVICE,
            "signed with a key",
            id="sr changed after signing",
        ),
    ],
)
def test_a_token_is_refused_with_the_reason(text: str, identity: Identity, reason: str) -> None:
    """Source: hub-protocols.md section 8.4, rows 48 to 50."""
    with pytest.raises(AuthError, match=reason):
        accept(text, identity)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "have the form"),
        ("SharedAccessSignature", "have the form"),
        ("sharedaccesssignature sr=a&sig=YQ&se=1", "have the form"),
        ("Bearer sr=a&sig=YQ%3D%3D&se=1", "have the form"),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=1 more", "have the form"),
        ("SharedAccessSignature sr=a&sig=YQ==&se=1", "must be %3D"),
        ("SharedAccessSignature sr=a&sig=a+b/&se=1", "base64"),
        ("SharedAccessSignature sr=a&sig=%ff&se=1", "base64"),
        ("SharedAccessSignature sr=a&sig&se=1", "name=value"),
        ("SharedAccessSignature sig=YQ%3D%3D&se=1", "no sr"),
        ("SharedAccessSignature sr=&sig=YQ%3D%3D", "no sr, se"),
        ("SharedAccessSignature sr=a&SR=b&sig=YQ%3D%3D&se=1", "twice"),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=tomorrow", "'tomorrow'"),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=-1", "'-1'"),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=nan", "'nan'"),
        ("SharedAccessSignature sr=a&sig=YQ%3D%3D&se=1" + "0" * 400, "not a number of seconds"),
    ],
)
def test_a_text_that_is_no_token_is_refused_without_showing_its_signature(text: str, reason: str) -> None:
    with pytest.raises(AuthError, match=reason) as caught:
        parse_token(text)

    assert "YQ" not in str(caught.value)


def test_neither_token_nor_key_shows_in_a_repr() -> None:
    token = parse_token(token_for(f"{HUB}/devices/D"))

    assert repr(token.signature) not in repr(token)


def test_a_device_without_keys_is_refused() -> None:
    with pytest.raises(AuthError, match="signed with a key"):
        check(parse_token(token_for(f"{HUB}/devices/D")), [], DEVICE, HOSTS, NOW_S)


@pytest.mark.parametrize("text", ["", "no base64!", "YQ", "ä"])
def test_a_key_that_is_not_base64_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(AuthError) as caught:
        decode_key(text)

    assert not text or text not in str(caught.value)


ids = st.text(string.ascii_letters + string.digits + "-.%_*?!(),:=@$'", min_size=1, max_size=20)


@given(device_id=ids, module_id=st.none() | ids, key=st.binary(min_size=1), life_s=st.integers(-300, 10**6))
def test_a_token_that_is_made_is_accepted_by_its_key_alone(
    device_id: str, module_id: str | None, key: bytes, life_s: int
) -> None:
    identity = Identity(device_id, module_id)
    token = parse_token(make_token(audience_of(HUB, identity), key, NOW_S + life_s))

    check(token, [b"another", key], identity, HOSTS, NOW_S)
    with pytest.raises(AuthError):
        check(token, [key + b"x"], identity, HOSTS, NOW_S)


@given(st.text())
def test_any_text_is_a_token_or_refused(text: str) -> None:
    for candidate in (text, f"SharedAccessSignature {text}", f"SharedAccessSignature sr=a&se=1&{text}"):
        try:
            token = parse_token(candidate)
        except AuthError:
            continue
        with pytest.raises(AuthError):
            check(token, [PRIMARY], DEVICE, HOSTS, NOW_S)
