"""`edge-actors identity`: the device, its modules, and the leaf devices behind it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table

if TYPE_CHECKING:
    from actors.hub_config import HubConfig
    from runtime.home import Home
    from runtime.key_store import Identity

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
@common_options
def create(device: str, out: Path | None, home: Path, as_json: bool) -> None:
    """Make the identity of leaf device DEVICE and give its connection string.

    An SDK client needs two things: the connection string, and the file ca.pem as the certificate
    authority to trust.
    """
    from runtime.cli.running import create_device
    from runtime.home import Home

    place = Home(home)
    config = last_hub_config(place)
    ca_pem = _ca_pem(place)
    if out is not None:  # before there is an identity, so that a mistake here leaves none behind
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = create_device(place, device)
    if out is None:
        _show(made, config, as_json)
        return
    files = _write_out(out, connection_string(made, config), ca_pem)
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
    from runtime.key_store import KeyStore

    place = Home(home)
    known = {_name(found): found for found in KeyStore.open(place.keys).identities()}
    if name not in known:
        hint = did_you_mean(name, known) or "; see `edge-actors identity list`"
        raise ConfigError(f"there is no identity {name!r}{hint}")
    _show(known[name], last_hub_config(place), as_json)


@identity.command("list")
@common_options
def list_identities(home: Path, as_json: bool) -> None:
    """List the identities, without keys."""
    from runtime.home import Home
    from runtime.key_store import KeyStore

    keys = KeyStore.open(Home(home).keys)
    rows = [
        {"id": _name(found), "kind": _kind(found, keys.device_id), "status": found.status}
        for found in keys.identities()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(("ID", "KIND", "STATUS"), (tuple(row.values()) for row in rows))


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
        values |= {
            "status": found.status,
            "primaryKey": base64.b64encode(found.primary_key).decode(),
            "connectionString": text,
        }
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
    """Return what the last run said of host names."""
    from actors import hub_config
    from messaging.errors import ConfigError

    try:
        content = place.hub_config.read_bytes()
    except FileNotFoundError as exc:
        raise ConfigError(
            f"home {place.path} has not been run yet; start an edge with it once: "
            f"`edge-actors run --home {place.path} --deployment FILE`"
        ) from exc
    return hub_config.decode(content, str(place.hub_config))


def _ca_pem(place: Home) -> str:
    """Return the certificate of the edge CA; its file begins with the private key."""
    from runtime.certificates import CA_FILE as OWN_FILE

    content = (place.certificates / OWN_FILE).read_text()
    return content[content.index("-----BEGIN CERTIFICATE-----") :]


def _write_out(out: Path, text: str, ca_pem: str) -> tuple[Path, Path]:
    from runtime.atomic_file import write_private_file

    files = out / CONNECTION_STRING_FILE, out / CA_FILE
    write_private_file(files[0], text.encode() + b"\n")
    write_private_file(files[1], ca_pem.encode())
    return files
