"""What the checks call good, doubtful and wrong. Source: security-daemon.md section 6.3."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.checks.judge import (
    judge_clock,
    judge_container_clock,
    judge_dns,
    judge_engine_version,
    judge_expiry,
    judge_host_name,
    judge_log_rotation,
    judge_modules,
    judge_space,
    judge_storage,
    judge_sync,
    read_engine_config,
)
from runtime.checks.outcome import Outcome, Result

OK, WARNING, ERROR = Result.OK, Result.WARNING, Result.ERROR
DAY_S = 86_400.0
NOW_S = 1_800_000_000.0
GIB, MIB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("offset_s", "result"),
    [
        (0.0, OK),
        (9.99, OK),
        (10.0, WARNING),
        (-10.0, WARNING),
        (299.0, WARNING),
        (300.0, ERROR),
        (-4e8, ERROR),
    ],
)
def test_clock(offset_s: float, result: Result) -> None:
    assert judge_clock(offset_s, "time.example").result is result


@pytest.mark.parametrize(
    ("born_days", "left_days", "renewal", "is_running", "result"),
    [
        pytest.param(1, 89, "", True, OK, id="fresh"),
        pytest.param(73, 17, "", True, OK, id="renewal is due since a day"),
        pytest.param(75, 15, "", True, WARNING, id="renewal is overdue"),
        pytest.param(75, 15, "", False, OK, id="the next start renews it"),
        pytest.param(91, -1, "", False, WARNING, id="expired, the next start renews it"),
        pytest.param(91, -1, "", True, ERROR, id="expired while it runs"),
        pytest.param(350, 15, "replace it", True, OK, id="row: somebody else's, good for more than 7 days"),
        pytest.param(359, 6, "replace it", False, WARNING, id="somebody else's, less than 7 days"),
        pytest.param(366, -1, "replace it", False, ERROR, id="somebody else's, expired"),
        pytest.param(-1, 91, "", True, ERROR, id="not yet good"),
    ],
)
def test_expiry(born_days: float, left_days: float, renewal: str, is_running: bool, result: Result) -> None:
    found = judge_expiry(
        "it", NOW_S - born_days * DAY_S, NOW_S + left_days * DAY_S, NOW_S, renewal, is_running
    )

    assert found.result is result
    assert found.info == {"days_left": left_days}
    assert not found.details or ";" in found.details[0] or "?" in found.details[0]


@pytest.mark.parametrize(
    ("name", "machine", "is_local", "resolves", "result"),
    [
        pytest.param("192.0.2.1", "pi", False, False, OK, id="address"),
        pytest.param("::1", "pi", False, None, OK, id="IPv6 address"),
        pytest.param("PI", "pi", False, None, OK, id="the machine's, any case"),
        pytest.param("pi.site.example", "pi", False, None, OK, id="the machine's with a domain"),
        pytest.param("pirate", "pi", False, None, ERROR, id="only begins like it"),
        pytest.param("gateway", "pi", False, True, OK, id="another name of it"),
        pytest.param("gateway", "pi", False, False, ERROR, id="of another machine"),
        pytest.param("localhost", "pi", True, True, OK, id="localhost for local clients"),
        pytest.param("a" * 60 + ".example", "a" * 60, False, None, WARNING, id="too long for a certificate"),
        pytest.param("3com", "3com", False, None, WARNING, id="not RFC 1035"),
    ],
)
def test_host_name(name: str, machine: str, is_local: bool, resolves: bool | None, result: Result) -> None:
    assert judge_host_name(name, machine, is_local, resolves).result is result


@pytest.mark.parametrize(
    ("free", "total", "files", "result"),
    [
        (100 * GIB, 200 * GIB, 5, OK),
        (2 * GIB, 200 * GIB, 5, OK),
        (900 * MIB, 2 * GIB, None, OK),
        (900 * MIB, 200 * GIB, 5, WARNING),
        (10 * MIB, 200 * GIB, 5, ERROR),
        (10 * MIB, 20 * MIB, 5, ERROR),
        (100 * GIB, 200 * GIB, 0, ERROR),
        (100 * GIB, 200 * GIB, None, OK),
    ],
)
def test_space(free: int, total: int, files: int | None, result: Result) -> None:
    assert judge_space("/x", free, total, files).result is result


@pytest.mark.parametrize(
    ("path", "kind", "options", "result"),
    [
        ("/var/lib/edge-actors", "ext4", ("rw", "relatime"), OK),
        ("/var/lib/edge-actors", "btrfs", (), OK),
        ("/run/edge", "tmpfs", (), WARNING),
        ("/var/lib/edge-actors", "overlay", (), WARNING),
        ("/mnt/share", "nfs4", (), WARNING),
        ("/data", "ext4", ("rw", "nobarrier"), WARNING),
        ("/data", "ext4", ("barrier=0",), WARNING),
        ("/tmp/edge", "ext4", (), WARNING),
        ("/tmpfiles", "ext4", (), OK),
    ],
)
def test_storage(path: str, kind: str, options: tuple[str, ...], result: Result) -> None:
    assert judge_storage("the home", path, kind, options).result is result


@pytest.mark.parametrize(("median_s", "result"), [(0.001, OK), (0.5, OK), (0.6, WARNING)])
def test_sync(median_s: float, result: Result) -> None:
    assert judge_sync("/x", median_s).result is result


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, {}), ("", {}), ('{"dns": ["1.1.1.1"]}', {"dns": ["1.1.1.1"]}), ("{", ERROR), ("[]", ERROR)],
)
def test_settings_of_the_engine(text: str | None, expected: Any) -> None:
    found = read_engine_config(text, "daemon.json")

    assert (found.result if isinstance(found, Outcome) else found) == expected


@pytest.mark.parametrize(
    ("offset_s", "result"), [(0.4, OK), (-9.9, OK), (10, ERROR), (20, ERROR), (-20, ERROR)]
)
def test_clock_in_containers(offset_s: float, result: Result) -> None:
    """Source: observability.md section 13, row 60."""
    assert judge_container_clock(offset_s).result is result


@pytest.mark.parametrize(
    ("api_version", "result"),
    [("1.24", ERROR), ("1.25", WARNING), ("1.40", WARNING), ("1.41", OK), ("1.54", OK), ("dev", OK)],
)
def test_engine_version(api_version: str, result: Result) -> None:
    found = judge_engine_version("20.10.24+dfsg1", api_version)

    assert found.result is result
    assert all("Docker Engine 20.10.24+dfsg1" in detail for detail in found.details)


@pytest.mark.parametrize(
    ("config", "result"), [({"dns": ["1.1.1.1"]}, OK), ({"dns": []}, WARNING), ({}, WARNING)]
)
def test_dns(config: dict[str, Any], result: Result) -> None:
    assert judge_dns(config, "daemon.json").result is result


@pytest.mark.parametrize(
    ("driver", "result"),
    [("json-file", OK), ("local", OK), ("journald", OK), ("syslog", WARNING), ("none", WARNING)],
)
def test_log_rotation(driver: str, result: Result) -> None:
    assert judge_log_rotation({}, driver, "daemon.json").result is result


def module(name: str, status: str, desired: str = "running") -> dict[str, Any]:
    return {"name": name, "status": status, "desired": desired, "description": "why"}


@pytest.mark.parametrize(
    ("modules", "result"),
    [
        ([module("a", "running"), module("b", "downloading")], OK),
        ([module("a", "stopped", desired="stopped")], OK),
        ([module("a", "backoff"), module("edgeHub", "running")], WARNING),
        ([module("a", "unhealthy")], WARNING),
        ([module("edgeHub", "failed")], ERROR),
    ],
)
def test_modules(modules: list[dict[str, Any]], result: Result) -> None:
    found = judge_modules(modules)

    assert found.result is result
    assert all("edge-actors explain" in detail for detail in found.details)
