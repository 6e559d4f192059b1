"""Who gets into a running hub, over TLS: certificates, tokens that end, and no agent anywhere.

Rows are those of the spec sheet hub-protocols.md section 8.4.
"""

from __future__ import annotations

import os
import queue
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from paho.mqtt import client as paho

from actors.hub.identity import HubIdentity, KnownIdentities
from messaging import sas
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.mqtt.packets import ConnAck, Connect
from messaging.sas import CLOCK_SKEW_S
from runtime.security.client_certificates import thumbprints_of
from runtime.security.identity_copy import IdentityFile
from tests.integration.hub_process import DEVICE, IOTHUB, HubProcess
from tests.integration.mqtt_socket import MqttSocket
from tests.integration.sdk_clients import SDK_PORT, SdkPublisher, loopback_address
from tests.runtime.client_certificates import ClientCertificate, make_client, make_signer

UP = {"up": "FROM /messages/* INTO $upstream"}
PROXY = "IoTEdgeAPIProxy"
NOT_UPGRADED = -1
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
            modules=("a", PROXY),
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
    """Source: hub-protocols.md section 8.4, row 54."""
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

        # The device alone has the key of its certificate; the hub speaks for it with its own.
        bodies = hub.numbers_upstream(publisher.numbers()[-1])
        assert set(publisher.numbers()) <= set(bodies)
        assert list(dict.fromkeys(bodies)) == sorted(set(bodies))


# a proxy in front of the hub, which ends the TLS of its clients


def through_proxy(
    hub: HubProcess,
    client_id: str,
    certificate: str,
    token: str | None,
    shown: ClientCertificate | None = None,
) -> int:
    """Connect by WebSocket as a proxy does for a client; return the code of CONNACK, or NOT_UPGRADED."""
    headers = {"x-ms-edge-clientcert": certificate} | ({} if token is None else {"Authorization": token})
    client = paho.Client(client_id, transport="websockets")
    client.ws_set_options("/$iothub/websocket", headers)
    client.username_pw_set(hub.user_name(client_id))
    context = ssl.create_default_context(cafile=str(hub.ca_file))
    context.check_hostname = False
    if shown is not None:
        context.load_cert_chain(shown.certificate_file, shown.key_file)
    client.tls_set_context(context)
    answers: queue.Queue[int] = queue.Queue()
    client.on_connect = lambda *told: answers.put(told[3])
    refused = "a certificate that was passed on is refused"
    before = sum(refused in line for line in hub.log_lines())
    try:
        client.connect(hub.address, hub.web_port)
    except paho.WebsocketConnectionError:
        hub.wait_for_log(refused, before + 1)
        return NOT_UPGRADED
    client.loop_start()
    try:
        return answers.get(timeout=20)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize(
    ("client_id", "certificate", "by", "shown", "answered"),
    [
        pytest.param("printed", "printed", PROXY, None, 0, id="the proxy"),
        pytest.param("signed", "signed", PROXY, None, 0, id="the proxy, with a chain"),
        pytest.param("signed", "printed", PROXY, None, 5, id="another's certificate"),
        pytest.param("printed", "printed", PROXY, "signed", 5, id="the one of the connection goes before it"),
        pytest.param("printed", "printed", "a", None, NOT_UPGRADED, id="41 another module"),
        pytest.param("printed", "printed", None, None, NOT_UPGRADED, id="41 no token"),
        pytest.param("printed", "no PEM", PROXY, None, NOT_UPGRADED, id="no certificate"),
    ],
)
def test_a_certificate_counts_that_the_proxy_module_and_nobody_else_passes_on(
    hub: HubProcess,
    cast: Cast,
    client_id: str,
    certificate: str,
    by: str | None,
    shown: str | None,
    answered: int,
) -> None:
    """Source: hub-protocols.md sections 1.16, 5.5 and 8.4, row 41."""
    passed_on = "%2D%2D"
    if certificate != "no PEM":
        passed_on = quote(Path(getattr(cast, certificate).certificate_file).read_text(), safe="")
    token = None if by is None else hub.token(f"{DEVICE}/{by}")

    found = through_proxy(hub, client_id, passed_on, token, getattr(cast, shown) if shown else None)

    assert found == answered


# the hub of an edge below this one


def test_the_hub_of_an_edge_below_connects_for_its_clients_with_its_own_token_and_for_no_others() -> None:
    """Source: hub-protocols.md sections 1.2 and 5.6."""
    key = os.urandom(32)
    made = HubProcess(UP, devices=("near",))
    child = HubIdentity("child", keys=(Secret(os.urandom(32)),), device_scope="ms-azure-iot-edge://child-1")
    known = (
        *made.identities.identities,
        child,
        HubIdentity("child/$edgeHub", keys=(Secret(key),)),
        HubIdentity("far", keys=(Secret(os.urandom(32)),), parent_scopes=(child.device_scope,)),
    )
    IdentityFile(made.home / "identities.copy").save(KnownIdentities(known))
    audience = sas.audience_of(IOTHUB, Identity.edge_hub("child"))
    token = sas.make_token(audience, key, int(time.time()) + 60).encode()

    def answered(hub: HubProcess, client_id: str) -> int:
        name = f"{hub.user_name(client_id)}&auth-chain={client_id};child"
        with MqttSocket(hub) as client:
            client.send(Connect(client_id, True, 60, name, token))
            answer = client.receive()
            assert isinstance(answer, ConnAck)
            return answer.return_code

    with made as hub:
        assert answered(hub, "far") == 0
        assert answered(hub, "near") == 5
        assert "'near' does not stand below the edge 'child'" in hub.wait_for_log("refused with")[0]
