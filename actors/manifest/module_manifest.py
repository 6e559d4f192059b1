"""Reads one module of a deployment manifest: a container, a process, or edgeAgent and edgeHub.

A process is what the reference does not have:
    {"type": "process", "settings": {"command": ["python3", "sensor.py"], "workingDirectory": "sensor"}, …}
`command` may also be one string, split as a POSIX shell would.

Source: spec sheet agent.md sections 1.2 and 1.3.
"""

from __future__ import annotations

import re
import shlex

from actors.manifest.create_options import is_chunk, parse_create_options
from actors.manifest.images import normalize_image
from actors.manifest.json_reader import JsonFloat, Node, Properties, shown
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_CLOUD,
    EDGE_HUB,
    LAST_STARTUP_ORDER,
    BuiltInSettings,
    DesiredStatus,
    DockerSettings,
    ImagePullPolicy,
    ModuleSettings,
    ModuleSpec,
    ProcessSettings,
    RestartPolicy,
)

# The edge sets these for every module; a manifest that sets one would cut its module off.
# Source: spec sheet agent.md section 4.2, decision D7.
INJECTED_ENV = frozenset(
    {
        "IOTEDGE_APIVERSION",
        "IOTEDGE_AUTHSCHEME",
        "IOTEDGE_DEVICEID",
        "IOTEDGE_GATEWAYHOSTNAME",
        "IOTEDGE_IOTHUBHOSTNAME",
        "IOTEDGE_MODULEGENERATIONID",
        "IOTEDGE_MODULEID",
        "IOTEDGE_WORKLOADURI",
    }
)

MODULE_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ENV_NAME = re.compile(r"[^\s+#$.=\x00]+")
_STATUS = '"status": "running" or "stopped"'
_FIELDS = (
    "type",
    "status",
    "restartPolicy",
    "imagePullPolicy",
    "startupOrder",
    "version",
    "env",
    "settings",
    "configuration",  # added by IoT Hub to what a deployment set; of no use here
)


def parse_module(name: str, node: Node) -> ModuleSpec:
    """Read one entry of `modules`.

    Raises:
        DeploymentError: The name or a field is not allowed or missing.
    """
    if name.casefold() in (EDGE_AGENT.casefold(), EDGE_HUB.casefold()):
        raise node.error(f"'{name}' belongs under systemModules; a module of your own needs another name")
    if name.casefold() == EDGE_CLOUD.casefold():
        raise node.error(f"'{name}' is what this edge calls its IoT Hub stand-in; choose another name")
    if not MODULE_NAME.fullmatch(name):
        raise node.error("not a module name; allowed: 1 to 128 letters, digits, '-' and '_'")
    fields = node.properties(_FIELDS)
    kind = fields.need("type", '"type": "docker" or "process"')
    if kind.value not in ("docker", "process"):
        raise kind.not_one_of(["docker", "process"])
    settings = fields.need("settings", '"settings": {…}')
    return _spec(
        name,
        fields,
        settings=_process(settings) if kind.value == "process" else _docker(settings),
        status=fields.need("status", _STATUS).choice(DesiredStatus),
        policy=_policy(fields, RestartPolicy.ON_UNHEALTHY),
        startup_order=_startup_order(fields),
    )


def parse_edge_agent(node: Node) -> ModuleSpec:
    """Read `systemModules.edgeAgent`. Its status, policy and order are fixed, whatever is written."""
    fields = _built_in(node)
    return _spec(
        EDGE_AGENT,
        fields,
        settings=_built_in_settings(fields),
        status=DesiredStatus.RUNNING,
        policy=RestartPolicy.ALWAYS,
        startup_order=0,
    )


def parse_edge_hub(node: Node) -> ModuleSpec:
    """Read `systemModules.edgeHub`."""
    fields = _built_in(node)
    return _spec(
        EDGE_HUB,
        fields,
        settings=_built_in_settings(fields),
        status=fields.need("status", _STATUS).choice(DesiredStatus),
        policy=_policy(fields, RestartPolicy.ALWAYS),
        startup_order=_startup_order(fields),
    )


def _built_in(node: Node) -> Properties:
    fields = node.properties(_FIELDS)
    kind = fields.need("type", '"type": "docker"')
    if kind.value != "docker":
        raise kind.not_one_of(["docker"])
    return fields


def _spec(
    name: str,
    fields: Properties,
    *,
    settings: ModuleSettings,
    status: DesiredStatus,
    policy: RestartPolicy,
    startup_order: int,
) -> ModuleSpec:
    pull, env = fields.given("imagePullPolicy"), fields.get("env")
    return ModuleSpec(
        name=name,
        settings=settings,
        status=status,
        restart_policy=policy,
        image_pull_policy=ImagePullPolicy.ON_CREATE if pull is None else pull.choice(ImagePullPolicy),
        startup_order=startup_order,
        version=fields.text("version"),
        env={} if env is None else _env(env),
    )


def _policy(fields: Properties, default: RestartPolicy) -> RestartPolicy:
    node = fields.given("restartPolicy")
    return default if node is None else node.choice(RestartPolicy)


def _startup_order(fields: Properties) -> int:
    node = fields.given("startupOrder")
    return LAST_STARTUP_ORDER if node is None else node.integer(0, LAST_STARTUP_ORDER)


def _env(node: Node) -> dict[str, str]:
    env: dict[str, str] = {}
    for name, entry in node.entries():
        if not _ENV_NAME.fullmatch(name):
            raise entry.error("not a name for a variable; blanks and + # $ . = are not allowed")
        if name in INJECTED_ENV:
            raise entry.error("the edge itself sets this variable; remove it or choose another name")
        if not isinstance(entry.value, dict):
            raise entry.expected('an object {"value": …}')
        value = entry.properties(("value",)).get("value")
        env[name] = "" if value is None else _env_text(value)
    return env


def _env_text(node: Node) -> str:
    """Return a value as it is written in the manifest: 1.50 stays 1.50."""
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    if isinstance(node.value, JsonFloat):
        return node.value.text
    if isinstance(node.value, int):
        return str(node.value)
    text = node.text("a string, a number, true or false")
    if "\0" in text:
        raise node.error("a NUL character cannot stand in an environment variable")
    return text


def _docker(node: Node) -> DockerSettings:
    fields = _image_fields(node)
    written = fields.need("image", '"image": "registry/name:tag"')
    try:
        image = normalize_image(written.text())
    except ValueError as exc:
        raise written.error(f"{shown(written.value)}: {exc}") from exc
    return DockerSettings(image, parse_create_options(node), fields.text("digest").strip())


def _built_in_settings(fields: Properties) -> BuiltInSettings:
    # Both are parts of this program, so the image is never pulled and nothing about it can be wrong.
    node = fields.get("settings")
    if node is None:
        return BuiltInSettings()
    return BuiltInSettings(_image_fields(node).text("image"), parse_create_options(node))


def _image_fields(node: Node) -> Properties:
    if not isinstance(node.value, dict):
        raise node.expected("an object")
    chunks = {name.casefold(): name for name in node.value if is_chunk(name)}
    return node.properties(("image", *(chunks.values() or ["createOptions"]), "digest"))


def _process(node: Node) -> ProcessSettings:
    fields = node.properties(("command", "workingDirectory"))
    command = fields.need("command", '"command": ["python3", "module.py"]')
    if isinstance(command.value, str):
        try:
            words = shlex.split(command.value)
        except ValueError as exc:
            raise command.error(f"cannot be split into words as a shell would: {exc}") from exc
    else:
        words = [word.text() for word in command.items("an array of strings or one string")]
    if not words or not words[0].strip():
        raise command.error("the command is empty; its first word is the program to run")
    folder = fields.get("workingDirectory")
    if folder is not None and not folder.text().strip():
        raise folder.error("must not be blank; leave it out to run in the folder of the deployment file")
    texts = [*words, "" if folder is None else folder.text()]
    if any("\0" in text for text in texts):
        raise node.error("a NUL character cannot stand in a command or a path")
    return ProcessSettings(tuple(words), None if folder is None else folder.text())
