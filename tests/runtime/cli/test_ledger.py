from pathlib import Path

import pytest

from actors.hub import config as hub_config
from actors.hub.config import HubConfig
from actors.store.stored import DEFAULT_PRIORITY, Match, Segment
from messaging.upstream_queues import upstream_queue
from runtime.cli.ledger import TERMS
from runtime.storage.message_db import MessageDb
from runtime.storage.message_salvage import make_sound
from runtime.storage.message_schema import condemn
from tests.runtime.cli.conftest import EdgeActors

NOW_S = 1_700_000_000.0
SINK = "$upstream"


@pytest.fixture
def database(home: Path) -> MessageDb:
    """Of an edge that took five messages: one without a route, of the others three are done with."""
    home.mkdir()
    database = MessageDb.open(home / "hub.db")
    match = Match(SINK, DEFAULT_PRIORITY, None)
    with database.transaction():
        database.append([Segment((match,), [b"h"], [(0, b"body")] * 4)], NOW_S)
        database.append([Segment((), [b"h"], [(0, b"body")])], NOW_S)
    first = database.read(SINK, -1, 10, 10_000, NOW_S)[0].first_position
    with database.transaction():
        database.delivered({SINK: [(first, first + 1)]})
        database.dropped(SINK, [(first + 2, first + 2)], "limit")
    return database


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_the_ledger_is_read_from_a_running_and_a_stopped_edge(
    running: bool, database: MessageDb, edge_actors: EdgeActors
) -> None:
    if not running:
        database.close()

    found = edge_actors("ledger", "--json").json

    assert found["total"] == {"received": 5, "unrouted": 1, "routed": 4}
    assert found["endpoints"] == {
        SINK: {
            "accepted": 4,
            "delivered": 2,
            "expired": 0,
            "dropped": 1,
            "dropped_by_reason": {"limit": 1},
            "pending": 1,
        }
    }
    if running:
        database.close()


def test_the_table_shows_the_equations(database: MessageDb, edge_actors: EdgeActors) -> None:
    database.close()

    lines = edge_actors("ledger").out.splitlines()

    assert lines[0] == "received 5 = unrouted 1 + routed 4"
    assert lines[2].split() == ["ENDPOINT", *(term.upper() for term in TERMS)]
    assert lines[3].split() == [SINK, "4", "2", "0", "1", "1", "1", "dropped:", "limit"]


def test_the_queues_of_the_senders_to_the_cloud_are_one_endpoint(home: Path, edge_actors: EdgeActors) -> None:
    home.mkdir()
    database = MessageDb.open(home / "hub.db")
    with database.transaction():
        for source in ("edge/a", "leaf"):
            match = Match(upstream_queue(source), DEFAULT_PRIORITY, None)
            database.append([Segment((match,), [b"h"], [(0, b"body")] * 3)], NOW_S)
            database.drop_queue(match.endpoint_id, "removed", 1)
    with database.transaction():
        database.drop_queue(upstream_queue("leaf"), "limit", 1)
    database.close()

    assert edge_actors("ledger", "--json").json["endpoints"] == {
        "iothub": {
            "accepted": 6,
            "delivered": 0,
            "expired": 0,
            "dropped": 3,
            "dropped_by_reason": {"removed": 2, "limit": 1},
            "pending": 3,
        }
    }


def test_a_ledger_that_does_not_balance_fails_the_command(
    database: MessageDb, edge_actors: EdgeActors
) -> None:
    database._connection.execute("DELETE FROM queue")  # what a bug would do
    database.close()

    told = edge_actors("ledger")

    assert told.code == 1
    assert told.err.startswith(f"error: the ledger does not balance: {SINK}: accepted 4 is not")


def test_a_home_that_was_never_run_has_no_ledger(home: Path, edge_actors: EdgeActors) -> None:
    told = edge_actors("ledger")

    assert told.code == 1
    assert told.err.startswith(f"error: message database {home}/hub.db: there is none")
    assert not home.exists()


def test_an_edge_whose_hub_is_about_to_make_the_database_has_an_empty_ledger(
    home: Path, edge_actors: EdgeActors
) -> None:
    home.mkdir()
    config = HubConfig("edge1", "iothub.test", ("localhost",), "cert.pem", "key.pem", (), None)
    (home / "hub.json").write_bytes(hub_config.encode(config))

    told = edge_actors("ledger")

    assert (told.code, told.out, told.err) == (0, "received 0 = unrouted 0 + routed 0\n", "")
    assert not (home / "hub.db").exists()


def test_a_new_epoch_is_told_with_what_was_lost(home: Path, edge_actors: EdgeActors) -> None:
    home.mkdir()
    database = MessageDb.open(home / "hub.db")
    with database.transaction():
        database.append([Segment((Match(SINK, DEFAULT_PRIORITY, None),), [b"h"], [(0, b"x")] * 3)], NOW_S)
    database.close()
    condemn(home / "hub.db", "a page is torn")
    make_sound(home / "hub.db", NOW_S)

    text = edge_actors("ledger").out
    found = edge_actors("ledger", "--json").json

    assert text.startswith("epoch 2: counted anew since the message database was found damaged; ")
    assert "3 salvaged, 0 lost" in text
    assert found["epoch"]["number"] == 2
    assert found["epoch"]["reason"] == "a page is torn"
    assert found["total"] == {"received": 3, "unrouted": 0, "routed": 3}
