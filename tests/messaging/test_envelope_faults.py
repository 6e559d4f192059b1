from __future__ import annotations

import pytest

from messaging.bus import make_envelope
from messaging.envelope import decode, encode
from messaging.envelope_faults import Action, EnvelopeFaults, Rule, Verdict
from messaging.errors import EnvelopeError
from messaging.lifecycle import Describe, Watch


def frame(
    to: str = "hub/store", sender: str = "hub/router", message: object = None, number: int = 1
) -> bytes:
    return encode(make_envelope(message or Describe(), to, sender, number, 1, 0, 0.0, 0.0))


@pytest.fixture
def faults() -> EnvelopeFaults:
    return EnvelopeFaults(lambda seconds: None)


@pytest.mark.parametrize(
    ("rule", "hits"),
    [
        pytest.param(Rule(1, Action.DROP), True, id="any"),
        pytest.param(Rule(1, Action.DROP, to="hub/store"), True, id="to it"),
        pytest.param(Rule(1, Action.DROP, to="hub/router"), False, id="to another"),
        pytest.param(Rule(1, Action.DROP, kind="Describe"), True, id="of its kind"),
        pytest.param(Rule(1, Action.DROP, kind="Watch"), False, id="of another kind"),
        pytest.param(Rule(1, Action.DROP, sender="hub/router"), True, id="from its sender"),
        pytest.param(Rule(1, Action.DROP, sender="hub/mqtt"), False, id="from another sender"),
        pytest.param(Rule(1, Action.DROP, skip=1), False, id="not the first"),
        pytest.param(Rule(1, Action.DROP, chance=0.0), False, id="by a chance of none"),
    ],
)
def test_a_rule_hits_the_envelopes_that_it_names(faults: EnvelopeFaults, rule: Rule, hits: bool) -> None:
    faults.add(rule)

    verdict = faults.judge(frame(), 0.0)

    assert verdict == (Verdict() if hits else Verdict((frame(),)))
    assert faults.counts() == {1: int(hits)}


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        pytest.param(Rule(1, Action.DOUBLE), Verdict((frame(), frame())), id="double"),
        pytest.param(Rule(1, Action.DELAY, delay_s=2.0), Verdict(later=((3.0, frame()),)), id="delay"),
        pytest.param(Rule(1, Action.FAIL), Verdict((frame(),), fails=True), id="fail"),
        pytest.param(Rule(1, Action.HANG, delay_s=2.0), Verdict((frame(),), hangs_s=2.0), id="hang"),
    ],
)
def test_what_becomes_of_an_envelope(faults: EnvelopeFaults, rule: Rule, verdict: Verdict) -> None:
    faults.add(rule)

    assert faults.judge(frame(), 1.0) == verdict
    assert faults.judge(frame(), 10.0) == Verdict((frame(),)), "once is enough"
    assert faults.counts() == {1: 1}


def test_a_corrupt_envelope_can_not_be_read(faults: EnvelopeFaults) -> None:
    faults.add(Rule(1, Action.CORRUPT))

    (damaged,) = faults.judge(frame(), 0.0).now

    with pytest.raises(EnvelopeError):
        decode(damaged)


def test_what_comes_behind_a_delayed_envelope_of_its_sender_waits_too_and_others_do_not(
    faults: EnvelopeFaults,
) -> None:
    faults.add(Rule(1, Action.DELAY, delay_s=2.0))
    faults.judge(frame(), 0.0)

    behind = faults.judge(frame(number=2), 1.0)
    of_another = faults.judge(frame(sender="hub/mqtt"), 1.0)
    afterwards = faults.judge(frame(number=3), 2.5)

    assert behind == Verdict(later=((2.0, frame(number=2)),))
    assert of_another.now
    assert afterwards.now
    assert faults.counts() == {1: 1}


def test_reordering_counts_when_another_envelope_of_the_sender_has_overtaken(faults: EnvelopeFaults) -> None:
    faults.add(Rule(1, Action.REORDER, delay_s=2.0))

    held = faults.judge(frame(), 0.0)
    before = faults.counts()
    faults.judge(frame(sender="hub/mqtt"), 1.0)
    not_yet = faults.counts()
    overtaking = faults.judge(frame(number=2), 1.0)

    assert held == Verdict(later=((2.0, frame()),))
    assert before == not_yet == {1: 0}
    assert overtaking.now
    assert faults.counts() == {1: 1}


def test_an_envelope_that_nothing_overtakes_was_not_reordered(faults: EnvelopeFaults) -> None:
    faults.add(Rule(1, Action.REORDER, delay_s=2.0))

    faults.judge(frame(), 0.0)
    faults.judge(frame(number=2), 3.0)

    assert faults.counts() == {1: 0}


def test_chance_repeats_with_its_seed() -> None:
    def hits(seed: int) -> list[bool]:
        faults = EnvelopeFaults(lambda seconds: None)
        faults.add(Rule(1, Action.DROP, times=1000, chance=0.5, seed=seed))
        return [not faults.judge(frame(), 0.0).now for _ in range(50)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 5 < sum(hits(1)) < 45


def test_rules_never_hit_the_actor_that_takes_them(faults: EnvelopeFaults) -> None:
    faults.add(Rule(1, Action.DROP, times=10))

    assert faults.judge(frame(to="hub/faults", message=Watch()), 0.0).now


def test_a_removed_rule_hits_nothing_and_its_count_stays(faults: EnvelopeFaults) -> None:
    faults.add(Rule(1, Action.DROP, times=10))
    faults.judge(frame(), 0.0)

    faults.remove(1)

    assert faults.judge(frame(), 0.0).now
    assert faults.counts() == {1: 1}


def test_what_is_no_envelope_goes_on_to_whoever_says_so(faults: EnvelopeFaults) -> None:
    faults.add(Rule(1, Action.DROP))

    assert faults.judge(b"nothing", 0.0) == Verdict((b"nothing",))
