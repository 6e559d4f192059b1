"""`edge-actors explain MODULE`: how is it, why, what comes next, and what can be done?"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, printable
from runtime.cli.words import duration

if TYPE_CHECKING:
    from runtime.home import Home

LAST_LINES: Final = 10
LONGEST_LINE: Final = 500


@click.command()
@click.argument("name", metavar="MODULE")
@common_options
def explain(name: str, home: Path, as_json: bool) -> None:
    """Explain how MODULE is and why: last exit, next start, image, its last log lines, and what to do."""
    from actors.addresses import AGENT
    from actors.agent.module_list import ListModules, ModuleList
    from runtime.cli.modules import check_name
    from runtime.cli.running import running_edge
    from runtime.home import Home

    with running_edge(home) as edge:
        modules = edge.ask(AGENT, ListModules(), ModuleList).modules
    check_name(name, [module["name"] for module in modules])
    module = next(module for module in modules if module["name"] == name)
    lines, problem = last_lines(name, Home(home))
    now_s = time.time()
    if as_json:
        print_json(
            dict(module)
            | {"last_exit": last_exit(module), "advice": advice(module, lines), "last_lines": lines}
        )
        return
    rows = explained(module, lines, now_s)
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        click.echo(f"{label.ljust(width)}  {printable(text)}")
    click.echo(f"last lines of its log: {problem or ('none' if not lines else '')}".rstrip())
    for line in lines:
        click.echo(f"    {printable(line)}")


def explained(module: Mapping[str, Any], lines: list[str], now_s: float) -> list[tuple[str, str]]:
    """Return what is told of a module, as (label, text).

    Args:
        module: As in ModuleList.
        lines: The last of its log.
        now_s: Seconds since 1970-01-01 UTC.
    """
    since = module["since_s"]
    runs = bool(module["pid"])
    rows = [("module", module["name"]), ("status", f"{module['status']}, wanted: {module['desired']}")]
    rows.append(("because", module["description"]))
    if since is not None:
        label = "running since" if runs else "ended"
        rows.append((label, f"{_utc(since)}, {duration(now_s - since)} ago"))
    if module["next_start_s"] is not None:
        left_s = max(0.0, module["next_start_s"] - now_s)
        at_once = f"at once with `edge-actors restart {module['name']}`"
        rows.append(("next start", f"{_utc(module['next_start_s'])}, in {duration(left_s)}; {at_once}"))
    rows.append(("last exit", last_exit(module)))
    rows.append(("restarts", f"{module['restarts']} since it last ran for 10 minutes"))
    if runs:
        ready = (
            ""
            if module["ready"] or not module["has_check"]
            else "; not ready: its HEALTHCHECK does not succeed"
        )
        rows.append(("process", f"pid {module['pid']}{ready}"))
    if "image" in module:
        known = f" ({module['image_id']})" if module["image_id"] else ", none made from it yet"
        rows.append(("image", f"{module['image']}{known}"))
    elif "command" in module:
        rows.append(("command", " ".join(module["command"])))
    if module["not_isolated"]:
        rows.append(("not isolated", module["not_isolated"]))
    rows += [("has no effect", remark) for remark in module["remarks"]]
    rows += [("has no effect", f"variable {name}: {problem}") for name, problem in module["settings"]]
    told = advice(module, lines)
    if told:
        rows.append(("what to do", told))
    return rows


def last_exit(module: Mapping[str, Any]) -> str:
    """Return how a module ended last, in words."""
    code, number = module["exit_code"], module["exit_signal"]
    if module["out_of_memory"]:
        return f"killed for want of memory (exit code {code})"
    if number is not None:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"killed by {name}" + ("" if code is None else f" (exit code {code})")
    return "none known" if code is None else f"exit code {code}"


def advice(module: Mapping[str, Any], lines: list[str]) -> str:
    """Return what a user can do about the state of a module; "" when its description says so itself."""
    if module["status"] == "running" and not module["restarts"]:
        return ""
    name, code = module["name"], module["exit_code"]
    log = f"`edge-actors logs {name}` shows all of it"
    if "could not be started" in module["description"] or "not started" in module["description"]:
        return ""  # says what to do itself
    if any("exec format error" in line.lower() for line in lines):
        return "its program is made for another CPU than this machine has; build the image for this one"
    if module["out_of_memory"]:
        return (
            "give it more: HostConfig.Memory of its createOptions, or a machine with more; or find "
            "out what it needs so much for"
        )
    if module["status"] == "unhealthy":
        return f"its HEALTHCHECK fails while it runs; {log}, and `edge-actors restart {name}` starts it anew"
    if module["status"] == "stopped":
        return f"`edge-actors start {name}` starts it" if module["desired"] == "stopped" else ""
    if code == 127:
        return "its program was not found: see Cmd and Entrypoint of its createOptions and of the image"
    if code == 126:
        return "its program may not be executed: see its mode, and User in its createOptions"
    if module["exit_signal"] == signal.SIGKILL:
        return "somebody killed it: the system for want of memory (`dmesg` says so), or a person"
    if module["exit_signal"] == signal.SIGSEGV:
        return f"it crashed in its own code or a library of its; {log}"
    if module["status"] in ("backoff", "failed") or module["restarts"]:
        return f"it ends by itself: {log}; once the cause is gone, `edge-actors restart {name}`"
    return ""


def last_lines(name: str, home: Home) -> tuple[list[str], str]:
    """Return the last lines of a module's log, and why there are none to be had."""
    from messaging.errors import EdgeError
    from runtime.cli.logs import blocks_of

    try:
        content = b"".join(blocks_of(name, home, LAST_LINES, follow=False))
    except EdgeError as exc:
        return [], str(exc)
    text = content.decode("utf-8", "replace").splitlines()
    return [line[:LONGEST_LINE] for line in text[-LAST_LINES:]], ""


def _utc(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
