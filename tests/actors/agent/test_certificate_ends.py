"""When an operator is told that the edge CA that he supplies comes to its end, and the metric."""

from __future__ import annotations

import logging

import pytest

from actors.agent.certificate_ends import DAY_S, CertificateLife, certificate_families, remark
from actors.agent.security import SecurityActor
from tests.actors.hub_world import World
from tests.fakes.security import FakeSecurity

NOW_S = 1_900_000_000.0
WAY_OUT = "put a new one with its key in its place: it is taken within a minute"


def given(days_left: float, life_days: float = 365.0) -> CertificateLife:
    ends_s = NOW_S + days_left * DAY_S
    return CertificateLife("edge_ca", ends_s - life_days * DAY_S, ends_s, "/etc/ca.pem")


@pytest.mark.parametrize(
    ("life", "level"),
    [
        pytest.param(given(200), None, id="far away"),
        pytest.param(given(30), None, id="30 days"),
        pytest.param(given(29.9), logging.WARNING, id="less"),
        pytest.param(given(17, life_days=90), logging.WARNING, id="the last fifth of 90 days"),
        pytest.param(given(19, life_days=90), None, id="before it"),
        pytest.param(given(6.9), logging.ERROR, id="the last week"),
        pytest.param(given(2, life_days=3), logging.ERROR, id="one that lives three days"),
        pytest.param(given(-1), logging.ERROR, id="over"),
        pytest.param(CertificateLife("edge_ca", NOW_S - DAY_S, NOW_S + DAY_S), None, id="made by the edge"),
    ],
)
def test_a_given_ca_is_told_of_when_there_is_little_time_left(
    life: CertificateLife, level: int | None
) -> None:
    found = remark(life, NOW_S)

    assert (None if found is None else found.level) == level


@pytest.mark.parametrize(
    ("days_left", "told"),
    [
        (12.3, "expires in 12.3 days, on 2030-03-30; from then on no client can connect"),
        (-2, "has expired on 2030-03-15; no client can connect"),
    ],
)
def test_the_file_the_days_left_and_the_way_out_are_named(days_left: float, told: str) -> None:
    found = remark(given(days_left), NOW_S)

    assert found is not None
    assert found.text == f"the edge CA in '/etc/ca.pem' {told}; {WAY_OUT}"


def test_it_is_told_at_the_start_and_each_day_until_there_is_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World("hub/identities", "hub", "agent/agent")
    now_s = world.clock.now_s()
    security = FakeSecurity(now_s)
    security.lives = (
        CertificateLife("edge_ca", now_s - 300 * DAY_S, now_s + 8.5 * DAY_S, "/etc/ca.pem"),
        CertificateLife("hub", now_s - DAY_S, now_s + 8.5 * DAY_S),
    )

    def told() -> list[tuple[int, str]]:
        lines = [
            (line.levelno, line.getMessage()) for line in caplog.records if "edge CA in" in line.getMessage()
        ]
        return [(level, text.partition("expires in ")[2].split(",")[0]) for level, text in lines]

    world.start("agent/security", lambda: SecurityActor(security))
    first = told()
    world.system.advance(DAY_S)
    world.system.advance(DAY_S)
    second = told()
    security.lives = (CertificateLife("edge_ca", now_s, now_s + 365 * DAY_S, "/etc/ca.pem"),)
    world.system.advance(DAY_S)

    assert first == [(logging.WARNING, "8.5 days")]
    assert second == [*first, (logging.WARNING, "7.5 days"), (logging.ERROR, "6.5 days")]
    assert told() == second


def test_the_metric_says_how_long_each_is_good() -> None:
    lives = (given(2), CertificateLife("hub", NOW_S - DAY_S, NOW_S - 60))

    [family] = certificate_families(lives, (("edge_device", "edge1"),), NOW_S)

    assert (family.name, family.kind) == ("edgeAgent_certificate_expiry_seconds", "gauge")
    assert [(dict(sample.labels), sample.value) for sample in family.samples] == [
        ({"edge_device": "edge1", "certificate": "edge_ca"}, 2 * DAY_S),
        ({"edge_device": "edge1", "certificate": "hub"}, -60.0),
    ]
