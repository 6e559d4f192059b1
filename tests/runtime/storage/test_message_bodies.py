"""What lies in a row of bodies, and what comes out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.store.stored import Match, Segment
from runtime.storage import message_bodies
from runtime.storage.message_bodies import ROW_BYTES, ROW_MESSAGES, rows_of

A = (Match("a", 0, None),)
B = (Match("b", 0, None),)


def segment(count: int, matches: tuple[Match, ...] = A, body: bytes = b"x", header: bytes = b"h") -> Segment:
    return Segment(matches, (header,), ((0, body),) * count)


@pytest.mark.parametrize(
    ("segments", "lengths"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([segment(0), segment(0, B)], [], id="no messages"),
        pytest.param([segment(ROW_MESSAGES)], [ROW_MESSAGES], id="as many as fit"),
        pytest.param([segment(ROW_MESSAGES + 1)], [ROW_MESSAGES, 1], id="one more"),
        pytest.param(
            [segment(3 * ROW_MESSAGES + 7)], [ROW_MESSAGES, ROW_MESSAGES, ROW_MESSAGES, 7], id="rows of them"
        ),
        pytest.param([segment(1)] * ROW_MESSAGES, [ROW_MESSAGES], id="as many segments as fit"),
        pytest.param([segment(1)] * (ROW_MESSAGES + 1), [ROW_MESSAGES, 1], id="one segment more"),
        pytest.param([segment(300), segment(300)], [300, 300], id="the second does not fit"),
        pytest.param([segment(300), segment(212), segment(1)], [512, 1], id="the second just fits"),
        pytest.param([segment(1), segment(0, B), segment(1)], [2], id="an empty one between"),
        pytest.param([segment(2), segment(3, B), segment(4)], [2, 3, 4], id="other endpoints between"),
        pytest.param([segment(2), segment(3, ()), segment(4)], [2, 3, 4], id="unrouted between"),
        pytest.param(
            [segment(2, body=b"x" * ROW_BYTES)], [1, 1], id="each body is larger than a row with its header"
        ),
        pytest.param([segment(4, body=b"x" * (ROW_BYTES // 2 - 1))], [2, 2], id="two bodies just fill a row"),
        pytest.param([segment(4, body=b"x" * (ROW_BYTES // 2))], [1, 1, 1, 1], id="two bodies are too much"),
        pytest.param(
            [segment(3), segment(1, body=b"x" * ROW_BYTES), segment(3)], [3, 1, 3], id="a large one between"
        ),
        pytest.param(
            [segment(1, header=b"h" * (ROW_BYTES - 2))] * 2, [1, 1], id="headers count, once per segment"
        ),
        pytest.param([segment(9, header=b"h" * (ROW_BYTES - 9))], [9], id="a header counts once"),
    ],
)
def test_a_row_is_closed_before_it_is_too_large(segments: list[Segment], lengths: list[int]) -> None:
    assert [count for _, _, count in rows_of(segments)] == lengths


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, A + B, ()]),
            st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=30)), max_size=9),
        )
    )
)
def test_rows_hold_every_message_in_order_under_their_limits(
    parts: list[tuple[tuple[Match, ...], list[tuple[int, bytes]]]],
) -> None:
    headers = (b"", b"1", b"22", b"3" * 20)
    expected = [(matches, headers[index], body) for matches, entries in parts for index, body in entries]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_bodies, "ROW_MESSAGES", 5)
        patch.setattr(message_bodies, "ROW_BYTES", 64)
        rows = list(rows_of(Segment(matches, headers, entries) for matches, entries in parts))

    found = []
    for matches, pieces, count in rows:
        assert 0 < count <= 5
        assert count == sum(len(entries) for _, entries in pieces)
        size = sum(len(header) for its_headers, _ in pieces for header in its_headers)
        size += sum(len(body) for _, entries in pieces for _, body in entries)
        assert size <= 64 or count == 1
        found += [(matches, its[index], body) for its, entries in pieces for index, body in entries]
    assert found == expected
