"""How long the MQTT head waits for a client: when it ends the connection, when it sends everything again.

Source: spec sheet hub-protocols.md sections 1.1, 1.4, 1.6 and 5.6
"""

from __future__ import annotations

from typing import Final

from actors.heads.intake import STORE_LIMIT_S
from actors.heads.mqtt_client import UNREAD, MqttClient
from actors.manifest.hub_environment import HubEnvironment
from actors.store.redelivery import wait_s

KEEP_ALIVE_FACTOR: Final = 1.5  # [MQTT-3.1.2-24]
LONGEST_REDELIVER_S: Final = 300.0  # between two repetitions of what a client does not acknowledge


def keep_alive_s(asked_s: int, environment: HubEnvironment) -> float:
    """Return for how long a client may be silent; there is an end for one without keep-alive, too."""
    longest_s = environment.max_keep_alive_timeout_s
    return min(asked_s * KEEP_ALIVE_FACTOR or longest_s, longest_s)


def why_to_end(client: MqttClient, now_s: float, wall_s: float, environment: HubEnvironment) -> str:
    """Return why a connection has to end now, "" when it may go on.

    Args:
        client: Its state.
        now_s: Monotonic.
        wall_s: Seconds since 1970-01-01 UTC.
        environment: With the limits.
    """
    if client.ends_s is not None and wall_s >= client.ends_s:
        return "what it proved itself with has expired: its token, or its certificate"
    if not client.client_id:
        limit_s = environment.connect_arrival_timeout_s
        return f"no CONNECT within {limit_s:.0f} s" if now_s - client.opened_at_s > limit_s else ""
    if client.unanswered and now_s - client.unanswered[0].sent_at_s > STORE_LIMIT_S:
        return f"a publish was not stored within {STORE_LIMIT_S:.0f} s"
    if UNREAD in client.holds and now_s - client.write_paused_at_s > client.keep_alive_s:
        return f"reads too slowly: {client.transport.unsent_bytes} bytes wait for it"
    if client.is_connected and not client.holds and now_s - client.seen_at_s > client.keep_alive_s:
        return f"silent for {now_s - client.seen_at_s:.0f} s"
    most = environment.max_outbound_retransmissions
    if most is not None and client.redeliveries >= most and wants_repetition(client, now_s, environment):
        return f"acknowledges nothing, though it was sent {most} times again"
    return ""


def wants_repetition(client: MqttClient, now_s: float, environment: HubEnvironment) -> bool:
    """Return whether everything in flight has to be sent once more."""
    if not client.in_flight or client.transport.unsent_bytes:
        return False
    oldest = next(iter(client.in_flight.values()))
    first_s = environment.message_ack_timeout_s
    limit_s = wait_s(client.redeliveries, first_s, max(first_s, LONGEST_REDELIVER_S))
    return now_s - max(oldest[3], client.acknowledged_at_s) > limit_s
