"""The registry of the IoT Hub, as the actors need it: work for a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.ports import SyncOutcome
from runtime.device_credentials import Enrollment
from runtime.home import Home
from runtime.key_store import KeyStore
from runtime.provisioning import Provisioned
from runtime.scope_file import ScopeFile

if TYPE_CHECKING:
    from runtime.registry_sync import RegistrySync


class CloudRegistry:
    """Implements `actors.ports.Registry`."""

    def __init__(
        self,
        provisioned: Provisioned,
        home: Home,
        keys: KeyStore,
        scope: ScopeFile,
        now_s: Callable[[], float],
        enrollment: Enrollment | None = None,
        on_moved: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is needed; nothing is asked before the first sync. The last two: see Reprovisioning."""
        self.host_name = provisioned.host_name
        self.device_id = provisioned.device_id
        self._provisioned = provisioned
        self._home = home
        self._keys = keys
        self._scope = scope
        self._now_s = now_s
        self._enrollment = enrollment
        self._on_moved = on_moved
        self._worker: RegistrySync | None = None

    def start_sync(self, done: Callable[[SyncOutcome], None]) -> None:
        """Begin a sync; see Registry."""
        threading.Thread(target=self._sync, args=(done,), name="registry", daemon=True).start()

    def _sync(self, done: Callable[[SyncOutcome], None]) -> None:
        if self._worker is None:
            self._worker = self._make_worker()
        done(self._worker.run())

    def _make_worker(self) -> RegistrySync:
        # Here, because all that speaks HTTPS comes with it: a start shall not wait for that.
        from runtime.registry_sync import RegistrySync
        from runtime.reprovisioning import Reprovisioning

        again = None
        if self._enrollment is not None:
            again = Reprovisioning(self._enrollment, self._provisioned, self._home, self._on_moved)
        return RegistrySync(self._provisioned, self._home, self._keys, self._scope, self._now_s, again)
