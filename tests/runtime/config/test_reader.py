from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from messaging.errors import ConfigError, EnvironmentFault
from runtime.config.device_file import remember_device
from runtime.config.listen_addresses import ListenAddress
from runtime.config.reader import RUNTIME_VARIABLES, default_home, read_settings
from runtime.config.settings import Settings, about, variable


def read(
    tmp_path: Path, options: dict[str, Any] | None = None, host_name: str = "gw-7", **environment: str
) -> Settings:
    return read_settings({"home": str(tmp_path), **(options or {})}, environment, host_name)


def test_without_anything_given_every_setting_has_its_default(tmp_path: Path) -> None:
    assert read(tmp_path) == Settings(
        home=tmp_path,
        device_id="gw-7",
        iothub_hostname="iothub.edge-actors.internal",
        hostname="localhost",
        listen=(ListenAddress("127.0.0.1", 8883),),
        web_listen=None,
        amqp_listen=None,
        plain_listen=None,
        stop_grace_s=10.0,
        allow_elevated_docker_permissions=True,
        start_when_ready=False,
        deployment_trial=0.0,
        image_gc_enabled=True,
        image_gc_interval=86_400.0,
        image_gc_threshold=604_800.0,
        image_gc_time=None,
        trust_bundle_cert=None,
        process_allow=(),
        process_isolation="auto",
        process_uids=range(60600, 61184),
        storage_folder=None,
        bridge_settings=None,
        log_level="info",
        log_format="text",
    )


def test_every_setting_says_what_a_user_wants_to_know() -> None:
    for item in (one for one in dataclasses.fields(Settings) if one.metadata):
        described = about(item.name)

        assert described.help
        assert "\n" not in described.help
        assert described.unit
        assert described.default
        assert variable(item.name).startswith("EDGE_ACTORS_")


def test_the_command_line_wins_over_the_environment_and_that_over_defaults(tmp_path: Path) -> None:
    environment = {"EDGE_ACTORS_LOG_LEVEL": "debug", "EDGE_ACTORS_STOP_GRACE_S": "0"}

    settings = read(tmp_path, {"log_level": "ERROR"}, **environment)

    assert (settings.log_level, settings.stop_grace_s) == ("error", 0.0)


def test_what_is_given_empty_counts_as_not_given(tmp_path: Path) -> None:
    settings = read(tmp_path, {"log_level": None, "listen": ()}, EDGE_ACTORS_LOG_LEVEL="")

    assert settings == read(tmp_path)


@pytest.mark.parametrize(
    ("listen", "addresses"),
    [
        (["127.0.0.1"], ["127.0.0.1:8883"]),
        (["0.0.0.0:0"], ["0.0.0.0:0"]),
        (
            ["127.0.0.1:8883", "[::1]", "[2001:DB8::1]:8884"],
            ["127.0.0.1:8883", "[::1]:8883", "[2001:db8::1]:8884"],
        ),
        ("127.0.0.1, 127.0.0.2", ["127.0.0.1:8883", "127.0.0.2:8883"]),
    ],
)
def test_listen_addresses_are_read(tmp_path: Path, listen: object, addresses: list[str]) -> None:
    assert [str(address) for address in read(tmp_path, {"listen": listen}).listen] == addresses


@pytest.mark.parametrize(
    ("listen", "host_name", "hostname"),
    [
        (["127.0.0.2", "[::1]"], "gw-7", "127.0.0.2"),
        (["0.0.0.0"], "gw-7.plant.example", "gw-7.plant.example"),
        (["127.0.0.1", "10.0.0.5"], "my_host!", "my-host"),
        (["10.0.0.5"], "", "localhost"),
    ],
)
def test_clients_are_told_a_name_that_leads_to_a_listen_address(
    tmp_path: Path, listen: list[str], host_name: str, hostname: str
) -> None:
    # Debian maps the host's name to 127.0.1.1, where a hub on 127.0.0.1 does not listen.
    assert read(tmp_path, {"listen": listen}, host_name).hostname == hostname


ADDRESS = "ADDRESS[:PORT], such as 127.0.0.1:8883 or [::1]:8883"
WEB_ADDRESS = ADDRESS.replace("8883", "443")
COMMANDS = "command lines separated by ';', each with the absolute path of its program"
DEVICE_ID = "1 to 128 letters, digits and - . % _ * ? ! ( ) , : = @ $ '"


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("device_id", "a b", DEVICE_ID),
        ("device_id", "a/b", DEVICE_ID),
        ("device_id", "a#", DEVICE_ID),
        ("device_id", "x" * 129, DEVICE_ID),
        ("iothub_hostname", "a_b", "a host name of letters, digits, '-' and '.', or an IPv4 address"),
        ("hostname", "-a", "a host name of letters, digits, '-' and '.', or an IPv4 address"),
        ("listen", "localhost", f"{ADDRESS}; ADDRESS is an IP address; for localhost write 127.0.0.1"),
        ("listen", "1.2.3:8883", f"{ADDRESS}; ADDRESS is an IP address"),
        ("listen", ":8883", f"{ADDRESS}; ADDRESS is an IP address"),
        ("listen", "::1", f"{ADDRESS}; an IPv6 address stands in brackets"),
        ("listen", "[127.0.0.1]", f"{ADDRESS}; an IPv6 address stands in brackets, without a zone"),
        ("listen", "[fe80::1%eth0]", f"{ADDRESS}; an IPv6 address stands in brackets, without a zone"),
        ("listen", "127.0.0.1:65536", f"{ADDRESS}; PORT is at most 65535"),
        ("listen", "127.0.0.1:x", f"{ADDRESS}; an IPv6 address stands in brackets"),
        ("listen", "127.0.0.1,127.0.0.1:8883", "each address once"),
        ("web_listen", "443", f"{WEB_ADDRESS}; ADDRESS is an IP address; or off"),
        ("web_listen", "127.0.0.1,127.0.0.1:443", "each address once; or off"),
        (
            "plain_listen",
            "0.0.0.0",
            "a loopback address such as 127.0.0.1:1883, or off; others need TLS",
        ),
        ("stop_grace_s", "soon", "a number of seconds from 0 to 3600"),
        ("stop_grace_s", "nan", "a number of seconds from 0 to 3600"),
        ("stop_grace_s", "-1", "a number of seconds from 0 to 3600"),
        ("cloud_connections", "0", "a whole number from 1 to 100000"),
        ("cloud_connections", "many", "a whole number from 1 to 100000"),
        ("cloud_messages_per_s", "nan", "a number from 0.1 to 1000000, or off"),
        ("cloud_messages_per_s", "0", "a number from 0.1 to 1000000, or off"),
        ("upstream_protocol", "Ampq", "Amqp, AmqpWs, Mqtt or MqttWs, in any case; did you mean 'Amqp'?"),
        ("process_allow", "python3 x", COMMANDS),
        ("process_allow", "/bin/a; 'b", f"{COMMANDS}; No closing quotation"),
        ("process_isolation", "on", "auto, require, off"),
        ("process_uids", "0-10", "FIRST-LAST, user ids from 1000 on that nobody else has"),
        ("process_uids", "61000", "FIRST-LAST, user ids from 1000 on that nobody else has"),
        ("process_uids", "61000-60000", "FIRST-LAST, user ids from 1000 on that nobody else has"),
        ("process_uids", "61000-4294967295", "FIRST-LAST, user ids from 1000 on that nobody else has"),
        ("log_level", "warn", "debug, info, warning, error; did you mean 'warning'?"),
    ],
)
def test_a_wrong_value_is_named_with_its_origin_and_what_is_allowed(
    tmp_path: Path, name: str, text: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as by_option:
        read(tmp_path, {name: text})
    with pytest.raises(ConfigError) as by_variable:
        read(tmp_path, **{variable(name): text})

    option = "--" + name.replace("_", "-")
    assert str(by_option.value) == f"{option}: {text!r} is not allowed; allowed: {allowed}"
    assert str(by_variable.value) == f"{variable(name)}: {text!r} is not allowed; allowed: {allowed}"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("off", None),
        ("127.0.0.1", "127.0.0.1:1883"),
        ("[::1]:2000", "[::1]:2000"),
        ("127.9.9.9:0", "127.9.9.9:0"),
    ],
)
def test_plain_tcp_is_off_or_on_loopback(tmp_path: Path, text: str, address: str | None) -> None:
    plain = read(tmp_path, EDGE_ACTORS_PLAIN_LISTEN=text).plain_listen

    assert (None if plain is None else str(plain)) == address


def test_the_settings_of_process_modules_are_read(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        EDGE_ACTORS_PROCESS_ALLOW="/usr/bin/python3 '/opt/my pump/main.py' *; /bin/true;",
        EDGE_ACTORS_PROCESS_ISOLATION="Require",
        EDGE_ACTORS_PROCESS_UIDS="70000-70009",
    )

    assert settings.process_allow == (("/usr/bin/python3", "/opt/my pump/main.py", "*"), ("/bin/true",))
    assert settings.process_isolation == "require"
    assert settings.process_uids == range(70000, 70010)


def test_an_unknown_variable_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, EDGE_ACTORS_LOGLEVEL="debug")

    assert str(caught.value) == (
        "EDGE_ACTORS_LOGLEVEL: no such setting; did you mean 'EDGE_ACTORS_LOG_LEVEL'?"
    )


def test_what_the_runtime_sets_itself_is_no_unknown_variable(tmp_path: Path) -> None:
    assert read(tmp_path, **dict.fromkeys(RUNTIME_VARIABLES, "x"), OTHER="y") == read(tmp_path)


# --- The home and the device's identity ---


@pytest.mark.parametrize(
    ("uid", "state", "home"),
    [
        (0, "/x", "/var/lib/edge-actors"),
        (1000, "/x/state", "/x/state/edge-actors"),
        (1000, "", "/home/me/.local/state/edge-actors"),
        (1000, "relative", "/home/me/.local/state/edge-actors"),
    ],
    ids=["root", "XDG_STATE_HOME", "user", "relative XDG_STATE_HOME is ignored"],
)
def test_the_default_home_depends_on_the_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, state: str, home: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", "/home/me")

    assert default_home() == Path(home)


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert read_settings({"home": "edge"}, {}, "gw-7").home == tmp_path / "edge"


def test_a_device_keeps_its_id_when_the_host_gets_another_name(tmp_path: Path) -> None:
    remember_device(tmp_path, "gw-7")

    settings = read(tmp_path, host_name="gw-8")
    remember_device(settings.home, settings.device_id)

    assert settings.device_id == "gw-7"
    assert read(tmp_path, {"device_id": "gw-7"}).device_id == "gw-7"
    assert [path.name for path in tmp_path.iterdir()] == ["device.json"]


def test_reading_settings_leaves_the_home_untouched(tmp_path: Path) -> None:
    read(tmp_path / "none")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host_name", "device_id"), [("my_host é", "my-host--"), ("", "edge-device"), ("x" * 200, "x" * 128)]
)
def test_a_host_name_becomes_a_valid_device_id(tmp_path: Path, host_name: str, device_id: str) -> None:
    settings = read(tmp_path, host_name=host_name)

    assert settings.device_id == device_id
    assert read(tmp_path, {"device_id": device_id}).device_id == device_id


def test_a_home_is_not_given_to_another_device(tmp_path: Path) -> None:
    remember_device(tmp_path, "gw-7")

    with pytest.raises(ConfigError) as caught:
        read(tmp_path, EDGE_ACTORS_DEVICE_ID="gw-8")

    assert str(caught.value) == (
        f"EDGE_ACTORS_DEVICE_ID: 'gw-8' is not allowed; the home {tmp_path} belongs to device 'gw-7'; "
        "choose another --home, or remove this one with `edge-actors down --purge`"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"deviceId": 5}', b'{"deviceId": "a b"}', b"\xff", b"[" * 100_000],
    ids=["empty", "array", "no id", "number", "not an id", "not text", "deep"],
)
def test_a_damaged_device_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device.json").write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        read(tmp_path)

    assert str(caught.value) == (
        f'{tmp_path}/device.json: not of the form {{"deviceId": "…"}}; '
        "write the id of this device into it again"
    )


def test_a_device_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "device.json").mkdir()

    with pytest.raises(EnvironmentFault) as caught:
        read(tmp_path)

    assert str(caught.value) == f"{tmp_path}/device.json: cannot be read: Is a directory"
