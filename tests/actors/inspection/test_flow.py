"""Who talks to whom, counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.inspection.flow import MOST_LINKS, OTHERS, Flow, bucket_of, quantile_s, since


@given(st.lists(st.floats(2e-6, 500.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_told_within_a_fifth_and_never_too_small(times: list[float], share: float) -> None:
    flow = Flow()
    for took_s in times:
        flow.add("a", "b", "K", 1, 0.0, took_s, failed=False)
    [link] = flow.counts()

    told = quantile_s(link.took, share)

    exact = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    assert told is not None
    assert exact * 0.999 <= told <= exact * 1.2


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(-1.0, 0), (0.0, 0), (1e-6, 0), (2e-6, 4), (1e9, 120), (float("inf"), 120)],
    ids=["the clock was set back", "none", "a microsecond", "two", "years", "infinite"],
)
def test_every_time_has_a_bucket(seconds: float, bucket: int) -> None:
    assert bucket_of(seconds) == bucket


def test_without_anything_counted_there_is_no_percentile() -> None:
    assert quantile_s((), 0.5) is None
    assert quantile_s((0, 0), 0.5) is None


def test_each_link_has_its_own_counts_and_commands_share_one() -> None:
    flow = Flow()
    flow.add("hub/mqtt", "hub/router", "Publish", 100, 0.001, 0.002, failed=False)
    flow.add("hub/mqtt", "hub/router", "Publish", 50, 0.001, 0.002, failed=True)
    flow.add("cli-12-ab/ask", "agent", "ListModules", 10, 0.001, 0.002, failed=False)
    flow.add("cli-13-cd/ask", "agent", "ListModules", 10, 0.001, 0.002, failed=False)

    assert [(*link[:3], link.envelopes, link.failed, link.bytes) for link in flow.counts()] == [
        ("hub/mqtt", "hub/router", "Publish", 2, 1, 150),
        ("cli", "agent", "ListModules", 2, 0, 20),
    ]


def test_the_difference_of_two_looks_is_what_came_in_between() -> None:
    flow = Flow()
    flow.add("a", "b", "K", 10, 0.0, 0.001, failed=False)
    flow.add("c", "d", "K", 10, 0.0, 0.001, failed=False)
    before = flow.counts()
    flow.add("a", "b", "K", 7, 0.0, 4.0, failed=True)

    [link] = since(before, flow.counts())

    assert (*link[:3], link.envelopes, link.failed, link.bytes) == ("a", "b", "K", 1, 1, 7)
    assert quantile_s(link.took, 0.5) == pytest.approx(4.0, rel=0.2)


def test_links_beyond_the_limit_are_counted_together() -> None:
    flow = Flow()
    for number in range(MOST_LINKS + 10):
        flow.add(f"s{number}", "b", "K", 1, 0.0, 0.0, failed=False)

    found = {link[:3]: link.envelopes for link in flow.counts()}

    assert len(found) == MOST_LINKS + 1
    assert found[OTHERS] == 10
