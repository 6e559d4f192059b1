"""The hub as a client of itself: what `$edgeHub` reports, and the methods that it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.addresses import AGENT, SECURITY
from actors.agent_hub_messages import (
    Clients,
    GetIdentities,
    HubDesiredArrived,
    Identities,
    ListClients,
    Routes,
)
from actors.broker.bridge_messages import BridgesReport
from actors.hub.client_services import (
    CallMethod,
    ClientChanged,
    ClientGone,
    DesiredPatch,
    GetTwin,
    HeadStarted,
    InvokeMethod,
    MethodAnswered,
    MethodResult,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from actors.hub.own_client import AGENT_LIMIT_S, TWIN_LIMIT_S, HubClientActor
from actors.hub.own_report import LONGEST_ERROR, MOST_CLIENTS_BYTES, MOST_GONE, ClientTimes, client_entries
from actors.hub.router import Endpoints, ListEndpoints, ListRoutes
from actors.hub.twin_record import TwinRecord
from messaging.envelope import Envelope
from messaging.lifecycle import ActorRestarted, PeerUp
from messaging.twin import merge, new_section, patched
from messaging.version import VERSION
from tests.actors.hub_world import World, message_in
from tests.actors.whole_hub import A, HubWorld

US, TWINS, METHODS, CLOUD = "hub/client", "hub/twins", "hub/methods", "hub/upstream"
ROUTER, IDENTITIES, HEAD, AMQP = "hub/router", "hub/identities", "hub/mqtt", "hub/amqp"
OWN = "edge1/$edgeHub"
PERIOD_S = 5.0
BAD = Routes((), (("r1", "FROM x", "no INTO at column 7", 1, 7), ("r2", "", "empty", 1, 1)))
GOOD = Routes((), ())


class ReportWorld(World):
    """The actor, with mailboxes for those around it; the twin is kept here."""

    def __init__(
        self,
        *,
        routes: Routes = GOOD,
        version: int = 7,
        twin: dict[str, Any] | None = None,
        desired: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(TWINS, METHODS, CLOUD, ROUTER, IDENTITIES, SECURITY, HEAD, AMQP, AGENT, "test")
        self.twin = twin or {}
        self.routes = routes
        self.start(
            US,
            lambda: HubClientActor(
                "edge1",
                report_s=PERIOD_S,
            ),
        )
        self.patches: list[dict[str, Any]] = []
        self.answer_router()
        [asked] = [letter for letter in self.letters(TWINS) if letter.kind == GetTwin.__name__]
        document = json.dumps({"desired": {**(desired or {}), "$version": version}, "reported": {}}).encode()
        self.tell(US, Twin(OWN, document), TWINS, asked.correlation_id)
        self.system.run()

    def answer_router(self) -> None:
        if self.told(ROUTER, ListEndpoints):
            self.tell(US, Endpoints(()), ROUTER)
        assert self.told(ROUTER, ListRoutes)
        self.tell(US, self.routes, ROUTER)

    def asked(self) -> list[Envelope]:
        return [letter for letter in self.letters(TWINS) if letter.kind == PatchReported.__name__]

    def pass_time(self, seconds: float = PERIOD_S) -> list[dict[str, Any]]:
        """Let time pass, and the twin take what is reported; return the patches."""
        self.system.advance(seconds)
        patches = []
        for letter in self.asked():
            asked = message_in(letter)
            assert asked.identity == OWN
            patch = json.loads(asked.patch)
            self.twin = merge(self.twin, patch)
            patches.append(patch)
            self.tell(US, ReportedPatched(OWN), TWINS, letter.correlation_id)
        return patches

    def connects(self, *identities: str, head: str = HEAD) -> None:
        for identity in identities:
            self.tell(US, ClientChanged(identity, ()), head)

    def leaves(self, identity: str, head: str = HEAD) -> None:
        self.tell(US, ClientGone(identity), head)

    def call(self, name: str, payload: bytes = b"") -> None:
        self.tell(US, CallMethod(OWN, "R1", name, payload), METHODS)

    def answers(self) -> list[tuple[str, int]]:
        return [(told.request_id, told.status) for told in self.told(METHODS, MethodAnswered)]


@pytest.fixture
def world() -> ReportWorld:
    return ReportWorld()


def test_the_first_report_wipes_the_clients_of_an_earlier_hub_and_tells_the_rest() -> None:
    """Source: observability.md section 13, row 37."""
    world = ReportWorld(twin={"clients": {"edge1/old": {"status": "Connected"}}})
    world.connects("edge1/sensor")

    first = world.pass_time(0)
    later = world.pass_time()

    status = {"code": 200, "description": ""}
    version = {"version": VERSION, "build": "", "commit": ""}
    header = {
        "schemaVersion": "1.0",
        "version": version,
        "lastDesiredVersion": 7,
        "lastDesiredStatus": status,
    }
    assert first == [header | {"clients": None, "bridges": None}]
    assert [list(patch["clients"]) for patch in later] == [["edge1/sensor"]]
    assert world.twin.keys() == header.keys() | {"clients"}


def test_bridges_are_told_as_they_change_and_those_of_an_earlier_hub_are_wiped() -> None:
    world = ReportWorld(twin={"bridges": {"old": {"status": "connected"}}})
    world.pass_time()
    assert "bridges" not in world.twin

    up = ("$upstream", "connected", "2026-11-21T22:00:00Z", "")
    down = ("site", "waiting", "", "refused " + "x" * 1000)
    world.tell(US, BridgesReport((up, down)), "hub/bridges")
    world.pass_time()
    assert world.twin["bridges"] == {
        "%24upstream": {"status": "connected", "connectedTimeUtc": "2026-11-21T22:00:00Z"},
        "site": {"status": "waiting", "error": down[3][:LONGEST_ERROR]},
    }

    world.tell(US, BridgesReport((up,)), "hub/bridges")
    world.pass_time()
    assert list(world.twin["bridges"]) == ["%24upstream"]


def test_a_client_is_told_with_its_state_and_times_under_an_escaped_key(world: ReportWorld) -> None:
    """Source: observability.md section 13, rows 38 and 39."""
    world.pass_time()
    world.connects("d 1/m.1", "leaf")
    world.pass_time()
    first = world.twin["clients"]["d%201/m%2E1"]
    world.leaves("d 1/m.1")
    world.leaves("leaf")
    [gone] = world.pass_time()

    assert first.keys() == {"status", "lastConnectedTimeUtc"}
    assert (first["status"], first["lastConnectedTimeUtc"][-1]) == ("Connected", "Z")
    module = gone["clients"]["d%201/m%2E1"]
    assert module.keys() == {"status", "lastDisconnectedTimeUtc"}  # the other time stays as it is
    assert module["status"] == "Disconnected"
    assert gone["clients"]["leaf"] is None
    assert world.twin["clients"].keys() == {"d%201/m%2E1"}


def test_a_thousand_clients_at_once_are_one_patch(world: ReportWorld) -> None:
    world.pass_time()
    world.connects(*(f"device-{number}" for number in range(1000)))

    patches = world.pass_time(3 * PERIOD_S)

    assert len(patches) == 1


def test_a_client_that_comes_and_goes_within_a_period_is_no_patch(world: ReportWorld) -> None:
    world.connects("other")
    world.pass_time(0)
    world.pass_time()
    world.connects("leaf")
    world.leaves("leaf")

    assert world.pass_time(3 * PERIOD_S) == []


def test_a_subscription_is_no_news(world: ReportWorld) -> None:
    world.pass_time()
    world.connects("leaf")
    world.pass_time()
    world.connects("leaf")

    assert world.pass_time() == []


def test_a_client_that_went_to_another_head_is_not_gone(world: ReportWorld) -> None:
    world.pass_time()
    world.connects("leaf")
    world.connects("leaf", head=AMQP)
    world.leaves("leaf")
    world.pass_time()
    assert world.twin["clients"].keys() == {"leaf"}

    world.leaves("leaf", AMQP)
    world.pass_time()

    assert world.twin["clients"] == {}


def test_clients_of_a_head_that_starts_anew_are_gone_until_it_names_them(world: ReportWorld) -> None:
    world.pass_time()
    world.connects("leaf", "edge1/a")
    world.connects("amqp", head=AMQP)
    world.pass_time()
    world.tell(US, HeadStarted(), HEAD)
    world.pass_time()

    states = {key: entry["status"] for key, entry in world.twin["clients"].items()}
    assert states == {"edge1/a": "Disconnected", "amqp": "Connected"}


def test_routes_left_out_are_400_with_their_names_and_repaired_ones_are_200() -> None:
    world = ReportWorld(routes=BAD)
    world.pass_time()
    bad = world.twin["lastDesiredStatus"]
    world.tell(US, Endpoints(()), ROUTER)
    world.routes = GOOD
    world.answer_router()
    world.tell(US, DesiredPatch(OWN, 8, b"{}"), TWINS)
    world.pass_time()

    assert bad["code"] == 400
    assert bad["description"] == (
        "Error while parsing desired properties - left out: r1, r2. "
        "Error parsing route r1 - no INTO at column 7; Error parsing route r2 - empty"
    )
    assert world.twin["lastDesiredStatus"] == {"code": 200, "description": ""}
    assert world.twin["lastDesiredVersion"] == 8


def test_a_thousand_bad_routes_still_fit_into_the_twin() -> None:
    bad = tuple((f"route-{number}", "", "wrong " * 50, 1, 1) for number in range(1000))
    world = ReportWorld(routes=Routes((), bad))

    [patch] = world.pass_time(0)

    assert patch["lastDesiredStatus"]["code"] == 400
    patched("reported", new_section(0), patch, 0)


def test_a_report_that_was_not_taken_is_made_again(world: ReportWorld) -> None:
    world.pass_time()
    world.connects("leaf")
    world.system.advance(PERIOD_S)
    [refused] = world.asked()
    world.tell(US, TwinRefused(OWN, 500, "disk full"), TWINS, refused.correlation_id)
    world.system.advance(PERIOD_S)
    assert len(world.asked()) == 1  # nobody answers this one
    world.system.advance(TWIN_LIMIT_S)

    world.pass_time()

    assert world.twin["clients"].keys() == {"leaf"}


def test_services_that_restart_hear_again_that_the_hub_wants_its_patches_and_methods(
    world: ReportWorld,
) -> None:
    for service in (METHODS, CLOUD):
        assert [told.identity for told in world.told(service, ClientChanged)] == [OWN]

    world.tell(US, ActorRestarted(METHODS, "it failed", 1), METHODS)
    world.tell(US, ActorRestarted(ROUTER, "it failed", 1), ROUTER)

    [told] = world.told(METHODS, ClientChanged)
    assert told.features == ("DESIRED_PROPERTIES", "METHODS")
    assert len(world.told(ROUTER, ListEndpoints)) == 1


# bounds


def times(head: str, connected_s: float, disconnected_s: float | None = None) -> ClientTimes:
    return ClientTimes(head, connected_s, disconnected_s)


def test_as_many_clients_are_reported_as_fit_and_the_rest_is_counted() -> None:
    clients = [(f"d.{number:04}{'x' * 120}", times(HEAD, float(number))) for number in range(1000)]

    entries, left_out = client_entries(clients)

    assert left_out == 1000 - len(entries)
    assert len(json.dumps(entries, separators=(",", ":"))) <= MOST_CLIENTS_BYTES
    assert len(entries) > 80
    assert next(iter(entries)).startswith("d%2E0000")
    patched("reported", new_section(0), {"clients": entries}, 0)


def test_the_connected_are_reported_before_the_gone_and_modules_before_devices() -> None:
    clients = [
        ("e/gone-early", times("", 1, 5)),
        ("e/gone-late", times("", 1, 6)),
        ("leaf", times(HEAD, 1)),
        ("e/there", times(HEAD, 9)),
    ]

    assert list(client_entries(clients)[0]) == ["e/there", "leaf", "e/gone-late", "e/gone-early"]


def test_modules_that_are_gone_are_not_remembered_without_end(world: ReportWorld) -> None:
    for number in range(MOST_GONE + 5):
        world.connects(f"d/m{number}")
        world.leaves(f"d/m{number}")

    assert world.described(US)["known"] == MOST_GONE


# methods


@pytest.mark.parametrize(
    ("name", "payload", "status"),
    [
        ("ping", b"", 200),
        ("PING", b"null", 200),
        ("RefreshDeviceScopeIdentityCache", b"{", 400),
        ("RefreshDeviceScopeIdentityCache", b"", 400),
        ("RefreshDeviceScopeIdentityCache", b"{}", 400),
        ("RefreshDeviceScopeIdentityCache", b'{"deviceIds":[5]}', 400),
        ("RefreshDeviceScopeIdentityCache", b"\xff", 400),
        ("RestartModule", b"{}", 404),
    ],
)
def test_a_method_is_answered_at_once(world: ReportWorld, name: str, payload: bytes, status: int) -> None:
    """Source: observability.md section 13, row 49."""
    world.call(name, payload)

    assert world.answers() == [("R1", status)]


@pytest.mark.parametrize("name", ["RefreshDeviceScopeIdentityCache", "refreshdevicescopeidentitycache"])
def test_a_refresh_is_answered_once_the_identities_are_there(world: ReportWorld, name: str) -> None:
    world.call(name, b'{"deviceIds":["d2"]}')
    [asked] = [letter for letter in world.letters(SECURITY) if letter.kind == GetIdentities.__name__]
    assert world.answers() == []

    world.tell(US, Identities(()), SECURITY, asked.correlation_id)

    assert world.told(IDENTITIES, Identities) == [Identities(())]
    assert world.answers() == [("R1", 200)]


def test_a_refresh_without_an_agent_is_answered_500(world: ReportWorld) -> None:
    world.call("RefreshDeviceScopeIdentityCache", b'{"deviceIds":[]}')

    world.system.advance(AGENT_LIMIT_S + 1)

    assert world.answers() == [("R1", 500)]


# with the real actors around it


def test_the_twin_of_the_hub_has_its_clients_and_no_route_takes_its_patches() -> None:
    hub = HubWorld({"twins": "FROM /twinChangeNotifications INTO $upstream"})
    hub.open().connect(A)
    hub.system.advance(2 * PERIOD_S)

    record = TwinRecord.decode(hub.twins.kept[OWN])

    assert record.reported.values["clients"][A]["status"] == "Connected"
    assert record.reported.values["lastDesiredStatus"]["code"] == 200
    assert hub.bodies() == set()


def test_a_method_of_the_hub_is_called_as_that_of_any_module() -> None:
    hub = HubWorld()
    take = hub.system.mailbox("test")
    hub.system.bus.send(METHODS, InvokeMethod(OWN, "ping", b"", 5, 0), sender="test", correlation_id=3)
    hub.system.run()

    [answer] = take()

    assert message_in(answer) == MethodResult(200, b"null")


# what it desires


ROUTES = {"routes": {"up": "FROM /* INTO $upstream"}, "storeAndForwardConfiguration": {"timeToLiveSecs": 60}}


def desired_of(told: HubDesiredArrived) -> Any:
    return json.loads(told.desired.reveal())


def test_the_agent_is_told_what_the_hub_desires_when_it_is_there_and_at_each_change() -> None:
    world = ReportWorld(desired={"schemaVersion": "1.1", **ROUTES})

    world.tell(US, PeerUp("agent", 9), "test")
    [first] = world.told(AGENT, HubDesiredArrived)
    world.tell(US, DesiredPatch(OWN, 8, b'{"routes": {"up": null}, "$version": 8}'), TWINS)
    [second] = world.told(AGENT, HubDesiredArrived)

    assert (desired_of(first), first.version) == ({"schemaVersion": "1.1", **ROUTES}, 7)
    assert (desired_of(second)["routes"], second.version) == ({}, 8)


def test_what_the_hub_desires_and_cannot_be_is_reported_and_told_to_nobody() -> None:
    world = ReportWorld(desired={"schemaVersion": "1.1", **ROUTES})
    world.tell(US, PeerUp("agent", 9), "test")
    world.told(AGENT, HubDesiredArrived)

    world.tell(US, DesiredPatch(OWN, 8, b'{"routes": 5, "$version": 8}'), TWINS)
    world.pass_time()
    world.pass_time()

    assert world.told(AGENT, HubDesiredArrived) == []
    assert world.twin["lastDesiredVersion"] == 8
    assert world.twin["lastDesiredStatus"] == {
        "code": 400,
        "description": "Error while parsing desired properties - "
        "$edgeHub, version 8: $.routes: expected an object, got a number",
    }


def test_a_hub_of_which_nothing_is_known_yet_takes_no_routes_away() -> None:
    world = ReportWorld()

    world.tell(US, PeerUp("agent", 9), "test")

    assert world.told(AGENT, HubDesiredArrived) == []


def test_who_is_connected_is_told_to_who_asks(world: ReportWorld) -> None:
    world.connects("edge1/sensor", "leaf", "edge1/pump")
    world.leaves("leaf")

    world.tell(US, ListClients(), METHODS)

    assert [told.connected for told in world.told(METHODS, Clients)] == [("edge1/sensor", "edge1/pump")]
