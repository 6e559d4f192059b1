import pytest

from runtime.cli.output import table_lines
from runtime.cli.words import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3.0, "0 seconds"),
        (0.9, "0 seconds"),
        (1.0, "1 second"),
        (59.9, "59 seconds"),
        (60.0, "1 minute"),
        (3599.0, "59 minutes"),
        (3600.0, "1 hour"),
        (86399.0, "23 hours"),
        (86400.0, "1 day"),
        (40 * 86400.0, "40 days"),
    ],
)
def test_a_duration_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_table_aligns_words_left_and_numbers_right() -> None:
    lines = table_lines(("NAME", "COUNT", "WHY"), [("a", 5, ""), ("longer", 1234, "late")])

    assert lines == [
        "NAME    COUNT  WHY",
        "a           5",
        "longer   1234  late",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert table_lines(("NAME", "STATUS"), []) == ["NAME  STATUS"]


def test_what_a_module_wrote_cannot_break_out_of_its_cell() -> None:
    lines = table_lines(("NAME", "DESCRIPTION"), [("evil", "one\ntwo\x1b[2Jthree")])

    assert lines[1] == "evil  one two [2Jthree"
