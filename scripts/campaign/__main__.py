"""Tries to break our promises: kills, power cuts, and scripts drawn from a grammar of all faults.

    python -m scripts.campaign [WHAT …] [--seed S] [--kills N] [--cuts N] [--scripts N] [--json FILE] …
    python -m scripts.campaign mutants [NAME …] [--table]
    python -m scripts.campaign report FILE …

WHAT is a scenario beside this file, `random` (scripts from the grammar), `day`, or a fault script of your
own; without a word it is all of them. Exit code 1: a promise was broken. 3: it was not, but a fault never
happened, so that nothing is proven. `mutants` runs deliberate defects of the product, `report` makes a table
of what `--json` has written.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from messaging.errors import ConfigError
from runtime.faults.bundle import check_keep
from scripts.campaign import mutants
from scripts.campaign.report import KEPT, Report, table
from scripts.campaign.run import KNOWN, run, wanted

USAGE: Final = 2
SCRIPTS: Final = 5


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign that a command line asks for; returns the exit code."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["mutants"]:
        return mutants.main(words[1:])
    if words[:1] == ["report"]:
        return _show_table([Path(name) for name in words[1:]])
    known = ", ".join(KNOWN)
    parser = argparse.ArgumentParser(prog="scripts.campaign", description="faults under load")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{known}, or a file; default: all")
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
    try:
        scripts = wanted(arguments.what or KNOWN, seed, arguments.scripts, arguments.kills, arguments.cuts)
        check_keep(arguments.keep)
        if arguments.json:
            arguments.json.touch()  # while nothing has run yet
    except (ConfigError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return USAGE
    print(f"seed {seed}", flush=True)
    report = Report(seed)
    with tempfile.TemporaryDirectory(prefix="ea-campaign-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for script in scripts:
            report.add(script.name, run(script, folder, keep=bool(arguments.keep)))
            print(report.last, flush=True)
            if arguments.json:  # after each: a campaign is long
                arguments.json.write_text(json.dumps(report.json(), indent=1) + "\n")
    print(report.verdict())
    return report.exit_code


def _show_table(paths: Sequence[Path]) -> int:
    reports = []
    for path in paths:
        try:
            reports.append(json.loads(path.read_text(encoding="utf-8")))
            table(reports[-1:])
        except (OSError, ValueError, TypeError, KeyError) as exc:
            print(
                f"error: {path}: it is no report of a campaign, or it has not ended: {exc}", file=sys.stderr
            )
            return USAGE
    print(table(reports), end="")
    return KEPT


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1; name the scenarios to leave others out")
    return number


if __name__ == "__main__":
    sys.exit(main())
