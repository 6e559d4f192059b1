"""The table of restarts, with real processes: policy × how it ended × whose child it was then.

`child`: of the agent that decides. `adopted`: started by an agent that was killed, taken over by the next.
`unseen`: it ended while no agent lived, which the next one finds out.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.edge_process import EdgeProcess, shell
from tests.runtime.module_processes import wait_until_ended

POLICIES = ("always", "on-failure", "on-unhealthy", "never")
ENDINGS = ("exit0", "exit1", "killed")
SITUATIONS = ("child", "adopted", "unseen")

# Says that it runs, then waits to be told its exit code through a pipe of its own.
WAIT = 'echo {name} $$ >"$PIPE"; read -r code <"{told}"; exit "$code"'
EXIT_CODES = {"exit0": 0, "exit1": 1, "killed": 128 + signal.SIGKILL}
AT_ONCE_S = 1.0
FILE_TIME_S = 0.02  # files are stamped with a coarser clock
START_S = 5.0  # for a new agent to get as far


def name_of(policy: str, ending: str) -> str:
    return f"{policy}-{ending}"


@dataclass
class Story:
    """What became of all modules: after their first end, and after another one where they were restarted."""

    first_pids: dict[str, int] = field(default_factory=dict)
    second_pids: dict[str, int] = field(default_factory=dict)  # of those started again
    after_first: dict[str, dict[str, Any]] = field(default_factory=dict)
    after_second: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended_at_s: float = 0.0  # when the first of them ended
    agent_at_s: float = 0.0  # when the agent started that had to decide


class Stage:
    """An edge with a module for each policy and ending."""

    def __init__(self) -> None:
        self.edge = EdgeProcess()
        self.folder = Path(tempfile.mkdtemp(prefix="ea-told-"))
        self.names = [name_of(policy, ending) for policy in POLICIES for ending in ENDINGS]
        for name in self.names:
            os.mkfifo(self.folder / name)
        self.edge.deploy({name: self._module(name) for name in self.names})

    def _module(self, name: str) -> dict[str, Any]:
        policy, _, _ = name.rpartition("-")
        return shell(WAIT.format(name=name, told=self.folder / name), restartPolicy=policy)

    def pids(self, names: set[str]) -> dict[str, int]:
        """Wait until these modules say that they run."""
        said = dict(self.edge.line().split() for _ in names)
        assert set(said) == names
        return {name: int(pid) for name, pid in said.items()}

    def end(self, pids: dict[str, int], sessions: dict[str, int]) -> None:
        """End modules as their names say, and wait until they and their shims have."""
        for name, pid in pids.items():
            ending = name.rpartition("-")[2]
            if ending == "killed":
                os.kill(pid, signal.SIGKILL)
            else:
                (self.folder / name).write_text(f"{EXIT_CODES[ending]}\n")
        for session in sessions.values():
            wait_until_ended(session)

    def sessions(self, pids: dict[str, int]) -> dict[str, int]:
        """Return the pids of their shims, which write down how they end."""
        return {name: os.getsid(pid) for name, pid in pids.items()}

    def close(self) -> None:
        self.edge.close()
        shutil.rmtree(self.folder)


def is_restarted(policy: str, ending: str) -> bool:
    return policy == "always" or (policy != "never" and ending != "exit0")


RESTARTED = {name_of(p, e) for p in POLICIES for e in ENDINGS if is_restarted(p, e)}


def play(situation: str) -> Story:
    """Run a situation to its end."""
    stage, story = Stage(), Story()
    edge = stage.edge
    try:
        story.agent_at_s = time.time()
        edge.start()
        everybody = set(stage.names)
        story.first_pids = stage.pids(everybody)
        edge.wait_until(lambda now: all(now[name]["status"] == "running" for name in everybody))
        _end_in(situation, stage, story, story.first_pids)
        story.second_pids = stage.pids(RESTARTED)
        story.after_first = edge.wait_until(lambda now: _settled(now, everybody, story.second_pids))
        _end_in(situation, stage, story, story.second_pids)
        story.after_second = edge.wait_until(
            lambda now: (
                all(now[name]["pid"] == 0 for name in everybody)
                and all(now[name]["status"] == "backoff" for name in RESTARTED)
            )
        )
    finally:
        stage.close()
    return story


def _end_in(situation: str, stage: Stage, story: Story, pids: dict[str, int]) -> None:
    edge, sessions = stage.edge, stage.sessions(pids)
    if situation != "child":
        edge.kill_agent()
    if situation == "adopted":
        story.agent_at_s = time.time()
        edge.start()
        edge.wait_until(lambda now: all(now[name]["pid"] == pid for name, pid in pids.items()))
    story.ended_at_s = story.ended_at_s or time.time() - FILE_TIME_S
    stage.end(pids, sessions)
    if situation == "unseen":
        story.agent_at_s = time.time()
        edge.start()


def _settled(now: dict[str, dict[str, Any]], everybody: set[str], running: dict[str, int]) -> bool:
    return all(now[name]["pid"] == running.get(name, 0) for name in everybody)


@pytest.fixture(scope="module")
def stories() -> dict[str, Story]:
    return {}


@pytest.fixture
def story(stories: dict[str, Story], situation: str) -> Story:
    if situation not in stories:
        stories[situation] = play(situation)
    return stories[situation]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_started_again_when_and_how_it_counts(story: Story, policy: str, ending: str) -> None:
    name = name_of(policy, ending)
    now = story.after_first[name]

    if is_restarted(policy, ending):
        assert now["status"] == "running"
        assert now["restarts"] == 1
        assert now["pid"] == story.second_pids[name] != story.first_pids[name]
        decided_s = max(story.ended_at_s, story.agent_at_s)
        assert story.ended_at_s < now["since_s"] < decided_s + START_S
    else:
        assert now["status"] == ("stopped" if ending == "exit0" else "failed")
        assert now["restarts"] == 0
        assert now["since_s"] >= story.ended_at_s
    assert now["exit_code"] == EXIT_CODES[ending]
    assert now["exit_signal"] == (signal.SIGKILL if ending == "killed" else None)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", sorted(RESTARTED))
def test_the_second_end_in_a_row_waits_whoever_saw_it(story: Story, name: str) -> None:
    now = story.after_second[name]

    assert now["status"] == "backoff"
    assert now["restarts"] == 1
    assert now["exit_code"] == EXIT_CODES[name.rpartition("-")[2]]
    assert "crash 2 in a row; next start at" in now["description"]
