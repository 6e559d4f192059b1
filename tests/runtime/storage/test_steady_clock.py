"""Times to live go on over restarts, whatever becomes of the time of day."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.storage.steady_clock import SteadyClock

DAY_S = 86400.0


class Machine:
    """The two clocks of a machine, and the clock of the hub on it."""

    def __init__(self, folder: Path) -> None:
        self.now_s, self.monotonic_s, self.boots = 1_800_000_000.0, 500.0, 1
        self.file = folder / "hub.db-clock"

    def hub(self) -> SteadyClock:
        return SteadyClock(self.file, f"boot {self.boots}", lambda: self.now_s, lambda: self.monotonic_s)

    def passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.monotonic_s += seconds

    def reboot(self, seconds: float) -> None:
        self.boots += 1
        self.now_s += seconds
        self.monotonic_s = 3.0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_at_first_it_is_the_time_of_day(machine: Machine) -> None:
    assert machine.hub().steady_s() == machine.now_s


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["ahead", "back"])
def test_a_clock_that_is_set_changes_nothing_also_for_the_next_hub(machine: Machine, jump_s: float) -> None:
    hub = machine.hub()
    began_s = hub.steady_s()

    machine.passes(10.0)
    machine.now_s += jump_s
    now_s = hub.steady_s()
    machine.passes(5.0)

    assert now_s == began_s + 10.0
    assert machine.hub().steady_s() == began_s + 15.0


def test_a_clock_that_is_set_while_no_hub_runs_changes_nothing(machine: Machine) -> None:
    began_s = machine.hub().steady_s()

    machine.passes(10.0)
    machine.now_s += DAY_S

    assert machine.hub().steady_s() == began_s + 10.0


def test_over_a_reboot_the_time_of_day_says_how_long_it_took(machine: Machine) -> None:
    hub = machine.hub()
    began_s = hub.steady_s()
    machine.now_s += DAY_S
    assert hub.steady_s() == began_s

    machine.reboot(120.0)

    assert machine.hub().steady_s() == pytest.approx(began_s + 120.0)


def test_a_file_that_says_nothing_is_told_and_replaced(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.file.write_text("[]")

    assert machine.hub().steady_s() == machine.now_s
    assert f"{machine.file} cannot be read" in caplog.text
    machine.now_s += DAY_S
    assert machine.hub().steady_s() == machine.now_s - DAY_S


def test_a_file_that_cannot_be_written_is_told_and_time_goes_on(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.file = machine.file / "no folder" / "clock"

    hub = machine.hub()
    machine.now_s += DAY_S

    assert hub.steady_s() == machine.now_s - DAY_S
    assert caplog.text.count("may be forgotten") == 2
