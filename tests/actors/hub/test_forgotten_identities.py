"""Who gets the name of an identity that is gone gets nothing else of it: no twin, session or message."""

from __future__ import annotations

import base64

import pytest

from actors.addresses import IDENTITIES, TWINS
from actors.agent_hub_messages import Identities, SetDesired
from actors.hub.client_services import (
    ForgetIdentity,
    ForgetTwin,
    IdentityForgotten,
    PatchReported,
    TwinForgotten,
)
from actors.hub.identities import FORGET_AGAIN_S
from actors.hub.identity import HubIdentity, KnownIdentities
from actors.hub.identity_messages import Access, GetAccess
from actors.store.messages import ForgetClient, SaveSession, SessionSaved
from messaging.envelope import Secret
from messaging.lifecycle import PeerUp
from messaging.mqtt.packets import Subscribe
from tests.actors.head_world import EDGE, HEAD, STORE, HeadWorld, connect_packet
from tests.actors.head_world import IDENTITIES as IDENTITIES_OF_HEAD
from tests.actors.heads.test_c2d import FILTER, C2dWorld, Device
from tests.actors.hub.test_identities import CLOUD, IdentityWorld, known, told
from tests.actors.hub.test_identities import HEAD as HEAD_OF_IDENTITIES
from tests.actors.hub.test_twins import PUMP, TwinWorld
from tests.actors.whole_hub import CONNACK, KEY, LEAF
from tests.fakes.cloud import MemoryCopy

NEW_KEY = b"n" * 32
SECURITY = "agent/security"


class World(C2dWorld):
    """The hub, which the agent tells who there is."""

    def told(self, *identities: HubIdentity, is_whole: bool = True) -> None:
        entries = tuple(identity.entry() for identity in identities)
        self.system.bus.send(IDENTITIES, Identities(entries, is_whole=is_whole), sender=SECURITY)
        self.system.run()


def leaf(generation: str, key: bytes = KEY) -> HubIdentity:
    return HubIdentity(LEAF, keys=(Secret(key), Secret(key)), generation_id=generation)


@pytest.fixture
def world() -> World:
    """A leaf that has a twin, a session, and a message from the cloud, and is away."""
    made = World()
    made.told(leaf("1"))
    device = Device(made, clean=False)
    device.peer.gone()
    made.system.bus.send(TWINS, PatchReported(LEAF, b'{"secret": 1}'), sender="test")
    made.receive(b"for the old one")
    assert LEAF in made.twins.kept
    assert list(made.disk.contents.sessions) == [LEAF]
    assert made.bodies() == {b"for the old one"}
    return made


def test_a_device_that_is_deleted_leaves_nothing_behind(world: World) -> None:
    world.told()

    assert LEAF not in world.twins.kept
    assert world.disk.contents.sessions == {}
    ledger = world.ledger()
    assert (ledger.dropped, ledger.dropped_by_reason, ledger.pending) == (1, {"removed": 1}, 0)
    assert world.copy.known == KnownIdentities(())


def test_a_device_made_anew_under_an_old_name_gets_what_is_for_it_alone(world: World) -> None:
    world.told(leaf("2", NEW_KEY))
    world.receive(b"for the new one", number=2)

    peer = world.open()
    peer.send(world.connect_packet(LEAF, clean=False, key=NEW_KEY))
    connack = peer.received()
    peer.subscribe(FILTER)
    bodies = [body[-len(b"for the new one") :] for kind, body in peer.received() if kind == 0x30]

    assert connack == [(CONNACK, b"\x00\x00")]  # no session of before goes on
    assert bodies == [b"for the new one"]
    assert LEAF not in world.twins.kept
    assert world.ledger().dropped_by_reason == {"removed": 1}


def test_the_connection_of_one_that_is_gone_ends_and_what_was_on_its_way_to_it_is_dropped(
    world: World,
) -> None:
    peer = world.open()
    peer.send(world.connect_packet(LEAF, clean=False))
    assert b"for the old one" in peer.transport.written

    world.told(leaf("2", NEW_KEY))

    assert peer.transport.closed
    assert world.ledger().dropped_by_reason == {"removed": 1}


@pytest.mark.parametrize(
    ("generation", "key"),
    [
        pytest.param("1", NEW_KEY, id="other keys"),
        pytest.param("", NEW_KEY, id="a generation that is not known"),
        pytest.param("2", KEY, id="the generation of the cloud"),
    ],
)
def test_who_is_told_again_keeps_everything(world: World, generation: str, key: bytes) -> None:
    world.told(leaf(generation, key))

    assert LEAF in world.twins.kept
    assert list(world.disk.contents.sessions) == [LEAF]
    assert world.ledger().pending == 1


def test_a_twin_that_cannot_be_removed_is_removed_later(world: World) -> None:
    world.twins.failing = True
    world.told()
    assert world.copy.known == KnownIdentities((), left=(LEAF,))

    world.twins.failing = False
    world.system.advance(FORGET_AGAIN_S + 1)

    assert LEAF not in world.twins.kept
    assert world.copy.known == KnownIdentities(())


def test_after_a_restart_of_the_hub_who_is_left_is_forgotten_still() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("stays"),), left=("gone",))))
    world.system.advance(FORGET_AGAIN_S + 1)
    asked = world.told(HEAD_OF_IDENTITIES, ForgetIdentity)

    world.tell(IDENTITIES, IdentityForgotten("gone"), HEAD_OF_IDENTITIES)
    world.system.advance(FORGET_AGAIN_S + 1)

    assert set(asked) == {ForgetIdentity("gone")}  # again and again, until the head is there
    assert world.copy.known == KnownIdentities((known("stays"),))
    assert world.told(HEAD_OF_IDENTITIES, ForgetIdentity) == []


def test_nobody_is_let_in_before_the_last_one_of_his_name_is_forgotten() -> None:
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("leaf", generation_id="1"),))))
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.asks("leaf", key=NEW_KEY)

    world.tell(IDENTITIES, told(known("leaf", NEW_KEY, generation_id="2")), SECURITY)

    world.asks("leaf", key=NEW_KEY)  # once more, when the agent has spoken
    before = [letter.kind for letter in world.letters(HEAD_OF_IDENTITIES)]
    world.tell(IDENTITIES, IdentityForgotten("leaf"), HEAD_OF_IDENTITIES)
    after = [letter.kind for letter in world.letters(HEAD_OF_IDENTITIES)]
    assert "ForgetIdentity" in before
    assert "Verdict" not in before
    assert after.count("Verdict") == 2


def test_the_key_of_the_next_is_not_given_out_before_the_last_one_of_his_name_is_forgotten() -> None:
    # With it the hub would tell the cloud what the last one has reported, as the twin of the next.
    world = IdentityWorld(MemoryCopy(KnownIdentities((known("leaf", generation_id="1"),))))
    world.tell(IDENTITIES, PeerUp("agent", 7), "")
    world.tell(IDENTITIES, GetAccess("leaf", was_refused=True), CLOUD)

    world.tell(IDENTITIES, told(known("leaf", NEW_KEY, generation_id="2")), SECURITY)
    world.tell(IDENTITIES, GetAccess("leaf"), CLOUD)

    before = world.told(CLOUD, Access)
    world.tell(IDENTITIES, IdentityForgotten("leaf"), HEAD_OF_IDENTITIES)
    assert before == []
    assert {access.key.reveal() for access in world.told(CLOUD, Access)} == {base64.b64encode(NEW_KEY)}


def test_a_session_that_was_being_saved_when_its_identity_went_is_not_that_of_the_next() -> None:
    world = HeadWorld()
    client = world.connect("leaf")
    world.send(client, Subscribe(1, (("$iothub/methods/POST/#", 1),)))
    [saving] = [letter for letter in world.letters(STORE) if letter.kind == SaveSession.__name__]

    world.tell(HEAD, ForgetIdentity("leaf"), IDENTITIES_OF_HEAD, 9)
    [forgetting] = [letter for letter in world.letters(STORE) if letter.kind == ForgetClient.__name__]
    world.tell(HEAD, SessionSaved("leaf"), STORE, saving.correlation_id)
    world.tell(HEAD, SessionSaved("leaf"), STORE, forgetting.correlation_id)
    again = world.open(connect_packet("leaf"))
    world.judge()
    [connack] = again.received()

    assert client.transport.closed
    assert not connack.session_present  # type: ignore[union-attr]


def test_a_module_made_anew_begins_with_what_its_deployment_desires() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})
    world.report({"seen": True})
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6}'),)), "agent")
    world.letters("hub/mqtt")

    world.tell(TWINS, ForgetTwin(PUMP), "hub/mqtt", 7)

    assert world.answer() == TwinForgotten(PUMP)
    assert world.twin() == {"desired": {"rpm": 6, "$version": 2}, "reported": {"$version": 1}}


def test_a_list_of_devices_that_was_lost_costs_nobody_anything(world: World) -> None:
    edge, module = HubIdentity(EDGE), HubIdentity(f"{EDGE}/new", keys=(Secret(KEY), Secret(KEY)))

    world.told(edge, module, is_whole=False)

    assert LEAF in world.twins.kept
    assert list(world.disk.contents.sessions) == [LEAF]
    assert world.bodies() == {b"for the old one"}
    assert world.copy.known == KnownIdentities((edge, module, leaf("1")))


def test_a_module_that_is_gone_is_gone_even_while_the_list_of_devices_is_lost(world: World) -> None:
    edge, module = HubIdentity(EDGE), HubIdentity(f"{EDGE}/old", keys=(Secret(KEY), Secret(KEY)))
    world.told(edge, module, leaf("1"))

    world.told(edge, is_whole=False)

    assert world.copy.known == KnownIdentities((edge, leaf("1")))
