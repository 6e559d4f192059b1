"""Twins: kept on disk, served without the cloud, and brought together with the cloud's copy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.agent_hub_messages import SetDesired
from actors.hub.client_services import (
    ClientChanged,
    ClientGone,
    DesiredPatch,
    DesiredTold,
    GetTwin,
    PatchReported,
    ReportedPatched,
    Twin,
    TwinRefused,
)
from actors.hub.router import Publish
from actors.hub.twin_record import TwinRecord
from actors.hub.twins import CLOUD_LIMIT_S, RETRY_S, ROUTE_LIMIT_S, TwinActor
from actors.store.messages import Stored
from actors.upstream.messages import (
    CloudRefused,
    CloudTwin,
    DesiredChanged,
    DesiredFollowed,
    FetchTwin,
    LinkChanged,
    ReportedSent,
    SendReported,
)
from messaging.lifecycle import ActorRestarted, RequestFailed
from messaging.message import decode_header
from messaging.twin import Json, Section, difference, merge
from tests.actors.hub_world import World, message_in
from tests.fakes.twins import MemoryTwins

TWINS, HEAD, ROUTER, CLOUD = "hub/twins", "hub/mqtt", "hub/router", "hub/upstream"
STORE = "hub/store"
PUMP = "edge1/pump"


class TwinWorld(World):
    def __init__(
        self, desired: dict[str, dict[str, Any]] | None = None, disk: MemoryTwins | None = None
    ) -> None:
        super().__init__(HEAD, ROUTER, CLOUD, "test")
        self.disk = disk or MemoryTwins()
        self.start(TWINS, lambda: TwinActor(lambda: self.disk, "edge1", desired or {}))
        self.letters(CLOUD)
        self.routed: list[Publish] = []

    def connects(self, identity: str = PUMP, *features: str) -> None:
        self.tell(TWINS, ClientChanged(identity, features or ("DESIRED_PROPERTIES",)), HEAD)

    def report(self, patch: object, identity: str = PUMP) -> object:
        """Patch reported properties; return the answer."""
        body = patch if isinstance(patch, bytes) else json.dumps(patch).encode()
        self.tell(TWINS, PatchReported(identity, body), HEAD, 7)
        self.store()
        return self.answer()

    def store(self) -> None:
        """Have the changes that were routed stored, as router and store do."""
        letters = self.letters(ROUTER)
        self.routed += [message_in(letter) for letter in letters]
        self.tell(TWINS, Stored(tuple(letter.correlation_id for letter in letters)), STORE)

    def answer(self) -> Any:
        found = [message_in(letter) for letter in self.letters(HEAD) if letter.correlation_id == 7]
        return found[0] if found else None

    def ask(self, identity: str = PUMP) -> None:
        self.tell(TWINS, GetTwin(identity), HEAD, 7)

    def twin(self, identity: str = PUMP) -> Any:
        """Return the twin as the client gets it."""
        self.ask(identity)
        answer = self.answer()
        assert isinstance(answer, Twin)
        return json.loads(answer.document)

    def twin_offline(self) -> Any:
        """Return the twin as the client gets it once the link is gone."""
        self.link(False)
        return self.twin()

    def desired_patches(self) -> list[Any]:
        return [json.loads(patch.patch) for patch in self.told(HEAD, DesiredPatch)]

    # the cloud

    def link(self, is_up: bool = True) -> None:
        self.tell(TWINS, LinkChanged(is_up), CLOUD)

    def fetches(self) -> list[tuple[str, int]]:
        """Return the identities whose twin the cloud was asked for, with the id for the answer."""
        return [(message_in(letter).identity, letter.correlation_id) for letter in self.letters_of(FetchTwin)]

    def sent(self) -> list[tuple[Any, int]]:
        """Return the reported patches that went to the cloud, with the id for the answer."""
        return [
            (json.loads(message_in(letter).patch), letter.correlation_id)
            for letter in self.letters_of(SendReported)
        ]

    def letters_of(self, kind: type) -> list[Any]:
        letters = self.letters(CLOUD)
        self._seen[CLOUD] = [letter for letter in letters if letter.kind != kind.__name__]
        return [letter for letter in letters if letter.kind == kind.__name__]

    def cloud_twin(self, to: int, desired: object = None, reported: object = None) -> None:
        sections = [json.dumps(part or {"$version": 1}).encode() for part in (desired, reported)]
        self.tell(TWINS, CloudTwin(PUMP, *sections), CLOUD, to)

    def taken(self, to: int) -> None:
        self.tell(TWINS, ReportedSent(PUMP), CLOUD, to)


@pytest.fixture
def world() -> TwinWorld:
    return TwinWorld()


# without a cloud


def test_a_twin_that_never_was_is_empty_and_has_versions(world: TwinWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 47."""
    assert world.twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}


def test_reported_properties_are_merged_and_on_disk_before_the_answer(world: TwinWorld) -> None:
    assert world.report({"a": 1, "b": {"c": 2}}) == ReportedPatched(PUMP)
    assert world.report({"a": None, "b": {"d": 3}}) == ReportedPatched(PUMP)
    kept = TwinRecord.decode(world.disk.kept[PUMP])

    assert kept.reported.values == {"b": {"c": 2, "d": 3}}
    assert world.twin()["reported"] == {"b": {"c": 2, "d": 3}, "$version": 3}


def test_twins_survive_the_hub(world: TwinWorld) -> None:
    world.report({"a": 1})

    again = TwinWorld(disk=world.disk)

    assert again.twin()["reported"] == {"a": 1, "$version": 2}


@pytest.mark.parametrize(
    "patch",
    [
        b"",
        b"not json",
        b"[1]",
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b'{"a": NaN}',
        b"\xff",
        {"a.b": 1},
        {"a b": 1},
        {"a#b": 1},
        {"a": {"b#": 1}},
        {"$version": 1},
        {"k" * 1025: 1},
        {"a": "x" * 4097},
        {"a": 2**52},
        {"a": [None]},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"j": {"k": {}}}}}}}}}}}},
        {str(n): "x" * 4000 for n in range(9)},
    ],
    ids=lambda patch: repr(patch)[:30],
)
def test_a_patch_that_is_not_allowed_is_400_and_changes_nothing(world: TwinWorld, patch: object) -> None:
    """Source: hub-protocols.md section 8.4, row 45."""
    world.report({"good": 1})

    answer = world.report(patch)

    assert isinstance(answer, TwinRefused)
    assert answer.status == 400
    assert world.twin()["reported"] == {"good": 1, "$version": 2}


def test_a_patch_that_cannot_be_stored_is_500_and_was_never_there(world: TwinWorld) -> None:
    world.report({"a": 1})
    world.disk.failing = True
    answer = world.report({"a": 2})
    world.disk.failing = False

    assert isinstance(answer, TwinRefused)
    assert (answer.status, "no space left" in answer.reason) == (500, True)
    assert world.twin()["reported"] == {"a": 1, "$version": 2}


def test_a_patch_is_routed_as_a_message_of_the_hub_in_the_name_of_the_client(world: TwinWorld) -> None:
    """Source: routing.md section 3.4."""
    world.report({"a": 1})
    world.report({"b": 2}, "leaf")

    first, second = world.routed
    message = decode_header(first.headers[0], first.entries[0][1])

    assert (message.source, message.body) == ("/twinChangeNotifications/", b'{"a": 1}')
    assert {name: message.system_properties.get(name) for name in ("messageType", "connectionModuleId")} == {
        "messageType": "twinChangeNotification",
        "connectionModuleId": "$edgeHub",
    }
    assert (message.system_properties["rpSenderDeviceId"], message.system_properties["rpSenderModuleId"]) == (
        "edge1",
        "pump",
    )
    leaf = decode_header(second.headers[0], b"").system_properties
    assert (leaf["rpSenderDeviceId"], leaf.get("rpSenderModuleId")) == ("leaf", None)
    assert second.epoch > first.epoch  # or the guard of the store would take it for a repetition


def test_a_patch_is_answered_when_its_message_is_on_disk_as_well(world: TwinWorld) -> None:
    world.tell(TWINS, PatchReported(PUMP, b'{"a": 1}'), HEAD, 7)
    before = world.answer()

    world.store()

    assert (before, world.answer()) == (None, ReportedPatched(PUMP))
    assert world.dead_letters.count == 0


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_patch_of_which_no_message_can_be_made_is_in_the_twin_all_the_same(
    world: TwinWorld, how: str
) -> None:
    world.tell(TWINS, PatchReported(PUMP, b'{"a": 1}'), HEAD, 7)
    [letter] = world.letters(ROUTER)

    if how == "refused":
        failed = RequestFailed("Append", STORE, "no space left")
        world.tell(TWINS, failed, STORE, letter.correlation_id)
    else:
        world.system.advance(ROUTE_LIMIT_S + 1)

    assert world.answer() == ReportedPatched(PUMP)
    assert world.twin()["reported"]["a"] == 1
    assert world.dead_letters.count == 0


# the deployment on this device


def test_desired_properties_of_the_deployment_are_the_twin_and_a_changed_file_is_a_patch() -> None:
    world = TwinWorld({"pump": {"rpm": 5, "old": 1}})
    world.connects()
    assert world.twin()["desired"] == {"rpm": 5, "old": 1, "$version": 2}

    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6}'),)), "agent")

    assert world.desired_patches() == [{"rpm": 6, "old": None, "$version": 3}]
    assert world.twin()["desired"] == {"rpm": 6, "$version": 3}


def test_the_same_file_again_is_no_change() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})
    world.connects()
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 5}'),)), "agent")
    again = TwinWorld({"pump": {"rpm": 5}}, world.disk)

    assert (world.desired_patches(), again.twin()["desired"]) == ([], {"rpm": 5, "$version": 2})


def test_desired_properties_that_are_not_allowed_stay_what_they_were() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})

    world.tell(TWINS, SetDesired((("pump", b'{"r.p.m": 6}'), ("valve", b'{"on": true}'))), "agent")

    assert world.twin()["desired"]["rpm"] == 5
    assert world.twin("edge1/valve")["desired"]["on"] is True


def test_only_a_client_that_wants_patches_gets_them() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})
    world.connects(PUMP, "TWIN_RESPONSES")
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6}'),)), "agent")
    world.connects(PUMP, "DESIRED_PROPERTIES", "TWIN_RESPONSES")
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 7}'),)), "agent")
    world.tell(TWINS, ClientGone(PUMP), HEAD)
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 8}'),)), "agent")

    assert world.desired_patches() == [{"rpm": 7, "$version": 4}]


def test_a_client_that_was_away_is_told_what_it_missed_when_it_is_back() -> None:
    """Source: hub-protocols.md section 1.3, on restore."""
    world = TwinWorld({"pump": {"rpm": 5, "old": 1}})
    world.connects()
    world.twin()
    world.tell(TWINS, ClientGone(PUMP), HEAD)
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6, "old": 1}'),)), "agent")
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 7}'),)), "agent")
    again = TwinWorld({"pump": {"rpm": 7}}, world.disk)
    again.connects()
    again.connects()

    assert world.desired_patches() == []
    assert again.desired_patches() == [{"rpm": 7, "old": None, "$version": 4}]


def test_a_patch_that_the_client_did_not_take_is_told_again_on_its_next_connection() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})
    world.connects()
    world.twin()
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6}'),)), "agent")
    world.tell(TWINS, DesiredTold(PUMP, 3), HEAD)
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6, "new": 1}'),)), "agent")
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6, "new": 2}'),)), "agent")
    before = world.desired_patches()

    again = TwinWorld({"pump": {"rpm": 6, "new": 2}}, world.disk)  # the hub was killed meanwhile
    again.connects()

    assert before == [{"rpm": 6, "$version": 3}, {"new": 1, "$version": 4}, {"new": 2, "$version": 5}]
    assert again.desired_patches() == [{"new": 2, "$version": 5}]
    again.tell(TWINS, DesiredTold(PUMP, 5), HEAD)
    again.tell(TWINS, ClientGone(PUMP), HEAD)
    again.connects()
    assert again.desired_patches() == []


def test_what_a_patch_of_unknown_fate_may_have_set_is_removed_again_by_the_next_hub_process() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})
    world.connects()
    world.twin()
    world.tell(TWINS, SetDesired((("pump", b'{"rpm": 6, "old": {"a": 1}}'),)), "agent")

    again = TwinWorld({"pump": {"rpm": 5}}, world.disk)  # killed before it heard that the client has it
    again.connects()

    assert world.desired_patches() == [{"rpm": 6, "old": {"a": 1}, "$version": 3}]
    assert again.desired_patches() == [{"rpm": 5, "old": None, "$version": 4}]


def test_what_changes_while_the_hub_is_away_is_told_to_who_had_only_subscribed() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})
    world.connects()

    again = TwinWorld({"pump": {"rpm": 6}}, world.disk)
    again.connects()

    assert again.desired_patches() == [{"rpm": 6, "$version": 3}]


VALUES = st.recursive(
    st.integers(0, 2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
DESIRED = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@given(DESIRED, st.lists(st.tuples(DESIRED, st.booleans()), min_size=1, max_size=4), DESIRED)
def test_whatever_arrived_of_what_was_sent_the_next_patch_makes_it_right(
    first: Json, sent: list[tuple[Json, bool]], last: Json
) -> None:
    has = first
    record = TwinRecord(Section(first, {}, 1), Section({}, {}, 1), told=first)
    for values, arrives in sent:
        record = replace(record, desired=Section(values, {}, 2))
        assert record.told is not None
        patch = difference(record.told, values)
        record = record.with_sent()
        has = merge(has, patch) if arrives else has

    assert record.told is not None
    assert merge(has, difference(record.told, last)) == last


def test_a_client_that_never_asked_for_its_twin_is_not_told_of_what_was_before_it() -> None:
    world = TwinWorld({"pump": {"rpm": 5}})

    world.connects()

    assert world.desired_patches() == []


# with a cloud


def test_with_a_link_the_clouds_twin_is_the_answer(world: TwinWorld) -> None:
    world.link()
    world.ask()
    [(identity, to)] = world.fetches()
    world.cloud_twin(to, {"rpm": 9, "$version": 4}, {"seen": True, "$version": 8})

    answer = world.answer()

    assert isinstance(answer, Twin)
    assert (identity, json.loads(answer.document)) == (
        PUMP,
        {"desired": {"rpm": 9, "$version": 4}, "reported": {"seen": True, "$version": 8}},
    )


@pytest.mark.parametrize("how", ["refused", "silent", "link lost", "actor restarted"])
def test_a_client_that_asks_gets_the_copy_when_the_cloud_does_not_answer(world: TwinWorld, how: str) -> None:
    world.report({"a": 1})
    world.link()
    world.ask()
    [(_, to)] = world.fetches()
    if how == "refused":
        world.tell(TWINS, CloudRefused(PUMP, 404, "no such module"), CLOUD, to)
    elif how == "silent":
        world.system.advance(CLOUD_LIMIT_S + 1)
    elif how == "link lost":
        world.link(False)
    else:
        world.tell(TWINS, ActorRestarted(CLOUD, "it failed", 1), CLOUD)

    answer = world.answer()

    assert isinstance(answer, Twin)
    assert json.loads(answer.document)["reported"] == {"a": 1, "$version": 2}


def test_what_was_reported_offline_reaches_the_cloud_as_one_patch_without_undoing_others(
    world: TwinWorld,
) -> None:
    world.report({"a": 1, "gone": 1})
    world.report({"a": 2, "gone": None})
    world.link()
    [(_, to)] = world.fetches()
    world.cloud_twin(to, None, {"fromBefore": True, "$version": 5})

    [(patch, to)] = world.sent()
    assert patch == {"a": 2}
    world.taken(to)

    assert world.twin_offline()["reported"] == {"fromBefore": True, "a": 2, "$version": 5}
    assert world.sent() == []


def test_a_patch_whose_fate_is_unknown_is_made_anew_from_what_the_cloud_has(world: TwinWorld) -> None:
    world.link()
    world.report({"a": 1})
    [(_, to)] = world.fetches()
    world.cloud_twin(to)
    [(_, to)] = world.sent()
    world.link(False)  # it arrived there, and its answer did not
    world.report({"a": None, "b": 2})
    world.link()
    [(_, to)] = world.fetches()
    world.cloud_twin(to, None, {"a": 1, "$version": 2})

    [(patch, _)] = world.sent()

    assert patch == {"a": None, "b": 2}


def test_a_patch_that_never_arrived_is_sent_after_a_restart_of_the_hub(world: TwinWorld) -> None:
    world.link()
    world.report({"a": 1})
    [(_, to)] = world.fetches()
    world.cloud_twin(to, None, {"a": 0, "$version": 1})
    assert len(world.sent()) == 1

    again = TwinWorld(disk=world.disk)
    again.link()
    [(_, to)] = again.fetches()
    again.cloud_twin(to, None, {"a": 0, "$version": 1})

    assert [patch for patch, _ in again.sent()] == [{"a": 1}]


def test_patches_go_to_the_cloud_one_at_a_time(world: TwinWorld) -> None:
    world.link()
    world.report({"a": 1})
    [(_, to)] = world.fetches()
    world.report({"b": 2})
    world.cloud_twin(to)
    [(first, to)] = world.sent()
    world.report({"c": 3})
    assert world.sent() == []
    world.taken(to)
    [(second, _)] = world.sent()

    assert (first, second) == ({"a": 1, "b": 2}, {"c": 3})


def test_a_patch_that_the_cloud_refused_is_tried_again_later(world: TwinWorld) -> None:
    world.link()
    world.report({"a": 1})
    [(_, to)] = world.fetches()
    world.cloud_twin(to)
    [(_, to)] = world.sent()
    world.tell(TWINS, CloudRefused(PUMP, 429, "throttled"), CLOUD, to)
    assert (world.fetches(), world.sent()) == ([], [])

    world.system.advance(RETRY_S + 1)
    [(_, to)] = world.fetches()
    world.cloud_twin(to)

    assert [patch for patch, _ in world.sent()] == [{"a": 1}]


def test_a_desired_patch_that_follows_is_passed_on_and_kept(world: TwinWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 46."""
    self_made = {"rpm": 1, "$version": 3}
    world.link()
    world.connects()
    [(_, to)] = world.fetches()
    world.cloud_twin(to, self_made)
    world.desired_patches()

    world.tell(TWINS, DesiredChanged(PUMP, 4, b'{"rpm": 2, "$version": 4}'), CLOUD)

    assert world.desired_patches() == [{"rpm": 2, "$version": 4}]
    assert world.twin_offline()["desired"] == {"rpm": 2, "$version": 4}


def test_after_a_desired_patch_was_missed_the_client_gets_the_difference(world: TwinWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 46."""
    world.link()
    world.connects()
    [(_, to)] = world.fetches()
    world.cloud_twin(to, {"rpm": 1, "old": 1, "$version": 3})
    world.desired_patches()

    world.tell(TWINS, DesiredChanged(PUMP, 5, b'{"rpm": 3, "$version": 5}'), CLOUD)
    [(_, to)] = world.fetches()
    world.cloud_twin(to, {"rpm": 3, "new": 2, "$version": 5})

    assert world.desired_patches() == [{"rpm": 3, "new": 2, "old": None, "$version": 5}]


@pytest.mark.parametrize("in_one_turn", [False, True], ids=["one after the other", "in one turn"])
def test_a_desired_patch_that_overtakes_an_older_copy_is_not_undone_by_it(
    world: TwinWorld, in_one_turn: bool
) -> None:
    world.link()
    world.connects()
    [(_, to)] = world.fetches()
    world.cloud_twin(to, {"rpm": 1, "$version": 3})
    world.ask()
    [(_, to)] = world.fetches()
    world.desired_patches()

    send = world.system.bus.send if in_one_turn else world.tell
    send(TWINS, DesiredChanged(PUMP, 4, b'{"rpm": 2, "$version": 4}'), sender=CLOUD)
    world.cloud_twin(to, {"rpm": 1, "$version": 3})
    [(_, again)] = world.fetches()
    patches, unanswered = world.desired_patches(), world.answer()
    world.cloud_twin(again, {"rpm": 2, "$version": 4})

    assert (patches, unanswered) == ([{"rpm": 2, "$version": 4}], None)
    assert world.desired_patches() == []
    assert json.loads(world.answer().document)["desired"] == {"rpm": 2, "$version": 4}


def test_what_was_patched_before_patches_were_told_is_fetched_behind_what_is_under_way(
    world: TwinWorld,
) -> None:
    world.link()
    world.connects()
    [(_, to)] = world.fetches()

    world.tell(TWINS, DesiredFollowed(PUMP), CLOUD)
    world.cloud_twin(to, {"rpm": 1, "$version": 3})
    [(_, again)] = world.fetches()
    world.desired_patches()
    world.cloud_twin(again, {"rpm": 2, "$version": 4})

    assert world.desired_patches() == [{"rpm": 2, "$version": 4}]


def test_a_new_link_asks_for_every_twin_there_is(world: TwinWorld) -> None:
    world.report({"a": 1})
    world.report({"a": 1}, "leaf")
    world.connects("edge1/new")

    world.link()

    assert sorted(identity for identity, _ in world.fetches()) == ["edge1/new", PUMP, "leaf"]


# the record

json_values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("xyz", max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abcd"), json_values, max_size=4)


@given(known=objects, here=objects, there=objects)
def test_what_changed_here_wins_and_what_changed_there_stays(known: Any, here: Any, there: Any) -> None:
    record = TwinRecord.new(0.0)
    record = replace(record, known=known)
    if here:
        record = record.with_reported(here, 1.0)

    together = record.with_cloud({"$version": 1}, {**there, "$version": 2}, 2.0)

    assert together.reported.values == merge(there, difference(known, record.reported.values))
    assert merge(there, together.unsent()) == together.reported.values
    assert TwinRecord.decode(together.encode()) == together
