from __future__ import annotations

import pytest

from actors.manifest.registries import DOCKER_HUB, RegistryCredential, credential_for, registry_of


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("pump:1", None),
        ("", None),
        ("a/b", DOCKER_HUB),
        ("localhost/i", DOCKER_HUB),
        ("x.io/i", "x.io"),
        ("x.io/n/i/j", "x.io"),
        ("localhost:5000/i", "localhost:5000"),
    ],
)
def test_the_registry_of_an_image_is_its_first_part(image: str, registry: str | None) -> None:
    """Source: agent.md section 8.6, row 76."""
    assert registry_of(image) == registry


FIRST = RegistryCredential("other.io", "first", "hush")
SECOND = RegistryCredential("X.io", "second", "hush")


@pytest.mark.parametrize(
    ("image", "found"),
    [("x.io/pump:1", SECOND), ("y.io/pump:1", None), ("pump:1", None)],
    ids=["the second fits", "none fits", "no registry"],
)
def test_the_first_credential_for_the_registry_is_taken(image: str, found: RegistryCredential | None) -> None:
    """Source: agent.md section 8.6, row 77."""
    assert credential_for(image, [FIRST, SECOND]) is found


def test_a_password_is_in_no_picture_of_a_credential() -> None:
    assert "hush" not in repr(FIRST)
