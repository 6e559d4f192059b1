import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.time_text import iso_of_ms, ms_of_iso

FIRST_MS = -62_135_596_800_000
LAST_MS = 253_402_300_799_999


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        pytest.param(0, "1970-01-01T00:00:00.000Z", id="the first"),
        pytest.param(1_700_000_000_123, "2023-11-14T22:13:20.123Z", id="with milliseconds"),
        pytest.param(-1, "1969-12-31T23:59:59.999Z", id="before the first"),
        pytest.param(LAST_MS, "9999-12-31T23:59:59.999Z", id="the last of all years"),
        pytest.param(2**63 - 1, "9999-12-31T23:59:59.999Z", id="beyond all years"),
        pytest.param(-(2**63), "0001-01-01T00:00:00.000Z", id="before all years"),
    ],
)
def test_milliseconds_are_written_as_iot_hub_writes_times(at_ms: int, text: str) -> None:
    assert iso_of_ms(at_ms) == text


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        pytest.param("2024-01-31T10:00:00.0000000Z", 1_706_695_200_000, id="as .NET writes it"),
        pytest.param("2024-01-31T11:00:00+01:00", 1_706_695_200_000, id="in a zone"),
        pytest.param("2024-01-31T10:00:00", 1_706_695_200_000, id="without a zone"),
        pytest.param("2024-01-31T10:00:00.0019Z", 1_706_695_200_001, id="finer than a millisecond"),
        pytest.param("0001-01-01T00:00:00+14:00", FIRST_MS - 50_400_000, id="at the edge of all years"),
    ],
)
def test_any_iso_time_is_read_as_milliseconds(text: str, at_ms: int) -> None:
    assert ms_of_iso(text) == at_ms


@pytest.mark.parametrize("text", ["", "tomorrow", "1700000000"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        ms_of_iso(text)


@given(st.integers(FIRST_MS, LAST_MS))
def test_milliseconds_are_read_as_they_were_written(at_ms: int) -> None:
    assert ms_of_iso(iso_of_ms(at_ms)) == at_ms
