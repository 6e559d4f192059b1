"""What connections to the cloud have in common, whichever protocol they speak: times, ways, tokens."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from actors.upstream.connection import CloudAccess, CloudFault
from messaging import sas
from messaging.clock import Clock
from messaging.errors import AuthError
from runtime.upstream import faults
from runtime.upstream.loop import CloudLoop
from runtime.upstream.openers import Openers
from runtime.upstream.trust import Trust

KEEP_ALIVE_S: Final = 60  # the SDK's own; half of it would not let 256 KB through 25 kbit/s
TOKEN_LIFE_S: Final = 3600
RENEW_BEFORE_S: Final = 300
OPEN_LIMIT_S: Final = 30.0
TWIN_LIMIT_S: Final = 20.0
SILENCE_LIMIT_S: Final = 20.0  # of a cloud that has something to acknowledge …
SLOWEST_BYTES_PER_S: Final = 2048  # … plus what the message itself may take on a slow line
DRAIN_LIMIT_S: Final = 30.0


class Way(Struct, frozen=True):
    """By which port the cloud is reached, and whether through WebSocket."""

    port: int
    is_web_socket: bool = False


MQTT: Final = Way(8883)
MQTT_WS: Final = Way(443, is_web_socket=True)
AMQP: Final = Way(5671)
AMQP_WS: Final = Way(443, is_web_socket=True)


class CloudTimes(Struct, frozen=True):
    """Time limits of a connection, in seconds; tests shorten them."""

    keep_alive_s: int = KEEP_ALIVE_S
    token_life_s: float = TOKEN_LIFE_S
    renew_before_s: float = RENEW_BEFORE_S  # over MQTT, where renewing means to connect again
    open_s: float = OPEN_LIMIT_S
    twin_s: float = TWIN_LIMIT_S
    silence_s: float = SILENCE_LIMIT_S
    drain_s: float = DRAIN_LIMIT_S


class Shared(Struct, frozen=True):
    """What all connections have in common."""

    loop: CloudLoop
    openers: Openers
    trust: Trust
    times: CloudTimes
    clock: Clock

    def key_or_clock(self, access: CloudAccess, fault: CloudFault) -> CloudFault:
        """Return why a token was refused: `fault`, or that the clocks differ. Blocks for some seconds."""
        from runtime.upstream.clock import TOLERATED_S, behind_s

        trust = self.trust.context(access.ca_pem)
        difference_s = behind_s(access.host_name, access.https_port, trust, self.clock.now_s())
        if difference_s is None or abs(difference_s) <= TOLERATED_S:
            return fault
        return faults.clock_differs(str(access.identity), access.host_name, difference_s)


def token_of(access: CloudAccess, expires_s: int) -> str:
    """Return the token with which an identity proves who it is: its own, or that of its signer.

    Raises:
        AuthError: its key is no key.
    """
    signer = access.signer or access.identity
    try:
        key = sas.decode_key(access.key.reveal().decode("ascii", "replace"))
    except AuthError as exc:
        raise AuthError(f"the key of '{signer}' cannot be used: {exc}; see the IoT Hub for it") from exc
    return sas.make_token(sas.audience_of(access.host_name, signer), key, expires_s)
