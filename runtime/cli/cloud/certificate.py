"""`edge-actors cloud certificate`: the authorities whose devices may connect."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table


@click.group()
def certificate() -> None:
    """Keep the CAs of devices that were made with `device create --x509-ca`."""


@certificate.command()
@click.argument("name", metavar="NAME")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@common_options
def create(name: str, file: Path, home: Path, as_json: bool) -> None:
    """Trust the CA whose certificate (PEM) is in FILE, and call it NAME.

    A device may then show a certificate of that CA whose common name is its device id.
    """
    from runtime.cli.cloud.files import read_certificate
    from runtime.iothub.owner import Cloud

    made = Cloud(home).call("PUT", _path(name), {"certificate": read_certificate(file, "certificate")})
    if as_json:
        print_json(made)
    else:
        click.echo(f"devices may show certificates of '{made['commonName']}'")


@certificate.command("list")
@common_options
def list_certificates(home: Path, as_json: bool) -> None:
    """List the CAs."""
    from runtime.iothub.owner import Cloud

    found = Cloud(home).get("/certificates")
    if as_json:
        print_json(found)
    else:
        rows = ((one["name"], one["commonName"], one["thumbprint"]) for one in found)
        print_table(("NAME", "COMMON NAME", "THUMBPRINT"), rows)


@certificate.command()
@click.argument("name", metavar="NAME")
@common_options
def delete(name: str, home: Path, as_json: bool) -> None:
    """Trust the CA called NAME no more. Who is connected stays so."""
    from runtime.iothub.owner import Cloud

    Cloud(home).call("DELETE", _path(name))
    if as_json:
        print_json({"deleted": name})
    else:
        click.echo(f"certificate {name} deleted")


def _path(name: str) -> str:
    return f"/certificates/{quote(name, safe='')}"
