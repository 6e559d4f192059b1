"""`edge-actors faults`: scripts that disturb an edge of their own and look whether it keeps its promises."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import debug_option


@click.group()
def faults() -> None:
    """Disturb an edge by a script, and see that it keeps its promises.

    A script starts an edge of its own in a new folder; the edges of this machine are left alone. It needs
    PyYAML, which `pip install 'edge-actors[faults]'` brings.
    """


@faults.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--seed", type=int, help="Makes the random choices again of a run before.  [default: another]")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="New folder for home and logs, kept however it ends.  [default: kept when it failed]",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@debug_option
def run(file: Path, seed: int | None, keep: Path | None, as_json: bool) -> int:
    """Run the script FILE.

    Exit code 1: an expectation was not met, a fault never happened, or this machine cannot do it, which is
    told before anything starts. A failed run leaves a bundle with the script, seed, logs, ledger, databases.
    """
    import signal

    from runtime.cli.output import print_json
    from runtime.exit_codes import DONE, FAILED
    from runtime.faults import report, schema
    from runtime.faults.bundle import run_in_folder
    from runtime.faults.needs import check_needs

    scenario = schema.load(file)
    check_needs(scenario)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the edge is ended in order
    outcome = run_in_folder(
        scenario, seed, keep, on_start=lambda drawn: None if as_json else click.echo(f"seed {drawn}")
    )
    if as_json:
        print_json(report.values(scenario, outcome))
    else:
        click.echo(report.text(scenario, outcome))
    return FAILED if outcome.problems else DONE


@faults.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@debug_option
def check(file: Path, as_json: bool) -> int:
    """Read the script FILE, and say what is wrong with it or what this machine lacks for it."""
    from runtime.cli.output import print_json
    from runtime.exit_codes import DONE, FAILED
    from runtime.faults import schema
    from runtime.faults.needs import missing

    scenario = schema.load(file)
    lacks = missing(scenario.needs)
    if as_json:
        print_json(
            {
                "name": scenario.name,
                "about": scenario.about,
                "faults": [step.fault for step in scenario.steps],
                "expect": [one.name for one in scenario.expect],
                "needs": list(scenario.needs),
                "lacks": lacks or None,
            }
        )
    else:
        what = f"{len(scenario.steps)} steps, {len(scenario.expect)} expectations"
        click.echo(
            f"{file}: {what}; " + (f"it cannot be run here: {lacks}" if lacks else "it can be run here")
        )
    return FAILED if lacks else DONE


@faults.command()
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@debug_option
def reference(as_json: bool) -> None:
    """Show what can stand in a script: every entry, fault and expectation, as Markdown."""
    from runtime.cli.output import print_json
    from runtime.faults import reference as page

    if as_json:
        print_json(page.tables())
    else:
        click.echo(page.reference(), nl=False)
