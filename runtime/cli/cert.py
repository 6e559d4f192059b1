"""`edge-actors cert`: the certificates of this edge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from runtime.security.certificate_list import Shown

MISSING = 1  # exit code


@click.group()
def cert() -> None:
    """Show the certificates of this edge."""


@cert.command()
@click.option(
    "--pem", is_flag=True, help="Print the edge CA with those above it, which clients need to trust."
)
@common_options
def show(pem: bool, home: Path, as_json: bool) -> int:
    """Show each certificate with its chain: whose it is, its names, who issued it, days left.

    edge CA: signs the others, and is what clients trust. hub: what clients are shown. device: by which this
    device proves itself to the cloud, when it has one. cloud CA, trust bundle: who else is trusted.

    The exit code is 0, 1 when there is none yet, 2 when one is damaged.
    """
    import time

    from runtime.config.reader import read_settings
    from runtime.security.certificate_list import certificates_of

    settings = read_settings({"home": str(home)}, os.environ)
    found = certificates_of(settings)
    if pem:
        click.echo("".join(one.pem for one in found if one.use == "edge CA"), nl=False)
    elif as_json:
        print_json([_as_json(one, time.time()) for one in found])
    elif found:
        print_table(
            ("USE", "SUBJECT", "NAMES", "ISSUER", "DAYS LEFT", "UNTIL", "FILE"),
            (_row(one, time.time()) for one in found),
        )
    if not found:
        click.echo(f"there are no certificates in home {home} yet; the first start makes them", err=True)
        return MISSING
    return DONE


def _row(one: Shown, now_s: float) -> tuple[object, ...]:
    use = one.use if not one.position else f"  above: {one.position}"
    return (
        use,
        one.subject,
        ", ".join(one.names) or "-",
        "itself" if one.subject == one.issuer else one.issuer,
        one.days_left(now_s),
        one.until_utc,
        one.file,
    )


def _as_json(one: Shown, now_s: float) -> dict[str, Any]:
    return {
        "use": one.use,
        "positionInChain": one.position,
        "subject": one.subject,
        "issuer": one.issuer,
        "names": list(one.names),
        "isAuthority": one.is_authority,
        "notBefore": one.from_utc,
        "notAfter": one.until_utc,
        "daysLeft": one.days_left(now_s),
        "thumbprint": one.thumbprint,
        "file": str(one.file),
    }
