from __future__ import annotations

from pathlib import Path

import pytest

from runtime.faults.cloud_answers import ERRORS, Answers, answer_with, refusals
from runtime.faults.stamps import Key, body_of
from runtime.iothub.records import Telemetry


def message(sequence: int) -> Telemetry:
    return Telemetry({}, {}, body_of(Key(1, 0, sequence), 64))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_nothing_is_refused_until_it_is_told_to(home: Path) -> None:
    answers = Answers(home)

    assert answers.error([message(1)]) == ""
    answer_with(home, "throttled", 10)
    assert answers.error([message(1)]) == "throttled"
    answer_with(home)
    assert answers.error([message(1)]) == ""


def test_it_refuses_so_often_and_not_more_often(home: Path) -> None:
    answers = Answers(home)
    answers.count()  # of an earlier step
    answer_with(home, "too large", 2)

    for _ in range(2):
        assert answers.error([message(1)]) == "too large"
        answers.count()

    assert answers.error([message(1)]) == ""
    assert refusals(home) == 3


@pytest.mark.parametrize(
    ("sequences", "refused"),
    [([40], True), ([39, 40, 41], True), ([39, 41], False), ([80], True)],
)
def test_only_messages_of_certain_numbers_are_refused(
    home: Path, sequences: list[int], refused: bool
) -> None:
    answers = Answers(home)
    answer_with(home, "too large", 10, nth=40)

    assert bool(answers.error([message(one) for one in sequences])) is refused


def test_what_an_edge_says_of_itself_is_not_counted_as_a_message_of_the_load(home: Path) -> None:
    answers = Answers(home)
    answer_with(home, "too large", 10, nth=2)

    assert answers.error([Telemetry({}, {}, b"{}")]) == ""


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_one_of_iot_hub(name: str) -> None:
    error = ERRORS[name]()

    assert 400 <= error.status <= 503
    assert error.name
