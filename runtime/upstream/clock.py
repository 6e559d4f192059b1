"""How far the clock of this machine is from the cloud's, when the cloud refuses a token.

MQTT gives wrong keys and tokens that have run out the same answer. The Date of any HTTPS answer tells them
apart; where there is none to be had, the first is assumed.
"""

from __future__ import annotations

import http.client
import ssl
from email.utils import parsedate_to_datetime
from typing import Final

TOLERATED_S: Final = 300.0  # IoT Hub accepts tokens of clocks that differ by so much
_LIMIT_S: Final = 5.0


def behind_s(host_name: str, port: int, trust: ssl.SSLContext, now_s: float) -> float | None:
    """Return by how many seconds this machine's clock is behind the cloud's; None when it does not say.

    Blocks, at most some seconds.
    """
    connection = http.client.HTTPSConnection(host_name, port, timeout=_LIMIT_S, context=trust)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
        return None if date is None else parsedate_to_datetime(date).timestamp() - now_s
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
