from __future__ import annotations

from pathlib import Path

import pytest

from actors.metrics.quality_telemetry import Point, Scrape
from messaging.errors import EnvironmentFault
from runtime.agent import metrics_files
from runtime.agent.metrics_files import CheckpointFile, ScrapeFiles

POINTS = (Point("edgehub_x", (("id", "device"), ("instance_number", "n")), 1.5), Point("y", (), 2.0))


def test_scrapes_come_back_in_the_order_of_their_times(tmp_path: Path) -> None:
    kept = ScrapeFiles(tmp_path / "quality")
    scrapes = [Scrape(1_700_000_000.0 + at, POINTS) for at in (30, 10, 20)]

    for scrape in scrapes:
        kept.add(scrape)

    assert [scrape for _, scrape in ScrapeFiles(tmp_path / "quality").read(10)] == sorted(scrapes)
    assert len(kept.read(2)) == 2


def test_what_was_sent_is_gone_and_the_rest_stays(tmp_path: Path) -> None:
    kept = ScrapeFiles(tmp_path)
    for at_s in (1.0, 2.0):
        kept.add(Scrape(at_s, POINTS))

    [(first, _), (_, last)] = kept.read(10)
    kept.remove([first, first])

    assert [scrape for _, scrape in kept.read(10)] == [last]


def test_a_file_that_makes_no_sense_is_removed(tmp_path: Path) -> None:
    kept = ScrapeFiles(tmp_path)
    kept.add(Scrape(1.0, POINTS))
    (tmp_path / "00000000000000000001").write_bytes(b"\xc1nonsense")
    (tmp_path / "notes.txt").write_text("of somebody else")

    assert [scrape.at_s for _, scrape in kept.read(10)] == [1.0]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "notes.txt") == [
        kept.read(1)[0][0]
    ]


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_files, "MOST_FILES", 3)
    kept = ScrapeFiles(tmp_path)

    for at_s in range(1, 6):
        kept.add(Scrape(float(at_s), POINTS))

    assert [scrape.at_s for _, scrape in kept.read(10)] == [3.0, 4.0, 5.0]


def test_without_a_folder_there_is_nothing(tmp_path: Path) -> None:
    assert ScrapeFiles(tmp_path / "none").read(10) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(EnvironmentFault, match="file/quality"):
        ScrapeFiles(tmp_path / "file" / "quality").add(Scrape(1.0, POINTS))


def test_the_time_of_a_killed_agent_is_kept_as_the_reference_does_and_that_of_a_stopped_one_is_not(
    tmp_path: Path,
) -> None:
    checkpoint = CheckpointFile(tmp_path / "availability")
    before = checkpoint.load()

    checkpoint.save(1_767_225_600.0)
    text = (tmp_path / "availability" / "avaliability.checkpoint").read_text()
    killed = CheckpointFile(tmp_path / "availability").load()
    checkpoint.remove()

    assert before is None
    assert text == "639028224000000000"
    assert killed == 1_767_225_600.0
    assert checkpoint.load() is None


def test_a_checkpoint_that_makes_no_sense_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "avaliability.checkpoint").write_text("yesterday")

    assert CheckpointFile(tmp_path).load() is None
