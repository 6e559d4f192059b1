"""Identities with a cloud: what is new waits for it a moment, and what it says the hub is told."""

from __future__ import annotations

import pytest

from actors.agent.registry import RegistrySynced, SyncRegistry
from actors.agent.security import (
    CLOUD_LIMIT_S,
    CreateDevice,
    DeleteDevice,
    EnableDevice,
    EnsureModules,
    ForgetModule,
    ModulesEnsured,
    SecurityActor,
)
from actors.agent_hub_messages import GetIdentities, Identities
from actors.hub.identity import HubIdentity
from messaging.envelope import Secret
from messaging.lifecycle import PeerUp
from tests.actors.hub_world import World
from tests.fakes.security import FakeSecurity

SECURITY, REGISTRY, HUB = "agent/security", "agent/registry", "hub/identities"


class SecurityWorld(World):
    def __init__(self, registry: str = REGISTRY) -> None:
        super().__init__(REGISTRY, HUB, "hub", "agent/agent")
        self.security = FakeSecurity(self.clock.now_s())
        self.start(SECURITY, lambda: SecurityActor(self.security, registry))
        self.tell(SECURITY, PeerUp("hub", 7), "")
        self.letters(HUB)

    def asks(self, message: object) -> None:
        self.tell(SECURITY, message, "agent/agent", correlation_id=9)

    def tickets(self) -> list[int]:
        return [asked.ticket for asked in self.told(REGISTRY, SyncRegistry)]

    def synced(self, ticket: int) -> None:
        self.tell(SECURITY, RegistrySynced(ticket), REGISTRY)

    def ensured(self) -> list[list[str]]:
        return [[entry[0] for entry in told.entries] for told in self.told("agent/agent", ModulesEnsured)]


@pytest.fixture
def world() -> SecurityWorld:
    return SecurityWorld()


def test_modules_that_are_new_wait_until_the_cloud_was_told(world: SecurityWorld) -> None:
    world.asks(EnsureModules(("m1", "m2")))
    before = world.ensured()
    [ticket] = world.tickets()
    world.synced(ticket)

    assert before == []
    assert world.ensured() == [["m1", "m2"]]


def test_modules_that_are_known_do_not_wait(world: SecurityWorld) -> None:
    world.security.ensure_module("m1", 0.0)

    world.asks(EnsureModules(("m1",)))

    assert world.ensured() == [["m1"]]


def test_a_cloud_that_does_not_answer_holds_modules_up_for_moments_only(world: SecurityWorld) -> None:
    world.asks(EnsureModules(("m1",)))

    world.system.advance(CLOUD_LIMIT_S)

    assert world.ensured() == [["m1"]]


def test_a_sync_that_began_earlier_answers_nobody_who_came_later(world: SecurityWorld) -> None:
    world.asks(EnsureModules(("m1",)))
    [first] = world.tickets()
    world.asks(EnsureModules(("m2",)))
    [second] = world.tickets()
    world.synced(first)
    after_first = world.ensured()
    world.synced(second)

    assert after_first == [["m1"]]
    assert world.ensured() == [["m2"]]


def test_without_a_cloud_nobody_waits() -> None:
    world = SecurityWorld(registry="")

    world.asks(EnsureModules(("m1",)))
    world.asks(GetIdentities(refresh=True))

    assert world.ensured() == [["m1"]]
    assert len(world.told("agent/agent", Identities)) == 1
    assert world.tickets() == []


def test_a_module_without_an_identity_is_told_with_its_problem(world: SecurityWorld) -> None:
    world.security.refused["bad"] = "the name does not suit"

    world.asks(EnsureModules(("bad", "m1")))
    world.synced(world.tickets()[0])

    [told] = world.told("agent/agent", ModulesEnsured)
    assert told.entries[0] == ("bad", "", "", "the name does not suit")
    assert told.entries[1][3] == ""


def test_who_was_refused_is_looked_for_in_the_cloud_first(world: SecurityWorld) -> None:
    world.asks(GetIdentities(refresh=True))
    before = world.told("agent/agent", Identities)
    world.security.create_device("leaf1", "sas", (), 0.0)
    world.synced(world.tickets()[0])

    [told] = world.told("agent/agent", Identities)
    assert before == []
    assert [entry[0] for entry in told.entries] == ["leaf1"]


def test_who_merely_asks_is_answered_at_once(world: SecurityWorld) -> None:
    world.asks(GetIdentities())

    assert len(world.told("agent/agent", Identities)) == 1
    assert world.tickets() == []


def test_the_hub_is_told_what_the_cloud_changed_and_nothing_else(world: SecurityWorld) -> None:
    world.synced(0)
    unchanged = world.told(HUB, Identities)
    world.security.create_device("leaf1", "sas", (), 0.0)
    world.synced(0)
    world.synced(0)

    [told] = world.told(HUB, Identities)
    assert unchanged == []
    keys = (Secret(b"leaf1"), Secret(b"2"))
    assert told.entries == (HubIdentity("leaf1", keys=keys).entry(),)


@pytest.mark.parametrize(
    "change",
    [ForgetModule("m1"), CreateDevice("leaf2"), EnableDevice("leaf1", False), DeleteDevice("leaf1")],
    ids=lambda change: type(change).__name__,
)
def test_the_cloud_hears_of_what_changes_here(world: SecurityWorld, change: object) -> None:
    world.security.create_device("leaf1", "sas", (), 0.0)

    world.asks(change)

    assert len(world.tickets()) == 1
