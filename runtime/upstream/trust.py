"""Whom connections to the cloud trust."""

from __future__ import annotations

import ssl
import threading

from messaging.errors import ConfigError


class Trust:
    """TLS contexts, one for all connections that trust the same: the system's authorities are large."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}

    def context(self, ca_pem: str) -> ssl.SSLContext:
        """Return the context that trusts the system's authorities and these.

        Raises:
            ConfigError: `ca_pem` is not PEM.
        """
        with self._lock:
            context = self._contexts.get(ca_pem)
            if context is None:
                context = ssl.create_default_context()
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                if ca_pem:
                    try:
                        context.load_verify_locations(cadata=ca_pem)
                    except ssl.SSLError as exc:
                        raise ConfigError(f"the CA of the cloud is no certificate in PEM: {exc}") from exc
                self._contexts[ca_pem] = context
            return context
