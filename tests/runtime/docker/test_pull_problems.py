from __future__ import annotations

import pytest

from actors.manifest.registries import RegistryCredential
from runtime.docker.pull_problems import pull_way_out

IMAGE = "reg.io:5000/pump:1"
ACCOUNT = RegistryCredential("reg.io:5000", "ann", "hush")


@pytest.mark.parametrize(
    ("said", "credential", "words"),
    [
        (
            "Get https://reg.io:5000/v2/: no basic auth credentials",
            None,
            ["wants an account"],
        ),
        ("Get https://reg.io:5000/v2/: unauthorized: x", ACCOUNT, ["user 'ann'", "registryCredentials"]),
        ("pull access denied for pump", None, ["wants an account"]),
        ("dial tcp 10.0.0.9:5000: connect: connection refused", None, ["reg.io:5000 does not answer"]),
        ("dial tcp: lookup reg.io: no such host", ACCOUNT, ["does not answer", "tried again"]),
        ("manifest for pump:1 not found: manifest unknown", None, ["does not have it", "settings.image"]),
        ("no matching manifest for linux/amd64 in the list", None, ["other CPUs", "linux/amd64"]),
        ("write /var/lib/docker/tmp/x: no space left on device", None, ["is full", "docker system prune"]),
        ("http: server gave HTTP response to HTTPS client", None, ["insecure-registries"]),
        ("x509: certificate signed by unknown authority", None, ["/etc/docker/certs.d/reg.io:5000/ca.crt"]),
        ("something of next year", None, [f"docker pull {IMAGE}"]),
    ],
    ids=[
        "no password",
        "wrong password",
        "denied",
        "registry down",
        "no such registry",
        "no such tag",
        "another CPU",
        "disk full",
        "no TLS",
        "unknown CA",
        "unknown",
    ],
)
def test_each_cause_has_a_way_out(said: str, credential: RegistryCredential | None, words: list[str]) -> None:
    told = pull_way_out(IMAGE, said, credential)

    assert all(word in told for word in words), told
    assert "hush" not in told
