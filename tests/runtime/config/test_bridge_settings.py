"""What this device knows of other brokers, and what it says of a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from messaging.envelope import Secret
from messaging.errors import ConfigError
from runtime.config.bridge_settings import BridgeSettingsFile, OwnNames, check_bridge_settings, passwords_in

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
ALLOWED = "mqtts://HOST[:PORT], or mqtt://HOST[:PORT] without TLS"
UPSTREAM = '"$upstream"'


@pytest.mark.parametrize(
    ("text", "endpoint", "said"),
    [
        pytest.param(
            SITE,
            "sit",
            "no settings for 'sit' in 'FILE'; did you mean 'site'?; add [sit] with address = \"mqtts://HOST\"",
            id="another name",
        ),
        pytest.param(
            SITE,
            "$upstream",
            "this edge has no parent, so nothing is carried; if it has one, "
            f"add [{UPSTREAM}] with address = \"mqtts://HOST\" to 'FILE'",
            id="no parent",
        ),
        pytest.param(
            "\n[site]", "site", f"FILE:2: [site] has no address; it has to be {ALLOWED}", id="no address"
        ),
        *(
            pytest.param(
                f'[site]\naddress = "{address}"',
                "site",
                f'FILE:2: site.address = "{shown}" is not allowed; allowed: {ALLOWED}',
                id=name,
            )
            for address, shown, name in (
                ("h:1", "h:1", "no scheme"),
                ("http://h", "http://h", "another scheme"),
                ("mqtt://h:0", "mqtt://h:0", "port 0"),
                ("mqtt://h:x", "mqtt://h:x", "port no number"),
                ("mqtt://h/t", "mqtt://h/t", "with a path"),
                ("mqtt://u:s3cret@h:x", "mqtt://…@h:x", "with a user and no number"),
            )
        ),
        pytest.param(
            '[site]\naddress = "mqtt://u:s3cret@h"',
            "site",
            "FILE:2: site.address takes no user name; write user_name and password instead",
            id="with a user",
        ),
        pytest.param(
            SITE + 'adress = "x"',
            "site",
            "FILE:3: unknown key 'site.adress'; did you mean 'address'?",
            id="misspelt",
        ),
        pytest.param(
            SITE + "user_name = 3",
            "site",
            "FILE:3: site.user_name = 3 is not allowed; allowed: a string that is not empty",
            id="no text",
        ),
        pytest.param(
            SITE + "password = ['s3cret']",
            "site",
            "FILE:3: site.password = a secret is not allowed; allowed: a string that is not empty",
            id="password no text",
        ),
        pytest.param(
            SITE + 'password = "s3cret"',
            "site",
            "FILE:3: site.password needs a user_name, too",
            id="password alone",
        ),
        pytest.param(
            SITE + 'user_name="u"\npassword="s3cret"\npassword_file="FOLDER/password"',
            "site",
            "FILE:5: site.password_file and password are both given; leave out one of them",
            id="two passwords",
        ),
        pytest.param(
            SITE + 'ca_file = "FOLDER/nope"',
            "site",
            "FILE:3: site.ca_file: 'FOLDER/nope' cannot be read: No such file or directory; "
            "name a file that this user may read",
            id="no such file",
        ),
        pytest.param(
            SITE + 'ca_file = "ca.pem"',
            "site",
            'FILE:3: site.ca_file = "ca.pem" is not allowed; allowed: the absolute path of a PEM file, '
            "such as /etc/ca.pem or file:///etc/ca.pem",
            id="relative path",
        ),
        pytest.param(
            SITE + 'key_file = "FOLDER/key.pem"',
            "site",
            "FILE:3: site.key_file is given, but certificate_file is not; it needs that, too",
            id="key alone",
        ),
        *(
            pytest.param(
                SITE + f"keep_alive_s = {value}",
                "site",
                f"FILE:3: site.keep_alive_s = {value} is not allowed; "
                "allowed: a whole number from 5 to 65535",
                id=name,
            )
            for value, name in (("4", "keep-alive too short"), ("true", "keep-alive no number"))
        ),
        pytest.param(
            '[site]\naddress = "mqtt://h"\nca_file = "FOLDER/ca.pem"',
            "site",
            "FILE:3: site.ca_file has no meaning with mqtt://; write mqtts:// as address",
            id="CA, no TLS",
        ),
        pytest.param(
            'address = "x"',
            "site",
            "FILE:1: 'address' stands outside of a table; write [ENDPOINT] above it",
            id="no table",
        ),
        pytest.param(
            "\n[site",
            "site",
            "FILE:2: not TOML: expected ']' at the end of a table declaration; see toml.io for its rules",
            id="no TOML",
        ),
        pytest.param(
            f'[{UPSTREAM}]\naddress = "mqtt://h"',
            "$upstream",
            f"FILE:2: {UPSTREAM}.address has to be mqtts://…; a parent is only reached over TLS",
            id="parent, no TLS",
        ),
        pytest.param(
            f'[{UPSTREAM}]\naddress = "mqtts://h"\npassword = "s3cret"',
            "$upstream",
            f"FILE:3: {UPSTREAM}.password has no meaning here; "
            "to its parent an edge proves itself with its keys",
            id="parent, password",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out_and_without_secrets(
    folder: Path, text: str, endpoint: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(folder, text).access(endpoint)

    file = str(folder / "bridges.toml")
    assert str(caught.value).replace(file, "FILE").replace(str(folder), "FOLDER") == said
    assert "s3cret" not in str(caught.value)


def test_without_a_file_the_error_says_which_to_make(tmp_path: Path) -> None:
    path = tmp_path / "bridges.toml"

    with pytest.raises(ConfigError, match=f"there is no '{path}'"):
        BridgeSettingsFile(path, OWN).access("site")
    assert check_bridge_settings(path, OWN) == ()


WITH_PASSWORD = SITE + 'user_name = "u"\npassword = "s3cret"\n'


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o646])
def test_a_file_with_a_password_that_all_may_read_or_write_is_refused(folder: Path, mode: int) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(folder, WITH_PASSWORD, mode).access("site")

    path = folder / "bridges.toml"
    assert str(caught.value) == (
        f"{path}:4: '{path}' holds a secret and is open to all users of this machine (mode {mode:04o}); "
        f"close it: chmod o-rw '{path}'"
    )


@pytest.mark.parametrize(
    ("text", "mode"), [(WITH_PASSWORD, 0o640), (SITE, 0o644)], ids=["group", "no secret"]
)
def test_the_group_may_read_it_and_without_a_password_everybody(folder: Path, text: str, mode: int) -> None:
    assert settings(folder, text, mode).access("site").host == "h"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("password", 'user_name = "u"\npassword_file = "FOLDER/password"'),
        ("key.pem", 'certificate_file = "FOLDER/cert.pem"\nkey_file = "FOLDER/key.pem"'),
    ],
    ids=["password", "key"],
)
def test_so_is_a_password_or_key_that_all_may_read(folder: Path, name: str, keys: str) -> None:
    (folder / name).chmod(0o644)

    with pytest.raises(ConfigError, match=r"bridges.toml:4: site\.\w+_file: .* holds a secret.*chmod o-rw"):
        settings(folder, SITE + keys).access("site")


def test_all_endpoints_are_checked_at_once(folder: Path) -> None:
    settings(folder, SITE + '[other]\naddress = "x"')

    with pytest.raises(ConfigError, match=r":4: other\.address"):
        check_bridge_settings(folder / "bridges.toml", OWN)


def test_all_passwords_are_known_that_can_be_read(folder: Path) -> None:
    settings(
        folder,
        WITH_PASSWORD
        + '[b]\naddress = "?"\nuser_name = "u"\npassword_file = "FOLDER/password"\n'
        + '[c]\nuser_name = "u"\npassword_file = "FOLDER/none"\n[d]\naddress = "mqtts://h"\n',
    )

    assert passwords_in(folder / "bridges.toml") == [Secret(b"s3cret"), Secret(b"s3cret")]
    assert passwords_in(folder / "none.toml") == []


@pytest.mark.parametrize(
    ("text", "named"),
    [(SITE, True), ("[site]", True), ("[other]", False), ("[", True)],
    ids=["right", "wrong", "not there", "no TOML"],
)
def test_an_endpoint_whose_settings_are_wrong_is_not_one_without_any(
    folder: Path, text: str, named: bool
) -> None:
    assert settings(folder, text).names("site") is named


def test_a_change_of_the_file_counts_at_once(folder: Path) -> None:
    found = settings(folder, SITE)
    assert found.access("site").host == "h"

    settings(folder, '[site]\naddress = "mqtts://other"')

    assert found.access("site").host == "other"
