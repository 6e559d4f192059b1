from __future__ import annotations

from collections import Counter

import pytest

from runtime.faults.plan import Due, Timeline, chance_of, in_turn
from runtime.faults.scenario import After, At, Every, Step
from runtime.faults.yaml_reader import Spread


def step(number: int, when: At | Every | After, name: str = "") -> Step:
    return Step(number, name, when, "kill", {})


def all_due(timeline: Timeline) -> list[Due]:
    """Return what is due of faults that take no time."""
    found = []
    while (due := timeline.take(1e9)) is not None:
        found.append(due)
        timeline.ended(due, due.at_s)
    return found


def test_a_step_is_due_at_its_time_and_not_before() -> None:
    timeline = Timeline([step(0, At(Spread(5.0)))], seed=1)

    assert timeline.take(4.99) is None
    assert timeline.take(5.0) == Due(5.0, 0, 0)
    assert timeline.take(100.0) is None


def test_a_step_that_repeats_does_so_with_its_time_between_two() -> None:
    timeline = Timeline([step(0, Every(Spread(2.0, 0.5), 4))], seed=1)

    times = [due.at_s for due in all_due(timeline)]

    assert len(times) == 4
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert all(1.5 <= gap <= 2.5 for gap in gaps)
    assert len(set(gaps)) == 4


@pytest.mark.parametrize(
    ("took_s", "next_s"),
    [
        pytest.param(0.0, 4.0, id="none"),
        pytest.param(1.5, 4.0, id="less than the time between"),
        pytest.param(5.0, 9.0, id="more than the time between"),
    ],
)
def test_one_that_takes_its_time_does_not_push_the_next_upon_its_end(took_s: float, next_s: float) -> None:
    timeline = Timeline([step(0, Every(Spread(2.0), 2))], seed=1)
    first = timeline.take(2.0)
    assert first is not None
    assert timeline.take(100.0) is None, "one of a step at a time"

    timeline.ended(first, first.at_s + took_s)

    assert timeline.take(1e9) == Due(next_s, 0, 1)


def test_the_same_seed_gives_the_same_times_and_another_gives_others() -> None:
    steps = [step(0, Every(Spread(2.0, 1.0), 5)), step(1, At(Spread(3.0, 3.0)))]

    assert all_due(Timeline(steps, 7)) == all_due(Timeline(steps, 7))
    assert all_due(Timeline(steps, 7)) != all_due(Timeline(steps, 8))


def test_steps_of_one_scenario_do_not_disturb_each_others_choices() -> None:
    alone = Timeline([step(0, Every(Spread(2.0, 1.0), 3))], 7)
    together = Timeline([step(0, Every(Spread(2.0, 1.0), 3)), step(1, At(Spread(1.0, 1.0)))], 7)

    assert all_due(alone) == [due for due in all_due(together) if due.step == 0]


@pytest.mark.parametrize(
    ("event", "tell"),
    [
        pytest.param("recovered", lambda t: t.told("recovered", 4.0), id="an event"),
        pytest.param("fault ended", lambda t: t.ended(Due(1.0, 0, 0), 4.0), id="another fault"),
        pytest.param("step first", lambda t: t.ended(Due(1.0, 0, 0), 4.0), id="another step"),
        pytest.param("500 acknowledged", lambda t: t.acknowledged(500, 4.0), id="a number of messages"),
    ],
)
def test_a_step_that_waits_for_an_event_is_due_behind_it(event: str, tell: object) -> None:
    steps = [step(0, At(Spread(1.0)), "first"), step(1, After(event, Spread(2.0)))]
    timeline = Timeline(steps, seed=1)
    timeline.take(1.0)
    timeline.acknowledged(499, 3.0)
    assert timeline.take(100.0) is None

    tell(timeline)  # type: ignore[operator]

    assert timeline.take(5.9) is None
    assert timeline.take(6.0) == Due(6.0, 1, 0)


def test_a_step_is_done_when_each_of_its_times_is() -> None:
    steps = [step(0, Every(Spread(1.0), 2), "both"), step(1, After("step both", Spread(0.0)))]
    timeline = Timeline(steps, seed=1)

    timeline.ended(Due(1.0, 0, 0), 1.0)
    after_one = timeline.waits_for
    timeline.ended(Due(2.0, 0, 1), 2.0)

    assert after_one == ("step both",)
    assert timeline.waits_for == ()
    assert not timeline.is_over
    timeline.ended(Due(2.0, 1, 0), 3.0)
    assert timeline.is_over


def test_of_a_list_each_is_hit_as_often_as_the_others() -> None:
    names = ["agent", "hub", "both"]

    chosen = Counter(in_turn(names, 3, 0, nth) for nth in range(30))

    assert chosen == {"agent": 10, "hub": 10, "both": 10}
    assert [in_turn(names, 3, 0, nth) for nth in range(9)] != [in_turn(names, 4, 0, nth) for nth in range(9)]


def test_choices_are_those_of_seed_and_thing() -> None:
    assert chance_of(1, "for", 2).random() == chance_of(1, "for", 2).random()
    assert chance_of(1, "for", 2).random() != chance_of(1, "for", 3).random()
