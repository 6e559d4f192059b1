"""The registry of the IoT Hub, as the actors need it: work for a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from actors.ports import SyncOutcome
from runtime.home import Home
from runtime.key_store import KeyStore
from runtime.provisioning import Provisioned
from runtime.scope_file import ScopeFile


class CloudRegistry:
    """Implements `actors.ports.Registry`."""

    def __init__(
        self,
        provisioned: Provisioned,
        home: Home,
        keys: KeyStore,
        scope: ScopeFile,
        now_s: Callable[[], float],
    ) -> None:
        """Keep what is needed; nothing is asked before the first sync."""
        self.host_name = provisioned.host_name
        self.device_id = provisioned.device_id
        self._needed = (provisioned, home, keys, scope, now_s)

    def start_sync(self, done: Callable[[SyncOutcome], None]) -> None:
        """Begin a sync; see Registry."""
        threading.Thread(target=self._sync, args=(done,), name="registry", daemon=True).start()

    def _sync(self, done: Callable[[SyncOutcome], None]) -> None:
        # Here, because all that speaks HTTPS comes with it: a start shall not wait for that.
        from runtime.registry_sync import RegistrySync

        done(RegistrySync(*self._needed).run())
