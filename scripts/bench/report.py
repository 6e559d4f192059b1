"""A report of measurements: figures beside those of a peer, bars, and what came of them. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Of(StrEnum):
    """What a bar is set for."""

    FIGURE = "figure"
    RATIO = "ratio"  # of the figure to the peer's
    MORE = "more"  # than the peer's figure, in the unit of both


class Sign(StrEnum):
    AT_LEAST = "≥"
    AT_MOST = "≤"
    BELOW = "<"


class Verdict(StrEnum):
    HELD = "held"
    MISSED = "missed"
    OPEN = "not settled"


@dataclass(frozen=True, slots=True)
class Bar:
    of: Of
    sign: Sign
    limit: float

    def verdict(self, value: float) -> Verdict:
        held = {
            Sign.AT_LEAST: value >= self.limit,
            Sign.AT_MOST: value <= self.limit,
            Sign.BELOW: value < self.limit,
        }[self.sign]
        return Verdict.HELD if held else Verdict.MISSED


@dataclass(frozen=True, slots=True)
class Line:
    """One figure, the median of its rounds, beside the peer's of the same run."""

    name: str
    unit: str
    rounds: tuple[float, ...]
    peer: str = ""
    peer_rounds: tuple[float, ...] = ()
    bar: Bar | None = None
    note: str = ""
    # A figure with an interval, such as a slope, comes with what the bar makes of it: `Verdict.OPEN` when the
    # interval holds the bar.
    given: Verdict | None = None

    @property
    def figure(self) -> float:
        return middle(self.rounds)

    @property
    def peer_figure(self) -> float | None:
        return middle(self.peer_rounds) if self.peer_rounds else None

    @property
    def ratio(self) -> float | None:
        other = self.peer_figure
        return self.figure / other if other else None

    @property
    def verdict(self) -> Verdict | None:
        """Return what came of the bar; None without one. What could not be measured holds none."""
        if self.bar is None or self.given is not None:
            return self.given
        values = {Of.FIGURE: self.figure, Of.RATIO: self.ratio}
        if self.bar.of is Of.MORE:
            value = None if self.peer_figure is None else self.figure - self.peer_figure
        else:
            value = values[self.bar.of]
        return Verdict.MISSED if value is None or math.isnan(value) else self.bar.verdict(value)


@dataclass(frozen=True, slots=True)
class Section:
    """What one measurement said; `problem` says why it could not be made, or what spoils it."""

    name: str
    about: str
    took_s: float
    lines: tuple[Line, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    date: str
    commit: str
    machine: dict[str, Any]
    peers: dict[str, str]  # name → version and configuration
    quick: bool
    sections: tuple[Section, ...] = field(default=())

    def judged(self, verdict: Verdict) -> list[Line]:
        return [line for section in self.sections for line in section.lines if line.verdict is verdict]

    def problems(self) -> list[Section]:
        return [section for section in self.sections if section.problem]

    def exit_status(self) -> int:
        """Return 0 when everything was measured and holds, 1 for a bar that does not, 2 for a failure."""
        if self.problems():
            return 2
        return int(bool(self.judged(Verdict.MISSED) or self.judged(Verdict.OPEN)))


def middle(rounds: Sequence[float]) -> float:
    return statistics.median(rounds) if rounds else math.nan


def number(value: float | None) -> str:
    """Return a figure with as many digits as say something."""
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 or not size else f"{value:.3f}"


def bar_text(bar: Bar | None) -> str:
    if bar is None:
        return ""
    limit = f"{bar.limit:,g}"
    what = {Of.FIGURE: limit, Of.RATIO: f"{limit} ×", Of.MORE: f"peer + {limit}"}[bar.of]
    return f"{bar.sign} {what}"


def spread(rounds: Sequence[float]) -> str:
    """Return least and most of several rounds, nothing of one."""
    return f" ({number(min(rounds))} … {number(max(rounds))})" if len(rounds) > 1 else ""


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for a file; figures that are none are null there."""

    def known(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value

    def line(of: Line) -> dict[str, Any]:
        return {
            "name": of.name,
            "unit": of.unit,
            "figure": known(of.figure),
            "rounds": [known(value) for value in of.rounds],
            "peer": of.peer or None,
            "peer_figure": known(of.peer_figure),
            "peer_rounds": [known(value) for value in of.peer_rounds],
            "ratio": known(of.ratio),
            "bar": asdict(of.bar) if of.bar else None,
            "verdict": of.verdict,
            "note": of.note,
        }

    return {
        "date": report.date,
        "commit": report.commit,
        "quick": report.quick,
        "machine": report.machine,
        "peers": report.peers,
        "sections": [
            {
                "name": section.name,
                "about": section.about,
                "took_s": round(section.took_s, 1),
                "problem": section.problem or None,
                "lines": [line(each) for each in section.lines],
            }
            for section in report.sections
        ],
    }


def as_markdown(report: Report) -> str:
    """Return the report for readers."""
    parts = [_head(report), _verdicts(report)]
    parts += [_section(section) for section in report.sections]
    parts.append(_peers(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Report) -> str:
    about = "; ".join(f"{name} {value}" for name, value in report.machine.items())
    took_s = sum(section.took_s for section in report.sections)
    text = (
        f"# What was measured\n\n{report.date}, commit `{report.commit}`. {about}. "
        f"Made by `scripts/bench/all` in {took_s / 60:.0f} minutes, JSON beside it.\n\n"
        "Figures are medians of their rounds, least and most in brackets, each beside a peer or a limit that "
        "was measured in the same run with the same generator. The ratio is figure to peer."
    )
    if report.quick:
        text += (
            "\n\n**Made with `--quick`: one short round of each. It shows that it runs and is no evidence.**"
        )
    return text


def _verdicts(report: Report) -> str:
    held = len(report.judged(Verdict.HELD))
    lines = [f"**{held} bars held, {len(report.judged(Verdict.MISSED))} missed.**"]
    for verdict in (Verdict.MISSED, Verdict.OPEN):
        lines += [
            f"- {verdict}: {line.name}: {_value_of(line)}, bar {bar_text(line.bar)}"
            for line in report.judged(verdict)
        ]
    lines += [
        f"- not measured, or spoiled: {section.name}: {section.problem.splitlines()[0]}"
        for section in report.problems()
    ]
    return lines[0] + "\n" + "".join(f"\n{line}" for line in lines[1:])


def _value_of(line: Line) -> str:
    """Return the value that a bar is set for."""
    if line.bar is not None and line.bar.of is Of.RATIO:
        return f"{number(line.ratio)} ×"
    if line.bar is not None and line.bar.of is Of.MORE and line.peer_figure is not None:
        return f"{number(line.figure)} {line.unit}, peer + {number(line.figure - line.peer_figure)}"
    return f"{number(line.figure)} {line.unit}"


def _section(section: Section) -> str:
    text = f"## {section.name}\n\n{section.about} ({section.took_s:.0f} s)"
    if section.problem:
        text += f"\n\n**Problem:**\n\n```\n{section.problem}\n```"
    if not section.lines:
        return text
    rows = [
        "| what | figure | unit | peer or limit | its figure | ratio | bar | |",
        "|---|---:|---|---|---:|---:|---|---|",
    ]
    for line in section.lines:
        verdict = f"**{line.verdict}**" if line.verdict not in (None, Verdict.HELD) else line.verdict or ""
        cells = (
            line.name,
            number(line.figure) + spread(line.rounds),
            line.unit,
            line.peer,
            "" if line.peer_figure is None else number(line.peer_figure) + spread(line.peer_rounds),
            "" if line.ratio is None else number(line.ratio),
            bar_text(line.bar),
            verdict,
        )
        rows.append("| " + " | ".join(cells) + " |")
    notes = [f"- {line.name}: {line.note}" for line in section.lines if line.note]
    return "\n\n".join(part for part in (text, "\n".join(rows), "\n".join(notes)) if part)


def _peers(report: Report) -> str:
    parts = [f"{name}:\n\n```\n{text.strip()}\n```" for name, text in report.peers.items()]
    return "\n\n".join(["## Peers", *parts]) if parts else ""
