"""What the container of a module wrote: Docker Engine keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from messaging.errors import EnvironmentFault
from runtime.docker_engine import DockerEngine


def read(home_id: str, module: str, tail: int | None, follow: bool) -> Iterator[bytes] | None:
    """Return the output of a module's container in blocks, None when the module has no container.

    Args:
        home_id: Of the edge.
        module: Its name.
        tail: Only the last so many lines; None for all.
        follow: Go on with what is added, until the container ends.

    Raises:
        EngineAway: the engine does not answer.
        EnvironmentFault: it refused, or it hands this container's output to somebody else.
    """
    engine = DockerEngine(home_id, on_event=lambda _: None, on_away=lambda: None, on_back=lambda: None)
    try:
        with engine.calls() as client:
            found = engine.containers(client).get(module)
            if found is None:
                return None
            last: Literal["all"] | int = "all" if tail is None else tail
            blocks: Iterator[bytes] = client.logs(found["Id"], stream=True, follow=follow, tail=last)
            return blocks
    except EnvironmentFault as exc:
        raise type(exc)(f"the log of module '{module}' cannot be read: {exc}") from exc
