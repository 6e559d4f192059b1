"""What a file of memory samples says."""

import json
from pathlib import Path

from scripts.bench.measure_slope import JUDGED, PARTS, in_words, read_samples, slopes_of


def sample(at_s: float, mb_per_h: float) -> dict[str, float]:
    """A sample of an edge whose hub grows, with a warm-up of 600 s in which it takes 20 MB more."""
    roles = {f"{role}_{kind}_mb": 30.0 for role in ("agent", "hub", "cloud") for kind in ("Pss", "Anonymous")}
    warmup_mb = min(at_s, 600) / 600 * 20
    jitter_mb = 0.1 if at_s % 20 else -0.1
    hub_mb = 30 + warmup_mb + mb_per_h * at_s / 3600 + jitter_mb
    return roles | {"at_s": at_s, "hub_Pss_mb": hub_mb + 5, "hub_Anonymous_mb": hub_mb}


def test_the_warm_up_is_no_growth() -> None:
    samples = [sample(10.0 * n, 0.0) for n in range(700)]

    slope = slopes_of(samples, 600)[JUDGED]

    assert abs(slope.value) < 0.1
    assert slope.verdict(1.0) is True
    assert "bar < 1: held" in in_words(samples, 600)


def test_a_growth_is_told_in_mb_an_hour() -> None:
    samples = [sample(10.0 * n, 3.0) for n in range(700)]

    slopes = slopes_of(samples, 600)

    assert 2.9 < slopes[JUDGED].value < 3.1
    assert 2.9 < slopes["agent and hub, PSS"].value < 3.1
    assert slopes["stand-in, anonymous"].value == 0.0
    assert list(slopes) == list(PARTS)
    assert "bar < 1: missed" in in_words(samples, 600)


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "slope.jsonl"
    file.write_text(json.dumps(sample(0.0, 0.0)) + "\n" + '{"at_s": 10.0, "agent_Ps')

    assert read_samples(file) == [sample(0.0, 0.0)]
