"""`edge-actors routes check`: are these routes right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from messaging.errors import ConfigError, RouteError
from runtime.cli.options import common_options
from runtime.cli.output import print_json
from runtime.cli.route_text import error_values, is_route, marked
from runtime.exit_codes import DONE, WRONG_INPUT

if TYPE_CHECKING:
    from actors.manifest.hub_manifest import RouteSpec

# What IoT Hub takes as desired properties of a module; a deployment from a file has no such limit.
TWIN_BYTES: Final = 32_768


@click.command()
@click.argument("file_or_route", metavar="FILE|ROUTE")
@common_options
def check(file_or_route: str, home: Path, as_json: bool) -> int:
    """Check routes: those of a deployment manifest FILE, the one in a text FILE, or ROUTE itself.

    Nothing has to run. The exit code is 2 when one of them is wrong.
    """
    results = [_checked(name, route) for name, route in _routes_of(file_or_route).items()]
    is_wrong = any("error" in result for result in results)
    if as_json:
        print_json({"routes": results})
    else:
        for result in results:
            click.echo(_told(result))
        size_bytes = sum(len(result["route"].encode(errors="replace")) for result in results)
        if size_bytes > TWIN_BYTES:
            click.echo(
                f"note: together {size_bytes} bytes; IoT Hub takes {TWIN_BYTES} as desired properties of "
                "$edgeHub, so only a deployment from a file can have them"
            )
    return WRONG_INPUT if is_wrong else DONE


def _routes_of(text: str) -> dict[str, RouteSpec]:
    from actors.manifest.hub_manifest import RouteSpec

    if is_route(text):
        return {"": RouteSpec(text)}
    path = Path(text)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(
            f"{text[:200]!r} is no route, which begins with FROM, and no file that can be read: {reason}"
        ) from exc
    if content.lstrip().startswith(b"{"):
        from actors.manifest.deployment import parse_deployment

        found = dict(parse_deployment(content, str(path)).hub.routes)
        if not found:
            raise ConfigError(f"{path}: this deployment has no routes")
        return found
    try:
        return {"": RouteSpec(content.decode().rstrip())}
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path}: neither a manifest nor the text of a route: byte {exc.start + 1} is not UTF-8"
        ) from exc


def _checked(name: str, route: RouteSpec) -> dict[str, Any]:
    from messaging.routing.grammar import parse_route
    from messaging.routing.route import compile_route

    result: dict[str, Any] = {"name": name} if name else {}
    result["route"] = route.text
    try:
        compiled = compile_route(name, route.text, edge_device_id="")
    except RouteError as exc:
        return result | {"error": [error_values(exc)]}
    result |= {"source": parse_route(route.text).source, "endpoint": compiled.endpoint.id.removeprefix("/")}
    return result | {"priority": route.priority, "timeToLiveSecs": route.time_to_live_s}


def _told(result: dict[str, Any]) -> str:
    subject = f"'{result['name']}'" if "name" in result else "the route"
    if "error" not in result:
        return f"{subject} is right: from {result['source']} to {result['endpoint']}"
    (error,) = result["error"]
    hint = f" ({error['hint']})" if "hint" in error else ""
    place = f"line {error['line']}, column {error['column']}"
    mark = marked(result["route"], error["line"], error["column"])
    return f"{subject} is wrong: {place}: {error['message']}{hint}\n{mark}"
