"""`python -m scripts.campaign [--kills N] [--seed S] [--keep FOLDER]`; exit code 1: a promise was broken."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from scripts.campaign.edge import CampaignFailed
from scripts.campaign.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts.campaign", description="kill -9 under load")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--keep", type=Path, default=None, help="empty folder for home and logs, kept")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.kills} kills", flush=True)
    with tempfile.TemporaryDirectory(prefix="ea-campaign-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            report = run(arguments.kills, seed, folder)
        except CampaignFailed as exc:
            print(f"PROBLEM: {exc}")
            return 1
    print(report.text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
