"""Which device an edge is: from what was given, else from what the home kept."""

from __future__ import annotations

import base64
import logging
import stat
from pathlib import Path

import pytest

from messaging.envelope import Secret
from messaging.errors import ConfigError, EnvironmentFault
from runtime.config.device_credentials import Enrollment, IdentityFiles
from runtime.config.device_file import remember_device
from runtime.config.reader import read_settings
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.security.certificates import ensure_edge_ca
from runtime.upstream.provisioning import Provisioned, load, provision, remember
from tests.integration.device_certificates import issue

KEY = base64.b64encode(b"k" * 32).decode()
OTHER_KEY = base64.b64encode(b"o" * 32).decode()
DIRECT = "EDGE_ACTORS_CONNECTION_STRING"


def text(host: str = "hub1", device: str = "edge1", key: str = KEY) -> str:
    return f"HostName={host};DeviceId={device};SharedAccessKey={key}"


def read(home: Path, **environment: str) -> Settings:
    return read_settings({"home": str(home)}, environment, "box")


def run(settings: Settings, register: object = None) -> tuple[Settings, Provisioned | None]:
    """What a start of the edge does with it."""
    settings, found = provision(settings, register)  # type: ignore[arg-type]
    remember_device(settings.home, settings.device_id)
    remember(Home(settings.home), found)
    return settings, found


class Service:
    """A provisioning service that counts who asks."""

    def __init__(self, *answers: tuple[str, str] | EnvironmentFault) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Enrollment, str]] = []

    def __call__(self, enrollment: Enrollment, ca_pem: str) -> tuple[str, str]:
        self.asked.append((enrollment, ca_pem))
        answer = self.answers.pop(0)
        if isinstance(answer, EnvironmentFault):
            raise answer
        return answer


@pytest.fixture
def enrolled(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(KEY.rstrip("=") + "\n")
    return {
        "EDGE_ACTORS_DPS_ID_SCOPE": "0ne1",
        "EDGE_ACTORS_DPS_REGISTRATION_ID": "Line-7",
        "EDGE_ACTORS_DPS_KEY_FILE": str(tmp_path / "key"),
    }


def test_without_a_cloud_an_edge_is_what_it_was(tmp_path: Path) -> None:
    settings = read(tmp_path)

    assert provision(settings) == (settings, None)


def test_a_connection_string_given_once_is_known_at_every_later_start(tmp_path: Path) -> None:
    run(read(tmp_path, **{DIRECT: text()}))

    settings, found = run(read(tmp_path))

    assert found == Provisioned("hub1", "edge1", Secret(KEY.encode()))
    assert (settings.device_id, settings.iothub_hostname) == ("edge1", "hub1")


def test_what_is_kept_is_private(tmp_path: Path) -> None:
    run(read(tmp_path, **{DIRECT: text()}))

    assert stat.S_IMODE(Home(tmp_path).provisioned.stat().st_mode) == 0o600


def test_nothing_that_is_shown_has_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        _, found = run(read(tmp_path, **{DIRECT: text()}))

    assert "device 'edge1' of hub1" in caplog.text
    assert KEY not in caplog.text + repr(found)


def test_a_home_of_one_device_does_not_become_another(tmp_path: Path) -> None:
    run(read(tmp_path, **{DIRECT: text()}))

    with pytest.raises(ConfigError, match="belongs to device 'edge1'; choose another --home"):
        read(tmp_path, **{DIRECT: text(device="edge2")})

    assert load(Home(tmp_path)) == Provisioned("hub1", "edge1", Secret(KEY.encode()))


def test_another_hub_is_taken_and_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(read(tmp_path, **{DIRECT: text()}))
    Home(tmp_path).scope.write_text("what hub1 said")

    settings, _ = run(read(tmp_path, **{DIRECT: text(host="hub2")}))

    assert settings.iothub_hostname == "hub2"
    assert "was a device of hub1 and is one of hub2" in caplog.text
    assert not Home(tmp_path).scope.exists()


def test_a_new_key_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(read(tmp_path, **{DIRECT: text()}))

    with caplog.at_level(logging.INFO):
        run(read(tmp_path, **{DIRECT: text(key=OTHER_KEY)}))

    assert "has a new key for hub1" in caplog.text
    found = load(Home(tmp_path))
    assert found is not None
    assert found.device_key == Secret(OTHER_KEY.encode())


def test_the_name_of_another_hub_alone_does_not_change_it(tmp_path: Path) -> None:
    run(read(tmp_path, **{DIRECT: text()}))

    with pytest.raises(ConfigError, match="EDGE_ACTORS_IOTHUB_HOSTNAME: 'hub2' is not allowed"):
        provision(read(tmp_path, EDGE_ACTORS_IOTHUB_HOSTNAME="hub2"))


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":1}', b"\xff"], ids=repr)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    Home(tmp_path).provisioned.write_bytes(content)

    with pytest.raises(ConfigError, match=r"provisioned\.json: damaged; give the"):
        provision(read(tmp_path))


def test_the_certificate_to_trust_is_kept_too(tmp_path: Path) -> None:
    ca = ensure_edge_ca(tmp_path / "ca", "hub1", 1e9)
    (tmp_path / "ca.pem").write_text(ca.certificate_pem)
    home = tmp_path / "home"
    home.mkdir()

    run(read(home, **{DIRECT: text(), "EDGE_ACTORS_CLOUD_CA": str(tmp_path / "ca.pem")}))
    (tmp_path / "ca.pem").unlink()
    _, found = run(read(home))

    assert found is not None
    assert found.ca_pem == ca.certificate_pem


def test_the_provisioning_service_is_asked_at_the_first_start_alone(
    tmp_path: Path, enrolled: dict[str, str]
) -> None:
    service = Service(("hub7", "line-7-device"))

    run(read(tmp_path, **enrolled), service)
    settings, found = run(read(tmp_path, **enrolled), service)

    assert [(asked.registration_id, asked.key) for asked, _ in service.asked] == [("line-7", KEY)]
    assert (settings.device_id, settings.iothub_hostname) == ("line-7-device", "hub7")
    assert found is not None
    assert found.device_key == Secret(KEY.encode())


def test_it_starts_from_what_is_kept_when_its_settings_are_gone(
    tmp_path: Path, enrolled: dict[str, str]
) -> None:
    run(read(tmp_path, **enrolled), Service(("hub7", "d7")))

    settings, _ = run(read(tmp_path))

    assert settings.device_id == "d7"


def test_another_key_has_the_provisioning_service_asked_again(
    tmp_path: Path, enrolled: dict[str, str]
) -> None:
    service = Service(("hub7", "d7"), ("hub8", "d7"))
    run(read(tmp_path, **enrolled), service)
    (tmp_path / "key").write_text(OTHER_KEY)

    settings, _ = run(read(tmp_path, **enrolled), service)

    assert settings.iothub_hostname == "hub8"


def test_the_provisioning_service_is_asked_at_each_start_if_that_is_wanted_and_it_answers(
    tmp_path: Path, enrolled: dict[str, str]
) -> None:
    enrolled["EDGE_ACTORS_AUTO_REPROVISIONING_MODE"] = "alwaysonstartup"
    service = Service(("hub7", "d7"), ("hub8", "d7"), EnvironmentFault("away"))

    found = [run(read(tmp_path, **enrolled), service)[0].iothub_hostname for _ in range(3)]

    assert found == ["hub7", "hub8", "hub8"]


def test_the_provisioning_service_is_told_the_payload_of_a_file_and_asked_again_for_another(
    tmp_path: Path, enrolled: dict[str, str]
) -> None:
    payload = tmp_path / "payload.json"
    enrolled["EDGE_ACTORS_DPS_PAYLOAD_FILE"] = f"file://{payload}"
    service = Service(("hub7", "d7"), ("hub7", "d7"))

    for text in ('{"site": 3}', '{"site": 3}', '{"site": 4}'):
        payload.write_text(text)
        run(read(tmp_path, **enrolled), service)

    assert [asked.payload for asked, _ in service.asked] == ['{"site": 3}', '{"site": 4}']
    payload.write_text("site 3")
    with pytest.raises(ConfigError, match=r"DPS_PAYLOAD_FILE: '.*' is no JSON, and nothing else is taken"):
        provision(read(tmp_path, **enrolled), service)


@pytest.fixture
def certified(tmp_path: Path) -> dict[str, str]:
    """An enrollment by a certificate."""
    pair = issue("Line-9")
    cert, key = pair.write(tmp_path, "id")
    key.chmod(0o600)
    return {
        "EDGE_ACTORS_DPS_ID_SCOPE": "0ne1",
        "EDGE_ACTORS_IDENTITY_CERT": str(cert),
        "EDGE_ACTORS_IDENTITY_PK": str(key),
    }


def test_a_device_with_a_certificate_registers_under_its_common_name(
    tmp_path: Path, certified: dict[str, str]
) -> None:
    service = Service(("hub7", "line-9"))

    run(read(tmp_path, **certified), service)
    settings, found = run(read(tmp_path), service)

    [(asked, _)] = service.asked
    files = IdentityFiles(tmp_path / "id.pem", tmp_path / "id.key")
    assert (asked.registration_id, asked.key, asked.files) == ("line-9", "", files)
    assert settings.device_id == "line-9"
    assert found is not None
    assert (found.device_key, found.identity) == (Secret(b""), files)


def test_a_renewed_certificate_does_not_have_the_provisioning_service_asked_again(
    tmp_path: Path, certified: dict[str, str]
) -> None:
    service = Service(("hub7", "line-9"))
    run(read(tmp_path, **certified), service)
    issue("Line-9").write(tmp_path, "id")

    run(read(tmp_path, **certified), service)

    assert len(service.asked) == 1


def test_a_certificate_that_went_bad_stops_only_an_edge_that_is_new(
    tmp_path: Path, certified: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    run(read(tmp_path, **certified), Service(("hub7", "line-9")))
    issue("Line-9", days=(-9, -1)).write(tmp_path, "id")

    settings, _ = run(read(tmp_path, **certified), Service())

    assert settings.device_id == "line-9"
    assert "expired on" in caplog.text
    with pytest.raises(ConfigError, match=r"EDGE_ACTORS_IDENTITY_CERT: the certificate in .* expired on"):
        provision(read(tmp_path / "new", **certified), Service())


def test_a_common_name_that_is_no_registration_id_is_told(tmp_path: Path, certified: dict[str, str]) -> None:
    issue("line 9!").write(tmp_path, "id")

    with pytest.raises(ConfigError, match="'line 9!' of the certificate is no registration id"):
        provision(read(tmp_path / "home", **certified), Service())


def test_a_home_of_one_device_is_not_given_to_the_one_that_the_service_assigns(
    tmp_path: Path, enrolled: dict[str, str]
) -> None:
    remember_device(tmp_path, "mine")

    with pytest.raises(ConfigError, match=r"device 'd7' of hub7, but .* belongs to device 'mine'"):
        run(read(tmp_path, **enrolled), Service(("hub7", "d7")))

    assert load(Home(tmp_path)) is None


def test_without_an_answer_of_the_service_nothing_is_kept(tmp_path: Path, enrolled: dict[str, str]) -> None:
    with pytest.raises(EnvironmentFault):
        run(read(tmp_path, **enrolled), Service(EnvironmentFault("away")))

    assert load(Home(tmp_path)) is None


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "is empty"),
        ("no base64!", "the key is not base64"),
        (base64.b64encode(b"short").decode(), "the key has 5 bytes"),
        (base64.b64encode(b"l" * 65).decode(), "the key has 65 bytes"),
    ],
)
def test_what_is_no_key_of_an_enrollment_is_refused_without_being_shown(
    tmp_path: Path, enrolled: dict[str, str], key: str, said: str
) -> None:
    (tmp_path / "key").write_text(key)

    with pytest.raises(ConfigError) as caught:
        provision(read(tmp_path, **enrolled), Service())

    assert said in str(caught.value)
    assert "EDGE_ACTORS_DPS_KEY_FILE: " in str(caught.value)
    assert not key or key not in str(caught.value)
