"""A server's end of a connection whose client was let in, and packets in runs told singly."""

from __future__ import annotations

from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import ConnAck, Connect, Packet, PubAck, PubAcks, Publishes, ReturnCode


def connected(max_packet_bytes: int = 262_144, *, takes_runs: bool = True) -> ServerConnection:
    """Return a connection that has its CONNACK."""
    server = ServerConnection(max_packet_bytes, takes_runs=takes_runs)
    server.receive_data(Connect("d").encode())
    server.send(ConnAck(ReturnCode.ACCEPTED))
    server.authenticated()
    return server


def spread(packets: list[Packet]) -> list[Packet]:
    """Return each packet of a run by itself."""
    found: list[Packet] = []
    for packet in packets:
        if isinstance(packet, Publishes):
            found += packet.singly()
        elif isinstance(packet, PubAcks):
            found += map(PubAck, packet.packet_ids)
        else:
            found.append(packet)
    return found
