"""Checks of the edge that runs: its processes, what it listens on, its modules, what the cloud says of it."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Final

from actors.addresses import METRICS_OF_AGENT, UPSTREAM
from actors.agent.registry import CONNECTING, NO_CLOUD, REGISTRY, GetProvisioning, ProvisioningState
from actors.manifest import agent_environment
from actors.manifest.hub_environment import HubEnvironment
from actors.manifest.module_spec import EDGE_HUB
from actors.upstream.link_state import GetLinkState, LinkState
from messaging.errors import EdgeError, EnvironmentFault
from messaging.lifecycle import Describe, Described
from messaging.version import VERSION
from runtime.agent import hub_sockets, metrics_sockets
from runtime.checks.judge import judge_modules
from runtime.checks.outcome import Outcome, error, ignored, ok, skipped, warning, worst
from runtime.checks.scene import Scene
from runtime.config.listen_addresses import ListenAddress, amqp_addresses, metrics_addresses, web_addresses
from runtime.daemon.management_server import management_socket
from runtime.machine import process_table
from runtime.modules.process_runtime import RUN_MARKER
from runtime.net import amqp_engine, listening_sockets
from runtime.net.https_client import HttpsClient, Service
from runtime.net.listening_sockets import Use
from runtime.security.certificates import CA_FILE

HANDSHAKE_LIMIT_S: Final = 5.0
ANSWER_LIMIT_S: Final = 5.0
NOT_RUNNING: Final = "no edge runs"
WITH_TLS: Final = {Use.MQTT: "MQTT", Use.AMQP: "AMQP", Use.WEB: "HTTPS"}


def management_answers(scene: Scene) -> Outcome:
    """Ask the edge for its modules over the management socket, as `iotedge list` does."""
    if scene.agent is None:
        return _not_running(scene)
    path = management_socket(scene.run.path)
    with HttpsClient(Service("management", socket=path), ANSWER_LIMIT_S) as client:
        try:
            listed = client.call("GET", "/modules?api-version=2020-07-07").body["modules"]
        except EdgeError as exc:
            return error(
                f"the edge (pid {scene.agent.pid}) does not answer at {path}: {exc}; it may be starting; "
                "see `edge-actors system status`"
            )
    return ok(uri=f"unix://{path}", modules=len(listed))


def version_is_installed(scene: Scene) -> Outcome:
    """Compare the version of the edge that runs with the one that is installed."""
    if scene.agent is None:
        return skipped(NOT_RUNNING)
    path = management_socket(scene.run.path)
    with HttpsClient(Service("management", socket=path), ANSWER_LIMIT_S) as client:
        running = client.call("GET", "/systeminfo?api-version=2020-07-07").body["version"]
    if running != VERSION:
        return warning(
            f"version {running} runs and {VERSION} is installed; start the edge again to have the new one",
            running=running,
            installed=VERSION,
        )
    return ok(version=VERSION)


def modules_run(scene: Scene) -> Outcome:
    """See how the modules are, and what became of the deployment."""
    if scene.agent is None:
        return skipped(NOT_RUNNING)
    modules, deployment = scene.listing
    found = judge_modules(modules)
    if deployment["code"] not in (200, 406):
        why = f"{deployment['code']}, {deployment['description']}"
        told = f"the deployment that came last is not in force: {why}; correct it in the IoT Hub"
        return worst((found, warning(told)))
    return found


def hub_listens(scene: Scene) -> Outcome:
    """Connect to everything that the hub listens on; when it does not run, see whether its ports are free."""
    if scene.agent is None:
        return _ports_are_free(scene)
    hub = next((module for module in scene.modules if module["name"] == "edgeHub"), None)
    if hub is None:
        return ignored("there is no edgeHub in the deployment")
    if not hub["pid"]:
        return error("edgeHub does not run; `edge-actors explain edgeHub` says why, and what to do")
    places = listening_sockets.listening_of(hub["pid"])
    if not places:
        return skipped(f"what edgeHub (pid {hub['pid']}) listens on cannot be seen by this user")
    return worst([_handshake(scene, use, place) for use, place in places])


def metrics_can_be_had(scene: Scene) -> Outcome:
    """See who has the ports at which Prometheus asks hub and agent: they do without one that is taken."""
    settings = scene.settings
    assert settings is not None
    wanted = [
        (who, address, setting)
        for who, port, setting in (
            ("edgeHub", _hub_metrics_port(scene), hub_sockets.SETTINGS[Use.METRICS]),
            ("edgeAgent", _agent_metrics_port(scene), metrics_sockets.SETTING),
        )
        if port is not None
        for address in metrics_addresses(settings, port)
    ]
    if not wanted:
        return ignored("metrics are switched off in the deployment")
    return worst([_has_port(scene, *one) for one in wanted])


def _hub_metrics_port(scene: Scene) -> int | None:
    if scene.agent is not None and not any(module["name"] == EDGE_HUB for module in scene.modules):
        return None
    environment = HubEnvironment() if scene.hub_config is None else scene.hub_config.environment
    return environment.metrics_port if environment.serves_metrics else None


def _agent_metrics_port(scene: Scene) -> int | None:
    if scene.agent is None:
        kept = scene.deployment
        environment = agent_environment.DEFAULTS if kept is None else kept.agent_environment
        return environment.metrics_port if environment.metrics_enabled else None
    from runtime.cli.running import running_edge

    with running_edge(scene.home.path) as edge:
        port: int | None = edge.ask(METRICS_OF_AGENT, Describe(), Described).values["port"]
    return port


def _has_port(scene: Scene, who: str, place: ListenAddress, setting: str) -> Outcome:
    ours = set()
    if scene.agent is not None:
        ours = {scene.agent.pid, *(module["pid"] for module in scene.modules if module["name"] == EDGE_HUB)}
    if listening_sockets.holder_pid(place) in ours:
        return ok(**{who: f"http://{place}"})
    try:
        for bound in listening_sockets.bind([place], setting):
            bound.close()
    except EnvironmentFault as exc:
        return warning(f"metrics of {who}: {exc}")
    if scene.agent is None:
        return ok(**{who: f"{place} is free"})
    return warning(
        f"metrics of {who}: nobody listens on {place}; it was taken when the edge was started, so start the "
        "edge again"
    )


def cloud_accepts_identity(scene: Scene) -> Outcome:
    """Ask the edge that runs, else the IoT Hub itself, whether this device is known there and let in."""
    cloud = scene.cloud
    if cloud is None or scene.provisioned is None:
        return ignored("this edge belongs to no IoT Hub yet")
    if scene.agent is None:
        return _ask_cloud(scene)
    from runtime.cli.running import running_edge

    with running_edge(scene.home.path) as edge:
        state = edge.ask(REGISTRY, GetProvisioning(), ProvisioningState)
        link = edge.ask(UPSTREAM, GetLinkState(), LinkState)
    info = {
        "host_name": state.host_name,
        "device_id": state.device_id,
        "state": state.state,
        "link": link.is_up,
    }
    if state.state == NO_CLOUD:
        return ignored("this edge belongs to no IoT Hub yet")
    if not link.on:
        return warning("the link to the cloud is switched off: `edge-actors upstream on`", **info)
    if state.state == CONNECTING:
        return warning("the IoT Hub was not reached since the edge was started; it is tried again", **info)
    if state.reason:
        return error(state.reason, **info)
    if not link.is_up:
        return error(
            f"the hub has no link to {link.host_name}: {link.reason}; see `edge-actors upstream status`",
            **info,
        )
    problems = [warning(f"module '{name}': {reason}") for name, reason in state.problems]
    return worst([ok(**info), *problems])


def _ask_cloud(scene: Scene) -> Outcome:
    import time

    from actors.agent.registry_waits import explain, is_refusal
    from runtime.net.https_client import CloudError
    from runtime.upstream.registry_client import RegistryClient

    cloud, found = scene.cloud, scene.provisioned
    assert cloud is not None
    assert found is not None
    if cloud.is_own:
        return skipped("the IoT Hub of this edge runs with it")
    service = Service(found.host_name, cloud.https_port, cloud.ca_pem, identity=found.identity)
    with HttpsClient(service) as client:
        registry = RegistryClient(
            client, client, found.host_name, found.device_id, found.device_key, time.time
        )
        try:
            modules = registry.modules()
        except CloudError as exc:
            told = explain(exc.fault, found.device_id, found.host_name)
            return error(told, refused=is_refusal(exc.fault))
    return ok(host_name=found.host_name, device_id=found.device_id, modules=len(modules))


def _not_running(scene: Scene) -> Outcome:
    home = scene.home.path
    left = process_table.find({RUN_MARKER: str(scene.run.path)})
    if left:
        return error(
            f"the edge on home {home} has died, and its modules go on without it; start it again: "
            f"`edge-actors run --home {home}`",
            *(f"pid {process.pid}, {process_table.command_of(process.pid)}" for process in left),
        )
    return warning(f"no edge runs on home {home}; start one with `edge-actors run --home {home}`")


def _ports_are_free(scene: Scene) -> Outcome:
    settings = scene.settings
    assert settings is not None
    wanted = [(Use.MQTT, one, True) for one in settings.listen]
    if amqp_engine.is_installed():
        wanted += [(Use.AMQP, one, "amqp_listen" in settings.given) for one in amqp_addresses(settings)]
    wanted += [(Use.WEB, one, "web_listen" in settings.given) for one in web_addresses(settings)]
    found = []
    for use, place, is_needed in wanted:
        try:
            for bound in listening_sockets.bind([place], hub_sockets.SETTINGS[use]):
                bound.close()
            found.append(ok(**{WITH_TLS[use]: f"{place} is free"}))
        except EnvironmentFault as exc:
            judged = error if is_needed else warning
            found.append(judged(f"{WITH_TLS[use]}: {exc}"))
    return worst(found)


def _handshake(scene: Scene, use: Use, place: ListenAddress) -> Outcome:
    """Connect as a client that trusts the edge CA and calls the hub by its host name."""
    address = place.address
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    config = scene.hub_config
    name = config.host_names[0] if config is not None and config.host_names else "localhost"
    speaks = WITH_TLS.get(use, use.value)
    where = f"{speaks} on {place}"
    try:
        with socket.create_connection((str(address), place.port), HANDSHAKE_LIMIT_S) as connection:
            if use not in WITH_TLS:
                return ok(**{speaks: str(place)})
            with _trusting(scene).wrap_socket(connection, server_hostname=name):
                return ok(**{speaks: str(place)})
    except ssl.SSLCertVerificationError as exc:
        return error(
            f"{where}: clients that call the hub {name!r} refuse its certificate ({exc.verify_message}); "
            "start the edge again, and see `edge-actors logs edgeHub`"
        )
    except TimeoutError:
        return error(
            f"{where}: the hub takes connections but does not answer; `edge-actors restart edgeHub`, and see "
            "`edge-actors logs edgeHub`"
        )
    except OSError as exc:
        return error(f"{where}: {exc.strerror or exc}; see `edge-actors logs edgeHub`")


def _trusting(scene: Scene) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=edge_ca_pem(scene))
    return context


def edge_ca_pem(scene: Scene) -> str:
    """Return the certificate of the edge CA, without its key."""
    text = (scene.home.certificates / CA_FILE).read_text(encoding="ascii")
    return text[text.index("-----BEGIN CERTIFICATE-----") :]
