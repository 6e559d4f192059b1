from __future__ import annotations

import pytest

from runtime.faults.books import Books, LooseBooks
from runtime.faults.stamps import Key, body_of, key_in, output_of


def key(sequence: int, publisher: int = 1, output: int = 0) -> Key:
    return Key(publisher, output, sequence)


def noted(*sequences: int, reconnect_before: int | tuple[int, ...] = ()) -> Books:
    books = Books()
    reconnects = (reconnect_before,) if isinstance(reconnect_before, int) else reconnect_before
    for place, sequence in enumerate(sequences):
        if place in reconnects:
            books.reconnected()
        books.note(key(sequence))
    return books


def test_what_never_came_is_missing() -> None:
    assert noted(1, 3).missing([key(n) for n in (1, 2, 3)]) == [key(2)]


def test_first_occurrences_of_one_source_have_their_order() -> None:
    assert noted(1, 2, 3).misordered == []
    assert noted(1, 3, 2).misordered == ["publisher 1: 3 came before 2"]
    assert noted(1, 2, 1, 3, reconnect_before=2).misordered == []


def test_sources_and_outputs_have_an_order_of_their_own() -> None:
    books = Books()
    for one in (key(5), key(1, publisher=2), key(2, output=1), key(6)):
        books.note(one)

    assert books.misordered == []


@pytest.mark.parametrize(
    ("books", "sent_again", "window", "unexplained"),
    [
        pytest.param(noted(1, 2, 1, reconnect_before=2), {}, 10, [], id="delivered again after a reconnect"),
        pytest.param(noted(1, 2, 1, reconnect_before=2), {}, 1, [key(1)], id="too far behind"),
        pytest.param(noted(1, 2, 1), {}, 10, [key(1)], id="on the same connection"),
        pytest.param(noted(1, 2, 1), {1: {1: 1}}, 10, [], id="sent again"),
        pytest.param(noted(1, 2, 1, 1), {1: {1: 1}}, 10, [key(1)], id="sent again once and there thrice"),
        pytest.param(noted(1, 2, 1), {1: {2: 1}}, 10, [key(1)], id="another was sent again"),
        pytest.param(
            noted(1, 1, 1, 1, reconnect_before=2), {1: {1: 1}}, 10, [], id="two are stored, both again"
        ),
        pytest.param(
            noted(1, 1, 1, reconnect_before=(1, 1)), {1: {1: 1}}, 10, [], id="two are stored, the first again"
        ),
        pytest.param(
            noted(1, 1, 1, 1, 1, reconnect_before=(1, 3)), {1: {1: 1}}, 10, [], id="and both once more"
        ),
        pytest.param(
            noted(1, 1, 1, 1, 1, reconnect_before=2),
            {1: {1: 1}},
            10,
            [key(1)],
            id="two are stored, thrice again",
        ),
    ],
)
def test_what_comes_again_needs_a_reason(
    books: Books, sent_again: dict[int, dict[int, int]], window: int, unexplained: list[Key]
) -> None:
    assert books.unexplained(sent_again, window) == unexplained


def test_in_loose_books_anything_may_come_again_within_the_bound() -> None:
    books = LooseBooks()
    for sequence in (1, 2, 1):
        books.note(key(sequence))

    assert books.unexplained({}, 10) == []
    assert books.unexplained({}, 1) == [key(1)]


def test_a_body_says_which_message_it_is() -> None:
    body = body_of(Key(3, 1, 4711), 64)

    assert len(body) == 64
    assert key_in(body) == Key(3, 1, 4711)
    with pytest.raises(ValueError, match="5 bytes that no publisher"):
        key_in(b"hello")
    for at in (0, 11, 40, 63):
        damaged = bytearray(body)
        damaged[at] ^= 1
        with pytest.raises(ValueError, match="64 bytes that no publisher"):
            key_in(bytes(damaged))


def test_a_publisher_uses_its_outputs_in_turn() -> None:
    assert {output_of(sequence, 1) for sequence in range(1, 50)} == {0}
    assert [output_of(sequence, 2) for sequence in (1, 10, 11, 20, 21)] == [0, 0, 1, 1, 0]


def test_what_had_arrived_by_a_time_is_what_had_been_noted_then() -> None:
    books = Books()
    assert books.arrived_by(1e9) == 0
    for at_s in (1.0, 2.0, 2.0, 5.0):
        books.note(key(1))
        books.mark(at_s)

    assert [books.arrived_by(at_s) for at_s in (0.5, 1.0, 1.5, 2.0, 4.9, 5.0)] == [0, 1, 1, 3, 3, 4]
