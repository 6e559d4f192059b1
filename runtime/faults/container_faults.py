"""Faults of containers and their images, by the engine."""

from __future__ import annotations

from runtime.docker.engine import HOME_LABEL, MODULE_LABEL
from runtime.faults.edge import RunFailed
from runtime.faults.scene import Fault


class KillContainer(Fault):
    """SIGKILL of the container of a module."""

    def begin(self, nth: int) -> float | None:
        import docker

        name = self.values["module"]
        self.scene.hit.add(name)
        before = self._restarts(name)
        client = docker.from_env()
        try:
            labels = [f"{MODULE_LABEL}={name}", HOME_LABEL]
            found = client.containers.list(filters={"label": labels})
            if not found:
                raise RunFailed(f"there is no container of {name!r} to kill")
            found[0].kill()
        finally:
            client.close()
        self.scene.edge.wait_for(lambda: self._restarts(name) > before, f"{name} is started again")
        self.count += 1
        return None

    def _restarts(self, name: str) -> int:
        return int(self.scene.edge.modules().get(name, {}).get("restarts") or 0)


class SlowPull(Fault):
    """A registry takes connections and says nothing for a while."""

    def begin(self, nth: int) -> float | None:
        if self.scene.registry is None:
            raise RunFailed("no module has the image `slow`")
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        assert self.scene.registry is not None
        self.count += self.scene.registry.asked
        self.scene.registry.let_go()
        return None
