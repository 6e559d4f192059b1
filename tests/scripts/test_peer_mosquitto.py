"""The peer that the hub is compared with, under the generator that compares them."""

import json
import shutil

import pytest

from scripts.bench import peer_mosquitto
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from tests.scripts.test_mqtt_load import run_load


def test_a_missing_mosquitto_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_named: None)

    with pytest.raises(PeerUnusable, match="apt-get install mosquitto"):
        MosquittoPeer()

    assert peer_mosquitto.main() == 2


@pytest.mark.skipif(
    not shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin"),
    reason="mosquitto is not installed; apt-get install mosquitto",
)
@pytest.mark.parametrize("transport", ["plain", "tls"])
@pytest.mark.parametrize("mode", ["burst", "one"])
def test_all_messages_through_mosquitto_are_accounted_for(transport: str, mode: str) -> None:
    with MosquittoPeer() as peer:
        result = run_load(
            {**peer.load(transport, 2), "messages": 70_000 if mode == "burst" else 500, "mode": mode}
        )

    report = json.loads(result.stdout)
    sent = 140_000 if mode == "burst" else 1_000  # more than there are packet ids, so that they wrap round
    assert (report["sent"], report["acknowledged"], report["received"]) == (sent, sent, sent)
    assert (report["lost"], report["duplicated"], report["out_of_order"]) == (0, 0, 0)
    assert bool(report["tls"]) == (transport == "tls")
