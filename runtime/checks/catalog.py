"""All checks in their order, under the names that the reference gives them where it has them.

Source: spec sheets security-daemon.md section 6.3, observability.md section 10.2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runtime.checks import cloud_checks, engine_checks, home_checks, running_checks
from runtime.checks.outcome import Check, Outcome, Section, ignored
from runtime.checks.scene import Scene
from runtime.net.listening_sockets import Use

_ENGINE: Final = ("container-engine-uri",)
_SETTINGS: Final = ("aziot-edged-config-well-formed",)


def _not_here(reason: str) -> Callable[[Scene], Outcome]:
    return lambda scene: ignored(reason)


_NO_PARTS = _not_here("keys, certificates and identities are parts of the edge, and no services beside it")
_ON_HOST = _not_here("hub and agent are processes of this machine, so no container has to reach the cloud")
_NOT_NESTED = _not_here("this edge is no child of another one")

SECTIONS: Final = (
    Section(
        "Configuration checks",
        (
            Check(
                "aziot-edged-config-well-formed",
                "settings are well-formed",
                home_checks.settings_are_well_formed,
            ),
            Check(
                "config-up-to-date",
                "settings are those in force",
                home_checks.settings_are_in_force,
                _SETTINGS,
            ),
            Check("edge-home", "home is there and private", home_checks.home_is_usable),
            Check("hostname", "host name is one of this machine", home_checks.host_name_is_ours, _SETTINGS),
            Check(
                "host-local-time", "clock of this machine is right", cloud_checks.clock_is_right, _SETTINGS
            ),
            Check("edge-identities", "identities are kept", home_checks.identities_are_kept, ("edge-home",)),
            Check(
                "certs-read",
                "certificates can be read",
                home_checks.certificates_are_read,
                (*_SETTINGS, "edge-home"),
            ),
            Check(
                "certs-match-private-keys",
                "certificates and private keys belong together",
                home_checks.keys_belong_to_certificates,
                ("certs-read",),
            ),
            Check(
                "edge-ca-expiry",
                "edge CA is good for a while",
                home_checks.edge_ca_lasts,
                ("certs-match-private-keys",),
            ),
            Check(
                "edge-hub-certificate-expiry",
                "certificate of the hub is good for a while",
                home_checks.hub_certificate_lasts,
                ("certs-match-private-keys",),
            ),
            Check(
                "identity-certificate-expiry",
                "certificate of this device is good for a while",
                home_checks.identity_certificate_lasts,
                _SETTINGS,
            ),
            Check("proxy-settings", "no proxy is expected", home_checks.proxy_is_not_expected),
            Check("edge-disk-space", "there is room on the disk", home_checks.there_is_space),
            Check(
                "edge-agent-storage-mounted-from-host",
                "home outlasts a reboot",
                home_checks.home_outlasts_a_reboot,
            ),
            Check(
                "edge-hub-storage-mounted-from-host",
                "messages outlast a reboot and a power cut",
                home_checks.messages_outlast_a_reboot,
            ),
            Check(
                "edge-messages-accounted",
                "every message is accounted for",
                home_checks.messages_are_accounted_for,
                ("edge-hub-storage-mounted-from-host",),
            ),
        ),
    ),
    Section(
        "Checks of the edge that runs",
        (
            Check(
                "connect-management-uri", "edge answers its management API", running_checks.management_answers
            ),
            Check(
                "aziot-edge-version",
                "version that runs is the one installed",
                running_checks.version_is_installed,
                ("connect-management-uri",),
            ),
            Check(
                "edge-modules-running",
                "modules run as the deployment says",
                running_checks.modules_run,
                ("connect-management-uri",),
            ),
            Check(
                "edge-hub-ports",
                "hub can be reached on its ports",
                running_checks.hub_listens,
                (*_SETTINGS, "connect-management-uri"),
            ),
            Check(
                "edge-metrics-ports",
                "metrics of hub and agent can be had",
                running_checks.metrics_can_be_had,
                (*_SETTINGS, "connect-management-uri"),
            ),
        ),
    ),
    Section(
        "Container engine checks",
        (
            Check("container-engine-uri", "container engine answers", engine_checks.engine_answers),
            Check(
                "container-engine-version",
                "container engine is new enough",
                engine_checks.engine_is_new_enough,
                _ENGINE,
            ),
            Check(
                "container-engine-dns",
                "container engine names DNS servers",
                engine_checks.engine_names_dns,
                _ENGINE,
            ),
            Check(
                "container-engine-logrotate",
                "logs of containers are rotated and can be read",
                engine_checks.engine_rotates_logs,
                _ENGINE,
            ),
            Check(
                "container-local-time",
                "clock in containers is that of this machine",
                engine_checks.look_from_container,
                (*_ENGINE, "connect-management-uri", "certs-read"),
            ),
            *(
                Check(
                    f"container-connect-hub-{name}",
                    f"containers reach the hub by {text}",
                    engine_checks.container_reaches_hub(use),
                    ("container-local-time",),
                )
                for name, text, use in (
                    ("amqp", "AMQP", Use.AMQP),
                    ("https", "HTTPS and WebSocket", Use.WEB),
                    ("mqtt", "MQTT", Use.MQTT),
                )
            ),
        ),
    ),
    Section(
        "Connectivity checks",
        (
            Check("host-resolve-iothub", "name of the IoT Hub is known", cloud_checks.iothub_has_an_address),
            *(
                Check(
                    f"host-connect-iothub-{name}",
                    f"IoT Hub can be reached by {name.upper()}",
                    cloud_checks.iothub_port(port),
                    ("host-resolve-iothub",),
                )
                for name, port in (
                    ("amqp", cloud_checks.AMQP),
                    ("https", None),
                    ("mqtt", cloud_checks.MQTT),
                )
            ),
            Check(
                "host-connect-dps-endpoint",
                "provisioning service can be reached",
                cloud_checks.dps_answers,
                _SETTINGS,
            ),
            Check(
                "edge-cloud-identity",
                "IoT Hub knows this device and lets it in",
                running_checks.cloud_accepts_identity,
                ("host-connect-iothub-https",),
            ),
        ),
    ),
    Section(
        "Checks of other systems",  # whoever reads the JSON of all kinds of edges finds them
        (
            *(
                Check(f"{part}d-{what}", f"{part}d: {what.replace('-', ' ')}", _NO_PARTS)
                for what in ("config-well-formed", "running")
                for part in ("key", "cert", "tpm", "identity")
            ),
            *(
                Check(
                    f"est-{what}", f"EST: {what.replace('-', ' ')}", _not_here("this edge asks no EST server")
                )
                for what in ("identity-and-bootstrap-certificate-expiry", "server-https")
            ),
            Check("container-engine-ipv6", "container engine has IPv6", _not_here("nothing asks for it")),
            Check("check-agent-image", "image of edgeAgent can be pulled", _ON_HOST),
            Check("parent_hostname", "parent host name is well-formed", _NOT_NESTED),
            Check("container-resolve-parent-hostname", "containers know the parent", _NOT_NESTED),
            *(
                Check(
                    f"container-{network}connect-upstream-{name}",
                    f"containers reach the cloud by {name.upper()}",
                    _ON_HOST,
                )
                for network in ("default-", "")
                for name in ("amqp", "https", "mqtt")
            ),
        ),
    ),
)


def all_checks() -> tuple[tuple[Section, Check], ...]:
    """Return every check with its section."""
    return tuple((section, check) for section in SECTIONS for check in section.checks)
