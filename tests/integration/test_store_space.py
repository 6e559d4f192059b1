"""The hub process with a disk that fills up, a limit, a damaged database, and storage folders of any kind."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging.mqtt.packets import PubAck, Publish
from runtime.storage.message_ledger import read_ledger
from tests.integration.hub_process import DEVICE, IOTHUB, HubProcess
from tests.integration.mqtt_client import MqttClient
from tests.waiting import wait_until

A, B = f"{DEVICE}/a", f"{DEVICE}/b"
ROUTES = {"b": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/b/inputs/in")'}
ENDPOINT = f"{DEVICE}/b/in"
AT_ONCE = 20
LIMIT_S = 30.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")

Make = Callable[..., HubProcess]


@pytest.fixture
def make() -> Iterator[Make]:
    hubs: list[HubProcess] = []

    def made(**settings: Any) -> HubProcess:
        hubs.append(HubProcess(ROUTES, modules=("a", "b"), **settings))
        hubs[-1].start()
        return hubs[-1]

    yield made
    for hub in hubs:
        hub.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def connect(hub: HubProcess, client_id: str) -> MqttClient:
    return MqttClient.connect(hub.plain_port, client_id, hub.token(client_id), IOTHUB)


def body(number: int) -> bytes:
    return b"%08d" % number + b"x" * 1000


def publish_until_refused(hub: HubProcess, first: int) -> int:
    """Publish numbered messages until the hub closes the connection; return how many were acknowledged."""
    client, acknowledged = connect(hub, A), 0
    with contextlib.suppress(AssertionError, OSError):
        while True:
            for number in range(first + acknowledged, first + acknowledged + AT_ONCE):
                client.publish(body(number))
            for _ in range(AT_ONCE):
                client.receive(PubAck)
                acknowledged += 1
    return acknowledged


def publish_all(hub: HubProcess, first: int, count: int) -> None:
    """Publish numbered messages, all of which are acknowledged."""
    client = connect(hub, A)
    for start in range(first, first + count, AT_ONCE):
        for number in range(start, start + AT_ONCE):
            client.publish(body(number))
        for _ in range(AT_ONCE):
            client.receive(PubAck)


def take(hub: HubProcess, count: int) -> list[int]:
    """Take so many messages as module b and return their numbers."""
    client = connect(hub, B)
    client.subscribe(f"devices/{DEVICE}/modules/b/inputs/#")
    numbers = []
    for _ in range(count):
        packet = client.receive(Publish)
        numbers.append(int(packet.payload[:8]))
        client.socket.sendall(PubAck(packet.packet_id).encode())
    client.socket.close()
    return numbers


def wait_for_puback(hub: HubProcess, number: int) -> float:
    """Publish one message, again and again, until it is acknowledged; return how long that took."""

    def is_taken() -> bool:
        try:
            return connect(hub, A).publish_and_wait(body(number))
        except (AssertionError, OSError):
            return False

    return wait_until(is_taken, lambda: "refused for ever:\n" + "\n".join(hub.log_lines()[-10:]), LIMIT_S)


def wait_until_delivered(hub: HubProcess, count: int) -> None:
    """Wait until the hub has forgotten what was taken: it does so some time later."""
    wait_until(
        lambda: read_ledger(hub.database).endpoints[ENDPOINT].delivered >= count,
        lambda: "\n".join(hub.log_lines()[-10:]),
        LIMIT_S,
    )


@needs_root
@pytest.mark.parametrize("killed", [False, True], ids=["going on", "killed while full"])
@pytest.mark.slow
def test_with_a_full_disk_the_hub_refuses_new_messages_delivers_the_rest_and_recovers_by_itself(
    make: Make, small_disk: Path, killed: bool
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (8 << 20))
    hub = make(message_db=str(small_disk / "edgeHub/hub.db"), max_store_bytes=1 << 40)

    stored = publish_until_refused(hub, 0)
    assert hub.wait_for_log("its disk is full; new messages are refused")
    assert not hub.database.with_name("hub.db-reserve").exists()
    more = publish_until_refused(hub, stored)  # what is left of an earlier write may take a few
    if killed:
        hub.kill()
        hub.start()
    taken = take(hub, stored)

    assert stored > 5000
    assert more <= AT_ONCE
    assert taken == list(range(stored))
    took_s = wait_for_puback(hub, 99_999_999)
    wait_until_delivered(hub, stored)
    ballast.unlink()
    publish_all(hub, stored, 3000)
    print(f"\n{stored} messages on a full disk of 24 MB; {took_s:.2f} s until the next was taken")
    assert hub.database.with_name("hub.db-reserve").exists()
    assert hub.stop() == 0
    ledger = hub.ledger()
    assert ledger.imbalances() == []
    assert ledger.endpoints[ENDPOINT].delivered >= stored


@needs_root
def test_a_full_disk_of_others_is_waited_out(make: Make, small_disk: Path) -> None:
    hub = make(message_db=str(small_disk / "edgeHub/hub.db"), max_store_bytes=1 << 40)
    assert connect(hub, A).publish_and_wait(body(0))
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass

    stored = 1 + publish_until_refused(hub, 1)
    (small_disk / "ballast").unlink()
    took_s = wait_for_puback(hub, stored)

    print(f"\n{stored} messages stored until refused; taken again after {took_s:.2f} s")
    assert take(hub, stored + 1) == list(range(stored + 1))


def test_at_its_limit_the_hub_refuses_until_some_is_delivered(make: Make) -> None:
    limit = 2_000_000
    hub = make(max_store_bytes=limit)

    stored = publish_until_refused(hub, 0)
    assert hub.wait_for_log("storeLimits.maxSizeBytes")
    size = hub.database.stat().st_size
    assert take(hub, stored) == list(range(stored))
    wait_for_puback(hub, stored)

    assert 0.7 * limit < stored * 1000 < limit
    assert size < 1.3 * limit
    assert hub.stop() == 0
    assert hub.ledger().imbalances() == []


def test_at_its_limit_the_oldest_make_way_when_that_is_the_policy(make: Make) -> None:
    hub = make(max_store_bytes=2_000_000, drops_oldest=True)

    publish_all(hub, 0, 6000)
    hub.wait_for_log("dropped: no space, and newer ones came")
    row = read_ledger(hub.database).endpoints[ENDPOINT]
    taken = take(hub, row.pending)

    assert taken == list(range(6000 - row.pending, 6000))
    assert row.dropped_by_reason == {"limit": 6000 - row.pending}
    assert row.pending > 500
    assert hub.stop() == 0
    assert hub.ledger().imbalances() == []


def test_a_damaged_database_is_replaced_at_the_start_and_its_rest_is_delivered(make: Make) -> None:
    hub = make()
    publish_all(hub, 0, 2000)
    hub.kill()
    with hub.database.open("r+b") as file:
        file.seek(4096 * (hub.database.stat().st_size // 4096 // 2))
        file.write(b"\xff" * 4096)

    hub.start()
    [told] = hub.wait_for_log("was damaged and is replaced")
    ledger = read_ledger(hub.database)
    taken = take(hub, ledger.endpoints[ENDPOINT].pending)

    assert ledger.epoch.number == 2
    assert taken == sorted(taken)
    assert len(taken) == ledger.epoch.salvaged > 1000
    assert f"{ledger.epoch.salvaged} salvaged, {ledger.epoch.lost} lost" in told
    assert ledger.imbalances() == []


def test_damage_found_while_running_ends_the_hub_and_the_next_start_salvages(make: Make) -> None:
    hub = make()
    publish_all(hub, 0, 40)

    connection = sqlite3.connect(hub.database)
    connection.execute("UPDATE bodies SET data = x'c1' WHERE first_seq = (SELECT max(first_seq) FROM bodies)")
    connection.commit()
    connection.close()

    client = connect(hub, B)
    client.subscribe(f"devices/{DEVICE}/modules/b/inputs/#")
    assert hub.process is not None
    assert hub.process.wait(20) == 70
    hub.start()

    hub.wait_for_log("was damaged and is replaced")
    ledger = read_ledger(hub.database)
    taken = take(hub, ledger.endpoints[ENDPOINT].pending)
    assert taken == list(range(len(taken)))
    assert len(taken) == 40 - (ledger.epoch.lost or 0) > 0


def test_messages_lie_in_the_storage_folder_and_nowhere_else(make: Make, tmp_path: Path) -> None:
    hub = make(message_db=str(tmp_path / "edgeHub/hub.db"))

    publish_all(hub, 0, 20)

    assert not list(hub.home.glob("hub.db*"))
    assert read_ledger(tmp_path / "edgeHub/hub.db").endpoints[ENDPOINT].pending == 20
    assert (tmp_path / "edgeHub").stat().st_mode & 0o777 == 0o700


def test_a_storage_folder_that_is_not_there_is_refused(make: Make, tmp_path: Path) -> None:
    hub = make(message_db=str(tmp_path / "unmounted/edgeHub/hub.db"))

    assert hub.process is not None
    assert hub.process.wait(20) == 2
    assert f"the storage folder '{tmp_path}/unmounted' is not there" in hub.log_lines()[-1]
    assert not (tmp_path / "unmounted").exists()


def test_two_edges_do_not_share_a_storage_folder(make: Make, tmp_path: Path) -> None:
    first = make(message_db=str(tmp_path / "edgeHub/hub.db"))
    publish_all(first, 0, 20)

    second = make(message_db=str(tmp_path / "edgeHub/hub.db"))

    assert second.process is not None
    assert second.process.wait(20) == 2
    assert "holds the messages of another edge that runs" in second.log_lines()[-1]
