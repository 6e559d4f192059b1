from __future__ import annotations

import pytest

from actors.manifest.image_digest import digest_problem, pinned_digests
from actors.manifest.module_spec import DockerSettings, ModuleSpec, spec_hash

A, B, C = (f"sha256:{digit * 64}" for digit in "abc")


@pytest.mark.parametrize(
    ("image", "digest", "image_id", "repo_digests", "is_right"),
    [
        ("pump:1", "", A, [], True),
        (f"pump@{A}", "", B, [f"pump@{A}"], True),
        (f"pump@{A}", "", B, [f"pump@{C}"], False),
        (f"pump@{A}", "", A, [], True),
        ("pump:1", A, A, [], True),
        ("pump:1", A, B, [f"x.io/pump@{A}"], True),
        ("pump:1", A, B, [f"x.io/pump@{C}"], False),
        (f"pump@{A}", B, B, [f"pump@{A}"], True),
        (f"pump@{A}", C, B, [f"pump@{A}"], False),
        ("pump:1", "nonsense", A, [], False),
    ],
    ids=[
        "nothing pinned",
        "digest in the name",
        "another digest in the name",
        "the engine's id in the name",
        "the engine's id",
        "the registry's digest",
        "another image",
        "both, and both right",
        "both, and one wrong",
        "no digest at all",
    ],
)
def test_an_image_runs_only_when_it_is_the_one_that_is_pinned(
    image: str, digest: str, image_id: str, repo_digests: list[str], is_right: bool
) -> None:
    problem = digest_problem(DockerSettings(image, digest=digest), image_id, repo_digests)

    assert (problem == "") is is_right


def test_a_mismatch_names_image_both_digests_and_the_way_out() -> None:
    problem = digest_problem(DockerSettings("pump:1", digest=A), B, [f"x.io/pump@{C}"])

    assert "'pump:1'" in problem
    assert all(digest in problem for digest in (A, B, C))
    assert "settings.digest" in problem


def test_a_digest_said_twice_is_one() -> None:
    assert pinned_digests(DockerSettings(f"pump@{A}", digest=A)) == (A,)


def test_a_digest_is_a_part_of_what_a_module_is_made_from_and_none_changes_nothing() -> None:
    plain = ModuleSpec("pump", DockerSettings("pump:1"))
    pinned = ModuleSpec("pump", DockerSettings("pump:1", digest=A))

    assert spec_hash(pinned) != spec_hash(plain)
