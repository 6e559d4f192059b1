"""Brings the name of a container image into one form. Source: spec sheet agent.md section 1.3."""

from __future__ import annotations

import re

_IMAGE = re.compile(r"(?:[^/]+/)*(?P<name>[^/:]+)(?P<tag>:[^/:]+)?")


def normalize_image(image: str) -> str:
    """Return `image` without blanks around it and with a tag, `:latest` when it has none.

    Raises:
        ValueError: What is wrong, without the value.
    """
    image = image.strip()
    if not image:
        raise ValueError("the image name is blank")
    if "$upstream" in image:
        raise ValueError("'$upstream' stands for a parent edge, and this edge has none; name the registry")
    if image.startswith("$"):
        raise ValueError("an image name cannot start with '$'")
    match = _IMAGE.fullmatch(image)
    if match is None:
        raise ValueError("not an image name of the form [registry/]name[:tag]")
    return image if match["tag"] else f"{image}:latest"
