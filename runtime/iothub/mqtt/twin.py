"""Twin requests over MQTT: what a client asked for, and what it is answered.

Source: spec sheet hub-protocols.md section 1.12
"""

from __future__ import annotations

import logging

import msgspec

from messaging.errors import EdgeError, IotHubError
from messaging.identity import Identity
from messaging.topics import TwinGet, TwinReported, twin_response_topic
from runtime.iothub.hub import IotHub

log = logging.getLogger(__name__)

Request = TwinGet | TwinReported


async def answer(hub: IotHub, identity: Identity, request: Request, payload: bytes) -> tuple[str, bytes]:
    """Do what is asked; return topic and body of the answer, the topic "" when nobody waits for one.

    A refusal has a body: the Node SDK looks into it rather than at the status.
    """
    version = None
    try:
        if isinstance(request, TwinGet):
            status, body = 200, msgspec.json.encode(await hub.device_twin(identity))
        else:
            version = await hub.patch_reported(identity, msgspec.json.decode(payload))
            status, body = 204, b""
    except IotHubError as exc:
        status, body = exc.status, _refusal(exc.code, str(exc))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        status, body = 400, _refusal(400004, f"the patch is not JSON: {exc}")
    except EdgeError as exc:
        log.error("%s: its twin cannot be served: %s", identity, exc)
        status, body = 500, _refusal(500001, str(exc))
    if request.request_id is None:
        return "", b""
    return twin_response_topic(status, request.request_id, version), body


def _refusal(code: int, message: str) -> bytes:
    return msgspec.json.encode({"errorCode": code, "message": message})
