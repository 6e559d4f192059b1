"""Scenarios are read as they are written, and what is wrong in one is told with its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from actors.stored import DEFAULT_PRIORITY
from scripts.campaign.scenario import (
    FOLDER,
    BadScenario,
    Control,
    Kill,
    PowerCut,
    Presence,
    RouteOfLoad,
    Spread,
    load,
    names,
)

GOOD = """\
about: Everything there is.
edge:
  routes:
    first: {output: out, into: near, priority: 0}
    second: {output: out, into: far, time to live: 1 min}
load:
  publishers: 2
  rate: 12.5/s
  consumers:
    near: always
    far: {there: 300 ms, away: 2 s ± 500 ms}
steps:
  - every: 1 s ± 1 s
    times: 7
    fault: power cut
    images: 3
expect:
  lost: 0
  duplicates: within 100 messages
  ledger: balanced
  expired: at least 2
controls:
  synchronous=OFF: 4
"""


def read(tmp_path: Path, text: str) -> str:
    """Return what is wrong with a scenario, without the folder."""
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BadScenario) as caught:
        load(path)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_scenario_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)

    scenario = load(path)

    assert (scenario.name, scenario.about) == ("mine", "Everything there is.")
    assert scenario.routes == {
        "first": RouteOfLoad("out", "near", 0, 0),
        "second": RouteOfLoad("out", "far", DEFAULT_PRIORITY, 60),
    }
    assert (scenario.load.publishers, scenario.load.rate_per_s) == (2, 12.5)
    assert scenario.load.consumers == {"near": None, "far": Presence(Spread(0.3), Spread(2.0, 0.5))}
    assert (scenario.step.every, scenario.step.times) == (Spread(1.0, 1.0), 7)
    assert scenario.step.fault == PowerCut(images=3)
    assert scenario.expect == {"lost": 0, "duplicates": 100, "ledger": 0, "expired": 2}
    assert scenario.controls == (Control("synchronous=OFF", 4),)
    assert scenario.outputs == ("out",)


def test_the_scenarios_of_the_campaign_promise_their_totals() -> None:
    found = {name: load(FOLDER / f"{name}.yaml") for name in names()}

    assert set(found) == {"kill-edge", "kill-hub", "power-cut"}
    assert found["kill-hub"].step.times == 200
    cut = found["power-cut"].step
    assert isinstance(cut.fault, PowerCut)
    assert cut.times * cut.fault.images == 50
    assert isinstance(found["kill-edge"].step.fault, Kill)
    assert all(scenario.expect["lost"] == 0 for scenario in found.values())
    assert {control.defect for control in found["power-cut"].controls} == {
        "PUBACK before commit",
        "synchronous=OFF",
    }


def test_a_spread_is_drawn_evenly_around_its_middle() -> None:
    chance = random.Random(1)

    drawn = [Spread(2.0, 0.5).draw(chance) for _ in range(1000)]

    assert 1.5 <= min(drawn) < 1.6
    assert 2.4 < max(drawn) <= 2.5


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("power cut", "powercut", "s.yaml:15:12: 'powercut' is not known; did you mean 'power cut'?"),
        ("fault: power cut", "falut: x", "s.yaml:13:5: 'fault' is missing"),
        ("images: 3", "image: 3", "s.yaml:16:5: 'image' is not known; did you mean 'images'?"),
        ("images: 3", "images: 0", "s.yaml:16:13: 0 is not in 1 to 1e+06"),
        ("images: 3", "images: some", "s.yaml:16:13: 'some' is no number"),
        ("times: 7", "", "s.yaml:13:5: 'times' is missing"),
        ("12.5/s", "12 per s", "s.yaml:8:9: '12 per s' is no rate; write 200/s"),
        ("300 ms", "300", "s.yaml:11:18: '300' is no time; write a number and one of ms, s, min, h"),
        (
            "300 ms",
            "300 days",
            "s.yaml:11:18: '300 days' is no time; write a number and one of ms, s, min, h",
        ),
        ("1 s ± 1 s", "1 s ± 2 s", "s.yaml:13:12: '1 s ± 2 s' may be less than nothing"),
        ("1 min", "1500 ms", "s.yaml:5:52: '1500 ms': a route's time to live is in whole seconds, 1 or more"),
        ("priority: 0", "priority: 10", "s.yaml:4:48: 10 is not in 0 to 9"),
        ("always", "allways", "s.yaml:10:11: 'allways' is not known; did you mean 'always'?"),
        ("into: near", "into: nowhere", "s.yaml:3:3: a route leads into 'nowhere', which is no"),
        ("    near: always\n", "    near: always\n    b: always\n", "s.yaml:7:3: no route leads into the"),
        (
            "    second:",
            "    third: {output: out, into: near}\n    second:",
            "s.yaml:3:3: two routes lead from one output into one consumer",
        ),
        ("    first:", "    second:", "s.yaml:5:5: 'second' is here twice"),
        ("    first:", "    First one:", "s.yaml:4:5: 'First one' is no name"),
        ("lost: 0", "lost: 5", "s.yaml:18:9: 5 is not in 0 to 0"),
        ("lost: 0", "losses: 0", "s.yaml:18:3: 'losses' is not known; did you mean 'lost'?"),
        ("balanced", "fine", "s.yaml:20:11: 'fine' is not known; known here: balanced"),
        ("within 100 messages", "few", "s.yaml:19:15: 'few': write `within 3000 messages`"),
        ("at least 2", "some", "s.yaml:21:12: 'some': write `at least 1`"),
        (", time to live: 1 min", "", "s.yaml:18:3: nothing can expire: no route has a time to live"),
        ("synchronous=OFF", "fsync=OFF", "s.yaml:23:3: 'fsync=OFF' is not known; did you mean"),
        ("about: Everything", "about: [Everything", "s.yaml:2:5: expected ',' or ']', but got ':'"),
        ("steps:\n  - every", "steps:\n    every", "s.yaml:13:5: a list is expected here"),
        (GOOD, "", "s.yaml: empty; copy one of"),
        (GOOD, "text", "s.yaml:1:1: `name: value` lines are expected here"),
    ],
    ids=lambda value: value.strip().replace("\n", " ")[:24],
)
def test_what_is_wrong_is_told_with_line_and_column(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert GOOD.count(old) >= 1
    assert read(tmp_path, GOOD.replace(old, new, 1)).startswith(problem)


def test_a_control_that_its_fault_cannot_show_is_refused(tmp_path: Path) -> None:
    kills = GOOD.replace(
        "fault: power cut\n    images: 3", "fault: kill\n    processes: [hub]\n    settle: 1"
    )

    assert read(tmp_path, kills) == "s.yaml:24:3: a kill loses nothing that was written, synced or not"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadScenario, match=r"nothing\.yaml.*No such file"):
        load(tmp_path / "nothing.yaml")
