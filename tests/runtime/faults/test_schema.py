"""What a script says wrong is told with line and column, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from messaging.errors import ConfigError
from runtime.faults import schema
from runtime.faults.doing import CLASSES
from runtime.faults.expectation_table import EXPECTATIONS
from runtime.faults.fault_table import FAULTS
from runtime.faults.reference import reference
from runtime.faults.scenario import After, At, Every
from runtime.faults.yaml_reader import Spread

ROOT = Path(__file__).parents[3]
SCENARIOS = sorted((ROOT / "scripts" / "faults").glob("*.yaml"))
GOOD = """\
version: 1
about: A hub is killed.
edge:
  routes:
    all: {output: out, into: near}
load:
  rate: 100/s
  consumers:
    near: always
steps:
  - at: 1 s
    fault: kill
    who: hub
expect:
  lost: 0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "script.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        pytest.param(
            "fault: kill", "fault: kil", "12:12", "'kil' is not known; did you mean 'kill'?", id="fault"
        ),
        pytest.param(
            "fault: kill",
            "fault: explode",
            "12:12",
            "'explode' is not known; known here: kill, stop",
            id="far",
        ),
        pytest.param(
            "at: 1 s",
            "at: 1 sec",
            "11:9",
            "'sec' is no unit of a time; there are ms, s, min, h, d",
            id="unit",
        ),
        pytest.param(
            "at: 1 s", "at: 1", "11:9", "'1' is no time; write a number and one of ms, s", id="no unit"
        ),
        pytest.param("at: 1 s", "at: 1 MB", "11:9", "'MB' is no unit of a time", id="unit of a size"),
        pytest.param("at: 1 s", "at: -1 s", "11:9", "'-1 s' is less than nothing", id="negative"),
        pytest.param("at: 1 s", "at: 1 s ± 2 s", "11:9", "'1 s ± 2 s' may be less than nothing", id="spread"),
        pytest.param("at: 1 s", "every: 1 s", "11:5", "`every` comes with `times`", id="every without times"),
        pytest.param(
            "at: 1 s", "at: 1 s\n    times: 3", "11:5", "`every` comes with `times`", id="at with times"
        ),
        pytest.param(
            "at: 1 s", "at: 1 s\n    after: start", "11:5", "one of `at`, `every` and `after`", id="two times"
        ),
        pytest.param(
            "at: 1 s", "after: recoverd", "11:12", "no event; did you mean 'recovered'?", id="event"
        ),
        pytest.param(
            "at: 1 s", "after: step two", "11:12", "there is no other step called 'two'", id="no such step"
        ),
        pytest.param(
            "who: hub", "who: hup", "13:10", "'hup' is not known; did you mean 'hub'?", id="process"
        ),
        pytest.param(
            "who: hub",
            "whom: hub",
            "13:5",
            "'whom' is not known of the fault `kill`; did you mean 'who'?",
            id="field",
        ),
        pytest.param("    who: hub\n", "", "11:5", "'who' is missing of the fault `kill`", id="missing"),
        pytest.param(
            "fault: kill\n    who: hub",
            "fault: cut link\n    for: 1 s",
            "12:12",
            "needs an edge with `cloud: behind a line`",
            id="no line",
        ),
        pytest.param(
            "fault: kill\n    who: hub",
            "fault: full disk\n    for: 1 s",
            "12:12",
            "needs an edge with `disk`",
            id="no disk",
        ),
        pytest.param(
            "fault: kill\n    who: hub",
            "fault: kill actor\n    actor: store",
            "13:12",
            "'store' is no address",
            id="address",
        ),
        pytest.param(
            "fault: kill\n    who: hub",
            "fault: drop envelopes\n    to: hub/store\n    kind: Apend",
            "14:11",
            "no kind of message; did you mean 'Append'?",
            id="kind",
        ),
        pytest.param(
            "fault: kill\n    who: hub",
            "fault: drop client\n    client: nera",
            "13:13",
            "'nera' is not known; did you mean 'near'?",
            id="client",
        ),
        pytest.param("lost: 0", "lost: 5", "15:9", "'5' is not 0", id="some may be lost"),
        pytest.param(
            "lost: 0",
            "lots: 0",
            "15:3",
            "'lots' is not known of `expect`; did you mean 'lost'?",
            id="expectation",
        ),
        pytest.param(
            "lost: 0",
            "expired: at least 1",
            "15:12",
            "nothing can expire: no route has a time to live",
            id="impossible",
        ),
        pytest.param(
            "lost: 0",
            "salvaged: at least 1",
            "15:13",
            "no step damages the database",
            id="impossible salvage",
        ),
        pytest.param(
            "lost: 0",
            "upstream recovered: within 5 s",
            "15:23",
            "no route leads to the cloud",
            id="impossible upstream",
        ),
        pytest.param(
            "lost: 0",
            "restarts: {edgeHob: 1}",
            "15:13",
            "'edgeHob' does not run here",
            id="restarts of nobody",
        ),
        pytest.param(
            "lost: 0",
            "restarts: {edgeHub: 3 to 1}",
            "15:23",
            "the first number is above the second",
            id="range",
        ),
        pytest.param(
            "lost: 0",
            "memory slope: below 1 s/min",
            "15:17",
            "'s' is no unit of a size",
            id="slope in seconds",
        ),
        pytest.param("lost: 0", "recovered: 5 s", "15:14", "write `within 5 s`", id="within"),
        pytest.param("rate: 100/s", "rate: 100", "7:9", "'100' is no rate; write 200/s", id="rate"),
        pytest.param(
            "rate: 100/s", "rate: 100/s\n  size: 8 B", "8:9", "a message has 32 bytes at least", id="size"
        ),
        pytest.param("into: near", "into: far", "5:30", "'far' is no consumer of the load", id="consumer"),
        pytest.param(
            "near: always\nsteps",
            "near: always\n    far: always\nsteps",
            "10:10",
            "no route leads here",
            id="nothing for it",
        ),
        pytest.param(
            "near: always\nsteps", "near: allways\nsteps", "9:11", "did you mean 'always'?", id="presence"
        ),
        pytest.param(
            "edge:\n",
            "edge:\n  settings: {log_levl: info}\n",
            "4:14",
            "did you mean 'log_level'?",
            id="setting",
        ),
        pytest.param(
            "edge:\n",
            "edge:\n  settings: {stop_grace_s: soon}\n",
            "4:28",
            "'soon' is not allowed",
            id="value of a setting",
        ),
        pytest.param(
            "edge:\n",
            "edge:\n  modules: {x: {restart: never}}\n",
            "4:16",
            "either a `command` or an `image`",
            id="module",
        ),
        pytest.param("version: 1", "version: 2", "1:10", "'2' is not 1", id="version"),
        pytest.param("version: 1\n", "", "1:1", "'version' is missing", id="no version"),
        pytest.param(
            "about: A hub", "about: A: hub", "2:9", "mapping values are not allowed here", id="not YAML"
        ),
        pytest.param("load:", "load: {rate: 1/s}\nload:", "7:1", "'load' is here twice", id="twice"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_way_out(
    tmp_path: Path, old: str, new: str, place: str, message: str
) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))

    with pytest.raises(ConfigError) as refused:
        schema.load(path)

    assert str(refused.value).startswith(f"{path}:{place}: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "it is empty; see `edge-actors faults reference`", id="empty"),
        pytest.param(b"\xff\xfe", "it is not UTF-8 at byte 0", id="not UTF-8"),
        pytest.param(b"- a\n- b\n", "`name: value` lines are expected here", id="a list"),
        pytest.param(b"a: &x\n  b: *x\n", "'a' is not known", id="an alias of itself"),
        pytest.param(b"\x00", "special characters are not allowed", id="a zero byte"),
    ],
)
def test_a_file_that_is_no_script_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "script.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"script\.yaml") as refused:
        schema.load(path)

    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        schema.load(tmp_path / "none.yaml")


def test_steps_have_their_times(tmp_path: Path) -> None:
    steps = """\
  - every: 10 s ± 3 s
    times: 4
    name: kills
    fault: kill
    who: [hub, agent]
  - after: step kills
    plus: 500 ms
    fault: reboot
    off: 1 s
"""
    text = GOOD.replace("at: 1 s", "at: 2 s").replace("expect:", f"{steps}expect:")

    scenario = schema.load(write(tmp_path, text))

    assert [step.when for step in scenario.steps] == [
        At(Spread(2.0)),
        Every(Spread(10.0, 3.0), 4),
        After("step kills", Spread(0.5)),
    ]
    assert scenario.steps[1].values == {"who": ("hub", "agent"), "settle": 0.0}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_scenarios_of_the_project_can_be_read(path: Path) -> None:
    scenario = schema.load(path)

    assert scenario.steps
    assert {"lost", "ledger", "dead actors", "left after down"} <= {one.name for one in scenario.expect}


def test_there_is_something_behind_each_fault_and_a_scenario_with_it() -> None:
    used = {step.fault for path in SCENARIOS for step in schema.load(path).steps}

    assert set(CLASSES) == set(FAULTS)
    assert used == set(FAULTS)
    assert len(SCENARIOS) >= 25


def test_each_expectation_is_used_by_a_scenario() -> None:
    used = {one.name for path in SCENARIOS for one in schema.load(path).expect}

    assert used == set(EXPECTATIONS)


def test_the_script_of_the_readme_can_be_read(tmp_path: Path) -> None:
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Break it\n")
    text = rest.split("```yaml\n")[1].split("```")[0]

    scenario = schema.load(write(tmp_path, text))

    assert [step.fault for step in scenario.steps] == ["cut link", "kill"]


def test_a_power_cut_of_a_disk_that_is_not_recorded_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("fault: kill\n    who: hub", "fault: power cut").replace(
        "edge:\n", "edge:\n  disk: 8 MB\n"
    )

    with pytest.raises(
        ConfigError, match=r":4:9: `power cut` is about the disk of the home; leave out `disk`"
    ):
        schema.load(write(tmp_path, text))


def test_the_reference_page_is_what_the_format_says() -> None:
    assert (ROOT / "runtime" / "docs" / "FAULTS.md").read_text(encoding="utf-8") == reference(), (
        "write it anew: edge-actors faults reference > runtime/docs/FAULTS.md"
    )
