"""The queues of the endpoint `iothub`."""

from __future__ import annotations

import pytest

from actors.hub.c2d_queues import is_c2d_queue, queue_of
from messaging.upstream_queues import UPSTREAM, by_endpoint, endpoint_of, source_of, upstream_queue


@pytest.mark.parametrize("source", ["leaf", "edge/a", "iothub", "iothub/iothub", "$c2d", "a%2Fb/$edgeHub"])
def test_a_queue_tells_whose_it_is_and_belongs_to_the_cloud(source: str) -> None:
    queue = upstream_queue(source)

    assert source_of(queue) == source
    assert endpoint_of(queue) == UPSTREAM
    assert not is_c2d_queue(queue)


@pytest.mark.parametrize("endpoint", ["iothub/filter/in", "edge/filter/in", queue_of("iothub"), UPSTREAM])
def test_all_others_are_endpoints_themselves_even_of_a_device_called_iothub(endpoint: str) -> None:
    assert endpoint_of(endpoint) == endpoint


def test_counts_are_summed_by_endpoint() -> None:
    counts = {upstream_queue("a"): 1, "edge/m/in": 5, upstream_queue("b"): 2}

    assert by_endpoint(counts) == {UPSTREAM: 3, "edge/m/in": 5}
