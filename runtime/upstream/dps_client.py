"""Asks the Device Provisioning Service which IoT Hub this device belongs to, with a key or a certificate.

Source: spec sheet security-daemon.md section 5.2
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from actors.upstream.connection import Fault
from messaging import sas
from messaging.errors import ConfigError, EnvironmentFault
from messaging.text import quoted
from runtime.config.device_credentials import Enrollment
from runtime.net.https_client import Answer, CloudError, HttpsClient, Service

API_VERSION: Final = "2021-06-01"
TOKEN_S: Final = 3600
POLL_S: Final = 5.0
LONGEST_POLL_S: Final = 60.0  # whatever the service asks for
LIMIT_S: Final = 120.0  # from the first request to the assignment
KEY_NAME: Final = "registration"
# These may be over soon; the others are for the user to repair.
_LATER: Final = frozenset({Fault.UNREACHABLE, Fault.TIMEOUT, Fault.THROTTLED, Fault.CLOCK, Fault.UNTRUSTED})


def register(
    enrollment: Enrollment,
    ca_pem: str = "",
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic_s: Callable[[], float] = time.monotonic,
    now_s: Callable[[], float] = time.time,
) -> tuple[str, str]:
    """Register this device and return the host name of its IoT Hub and its device id. Blocks.

    Raises:
        ConfigError: the service refuses the registration; says why.
        EnvironmentFault: it cannot be reached, or does not come to an end.
    """
    place = f"/{quote(enrollment.id_scope)}/registrations/{quote(enrollment.registration_id, safe='')}"
    headers = {}
    if enrollment.files is None:
        audience = f"{enrollment.id_scope}/registrations/{enrollment.registration_id}"
        key = sas.decode_key(enrollment.key)
        headers["Authorization"] = sas.make_token(audience, key, int(now_s()) + TOKEN_S, KEY_NAME)
    ends_s = monotonic_s() + LIMIT_S
    service = Service(enrollment.host, enrollment.port, ca_pem, identity=enrollment.files)
    name = f"the provisioning service {service}"
    try:
        with HttpsClient(service) as client:
            body: dict[str, Any] = {"registrationId": enrollment.registration_id}
            if enrollment.payload:
                body["payload"] = json.loads(enrollment.payload)
            target = f"{place}/register?api-version={API_VERSION}"
            answer = client.call("PUT", target, body, headers)
            while (state := _text(answer.body, "status")) in ("assigning", "unassigned"):
                wait_s = _wait_s(answer)
                if monotonic_s() + wait_s > ends_s:
                    raise EnvironmentFault(
                        f"{name} did not assign {quoted(enrollment.registration_id)} within {LIMIT_S:g} s; "
                        "try again, or look at the allocation of its enrollment"
                    )
                sleep(wait_s)
                operation = quote(_text(answer.body, "operationId"), safe="")
                answer = client.call(
                    "GET", f"{place}/operations/{operation}?api-version={API_VERSION}", None, headers
                )
    except CloudError as exc:
        raise _failed(exc, enrollment) from exc
    outcome = answer.body.get("registrationState") if isinstance(answer.body, dict) else None
    host_name, device_id = _text(outcome, "assignedHub"), _text(outcome, "deviceId")
    if state != "assigned" or not host_name or not device_id:
        why = _text(outcome, "errorMessage") or f"the registration is {quoted(state)}"
        raise ConfigError(
            f"{name} does not assign {quoted(enrollment.registration_id)}: {quoted(why)[1:-1]}; "
            "look at its enrollment there"
        )
    return host_name, device_id


def _failed(exc: CloudError, enrollment: Enrollment) -> ConfigError | EnvironmentFault:
    fault = exc.fault
    if fault.kind in _LATER:
        return EnvironmentFault(
            f"the provisioning service cannot be asked which device this is: {fault.reason}; a device needs "
            "it at its first start, later ones work offline"
        )
    proof = "key" if enrollment.files is None else "certificate"
    return ConfigError(
        f"the provisioning service refuses registration {quoted(enrollment.registration_id)} of id scope "
        f"{quoted(enrollment.id_scope)}: {fault.reason}; compare provisioning.id_scope, "
        f"registration_id and the {proof} with the enrollment"
    )


def _wait_s(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    asked_s = float(text) if text.isascii() and text.isdigit() else POLL_S
    return min(max(asked_s, 1.0), LONGEST_POLL_S) + random.random() * 0.5


def _text(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else ""
