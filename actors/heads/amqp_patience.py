"""How long the AMQP head waits for a client before it ends the connection.

A client that is silent is told by the engine: it announces 240 s (hub-protocols.md section 3.8).
"""

from __future__ import annotations

from typing import Final

from actors.heads.amqp_connection import IDLE_TIMEOUT_S, AmqpConnection

CLOSE_LIMIT_S: Final = 5.0  # for a client to answer our Close
# From the end of the TLS handshake to a token; longer than for a CONNECT of MQTT: it takes five round trips.
STRANGER_LIMIT_S: Final = 15.0
LONGEST_STRANGER_S: Final = 60.0  # whatever it shows, and whoever is asked about it
# For a client without links to attach another one, or to close. The Node SDK ends all its links, then session
# and connection; after a Close of ours in between it waits 45 s for answers.
LINKLESS_LIMIT_S: Final = 5.0


def why_to_end(connection: AmqpConnection, now_s: float) -> str:
    """Return why a connection has to end now, "" when it may go on; `now_s` is monotonic.

    Who has shown a certificate may be silent as long as anybody: the Node SDK attaches its first link when it
    has something to send, and nothing before that says who it is.
    """
    if connection.closed:
        return ""
    if connection.is_unread and now_s - connection.write_paused_at_s > IDLE_TIMEOUT_S:
        return f"reads too slowly: {connection.transport.unsent_bytes} bytes wait for it"
    linkless_s = 0.0 if connection.linkless_since_s is None else now_s - connection.linkless_since_s
    if linkless_s > LINKLESS_LIMIT_S and not connection.clients:
        return "its last link has ended"
    if connection.is_known:
        return ""
    waited_s = 0.0 if connection.questions else now_s - connection.stranger_since_s
    is_late = waited_s > STRANGER_LIMIT_S or now_s - connection.opened_at_s > LONGEST_STRANGER_S
    if is_late and not connection.transport.certificates:
        return f"has not proved who it is within {now_s - connection.opened_at_s:.0f} s"
    return ""
