"""Which names an authority may sign for. Pure, on texts: host names, and addresses or networks.

Source: RFC 5280 section 4.2.1.10
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence


def is_permitted(name: str, permitted: Sequence[str]) -> bool:
    """Whether a host name or address is within the subtrees of its kind; a kind without any is free."""
    names, networks = [], []
    for tree in permitted:
        try:
            networks.append(ipaddress.ip_network(tree, strict=False))
        except ValueError:
            names.append(tree.lower().lstrip("."))
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        lower = name.lower()
        return not names or any(lower == tree or lower.endswith(f".{tree}") for tree in names)
    return not networks or any(address in network for network in networks)
