"""What `edge-actors topics` shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.broker.topics import LONGEST_TOLD, TOLD_FILTERS, described
from actors.hub import config as hub_config
from actors.hub.config import HubConfig
from messaging.broker.delivery import WireOutlet
from messaging.broker.engine import Broker
from messaging.mqtt.packets import Publish
from runtime.cli.topics import _client_row, _topic_row
from tests.runtime.cli.conftest import EdgeActors


def broker_with_traffic() -> Broker:
    broker = Broker()
    outlet = WireOutlet(lambda data: None, lambda: None, lambda: None)
    session, _ = broker.attach("edge1/m1", outlet, clean=False, now_s=0.0)
    broker.subscribe(session, "news/#", 1, 0.0)
    broker.publish([Publish("news/today", b"x", 0)] * 3, session, 0.0, 0.0)
    broker.publish([Publish("nobody/listens", b"x", 0)], None, 0.0, 0.0)
    return broker


def test_topics_and_clients_have_their_counts_the_busiest_first() -> None:
    about = described(broker_with_traffic(), {"news/today": 2.0})

    assert (about["published"], about["sent"], about["dropped"]) == (4, 3, 0)
    assert [_topic_row(topic) for topic in about["topics"]] == [
        ("news/today", 3, "2"),
        ("nobody/listens", 1, "0"),
    ]
    assert [_client_row(client) for client in about["clients"]] == [
        ("edge1/m1", "connected", 3, 3, 0, 0, 0, "news/# (1)")
    ]


def test_what_clients_chose_cannot_make_the_answer_large() -> None:
    broker = Broker()
    outlet = WireOutlet(lambda data: None, lambda: None, lambda: None)
    session, _ = broker.attach("c", outlet, clean=True, now_s=0.0)
    for number in range(TOLD_FILTERS + 5):
        broker.subscribe(session, f"{number}/{'x' * 1000}", 0, 0.0)

    [client] = described(broker, {})["clients"]

    assert (len(client["filters"]), client["moreFilters"]) == (TOLD_FILTERS, 5)
    assert max(map(len, client["filters"])) == LONGEST_TOLD + 1
    assert _client_row(client)[-1].endswith("5 more")  # type: ignore[attr-defined]


def test_without_a_broker_it_says_how_to_have_one(home: Path, edge_actors: EdgeActors) -> None:
    home.mkdir(mode=0o700)
    config = HubConfig("edge1", "iothub.test", (), "", "", (), None)
    (home / "hub.json").write_bytes(hub_config.encode(config))

    told = edge_actors("topics")

    assert told.code == 2
    assert "`mqttBroker`" in told.err


def test_without_an_edge_it_says_that_none_runs(home: Path, edge_actors: EdgeActors) -> None:
    told = edge_actors("topics")

    assert told.code != 0
    assert "no edge runs" in told.err


@pytest.mark.parametrize("arguments", [("topics", "--help")])
def test_help_says_what_the_numbers_are(edge_actors: EdgeActors, arguments: tuple[str, ...]) -> None:
    assert "subscribe" in edge_actors(*arguments).out
