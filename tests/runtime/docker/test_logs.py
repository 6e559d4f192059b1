from __future__ import annotations

import pytest

from runtime.docker.logs import _stamped

WRITTEN = b"2024-05-01T10:00:00.250000000Z <6> one\n2024-05-01T10:00:01.000000000Z two \xc3\xa9\nno time"


@pytest.mark.parametrize("size", [1, 7, 40, len(WRITTEN)])
def test_lines_of_a_container_are_the_same_however_its_log_comes_in_pieces(size: int) -> None:
    """Source: agent.md section 8, row 119; frames are the engine client's business."""
    pieces = [WRITTEN[at : at + size] for at in range(0, len(WRITTEN), size)]

    lines = [(line.payload, line.stream, line.written_s) for _, line in _stamped("stderr", pieces)]

    assert lines == [
        ("<6> one\n", "stderr", 1_714_557_600.25),
        ("two é\n", "stderr", 1_714_557_601.0),
        ("no time", "stderr", None),
    ]
