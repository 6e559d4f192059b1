"""`edge-actors config` and `cert`, and what is told of files that cannot be used: exact message and exit code."""

# ruff: noqa: E501  # messages stand here as they are

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runtime.cli.main import invoke
from runtime.config import apply
from runtime.home import Home
from tests.integration.device_certificates import KeyPair, issue

KEY = base64.b64encode(b"k" * 32).decode()
TEXT = f"HostName=hub1.azure-devices.net;DeviceId=edge1;SharedAccessKey={KEY}"
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("EDGE_ACTORS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGE_ACTORS_HOME", str(tmp_path / "home"))


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def limited(name: str, *permitted: str) -> KeyPair:
    """Return a CA that may sign for these names alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(one) for one in permitted], None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate, key)


def encrypted(pair: KeyPair) -> str:
    return pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    ).decode()


CA = issue("plant CA", is_ca=True)
OTHER = issue("other CA", is_ca=True)
LEAF = issue("gw-1")
EXPIRED = issue("old CA", is_ca=True, days=(-30, -2))
LIMITED = limited("limited CA", "plant.example")
END_OF_EXPIRED = f"{NOW - timedelta(days=2):%Y-%m-%d}"
TODAY = f"{NOW:%Y-%m-%d}"

Make = Callable[[Path, Path], object]


def files(cert: str, key: str, mode: int = 0o600) -> Make:
    def make(cert_path: Path, key_path: Path) -> None:
        cert_path.write_text(cert)
        private(key_path, key, mode)

    return make


CERT = "CONFIG:2: edge_ca.cert"
PK = "CONFIG:3: edge_ca.pk"
ROWS: list[tuple[str, Make, str]] = [
    (
        "certificate and key that do not match",
        files(CA.pem, OTHER.key_pem),
        f"{PK}: the private key in 'KEY' does not belong to the first certificate in 'CERT'; name the key with which that certificate was requested",
    ),
    (
        "expired CA",
        files(EXPIRED.pem, EXPIRED.key_pem),
        f"{CERT}: the certificate in 'CERT' expired on {END_OF_EXPIRED}; have a new one issued, or set the clock, which says {TODAY}",
    ),
    (
        "no authority",
        files(LEAF.pem, LEAF.key_pem),
        f"{CERT}: the certificate in 'CERT' is not that of an authority (basic constraint CA, key usage keyCertSign), so nothing that it signs is trusted; have one issued that is",
    ),
    (
        "host name not covered",
        files(LIMITED.pem, LIMITED.key_pem),
        f"{CERT}: the authority in 'CERT' may not sign for host name 'gw.other.example': its name constraints permit plant.example; set hostname to one of these, or have an authority issued that permits this one",
    ),
    (
        "world-readable key",
        files(CA.pem, CA.key_pem, 0o644),
        f"{PK}: 'KEY' holds a secret and is open to all users of this machine (mode 0644); close it: chmod o-rw 'KEY'",
    ),
    (
        "missing key",
        lambda cert, key: cert.write_text(CA.pem),
        f"{PK}: 'KEY' cannot be read: No such file or directory; name a file that this user may read",
    ),
    (
        "key that is a folder",
        lambda cert, key: (cert.write_text(CA.pem), key.mkdir()),
        f"{PK}: 'KEY' cannot be read: Is a directory; name a file that this user may read",
    ),
    (
        "missing certificate",
        lambda cert, key: private(key, CA.key_pem),
        f"{CERT}: 'CERT' cannot be read: No such file or directory; name a file that this user may read",
    ),
    (
        "encrypted key",
        files(CA.pem, encrypted(CA)),
        f"{PK}: the private key in 'KEY' is encrypted; `openssl pkey -in FILE -out FILE2` writes one that is not",
    ),
    (
        "key that is none",
        files(CA.pem, CA.pem),
        f"{PK}: there is no private key in 'KEY'; name a PEM file that has one",
    ),
    (
        "certificate that is none",
        files(CA.key_pem, CA.key_pem),
        f"{CERT}: there is no certificate in 'CERT'; name a PEM file that begins with one",
    ),
    (
        "damaged certificate",
        files(CA.pem.replace("MII", "MIJ", 1), CA.key_pem),
        f"{CERT}: 'CERT' has a damaged certificate; copy the file once more",
    ),
]


@pytest.mark.parametrize(("make", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
@pytest.mark.parametrize("command", ["check", "apply", "run"])
def test_an_edge_ca_that_cannot_be_used_is_told_and_nothing_is_changed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    make: Make,
    said: str,
) -> None:
    cert, key, config = tmp_path / "ca.pem", tmp_path / "ca.key", tmp_path / "config.toml"
    make(cert, key)
    config.write_text(
        f'[edge_ca]\ncert = "{cert}"\npk = "{key}"\n'
        '[hub]\nlisten = "127.7.7.7:0"\nweb_listen = "off"\namqp_listen = "off"\n'
    )
    monkeypatch.setenv("EDGE_ACTORS_HOSTNAME", "gw.other.example")
    ways = {"run": ["run", "--config", str(config), "--for", "5"]}

    code = invoke(ways.get(command, ["config", command, "-c", str(config)]))

    told = capsys.readouterr().err.splitlines()
    expected = said.replace("CONFIG", str(config)).replace("'CERT'", f"'{cert}'").replace("'KEY'", f"'{key}'")
    assert code == 2
    assert f"error: {expected}" in told
    assert not (tmp_path / "home" / "config.toml").exists()
    assert not (tmp_path / "home" / "certificates" / "hub-server.pem").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "{source}:2: hub.bridge_settings: there is no '{bridges}'; make it, or leave this out"),
        (
            "[site]\naddress = 3\n",
            "{bridges}:2: site.address = 3 is not allowed; allowed: a string that is not empty",
        ),
    ],
    ids=["missing", "wrong"],
)
def test_settings_of_bridges_are_checked_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    bridges = tmp_path / "bridges.toml"
    if content is not None:
        private(bridges, content)
    source = private(tmp_path / "config.toml", f'[hub]\nbridge_settings = "{bridges}"\n')

    assert invoke(["config", "check", "-c", str(source)]) == 2

    assert said.format(source=source, bridges=bridges) in capsys.readouterr().err


def test_the_file_of_the_service_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    monkeypatch.setattr(apply, "is_user", lambda uid: uid == 4321)
    assert apply.default_file() == Path("/etc/edge-actors/config.toml")

    monkeypatch.setattr(apply, "is_user", lambda uid: False)
    assert apply.default_file() != Path("/etc/edge-actors/config.toml")


# What the file itself may have wrong: content, mode, what is told with the file in the place of CONFIG.
FILE_ROWS: list[tuple[str, str, int, str]] = [
    (
        "wrong type",
        "hostname = 5\n",
        0o600,
        "CONFIG:1: hostname = 5 is not allowed; allowed: a string: host name",
    ),
    (
        "out of range",
        "[cloud]\nconnections = 0\n",
        0o600,
        "CONFIG:2: cloud.connections = 0 is not allowed; allowed: a whole number from 1 to 100000",
    ),
    (
        "unknown value",
        'log_level = "warn"\n',
        0o600,
        "CONFIG:1: log_level = \"warn\" is not allowed; allowed: debug, info, warning, error; did you mean 'warning'?",
    ),
    (
        "unknown key",
        'hostnme = "gw"\n',
        0o600,
        "CONFIG:1: unknown key 'hostnme'; did you mean 'hostname'?",
    ),
    (
        "not TOML",
        "[hub\n",
        0o600,
        "CONFIG:1: not TOML: expected ']' at the end of a table declaration; see toml.io for its rules",
    ),
    (
        "world-readable secret",
        f'[provisioning]\nconnection_string = "{TEXT}"\n',
        0o644,
        "CONFIG:2: 'CONFIG' holds a secret and is open to all users of this machine (mode 0644); close it: chmod o-rw 'CONFIG'",
    ),
]


@pytest.mark.parametrize(
    ("content", "mode", "said"), [row[1:] for row in FILE_ROWS], ids=[row[0] for row in FILE_ROWS]
)
@pytest.mark.parametrize("command", ["check", "apply", "run"])
def test_a_file_that_is_wrong_is_told_and_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: str, mode: int, said: str
) -> None:
    config, in_force = tmp_path / "config.toml", tmp_path / "home" / "config.toml"
    assert invoke(["config", "apply", "-c", str(private(config, 'log_level = "debug"\n'))]) == 0
    before = {path: path.stat().st_mtime_ns for path in in_force.parent.iterdir()}
    private(config, content, mode)
    capsys.readouterr()
    ways = {"run": ["run", "--config", str(config), "--for", "5"]}

    code = invoke(ways.get(command, ["config", command, "-c", str(config)]))

    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert f"error: {said.replace('CONFIG', str(config))}" in told.err.splitlines()
    assert KEY not in told.err
    assert in_force.read_text() == 'log_level = "debug"\n'
    assert {path: path.stat().st_mtime_ns for path in in_force.parent.iterdir()} == before


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user finds; those of pytest are closed. Whoever this process becomes, it is root again."""
    folder = Path(tempfile.mkdtemp(prefix="ea-config-", dir="/tmp"))
    folder.chmod(0o755)
    monkeypatch.setenv("EDGE_ACTORS_HOME", str(folder / "home"))
    yield folder
    os.seteuid(os.getuid())
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("unreadable", "said"),
    [
        ("ca.key", "CONFIG:3: edge_ca.pk: 'FILE' cannot be read: {}; name a file that this user may read"),
        ("ca.pem", "CONFIG:2: edge_ca.cert: 'FILE' cannot be read: {}; name a file that this user may read"),
        ("c.toml", "CONFIG: cannot be read: {}; run as the user of the edge, or repair owner and mode"),
    ],
)
def test_a_file_of_somebody_else_is_told(
    open_folder: Path, capsys: pytest.CaptureFixture[str], unreadable: str, said: str
) -> None:
    nobody = 65534 if os.geteuid() == 0 else os.geteuid()
    cert, key, config = open_folder / "ca.pem", open_folder / "ca.key", open_folder / "c.toml"
    private(cert, CA.pem, 0o644)
    private(key, CA.key_pem)
    private(config, f'[edge_ca]\ncert = "{cert}"\npk = "{key}"\n', 0o644)
    check = ["config", "check", "-c", str(config)]
    assert invoke(check) == 0  # so that all is imported, which another user may not be able to
    if unreadable != "ca.key":
        os.chown(key, nobody, -1)
    (open_folder / unreadable).chmod(0)
    os.seteuid(nobody)

    code = invoke(check)

    told = capsys.readouterr().err.splitlines()
    expected = said.format("Permission denied").replace("CONFIG", str(config))
    assert code == 2
    assert f"error: {expected.replace('FILE', str(open_folder / unreadable))}" in told


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (files(LEAF.pem, OTHER.key_pem), "does not belong to the first certificate in 'CERT'"),
        (files(LEAF.pem, LEAF.key_pem, 0o604), "is open to all users of this machine (mode 0604)"),
        (files(EXPIRED.pem, EXPIRED.key_pem), f"expired on {END_OF_EXPIRED}"),
    ],
    ids=["do not match", "world-readable", "expired"],
)
def test_a_certificate_of_the_device_that_cannot_be_used_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Make, said: str
) -> None:
    cert, key = tmp_path / "id.pem", tmp_path / "id.key"
    make(cert, key)
    text = '[provisioning]\nsource = "dps"\nid_scope = "0ne1"\n[provisioning.attestation]\nmethod = "x509"\n'
    config = tmp_path / "config.toml"
    config.write_text(f'{text}identity_cert = "{cert}"\nidentity_pk = "file://{key}"\n')

    codes = [invoke(["config", "apply", "-c", str(config)]), invoke(["run", "--config", str(config)])]

    assert codes == [2, 2]
    assert capsys.readouterr().err.count(said.replace("'CERT'", f"'{cert}'")) == 2
    assert not (tmp_path / "home").exists()


def test_a_wrong_file_leaves_the_one_in_force_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = private(tmp_path / "c.toml", 'log_level = "debug"\n')
    assert invoke(["config", "apply", "-c", str(config)]) == 0
    in_force = Home(tmp_path / "home").config

    config.write_text('log_level = "info"\nhostname = 5\n')
    code = invoke(["config", "apply", "-c", str(config)])

    assert code == 2
    assert in_force.read_text() == 'log_level = "debug"\n'
    assert stat.S_IMODE(in_force.stat().st_mode) == 0o600
    assert capsys.readouterr().err.endswith("nothing was changed\n")


def test_what_is_applied_is_what_the_next_start_and_show_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = private(
        tmp_path / "c.toml",
        f'# first\nlog_level = "debug"\n[provisioning]\nconnection_string = "{TEXT}"\n[modules]\nstop_grace_s = 7\n',
    )
    assert invoke(["config", "apply", "-c", str(config), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("EDGE_ACTORS_STOP_GRACE_S", "3")

    assert invoke(["config", "show", "--json"]) == 0

    printed = capsys.readouterr().out
    rows = {row["setting"]: row for row in json.loads(printed)}
    in_force = str(tmp_path / "home" / "config.toml")
    assert (told["applied"], told["changed"], told["edgeStartsAnew"]) == (True, True, False)
    assert (rows["log_level"]["value"], rows["log_level"]["origin"]) == ("debug", f"{in_force}:2")
    assert (rows["stop_grace_s"]["value"], rows["stop_grace_s"]["origin"]) == (
        "3",
        "EDGE_ACTORS_STOP_GRACE_S",
    )
    assert rows["connection_string"]["value"].endswith(";SharedAccessKey=***")
    assert (rows["device_id"]["value"], rows["device_id"]["origin"]) == ("edge1", f"{in_force}:4")
    assert (rows["image_gc_interval"]["value"], rows["image_gc_interval"]["origin"]) == ("1d", "default")
    assert rows["hostname"]["key"] == "hostname"
    assert KEY not in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_applies_belongs_to_the_user_of_the_edge(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 61_000, 61_001)
    config = private(tmp_path / "c.toml", 'log_level = "debug"\n')

    assert invoke(["config", "apply", "-c", str(config)]) == 0

    status = (home / "config.toml").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (61_000, 61_001, 0o600)


@pytest.mark.parametrize("from_file", [True, False], ids=["from a file", "from standard input"])
def test_mp_writes_a_closed_file_that_apply_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, from_file: bool
) -> None:
    target = tmp_path / "etc" / "config.toml"
    arguments = ["config", "mp", "-o", str(target)]
    if from_file:
        arguments += ["--connection-string-file", str(private(tmp_path / "cs", TEXT))]
    else:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode() + b"\n")))

    assert invoke(arguments) == 0
    assert invoke(["config", "apply", "-c", str(target)]) == 0

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert TEXT in (tmp_path / "home" / "config.toml").read_text()
    assert KEY not in "".join(capsys.readouterr())


def test_mp_replaces_no_file_unless_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = private(tmp_path / "config.toml", "# mine\n")
    arguments = [
        "config",
        "mp",
        "-o",
        str(target),
        "--connection-string-file",
        str(private(tmp_path / "cs", TEXT)),
    ]

    assert invoke(arguments) == 2
    assert target.read_text() == "# mine\n"
    assert capsys.readouterr().err == (
        f"error: {target}: there is a file already; edit it, or replace it with --force\n"
    )

    assert invoke([*arguments, "--force"]) == 0
    assert TEXT in target.read_text()


def test_mp_writes_nothing_from_what_is_no_connection_string(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config.toml"
    bad = private(tmp_path / "cs", TEXT.replace("DeviceId", "DeviceID"))

    assert invoke(["config", "mp", "-o", str(target), "--connection-string-file", str(bad)]) == 2

    assert "unknown key 'DeviceID'; did you mean 'DeviceId'?" in capsys.readouterr().err
    assert not target.exists()


def test_check_tells_what_an_edge_ca_cannot_do_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    middle = issue("middle CA", CA, is_ca=True)
    files(middle.pem, middle.key_pem)(tmp_path / "ca.pem", tmp_path / "ca.key")
    config = tmp_path / "c.toml"
    config.write_text(f'[edge_ca]\ncert = "{tmp_path}/ca.pem"\npk = "{tmp_path}/ca.key"\n')

    assert invoke(["config", "check", "-c", str(config), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert "does not end at a root" in told["remarks"][0]


def test_there_are_no_certificates_before_the_first_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["cert", "show"]) == 1

    assert capsys.readouterr().err == (
        f"there are no certificates in home {tmp_path / 'home'} yet; the first start makes them\n"
    )
