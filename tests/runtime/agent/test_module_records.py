from __future__ import annotations

from pathlib import Path

import pytest

from actors.agent.restart_policy import RestartState
from actors.manifest.module_spec import DesiredStatus, ModuleStatus
from actors.ports.modules import ModuleRecord, ModuleRecords
from runtime.agent.module_records import ModuleRecordFiles
from tests.fakes.module_records import FakeModuleRecords

RECORD = ModuleRecord(
    spec_hash="ab",
    startup_order=4_294_967_295,
    desired=DesiredStatus.RUNNING,
    restart=RestartState(ModuleStatus.BACKOFF, "exited with code 1", 3, last_exit_at_s=1_700_000_000.123456),
    by_hand=DesiredStatus.STOPPED,
)


@pytest.fixture(params=["fake", "files"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> ModuleRecords:
    return FakeModuleRecords() if request.param == "fake" else ModuleRecordFiles(tmp_path / "modules")


def test_a_record_comes_back_as_it_was_kept(records: ModuleRecords) -> None:
    records.save("sensor", RECORD)

    assert records.load("sensor") == RECORD
    assert records.all() == {"sensor": RECORD}


def test_the_last_record_counts(records: ModuleRecords) -> None:
    records.save("sensor", ModuleRecord("old", 1, DesiredStatus.STOPPED, RestartState()))

    records.save("sensor", RECORD)

    assert records.load("sensor") == RECORD


def test_there_is_none_before_it_is_kept_and_after_it_is_removed(records: ModuleRecords) -> None:
    assert records.load("sensor") is None
    assert records.all() == {}
    records.remove("sensor")
    records.save("sensor", RECORD)

    records.remove("sensor")

    assert records.load("sensor") is None
    assert records.all() == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b'{"spec_hash": 1}', b"[]"],
    ids=["empty", "cut", "not text", "type", "list"],
)
def test_a_damaged_record_is_as_good_as_none(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sensor.json").write_bytes(content)

    assert ModuleRecordFiles(tmp_path).all() == {}
    assert "module sensor starts without its past" in caplog.text


def test_records_are_private(tmp_path: Path) -> None:
    ModuleRecordFiles(tmp_path / "modules").save("sensor", RECORD)

    assert (tmp_path / "modules").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "modules" / "sensor.json").stat().st_mode & 0o777 == 0o600
