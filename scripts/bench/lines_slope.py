"""The line of the report about memory over hours, which `scripts/bench/slope` measures apart."""

from collections.abc import Iterator
from pathlib import Path

from scripts.bench.measure_slope import (
    BAR_MB_PER_H,
    JUDGED,
    WARMUP_MINUTES,
    levels_of,
    read_samples,
    slopes_of,
)
from scripts.bench.peer_edge import ROOT
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Line, Of, Sign, Verdict

SAMPLES = ROOT / "tests" / "bench" / "slope.jsonl"
LEAST_H = 1.75


def slope(plan: Plan, samples: Path = SAMPLES) -> Iterator[Line]:
    """Yield MB an hour of each part, from the samples of a run that was made before.

    Raises:
        PeerUnusable: there is no such run, or it was too short.
    """
    if not samples.exists():
        raise PeerUnusable(
            f"no {samples.name}; make it in two hours with scripts/bench/slope --samples {samples}"
        )
    rows = read_samples(samples)
    for name, found in slopes_of(rows, WARMUP_MINUTES * 60).items():
        is_judged = name == JUDGED
        cold, warm, last = levels_of(rows, name, WARMUP_MINUTES * 60)
        verdict = {True: Verdict.HELD, False: Verdict.MISSED, None: Verdict.OPEN}[found.verdict(BAR_MB_PER_H)]
        yield Line(
            name,
            "MB/h",
            (found.value,),
            bar=Bar(Of.FIGURE, Sign.BELOW, BAR_MB_PER_H) if is_judged else None,
            note=f"95 %: {found.low:+.2f} to {found.high:+.2f} MB/h; {cold:.1f} MB at first, "
            f"{warm:.1f} after {WARMUP_MINUTES:g} minutes, {last:.1f} at last",
            given=verdict if is_judged else None,
        )
    hours = rows[-1]["at_s"] / 3600
    if hours < LEAST_H:
        raise PeerUnusable(f"{samples.name} covers {hours:.2f} h, of {LEAST_H:g} at least")
