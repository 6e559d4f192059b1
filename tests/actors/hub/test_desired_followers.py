"""Who is told of changes of desired properties, and what it has of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.hub.desired_followers import MOST_UNTAKEN, DesiredFollowers

PUMP, VALVE = "edge1/pump", "edge1/valve"
MQTT, AMQP = "hub/mqtt", "hub/amqp"


def following(*identities: str) -> DesiredFollowers:
    made = DesiredFollowers()
    for identity in identities:
        made.changed(identity, MQTT, wants=True)
    return made


@pytest.mark.parametrize(
    ("before", "wants", "begins"),
    [
        pytest.param(None, True, True, id="a new client that wants patches"),
        pytest.param(None, False, False, id="a new one that wants none"),
        pytest.param(False, True, True, id="one that wants them by now"),
        pytest.param(True, True, False, id="one that wanted them before"),
        pytest.param(True, False, False, id="one that wants them no more"),
    ],
)
def test_a_client_begins_to_follow_once(before: bool | None, wants: bool, begins: bool) -> None:
    followers = DesiredFollowers()
    if before is not None:
        followers.changed(PUMP, MQTT, before)

    assert followers.changed(PUMP, MQTT, wants) is begins
    assert followers.head_of(PUMP) == (MQTT if wants else "")
    assert list(followers) == [PUMP]


@pytest.mark.parametrize(
    ("happens", "left"),
    [
        pytest.param(lambda those: those.gone(PUMP, MQTT), [VALVE], id="it is gone"),
        pytest.param(lambda those: those.gone(PUMP, AMQP), [PUMP, VALVE], id="gone from another head"),
        pytest.param(lambda those: those.gone("edge1/nobody", MQTT), [PUMP, VALVE], id="nobody knows it"),
        pytest.param(lambda those: those.head_started(MQTT), [], id="its head starts anew"),
        pytest.param(lambda those: those.head_started(AMQP), [PUMP, VALVE], id="another head does"),
    ],
)
def test_clients_go_with_their_own_head(happens: Callable[[DesiredFollowers], None], left: list[str]) -> None:
    followers = following(PUMP, VALVE)

    happens(followers)

    assert list(followers) == left
    assert len(followers) == len(left)


def test_a_client_has_what_it_took_and_will_have_what_it_was_sent() -> None:
    followers = following(PUMP)
    for version in (1, 2, 3):
        followers.sent(PUMP, version, {"n": version})

    assert followers.last_sent(PUMP) == {"n": 3}
    assert followers.taken(PUMP, 2) == {"n": 2}
    assert followers.taken(PUMP, 1) is None  # it is taken with the one behind it
    assert followers.last_sent(PUMP) == {"n": 3}
    assert followers.taken(PUMP, 3) == {"n": 3}
    assert followers.last_sent(PUMP) is None
    assert followers.taken(VALVE, 1) is None


def test_a_version_that_is_sent_again_is_the_last_one() -> None:
    followers = following(PUMP)
    followers.sent(PUMP, 7, {"n": 1})
    followers.sent(PUMP, 8, {"n": 2})

    followers.sent(PUMP, 7, {"n": 3})

    assert followers.last_sent(PUMP) == {"n": 3}
    assert followers.taken(PUMP, 7) == {"n": 3}
    assert followers.last_sent(PUMP) is None


def test_of_a_client_that_takes_nothing_the_oldest_patches_are_followed_no_more() -> None:
    followers = following(PUMP)
    for version in range(MOST_UNTAKEN + 1):
        followers.sent(PUMP, version, {"n": version})

    assert followers.taken(PUMP, 0) is None
    assert followers.taken(PUMP, 1) == {"n": 1}


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(lambda those: those.gone(PUMP, MQTT), id="the client has gone"),
        pytest.param(lambda those: those.forget_sent(PUMP), id="its twin was forgotten"),
        pytest.param(
            lambda those: (those.changed(PUMP, MQTT, wants=False), those.changed(PUMP, MQTT, wants=True)),
            id="it begins to follow anew",
        ),
    ],
)
def test_what_was_sent_before_counts_no_more(happens: Callable[[DesiredFollowers], object]) -> None:
    followers = following(PUMP)
    followers.sent(PUMP, 1, {"n": 1})

    happens(followers)

    assert followers.last_sent(PUMP) is None
    assert followers.taken(PUMP, 1) is None
