"""What the cloud has of what the edge reports, and what is to be sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.agent.cloud_report import REPORT_SPACING_S, CloudReport
from messaging.twin import Json

Step = Callable[[CloudReport], object]


def report(*steps: Step) -> CloudReport:
    made = CloudReport()
    for step in steps:
        step(made)
    return made


def wants(state: Json) -> Step:
    return lambda made: made.shall_be(state)


def has(reported: Json) -> Step:
    return lambda made: made.read(reported)


def sends(made: CloudReport) -> None:
    made.sent(0.0)


def is_taken(made: CloudReport) -> None:
    made.taken()


def is_refused(made: CloudReport) -> None:
    made.failed(is_final=True)


def fails(made: CloudReport) -> None:
    made.failed(is_final=False)


def is_lost(made: CloudReport) -> None:
    made.lost()


A, B = {"a": 1}, {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("steps", "patch"),
    [
        pytest.param((), {}, id="nobody has said anything"),
        pytest.param((wants(A),), {}, id="what the cloud has is not known"),
        pytest.param((has(A),), {}, id="what it shall have is not known"),
        pytest.param((wants(A), has({})), A, id="it has nothing"),
        pytest.param((wants(A), has(A)), {}, id="it has all"),
        pytest.param((wants(A), has(B)), {"b": None}, id="it has more"),
        pytest.param((wants(A), has({}), sends), {}, id="a patch is on its way"),
        pytest.param((wants(A), has({}), sends, wants(B)), {}, id="more is wanted meanwhile"),
        pytest.param((wants(A), has({}), sends, wants(B), is_taken), {"b": 2}, id="… and goes after it"),
        pytest.param((wants(A), has({}), sends, is_refused), {}, id="it does not take that state"),
        pytest.param((wants(A), has({}), sends, is_refused, wants(B)), B, id="… but perhaps another"),
        pytest.param((wants(A), has({}), sends, fails), {}, id="whether it arrived is not known"),
        pytest.param((wants(A), has({}), sends, fails, has(A)), {}, id="… and it did"),
        pytest.param((wants(A), has({}), sends, fails, has({})), A, id="… and it did not"),
        pytest.param((wants(A), has({}), is_lost), {}, id="there is no connection"),
        pytest.param((wants(A), has({}), sends, is_lost, has({})), A, id="the next one begins anew"),
    ],
)
def test_what_the_cloud_lacks_is_sent_once_that_is_known(steps: tuple[Step, ...], patch: Json) -> None:
    assert report(*steps).patch() == patch


@pytest.mark.parametrize(
    ("steps", "is_owed"),
    [
        pytest.param((), False, id="nothing was sent"),
        pytest.param((wants(A), has({}), sends), True, id="a patch was sent"),
        pytest.param((wants(A), has({}), sends, is_taken), False, id="it was taken"),
        pytest.param((wants(A), has({}), sends, is_refused), False, id="it was refused"),
        pytest.param((wants(A), has({}), sends, fails), False, id="it failed"),
        pytest.param((wants(A), has({}), sends, is_lost), False, id="the connection was lost"),
    ],
)
def test_an_answer_is_owed_to_a_patch_alone(steps: tuple[Step, ...], is_owed: bool) -> None:
    assert report(*steps).is_owed_an_answer is is_owed


def test_reports_keep_their_distance() -> None:
    made = report(wants(A), has({}))
    assert made.wait_s(100.0) <= 0

    made.sent(100.0)

    assert made.wait_s(100.0) == REPORT_SPACING_S
    assert made.wait_s(100.0 + REPORT_SPACING_S) == 0
