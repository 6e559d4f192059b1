"""What a tap keeps for its inspector, and what it leaves out."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.inspection.envelope_watch import MOST_HOPS, EnvelopeWatch
from actors.inspection.flow import Flow
from actors.inspection.tap import BUDGET_BYTES, LARGEST_BYTES, Tap, TapFilter, Tapped
from messaging.bus import make_envelope
from messaging.clock import ManualClock
from messaging.envelope import VERSION, Envelope, decode, encode
from messaging.kinds import data_message

NAMES = st.sampled_from(["agent", "hub/store", "hub/mqtt", "hub/router", "cli-1-a/ask", ""])
PATTERNS = st.lists(st.sampled_from(["hub/*", "agent", "*", "hub/s?ore", "hub/[mr]*", "x"]), max_size=2)


@data_message
class TappedCargo:
    """What is tapped here."""

    content: bytes


def enveloped(
    content: bytes = b"x", to: str = "hub/store", sender: str = "hub/router", id_: int = 1
) -> Envelope:
    return make_envelope(TappedCargo(content), to, sender, id_, 0, 0, 1.0, 0.0)


def put(tap: Tap, size: int, number: int = 0) -> None:
    tap.put((float(number), size, b"x" * size))


def missed_in(tapped: Tapped) -> int:
    _, size, frame = tapped
    return 0 if frame else size


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (TapFilter(), True),
        (TapFilter(to=("hub/store",)), True),
        (TapFilter(to=("hub/*",)), True),
        (TapFilter(to=("agent/*", "hub/st*")), True),
        (TapFilter(to=("hub",)), False),
        (TapFilter(sender=("hub/router",), kinds=("Publish",)), True),
        (TapFilter(sender=("hub/router",), kinds=("publish",)), False),
        (TapFilter(to=("hub/store",), sender=("agent",)), False),
    ],
    ids=["all", "to", "wildcard", "one of two", "no prefix", "all sorts", "letter case", "one sort does not"],
)
def test_an_envelope_fits_when_a_pattern_of_each_sort_does(wanted: TapFilter, fits: bool) -> None:
    assert wanted.fits("hub/store", "hub/router", "Publish") is fits


@given(NAMES, NAMES, NAMES, PATTERNS, PATTERNS, PATTERNS)
def test_a_filter_is_the_conjunction_of_its_sorts(
    to: str, sender: str, kind: str, tos: list[str], senders: list[str], kinds: list[str]
) -> None:
    whole = TapFilter(tuple(tos), tuple(senders), tuple(kinds))
    parts = [TapFilter(to=tuple(tos)), TapFilter(sender=tuple(senders)), TapFilter(kinds=tuple(kinds))]

    assert whole.fits(to, sender, kind) == all(part.fits(to, sender, kind) for part in parts)


def test_a_tap_gives_what_came_in_its_order_and_as_much_as_is_asked_for() -> None:
    tap = Tap(TapFilter(), 0.0)
    for number in range(5):
        put(tap, 1000, number)

    assert tap.take(0, 9.0) == ()
    assert [tapped[0] for tapped in tap.take(1300, 9.0)] == [0.0, 1.0]
    assert [tapped[0] for tapped in tap.take(1, 9.0)] == [2.0]
    assert [tapped[0] for tapped in tap.take(1 << 20, 9.0)] == [3.0, 4.0]
    assert tap.take(1 << 20, 9.0) == ()


def test_what_does_not_fit_is_counted_and_told_in_its_place() -> None:
    tap = Tap(TapFilter(), 0.0)
    put(tap, BUDGET_BYTES)
    for number in range(3):
        put(tap, 10, number)

    assert [missed_in(tapped) for tapped in tap.take(BUDGET_BYTES, 9.0)] == [0]
    put(tap, 10, 5)

    assert [(tapped[0], missed_in(tapped)) for tapped in tap.take(1 << 20, 9.0)] == [(5.0, 3), (5.0, 0)]
    assert tap.missed == 0


def test_what_was_missed_is_told_even_when_nothing_comes_any_more() -> None:
    tap = Tap(TapFilter(), 0.0)
    put(tap, BUDGET_BYTES)
    put(tap, 10)
    assert tap.missed == 1

    tap.take(1, 9.0)

    assert tap.take(1, 9.0) == ((9.0, 1, b""),)


@given(
    st.lists(st.one_of(st.integers(1, BUDGET_BYTES), st.sampled_from(["take", "doze", "wake"])), max_size=60)
)
def test_whatever_comes_and_is_fetched_all_is_shown_or_counted_and_memory_is_bounded(
    story: list[int | str],
) -> None:
    tap = Tap(TapFilter(), 0.0)
    came = 0
    taken: list[Tapped] = []

    for what in story:
        match what:
            case int():
                came += 1
                put(tap, what, came)
            case "take":
                tap.wake()
                taken += tap.take(BUDGET_BYTES // 2, 0.0)
            case "doze":
                tap.doze()
                assert (len(tap._waiting), tap._bytes) == (0, 0)
            case _:
                tap.wake()
        assert tap._bytes <= 2 * BUDGET_BYTES + 200 * (came + 1)
    for _ in range(2 * len(story) + 2):
        taken += tap.take(1, 0.0)

    assert sum(missed_in(tapped) or 1 for tapped in taken) == came
    assert tap._bytes == 0


def test_threads_that_put_at_the_same_time_lose_nothing() -> None:
    tap = Tap(TapFilter(), 0.0)
    threads = [
        threading.Thread(target=lambda: [put(tap, 5000, number) for number in range(1000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    taken = tap.take(1 << 40, 0.0)
    rest = tap.take(1 << 40, 0.0)

    assert sum(missed_in(tapped) or 1 for tapped in (*taken, *rest)) == 4000


def watch_with(*wanted: TapFilter) -> tuple[EnvelopeWatch, list[Tap]]:
    watch = EnvelopeWatch("hub/inspector", ManualClock())
    taps = [Tap(each, 0.0) for each in wanted]
    watch.taps = tuple(taps)
    return watch, taps


def see(watch: EnvelopeWatch, envelope: Envelope, failed: bool = False) -> None:
    frame = encode(envelope)
    watch.received(envelope, frame)
    watch.handled(envelope, frame, 0.5, failed)


def test_each_tap_gets_what_it_wants_and_learns_of_the_kinds() -> None:
    watch, (store, nothing) = watch_with(TapFilter(to=("hub/store",)), TapFilter(kinds=("Other",)))

    see(watch, enveloped())
    see(watch, enveloped(to="hub/mqtt"))

    [(_, _, frame)] = store.take(1 << 20, 0.0)
    assert decode(frame).to == "hub/store"
    assert list(store.kinds) == ["TappedCargo"]
    assert (nothing.take(1 << 20, 0.0), list(nothing.kinds)) == ((), [])


def test_inspectors_do_not_see_themselves() -> None:
    watch, (tap,) = watch_with(TapFilter())

    see(watch, enveloped(to="hub/inspector"))

    assert tap.take(1 << 20, 0.0) == ()
    assert watch.hops_known() == 0


def test_of_a_frame_that_is_too_large_the_message_is_left_out() -> None:
    watch, (tap,) = watch_with(TapFilter())
    large = enveloped(b"x" * (LARGEST_BYTES + 1))

    see(watch, large)

    [(_, size, frame)] = tap.take(1 << 20, 0.0)
    assert size == len(encode(large))
    assert decode(frame) == large._replace(body=())


def test_hops_are_found_by_id_and_by_correlation_and_the_oldest_are_forgotten() -> None:
    watch, _ = watch_with()
    see(watch, enveloped(id_=7))
    see(watch, enveloped(id_=8)._replace(correlation_id=7), failed=True)
    see(watch, enveloped(id_=9))

    assert [(hop.id, hop.failed, hop.took_s) for hop in watch.hops(7)] == [(7, False, 0.5), (8, True, 0.5)]

    for number in range(MOST_HOPS):
        see(watch, enveloped(id_=100 + number))
    assert watch.hops(7) == []
    assert watch.hops_known() == MOST_HOPS


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(-5, 2**63), st.floats(), st.text(max_size=5))


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING, st.floats(), st.lists(ANYTHING, max_size=3))
def test_an_envelope_that_was_damaged_on_its_way_disturbs_no_watch(
    lane: Any, id_: Any, correlation_id: Any, sent_s: Any, deadline_s: float, body: list[Any]
) -> None:
    watch, (tap,) = watch_with(TapFilter())
    watch.flow = Flow()
    fields = (VERSION, lane, id_, "Odd", "hub/store", "", 0, correlation_id, sent_s, deadline_s, tuple(body))
    frame = encode(fields)
    envelope = decode(frame)

    watch.received(envelope, frame)
    watch.handled(envelope, frame, 0.1, failed=False)

    assert len(tap.take(1 << 20, 0.0)) == len(watch.flow.counts()) == watch.hops_known() == 1
