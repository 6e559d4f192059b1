"""Checks of the way to the cloud: clock, names, ports."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Final

from actors.upstream.protocol import UpstreamProtocol
from messaging.errors import ConfigError
from runtime.checks.judge import judge_clock
from runtime.checks.outcome import Outcome, error, ignored, ok, skipped, warning
from runtime.checks.scene import Scene
from runtime.config.settings import origin_of
from runtime.security.trust_bundle import certificates_in, pem
from runtime.upstream.clock import behind_s
from runtime.upstream.trust import Trust

NTP_LIMIT_S: Final = 3.0
CONNECT_LIMIT_S: Final = 5.0
_NTP: Final = struct.Struct("!4B3I4Q")
_NTP_EPOCH_S: Final = 2_208_988_800  # from 1900 to 1970
AMQP: Final = 5671
MQTT: Final = 8883
_P = UpstreamProtocol
# The ports that a protocol does not need. Source: security-daemon.md section 6.3. HTTPS is always needed: for
# the registry, whatever messages take.
_NOT_NEEDED: Final = {
    _P.AMQP: (MQTT,),
    _P.AMQP_ELSE_WS: (MQTT,),
    _P.AMQP_WS: (AMQP, MQTT),
    _P.MQTT: (AMQP,),
    _P.MQTT_WS: (AMQP, MQTT),
}


def clock_is_right(scene: Scene) -> Outcome:
    """Compare the clock of this machine with that of a time server, else of the IoT Hub."""
    server = scene.options.ntp_server
    try:
        return judge_clock(-ntp_offset_s(server), server)
    except OSError as exc:
        reason = exc.strerror or str(exc)
    cloud = scene.cloud
    if cloud is not None and not cloud.is_own:
        found = behind_s(cloud.host_name, cloud.https_port, Trust().context(cloud.ca_pem), scene.now_s)
        if found is not None:
            return judge_clock(-found, cloud.host_name)
    return warning(
        f"the clock of this machine cannot be compared: the time server {server} does not answer ({reason}); "
        "name one of your network with --ntp-server, or leave this out with --dont-run host-local-time"
    )


def ntp_offset_s(server: str) -> float:
    """Return by how much a time server is ahead of this machine, in seconds.

    Raises:
        OSError: it does not answer, or not as a time server does.

    Source: RFC 4330 section 5
    """
    host, _, port = server.rpartition(":") if ":" in server else (server, "", "123")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(NTP_LIMIT_S)
        asking.connect((host, int(port)))
        sent_s = time.time()
        asking.send(_NTP.pack(0x23, 0, 0, 0, 0, 0, 0, 0, 0, 0, _as_ntp(sent_s)))
        answer = asking.recv(256)
    came_s = time.time()
    if len(answer) < _NTP.size:
        raise OSError("it is no time server")
    _, stratum, *_, received, transmitted = _NTP.unpack_from(answer)
    if stratum == 0 or transmitted == 0:
        raise OSError("it does not know the time itself")
    return ((_from_ntp(received) - sent_s) + (_from_ntp(transmitted) - came_s)) / 2


def iothub_has_an_address(scene: Scene) -> Outcome:
    """Look the name of the IoT Hub up."""
    cloud = scene.cloud
    if cloud is None:
        return ignored("this edge belongs to no IoT Hub yet")
    if cloud.is_own and scene.agent is None:
        return skipped("the IoT Hub of this edge runs with it")
    try:
        found = socket.getaddrinfo(cloud.host_name, cloud.https_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        return error(
            f"the name of the IoT Hub, {cloud.host_name}, is not known here: {exc}; see to the name servers "
            "of this machine (`resolvectl status`, /etc/resolv.conf), or to the spelling of the name"
        )
    return ok(host_name=cloud.host_name, addresses=sorted({str(entry[4][0]) for entry in found}))


def iothub_port(port: int | None) -> Callable[[Scene], Outcome]:
    """Return a check of one port of the IoT Hub; None for that of HTTPS."""

    def look(scene: Scene) -> Outcome:
        cloud = scene.cloud
        assert cloud is not None  # it has an address
        if port is not None and port in _NOT_NEEDED[scene.protocol]:
            return skipped(f"not required: this edge speaks {scene.protocol.value} to the cloud")
        chosen = cloud.https_port if port is None else port
        problem = tls_problem(cloud.host_name, chosen, cloud.ca_pem)
        if problem is None:
            return ok(port=chosen)
        way_out = "see to the firewall and to the network of this machine"
        told = f"{cloud.host_name} port {chosen}: {problem}"
        if port == AMQP and scene.protocol is _P.AMQP_ELSE_WS:
            return warning(
                f"{told}; the edge takes AMQP through WebSocket on port 443 in its place", port=chosen
            )
        return error(f"{told}; {way_out}", port=chosen)

    return look


def dps_answers(scene: Scene) -> Outcome:
    """Connect to the provisioning service."""
    settings = scene.settings
    if settings is None or not settings.dps_id_scope:
        return ignored("this edge does not use the provisioning service")
    host, port = settings.dps_endpoint
    named = settings.cloud_ca
    trusted = "" if named is None else pem(certificates_in(named, origin_of(settings, "cloud_ca")))
    problem = tls_problem(host, port, trusted)
    if problem is None:
        return ok(host=host, port=port)
    return error(f"{host} port {port}: {problem}; see to the firewall and to the network of this machine")


def tls_problem(host: str, port: int, ca_pem: str) -> str | None:
    """Return why there is no TLS to be had with a host; None when there is."""
    try:
        context = Trust().context(ca_pem)
        with (
            socket.create_connection((host, port), CONNECT_LIMIT_S) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return None
    except ConfigError as exc:
        return str(exc)
    except ssl.SSLCertVerificationError as exc:
        return f"its certificate is not trusted ({exc.verify_message})"
    except ssl.SSLError as exc:
        return f"it does not speak TLS there ({exc.reason})"
    except TimeoutError:
        return f"no answer within {CONNECT_LIMIT_S:g} s"
    except (OSError, UnicodeError) as exc:
        return str(getattr(exc, "strerror", None) or exc)


def _as_ntp(at_s: float) -> int:
    return int((at_s + _NTP_EPOCH_S) * 2**32) & (2**64 - 1)


def _from_ntp(number: int) -> float:
    return number / 2**32 - _NTP_EPOCH_S
