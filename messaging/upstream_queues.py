"""The queues of the endpoint `iothub`: one for each sender, so that none waits behind the backlog of another.

Routes, ledger and lists know one endpoint; the store has a queue for each device or module that sends to it.
Two slashes keep its queues apart from those of a device that is called `iothub`: an input of a module is
`{device}/{module}/{input}`, and no part of that is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UPSTREAM: Final = "iothub"
UPSTREAM_QUEUES: Final = f"{UPSTREAM}//"  # each of its queues begins with this


def upstream_queue(source: str) -> str:
    """Return the queue of what `source`, as `D` or `D/M`, sends to the cloud."""
    return UPSTREAM_QUEUES + source


def source_of(queue_id: str) -> str:
    """Return whose messages are in a queue of upstream, as `D` or `D/M`."""
    return queue_id.removeprefix(UPSTREAM_QUEUES)


def endpoint_of(queue_id: str) -> str:
    """Return the endpoint that a queue belongs to: itself, or `iothub`."""
    return UPSTREAM if queue_id.startswith(UPSTREAM_QUEUES) else queue_id


def by_endpoint(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sum for each endpoint of what was counted by queue."""
    sums: dict[str, int] = {}
    for queue_id, count in counts.items():
        endpoint_id = endpoint_of(queue_id)
        sums[endpoint_id] = sums.get(endpoint_id, 0) + count
    return sums
