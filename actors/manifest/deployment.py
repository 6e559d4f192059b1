"""Turns a deployment manifest into values, or says exactly what is wrong with it.

Accepted are both file forms, `{"modulesContent": …}` and `{"content": {"modulesContent": …}}`, and the
deprecated `moduleContent`. `$edgeAgent` and `$edgeHub` are read field by field; the desired properties of
every other module are kept as they are for its twin.

Source: spec sheet agent.md sections 1.1 to 1.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from actors.manifest.agent_environment import DEFAULTS, AgentEnvironment, parse_agent_environment
from actors.manifest.hub_environment import NOTHING_READ, ReadEnvironment
from actors.manifest.hub_manifest import HubSettings, parse_hub
from actors.manifest.hub_variables import parse_environment
from actors.manifest.json_reader import JsonObject, Node, Path, Source, load, plain, quoted
from actors.manifest.module_manifest import MODULE_NAME, parse_edge_agent, parse_edge_hub, parse_module
from actors.manifest.module_spec import EDGE_AGENT, EDGE_HUB, ModuleSpec
from actors.manifest.registries import RegistryCredential
from actors.manifest.schema_version import agent_schema_version
from actors.upstream.protocol import VARIABLE as UPSTREAM_PROTOCOL
from actors.upstream.protocol import UpstreamProtocol, parse_protocol
from messaging.nearest import did_you_mean

_IDENTITIES = ("$edgeAgent", "$edgeHub")
_DESIRED = "properties.desired"


class RuntimeSettings(msgspec.Struct, frozen=True):
    """`runtime.settings`. The first two are only repeated in reports, as the reference does."""

    min_docker_version: str = ""
    logging_options: str = ""
    registry_credentials: Mapping[str, RegistryCredential] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A whole deployment manifest.

    `twins` holds desired properties by module, `$edgeHub` included; `edge_agent` and `edge_hub` are None when
    the manifest does not name them. `warnings` are lines for the user: what is ignored, spelled the old way,
    without effect.
    """

    schema_version: str
    runtime: RuntimeSettings
    edge_agent: ModuleSpec | None
    edge_hub: ModuleSpec | None
    modules: Mapping[str, ModuleSpec]
    hub: HubSettings
    twins: Mapping[str, Mapping[str, Any]] = field(repr=False)  # may hold secrets
    warnings: tuple[str, ...] = ()
    hub_environment: ReadEnvironment = NOTHING_READ
    agent_protocol: UpstreamProtocol | None = None  # how edgeAgent is to speak to the cloud
    agent_environment: AgentEnvironment = DEFAULTS

    @property
    def supervised(self) -> dict[str, ModuleSpec]:
        """Every module that gets a supervisor: edgeHub and the user's; edgeAgent cannot watch itself."""
        hub = {} if self.edge_hub is None else {EDGE_HUB: self.edge_hub}
        return {**hub, **self.modules}


def parse_deployment(content: bytes | str, file_name: str) -> Deployment:
    """Parse the deployment manifest `content`; `file_name` is what errors and warnings call it.

    Raises:
        DeploymentError: What is wrong: file, JSON path, value, what is allowed and the nearest valid name.
            Its `code` is 400, 412 for a schemaVersion that is not supported, 417 for empty properties.
    """
    source = Source(file_name)
    contents = _modules_content(load(content, source))
    entries: dict[str, Node] = {}
    for name, entry in contents.entries():
        _check_identity(name, entry)
        entries[name] = _desired(entry)
    if "$edgeAgent" not in entries:
        raise contents.error('"$edgeAgent" is missing; it says which modules to run')
    agent = entries["$edgeAgent"]
    if not agent.value:
        raise agent.error("the desired properties are empty; there is nothing to deploy", code=417)
    fields = agent.properties(("schemaVersion", "runtime", "systemModules", "modules", "integrity"))
    schema_version = agent_schema_version(fields.need("schemaVersion", '"schemaVersion": "1.1"'))
    runtime = _runtime(fields.need("runtime", '"runtime": {"type": "docker", "settings": {}}'))
    system = fields.need("systemModules", '"systemModules": {"edgeAgent": {…}, "edgeHub": {…}}')
    system_fields = system.properties((EDGE_AGENT, EDGE_HUB))
    agent_node, hub_node = system_fields.get(EDGE_AGENT), system_fields.get(EDGE_HUB)
    edge_agent = None if agent_node is None else parse_edge_agent(agent_node)
    edge_hub = None if hub_node is None else parse_edge_hub(hub_node)
    agent_protocol, agent_environment = None, DEFAULTS
    if agent_node is not None and edge_agent is not None:
        agent_protocol = _agent_protocol(agent_node, edge_agent.env)
        agent_environment, problems = parse_agent_environment(edge_agent.env)
        for name, problem in problems:
            agent_node.warn(f"its variable '{name}': {problem}")
    modules_node = fields.get("modules")
    modules = dict(_modules(modules_node)) if modules_node is not None else {}
    if (integrity := fields.get("integrity")) is not None:
        integrity.warn("has no effect: manifest signatures are not checked")
    if "$edgeHub" in entries:
        hub = parse_hub(entries["$edgeHub"])
    else:
        contents.warn("without '$edgeHub' there are no routes, so no message goes anywhere")
        hub = HubSettings()
    return Deployment(
        schema_version=schema_version,
        runtime=runtime,
        edge_agent=edge_agent,
        edge_hub=edge_hub,
        modules=modules,
        hub=hub,
        twins=_twins(entries, modules),
        warnings=tuple(source.warnings),
        hub_environment=parse_environment({} if edge_hub is None else edge_hub.env),
        agent_protocol=agent_protocol,
        agent_environment=agent_environment,
    )


def _agent_protocol(agent: Node, environment: Mapping[str, str]) -> UpstreamProtocol | None:
    """Return how edgeAgent is to speak to the cloud. Source: spec sheet agent.md section 8"""
    for name, value in environment.items():
        if name.casefold() != UPSTREAM_PROTOCOL.casefold() or not value.strip():
            continue
        try:
            return parse_protocol(value)
        except ValueError as exc:
            agent.warn(f"its variable '{name}' is {quoted(value)}; allowed: {exc}. It has no effect")
    return None


def _modules_content(root: Node) -> Node:
    """Find `modulesContent` in any of the file forms."""
    form = '{"modulesContent": {…}}'
    if not isinstance(root.value, dict):
        raise root.expected(f"an object {form}")
    if "content" in root.value and not root.value.keys() & {"modulesContent", "moduleContent"}:
        root = root.child("content", root.value["content"])
        if not isinstance(root.value, dict):
            raise root.expected(f"an object {form}")
    if "modulesContent" in root.value:
        return root.child("modulesContent", root.value["modulesContent"])
    if "moduleContent" in root.value:
        old = root.child("moduleContent", root.value["moduleContent"])
        old.warn("deprecated spelling; write 'modulesContent'")
        return old
    similar = [key for key in root.value if did_you_mean(key, ["modulesContent"])]
    hint = f"is {quoted(similar[0])} a misspelling of it?" if similar else f"a deployment manifest is {form}"
    raise root.error(f'"modulesContent" is missing; {hint}')


def _check_identity(name: str, entry: Node) -> None:
    if name in _IDENTITIES:
        return
    for identity in _IDENTITIES:
        if name.lstrip("$").casefold() == identity.lstrip("$").casefold():
            raise entry.error(f"write the name as '{identity}'")
    if not MODULE_NAME.fullmatch(name):
        raise entry.error(
            "not a module name; allowed: $edgeAgent, $edgeHub, or 1 to 128 letters, digits, '-' and '_'"
            f"{did_you_mean(name, _IDENTITIES)}"
        )


def _desired(entry: Node) -> Node:
    """Return the desired properties of one entry, with its sub-paths laid over them in the order written.

    Sub-paths are how layered deployments change a part of what lies below them. IoT Hub merges the layers
    before an edge sees them; a file on the edge has nothing below it but itself.
    """
    desired: Node | None = None
    layers: list[Node] = []
    for key, node in entry.entries():
        if key == _DESIRED:
            desired = node
        elif key.startswith(f"{_DESIRED}."):
            layers.append(node)
        else:
            node.warn("unknown property is ignored", key, [_DESIRED])
    if desired is None and layers:
        raise layers[0].error(
            "sets a part of the desired properties, and the file has no 'properties.desired' to lay it over; "
            "merge the layered deployment with its base first"
        )
    if desired is None:
        raise entry.error(f'"{_DESIRED}" is missing; write "{_DESIRED}": {{…}}')
    if not isinstance(desired.value, dict):
        raise desired.expected("an object")
    for layer in layers:
        _lay_over(desired, layer)
    return desired


def _lay_over(desired: Node, layer: Node) -> None:
    """Set the part of `desired` that `layer` names, in place, and note where it was written."""
    keys = str(layer.path[-1]).removeprefix(f"{_DESIRED}.").split(".")
    if "" in keys:
        raise layer.error("a part of the path is empty")
    target = desired.value
    for depth, key in enumerate(keys[:-1], start=1):
        target = target.setdefault(key, JsonObject([]))
        if not isinstance(target, dict):
            raise layer.error(f"{quoted('.'.join(keys[:depth]))} in '{_DESIRED}' is not an object")
    target[keys[-1]] = layer.value
    path: Path = (*desired.path, *keys)
    written_at = desired.source.written_at
    for replaced in [place for place in written_at if place[: len(path)] == path]:
        del written_at[replaced]
    written_at[path] = layer.path


def _runtime(node: Node) -> RuntimeSettings:
    fields = node.properties(("type", "settings"))
    kind = fields.need("type", '"type": "docker"')
    if kind.value != "docker":
        raise kind.not_one_of(["docker"])
    settings_node = fields.get("settings")
    if settings_node is None:
        return RuntimeSettings()
    settings = settings_node.properties(("minDockerVersion", "loggingOptions", "registryCredentials"))
    credentials = settings.get("registryCredentials")
    return RuntimeSettings(
        min_docker_version=settings.text("minDockerVersion"),
        logging_options=settings.text("loggingOptions"),
        registry_credentials={name: _credential(entry) for name, entry in credentials.entries()}
        if credentials is not None
        else {},
    )


def _credential(node: Node) -> RegistryCredential:
    names = ("address", "username", "password")
    fields = node.properties(names)
    parts = [fields.need(name, f'"{name}": "…"') for name in names]
    for part in parts:
        if not part.text().strip():
            raise part.error("must not be blank")
    return RegistryCredential(*(part.text() for part in parts))


def _modules(node: Node) -> Iterable[tuple[str, ModuleSpec]]:
    for name, entry in node.entries():
        yield name, parse_module(name, entry)


def _twins(entries: Mapping[str, Node], modules: Mapping[str, ModuleSpec]) -> dict[str, Mapping[str, Any]]:
    twins = {name: plain(entry.value) for name, entry in entries.items() if name != "$edgeAgent"}
    for name in twins:
        if name not in modules and name not in _IDENTITIES:
            text = f"kept for the twin of '{name}', which is no module of this deployment"
            entries[name].warn(text, name, modules)
    return twins
