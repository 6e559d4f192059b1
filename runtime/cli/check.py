"""`edge-actors check` and `check-list`: what is wrong with this edge and this machine, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table, printable
from runtime.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from runtime.checks.outcome import Check, Outcome, Section
    from runtime.checks.scene import Scene

_SIGNS: Final = {"ok": ("√", "OK"), "warning": ("‼", "Warning")}
_FAILED: Final = ("×", "Error")
_QUIET: Final = ("ignored", "skipped")

Found = list[tuple["Section", "Check", "Outcome"]]


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How the results are shown; --json is short for json.",
)
@click.option("--verbose", is_flag=True, help="Also what was skipped or does not apply, and why.")
@click.option("--warnings-as-errors", is_flag=True, help="The exit code is 1 for a warning, too.")
@click.option("--dont-run", multiple=True, metavar="ID", help="Leave a check out; several: give it again.")
@click.option(
    "--ntp-server",
    metavar="HOST[:PORT]",
    help="The time server to compare with.  [default: pool.ntp.org:123]",
)
@click.option(
    "--container-engine-config-file",
    "engine_config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The settings of Docker Engine.  [default: /etc/docker/daemon.json]",
)
@click.option(
    "--iothub-hostname", metavar="HOST", help="The IoT Hub to look at, if not the one of this edge."
)
@click.option(
    "--diagnostics-image-name",
    metavar="IMAGE",
    help="An image with python3 to look from inside a container.  [default: none, this machine's own Python]",
)
@common_options
def check(
    output: str,
    verbose: bool,
    warnings_as_errors: bool,
    dont_run: tuple[str, ...],
    ntp_server: str | None,
    engine_config: Path | None,
    iothub_hostname: str | None,
    diagnostics_image_name: str | None,
    home: Path,
    as_json: bool,
) -> int:
    """Look for what is wrong with settings, home, certificates, clock, disk, ports, containers and cloud.

    Works whether the edge runs or not. What is wrong says what to do. Checks have the ids of `iotedge check`
    where that has them. The exit code is 1 when one found an error.
    """
    from runtime.checks.catalog import SECTIONS
    from runtime.checks.outcome import BAD, run_checks
    from runtime.checks.scene import ENGINE_CONFIG, NTP_SERVER, Options, Scene

    left_out = _known_ids(dont_run)
    options = Options(
        ntp_server=_server(ntp_server or NTP_SERVER),
        engine_config=engine_config or ENGINE_CONFIG,
        iothub_hostname=iothub_hostname or "",
        diagnostics_image=diagnostics_image_name or "",
    )
    scene = Scene(home, options)
    found: Found = []
    is_text = output == "text" and not as_json
    try:
        for section, one, outcome in run_checks(SECTIONS, scene, left_out, warnings_as_errors):
            found.append((section, one, outcome))
            if is_text:
                for line in _lines(found, verbose):
                    click.echo(line)
        if is_text:
            for line in _totals(found, verbose):
                click.echo(line)
        else:
            print_json(as_values(scene, found))
    finally:
        scene.close()
    return FAILED if any(outcome.result in BAD for _, _, outcome in found) else DONE


@click.command("check-list")
@common_options
def check_list(home: Path, as_json: bool) -> None:
    """List the checks of `edge-actors check` with their ids."""
    from runtime.checks.catalog import all_checks

    rows = [(section.title, check.id, check.description) for section, check in all_checks()]
    if as_json:
        print_json([dict(zip(("category", "id", "description"), row, strict=True)) for row in rows])
    else:
        print_table(("CATEGORY", "ID", "DESCRIPTION"), rows)


def as_values(scene: Scene, found: Found) -> dict[str, Any]:
    """Return the results in the form of `iotedge check -o json`."""
    from messaging.time_text import iso_utc
    from messaging.version import VERSION
    from runtime.machine.system_info import disks, memory_use, os_release

    engine = next((o.info for _, check, o in found if check.id == "container-engine-uri"), {})
    about = {
        "docker_version": engine.get("docker_version"),
        "aziot_edged_version": VERSION,
        "now": iso_utc(scene.now_s),
        "os": os_release(),
        "system_info": memory_use() | {"disks": disks((scene.home.path, scene.database.parent))},
    }
    return {
        "additional_info": {name: value for name, value in about.items() if value is not None},
        "checks": {check.id: _as_value(outcome) for _, check, outcome in found},
    }


def _as_value(outcome: Outcome) -> dict[str, Any]:
    result: dict[str, Any] = {"result": outcome.result.value}
    if outcome.details:
        result["details"] = list(outcome.details)
    return {"result": result, "additional_info": dict(outcome.info)}


def _lines(found: Found, verbose: bool) -> Iterator[str]:
    """Yield the lines of the last result; its section's title before the first that is shown."""
    section, check, outcome = found[-1]
    if not _is_shown(outcome, verbose):
        return
    if not any(one is section and _is_shown(each, verbose) for one, _, each in found[:-1]):
        yield ""
        yield section.title
        yield "-" * len(section.title)
    if outcome.result in _QUIET:
        yield f"- {check.description} - {outcome.result.value.capitalize()}"
    else:
        sign, word = _SIGNS.get(outcome.result, _FAILED)
        yield f"{sign} {check.description} - {word}"
    for detail in outcome.details:
        yield f"    {printable(detail)}"


def _is_shown(outcome: Outcome, verbose: bool) -> bool:
    return verbose or outcome.result not in _QUIET


def _totals(found: Found, verbose: bool) -> Iterator[str]:
    counts = Counter(outcome.result.value for _, _, outcome in found)
    hint = "" if verbose else " Re-run with --verbose for more details."
    yield ""
    yield f"{counts['ok']} check(s) succeeded."
    if counts["warning"]:
        yield f"{counts['warning']} check(s) raised warnings.{hint}"
    errors = counts["error"] + counts["fatal"]
    if errors:
        yield f"{errors} check(s) raised errors.{hint}"
    if counts["skipped"]:
        yield f"{counts['skipped']} check(s) were skipped, because of others or as not needed.{hint}"


def _known_ids(given: Sequence[str]) -> frozenset[str]:
    """Return the ids that are not wanted. Several may stand in one word, as the reference takes them."""
    from messaging.errors import ConfigError
    from messaging.nearest import did_you_mean
    from runtime.checks.catalog import all_checks

    ids = [check.id for _, check in all_checks()]
    wanted = [name for text in given for name in text.replace(",", " ").split()]
    for name in wanted:
        if name not in ids:
            hint = did_you_mean(name, ids) or "; `edge-actors check-list` shows them all"
            raise ConfigError(f"--dont-run: there is no check {name!r}{hint}")
    return frozenset(wanted)


def _server(text: str) -> str:
    from messaging.errors import ConfigError

    host, _, port = text.rpartition(":") if ":" in text else (text, "", "123")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise ConfigError(f"--ntp-server: {text!r} is not allowed; allowed: HOST or HOST:PORT")
    return f"{host}:{port}"
