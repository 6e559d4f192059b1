"""`edge-actors plan FILE`: what would this deployment change, and why?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.exit_codes import CHANGES, DONE

if TYPE_CHECKING:
    from actors.agent.planner import Command, CurrentModule
    from actors.hub.config import HubConfig, RouteText
    from actors.manifest.deployment import Deployment
    from actors.ports.modules import ModuleRecord
    from runtime.home import Home

FOLDER: Final = "settings.workingDirectory"  # as `part_hashes` calls it


@dataclass(frozen=True, slots=True)
class Planned:
    """What a deployment would change. `routes` and `broker` are (what, name, why)."""

    commands: tuple[Command, ...]
    routes: tuple[tuple[str, str, str], ...]
    broker: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]

    @property
    def changes_something(self) -> bool:
        return bool(self.commands or self.routes or self.broker)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@common_options
def plan(file: Path, home: Path, as_json: bool) -> int:
    """Show what the deployment manifest FILE would change on this edge, in order, and why. Nothing changes.

    It is compared with what the edge of --home runs, or ran last. The exit code is 0 when nothing would
    change, 3 when something would, 2 when the manifest is wrong. A new image behind the same name is only
    known once it is pulled.
    """
    from runtime.agent.deployments import read_deployment
    from runtime.home import Home

    found = planned(read_deployment(file), Home(home), file.absolute().parent)
    if as_json:
        print_json(_as_json(found))
        return CHANGES if found.changes_something else DONE
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not found.changes_something:
        click.echo(f"nothing changes: all is as {file} wants it")
        return DONE
    rows = [(one.kind.value, one.module, one.reason) for one in found.commands]
    print_table(("COMMAND", "NAME", "WHY"), [*rows, *found.routes, *found.broker])
    return CHANGES


def planned(deployment: Deployment, home: Home, folder: Path) -> Planned:
    """Return what a deployment that stands in a folder would change on the edge of a home.

    Raises:
        ConfigError: what the home says of its hub makes no sense.
    """
    from actors.agent.planner import plan as plan_modules
    from actors.hub import config as hub_config
    from actors.manifest.module_spec import EDGE_CLOUD, twin_hash
    from runtime.agent.module_records import ModuleRecordFiles

    try:
        config = hub_config.decode(home.hub_config.read_bytes(), str(home.hub_config))
    except FileNotFoundError:
        config = None
    records = dict(ModuleRecordFiles(home.modules).all())
    records.pop(EDGE_CLOUD, None)  # no deployment names it, and none removes it
    deployment = _as_it_was_given(deployment, folder, records)
    current = [_current(name, record, deployment, config) for name, record in records.items()]
    twins = {} if config is None else {name: twin_hash(desired) for name, desired in config.twins.items()}
    # What `$edgeHub` desires is shown as what becomes of it.
    commands = tuple(one for one in plan_modules(deployment, current, twins) if one.module != "$edgeHub")
    return Planned(commands, _routes(deployment, config), _broker(deployment, config), deployment.warnings)


def _as_it_was_given(deployment: Deployment, folder: Path, records: Mapping[str, ModuleRecord]) -> Deployment:
    """Return the deployment with the working folders spelled as in that which runs.

    `cloud deploy` makes relative ones absolute, `run --deployment` does not; both mean the same folder.
    """
    from actors.manifest.module_spec import ProcessSettings, part_hashes
    from runtime.iothub.edge_manifest import working_folder

    modules = dict(deployment.modules)
    for name, module in deployment.modules.items():
        if name in records and isinstance(module.settings, ProcessSettings):
            absolute = working_folder(folder, module.settings.working_directory)
            given = replace(module, settings=replace(module.settings, working_directory=absolute))
            if records[name].parts.get(FOLDER) == part_hashes(given)[FOLDER]:
                modules[name] = given
    return replace(deployment, modules=modules)


def _current(
    name: str, record: ModuleRecord, deployment: Deployment, config: HubConfig | None
) -> CurrentModule:
    from actors.agent.planner import CurrentModule
    from actors.manifest.module_spec import EDGE_HUB, part_hashes, spec_hash

    made_from, parts = record.spec_hash, dict(record.parts)
    hub = deployment.edge_hub
    if name == EDGE_HUB and hub is not None and _is_same_hub(parts, deployment, config):
        made_from = spec_hash(hub)
    if name == EDGE_HUB and hub is not None:
        parts["version"] = part_hashes(hub)["version"]
    return CurrentModule(name, record.restart.status, record.startup_order, made_from, record.desired, parts)


def _is_same_hub(parts: Mapping[str, str], deployment: Deployment, config: HubConfig | None) -> bool:
    """Return whether the hub would be made from the same.

    The settings of this device are a part of its version while it runs; a deployment does not change them.
    """
    from actors.manifest.hub_manifest import StoreFullPolicy
    from actors.manifest.module_spec import part_hashes

    assert deployment.edge_hub is not None
    wanted, hub = part_hashes(deployment.edge_hub), deployment.hub
    protocol = deployment.hub_environment.values.upstream_protocol or deployment.agent_protocol
    return (
        config is not None
        and all(parts.get(name) == value for name, value in wanted.items() if name != "version")
        and config.environment == deployment.hub_environment.values
        and (protocol is None or config.cloud_protocol is protocol)
        and config.max_store_bytes == hub.max_size_bytes
        and (config.broker is None) is (hub.broker is None)
        and config.drops_oldest is (hub.when_full is StoreFullPolicy.DROP_OLDEST)
    )


def _routes(deployment: Deployment, config: HubConfig | None) -> tuple[tuple[str, str, str], ...]:
    """Return which routes would be added, changed or removed; the hub goes on meanwhile."""
    from actors.hub.config import route_texts

    def by_name(routes: tuple[RouteText, ...]) -> dict[str, RouteText]:
        return {route.name: route for route in routes}

    before = {} if config is None else by_name(config.routes)
    after = by_name(route_texts(deployment.hub))
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            found.append(("add route", name, after[name].text))
        elif name not in after:
            found.append(("remove route", name, "it is not in the deployment"))
        elif before[name] != after[name]:
            parts = (("its text", "text"), ("priority", "priority"), ("timeToLiveSecs", "ttl_s"))
            old, new = before[name], after[name]
            changed = [told for told, part in parts if getattr(old, part) != getattr(new, part)]
            found.append(("change route", name, f"changed: {', '.join(changed)}"))
    return tuple(found)


def _broker(deployment: Deployment, config: HubConfig | None) -> tuple[tuple[str, str, str], ...]:
    """Return what would change at the broker of a hub that goes on meanwhile."""
    before = None if config is None else config.broker
    after = deployment.hub.broker
    if before is None or after is None:
        return ()  # the hub is made anew
    parts = (("authorizations", "rules"), ("bridges", "bridges"))
    changed = [told for told, part in parts if getattr(before, part) != getattr(after, part)]
    return (("change broker", "mqttBroker", f"changed: {', '.join(changed)}"),) if changed else ()


def _as_json(found: Planned) -> dict[str, Any]:
    return {
        "changes": found.changes_something,
        "commands": [
            {
                "command": one.kind.value,
                "module": one.module,
                "startupOrder": one.startup_order,
                "reason": one.reason,
            }
            for one in found.commands
        ],
        "routes": [{"command": what, "route": name, "reason": why} for what, name, why in found.routes],
        "broker": [{"command": what, "reason": why} for what, _, why in found.broker],
        "warnings": list(found.warnings),
    }
