"""The management API: what `iotedge list`, `logs`, `restart` and `support-bundle` ask of the daemon.

Who may connect to its socket may look at modules and start and stop them. Making and removing modules and
identities is for the agent alone in the reference; here the agent is this process and asks nobody, so these
are refused to everyone.

Source: spec sheet security-daemon.md section 2
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from actors.agent.log_query import MethodRefused, parse_time
from messaging.errors import ConfigError, EdgeError
from messaging.text import quoted
from runtime.daemon.api import Request, Route, find_route
from runtime.daemon.module_details import ModuleState, module_details
from runtime.daemon.module_output import OutputQuery, output_of
from runtime.docker.engine import EngineCalls
from runtime.home import Home
from runtime.machine.system_info import system_info, system_resources
from runtime.net.http_messages import Refusal, Response, error_response, json_response
from runtime.run_directory import RunDirectory
from runtime.security.key_store import KeyStore
from runtime.storage.store_place import database_of
from runtime.support.bundle_program import BundleQuery, make_bundle

log = logging.getLogger(__name__)

VERBS: Final = ("start", "stop", "restart")
# For the agent alone in the reference: (method, path, since)
_AGENT_ONLY: Final = (
    ("POST", "/modules", "2018-06-28"),
    ("POST", "/modules/", "2018-06-28"),
    ("PUT", "/modules/{m}", "2018-06-28"),
    ("DELETE", "/modules/{m}", "2018-06-28"),
    ("POST", "/modules/{m}/prepareupdate", "2019-01-30"),
    ("POST", "/identities", "2018-06-28"),
    ("POST", "/identities/", "2018-06-28"),
    ("PUT", "/identities/{m}", "2018-06-28"),
    ("DELETE", "/identities/{m}", "2018-06-28"),
    ("POST", "/device/reprovision", "2019-10-22"),
)

Command = Callable[[str, str], None]  # a verb, the name of a module


class ManagementApi:
    """Answers requests; any thread may ask. What it does may take as long as a module takes to end."""

    def __init__(
        self,
        home: Home,
        keys: KeyStore,
        *,
        modules: Callable[[], Sequence[ModuleState]],
        command: Command,
        started_s: float,
    ) -> None:
        """Keep what is needed to answer.

        Args:
            home: Of the edge.
            keys: Who has an identity.
            modules: How all modules are doing.
            command: Has the agent start, stop or restart a module; raises EdgeError when that is not done.
            started_s: When the edge was started; seconds since 1970-01-01 UTC.
        """
        self._home = home
        self._keys = keys
        self._modules = modules
        self._command = command
        self._started_s = started_s
        self._routes = (
            Route("GET", "/modules", self._list_modules),
            Route("GET", "/modules/", self._list_modules),
            Route("GET", "/modules/{m}", self._show_module),
            *(
                Route("POST", f"/modules/{{m}}/{verb}", self._commanding(verb), any_case=True)
                for verb in VERBS
            ),
            Route("GET", "/modules/{m}/logs", self._logs),
            Route("GET", "/identities", self._identities),
            Route("GET", "/identities/", self._identities),
            Route("GET", "/systeminfo", self._system_info),
            Route("GET", "/systeminfo/resources", self._resources, since="2019-11-05"),
            Route("GET", "/systeminfo/supportbundle", self._support_bundle, since="2020-07-07"),
            *(Route(method, path, _forbidden, since=since) for method, path, since in _AGENT_ONLY),
        )

    def handle(self, request: Request) -> Response:
        """Return the reply to one request; a refusal is a reply too."""
        try:
            route, segments = find_route(self._routes, request)
            return route.answer(request, segments)
        except Refusal as refusal:
            return error_response(refusal.status, refusal.message)
        except EdgeError as exc:
            return error_response(500, str(exc))

    def _list_modules(self, request: Request, segments: Mapping[str, str]) -> Response:
        return json_response(200, {"modules": [module_details(module) for module in self._modules()]})

    def _show_module(self, request: Request, segments: Mapping[str, str]) -> Response:
        return json_response(200, module_details(self._module(segments["m"])))

    def _commanding(self, verb: str) -> Callable[[Request, Mapping[str, str]], Response]:
        def answer(request: Request, segments: Mapping[str, str]) -> Response:
            name = self._module(segments["m"]).name
            self._command(verb, name)
            log.info("module %s: %s, as the management API was asked to", name, verb)
            return Response(204)

        return answer

    def _logs(self, request: Request, segments: Mapping[str, str]) -> Response:
        wanted = read_output_query(request.target, time.time())
        name = self._module(segments["m"]).name
        output = output_of(self._home, name, wanted)
        return Response(200, headers=(("Content-Type", "text/plain"),), pieces=output)

    def _identities(self, request: Request, segments: Mapping[str, str]) -> Response:
        listed = [
            {
                "moduleId": identity.module_id,
                "managedBy": "iotedge",
                "generationId": identity.generation_id,
                "authType": "sas",
            }
            for identity in self._keys.identities()
            if identity.module_id
        ]
        return json_response(200, {"identities": listed})

    def _system_info(self, request: Request, segments: Mapping[str, str]) -> Response:
        return json_response(200, system_info(self._engine_version()))

    def _resources(self, request: Request, segments: Mapping[str, str]) -> Response:
        places = (self._home.path, database_of(self._home).parent)
        return json_response(200, system_resources(places, self._started_s, self._docker_stats()))

    def _support_bundle(self, request: Request, segments: Mapping[str, str]) -> Response:
        asked = _parameters(request.target)
        query = BundleQuery(
            since=asked.get("since", ""),
            until=asked.get("until", ""),
            runtime_only=_switch(asked, "edge_runtime_only"),
            iothub_hostname=asked.get("iothub_hostname", ""),
        )
        for name in ("since", "until"):
            _time(asked, name, time.time())
        with make_bundle(self._home.path, query) as file:
            content = file.read()
        # The archive is what is compressed; see the sheet.
        headers = (("Content-Type", "application/zip"), ("Content-Encoding", "deflate"))
        return Response(200, content, headers)

    def _module(self, name: str) -> ModuleState:
        wanted = name.removeprefix("$")
        for module in self._modules():
            if module.name == wanted:
                return module
        raise Refusal(404, f"there is no module {quoted(name)}")

    def _engine_version(self) -> str:
        if not self._home.containers.exists():
            return ""  # an edge without containers asks no engine
        engine = self._engine()
        try:
            with engine.calls() as client:
                return str(client.version().get("Version", ""))
        except EdgeError:
            return ""
        finally:
            engine.close()

    def _docker_stats(self) -> str:
        if not self._home.containers.exists():
            return "[]"
        engine = self._engine()
        try:
            with engine.calls() as client:
                found = [
                    client.stats(one["Id"], stream=False, one_shot=True)
                    for one in engine.containers(client).values()
                ]
                return json.dumps(found)
        except EdgeError as exc:
            log.warning("the engine does not tell what containers use: %s", exc)
            return "[]"
        finally:
            engine.close()

    def _engine(self) -> EngineCalls:
        return EngineCalls(RunDirectory.of(self._home.path).path.name)


def read_output_query(target: str, now_s: float) -> OutputQuery:
    """Return which part of a log a request asks for.

    Raises:
        Refusal: 400 a value is wrong.
    """
    asked = _parameters(target)
    tail = asked.get("tail", "all")
    if tail != "all" and not (tail.isascii() and tail.isdigit() and len(tail) < 10):
        raise Refusal(400, f"invalid parameter: tail {quoted(tail)} is neither a number nor all")
    return OutputQuery(
        follow=_switch(asked, "follow"),
        tail=None if tail == "all" else int(tail),
        since_s=_time(asked, "since", now_s),
        until_s=_time(asked, "until", now_s),
        timestamps=_switch(asked, "timestamps"),
    )


def _parameters(target: str) -> dict[str, str]:
    return dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))


def _switch(asked: Mapping[str, str], name: str) -> bool:
    text = asked.get(name, "false")
    if text not in ("true", "false"):
        raise Refusal(400, f"invalid parameter: {name} {quoted(text)} is neither true nor false")
    return text == "true"


def _time(asked: Mapping[str, str], name: str, now_s: float) -> float | None:
    try:
        return parse_time(asked.get(name), now_s, name)
    except MethodRefused as exc:
        raise Refusal(400, f"invalid parameter: {exc}") from exc


def _forbidden(request: Request, segments: Mapping[str, str]) -> Response:
    raise Refusal(403, "forbidden")


def commands_of(home: Path) -> Command:
    """Return what has the agent of the edge on `home` start, stop or restart a module."""

    def command(verb: str, name: str) -> None:
        from actors.addresses import AGENT
        from actors.agent.module_report import ModuleReported
        from actors.agent.supervisor_messages import RestartModule, StartModule, StopModule
        from runtime.cli.modules import REST_LIMIT_S
        from runtime.cli.running import running_edge

        orders = {"start": StartModule, "stop": StopModule, "restart": RestartModule}
        with running_edge(home) as edge:
            report = edge.ask(AGENT, orders[verb](name), ModuleReported, REST_LIMIT_S)
        if verb != "stop" and report.status in ("failed", "backoff"):
            raise ConfigError(f"module '{name}' is {report.status}: {report.description}")

    return command
