"""Collects what somebody needs who helps: one ZIP without keys, tokens and bodies of messages.

Every member stands for itself: what cannot be had leaves a file that says why, whatever state the edge is in.

Source: spec sheet security-daemon.md section 6.4
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from actors.addresses import METRICS as METRICS_OF_HUB
from actors.addresses import METRICS_OF_AGENT
from messaging.errors import EdgeError, EnvironmentFault
from runtime.agent.last_deployment import LastDeployment
from runtime.checks.catalog import SECTIONS
from runtime.checks.outcome import run_checks
from runtime.checks.scene import Options, Scene
from runtime.config.bridge_settings import passwords_in
from runtime.config.reader import read_settings
from runtime.daemon.module_output import OWN_LOGS, OutputQuery, output_of, payloads
from runtime.docker.engine import HOME_LABEL
from runtime.home import Home
from runtime.machine.system_info import system_info, system_resources
from runtime.security.key_store import KeyStore
from runtime.storage.message_ledger import read_ledger
from runtime.storage.store_place import database_of
from runtime.support.redaction import Redactor
from runtime.upstream.provisioning import load

if TYPE_CHECKING:
    from docker import APIClient

JOURNAL_LIMIT_S: Final = 60.0
METRICS: Final = {"edgeHub": METRICS_OF_HUB, "edgeAgent": METRICS_OF_AGENT}
UNITS: Final = {"edge-actors": "edge-actors", "docker": "docker"}  # member → systemd unit


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What goes into it; times in seconds since 1970-01-01 UTC."""

    since_s: float
    until_s: float | None = None
    runtime_only: bool = False  # of logs only those of the edge itself
    iothub_hostname: str = ""
    tell: Callable[[str], None] = lambda member: None  # of each member, as it is begun


def default_name(now_s: float) -> str:
    """Return how the file is called unless somebody names it."""
    return datetime.fromtimestamp(now_s, UTC).strftime("support_bundle_%Y_%m_%d_%H_%M_%S_UTC.zip")


def write_bundle(home: Path, options: BundleOptions, file: IO[bytes]) -> None:
    """Write the bundle of an edge into a file that can be sought. Blocks, up to a minute or so."""
    place = Home(home)
    bundle = _Bundle(home, options, Redactor(known_secrets(place, os.environ)))
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            bundle.write(archive)
    finally:
        bundle.scene.close()


class _Bundle:
    """One bundle while it is written."""

    def __init__(self, home: Path, options: BundleOptions, redactor: Redactor) -> None:
        self.scene = Scene(home, Options(iothub_hostname=options.iothub_hostname))
        self._home = self.scene.home
        self._options = options
        self._redactor = redactor
        self._archive: zipfile.ZipFile

    def write(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._json("check.json", self._check)
        self._json("system.json", self._system)
        self._json("settings.json", self._settings)
        self._json("identities.json", self._identities)
        self._json("modules.json", lambda: self.scene.listing)
        self._json("reported.json", self._reported)
        self._json("deployment.json", self._deployment)
        self._json("ledger.json", self._ledger)
        self._json("upstream.json", self._upstream)
        for name, address in METRICS.items():
            self._text(f"metrics/{name}.txt", partial(self._metrics, address))
        engine_names = self._engine()
        own = [name for name in OWN_LOGS if os.path.exists(self._home.log_of(name))]
        others = [] if self._options.runtime_only else [*self._log_names(), *engine_names]
        for name in dict.fromkeys((*own, *others)):
            self._text(f"logs/{name}_log.txt", partial(self._log, name))
        for member, unit in UNITS.items():
            self._text(f"logs/{member}.txt", partial(self._journal, unit))

    # members

    def _check(self) -> Any:
        from runtime.cli.check import as_values

        return as_values(self.scene, list(run_checks(SECTIONS, self.scene)))

    def _system(self) -> Any:
        places = (self._home.path, database_of(self._home).parent)
        agent = self.scene.agent
        started_s = time.time() if agent is None else agent.started_at_s
        return system_info() | {"resources": system_resources(places, started_s, "[]")}

    def _settings(self) -> Any:
        settings = read_settings({"home": str(self._home.path)}, self.scene.options.environment)
        return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}

    def _identities(self) -> Any:
        return [
            {
                "deviceId": identity.device_id,
                "moduleId": identity.module_id,
                "generationId": identity.generation_id,
                "status": identity.status,
                "authentication": identity.auth_type,
            }
            for identity in KeyStore.open(self._home.keys).identities()
        ]

    def _reported(self) -> Any:
        from actors.addresses import AGENT
        from actors.agent.module_list import AgentReport, GetReport
        from runtime.cli.running import running_edge

        with running_edge(self._home.path) as edge:
            return msgspec.json.decode(edge.ask(AGENT, GetReport(), AgentReport).state.reveal())

    def _deployment(self) -> Any:
        kept = LastDeployment(self._home.last_deployment, KeyStore.open(self._home.keys)).load()
        if kept is None:
            raise EnvironmentFault("no deployment of the cloud is kept; reported.json shows what is in force")
        return {
            "$edgeAgent": {"version": kept.agent_version, "desired": _decoded(kept.agent_desired)},
            "$edgeHub": {"version": kept.hub_version, "desired": _decoded(kept.hub_desired)},
            "takenBackBecause": kept.taken_back_because,
        }

    def _ledger(self) -> Any:
        from runtime.cli.ledger import as_values

        return as_values(read_ledger(self.scene.database))

    def _upstream(self) -> Any:
        from actors.addresses import UPSTREAM
        from actors.agent.registry import REGISTRY, GetProvisioning, ProvisioningState
        from actors.upstream.link_state import GetLinkState, LinkState
        from messaging.message_fields import fields_of
        from runtime.cli.running import running_edge

        with running_edge(self._home.path) as edge:
            device = edge.ask(REGISTRY, GetProvisioning(), ProvisioningState)
            link = edge.ask(UPSTREAM, GetLinkState(), LinkState)
        return {"device": fields_of(device), "link": fields_of(link)}

    def _metrics(self, address: str) -> Iterator[bytes]:
        from messaging.exposition import encode_text
        from runtime.cli.metrics import families_of
        from runtime.cli.running import running_edge

        with running_edge(self._home.path) as edge:
            yield encode_text(families_of(edge, address))

    def _log_names(self) -> list[str]:
        try:
            return self._home.log_names()
        except OSError:
            return []

    def _log(self, name: str) -> Iterator[bytes]:
        wanted = OutputQuery(since_s=self._options.since_s, until_s=self._options.until_s)
        return self._redactor.lines(_lines(payloads(output_of(self._home, name, wanted))))

    def _journal(self, unit: str) -> Iterator[bytes]:
        program = shutil.which("journalctl")
        if program is None:
            raise EnvironmentFault("there is no journal on this machine (journalctl)")
        command = [program, "--unit", unit, "--no-pager", "--since", f"@{int(self._options.since_s)}"]
        if self._options.until_s is not None:
            command += ["--until", f"@{int(self._options.until_s)}"]
        done = subprocess.run(command, capture_output=True, timeout=JOURNAL_LIMIT_S, check=False)
        if done.returncode != 0:
            raise EnvironmentFault(done.stderr.decode("utf-8", "replace").strip() or "journalctl failed")
        return self._redactor.lines(done.stdout.splitlines(keepends=True))

    def _engine(self) -> list[str]:
        """Write what the container engine tells; returns the modules that have a container."""
        if not self.scene.uses_containers:
            return []
        names: list[str] = []

        self._json("docker_info.json", lambda: self._ask_engine(lambda client: client.info()))
        try:
            found = self._ask_engine(self.scene.engine.containers)
        except EdgeError as exc:
            self._failed("inspect/containers_err.txt", str(exc))
            return []
        for name, one in sorted(found.items()):
            names.append(name)
            self._json(f"inspect/{name}.json", partial(self._container, one["Id"]))
        label = {"label": f"{HOME_LABEL}={self.scene.run.path.name}"}
        try:
            networks = self._ask_engine(lambda client: client.networks(filters=label))
        except EdgeError as exc:
            self._failed("network/networks_err.txt", str(exc))
            return names
        for network in networks:
            self._json(f"network/{network['Name']}.json", partial(self._network, network["Id"]))
        return names

    def _container(self, container_id: str) -> Any:
        return self._ask_engine(lambda client: client.inspect_container(container_id))

    def _network(self, network_id: str) -> Any:
        return self._ask_engine(lambda client: client.inspect_network(network_id))

    def _ask_engine(self, question: Callable[[APIClient], Any]) -> Any:
        with self.scene.engine.calls() as client:
            return question(client)

    # writing

    def _json(self, member: str, make: Callable[[], Any]) -> None:
        with self._told(member):
            value = self._redactor.value(_plain(make()))
            self._archive.writestr(member, json.dumps(value, indent=2, ensure_ascii=False))

    def _text(self, member: str, make: Callable[[], Iterable[bytes]]) -> None:
        with self._told(member):
            blocks = iter(make())
            first = next(blocks, b"")  # what cannot be read says so here
            entry = zipfile.ZipInfo(member, time.gmtime()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            with self._archive.open(entry, "w", force_zip64=True) as written:
                written.write(first)
                for block in blocks:
                    written.write(block)

    @contextmanager
    def _told(self, member: str) -> Iterator[None]:
        self._options.tell(member)
        try:
            yield
        except (EdgeError, OSError, subprocess.SubprocessError) as exc:
            self._failed(member, str(exc))
        except Exception as exc:  # noqa: BLE001 - all that can be had is wanted
            self._failed(member, f"{type(exc).__name__}: {exc}")

    def _failed(self, member: str, reason: str) -> None:
        stem, _, ending = member.rpartition(".")
        failed = member if stem.endswith("_err") else f"{stem}_err.{'txt' if ending == 'txt' else 'json'}"
        content = reason if failed.endswith(".txt") else json.dumps({"error": reason}, ensure_ascii=False)
        self._archive.writestr(failed, self._redactor.text(content))


def known_secrets(home: Home, environment: Mapping[str, str]) -> list[str | bytes]:
    """Return every secret that this edge keeps, as far as it can be read."""
    known: list[str | bytes] = []
    try:
        settings = read_settings({"home": str(home.path)}, environment)
        known += [account.password for account in settings.registry_credentials]
        bridges = passwords_in(settings.bridge_settings or home.bridges)
        known += [password.reveal().decode() for password in bridges]
    except (EdgeError, OSError):
        pass  # check.json tells
    try:
        known += _secrets_of(KeyStore.open(home.keys))
    except EdgeError:
        pass  # check.json tells
    try:
        found = load(home)
        if found is not None:
            known.append(found.device_key.reveal().decode())
    except EdgeError:
        pass
    try:
        kept = LastDeployment(home.last_deployment, KeyStore.open(home.keys)).load()
        if kept is not None:
            runtime = _decoded(kept.agent_desired).get("runtime", {}).get("settings", {})
            known += [
                str(account.get("password") or "")
                for account in (runtime.get("registryCredentials") or {}).values()
            ]
    except (EdgeError, AttributeError):
        pass
    return known


def _secrets_of(keys: KeyStore) -> list[bytes]:
    return [key for one in keys.identities() for key in (one.primary_key, one.secondary_key) if key]


def _decoded(encoded: bytes) -> Any:
    return msgspec.json.decode(encoded) if encoded else {}


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole lines: a secret shall not be cut in two by the end of a block."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.asdict(value))
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, range):
        return f"{value.start}-{value.stop - 1}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
