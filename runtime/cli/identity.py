"""`edge-actors identity`: the device, its modules, and the leaf devices behind it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table

if TYPE_CHECKING:
    from actors.hub.config import HubConfig
    from actors.hub.identity import AuthType
    from runtime.home import Home
    from runtime.security.key_content import Identity

CONNECTION_STRING_FILE = "connection-string.txt"
CA_FILE = "ca.pem"


@click.group()
def identity() -> None:
    """Make and show the identities of this edge. They work whether it runs or not."""


@identity.command()
@click.argument("device")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help=(
    f"Write {CONNECTION_STRING_FILE} and {CA_FILE} into this folder instead of showing the key."
))  # fmt: skip
@click.option("--x509", metavar="CERT.pem|THUMBPRINT", help=(
    "It proves itself with this certificate, given as a file or by its SHA-1 or SHA-256."
))  # fmt: skip
@click.option("--x509-secondary", metavar="CERT.pem|THUMBPRINT", help="… or with this one.")
@click.option("--x509-ca", is_flag=True, help=(
    "It proves itself with a certificate for DEVICE as common name, signed by a CA that this edge trusts."
))  # fmt: skip
@common_options
def create(
    device: str,
    out: Path | None,
    x509: str | None,
    x509_secondary: str | None,
    x509_ca: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Make the identity of leaf device DEVICE and give its connection string.

    An SDK client needs two things: the connection string, and the file ca.pem as the certificate
    authority to trust. With a certificate of its own in place of a key it needs that one, too.
    """
    from runtime.cli.running import create_device, wait_until_told
    from runtime.home import Home

    auth_type, thumbprints = _proof(x509, x509_secondary, x509_ca)
    place = Home(home)
    config = last_hub_config(place)
    ca_pem = _ca_pem(place)
    if out is not None:  # before there is an identity, so that a mistake here leaves none behind
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = create_device(place, device, auth_type, thumbprints)
    if out is None:
        wait_until_told(place, device)
        _show(made, config, as_json)
        return
    files = _write_out(out, connection_string(made, config), ca_pem)
    wait_until_told(place, device)
    if as_json:
        print_json({"deviceId": device, "files": [str(file) for file in files]})
    else:
        click.echo(f"identity of device {device} made; written for its client:")
        for file in files:
            click.echo(f"  {file}")


@identity.command()
@click.argument("name", metavar="ID")
@common_options
def show(name: str, home: Path, as_json: bool) -> None:
    """Show connection string and key of ID: a device, or a module of this edge."""
    from messaging.errors import ConfigError
    from messaging.nearest import did_you_mean
    from runtime.home import Home
    from runtime.security.leaf_rules import known_identities

    place = Home(home)
    known = {_name(found): found for found in known_identities(place)}
    if name not in known:
        hint = did_you_mean(name, known) or "; see `edge-actors identity list`"
        raise ConfigError(f"there is no identity {name!r}{hint}")
    _show(known[name], last_hub_config(place), as_json)


@identity.command()
@click.argument("device")
@common_options
def disable(device: str, home: Path, as_json: bool) -> None:
    """Let leaf device DEVICE not connect any more; a connection that it has ends."""
    _switch(device, False, home, as_json)


@identity.command()
@click.argument("device")
@common_options
def enable(device: str, home: Path, as_json: bool) -> None:
    """Let leaf device DEVICE connect again."""
    _switch(device, True, home, as_json)


@identity.command()
@click.argument("device")
@common_options
def delete(device: str, home: Path, as_json: bool) -> None:
    """Forget leaf device DEVICE, its twin, and what waits for it; a connection that it has ends.

    Made again it gets other keys.
    """
    from runtime.cli.running import delete_device, wait_until_told
    from runtime.home import Home

    delete_device(Home(home), device)
    wait_until_told(Home(home), device)
    _done(device, "deleted", as_json)


@identity.command("list")
@common_options
def list_identities(home: Path, as_json: bool) -> None:
    """List the identities, without keys."""
    from runtime.home import Home
    from runtime.security.leaf_rules import known_identities

    known = known_identities(Home(home))
    rows = [
        {
            "id": _name(found),
            "kind": _kind(found, known[0].device_id),
            "authentication": found.auth_type,
            "status": found.status,
        }
        for found in known
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(("ID", "KIND", "AUTHENTICATION", "STATUS"), (tuple(row.values()) for row in rows))


def _proof(x509: str | None, secondary: str | None, ca: bool) -> tuple[AuthType, tuple[str, ...]]:
    if ca and (x509 or secondary):
        raise click.UsageError("--x509-ca goes by the name in the certificate: leave out --x509")
    if secondary and not x509:
        raise click.UsageError("--x509-secondary is the second certificate: name the first with --x509")
    if ca:
        return "certificateAuthority", ()
    given = tuple(_thumbprint(text) for text in (x509, secondary) if text)
    return ("selfSigned", given) if given else ("sas", ())


def _thumbprint(text: str) -> str:
    """Return the thumbprint that is written out, or that of the certificate in a file."""
    from actors.hub.identity import capital_thumbprint
    from messaging.errors import ConfigError
    from runtime.security.trust_bundle import certificates_in

    path = Path(text)
    if not path.exists():
        try:
            return capital_thumbprint(text)
        except ValueError as exc:
            raise ConfigError(f"{text!r} is neither a file nor a thumbprint; a thumbprint is {exc}") from exc
    first, *_ = certificates_in(path, "--x509")
    return hashlib.sha256(first).hexdigest().upper()


def _switch(device: str, enabled: bool, home: Path, as_json: bool) -> None:
    from runtime.cli.running import enable_device, wait_until_told
    from runtime.home import Home

    enable_device(Home(home), device, enabled)
    wait_until_told(Home(home), device)
    _done(device, "enabled" if enabled else "disabled", as_json)


def _done(device: str, status: str, as_json: bool) -> None:
    if as_json:
        print_json({"deviceId": device, "status": status})
    else:
        click.echo(f"device {device} {status}")


def _name(found: Identity) -> str:
    return found.module_id or found.device_id


def _kind(found: Identity, edge_device_id: str) -> str:
    if found.module_id is not None:
        return "module"
    return "edge device" if found.device_id == edge_device_id else "leaf device"


def _show(found: Identity, config: HubConfig, as_json: bool) -> None:
    text = connection_string(found, config)
    if as_json:
        values: dict[str, Any] = {"deviceId": found.device_id}
        if found.module_id is not None:
            values["moduleId"] = found.module_id
        values |= {"status": found.status, "authentication": found.auth_type}
        if found.auth_type == "sas":
            values["primaryKey"] = base64.b64encode(found.primary_key).decode()
        if found.thumbprints:
            values["thumbprints"] = list(found.thumbprints)
        values["connectionString"] = text
        print_json(values)
    else:
        click.echo(text)


def connection_string(found: Identity, config: HubConfig) -> str:
    """Return with what a client connects as this identity."""
    from messaging.connection_string import ConnectionString, format_connection_string
    from messaging.identity import Identity as Name

    name = Name(found.device_id, found.module_id)
    key = base64.b64encode(found.primary_key).decode()
    return format_connection_string(ConnectionString(config.iothub_hostname, name, key, config.host_names[0]))


def last_hub_config(place: Home) -> HubConfig:
    """Return what the last run said of host names; an edge that starts is waited for."""
    import time

    from actors.hub import config as hub_config
    from messaging.errors import ConfigError
    from runtime.cli.running import ANSWER_LIMIT_S, ASK_AGAIN_S, is_running

    ends_s = time.monotonic() + ANSWER_LIMIT_S
    while True:
        try:
            content = place.hub_config.read_bytes()
            break
        except FileNotFoundError as exc:
            if not is_running(place.path):
                raise ConfigError(
                    f"home {place.path} has not been run yet; start an edge with it once: "
                    f"`edge-actors run --home {place.path}`"
                ) from exc
            if time.monotonic() > ends_s:
                raise ConfigError(
                    f"the edge on home {place.path} has no hub yet; it waits for a deployment, see "
                    "`edge-actors list`"
                ) from exc
        time.sleep(ASK_AGAIN_S)  # between two looks at what another process writes
    return hub_config.decode(content, str(place.hub_config))


def _ca_pem(place: Home) -> str:
    """Return the certificate of the edge CA; its file begins with the private key."""
    from runtime.security.certificates import CA_FILE as OWN_FILE

    content = (place.certificates / OWN_FILE).read_text()
    return content[content.index("-----BEGIN CERTIFICATE-----") :]


def _write_out(out: Path, text: str, ca_pem: str) -> tuple[Path, Path]:
    from runtime.storage.atomic_file import write_private_file

    files = out / CONNECTION_STRING_FILE, out / CA_FILE
    write_private_file(files[0], text.encode() + b"\n")
    write_private_file(files[1], ca_pem.encode())
    return files
