"""Whether an image is the one that a deployment pins by its digest.

A digest is the registry's (of the manifest), or the engine's own id of the image, which reports show as
`imageHash`: both say exactly which bytes run.
"""

from __future__ import annotations

from collections.abc import Iterable

from actors.manifest.module_spec import DockerSettings


def pinned_digests(settings: DockerSettings) -> tuple[str, ...]:
    """Return which digests the image has to have: that of `image@sha256:…`, that of `settings.digest`."""
    _, at, in_name = settings.image.partition("@")
    return tuple(dict.fromkeys(one for one in (in_name if at else "", settings.digest) if one))


def digest_problem(settings: DockerSettings, image_id: str, repo_digests: Iterable[str]) -> str:
    """Return why this image must not run, "" when it may.

    Args:
        settings: What the deployment says.
        image_id: The engine's id of the image.
        repo_digests: Under which digests registries gave it, each as `name@sha256:…`.
    """
    has = {image_id, *(one.rpartition("@")[2] for one in repo_digests)}
    for wanted in pinned_digests(settings):
        if wanted not in has:
            return (
                f"image '{settings.image}' on this device is {', '.join(sorted(has))}, and the deployment "
                f"pins {wanted}; it is not started: pull the right image, or fix settings.digest or "
                "settings.image in the deployment"
            )
    return ""
