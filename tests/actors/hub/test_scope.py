"""Edges below each other: who stands below whom, and whose hub may connect for whom.

Source: hub-protocols.md sections 1.2 and 5.6
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from actors.agent_hub_messages import Identities
from actors.heads.mqtt_login import Login, Refusal, read_login
from actors.hub import verdicts
from actors.hub.identity import HubIdentity
from actors.hub.identity_messages import ACCEPTED, Authenticate, IdentityRevoked, Verdict
from actors.hub.scope import device_of_scope, edges_above
from actors.manifest.hub_environment import DEFAULTS
from messaging import sas
from messaging.envelope import Secret
from messaging.errors import AuthError
from messaging.identity import Identity
from messaging.mqtt.packets import Connect
from runtime.security.client_certificates import check_certificate
from tests.actors.hub.test_identities import HEAD, HUB_HOST, IDENTITIES, SECURITY, IdentityWorld

NOW_S = 1e9
HUB_KEY, OWN_KEY = b"h" * 32, b"o" * 32


def scope(device: str, generation: int = 1) -> str:
    return f"ms-azure-iot-edge://{device}-{generation}"


def edge(device: str, parent: str = "", generation: int = 1) -> list[HubIdentity]:
    """An edge and its hub, whose key is another one."""
    keys, hub_keys = (Secret(OWN_KEY),), (Secret(HUB_KEY + device.encode()),)
    parents = (scope(parent),) if parent else ()
    return [
        HubIdentity(device, keys=keys, device_scope=scope(device, generation), parent_scopes=parents),
        HubIdentity(f"{device}/$edgeHub", keys=hub_keys),
    ]


def below(name: str, parent: str = "") -> HubIdentity:
    """A leaf, which has the scope of its parent as its own as well; or a module."""
    scopes = (scope(parent),) if parent else ()
    return HubIdentity(name, keys=(Secret(OWN_KEY),), device_scope="".join(scopes), parent_scopes=scopes)


# edge1 is this one; a-b (an id may have a dash) and c stand below it, low below a-b.
KNOWN = {
    each.id: each
    for each in (
        *edge("edge1"),
        *edge("a-b", "edge1"),
        *edge("low", "a-b"),
        *edge("c", "edge1"),
        below("a-b/m"),
        below("leaf", "a-b"),
        below("leaf/m"),
        below("deep", "low"),
        below("near", "edge1"),
    )
}


def token_of(actor: str, **settings: object) -> str:
    hub = Identity.edge_hub(actor)
    key = HUB_KEY + actor.encode()
    return sas.make_token(sas.audience_of(HUB_HOST, hub), key, int(settings.get("expires_s", NOW_S + 60)))  # type: ignore[call-overload]


def check(
    chain: Sequence[str],
    token: str,
    known: dict[str, HubIdentity] = KNOWN,
    identity: str = "",
    certificates: tuple[bytes, ...] = (),
) -> float:
    return verdicts.check(
        identity or chain[0],
        token,
        certificates,
        known,
        hosts=(HUB_HOST,),
        authorities=(),
        check_certificate=check_certificate,
        now_s=NOW_S,
        auth_chain=chain,
    )


@pytest.mark.parametrize(
    ("text", "device"),
    [
        (scope("edge1"), "edge1"),
        (scope("a-b"), "a-b"),
        ("ms-azure-iot-edge://edge1", ""),
        ("edge1-1", ""),
        ("", ""),
    ],
)
def test_a_scope_names_its_edge(text: str, device: str) -> None:
    assert device_of_scope(text) == device


@pytest.mark.parametrize(
    ("identity", "above"),
    [
        ("deep", ("low", "a-b", "edge1")),
        ("leaf", ("a-b", "edge1")),
        ("leaf/m", ("leaf", "a-b", "edge1")),
        ("a-b/m", ("a-b", "edge1")),
        ("near", ("edge1",)),
        ("edge1", ()),
        ("nobody", ()),
    ],
)
def test_edges_above_are_found_from_the_nearest_on(identity: str, above: tuple[str, ...]) -> None:
    assert edges_above(identity, KNOWN) == above


def test_an_edge_made_anew_is_not_above_who_stood_below_the_one_before() -> None:
    known = KNOWN | {each.id: each for each in edge("low", "a-b", generation=2)}

    assert edges_above("deep", known) == ()


def test_edges_that_stand_below_each_other_end_the_search() -> None:
    known = {each.id: each for each in (*edge("a", "b"), *edge("b", "a"), below("leaf", "a"))}

    assert edges_above("leaf", known) == ("a", "b")


@pytest.mark.parametrize(
    "chain",
    [
        ("leaf", "a-b"),
        ("leaf/m", "leaf", "a-b"),
        ("a-b/m", "a-b"),
        ("a-b/$edgeHub", "a-b"),
        ("deep", "low", "a-b"),
        ("deep", "low"),
    ],
    ids=";".join,
)
def test_the_token_of_a_hub_covers_who_stands_below_it(chain: tuple[str, ...]) -> None:
    assert check(chain, token_of(chain[-1])) == NOW_S + 60 + sas.CLOCK_SKEW_S


@pytest.mark.parametrize(
    ("chain", "token", "reason"),
    [
        pytest.param(
            ("near", "a-b"), token_of("a-b"), "does not stand below the edge 'a-b'", id="a sibling's"
        ),
        pytest.param(("leaf", "c"), token_of("c"), "does not stand below the edge 'c'", id="another edge's"),
        pytest.param(("leaf", "low"), token_of("low"), "does not stand below", id="an edge below"),
        pytest.param(("a-b", "a-b"), token_of("a-b"), "does not stand below", id="itself"),
        pytest.param(("leaf", "x"), token_of("a-b"), "does not stand below", id="nobody"),
        pytest.param(("leaf", "a-b/$edgeHub"), token_of("a-b"), "does not stand below", id="a module acts"),
        pytest.param(("leaf", "a-b"), token_of("c"), "another identity", id="token of another hub"),
        pytest.param(("leaf/m", "leaf"), token_of("leaf"), "'leaf/\\$edgeHub' is not known", id="no edge"),
        pytest.param(
            ("leaf", "a-b"),
            sas.make_token(sas.audience_of(HUB_HOST, Identity("leaf")), OWN_KEY, 2_000_000_000),
            "another identity",
            id="token of the leaf itself",
        ),
        pytest.param(
            ("leaf", "a-b"),
            sas.make_token(sas.audience_of(HUB_HOST, Identity("a-b")), OWN_KEY, 2_000_000_000),
            "signed with",
            id="token of the edge and not of its hub",
        ),
        pytest.param(("leaf", "a-b"), token_of("a-b", expires_s=NOW_S - 301), "expired 301 s ago", id="late"),
        pytest.param(("leaf", "a-b"), "", "without a token of its hub", id="nothing"),
    ],
)
def test_who_may_not_act_for_an_identity_is_refused(chain: tuple[str, ...], token: str, reason: str) -> None:
    with pytest.raises(AuthError, match=reason):
        check(chain, token)


def test_a_chain_of_another_identity_is_refused() -> None:
    with pytest.raises(AuthError, match="begins with 'leaf', not with 'near'"):
        check(("leaf", "a-b"), token_of("a-b"), identity="near")


def test_an_edge_acts_for_nobody_with_a_certificate() -> None:
    with pytest.raises(AuthError, match="without a token of its hub"):
        check(("leaf", "a-b"), "", certificates=(b"der",))


@pytest.mark.parametrize("disabled", ["leaf", "a-b", "a-b/$edgeHub"])
def test_neither_who_is_disabled_nor_by_whom_is_let_in(disabled: str) -> None:
    known = KNOWN | {disabled: replace(KNOWN[disabled], enabled=False)}

    with pytest.raises(AuthError, match="is disabled"):
        check(("leaf", "a-b"), token_of("a-b"), known)


def test_a_chain_of_the_identity_alone_is_that_of_a_client_which_comes_by_itself() -> None:
    own = sas.make_token(sas.audience_of(HUB_HOST, Identity("leaf")), OWN_KEY, int(NOW_S) + 60)

    assert check(("leaf",), own) == NOW_S + 60 + sas.CLOCK_SKEW_S
    with pytest.raises(AuthError, match="another identity"):
        check(("leaf",), token_of("a-b"))


# over MQTT


def connect(properties: str) -> Connect:
    return Connect("leaf", False, 60, f"h/leaf/?api-version=2021-04-12{properties}", b"token")


@pytest.mark.parametrize(
    ("properties", "enabled", "chain"),
    [
        ("&auth-chain=leaf;a-b", True, ("leaf", "a-b")),
        ("&DeviceClientType=x&auth-chain=leaf%3Ba-b&model-id=dtmi:a;1", True, ("leaf", "a-b")),
        ("&auth-chain=;", True, ()),
        ("", True, ()),
        ("&auth-chain=leaf;a-b", False, ()),  # then the token has to be the leaf's own
    ],
)
def test_the_chain_of_a_user_name_is_judged_unless_nested_edges_are_switched_off(
    properties: str, enabled: bool, chain: tuple[str, ...]
) -> None:
    environment = replace(DEFAULTS, nested_edge_enabled=enabled)

    login = read_login(connect(properties), (), environment)

    assert not isinstance(login, Refusal)
    assert login == Login("leaf", login.user, Authenticate("leaf", Secret(b"token"), (), chain))


# changes


def tell(world: IdentityWorld, known: dict[str, HubIdentity]) -> None:
    """Tell the hub who there is, as the agent does."""
    entries = tuple(each.entry() for each in known.values())
    world.tell(IDENTITIES, Identities(entries), SECURITY)


def test_a_client_is_let_in_on_behalf_and_cut_off_when_its_edge_may_not_act_for_it_any_more() -> None:
    world = IdentityWorld()
    tell(world, KNOWN)
    key, hub = HUB_KEY + b"a-b", Identity.edge_hub("a-b")
    token = sas.make_token(sas.audience_of(HUB_HOST, hub), key, int(world.clock.now_s()) + 60)
    world.turn(IDENTITIES, Authenticate("leaf", Secret(token.encode()), (), ("leaf", "a-b")), sender=HEAD)
    [verdict] = world.told(HEAD, Verdict)
    assert verdict.return_code == ACCEPTED, verdict.reason

    tell(world, KNOWN | {"a-b/$edgeHub": replace(KNOWN["a-b/$edgeHub"], keys=(Secret(b"new"),))})

    revoked = {message.identity for message in world.told(HEAD, IdentityRevoked)}
    assert revoked == {"a-b/$edgeHub", "a-b/m", "low", "low/$edgeHub", "leaf", "leaf/m", "deep"}


def test_a_client_that_stands_below_another_edge_now_is_cut_off() -> None:
    world = IdentityWorld()
    tell(world, KNOWN)

    tell(world, KNOWN | {"leaf": below("leaf", "c")})

    revoked = [message.identity for message in world.told(HEAD, IdentityRevoked)]
    assert revoked == ["leaf", "leaf/m"]
