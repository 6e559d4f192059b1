"""What integration tests with containers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.integration.container_edge import ContainerEdge

if TYPE_CHECKING:
    from docker import APIClient


@pytest.fixture
def engine_client(docker_image: str) -> Iterator[APIClient]:
    """A client of Docker Engine, which has the image of the tests; skips where there is none."""
    from docker import APIClient

    made = APIClient(version="auto")
    yield made
    made.close()


@pytest.fixture
def container_edge(engine_client: APIClient) -> Iterator[ContainerEdge]:
    """An edge whose modules are containers."""
    made = ContainerEdge(engine_client)
    yield made
    made.close()
