"""What this device knows of other brokers, and what it says of a file that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from messaging.envelope import Secret
from messaging.errors import ConfigError
from runtime.bridge_settings import BridgeSettingsFile, OwnNames, check_bridge_settings

OWN = OwnNames("edge1", "hub.test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ca.pem", "cert.pem", "key.pem", "password"):
        (tmp_path / name).write_text("s3cret\n")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def settings(folder: Path, text: str, mode: int = 0o600) -> BridgeSettingsFile:
    path = folder / "bridges.toml"
    path.write_text(text.replace("FOLDER", str(folder)))
    path.chmod(mode)
    return BridgeSettingsFile(path, OWN)


def test_a_broker_is_known_by_the_name_that_the_deployment_uses(folder: Path) -> None:
    access = settings(
        folder,
        """
        ["site.example:8883"]
        address = "mqtts://broker.example"
        user_name = "edge"
        password_file = "FOLDER/password"
        ca_file = "FOLDER/ca.pem"
        certificate_file = "FOLDER/cert.pem"
        key_file = "FOLDER/key.pem"
        client_id = "mine"
        keep_alive_s = 30
        """,
    ).access("site.example:8883")

    assert (access.host, access.port, access.is_tls) == ("broker.example", 8883, True)
    assert (access.user_name, access.password) == ("edge", Secret(b"s3cret"))
    assert (access.client_id, access.keep_alive_s) == ("mine", 30)
    assert access.ca_file == str(folder / "ca.pem")
    assert "s3cret" not in repr(access)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mqtts://h", ("h", 8883, True)),
        ("mqtt://h", ("h", 1883, False)),
        ("mqtt://10.0.0.1:2000/", ("10.0.0.1", 2000, False)),
        ("mqtts://[::1]:99", ("::1", 99, True)),
    ],
)
def test_an_address_names_host_port_and_whether_there_is_tls(
    folder: Path, address: str, expected: tuple[str, int, bool]
) -> None:
    access = settings(folder, f'[site]\naddress = "{address}"').access("site")

    assert (access.host, access.port, access.is_tls) == expected
    assert access.client_id == "edge1/site"


def test_at_its_parent_the_edge_is_its_own_hub(folder: Path) -> None:
    access = settings(folder, '["$upstream"]\naddress = "mqtts://parent"').access("$upstream")

    assert access.client_id == "edge1/$edgeHub"
    assert access.user_name == "hub.test/edge1/$edgeHub/?api-version=2021-04-12"
    assert (access.signs_as, access.audience_host, access.password) == ("edge1/$edgeHub", "hub.test", None)


SITE = '[site]\naddress = "mqtts://h"\n'


@pytest.mark.parametrize(
    ("text", "endpoint", "said"),
    [
        pytest.param(SITE, "sit", "no settings for 'sit'.*did you mean 'site'", id="another name"),
        pytest.param(SITE, "$upstream", "has no parent", id="no parent"),
        pytest.param("[site]", "site", "address is missing", id="no address"),
        pytest.param('[site]\naddress = "h:1"', "site", "address: 'h:1' is not allowed", id="no scheme"),
        pytest.param('[site]\naddress = "http://h"', "site", "mqtts://HOST", id="another scheme"),
        pytest.param('[site]\naddress = "mqtt://h:0"', "site", "not allowed", id="port 0"),
        pytest.param('[site]\naddress = "mqtt://h:x"', "site", "not allowed", id="port no number"),
        pytest.param('[site]\naddress = "mqtt://h/t"', "site", "not allowed", id="with a path"),
        pytest.param('[site]\naddress = "mqtt://u:s3cret@h"', "site", "write user_name", id="with a user"),
        pytest.param(SITE + 'adress = "x"', "site", "no such setting: 'adress'.*'address'", id="misspelt"),
        pytest.param(SITE + "user_name = 3", "site", "user_name has to be a text", id="no text"),
        pytest.param(SITE + 'password = "s3cret"', "site", "needs a user_name", id="password alone"),
        pytest.param(
            SITE + 'user_name="u"\npassword="s3cret"\npassword_file="FOLDER/password"',
            "site",
            "both given",
            id="two passwords",
        ),
        pytest.param(
            SITE + 'ca_file = "FOLDER/nope"', "site", "ca_file: .*cannot be read", id="no such file"
        ),
        pytest.param(SITE + 'ca_file = "ca.pem"', "site", "an absolute path", id="relative path"),
        pytest.param(SITE + 'key_file = "FOLDER/key.pem"', "site", "certificate_file is not", id="key alone"),
        pytest.param(SITE + "keep_alive_s = 4", "site", "5 to 65535", id="keep-alive too short"),
        pytest.param(SITE + "keep_alive_s = true", "site", "5 to 65535", id="keep-alive no number"),
        pytest.param(
            '[site]\naddress = "mqtt://h"\nca_file = "FOLDER/ca.pem"',
            "site",
            "write mqtts://",
            id="CA, no TLS",
        ),
        pytest.param('address = "x"', "site", "outside of a table", id="no table"),
        pytest.param("[site", "site", "is no TOML", id="no TOML"),
        pytest.param(
            '["$upstream"]\naddress = "mqtt://h"', "$upstream", "only reached over TLS", id="parent, no TLS"
        ),
        pytest.param(
            '["$upstream"]\naddress = "mqtts://h"\npassword = "s3cret"',
            "$upstream",
            "with its keys",
            id="parent, password",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out_and_without_secrets(
    folder: Path, text: str, endpoint: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}") as caught:
        settings(folder, text).access(endpoint)

    assert "s3cret" not in str(caught.value)


def test_without_a_file_the_error_says_which_to_make(tmp_path: Path) -> None:
    path = tmp_path / "bridges.toml"

    with pytest.raises(ConfigError, match=f"there is no '{path}'"):
        BridgeSettingsFile(path, OWN).access("site")
    assert check_bridge_settings(path, OWN) == ()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_read_or_write_is_refused(folder: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        settings(folder, SITE, mode).access("site")


def test_so_is_a_password_or_key_that_others_may_read(folder: Path) -> None:
    (folder / "password").chmod(0o644)

    with pytest.raises(ConfigError, match=r"holds a secret.*chmod 600"):
        settings(folder, SITE + 'user_name = "u"\npassword_file = "FOLDER/password"').access("site")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(folder: Path) -> None:
    found = settings(folder, SITE)
    os.chown(folder / "bridges.toml", 4321, -1)

    with pytest.raises(ConfigError, match="belongs to another user"):
        found.access("site")


def test_all_endpoints_are_checked_at_once(folder: Path) -> None:
    settings(folder, SITE + '[other]\naddress = "x"')

    with pytest.raises(ConfigError, match=r"\[other\]"):
        check_bridge_settings(folder / "bridges.toml", OWN)


def test_a_change_of_the_file_counts_at_once(folder: Path) -> None:
    found = settings(folder, SITE)
    assert found.access("site").host == "h"

    settings(folder, '[site]\naddress = "mqtts://other"')

    assert found.access("site").host == "other"
