"""Bridges between the broker of a real hub and mosquitto, over lines that break."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.manifest.hub_environment import HubEnvironment
from messaging.broker.bridges import UPSTREAM, BridgeRule
from runtime.faults.line import Line
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate
from tests.integration.bridge_world import (
    IN,
    OUT,
    bridges,
    broker_spec,
    hub_with,
    make_child,
    module,
    set_access,
    set_rules,
    wait_for_bridge,
)
from tests.integration.broker_world import CONNECT, change_policy, spec, statement
from tests.integration.hub_process import HubProcess
from tests.integration.mosquitto import LIMIT_S, Mosquitto, Peer, first_times, program

UP = BridgeRule(OUT, "up/#", "", "edge1/")
DOWN = BridgeRule(IN, "down/#")


@pytest.fixture
def site() -> Iterator[Mosquitto]:
    with Mosquitto() as broker:
        yield broker


@pytest.fixture
def line(site: Mosquitto) -> Iterator[Line]:
    with Line(("127.0.0.1", site.tls_port), ("127.0.0.1", site.port)) as line:
        yield line


@pytest.fixture
def hub(site: Mosquitto, line: Line) -> Iterator[HubProcess]:
    with _hub_at(site.tls_port) as hub:
        yield hub


def _hub_at(port: int, *rules: BridgeRule, **settings: object) -> HubProcess:
    hub = hub_with(*(rules or (UP, DOWN)), **settings)
    set_access(hub, [f'address = "mqtt://127.0.0.1:{port}"'])
    return hub


def _publish_in_background(*peers: tuple[Peer, str, int]) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=peer.publish_numbers, args=(topic, range(count)))
        for peer, topic, count in peers
    ]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.slow
def test_messages_of_both_directions_get_through_a_line_that_resets_again_and_again(
    hub: HubProcess, site: Mosquitto, line: Line
) -> None:
    count = 1000
    with Peer(site.port, "observer") as far, module(hub, "a") as sender, module(hub, "b") as near:
        far.subscribe("edge1/#")
        near.subscribe("down/#")
        wait_for_bridge(hub, status="connected")
        line.reset_after(3000, again=True)

        threads = _publish_in_background((sender, "up/x", count), (far, "down/x", count))
        for thread in threads:
            thread.join(LIMIT_S)
        far.wait_for_body(b"%d" % (count - 1))
        near.wait_for_body(b"%d" % (count - 1))

        assert line.accepted > 5
        assert first_times(far.bodies()) == list(range(count))
        assert first_times(near.bodies()) == list(range(count))


def test_nothing_is_lost_when_the_hub_is_killed_under_load(
    hub: HubProcess, site: Mosquitto, line: Line
) -> None:
    count, kills = 1500, 5
    with Peer(site.port, "observer") as far, module(hub, "a") as sender, module(hub, "b") as near:
        far.subscribe("edge1/#")
        near.subscribe("down/#")
        wait_for_bridge(hub, status="connected")
        threads = _publish_in_background((sender, "up/x", count), (far, "down/x", count))
        for kill in range(1, kills + 1):
            far.wait_for(kill * count // (kills + 2))
            hub.kill()
            hub.start()
        for thread in threads:
            thread.join(LIMIT_S)
        far.wait_for_body(b"%d" % (count - 1))
        near.wait_for_body(b"%d" % (count - 1))

        assert first_times(far.bodies()) == list(range(count))
        assert first_times(near.bodies()) == list(range(count))


def test_what_is_published_while_the_other_broker_is_away_arrives_in_order_when_it_is_back(
    hub: HubProcess, site: Mosquitto, line: Line
) -> None:
    with Peer(site.port, "observer") as far, module(hub, "a") as sender:
        far.subscribe("edge1/#")
        wait_for_bridge(hub, status="connected")
        line.cut()
        wait_for_bridge(hub, status="waiting")

        sender.publish_numbers("up/x", range(50))

        shown = wait_for_bridge(hub, queued=50)
        assert "cannot be reached" in shown["error"] or "lost" in shown["error"]
        hub.kill()
        hub.start()
        wait_for_bridge(hub, queued=lambda count: count >= 50)
        line.restore()
        far.wait_for(50)
        shown = wait_for_bridge(hub, queued=0, status="connected", error="")
        assert shown["sent"] >= 50
        assert shown["connectedSince"]
        # What the local broker had not yet noted as taken when it was killed, the last of them, comes again.
        far.wait_for(shown["sent"])
        numbers = [int(body) for body in far.bodies()]
        assert numbers[:50] == list(range(50))
        assert numbers[50:] == list(range(100 - len(numbers), 50))
        assert {topic for topic, *_ in far.got} == {"edge1/up/x"}


def test_a_restarted_broker_gets_what_it_missed(hub: HubProcess, site: Mosquitto, line: Line) -> None:
    with module(hub, "a") as sender, module(hub, "b") as near:
        near.subscribe("down/#")
        wait_for_bridge(hub, status="connected")
        with Peer(site.port, "observer") as far:
            far.subscribe("edge1/#")
        site.stop()
        sender.publish_numbers("up/x", range(20))
        site.start()

        with Peer(site.port, "observer") as far:
            far.wait_for(20)
            far.publish_numbers("down/x", range(20))
            near.wait_for(20)
            assert first_times(far.bodies()) == list(range(20))
            assert first_times(near.bodies()) == list(range(20))


@pytest.mark.slow
def test_a_line_that_swallows_everything_is_given_up(hub: HubProcess, site: Mosquitto, line: Line) -> None:
    with Peer(site.port, "observer") as far, module(hub, "a") as sender:
        far.subscribe("edge1/#")
        wait_for_bridge(hub, status="connected")
        line.strand()

        sender.publish_numbers("up/x", range(30))

        far.wait_for(30)
        assert first_times(far.bodies()) == list(range(30))
    [lost] = hub.wait_for_log("no sign of life")
    assert "bridge 'site'" in lost


def test_a_topic_carried_both_ways_does_not_go_round(site: Mosquitto) -> None:
    both = BridgeRule(OUT, "shared/#"), BridgeRule(IN, "shared/#")
    with (
        _hub_at(site.port, *both) as hub,
        Peer(site.port, "observer") as far,
        module(hub, "a") as sender,
        module(hub, "b") as near,
    ):
        far.subscribe("shared/#")
        near.subscribe("shared/#")
        wait_for_bridge(hub, status="connected")
        site.wait_for_log("Sending SUBACK to edge1/site")

        sender.publish_numbers("shared/near", range(100))
        far.wait_for(100)
        far.publish_numbers("shared/far", range(100))
        near.wait_for(200)
        sender.publish("shared/end", b"end")
        far.wait_for_body(b"end")
        wait_for_bridge(hub, echoes=101, sent=101, received=100)

        assert [topic for topic, *_ in near.got].count("shared/near") == 100
        assert [topic for topic, *_ in near.got].count("shared/far") == 100
        assert len(far.got) == 201


def test_rules_change_while_the_connection_stays(hub: HubProcess, site: Mosquitto, line: Line) -> None:
    with Peer(site.port, "observer") as far, module(hub, "a") as sender, module(hub, "b") as near:
        far.subscribe("edge1/#")
        near.subscribe("#")
        since = wait_for_bridge(hub, status="connected")["connectedSince"]

        set_rules(hub, BridgeRule(OUT, "other/#", "", "edge1/"), BridgeRule(IN, "more/#", "", "child/"))
        site.wait_for_log("Received UNSUBSCRIBE from edge1/site")
        sender.publish_numbers("up/x", range(3))
        sender.publish_numbers("other/x", range(3))
        far.publish_numbers("down/x", range(3))
        far.publish_numbers("more/x", range(3))

        near.wait_for(9)
        far.wait_for(3)
        assert {topic for topic, *_ in near.got} == {"up/x", "other/x", "child/more/x"}
        assert {topic for topic, *_ in far.got} == {"edge1/other/x"}
        assert bridges(hub)["site"]["connectedSince"] == since
        assert line.accepted == 1


def test_a_bridge_that_is_taken_out_sends_what_waits_and_is_forgotten(
    hub: HubProcess, site: Mosquitto, line: Line
) -> None:
    with Peer(site.port, "observer") as far, module(hub, "a") as sender:
        far.subscribe("edge1/#")
        wait_for_bridge(hub, status="connected")
        line.cut()
        sender.publish_numbers("up/x", range(10))
        wait_for_bridge(hub, queued=10)

        set_rules(hub)
        wait_for_bridge(hub, status="ending")
        line.restore()

        far.wait_for(10)
        hub.wait_for_log("bridge 'site': ended")
        assert bridges(hub) == {}
        assert first_times(far.bodies()) == list(range(10))


def test_a_full_queue_drops_what_is_new_and_says_so(site: Mosquitto, line: Line) -> None:
    with (
        _hub_at(site.tls_port, environment=HubEnvironment(bridge_max_messages=10)) as hub,
        Peer(site.port, "observer") as far,
        module(hub, "a") as sender,
    ):
        far.subscribe("edge1/#")
        wait_for_bridge(hub, status="connected")
        line.cut()
        wait_for_bridge(hub, status="waiting")

        sender.publish_numbers("up/x", range(30))

        wait_for_bridge(hub, queued=10, dropped=20)
        assert len(hub.wait_for_log("its queue is full")) == 1
        line.restore()
        far.wait_for(10)
        wait_for_bridge(hub, queued=0)
        sender.publish_numbers("up/x", range(30, 35))
        far.wait_for(15)
        assert first_times(far.bodies()) == [*range(10), *range(30, 35)]


def test_quality_and_retain_stay_what_they_were(hub: HubProcess, site: Mosquitto, line: Line) -> None:
    with Peer(site.port, "observer") as far, module(hub, "a") as sender, module(hub, "b") as near:
        far.publish("down/kept", b"before", retain=True)
        far.subscribe("edge1/#", 2)
        near.subscribe("down/#", 2)
        wait_for_bridge(hub, status="connected")
        near.wait_for(1)

        for qos in (0, 1, 2):
            sender.publish("up/x", b"%d" % qos, qos)
        far.wait_for(3)

        assert [(body, qos) for _, body, qos, _ in far.got] == [(b"0", 0), (b"1", 1), (b"2", 1)]
        assert near.got[0][:2] == ("down/kept", b"before")
    with module(hub, "a") as later:
        later.subscribe("down/#")
        later.wait_for(1)
        assert later.got == [("down/kept", b"before", 1, True)]


def test_wrong_credentials_are_told_and_corrected_without_a_restart(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("edge:secret\n")
    tool = program().replace("sbin/mosquitto", "bin/mosquitto_passwd")
    if not os.path.exists(tool):
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([tool, "-U", str(passwords)], check=True)
    with Mosquitto(f"password_file {passwords}", anonymous=False) as site:
        hub = hub_with(UP)
        where = f'address = "mqtt://127.0.0.1:{site.port}"'
        set_access(hub, [where, 'user_name = "edge"', 'password = "wr0ng"'])
        with hub, module(hub, "a") as sender:
            shown = wait_for_bridge(hub, error=lambda error: "refused" in error)
            assert "user name and password" in shown["error"]
            sender.publish_numbers("up/x", range(5))

            set_access(hub, [where, 'user_name = "edge"', 'password = "secret"'])

            wait_for_bridge(hub, status="connected", queued=0, sent=5)
            assert "wr0ng" not in hub.log.read_text()


@pytest.mark.slow
def test_whom_a_bridge_trusts_is_up_to_its_settings(tmp_path: Path) -> None:
    ca = ensure_edge_ca(tmp_path, "site", time.time())
    served = ensure_server_certificate(tmp_path, ["broker.example", "localhost"], ca, time.time())
    (tmp_path / "ca.pem").write_text(ca.certificate_pem)
    (tmp_path / "other").mkdir()
    other = ensure_edge_ca(tmp_path / "other", "other", time.time())
    (tmp_path / "other.pem").write_text(other.certificate_pem)
    with Mosquitto(tls=(served.path, served.path)) as site:
        hub = hub_with(UP)
        at_name, at_address = (f'address = "mqtts://{h}:{site.tls_port}"' for h in ("localhost", "127.0.0.1"))
        good, bad = (f'ca_file = "{tmp_path}/{name}.pem"' for name in ("ca", "other"))
        set_access(hub, [at_name, bad])
        with hub:
            wait_for_bridge(hub, error=lambda e: "is not trusted by ca_file" in e and "other.pem" in e)
            set_access(hub, [at_name])
            wait_for_bridge(hub, error=lambda error: "is not trusted by this system" in error)
            set_access(hub, [at_address, good])
            wait_for_bridge(hub, error=lambda error: "is not for '127.0.0.1'" in error)
            set_access(hub, [f'address = "mqtts://localhost:{site.port}"', good])
            wait_for_bridge(hub, error=lambda error: "MQTT over TLS?" in error or "lost" in error)
            set_access(hub, [at_name, good])
            wait_for_bridge(hub, status="connected", error="")


def test_a_bridge_without_settings_says_where_they_go_and_keeps_what_it_gets(site: Mosquitto) -> None:
    hub = hub_with(UP)
    with hub, module(hub, "a") as sender, Peer(site.port, "observer") as far:
        far.subscribe("edge1/#")
        shown = wait_for_bridge(hub, status="no settings")
        assert str(hub.home / "bridges.toml") in shown["error"]
        sender.publish_numbers("up/x", range(5))

        set_access(hub, [f'address = "mqtt://127.0.0.1:{site.port}"'])

        far.wait_for(5)
        assert first_times(far.bodies()) == list(range(5))


def test_a_child_edge_is_bridged_to_its_parent_with_its_own_keys() -> None:
    key = os.urandom(32)
    carried = BridgeRule(OUT, "t/#", "a/", "b/"), BridgeRule(IN, "news/#", "", "child/")
    with HubProcess(
        {}, ("p",), devices=("child/$edgeHub",), cloud_keys={"child/$edgeHub": key}, broker=broker_spec()
    ) as parent:
        child = hub_with(*carried, endpoint=UPSTREAM)
        make_child(child, "child", key)
        set_access(
            child, [f'address = "mqtts://localhost:{parent.port}"', f'ca_file = "{parent.ca_file}"'], UPSTREAM
        )
        with (
            child,
            module(parent, "p") as above,
            Peer(child.plain_port, "child/a", child.user_name("child/a"), child.token("child/a")) as below,
        ):
            above.subscribe("b/#")
            below.subscribe("child/#")
            wait_for_bridge(child, UPSTREAM, status="connected")

            below.publish_numbers("a/t/1", range(50))
            above.publish_numbers("news/1", range(50))

            above.wait_for(50)
            below.wait_for(50)
            assert {(topic, qos) for topic, _, qos, _ in above.got} == {("b/t/1", 1)}
            assert {topic for topic, *_ in below.got} == {"child/news/1"}
            assert first_times(above.bodies()) == first_times(below.bodies()) == list(range(50))


def test_filters_that_the_other_broker_refuses_are_tried_again() -> None:
    key = os.urandom(32)
    no_subscribing = spec(CONNECT, statement("publish", on=["#"]))
    with HubProcess(
        {}, ("p",), devices=("child/$edgeHub",), cloud_keys={"child/$edgeHub": key}, broker=no_subscribing
    ) as parent:
        child = hub_with(BridgeRule(IN, "news/#"), BridgeRule(OUT, "t/#"), endpoint=UPSTREAM)
        make_child(child, "child", key)
        set_access(
            child, [f'address = "mqtts://localhost:{parent.port}"', f'ca_file = "{parent.ca_file}"'], UPSTREAM
        )
        with (
            child,
            module(parent, "p") as above,
            Peer(child.plain_port, "child/a", child.user_name("child/a"), child.token("child/a")) as below,
        ):
            below.subscribe("news/#")
            wait_for_bridge(child, UPSTREAM, status="connected", refused=("news/#",))

            change_policy(parent, CONNECT, statement("publish", "subscribe", on=["#"]))

            wait_for_bridge(child, UPSTREAM, refused=())
            above.publish_numbers("news/1", range(5))
            below.wait_for(5)
            assert first_times(below.bodies()) == list(range(5))
