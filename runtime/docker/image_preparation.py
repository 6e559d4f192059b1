"""Fetches the images of a whole deployment before anything of it is switched."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from functools import partial
from typing import Final

from actors.manifest.module_spec import DesiredStatus, DockerSettings, ModuleSpec
from actors.manifest.registries import RegistryCredential
from actors.ports.modules import OnPreparation, Preparation
from messaging.errors import EdgeError
from runtime.docker.engine import DockerEngine, in_background
from runtime.docker.images import ContainerImages

log = logging.getLogger(__name__)

AT_ONCE: Final = 3  # as many layers as the engine itself fetches at a time
TELL_EVERY_S: Final = 0.5


class ImagePreparation:
    """One preparation, in threads of its own."""

    def __init__(
        self,
        engine: DockerEngine,
        images: ContainerImages,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        self._engine = engine
        self._images = images
        self._modules = [
            module
            for module in modules
            if isinstance(module.settings, DockerSettings) and module.status is not DesiredStatus.UNKNOWN
        ]
        self._credentials = tuple(credentials)
        self._on_progress = on_progress
        self._withdrawn = False
        self._turns = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._doing: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._outdated: set[str] = set()
        self._told_s = 0.0

    def begin(self) -> None:
        """Do it; returns at once."""
        if not self._modules:
            self._on_progress(Preparation(is_done=True))
            return
        in_background("prepare images", self._work)

    def withdraw(self) -> None:
        """Nobody wants to be told any more. What is being fetched goes on: it may be wanted again."""
        self._withdrawn = True

    def _work(self) -> None:
        wait([in_background(f"prepare {one.name}", partial(self._one, one)) for one in self._modules])
        with self._lock:
            done = Preparation(True, "", dict(self._problems), frozenset(self._outdated))
        if not self._withdrawn:
            self._on_progress(done)

    def _one(self, module: ModuleSpec) -> None:
        name = module.name
        with self._turns:
            if self._withdrawn:
                return
            try:
                with self._engine.calls() as client:
                    found = self._engine.container(client, name)
                    image = self._images.have(
                        client, module, lambda doing: self._tell(name, doing), self._credentials
                    )
                    if found is not None and found["ImageID"] != image["Id"]:
                        self._outdated.add(name)
            except EdgeError as exc:
                log.warning("not prepared: %s", exc)
                self._problems[name] = str(exc)
            except Exception as exc:
                log.exception("module %s: its image could not be prepared", name)
                self._problems[name] = f"module '{name}': its image could not be prepared: {exc}"
            finally:
                with self._lock:
                    self._doing.pop(name, None)

    def _tell(self, name: str, doing: str) -> None:
        now_s = time.monotonic()
        with self._lock:
            is_new = name not in self._doing
            self._doing[name] = doing
            if not is_new and now_s - self._told_s < TELL_EVERY_S:
                return
            self._told_s = now_s
            text = "; ".join(dict.fromkeys(self._doing.values()))
        if not self._withdrawn:
            self._on_progress(Preparation(False, text))
