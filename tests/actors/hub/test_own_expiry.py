"""The expiry of a message itself: it shortens the time to live, whatever form SDKs write it in."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from actors.hub.own_expiry import expiry_of, with_own_expiry
from actors.store.stored import Match
from messaging.message import encode_header
from tests.actors.hub_world import to
from tests.actors.store.test_store import HEAD, IN, StoreWorld

AT_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def header(expiry: str | None = None, properties: dict[str, str] | None = None) -> bytes:
    return encode_header(
        "/messages/", properties or {}, {} if expiry is None else {"absolute-expiry-time": expiry}
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2023-11-14T22:13:20Z", AT_S, id="UTC"),
        pytest.param("2023-11-14T22:13:20", AT_S, id="no offset, as Python's SDK may send"),
        pytest.param("2023-11-14T22:13:20.0000000Z", AT_S, id="seven digits, .NET"),
        pytest.param("2023-11-14T22:13:20.500Z", AT_S + 0.5, id="milliseconds, Node"),
        pytest.param("2023-11-15T00:13:20+02:00", AT_S, id="offset"),
        pytest.param("2023-11-14 22:13:20", AT_S, id="blank"),
        pytest.param("tomorrow", None, id="no time"),
        pytest.param("", None, id="empty"),
        pytest.param("99999-01-01T00:00:00Z", None, id="no year"),
        pytest.param(None, None, id="not said"),
    ],
)
def test_an_expiry_is_read_as_the_sdks_write_it(text: str | None, expected: float | None) -> None:
    assert expiry_of(header(text)) == expected


def test_a_property_of_the_same_name_is_no_expiry() -> None:
    assert expiry_of(header(properties={"absolute-expiry-time": "2023-11-14T22:13:20Z"})) is None


def test_what_is_no_header_has_no_expiry() -> None:
    assert expiry_of(b"absolute-expiry-time") is None


@pytest.mark.parametrize(
    ("ttl_s", "left_s", "expected"),
    [
        pytest.param(None, 60.0, 60.0, id="the only limit"),
        pytest.param(10.0, 60.0, 10.0, id="later than the route's"),
        pytest.param(100.0, 60.0, 60.0, id="earlier than the route's"),
        pytest.param(100.0, -5.0, 0.0, id="over already"),
    ],
)
def test_the_earlier_end_counts(ttl_s: float | None, left_s: float, expected: float) -> None:
    plain, expiring = header(), header("2023-11-14T22:13:20Z")
    matches = (Match("a", 0, ttl_s),)

    found = with_own_expiry(((plain, matches), (expiring, matches)), AT_S - left_s)

    assert found == ((plain, matches), (expiring, (Match("a", 0, expected),)))


def test_a_message_that_expired_before_it_came_is_counted_and_not_delivered() -> None:
    world = StoreWorld()
    world.attach()
    batch = world.batch(b"late", matches=to(IN))
    expired = header("2001-01-01T00:00:00Z")

    world.append(replace(batch, headers=((expired, to(IN)),)))
    world.system.advance(10.0)

    assert world.stored(HEAD) != []
    assert world.bodies() == []
    assert world.ledger().expired == 1
