import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cli.log_setup import LastWarnings, PrivateLogFile, log_to
from runtime.logs.levels import PACKAGES


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    packages = [logging.getLogger(name) for name in PACKAGES]
    root.handlers = []  # of pytest itself, which `log_to` would close
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = before, level
    for package in packages:
        package.setLevel(logging.NOTSET)


def test_the_log_file_begins_with_the_first_line_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "home" / "logs" / "edge-actors.log"

    log_to(path, "edgeAgent", "info", log_format="text", console=False)
    assert not path.parent.exists()
    logging.getLogger("runtime.x").info("hello %s", "there")

    assert path.read_text().endswith(" [INF] - hello there\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(("console", "out"), [(True, " [INF] - seen\n"), (False, "")])
def test_lines_are_printed_only_when_nobody_draws(
    console: bool, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path / "log", "edgeAgent", "info", log_format="text", console=console)

    logging.getLogger("runtime.x").info("seen")
    logging.getLogger("runtime.x").debug("not seen")

    assert capsys.readouterr().out.endswith(out)
    assert (tmp_path / "log").read_text().count("\n") == 1


def test_with_json_each_line_is_an_object_with_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path / "log", "edgeAgent", "info", log_format="json", console=True)

    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("runtime.x").exception("it failed")

    (line,) = capsys.readouterr().out.splitlines()
    values = json.loads(line)
    assert (values["level"], values["process"], values["message"]) == ("error", "edgeAgent", "it failed")
    assert values["traceback"].endswith("ValueError: boom")


def test_a_log_that_grows_is_kept_in_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = PrivateLogFile(tmp_path / "log")
    monkeypatch.setattr(handler, "maxBytes", 100)

    for number in range(50):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"line {number:03}", None, None))
    handler.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert (tmp_path / "log").read_text().endswith("line 049\n")


def test_only_the_last_warnings_are_kept() -> None:
    kept = LastWarnings()
    log = logging.getLogger("test_only_the_last_warnings")
    log.addHandler(kept)

    for number in range(30):
        log.warning("w%d", number)
    log.info("no warning")
    for _ in range(30):
        log.warning("w20")

    messages = [record.getMessage() for record in kept.records]
    assert messages == [*(f"w{number}" for number in range(10, 30) if number != 20), "w20"]
    log.removeHandler(kept)
