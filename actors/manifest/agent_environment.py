"""Settings of metrics that a deployment gives as environment variables of `edgeAgent`.

They are obeyed as they change; edgeAgent does not start anew for them, as the reference does.

Source: spec sheet observability.md sections 1, 4 and 6.2
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from actors.manifest.environment_variables import (
    DAY_S,
    SWITCH,
    Kind,
    obeyed,
    read_variables,
    span,
    unused,
    whole,
)


class AgentEnvironment(Struct, frozen=True):
    """What edgeAgent obeys."""

    metrics_enabled: bool = True
    metrics_port: int = 9601
    metrics_suffix: str = "metrics"
    metrics_histogram_max_age_s: float = 3600.0
    performance_metrics_s: float = 300.0  # how often is looked at memory, processors and disks
    sends_quality_telemetry: bool = True
    metric_scrape_s: float = 3600.0
    metric_upload_s: float = float(DAY_S)
    metric_max_upload_age_s: float = float(7 * DAY_S)


DEFAULTS: Final = AgentEnvironment()


def _read_suffix(text: str) -> str:
    path = text.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", path):
        raise ValueError
    return path


_SUFFIX: Final = Kind(_read_suffix, "the path of a URL")
_PERIOD: Final = span(1, 365 * DAY_S, "a time from 00:00:01 to 365.00:00:00")

VARIABLES: Final = (
    obeyed(
        "MetricsEnabled",
        "true",
        "metrics_enabled",
        SWITCH,
        "false: no metrics of edgeAgent; those of edgeHub are a setting of edgeHub",
    ),
    obeyed(
        "port",
        "9600",
        "metrics_port",
        whole(1, 65535),
        "port of the metrics of edgeAgent, on loopback and in the network of our containers, which also get "
        "them from `http://edgeAgent:9600/metrics`",
        "9601",
    ),
    obeyed("suffix", "metrics", "metrics_suffix", _SUFFIX, "path of the metrics of edgeAgent"),
    unused("host", "*", "metrics are on loopback and in the network of our containers, and nowhere else"),
    obeyed(
        "MetricsHistogramMaxAge",
        "01:00:00",
        "metrics_histogram_max_age_s",
        span(1, 7 * DAY_S, "a time from 00:00:01 to 7.00:00:00"),
        "how far the quantiles of the use of processors look back; takes effect at the next start",
    ),
    obeyed(
        "PerformanceMetricsUpdateFrequency",
        "00:05:00",
        "performance_metrics_s",
        span(5, DAY_S, "a time from 00:00:05 to 1.00:00:00"),
        "how often is looked at memory, processors, disks and networks; first after a minute at most",
    ),
    obeyed(
        "SendRuntimeQualityTelemetry",
        "true",
        "sends_quality_telemetry",
        SWITCH,
        "false: nothing about how this edge runs is sent; what would be is said in the README",
    ),
    obeyed(
        "MetricScrapeInterval",
        "01:00:00",
        "metric_scrape_s",
        _PERIOD,
        "how often metrics are kept for the quality telemetry",
    ),
    obeyed(
        "MetricUploadInterval",
        "1.00:00:00",
        "metric_upload_s",
        _PERIOD,
        "how often they are sent; first after a random part of it",
    ),
    obeyed(
        "MetricMaxUploadAge",
        "7.00:00:00",
        "metric_max_upload_age_s",
        _PERIOD,
        "what is older is deleted and not sent",
    ),
)


def parse_agent_environment(
    environment: Mapping[str, str],
) -> tuple[AgentEnvironment, tuple[tuple[str, str], ...]]:
    """Read the environment of `edgeAgent` as the manifest has it; return also problems, by variable."""
    values, problems, _ = read_variables(VARIABLES, environment, "edgeAgent", is_whole=False)
    return AgentEnvironment(**values), problems
