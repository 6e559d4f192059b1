"""Who gets into a running hub, over TLS: certificates, tokens that end, and no agent anywhere.

Rows are those of the spec sheet hub-protocols.md section 8.4.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from actors.hub_identity import HubIdentity
from messaging.mqtt.packets import ConnAck
from messaging.sas import CLOCK_SKEW_S
from runtime.client_certificates import thumbprints_of
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import MqttSocket
from tests.integration.sdk_clients import SDK_PORT, SdkPublisher, loopback_address
from tests.runtime.client_certificates import ClientCertificate, make_client, make_signer

UP = {"up": "FROM /messages/* INTO $upstream"}
CRYPTOGRAPHY = "cryptography/hazmat/bindings/_rust"


class Cast:
    """The clients of these tests with what they show."""

    def __init__(self, folder: Path) -> None:
        self.root, self.stranger = make_signer("root"), make_signer("stranger")
        self.between = make_signer("between", issuer=self.root)
        folders = {name: folder / name for name in ("printed", "signed", "strange", "short", "module")}
        for made in folders.values():
            made.mkdir()
        self.printed = make_client(folders["printed"], "printed")
        self.signed = make_client(folders["signed"], "signed", signer=self.between, sent_along=[self.between])
        self.strange = make_client(folders["strange"], "signed", signer=self.stranger)
        self.module = make_client(folders["module"], "edge1", signer=self.root)

    def hub(self, **settings: object) -> HubProcess:
        [sha256] = [text for text in thumbprints_of(self.printed.ders[0]) if len(text) == 64]
        return HubProcess(
            UP,
            modules=("a",),
            devices=("leaf",),
            with_certificates=(
                (HubIdentity("printed", "selfSigned", thumbprints=("0" * 40, sha256)), self.printed),
                (HubIdentity("signed", "certificateAuthority"), self.signed),
            ),
            authorities=(self.root.certificate.public_bytes(Encoding.DER),),
            **settings,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Cast:
    return Cast(tmp_path_factory.mktemp("cast"))


@pytest.fixture(scope="module")
def hub(cast: Cast) -> Iterator[HubProcess]:
    with cast.hub() as made:
        yield made


def answer(hub: HubProcess, client_id: str, shown: ClientCertificate | None, password: str | None) -> ConnAck:
    if password == "a good token":
        password = hub.token("leaf")
    with MqttSocket(hub, shown=shown) as client:
        return client.connect(hub, client_id, password=password)


def test_the_first_certificate_loads_what_reads_it_and_not_the_start(cast: Cast) -> None:
    with cast.hub() as hub:
        with MqttSocket(hub) as client:
            assert client.connect(hub, "leaf").return_code == 0
        assert hub.process is not None
        maps = Path(f"/proc/{hub.process.pid}/maps")
        before = CRYPTOGRAPHY in maps.read_text()

        accepted = answer(hub, "printed", cast.printed, "")

        assert (before, accepted.return_code, CRYPTOGRAPHY in maps.read_text()) == (False, 0, True)


@pytest.mark.parametrize("name", ["printed", "signed"])
def test_a_device_is_let_in_by_its_certificate(hub: HubProcess, cast: Cast, name: str) -> None:
    assert answer(hub, name, getattr(cast, name), "").return_code == 0


@pytest.mark.parametrize(
    ("client_id", "shown", "password", "reason"),
    [
        pytest.param("leaf", None, "", "neither a password", id="6 nothing"),
        pytest.param("leaf", "printed", "", "proves itself with sas", id="a certificate for a key"),
        pytest.param("printed", None, "a good token", "with selfSigned, not with a token", id="the reverse"),
        pytest.param(
            "printed", "printed", "a good token", "with selfSigned, not with a token", id="the password wins"
        ),
        pytest.param("printed", "signed", "", "another thumbprint", id="another's certificate"),
        pytest.param("signed", "printed", "", "another common name", id="53 common name"),
        pytest.param("signed", "strange", "", "of no CA that this hub trusts", id="53 unknown root"),
        pytest.param("edge1/a", "module", "", "modules prove themselves with tokens", id="53 module"),
    ],
)
def test_refusals_are_final_and_say_why_in_one_line(
    hub: HubProcess, cast: Cast, client_id: str, shown: str | None, password: str, reason: str
) -> None:
    before = sum("refused with CONNACK" in line for line in hub.log_lines())

    answered = answer(hub, client_id, getattr(cast, shown) if shown else None, password)

    assert answered.return_code == 5
    [line] = hub.wait_for_log("refused with CONNACK", count=before + 1)[before:]
    assert reason in line


def test_a_token_that_ends_closes_the_connection_and_a_certificate_stays(hub: HubProcess, cast: Cast) -> None:
    soon_s = int(time.time()) + 2
    with MqttSocket(hub) as ending, MqttSocket(hub, shown=cast.printed) as staying:
        staying.connect(hub, "printed", password="")
        token = hub.token("leaf", life_s=2 - CLOCK_SKEW_S)
        assert ending.connect(hub, "leaf", password=token).return_code == 0

        assert ending.rest() == b""

        assert soon_s <= time.time() < soon_s + 5
        hub.wait_for_log("leaf: what it proved itself with has expired")
        staying.send_bytes(b"\xc0\x00")
        staying.receive()


def test_row_54_known_clients_are_let_in_after_a_restart_with_no_agent(cast: Cast) -> None:
    with cast.hub() as hub:
        assert answer(hub, "leaf", None, None).return_code == 0
        hub.kill()
        hub.start()

        assert answer(hub, "leaf", None, None).return_code == 0
        assert answer(hub, "printed", cast.printed, "").return_code == 0
        assert answer(hub, "signed", cast.signed, "").return_code == 0
        assert answer(hub, "signed", cast.strange, "").return_code == 5


@pytest.mark.parametrize("name", ["printed", "signed"])
def test_the_sdk_as_device_with_a_certificate_goes_on_after_the_hub_was_killed(cast: Cast, name: str) -> None:
    with cast.hub(address=loopback_address(), port=SDK_PORT) as hub, ExitStack() as ending:
        publisher = SdkPublisher(hub, name, 100)
        ending.callback(publisher.client.shutdown)
        publisher.start()
        publisher.wait_for(50)
        hub.kill()
        hub.start()
        publisher.wait_for(len(publisher.acknowledged) + 50)
        publisher.stop()

        hub.stop()

        # They stay: the cloud wants to see the certificate, whose key only the device has.
        bodies = [int(body) for body in hub.waiting(name)]
        assert set(publisher.numbers()) <= set(bodies)
        assert list(dict.fromkeys(bodies)) == sorted(set(bodies))
