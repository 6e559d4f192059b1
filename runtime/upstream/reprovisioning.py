"""Asks the provisioning service again when the IoT Hub refuses the device: another one may have it by now.

Source: spec sheet security-daemon.md section 5.3
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from actors.agent.registry_waits import is_refusal
from actors.upstream.connection import CloudFault
from messaging.errors import EdgeError
from messaging.text import quoted
from runtime.config.device_credentials import Enrollment
from runtime.home import Home
from runtime.upstream import dps_client
from runtime.upstream.provisioning import Provisioned, Register, remember

log = logging.getLogger(__name__)

SPACING_S: Final = 3600.0  # between two questions, while the answer stays the same


class Reprovisioning:
    """Of one run of the edge; used by one thread at a time."""

    def __init__(
        self,
        enrollment: Enrollment,
        provisioned: Provisioned,
        home: Home,
        on_moved: Callable[[], None],
        register: Register = dps_client.register,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what is needed.

        Args:
            enrollment: As whom to ask.
            provisioned: What the service said last.
            on_moved: Called, in a foreign thread, when it says something else: the edge has to start anew.
        """
        self._enrollment = enrollment
        self._provisioned = provisioned
        self._home = home
        self._on_moved = on_moved
        self._register = register
        self._monotonic_s = monotonic_s
        self._asked_s = float("-inf")

    def after(self, fault: CloudFault) -> CloudFault:
        """Ask, if the IoT Hub refused the device and it is time; return what is wrong then. Blocks."""
        if not is_refusal(fault) or self._monotonic_s() < self._asked_s + SPACING_S:
            return fault
        self._asked_s = self._monotonic_s()
        before = self._provisioned
        try:
            host_name, device_id = self._register(self._enrollment, before.ca_pem)
        except EdgeError as exc:
            return replace(fault, reason=f"{fault.reason}; {exc}")
        if device_id != before.device_id:
            return replace(
                fault,
                reason=f"{fault.reason}; the provisioning service says now that this is device "
                f"{quoted(device_id)} of {quoted(host_name)}: start it with an empty --home",
            )
        if host_name.lower() == before.host_name.lower():
            return fault  # the key is the same, too: the enrollment's
        self._provisioned = replace(before, host_name=host_name)
        try:
            remember(self._home, self._provisioned)
        except EdgeError as exc:
            return replace(fault, reason=f"{fault.reason}; {exc}")
        log.warning("the provisioning service moved device '%s' to %s", device_id, host_name)
        self._on_moved()
        return replace(fault, reason=f"this device was moved to {host_name}; the edge starts anew there")
