"""Tries to break our promises: kills, power cuts, and scripts drawn from a grammar of all faults.

    python -m scripts.campaign [WHAT …] [--seed S] [--kills N] [--cuts N] [--scripts N] [--json FILE] …
    python -m scripts.campaign mutants [NAME …] [--table]
    python -m scripts.campaign report FILE …

WHAT is a scenario beside this file, `random` (scripts from the grammar), `day`, or a file; without a word it
is all of them. Exit code 1: a promise was broken. 3: it was not, but a control was not caught either, so
nothing is proven. `mutants` runs deliberate defects of the product, `report` makes a table of what `--json`
has written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from messaging.nearest import did_you_mean
from runtime.faults import recording
from scripts.campaign import mutants
from scripts.campaign import scenario as scenarios
from scripts.campaign.drawn import DAY, RANDOM, scripts
from scripts.campaign.drawn import run as run_drawn
from scripts.campaign.report import KEPT, Report, table
from scripts.campaign.run import run
from scripts.campaign.scenario import BadScenario, PowerCut, Scenario

USAGE: Final = 2
DRAWN: Final = (RANDOM, DAY)  # besides the scenarios, which are files
SCRIPTS: Final = 5


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign that a command line asks for; returns the exit code."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["mutants"]:
        return mutants.main(words[1:])
    if words[:1] == ["report"]:
        print(table([json.loads(Path(name).read_text()) for name in words[1:]]), end="")
        return KEPT
    known = ", ".join((*scenarios.names(), *DRAWN))
    parser = argparse.ArgumentParser(prog="scripts.campaign", description="faults under load")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{known}, or a file; default: all")
    parser.add_argument("--scripts", type=_positive, default=SCRIPTS, help=f"random ones; default: {SCRIPTS}")
    parser.add_argument(
        "--kills", type=_positive, help="of each scenario that kills; default: as its file says"
    )
    parser.add_argument("--cuts", type=_positive, help="disks after a power cut; default: as the file says")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--keep", type=Path, help="empty folder for homes and logs, kept")
    parser.add_argument("--json", type=Path, help="file for the report")
    arguments = parser.parse_args(words)
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    what = arguments.scenarios or (*scenarios.names(), *DRAWN)
    try:
        wanted = [
            scaled(scenarios.load(_path(name)), arguments.kills, arguments.cuts)
            for name in what
            if name not in DRAWN
        ]
        drawn = scripts(what, arguments.scripts, seed)
    except BadScenario as exc:
        print(f"error: {exc}", file=sys.stderr)
        return USAGE
    if arguments.keep and arguments.keep.exists() and any(arguments.keep.iterdir()):
        print(f"error: --keep {arguments.keep}: not empty; name a new folder", file=sys.stderr)
        return USAGE
    reason = recording.why_impossible() if any(one.is_power_cut for one in wanted) else ""
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        return USAGE
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ea-campaign-") as temporary:
        report = Report(seed)
        for scenario in wanted:
            for number, control in enumerate((*scenario.controls, None)):
                folder = (arguments.keep or Path(temporary)) / f"{scenario.name}-{number}"
                folder.mkdir(parents=True)
                findings = run(scenario, seed, folder, control)
                print(findings.text(scenario.expect), flush=True)
                report.add(scenario, findings)
        for name, (its_seed, text) in drawn.items():
            folder = arguments.keep or Path(temporary)
            report.add_drawn(name, run_drawn(name, its_seed, text, folder, keep=bool(arguments.keep)))
            print(report.last, flush=True)
    print(report.verdict())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.json(), indent=1) + "\n")
    return report.exit_code


def scaled(scenario: Scenario, kills: int | None, cuts: int | None) -> Scenario:
    """Return a scenario with another number of faults; controls stay as they are.

    Cuts are spread over lives of the hub as in the file, and over at least one.
    """
    step = scenario.step
    if isinstance(step.fault, PowerCut):
        if cuts is not None:
            lives = max(1, round(cuts / step.fault.images))
            fault = dataclasses.replace(step.fault, images=-(-cuts // lives))
            step = dataclasses.replace(step, times=lives, fault=fault)
    elif kills is not None:
        step = dataclasses.replace(step, times=kills)
    return dataclasses.replace(scenario, step=step)


def _path(name: str) -> Path:
    known = (*scenarios.names(), *DRAWN)
    if name in scenarios.names():
        return scenarios.FOLDER / f"{name}.yaml"
    if not Path(name).exists():
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise BadScenario(f"scenario {name!r}: neither one of ours nor a file{hint}")
    return Path(name)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1; name the scenarios to leave others out")
    return number


if __name__ == "__main__":
    sys.exit(main())
