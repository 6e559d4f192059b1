"""How much each part of the edge logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.logs.levels import LogLevels, apply_levels, modules, parse_levels
from runtime.logs.setup import LevelSwitch


@pytest.fixture(autouse=True)
def levels_as_they_were() -> Iterator[None]:
    root = logging.getLogger().level
    yield
    apply_levels(LogLevels())
    for package in ("messaging", "actors", "runtime"):
        logging.getLogger(package).setLevel(logging.NOTSET)
    logging.getLogger().setLevel(root)


def level_of(name: str) -> str:
    return logging.getLevelName(logging.getLogger(name).getEffectiveLevel())


@pytest.mark.parametrize(
    ("text", "base", "parts"),
    [
        ("info", "info", ()),
        ("Warning", "warning", ()),
        ("info,actors.upstream=debug", "info", (("actors.upstream", "debug"),)),
        (" error , runtime = debug ", "error", (("runtime", "debug"),)),
        ("runtime.iothub=warning", "info", (("runtime.iothub", "warning"),)),
        ("runtime.docker=debug,debug", "debug", (("runtime.docker", "debug"),)),
    ],
)
def test_levels_are_read(text: str, base: str, parts: tuple[tuple[str, str], ...]) -> None:
    assert parse_levels(text) == LogLevels(base, parts)
    assert parse_levels(str(parse_levels(text))) == LogLevels(base, parts)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("warn", "debug, info, warning, error; did you mean 'warning'?"),
        ("", "debug, info, warning, error"),
        ("info,", "debug, info, warning, error"),
        (
            "actors.hub.twins=bedug",
            "debug, info, warning, error for 'actors.hub.twins'; did you mean 'debug'?",
        ),
        ("actors.upstrem=debug", "no part is called 'actors.upstrem'; did you mean 'actors.upstream'?"),
        ("urllib3=debug", "no part is called 'urllib3'"),
        ("=debug", "no part is called ''"),
        ("info,debug", "each part once"),
        ("actors=info,actors=debug", "each part once"),
    ],
)
def test_what_is_no_level_is_told_with_the_nearest(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_levels(text)

    assert str(caught.value).endswith(problem)


def test_a_name_counts_for_its_files_and_the_longest_name_wins() -> None:
    apply_levels(parse_levels("warning,actors=error,actors.upstream=debug"))

    assert level_of("actors.upstream") == level_of("actors.upstream.sender") == "DEBUG"
    assert level_of("actors.hub.twins") == "ERROR"
    assert level_of("runtime.edge") == "WARNING"


def test_libraries_tell_warnings_and_errors_alone() -> None:
    apply_levels(parse_levels("debug"))
    assert (level_of("urllib3.connectionpool"), level_of("runtime.edge")) == ("WARNING", "DEBUG")

    apply_levels(parse_levels("error"))
    assert level_of("urllib3.connectionpool") == "ERROR"


def test_levels_that_count_no_more_leave_nothing_behind() -> None:
    apply_levels(parse_levels("info,actors.upstream=debug,runtime.iothub=error"))
    apply_levels(parse_levels("info"))

    assert {level_of(name) for name in modules()} == {"INFO"}


def test_levels_in_the_file_count_before_those_set_until_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "levels"
    switch = LevelSwitch(parse_levels("info"), path)

    path.write_text("info,actors.upstream=debug")
    switch.look()
    assert level_of("actors.upstream.sender") == "DEBUG"

    switch.deployed("warning")
    assert level_of("actors.hub.twins") == "INFO"

    path.unlink()
    switch.look()
    assert level_of("actors.hub.twins") == level_of("actors.upstream.sender") == "WARNING"


def test_a_file_that_makes_no_sense_is_told_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "levels"
    switch = LevelSwitch(parse_levels("info"), path)

    path.write_text("lowd")
    switch.look()
    switch.look()

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert "edge-actors log-level" in caplog.text
    assert level_of("actors.hub.twins") == "INFO"


def test_the_level_of_the_deployment_leaves_those_of_parts(tmp_path: Path) -> None:
    switch = LevelSwitch(parse_levels("info,actors.upstream=debug"))

    switch.deployed("critical")

    assert (level_of("actors.hub.twins"), level_of("actors.upstream")) == ("CRITICAL", "DEBUG")
