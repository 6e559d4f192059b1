from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from messaging.exposition import Family, Sample, encode_text, pack, unpack

VALUES = st.floats(allow_nan=False, width=64)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
LABELS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8")), max_size=3)


@given(st.lists(st.tuples(LABELS, VALUES), min_size=1, max_size=5), st.text(max_size=20))
def test_any_label_and_value_comes_out_of_the_parser_of_prometheus_as_it_went_in(
    series: list[tuple[dict[str, str], float]], help_text: str
) -> None:
    samples = tuple(Sample("", tuple(labels.items()), value) for labels, value in series)

    [found] = text_string_to_metric_families(encode_text([Family("x", "gauge", help_text, samples)]).decode())

    assert [(sample.labels, sample.value) for sample in found.samples] == [
        (labels, value) for labels, value in series
    ]


def test_each_kind_is_told_as_that_kind() -> None:
    families = [
        Family("c_total", "counter", "counts", (Sample("", (("a", "b"),), 3),)),
        Family("g", "gauge", "stands", (Sample("", (), 0.5),)),
        Family(
            "s",
            "summary",
            "sums",
            (Sample("", (("quantile", "0.5"),), math.nan), Sample("_sum", (), 2.5), Sample("_count", (), 2)),
        ),
        Family("unused", "gauge", "is left out", ()),
    ]

    text = encode_text(families).decode()

    assert text.splitlines() == [
        "# HELP c_total counts",
        "# TYPE c_total counter",
        'c_total{a="b"} 3',
        "# HELP g stands",
        "# TYPE g gauge",
        "g 0.5",
        "# HELP s sums",
        "# TYPE s summary",
        's{quantile="0.5"} NaN',
        "s_sum 2.5",
        "s_count 2",
    ]
    assert [(each.name, each.type) for each in text_string_to_metric_families(text)] == [
        ("c", "counter"),
        ("g", "gauge"),
        ("s", "summary"),
    ]


def test_infinities_are_written_as_prometheus_reads_them() -> None:
    samples = (Sample("", (("a", "1"),), math.inf), Sample("", (("a", "2"),), -math.inf))

    assert encode_text([Family("g", "gauge", "", samples)]).decode().splitlines()[2:] == [
        'g{a="1"} +Inf',
        'g{a="2"} -Inf',
    ]


def test_families_come_back_from_the_bytes_of_an_envelope() -> None:
    families = tuple(
        Family(f"g{number}", "gauge", "h", (Sample("", (("a", "b"), ("c", str(number))), 1.5),))
        for number in range(100)
    )

    packed = pack(families)

    assert unpack(packed) == families
    assert len(packed) < len(encode_text(families)) / 4
    assert unpack(pack(())) == ()
