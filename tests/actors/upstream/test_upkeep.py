"""What is to be done with a connection that is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.upstream.source import Held, Phase, Source
from actors.upstream.upkeep import (
    CONNECT_LIMIT_S,
    LINGER_S,
    REST_S,
    LinkLimits,
    hanging_s,
    has_no_use,
    may_rest,
)
from messaging.topics import Feature

LIMITS = LinkLimits(idle_s=3600.0, operation_s=20.0)
T0_S = 1000.0

Change = Callable[[Source], object]


def source_in(phase: Phase, *changes: Change) -> Source:
    made = Source("edge1/pump", T0_S, 0.0)
    made.phase = phase
    for change in changes:
        change(made)
    return made


def sends(source: Source) -> None:
    source.send(1, 10, 40_000, T0_S)


def is_attached(source: Source) -> None:
    source.attachment = 7


def has_held(source: Source) -> None:
    source.held.append(Held(1, b"", b""))


def has_client(source: Source) -> None:
    source.has_client = True


def wants_methods(source: Source) -> None:
    source.features = frozenset({Feature.METHODS})


@pytest.mark.parametrize(
    ("phase", "changes", "after_s", "limit_s"),
    [
        pytest.param(Phase.OPENING, (), CONNECT_LIMIT_S, None, id="still opening"),
        pytest.param(Phase.OPENING, (), CONNECT_LIMIT_S + 1, CONNECT_LIMIT_S, id="opening for too long"),
        pytest.param(Phase.OPEN, (), 1e6, None, id="open, and nothing is owed"),
        pytest.param(Phase.OPEN, (sends,), 40.0, None, id="as slow as a slow line may be"),
        pytest.param(Phase.OPEN, (sends,), 40.1, 40.0, id="slower than any line"),
        pytest.param(Phase.WAITING, (), 1e6, None, id="there is no connection"),
    ],
)
def test_what_does_not_move_for_too_long_hangs(
    phase: Phase, changes: tuple[Change, ...], after_s: float, limit_s: float | None
) -> None:
    assert hanging_s(source_in(phase, *changes), LIMITS, T0_S + after_s) == limit_s


@pytest.mark.parametrize(
    ("changes", "after_s", "rests"),
    [
        pytest.param((is_attached,), REST_S, True, id="it sends nothing"),
        pytest.param((is_attached,), REST_S - 1, False, id="it has just sent something"),
        pytest.param((), REST_S, False, id="it rests already"),
        pytest.param((is_attached, has_held), REST_S, False, id="something is to be sent"),
        pytest.param((is_attached, sends), REST_S, False, id="something is on its way"),
    ],
)
def test_a_source_that_sends_nothing_rests(changes: tuple[Change, ...], after_s: float, rests: bool) -> None:
    assert may_rest(source_in(Phase.OPEN, *changes), T0_S + after_s) is rests


@pytest.mark.parametrize(
    ("changes", "limits", "after_s", "closes"),
    [
        pytest.param((), LIMITS, LINGER_S, True, id="its client is gone"),
        pytest.param((), LIMITS, LINGER_S - 1, False, id="its client may be back at once"),
        pytest.param((has_client,), LIMITS, LINGER_S, False, id="its client is there"),
        pytest.param((has_client,), LIMITS, 3600.0, True, id="a client that has no use for it"),
        pytest.param((has_client,), LinkLimits(idle_s=None), 1e6, False, id="it may be idle for ever"),
        pytest.param((), LinkLimits(closes_with_client=False), LINGER_S, False, id="it outlives its client"),
        pytest.param((wants_methods,), LIMITS, 1e6, False, id="the cloud is listened to"),
        pytest.param((is_attached,), LIMITS, 1e6, False, id="the store may hand something over"),
        pytest.param((sends,), LIMITS, 1e6, False, id="something is on its way"),
    ],
)
def test_a_connection_that_has_no_use_is_closed(
    changes: tuple[Change, ...], limits: LinkLimits, after_s: float, closes: bool
) -> None:
    assert has_no_use(source_in(Phase.OPEN, *changes), limits, T0_S + after_s) is closes
