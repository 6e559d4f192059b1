"""Topic names, topic filters, and the tree that tells which subscriptions a topic reaches.

Source: OASIS MQTT 3.1.1 section 4.7.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_TEXT_BYTES = 65_535  # section 1.5.3: the length in front of a string has two bytes
# The tree keeps one node per level, so a filter of 65,535 slashes would cost megabytes. IoT Hub's own filters
# have at most seven levels; 200 is also where Eclipse Mosquitto 2.0 stops.
MAX_FILTER_LEVELS = 200


def validate_topic(topic: str) -> None:
    """Check that `topic` may stand in a PUBLISH.

    Raises:
        ValueError: It is empty [MQTT-4.7.3-1], has U+0000 [MQTT-4.7.3-2], a wildcard [MQTT-3.3.2-2] or a
            surrogate [MQTT-1.5.3-1], or is longer than 65,535 bytes [MQTT-4.7.3-3].
    """
    _validate_text(topic, "topic")
    if "+" in topic or "#" in topic:
        raise ValueError(f"topic {shown(topic)} has a wildcard; only topic filters may")


def validate_filter(topic_filter: str) -> None:
    """Check the syntax of a topic filter.

    Raises:
        ValueError: It is no text of 1 to 65,535 bytes as in `validate_topic`, `#` is not the whole last
            level [MQTT-4.7.1-2], `+` is not a whole level [MQTT-4.7.1-3], or there are more than
            `MAX_FILTER_LEVELS` levels.
    """
    _validate_text(topic_filter, "topic filter")
    levels = topic_filter.split("/")
    if len(levels) > MAX_FILTER_LEVELS:
        raise ValueError(f"topic filter has {len(levels)} levels; the limit is {MAX_FILTER_LEVELS}")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            raise ValueError(f"topic filter {shown(topic_filter)}: a wildcard must be a level of its own")
    if "#" in levels[:-1]:
        raise ValueError(f"topic filter {shown(topic_filter)}: '#' must be the last level")


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether one valid filter matches one valid topic.

    For a single question, and as the plain reading of section 4.7 that `SubscriptionTree` is tested against.
    """
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]  # "a/#" also matches "a": the parent level counts [MQTT-4.7.1-2]
    return len(wanted) == len(levels) and all(
        want in ("+", level) for want, level in zip(wanted, levels, strict=True)
    )


def contains(wide: str, narrow: str) -> bool:
    """Say whether every topic that the filter `narrow` matches is matched by `wide`. Both are valid."""
    wide_levels, wide_is_open = _opened(wide)
    narrow_levels, narrow_is_open = _opened(narrow)
    if narrow.startswith("$") and wide_levels[0] == "+":
        return False  # [MQTT-4.7.2-1]
    if wide_is_open:
        narrow_levels = narrow_levels[: len(wide_levels)]
    elif narrow_is_open:
        return False
    return len(wide_levels) == len(narrow_levels) and all(
        level in ("+", wanted) for level, wanted in zip(wide_levels, narrow_levels, strict=True)
    )


def overlaps(one: str, other: str) -> bool:
    """Say whether there is a topic that both filters match. Both are valid."""
    (one_levels, one_is_open), (other_levels, other_is_open) = _opened(one), _opened(other)
    if (one.startswith("$") and other_levels[0] == "+") or (other.startswith("$") and one_levels[0] == "+"):
        return False  # [MQTT-4.7.2-1]
    longer = len(one_levels) - len(other_levels)
    if (longer > 0 and not other_is_open) or (longer < 0 and not one_is_open):
        return False
    return all(
        "+" in levels or levels[0] == levels[1] for levels in zip(one_levels, other_levels, strict=False)
    )


def _opened(topic_filter: str) -> tuple[list[str], bool]:
    """Return the levels that a topic has to have, and whether any may follow.

    `a/#` also matches `a`, but there is no topic without a level, nor one whose only level is empty.
    """
    levels = topic_filter.split("/")
    if levels[-1] != "#":
        return levels, False
    levels.pop()
    if levels in ([], [""]):
        levels.append("+")
    return levels, True


class SubscriptionTree(Generic[T]):
    """Who subscribed to what: a tree with one node per topic level. Not thread-safe.

    A subscription is a filter and a key (the subscriber) with a value, which `match` gives back. No operation
    recurses, so the depth of a filter is no danger, and memory is bounded by the subscriptions that exist.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._filters: dict[Hashable, set[str]] = {}

    def __len__(self) -> int:
        """Return the number of subscriptions."""
        return sum(map(len, self._filters.values()))

    def subscribe(self, topic_filter: str, key: Hashable, value: T) -> None:
        """Add a subscription, or replace the value of the same filter and key [MQTT-3.8.4-3].

        Raises:
            ValueError: The filter is not valid; see `validate_filter`.
        """
        validate_filter(topic_filter)

        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        node.values[key] = value
        self._filters.setdefault(key, set()).add(topic_filter)

    def unsubscribe(self, topic_filter: str, key: Hashable) -> bool:
        """Remove the subscription with exactly this filter text [MQTT-3.10.4-1]; say if there was one."""
        filters = self._filters.get(key)
        if filters is None or topic_filter not in filters:
            return False

        filters.remove(topic_filter)
        if not filters:
            del self._filters[key]
        self._prune(topic_filter, key)
        return True

    def remove_all(self, key: Hashable) -> None:
        """Remove every subscription of this key."""
        for topic_filter in self._filters.pop(key, ()):
            self._prune(topic_filter, key)

    def match(self, topic: str) -> list[T]:
        """Return the value of every subscription that matches a valid topic, in no particular order.

        A key with overlapping filters is there once per filter; it is for the caller to choose among them.
        """
        found: list[T] = []
        nodes = [self._root]
        wildcards = not topic.startswith("$")  # [MQTT-4.7.2-1], at the first level only
        for level in topic.split("/"):
            following: list[_Node[T]] = []
            for node in nodes:
                children = node.children
                if wildcards:
                    if (rest := children.get("#")) is not None:
                        found.extend(rest.values.values())
                    if (any_one := children.get("+")) is not None:
                        following.append(any_one)
                if (exact := children.get(level)) is not None:
                    following.append(exact)
            if not following:
                return found
            nodes = following
            wildcards = True
        for node in nodes:
            found.extend(node.values.values())
            if (rest := node.children.get("#")) is not None:
                found.extend(rest.values.values())
        return found

    def _prune(self, topic_filter: str, key: Hashable) -> None:
        """Take the value out, then each node that holds nothing any more."""
        path: list[tuple[_Node[T], str]] = []
        node = self._root
        for level in topic_filter.split("/"):
            path.append((node, level))
            node = node.children[level]
        del node.values[key]
        for parent, level in reversed(path):
            if node.children or node.values:
                return
            del parent.children[level]
            node = parent


class _Node(Generic[T]):
    """One level of the tree: what comes below, and the subscriptions whose filter ends here."""

    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[Hashable, T] = {}


def shown(text: str) -> str:
    """Return peer-chosen text as it may stand in an error: quoted, escaped and cut to 80 characters."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"


def _validate_text(text: str, name: str) -> None:
    if not text:
        raise ValueError(f"{name} is empty")
    if "\0" in text:
        raise ValueError(f"{name} {shown(text)} has U+0000")
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as exc:
        raise ValueError(f"{name} {shown(text)} has a surrogate at {exc.start}") from exc
    if size_bytes > MAX_TEXT_BYTES:
        raise ValueError(f"{name} has {size_bytes} bytes; the limit is {MAX_TEXT_BYTES}")
