"""What a user gives to say which device this edge is, and what is said when it cannot be used."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from messaging.errors import ConfigError
from messaging.identity import Identity
from runtime.config.reader import read_settings
from runtime.config.settings import Settings

KEY = base64.b64encode(b"k" * 32).decode()
TEXT = f"HostName=hub1.azure-devices.net;DeviceId=edge1;SharedAccessKey={KEY}"
FILE = "EDGE_ACTORS_CONNECTION_STRING_FILE"
DIRECT = "EDGE_ACTORS_CONNECTION_STRING"
DPS = {
    "EDGE_ACTORS_DPS_ID_SCOPE": "0ne00A1B2C3",
    "EDGE_ACTORS_DPS_REGISTRATION_ID": "Line-7",
    "EDGE_ACTORS_DPS_KEY_FILE": "/etc/key",
}


def read(home: Path, **environment: str) -> Settings:
    return read_settings({"home": str(home)}, environment, "box")


def read_file(tmp_path: Path, content: str | bytes) -> Settings:
    path = tmp_path / "connection-string.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(tmp_path / "home", **{FILE: str(path)})


def key_of(settings: Settings) -> str:
    assert settings.connection_string is not None
    return settings.connection_string.shared_access_key


def test_a_connection_string_says_which_device_of_which_hub_this_is(tmp_path: Path) -> None:
    settings = read(tmp_path / "home", **{DIRECT: TEXT})

    assert settings.connection_string is not None
    assert settings.connection_string.identity == Identity("edge1")
    assert (settings.device_id, settings.iothub_hostname) == ("edge1", "hub1.azure-devices.net")


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        f"{TEXT}\n",
        f"\ufeff{TEXT};\r\n",
        f'"{TEXT}"\n',
        json.dumps({"connectionString": TEXT}, indent=2),
        TEXT.rstrip("="),
    ],
    ids=["bare", "with its line end", "from Windows", "in quotes", "as az prints it", "without padding"],
)
def test_a_file_may_hold_a_connection_string_as_people_save_them(tmp_path: Path, content: str) -> None:
    assert key_of(read_file(tmp_path, content)) == KEY


def test_a_connection_string_can_come_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode() + b"\n")))

    settings = read_settings({"home": str(tmp_path), "connection_string_file": "-"}, {}, "box")

    assert key_of(settings) == KEY


def test_the_key_is_not_shown_by_the_settings(tmp_path: Path) -> None:
    assert KEY not in repr(read(tmp_path, **{DIRECT: TEXT}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (b"\xff\xfe\x00", "is no text"),
        (b"x" * 70_000, "more than 65536 bytes"),
        ("nonsense", "not of the form Name=value"),
        (TEXT.replace("DeviceId", "DeviceID"), "unknown key 'DeviceID'; did you mean 'DeviceId'?"),
        (TEXT.replace("DeviceId=edge1;", ""), "DeviceId missing"),
        (TEXT.replace("HostName=hub1.azure-devices.net;", ""), "HostName missing"),
        (TEXT.partition(";SharedAccessKey")[0], "SharedAccessKey missing"),
        (TEXT.replace(KEY, "geheim!geheim"), "a shared access key is not base64"),
        (TEXT.replace("edge1", "ed ge"), "device id 'ed ge' is not an id of IoT Hub"),
        (
            TEXT.replace("hub1.azure-devices.net", "hub1:8443"),
            "HostName='hub1:8443' is not the name",
        ),
        (TEXT.replace("hub1.azure-devices.net", "https://hub1"), "is not the name of a host"),
        (f"{TEXT};ModuleId=m1", "is of module 'edge1/m1'; an edge takes that of its device"),
        (f"{TEXT};GatewayHostName=gw", "leave that part out"),
        (f"{TEXT};DeviceId=edge2", "DeviceId is there twice"),
        ("HostName=h;DeviceId=edge1;x509=true", "proves itself with a certificate"),
        (
            f"HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}",
            "is the connection string of a service",
        ),
        ('{"connectionString": 7}', "not of the form Name=value"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "bytes",
)
def test_what_is_no_connection_string_is_refused_without_its_key(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_file(tmp_path, content)

    text = str(caught.value)
    assert text.startswith(f"{FILE}: ")
    assert said in text
    assert KEY not in text
    assert "geheim" not in text
    assert not (tmp_path / "home").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'/no/such' cannot be read: No such file"):
        read(tmp_path, **{FILE: "/no/such"})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({DIRECT: TEXT, FILE: "/etc/cs"}, "are both given; leave out one of them"),
        ({DIRECT: TEXT, **DPS}, "either from a connection string or from the provisioning service"),
        ({DIRECT: TEXT, "EDGE_ACTORS_DEVICE_ID": "edge2"}, "is of device 'edge1': leave out one of them"),
        ({DIRECT: TEXT, "EDGE_ACTORS_IOTHUB_HOSTNAME": "other"}, "is of 'hub1.azure-devices.net'"),
        (
            {"EDGE_ACTORS_DPS_ID_SCOPE": "0ne1"},
            "_REGISTRATION_ID and EDGE_ACTORS_DPS_KEY_FILE",
        ),
        ({"EDGE_ACTORS_DPS_ENDPOINT": "dps"}, "EDGE_ACTORS_DPS_ID_SCOPE and "),
        (
            {**DPS, "EDGE_ACTORS_DEVICE_ID": "edge2"},
            "but the provisioning service says that",
        ),
        ({**DPS, "EDGE_ACTORS_DPS_ENDPOINT": "http://dps"}, "HOST[:PORT]"),
        ({**DPS, "EDGE_ACTORS_DPS_ENDPOINT": "dps:"}, "HOST[:PORT]"),
        ({**DPS, "EDGE_ACTORS_DPS_ENDPOINT": "dps:70000"}, "PORT is a number from 1 to 65535"),
        ({**DPS, "EDGE_ACTORS_DPS_ID_SCOPE": "0ne 1"}, "such as 0ne00A1B2C3"),
        ({**DPS, "EDGE_ACTORS_DPS_REGISTRATION_ID": "line/7"}, "letters, digits and - . _ :"),
        ({"EDGE_ACTORS_CLOUD_HTTPS_PORT": "0"}, "a number from 1 to 65535"),
        ({"EDGE_ACTORS_CLOUD_CA": "ca.pem"}, "the absolute path of a PEM file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_of_the_link_that_do_not_go_together_are_refused(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **environment)

    assert said in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_provisioning_service_may_have_a_port(tmp_path: Path) -> None:
    settings = read(tmp_path, **DPS, EDGE_ACTORS_DPS_ENDPOINT="https://127.0.0.2:8443/")

    assert settings.dps_endpoint == ("127.0.0.2", 8443)
    assert settings.dps_registration_id == "line-7"
