"""Twin requests over AMQP: what a client of the stand-in is answered.

Source: spec sheet hub-protocols.md section 3.7
"""

from __future__ import annotations

import logging

import msgspec

from messaging.amqp.codec import AmqpMessage
from messaging.amqp.twin_messages import TwinOperation, TwinRequest, twin_answer, twin_refusal
from messaging.errors import EdgeError, IotHubError
from messaging.identity import Identity
from runtime.iothub.hub import IotHub

log = logging.getLogger(__name__)


async def answer(hub: IotHub, identity: Identity, request: TwinRequest) -> AmqpMessage | None:
    """Do what is asked, and return the answer; None when nobody waits for one.

    PUT and DELETE change only what the client is told from now on, which is for the caller to do.
    """
    version = None
    body = b""
    try:
        if request.operation is TwinOperation.GET:
            body = msgspec.json.encode(await hub.device_twin(identity))
        elif request.operation is TwinOperation.PATCH:
            version = await hub.patch_reported(identity, msgspec.json.decode(request.patch))
    except IotHubError as exc:
        return _refusal(request, exc.status, str(exc), exc.code)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _refusal(request, 400, f"the patch is not JSON: {exc}", 400004)
    except EdgeError as exc:
        log.error("%s: its twin cannot be served: %s", identity, exc)
        return _refusal(request, 500, str(exc), 500001)
    if request.correlation_id is None:
        return None
    status = 204 if request.operation is TwinOperation.PATCH else 200
    return twin_answer(request.correlation_id, status, body, version)


def _refusal(request: TwinRequest, status: int, reason: str, code: int) -> AmqpMessage | None:
    if request.correlation_id is None:
        return None
    return twin_refusal(request.correlation_id, status, reason, code)
