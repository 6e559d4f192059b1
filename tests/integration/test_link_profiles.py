"""The link of a real hub to the stand-in over lines that are bad: nothing is lost, nothing comes in disorder.

Bad lines and two outages in turn over one edge, short; as a campaign (`-m campaign`) each for itself,
many times. How long something lasts is counted in messages that each source publishes meanwhile.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from actors.manifest.hub_environment import HubEnvironment
from actors.upstream.protocol import UpstreamProtocol
from runtime.faults.line import Profile
from tests.integration.link_story import LinkStory
from tests.integration.linked_hub import LinkedHub
from tests.integration.network import MOBILE, NARROW, OUTAGES_MINUTES, SATELLITE

ROUTES = {"up": "FROM /messages/* INTO $upstream"}
MODULES, DEVICES = ("pump", "fan"), ("leaf",)
PER_S = 50.0  # of each source
MINUTE = 10  # messages of each source: 0.2 s of a campaign, and less of the short test
HASTY = HubEnvironment(cloud_operation_timeout_s=3.0)
PROTOCOLS = pytest.mark.parametrize("protocol", [UpstreamProtocol.MQTT, UpstreamProtocol.AMQP], ids=str)

Happen = Callable[[LinkStory, random.Random, float], None]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens to the line, as a function of the scale of its times; `times` in a campaign."""

    name: str
    happen: Happen
    times: int = 10


def outage(off_minutes: float, on_minutes: float) -> Trouble:
    def happen(story: LinkStory, chance: random.Random, scale: float) -> None:
        story.linked.line.cut()
        story.change()
        story.publish(round(off_minutes * MINUTE * scale))
        story.linked.line.restore()
        story.returned()
        story.publish(round(on_minutes * MINUTE * scale))

    return Trouble(f"{off_minutes}/{on_minutes} minutes off/on", happen)


def slow(name: str, profile: Profile, messages: int, times: int = 10) -> Trouble:
    def happen(story: LinkStory, chance: random.Random, scale: float) -> None:
        story.linked.line.profile = profile
        story.linked.line.reset()  # connections are to be opened over it, too
        story.change()
        story.publish(round(messages * scale))
        story.wait_for_changes()
        story.returned()
        story.linked.line.profile = Profile()

    return Trouble(name, happen, times)


def half_open(story: LinkStory, chance: random.Random, scale: float) -> None:
    story.linked.line.swallow()
    story.change()
    story.publish(round(100 * scale))
    story.linked.line.restore()
    story.returned()


def stranded(story: LinkStory, chance: random.Random, scale: float) -> None:
    story.linked.line.strand()
    story.change()
    story.flows()  # once each connection is found to be dead
    story.returned()


def reset_inside_packets(story: LinkStory, chance: random.Random, scale: float) -> None:
    line = story.linked.line
    line.reset_after(chance.randrange(1, 400))
    story.change()
    story.publish(round(50 * scale))
    line.reset_after(chance.randrange(4_000, 12_000), again=True)
    story.publish(round(100 * scale))
    line.reset_after(1 << 60)
    story.returned()


OUTAGES = tuple(outage(off, on) for off, on in OUTAGES_MINUTES)
LINES = (
    slow("600 ms ± 50 ms, 2 % of connections lost, 25 Mbit/s", SATELLITE, 100),
    slow("100 ms ± 10 ms", MOBILE, 100),
    slow("25 kbit/s", NARROW, 50, times=3),
    Trouble("half open", half_open),
    Trouble("half open, and nobody resets it", stranded, times=3),
    Trouble("reset inside a packet", reset_inside_packets),
)


@contextmanager
def told(seed: int, protocol: UpstreamProtocol) -> Iterator[LinkStory]:
    """Tell a story to its end, and what came of it."""
    with LinkedHub(ROUTES, MODULES, DEVICES, seed=seed, protocol=protocol, environment=HASTY) as linked:
        story = LinkStory(linked, PER_S)
        story.start()
        yield story
        story.end()
    resumed, answered = sorted(story.resumed_s), sorted(story.answered_s)
    print(
        f"seed {seed}, {len(resumed)} returns, {story.published} messages: flowing again after "
        f"{resumed[len(resumed) // 2]:.2f} s, {resumed[-1]:.2f} at most; methods answered after "
        f"{answered[len(answered) // 2]:.2f} s, {answered[-1]:.2f} at most"
    )


@PROTOCOLS
@pytest.mark.slow
def test_over_bad_lines_in_turn_everything_arrives_in_order_and_books_agree(
    protocol: UpstreamProtocol,
) -> None:
    chance = random.Random(20261121)
    with told(20261121, protocol) as story:
        troubles = [*chance.sample(OUTAGES, 2), *LINES]
        for trouble in chance.sample(troubles, len(troubles)):
            trouble.happen(story, chance, 0.1)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@PROTOCOLS
@pytest.mark.parametrize("trouble", [*OUTAGES, *LINES], ids=lambda trouble: trouble.name)
def test_over_a_bad_line_for_long_everything_arrives_in_order_and_books_agree(
    trouble: Trouble, protocol: UpstreamProtocol
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    chance = random.Random(seed)
    with told(seed, protocol) as story:
        for _ in range(trouble.times):
            trouble.happen(story, chance, 1.0)
