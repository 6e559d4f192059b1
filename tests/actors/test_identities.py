"""Who may connect: verdicts, an agent that is away, and the copy on disk."""

from __future__ import annotations

from typing import Any

import pytest

from actors.hub_identity import HubIdentity, KnownIdentities
from actors.identities import (
    ACCEPTED,
    AGENT_LIMIT_S,
    NOT_AUTHORIZED,
    TRY_AGAIN,
    Authenticate,
    GetIdentities,
    Identities,
    IdentityActor,
    IdentityRevoked,
    Verdict,
)
from messaging import sas
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.lifecycle import PeerUp, RequestFailed
from runtime.client_certificates import check_certificate
from tests.actors.hub_world import World
from tests.fakes.cloud import MemoryCopy

IDENTITIES, SECURITY, HEAD = "hub/identities", "agent/security", "hub/mqtt"
HUB_HOST = "iothub.test"
KEY, OTHER_KEY, NEW_KEY = b"k" * 32, b"o" * 32, b"n" * 32


def known(identity: str, key: bytes = KEY, **settings: Any) -> HubIdentity:
    """An identity with a key, unless the settings say something else."""
    return HubIdentity(identity, **{"keys": (Secret(key), Secret(OTHER_KEY))} | settings)


def told(*identities: HubIdentity, authorities: tuple[bytes, ...] = ()) -> Identities:
    return Identities(tuple(identity.entry() for identity in identities), authorities)


class IdentityWorld(World):
    def __init__(self, copy: MemoryCopy | None = None) -> None:
        super().__init__(SECURITY, HEAD, "test")
        self.copy = copy or MemoryCopy()
        self.start(IDENTITIES, self.build)

    def build(self) -> IdentityActor:
        return IdentityActor(self.copy, (HUB_HOST, "edge.local"), (HEAD,), check_certificate)

    def asks(self, identity: str = "edge1/m", key: bytes = KEY, expires_in_s: int = 60, host: str = HUB_HOST):  # type: ignore[no-untyped-def]
        audience = sas.audience_of(host, Identity.parse(identity))
        token = sas.make_token(audience, key, int(self.clock.now_s()) + expires_in_s)
        self.present(identity, token.encode())

    def present(self, identity: str, token: bytes) -> None:
        self.turn(IDENTITIES, Authenticate(identity, Secret(token)), sender=HEAD)

    def verdicts(self) -> list[Verdict]:
        return self.told(HEAD, Verdict)

    def agent_answers(self, *identities: HubIdentity) -> int:
        asked = [letter for letter in self.letters(SECURITY) if letter.kind == GetIdentities.__name__]
        for letter in asked:
            self.tell(IDENTITIES, told(*identities), SECURITY, letter.correlation_id)
        return len(asked)


@pytest.fixture
def world() -> IdentityWorld:
    return IdentityWorld(MemoryCopy(KnownIdentities((known("edge1/m"), known("off", enabled=False)))))


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["primary", "secondary"])
@pytest.mark.parametrize("host", [HUB_HOST, "EDGE.local"])
def test_a_good_token_is_accepted_without_asking_the_agent(
    world: IdentityWorld, key: bytes, host: str
) -> None:
    world.asks(key=key, host=host)

    ends_s = int(world.clock.now_s()) + 60 + sas.CLOCK_SKEW_S
    assert world.verdicts() == [Verdict("edge1/m", ACCEPTED, "", ends_s)]
    assert world.letters(SECURITY) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"key": NEW_KEY}, "signed with a key that is not the identity's", id="wrong key"),
        pytest.param({"expires_in_s": -360}, "expired 360 s ago", id="expired"),
        pytest.param({"host": "other.net"}, "names the host 'other.net'", id="another host"),
        pytest.param({"identity": "off"}, "identity 'off' is disabled", id="disabled"),
    ],
)
def test_a_token_that_will_never_do_is_refused_and_says_why(
    world: IdentityWorld, settings: dict[str, object], reason: str
) -> None:
    world.asks(**settings)

    [verdict] = world.verdicts()
    assert verdict.return_code == NOT_AUTHORIZED
    assert reason in verdict.reason


@pytest.mark.parametrize("token", [b"secret password", b"", b"\xff\xfe", b"SharedAccessSignature sr=a"])
def test_what_is_no_token_is_refused_and_not_shown(world: IdentityWorld, token: bytes) -> None:
    world.present("edge1/m", token)

    [verdict] = world.verdicts()
    assert verdict.return_code == NOT_AUTHORIZED
    assert "secret password" not in verdict.reason


def test_a_token_that_expired_less_than_five_minutes_ago_is_accepted(world: IdentityWorld) -> None:
    world.asks(expires_in_s=-240)

    assert world.verdicts()[0].return_code == ACCEPTED


def test_an_unknown_identity_is_asked_for_and_known_from_then_on(world: IdentityWorld) -> None:
    world.asks("leaf")
    before = world.verdicts()

    asked = world.agent_answers(known("edge1/m"), known("leaf"))

    assert (before, asked) == ([], 1)
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]
    assert world.copy.known == KnownIdentities((known("edge1/m"), known("leaf")))


def test_an_identity_that_the_agent_does_not_know_either_is_refused_for_good(world: IdentityWorld) -> None:
    world.asks("nobody")

    world.agent_answers(known("edge1/m"))

    [verdict] = world.verdicts()
    assert verdict == Verdict("nobody", NOT_AUTHORIZED, "identity 'nobody' is not known on this edge")


def test_while_the_agent_is_away_an_unknown_identity_waits_and_is_told_to_try_again(
    world: IdentityWorld,
) -> None:
    world.asks("leaf")
    world.asks("leaf")
    world.system.advance(AGENT_LIMIT_S - 1)
    before = world.verdicts()

    world.system.advance(1.5)

    assert before == []
    assert [verdict.return_code for verdict in world.verdicts()] == [TRY_AGAIN, TRY_AGAIN]
    assert world.described(IDENTITIES)["waiting"] == 0


def test_an_agent_that_refuses_to_answer_means_try_again(world: IdentityWorld) -> None:
    world.asks("leaf")
    [asked] = world.letters(SECURITY)

    world.tell(IDENTITIES, RequestFailed("GetIdentities", SECURITY, "boom"), SECURITY, asked.correlation_id)

    assert [verdict.return_code for verdict in world.verdicts()] == [TRY_AGAIN]


def test_when_the_agent_comes_up_it_is_asked_at_once_though_a_question_is_open(world: IdentityWorld) -> None:
    """The open one went to nobody, and would hold up clients until its time is over."""
    world.asks("leaf")
    world.letters(SECURITY)

    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    asked = world.agent_answers(known("leaf"))

    assert asked == 1
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


def test_without_copy_and_agent_everybody_is_told_to_try_again() -> None:
    world = IdentityWorld(MemoryCopy(None))
    world.asks()

    world.system.advance(AGENT_LIMIT_S + 0.5)

    assert [verdict.return_code for verdict in world.verdicts()] == [TRY_AGAIN]


def test_who_is_gone_disabled_or_has_other_keys_is_disconnected(world: IdentityWorld) -> None:
    three = [known("stays"), known("gone"), known("disabled"), known("rekeyed")]
    world.tell(IDENTITIES, told(*three), SECURITY)
    world.letters(HEAD)

    after = (known("stays"), known("disabled", enabled=False), known("rekeyed", NEW_KEY), known("new"))
    world.tell(IDENTITIES, told(*after), SECURITY)

    assert [revoked.identity for revoked in world.told(HEAD, IdentityRevoked)] == [
        *("gone", "disabled", "rekeyed")
    ]


def test_a_copy_that_cannot_be_written_does_not_stop_new_identities(
    world: IdentityWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.copy.full = True
    world.asks("leaf")

    world.agent_answers(known("leaf"))

    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]
    assert [revoked.identity for revoked in world.told(HEAD, IdentityRevoked)] == ["edge1/m", "off"]
    assert "no space left" in caplog.text
    assert world.system.cells[IDENTITIES].restarts == 0


def test_keys_and_tokens_reach_no_log_and_no_dead_letter(
    world: IdentityWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.tell(IDENTITIES, Identities((("x", *[Secret(KEY)] * 9),)), SECURITY)  # type: ignore[arg-type]
    world.present("edge1/m", b"topsecret")

    shown = caplog.text + str([letter.summary() for letter in world.dead_letters.recent()])
    assert len(world.dead_letters.recent()) == 1
    assert "topsecret" not in shown
    assert "kkkk" not in shown
