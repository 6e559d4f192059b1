"""Who may connect: verdicts, an agent that is away, and the copy on disk."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from actors.agent_hub_messages import GetIdentities, Identities
from actors.hub.identities import AGENT_LIMIT_S, MOST_ASKED_FOR, REFRESH_SPACING_S, IdentityActor
from actors.hub.identity import AuthType, HubIdentity, KnownIdentities
from actors.hub.identity_messages import (
    ACCEPTED,
    NOT_AUTHORIZED,
    TRY_AGAIN,
    Access,
    AccessChanged,
    Authenticate,
    GetAccess,
    IdentityRevoked,
    Verdict,
)
from messaging import sas
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.lifecycle import PeerDown, PeerUp, RequestFailed
from runtime.security.client_certificates import check_certificate
from tests.actors.hub_world import World, message_in
from tests.fakes.cloud import MemoryCopy

IDENTITIES, SECURITY, HEAD, CLOUD = "hub/identities", "agent/security", "hub/mqtt", "hub/upstream"
HUB_HOST = "iothub.test"
KEY, OTHER_KEY, NEW_KEY = b"k" * 32, b"o" * 32, b"n" * 32


def known(identity: str, key: bytes = KEY, **settings: Any) -> HubIdentity:
    """An identity with a key, unless the settings say something else."""
    return HubIdentity(identity, **{"keys": (Secret(key), Secret(OTHER_KEY))} | settings)


def told(*identities: HubIdentity, authorities: tuple[bytes, ...] = ()) -> Identities:
    return Identities(tuple(identity.entry() for identity in identities), authorities)


class IdentityWorld(World):
    def __init__(self, copy: MemoryCopy | None = None, *, agent_lives: bool = False) -> None:
        super().__init__(SECURITY, HEAD, CLOUD, "test")
        self.agent_lives = agent_lives
        self.copy = copy or MemoryCopy()
        self.check_certificate: Callable[..., float] = check_certificate
        self.start(IDENTITIES, self.build)

    def build(self) -> IdentityActor:
        hosts = (HUB_HOST, "edge.local")
        return IdentityActor(
            self.copy,
            hosts,
            (HEAD,),
            lambda *asked: self.check_certificate(*asked),
            lambda: self.agent_lives,
            "edge1",
        )

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
    assert world.copy.known == KnownIdentities((known("edge1/m"), known("leaf")), left=("off",))


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


THUMBPRINT, OTHER_THUMBPRINT, ROOT = "A" * 40, "B" * 40, b"root"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            known("d", auth_type="selfSigned", thumbprints=(THUMBPRINT,)),
            known("d", auth_type="selfSigned", thumbprints=(OTHER_THUMBPRINT,)),
            id="another thumbprint",
        ),
        pytest.param(known("d"), known("d", auth_type="certificateAuthority"), id="another type"),
        pytest.param(known("d"), known("d", NEW_KEY), id="55 re-keyed"),
        pytest.param(known("d"), known("d", enabled=False), id="disabled"),
        pytest.param(known("d"), known("other"), id="55 removed"),
    ],
)
def test_a_device_that_has_to_prove_itself_anew_is_cut_off_with_its_modules(
    world: IdentityWorld, before: HubIdentity, after: HubIdentity
) -> None:
    """Source: hub-protocols.md section 8.4, row 55."""
    module, another = known("d/m"), known("dd/m")
    world.tell(IDENTITIES, told(before, module, another), SECURITY)
    world.letters(HEAD)

    world.tell(IDENTITIES, told(after, module, another), SECURITY)

    assert [revoked.identity for revoked in world.told(HEAD, IdentityRevoked)] == ["d", "d/m"]


def test_another_place_in_the_scope_cuts_nobody_off(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, told(known("d")), SECURITY)
    world.letters(HEAD)

    world.tell(IDENTITIES, told(known("d", device_scope="s", parent_scopes=("s",))), SECURITY)

    assert world.told(HEAD, IdentityRevoked) == []
    assert world.copy.known is not None
    assert world.copy.known.identities == (known("d", device_scope="s", parent_scopes=("s",)),)


def test_other_trusted_authorities_cut_off_whom_they_vouched_for(world: IdentityWorld) -> None:
    both = known("by-key"), known("by-ca", auth_type="certificateAuthority")
    world.tell(IDENTITIES, told(*both, authorities=(ROOT,)), SECURITY)
    world.letters(HEAD)

    world.tell(IDENTITIES, told(*both, authorities=(b"new root",)), SECURITY)

    assert [revoked.identity for revoked in world.told(HEAD, IdentityRevoked)] == ["by-ca"]


# before somebody is refused


def test_row_51_a_device_that_is_enabled_or_re_keyed_meanwhile_is_found_so_by_asking(
    world: IdentityWorld,
) -> None:
    """Source: hub-protocols.md section 8.4, row 51."""
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("d"), known("off", enabled=False))

    world.asks("d", NEW_KEY)
    world.asks("off")
    before = world.verdicts()
    world.agent_answers(known("d", NEW_KEY), known("off"))

    assert before == []
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED, ACCEPTED]


@pytest.mark.parametrize("identity", ["nobody", "edge1/m"], ids=["unknown", "with a wrong key"])
def test_row_51_a_second_refusal_within_120_s_asks_nobody(world: IdentityWorld, identity: str) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("edge1/m"))
    asked = []

    for wait_s in (0.0, REFRESH_SPACING_S - 1.0, 2.0):
        world.system.advance(wait_s)
        world.asks(identity, NEW_KEY)
        asked.append(world.agent_answers(known("edge1/m")))

    assert asked == [1, 0, 1]
    assert [verdict.return_code for verdict in world.verdicts()] == [NOT_AUTHORIZED] * 3


def test_who_is_known_and_in_order_is_never_asked_about(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("edge1/m"))

    world.asks()

    assert world.agent_answers() == 0
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


def test_an_agent_that_does_not_answer_makes_no_refusal_final(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("edge1/m"))

    world.asks(key=NEW_KEY)
    world.system.advance(AGENT_LIMIT_S + 0.5)

    assert [verdict.return_code for verdict in world.verdicts()] == [TRY_AGAIN]


def test_while_the_agent_is_away_the_copy_refuses_whom_it_knows_at_once(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("edge1/m"))
    world.tell(IDENTITIES, PeerDown("agent"), "")

    world.asks(key=NEW_KEY)

    assert [verdict.return_code for verdict in world.verdicts()] == [NOT_AUTHORIZED]


def test_an_agent_that_was_not_heard_of_yet_may_know_better_than_the_copy() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("leaf"),))), agent_lives=True)
    world.asks("leaf", NEW_KEY)
    world.system.advance(AGENT_LIMIT_S - 1)  # however long it takes to start
    before = world.verdicts()

    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("leaf", NEW_KEY))

    assert before == []
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


def test_an_agent_that_is_lost_for_a_moment_still_makes_refusals_wait() -> None:
    world = IdentityWorld(agent_lives=True)
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("leaf"))
    world.tell(IDENTITIES, PeerDown("agent"), "")

    world.asks("leaf", NEW_KEY)
    before = world.verdicts()
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers(known("leaf", NEW_KEY))

    assert before == []
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


def test_an_agent_that_lives_and_is_never_heard_of_makes_no_refusal_final() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("leaf"),))), agent_lives=True)

    world.asks("leaf", NEW_KEY)
    world.system.advance(AGENT_LIMIT_S)

    assert [verdict.return_code for verdict in world.verdicts()] == [TRY_AGAIN]


def test_without_an_agent_the_copy_refuses_whom_it_knows_right_after_a_start() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("leaf"),))))
    world.asks("leaf", NEW_KEY)
    world.asks("nobody")
    at_first = world.verdicts()

    world.system.advance(AGENT_LIMIT_S)

    assert [(verdict.identity, verdict.return_code) for verdict in at_first] == [("leaf", NOT_AUTHORIZED)]
    assert [(verdict.identity, verdict.return_code) for verdict in world.verdicts()] == [
        ("nobody", TRY_AGAIN)
    ]


def test_whom_the_copy_lets_in_does_not_wait_for_an_agent() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("leaf"),))), agent_lives=True)

    world.asks("leaf")

    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


def test_made_up_names_are_not_remembered_for_ever(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.agent_answers()

    for number in range(MOST_ASKED_FOR + 10):
        world.turn(IDENTITIES, Authenticate(f"d{number}", Secret(b"x")), sender=HEAD)
    world.agent_answers()

    assert len(world.system.cells[IDENTITIES]._behaviour._asked_for) == MOST_ASKED_FOR


def test_row_54_after_a_restart_without_an_agent_the_copy_knows_keys_and_certificates(
    world: IdentityWorld,
) -> None:
    by_print = known("d", auth_type="selfSigned", thumbprints=(THUMBPRINT,))
    by_ca = known("c", auth_type="certificateAuthority")
    world.tell(IDENTITIES, told(known("edge1/m"), by_print, by_ca, authorities=(ROOT,)), SECURITY)

    again = IdentityWorld(world.copy)
    again.check_certificate = lambda *asked: asked and 7e9
    again.asks()
    for identity in ("d", "c", "edge1/m"):
        again.turn(IDENTITIES, Authenticate(identity, certificates=(b"der",)), sender=HEAD)

    assert [(v.identity, v.return_code) for v in again.verdicts()] == [
        *(("edge1/m", ACCEPTED), ("d", ACCEPTED), ("c", ACCEPTED), ("edge1/m", NOT_AUTHORIZED))
    ]
    assert again.letters(SECURITY) == []


def test_a_check_that_fails_unexpectedly_fails_the_request_and_nothing_else(world: IdentityWorld) -> None:
    """The head answers CONNACK 3 to that: row 7."""

    def fail(*asked: object) -> float:
        raise RuntimeError("boom")

    world.tell(IDENTITIES, told(known("edge1/m"), known("d", auth_type="selfSigned")), SECURITY)
    world.check_certificate = fail

    world.turn(IDENTITIES, Authenticate("d", certificates=(b"der",)), sender=HEAD)
    world.asks()

    assert [failed.reason for failed in world.told(HEAD, RequestFailed)] == ["RuntimeError: boom"]
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


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


# for the link to the cloud


SHOWN = known("by-certificate", auth_type="selfSigned", keys=(), thumbprints=("A" * 40,))
HUB = "edge1/$edgeHub"


def access_of(world: IdentityWorld, identity: str, was_refused: bool = False) -> None:
    world.turn(IDENTITIES, GetAccess(identity, was_refused), sender=CLOUD)


def test_the_link_gets_the_primary_key_of_an_identity(world: IdentityWorld) -> None:
    access_of(world, "edge1/m")

    [access] = world.told(CLOUD, Access)
    assert (access.identity, access.key.reveal()) == ("edge1/m", base64.b64encode(KEY))
    assert world.letters(SECURITY) == []


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ("nobody", "'nobody' is not known to this edge; make it a child"),
        ("off", "'off' is disabled; `edge-actors identity enable off` changes it, or says where"),
        ("by-certificate", "'by-certificate' proves itself with a certificate, and only it has the key"),
        ("nothing", "'nothing' has neither a key nor a certificate; give it one"),
    ],
)
def test_the_link_is_told_why_there_is_no_key(identity: str, reason: str) -> None:
    nothing = known("nothing", auth_type="none", keys=())
    world = IdentityWorld(MemoryCopy(KnownIdentities((SHOWN, nothing, known("off", enabled=False)))))
    access_of(world, identity)

    [refused] = world.told(CLOUD, RequestFailed)
    assert refused.reason.startswith(reason)


@pytest.mark.parametrize(("identity", "was_refused"), [("new", False), ("edge1/m", True)])
def test_the_agent_is_asked_for_a_key_that_is_not_known_or_was_refused(
    world: IdentityWorld, identity: str, was_refused: bool
) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 1), "agent")
    world.agent_answers(known("edge1/m"))
    access_of(world, identity, was_refused)
    early = world.told(CLOUD, Access)
    world.agent_answers(known("edge1/m", NEW_KEY), known("new", NEW_KEY))

    assert early == []
    assert [access.key.reveal() for access in world.told(CLOUD, Access)] == [base64.b64encode(NEW_KEY)]


def test_a_key_is_given_from_the_copy_when_the_agent_does_not_answer(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 1), "agent")
    access_of(world, "edge1/m", was_refused=True)
    world.system.advance(AGENT_LIMIT_S + 1)

    assert len(world.told(CLOUD, Access)) == 1


@pytest.mark.parametrize("auth_type", ["selfSigned", "certificateAuthority"])
def test_the_hub_speaks_for_a_device_that_only_has_a_certificate(auth_type: AuthType) -> None:
    shown = known("by-certificate", auth_type=auth_type, keys=())
    world = IdentityWorld(MemoryCopy(KnownIdentities((shown, known(HUB)))))
    access_of(world, "by-certificate")

    [access] = world.told(CLOUD, Access)
    assert (access.identity, access.signer) == ("by-certificate", HUB)
    assert access.key.reveal() == base64.b64encode(KEY)


def test_another_key_of_the_hub_is_another_access_for_whom_it_speaks() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((SHOWN, known("edge1/m"), known(HUB)))))
    world.tell(IDENTITIES, told(SHOWN, known("edge1/m"), known(HUB, NEW_KEY)), "agent")

    changed = [changed.identity for changed in world.told(CLOUD, AccessChanged)]
    assert changed == ["by-certificate", HUB]


def test_the_link_hears_whose_access_has_changed(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, told(known("edge1/m", NEW_KEY), known("off", enabled=True), known("new")), "agent")
    world.tell(IDENTITIES, told(known("edge1/m", NEW_KEY), known("off", enabled=True)), "agent")

    assert [changed.identity for changed in world.told(CLOUD, AccessChanged)] == [
        "edge1/m",
        "off",
        "new",
        "new",
    ]


def test_who_is_refused_has_the_cloud_asked_and_who_starts_has_not(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 1), "")
    [at_start] = world.letters(SECURITY)
    world.tell(IDENTITIES, told(known("edge1/m")), SECURITY, at_start.correlation_id)

    world.asks("leaf")

    assert message_in(at_start) == GetIdentities(refresh=False)
    assert world.told(SECURITY, GetIdentities) == [GetIdentities(refresh=True)]


def test_nobody_is_refused_by_what_the_agent_tells_about_others(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 1), "")
    world.agent_answers(known("edge1/m"))
    world.asks("leaf")

    world.tell(IDENTITIES, told(known("edge1/m"), known("other")), SECURITY)
    meanwhile = world.verdicts()
    world.agent_answers(known("edge1/m"), known("leaf"))

    assert meanwhile == []
    assert [verdict.return_code for verdict in world.verdicts()] == [ACCEPTED]


def test_who_comes_while_the_agent_is_asked_for_another_is_asked_for_too(world: IdentityWorld) -> None:
    world.tell(IDENTITIES, PeerUp("agent", 1), "")
    world.agent_answers(known("edge1/m"))
    world.asks("leaf1")
    world.asks("leaf2")

    world.agent_answers(known("leaf1"))
    first = world.verdicts()
    world.agent_answers(known("leaf1"), known("leaf2"))

    assert [(verdict.identity, verdict.return_code) for verdict in first] == [("leaf1", ACCEPTED)]
    assert [(verdict.identity, verdict.return_code) for verdict in world.verdicts()] == [("leaf2", ACCEPTED)]
