"""config.toml: every key is read, and everything that is wrong is told at once with file, line and way out."""

# ruff: noqa: E501  # messages stand here as they are

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import ConfigError, EnvironmentFault
from runtime.config.file import KINDS
from runtime.config.keys import NO_EFFECT, REFUSED, SETTING_OF, all_keys, foreign
from runtime.config.listen_addresses import ListenAddress
from runtime.config.reader import read_settings
from runtime.config.settings import NAMES, Settings, about, variable
from runtime.config.words import shown

KEY = base64.b64encode(b"k" * 32).decode()
TEXT = f"HostName=hub1.azure-devices.net;DeviceId=edge1;SharedAccessKey={KEY}"


def write(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "config.toml"
    path.touch(mode)
    path.chmod(mode)
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str, options: dict[str, Any] | None = None, **environment: str) -> Settings:
    path = write(tmp_path, text)
    given = {"home": str(tmp_path / "home"), "config": str(path), **(options or {})}
    return read_settings(given, environment, "gw-7")


def problems(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, **environment)
    return str(caught.value).replace(str(tmp_path / "config.toml"), "FILE").split("\n")


# --- what is right ---


def test_a_config_toml_of_the_reference_is_read(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        f"""
hostname = "gw.plant.example"
trust_bundle_cert = "file:///etc/root.pem"
allow_elevated_docker_permissions = false
auto_reprovisioning_mode = "OnErrorOnly"

[provisioning]
source = "manual"
connection_string = "{TEXT}"

[agent]
name = "edgeAgent"
type = "docker"
[agent.config]
image = "mcr.microsoft.com/azureiotedge-agent:1.5"
createOptions = {{ HostConfig = {{ Binds = ["/a:/b"] }} }}
[agent.env]
UpstreamProtocol = "MqttWs"
RuntimeLogLevel = "debug"

[connect]
workload_uri = "unix:///var/run/iotedge/workload.sock"

[edge_ca]
auto_generated_edge_ca_expiry_days = 30
auto_renew = {{ rotate_key = false, threshold = "7day", retry = "4%" }}

[image_garbage_collection]
enabled = true
cleanup_recurrence = "2d"
image_age_cleanup_threshold = "7d"
cleanup_time = "02:30"

[moby_runtime]
network = "azure-iot-edge"
""",
    )

    assert (settings.device_id, settings.iothub_hostname) == ("edge1", "hub1.azure-devices.net")
    assert settings.hostname == "gw.plant.example"
    assert settings.trust_bundle_cert == Path("/etc/root.pem")
    assert not settings.allow_elevated_docker_permissions
    assert settings.upstream_protocol.value == "MqttWs"
    assert settings.edge_ca_expiry_days == 30
    assert settings.edge_ca_renewal_threshold.before_end_s == 7 * 86_400
    assert not settings.edge_ca_rotate_key
    assert (settings.image_gc_interval, f"{settings.image_gc_time:%H:%M}") == (2 * 86_400.0, "02:30")
    told = [remark.partition(": ")[2] for remark in settings.remarks]
    assert [text.partition(" has no effect: ")[0] for text in told] == [
        *("agent.name", "agent.type", "agent.config", "agent.env.RuntimeLogLevel"),
        *("connect", "edge_ca.auto_renew.retry", "moby_runtime"),
    ]


def test_lists_and_numbers_are_written_as_toml_has_them(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        """
log_level = "Debug"
[hub]
listen = ["127.0.0.1", "[::1]:8884"]
web_listen = "off"
[modules]
stop_grace_s = 2.5
deployment_trial = "5m"
[process_modules]
allow = ["/usr/bin/python3 '/opt/my pump.py' *", "/bin/true"]
[cloud]
connections = 7
messages_per_s = "off"
""",
    )

    assert settings.listen == (ListenAddress("127.0.0.1", 8883), ListenAddress("::1", 8884))
    assert settings.web_listen == ()
    assert (settings.stop_grace_s, settings.deployment_trial, settings.log_level) == (2.5, 300.0, "debug")
    assert settings.process_allow == (("/usr/bin/python3", "/opt/my pump.py", "*"), ("/bin/true",))
    assert (settings.cloud_connections, settings.cloud_messages_per_s) == (7, None)


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = 'log_level = "error"\nhostname = "a"\n[modules]\nstop_grace_s = 1\n'

    settings = read(
        tmp_path,
        text,
        {"log_level": "info"},
        EDGE_ACTORS_LOG_LEVEL="debug",
        EDGE_ACTORS_HOSTNAME="b",
    )

    assert (settings.log_level, settings.hostname, settings.stop_grace_s) == ("info", "b", 1.0)
    assert settings.given["log_level"] == "--log-level"
    assert settings.given["hostname"] == "EDGE_ACTORS_HOSTNAME"
    assert settings.given["stop_grace_s"] == f"{tmp_path / 'config.toml'}:4"


def test_the_file_in_the_home_is_read_unless_another_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write(home, 'log_level = "debug"\n')
    other = write(tmp_path, 'log_level = "error"\n')

    def level(options: dict[str, str], **environment: str) -> str:
        return read_settings({"home": str(home), **options}, environment, "gw-7").log_level

    assert level({}) == "debug"
    assert level({}, EDGE_ACTORS_CONFIG=str(other)) == "error"
    assert level({"config": str(home / "config.toml")}, EDGE_ACTORS_CONFIG=str(other)) == "debug"


def test_who_this_device_is_comes_from_one_place_as_a_whole(tmp_path: Path) -> None:
    dps = '[provisioning]\nsource = "dps"\nid_scope = "0ne1"\n[provisioning.attestation]\n'
    dps += f'method = "symmetric_key"\nregistration_id = "Reg-7"\nsymmetric_key = {{ value = "{KEY}" }}\n'

    by_file = read(tmp_path, dps)
    by_environment = read(tmp_path, dps, EDGE_ACTORS_CONNECTION_STRING=TEXT)

    assert (by_file.dps_id_scope, by_file.dps_registration_id, by_file.dps_key) == ("0ne1", "reg-7", KEY)
    assert (by_environment.dps_id_scope, by_environment.device_id) == ("", "edge1")


def test_a_device_key_may_stand_by_itself(tmp_path: Path) -> None:
    text = '[provisioning]\nsource = "manual"\niothub_hostname = "hub1"\ndevice_id = "e1"\n'
    text += (
        f'[provisioning.authentication]\nmethod = "sas"\ndevice_id_pk = {{ value = "{KEY.rstrip("=")}" }}\n'
    )

    settings = read(tmp_path, text)

    assert settings.connection_string is not None
    assert settings.connection_string.shared_access_key == KEY
    assert settings.connection_string.host_name == "hub1"


def test_accounts_at_registries_are_read_and_their_passwords_shown_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text("of file\n")
    text = '[registry_credentials.a]\naddress = "r.example"\nusername = "u"\npassword = "direct"\n'
    text += (
        f'[registry_credentials.b]\naddress = "s.example:5000"\nusername = "v"\npassword_file = "{secret}"\n'
    )

    settings = read(tmp_path, text)

    assert [(one.address, one.username, one.password) for one in settings.registry_credentials] == [
        ("r.example", "u", "direct"),
        ("s.example:5000", "v", "of file"),
    ]
    assert "direct" not in repr(settings)
    assert "of file" not in repr(settings)


def test_no_secret_is_shown_by_the_settings(tmp_path: Path) -> None:
    dps = f'[provisioning]\nid_scope = "0ne1"\n[provisioning.attestation]\nregistration_id = "r"\nsymmetric_key.value = "{KEY}"\n'

    for settings in (read(tmp_path, f'[provisioning]\nconnection_string = "{TEXT}"\n'), read(tmp_path, dps)):
        told = repr(settings) + "".join(shown(settings, name) for name in NAMES)
        assert KEY not in told
        assert "***" in told


# --- what is wrong ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hostnme = 'x'", "FILE:1: unknown key 'hostnme'; did you mean 'hostname'?"),
        (
            "\n[provisioning]\nconection_string = 'x'",
            "FILE:3: unknown key 'provisioning.conection_string'; did you mean 'provisioning.connection_string'?",
        ),
        ("[edge_cas]\ncert = '/a'", "FILE:1: unknown key 'edge_cas'; did you mean 'edge_ca'?"),
        ("zzzz = 1", "FILE:1: unknown key 'zzzz'; `edge-actors config show` lists all keys"),
        ("hostname = 5", "FILE:1: hostname = 5 is not allowed; allowed: a string: host name"),
        (
            'hostname = ""',
            'FILE:1: hostname = "" is not allowed; allowed: a string that is not empty: host name',
        ),
        (
            "hostname = {a = 1}",
            "FILE:1: hostname = a table is not allowed; allowed: a string: host name",
        ),
        (
            "allow_elevated_docker_permissions = 'yes'",
            'FILE:1: allow_elevated_docker_permissions = "yes" is not allowed; allowed: true or false, without quotes',
        ),
        (
            "log_level = 'warn'",
            "FILE:1: log_level = \"warn\" is not allowed; allowed: debug, info, warning, error; did you mean 'warning'?",
        ),
        (
            "log_level = 2024-01-02",
            "FILE:1: log_level = 2024-01-02 is not allowed; allowed: a string: "
            "debug, info, warning or error; for parts as well, such as info,actors.upstream=debug",
        ),
        (
            "[cloud]\n# here\nconnections = 0",
            "FILE:3: cloud.connections = 0 is not allowed; allowed: a whole number from 1 to 100000",
        ),
        (
            "[cloud]\nconnections = true",
            "FILE:2: cloud.connections = true is not allowed; allowed: a whole number, without quotes",
        ),
        (
            "[cloud]\nhttps_port = 8.5",
            "FILE:2: cloud.https_port = 8.5 is not allowed; allowed: a whole number, without quotes",
        ),
        (
            "[cloud]\nmessages_per_s = nan",
            "FILE:2: cloud.messages_per_s = NaN is not allowed; allowed: a number from 0.1 to 1000000, or off",
        ),
        (
            "[hub]\nlisten = [1]",
            "FILE:2: hub.listen = [1] is not allowed; allowed: a string, or an array of strings",
        ),
        (
            "[process_modules]\nallow = ['/bin/a; /bin/b']",
            'FILE:2: process_modules.allow = ["/bin/a; /bin/b"] is not allowed; '
            "allowed: an array of command lines, each a string without ';'",
        ),
        (
            "[edge_ca]\nexpiry_days = 4000",
            "FILE:2: edge_ca.expiry_days = 4000 is not allowed; allowed: a whole number of days from 1 to 3650",
        ),
        (
            "[edge_ca]\nexpiry_days = 4\nauto_generated_edge_ca_expiry_days = 5",
            "FILE:3: edge_ca.auto_generated_edge_ca_expiry_days says again what FILE:2: edge_ca.expiry_days says; "
            "leave out one",
        ),
        (
            "[edge_ca.auto_renew]\nthreshold = '100%'",
            'FILE:2: edge_ca.auto_renew.threshold = "100%" is not allowed; '
            "allowed: 1% to 99% of its life, or how long before its end, such as 90min or 7day",
        ),
        (
            "[edge_ca]\nexpiry_days = 5\nauto_renew.threshold = '7day'",
            "FILE:3: edge_ca.auto_renew.threshold: with this threshold an edge CA of 5 days would be due as soon as it is made; "
            "choose a later threshold, or more days",
        ),
        (
            "[edge_ca]\nauto_renew.threshold = '1%'",
            "FILE:2: edge_ca.auto_renew.threshold: with this threshold an edge CA of 90 days would be due as soon as it is made; "
            "choose a later threshold, or more days",
        ),
        (
            "[edge_ca]\nmethod = 'est'",
            'FILE:2: edge_ca.method = "est" is not allowed; allowed: "self_signed"',
        ),
        (
            "[edge_ca]\ncert = 'pkcs11:slot'",
            'FILE:2: edge_ca.cert = "pkcs11:slot" is not allowed; '
            "allowed: the absolute path of a PEM file, such as /etc/ca.pem or file:///etc/ca.pem",
        ),
        ("[edge_ca]\ncert = '/a'", "FILE:2: edge_ca.cert is given, but edge_ca.pk not; it needs that, too"),
        (
            "[edge_ca]\ncert = '/a'\npk = '/b'\nexpiry_days = 3",
            "FILE:4: edge_ca.expiry_days is for an edge CA that the edge makes itself, but FILE:2: edge_ca.cert "
            "names one; leave out one of them",
        ),
        (
            "[provisioning]\nsource = 'manuel'",
            'FILE:2: provisioning.source = "manuel" is not allowed; '
            'allowed: "manual", "dps", "none"; did you mean \'manual\'?',
        ),
        (
            "[provisioning]\nsource = 'manual'",
            "FILE:2: provisioning.source is 'manual', but provisioning.connection_string is missing; add it",
        ),
        (
            "[provisioning]\nsource = 'dps'",
            "FILE:2: provisioning.source is 'dps', but provisioning.id_scope is missing; add it",
        ),
        (
            "[provisioning]\nsource = 'dps'\nid_scope = '0ne1'",
            "FILE:3: provisioning.id_scope is given, but provisioning.attestation.registration_id and "
            "provisioning.attestation.symmetric_key.uri not; it needs them, too",
        ),
        (
            "[provisioning]\nid_scope = '0ne1'\n[provisioning.attestation]\nmethod = 'x509'\nregistration_id = 'r'",
            "FILE:4: provisioning.attestation.method is 'x509', but identity_cert and identity_pk are missing; add them",
        ),
        (
            "[provisioning]\nid_scope = '0ne1'\n[provisioning.attestation]\nmethod = 'tpm'\nregistration_id = 'r'",
            'FILE:4: provisioning.attestation.method = "tpm" is not allowed; allowed: "symmetric_key", "x509"',
        ),
        (
            f"[provisioning]\nconnection_string = '{TEXT}'\nid_scope = '0ne1'",
            "FILE:2: provisioning.connection_string and FILE:3: provisioning.id_scope are both given; an edge has its "
            "IoT Hub either from a connection string or from the provisioning service: leave out one of them",
        ),
        (
            "[provisioning]\nconnection_string = 'HostName=h;DeviceId=d;SharedAccessKey=geheim!'",
            "FILE:2: provisioning.connection_string: connection string: a shared access key is not base64; "
            "`az iot hub device-identity connection-string show -n HUB -d DEVICE` shows it",
        ),
        (
            "[provisioning]\nconnection_string = 5",
            "FILE:2: provisioning.connection_string = a secret is not allowed; "
            "allowed: a string: connection string of the edge device",
        ),
        (
            "[provisioning.attestation]\nsymmetric_key.value = 'geheim!'",
            "FILE:2: provisioning.attestation.symmetric_key.value: the key is not base64; allowed: base64 of 16 to 64 "
            "bytes: the key of the individual enrollment, or that of a group derived for this device with "
            "`az iot dps enrollment-group compute-device-key`",
        ),
        (
            "parent_hostname = 'up'",
            "FILE:1: parent_hostname is not possible: this edge connects to the IoT Hub itself, not to a parent edge; "
            'for a bridge to the broker of a parent, name it as address of ["$upstream"] in bridges.toml; leave it out',
        ),
        (
            "[tpm]\ntcti = 'device'",
            "FILE:1: tpm is not possible: keys are files here; name certificate and key with their paths; leave it out",
        ),
        ("hub = 3", "FILE:1: hub is not allowed as a value; allowed: a table, [hub]"),
        (
            "registry_credentials = 3",
            "FILE:1: registry_credentials is not allowed as a value; allowed: tables, [registry_credentials.NAME]",
        ),
        (
            "[registry_credentials.a]\naddress = 'r'\nusername = 'u'",
            "FILE:1: registry_credentials.a has no password or password_file; an account needs that",
        ),
        (
            "[registry_credentials.a]\naddress = 'r'\nusername = 'u'\npassword = 5",
            "FILE:4: registry_credentials.a.password = a secret is not allowed; allowed: a string, not empty",
        ),
        (
            "hostname = 'a'\nhostname = 'b'",
            "FILE:2: not TOML: cannot overwrite a value; see toml.io for its rules",
        ),
        (
            "[hub\n",
            "FILE:1: not TOML: expected ']' at the end of a table declaration; see toml.io for its rules",
        ),
        ("a = [1,\n\n", "FILE:3: not TOML: invalid value; see toml.io for its rules"),
    ],
    ids=lambda text: re.sub(r"\W+", " ", text)[:40].strip(),
)
def test_what_is_wrong_is_told_with_line_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, said: str
) -> None:
    told = problems(tmp_path, text)

    assert told == [said]
    assert "geheim" not in told[0]
    assert KEY not in told[0]
    assert not (tmp_path / "home").exists()


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, "hostname = 1\nlog_level = 2\n[hub]\nlisten = 3\n")

    assert [line.partition(": ")[0] for line in told] == ["FILE:1", "FILE:2", "FILE:4"]


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o600, False), (0o640, False), (0o644, True), (0o604, True), (0o602, True)],
    ids=oct,
)
def test_a_file_with_a_secret_is_closed_to_others(tmp_path: Path, mode: int, refused: bool) -> None:
    path = write(tmp_path, f'[provisioning]\nconnection_string = "{TEXT}"\n', mode)
    options = {"home": str(tmp_path / "home"), "config": str(path)}
    if not refused:
        assert read_settings(options, {}, "gw-7").device_id == "edge1"
        return

    with pytest.raises(ConfigError) as caught:
        read_settings(options, {}, "gw-7")

    assert str(caught.value) == (
        f"{path}:2: '{path}' holds a secret and is open to all users of this machine (mode {mode:04o}); "
        f"close it: chmod o-rw '{path}'"
    )


def test_a_file_without_secrets_may_be_read_by_all(tmp_path: Path) -> None:
    path = write(tmp_path, 'hostname = "gw"\n', 0o644)

    settings = read_settings({"home": str(tmp_path / "home"), "config": str(path)}, {}, "gw-7")

    assert settings.hostname == "gw"


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (
            None,
            ConfigError,
            "FILE: there is no such file; `edge-actors config mp` makes one, or name another with -c",
        ),
        (b"a = '\xff'", ConfigError, "FILE:1: not UTF-8; write the file in UTF-8"),
        (b"#" * 300_000, ConfigError, "FILE: has more than 262144 bytes; that is no file of settings"),
    ],
    ids=["missing", "not UTF-8", "too long"],
)
def test_a_file_that_is_none_is_named(
    tmp_path: Path, content: bytes | None, error: type[Exception], said: str
) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error) as caught:
        read_settings({"home": str(tmp_path), "config": str(path)}, {}, "gw-7")

    assert str(caught.value).replace(str(path), "FILE") == said


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be read: Is a directory"):
        read_settings({"home": str(tmp_path), "config": str(tmp_path)}, {}, "gw-7")


VALUES = st.sampled_from(
    [
        "1",
        "-1",
        "1.5",
        "nan",
        "true",
        '""',
        '"x"',
        "[]",
        "[[1]]",
        '["a", 2]',
        "{}",
        "{ a.b = 1 }",
        "07:30:00",
        '"""a\nb"""',
    ]
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*all_keys(), *REFUSED, *NO_EFFECT, "registry_credentials.a.address"]), VALUES
        )
    )
)
def test_whatever_stands_behind_a_key_is_read_or_told_with_its_line(pairs: list[tuple[str, str]]) -> None:
    """Nothing but an error of ours comes out, and each problem of the file names a line that it has."""
    text = "".join(f"{key} = {value}\n" for key, value in pairs)
    with TemporaryDirectory() as folder:
        path = write(Path(folder), text)
        try:
            read_settings({"home": str(Path(folder) / "home"), "config": str(path)}, {}, "gw-7")
        except ConfigError as exc:
            for line in str(exc).replace(str(path), "FILE").split("\nFILE"):
                found = re.match(r"(?:FILE)?:(\d+): ", line)
                assert found is not None, line
                assert 1 <= int(found[1]) <= text.count("\n") + 1


# --- the tables ---


def test_every_setting_but_the_home_has_a_key_and_each_key_one_setting() -> None:
    assert [name for name in NAMES if not about(name).keys] == ["home"]
    assert len(SETTING_OF) == sum(len(about(name).keys) for name in NAMES)
    assert all(about(name).kind in KINDS for name in NAMES)


def test_no_key_of_ours_is_hidden_by_one_that_means_nothing() -> None:
    for key in all_keys():
        assert foreign(key, REFUSED) is None or key in SETTING_OF
        assert key not in NO_EFFECT


def test_the_list_of_keys_is_what_the_program_has() -> None:
    listed = (Path(__file__).parents[3] / "runtime" / "docs" / "CONFIG.md").read_text()

    for name in NAMES:
        described = about(name)
        if described.keys:
            first, *others = (f"`{key}`" for key in described.keys)
            row = f"| {', '.join([first, *others])} | `{variable(name)}` | {described.help} | {described.unit} |"
            assert f"{row} {described.default} |" in listed, json.dumps(row)
    for key, reason in {**REFUSED, **NO_EFFECT}.items():
        assert f"| `{key}` | {reason} |" in listed
