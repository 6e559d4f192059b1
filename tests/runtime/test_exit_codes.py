"""The exit codes stand in one place, and the README shows that table."""

from __future__ import annotations

import re
from pathlib import Path

from runtime import exit_codes

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_every_exit_code() -> None:
    table = README.read_text().split("| exit code | |\n|---|---|\n")[1].split("\n\n")[0]

    rows = [re.fullmatch(r"\| (\d+) \| (.*) \|", line) for line in table.splitlines()]
    assert [(int(row[1]), row[2]) for row in rows if row] == list(exit_codes.MEANINGS)


def test_every_exit_code_has_a_meaning() -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}

    assert codes == {code for code, _ in exit_codes.MEANINGS}
