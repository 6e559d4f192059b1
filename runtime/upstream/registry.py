"""The registry of the IoT Hub, as the actors need it: work for a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.ports.security import SyncOutcome
from actors.upstream.connection import CloudFault
from runtime.config.device_credentials import Enrollment
from runtime.home import Home
from runtime.security.key_store import KeyStore
from runtime.upstream.provisioning import Provisioned
from runtime.upstream.scope_file import ScopeFile

if TYPE_CHECKING:
    from runtime.upstream.registry_sync import RegistrySync


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
        is_own: bool = False,
    ) -> None:
        """Keep what is needed; nothing is asked before the first sync.

        Args:
            enrollment: As in Reprovisioning.
            on_moved: Called, in a foreign thread, when this is another device, or one with another key, by
                now: the edge has to start anew.
            is_own: See Registry.
        """
        self.is_own = is_own
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
        from runtime.security.own_cloud import OwnDevice
        from runtime.upstream.registry_sync import RegistrySync
        from runtime.upstream.reprovisioning import Reprovisioning

        again: Callable[[CloudFault], CloudFault] | None = None
        if self.is_own:
            again = OwnDevice(self._provisioned, self._home, self._on_moved).after
        elif self._enrollment is not None:
            again = Reprovisioning(self._enrollment, self._provisioned, self._home, self._on_moved).after
        return RegistrySync(self._provisioned, self._home, self._keys, self._scope, self._now_s, again)
