"""Faults of containers, by the engine."""

from __future__ import annotations

from runtime.faults.edge import RunFailed
from runtime.faults.scene import Fault


class KillContainer(Fault):
    """SIGKILL of the container of a module."""

    def begin(self, nth: int) -> float | None:
        import docker
        from docker.errors import NotFound

        name = self.values["module"]
        self.scene.hit.add(name)
        client = docker.from_env()
        try:
            client.containers.get(name).kill()
        except NotFound as exc:
            raise RunFailed(f"there is no container {name!r} to kill") from exc
        finally:
            client.close()
        self.count += 1
        return None
