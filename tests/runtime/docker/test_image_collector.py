from __future__ import annotations

from datetime import datetime, time
from pathlib import Path

import pytest

from messaging.clock import ManualClock
from runtime.docker.image_collector import CollectionTimes, collectable, next_look_s
from runtime.docker.image_use import ImageRecord, ImageUse, PulledImage

NOW_S = 1_000_000.0
DAY_S, WEEK_S = 86_400.0, 604_800.0


@pytest.mark.parametrize(
    ("used_at_s", "kept", "is_removed"),
    [
        (NOW_S - WEEK_S, set(), True),
        (NOW_S - WEEK_S + 1, set(), False),
        (NOW_S - WEEK_S, {"a"}, False),
        (NOW_S + 5, set(), False),
    ],
    ids=[
        "unused for a week",
        "for a second less",
        "of a container or a deployment",
        "the clock was set back",
    ],
)
def test_an_image_goes_when_nobody_has_used_it_for_long(
    used_at_s: float, kept: set[str], is_removed: bool
) -> None:
    record = ImageRecord(pulled={"a": PulledImage(["pump:1"], used_at_s)})

    assert collectable(record, kept, NOW_S, WEEK_S) == (("a",) if is_removed else ())


def local_s(day: int, hour: int) -> float:
    return datetime(2026, 3, day, hour).timestamp()


@pytest.mark.parametrize(
    ("looked_at_s", "now_s", "at", "due_s"),
    [
        (local_s(3, 15), local_s(3, 16), None, local_s(4, 15)),
        (local_s(3, 15), local_s(3, 16), time(2, 0), local_s(4, 2)),
        (local_s(4, 2), local_s(4, 3), time(2, 0), local_s(5, 2)),
        (local_s(3, 15), local_s(9, 9), time(2, 0), local_s(9, 9)),
        (0.0, local_s(9, 9), time(2, 0), local_s(9, 9)),
        (local_s(9, 15), local_s(9, 9), time(2, 0), local_s(9, 9)),
    ],
    ids=["any time", "in the first night", "every night", "missed", "never looked", "the clock was set back"],
)
def test_images_to_remove_are_looked_for_at_their_time(
    looked_at_s: float, now_s: float, at: time | None, due_s: float
) -> None:
    assert next_look_s(looked_at_s, now_s, CollectionTimes(DAY_S, WEEK_S, at)) == due_s


def test_more_looks_than_one_a_day_are_one_a_day_at_a_time_of_day() -> None:
    times = CollectionTimes(DAY_S / 2, WEEK_S, time(2, 0))

    assert next_look_s(local_s(4, 2), local_s(4, 3), times) == local_s(5, 2)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def use(tmp_path: Path, clock: ManualClock) -> ImageUse:
    return ImageUse(tmp_path / "images.json", clock.now_s)


def test_only_what_was_pulled_is_remembered_and_each_use_counts(use: ImageUse, clock: ManualClock) -> None:
    use.note("loaded by hand")
    use.note_pulled("a", "pump:1")
    use.note_pulled("a", "pump:2")
    clock.advance(60)
    use.note("a")

    assert use.read().pulled == {"a": PulledImage(["pump:1", "pump:2"], clock.now_s())}


def test_the_deployment_before_is_known_and_the_same_one_again_is_no_other(use: ImageUse) -> None:
    use.deployed(["pump:1"])
    use.deployed(["pump:2", "valve:1"])
    use.deployed(["valve:1", "pump:2", "pump:2"])

    record = use.read()
    assert (record.deployed, record.deployed_before) == (["pump:2", "valve:1"], ["pump:1"])


def test_what_is_remembered_outlives_the_agent(use: ImageUse, tmp_path: Path) -> None:
    use.note_pulled("a", "pump:1")
    use.deployed(["pump:1"])
    use.looked()

    assert ImageUse(tmp_path / "images.json").read() == use.read()


def test_for_a_file_that_cannot_be_read_nothing_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images.json").write_text("{{")

    assert ImageUse(tmp_path / "images.json").read() == ImageRecord()
    assert "not readable" in caplog.text
