"""Retained messages: the last one of each topic, found by the filter of a new subscription.

Bounded in number and bytes; beyond, a message reaches its subscribers and is not retained.

Source: OASIS MQTT 3.1.1 section 3.3.1.3; limits: spec sheet broker.md section 2
"""

from __future__ import annotations

from collections.abc import Iterator

from messaging.broker.limits import MOST_RETAINED_BYTES, Limits
from messaging.mqtt.packets import Publish


class _Node:
    """One level of the tree of topics."""

    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.message: Publish | None = None


class RetainedMessages:
    """The retained messages of a broker. Not thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._root = _Node()
        self._since_s: dict[str, float] = {}  # topic → when it was published, the oldest first
        self.size_bytes = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._since_s)

    def put(self, message: Publish, now_s: float) -> bool:
        """Keep a message as the retained one of its topic; False when there is no room for it."""
        topic = message.topic
        before = self._find(topic)
        size_bytes = _size_bytes(message) - (_size_bytes(before) if before else 0)
        most = self._limits.max_retained
        if before is None and most and len(self._since_s) >= most:
            return False
        if self.size_bytes + size_bytes > MOST_RETAINED_BYTES:
            return False
        node = self._root
        for level in topic.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        node.message = message
        self.size_bytes += size_bytes
        self._since_s.pop(topic, None)
        self._since_s[topic] = now_s
        return True

    def remove(self, topic: str) -> bool:
        """Forget the message of a topic; say whether there was one."""
        if topic not in self._since_s:
            return False
        del self._since_s[topic]
        path: list[tuple[_Node, str]] = []
        node = self._root
        for level in topic.split("/"):
            path.append((node, level))
            node = node.children[level]
        assert node.message is not None
        self.size_bytes -= _size_bytes(node.message)
        node.message = None
        for parent, level in reversed(path):
            if node.children or node.message is not None:
                break
            del parent.children[level]
            node = parent
        return True

    def expired(self, now_s: float) -> list[str]:
        """Return the topics whose message is older than the limit."""
        before_s = now_s - self._limits.retained_expiry_s
        found = []
        for topic, since_s in self._since_s.items():
            if since_s > before_s:
                break
            found.append(topic)
        return found

    def matching(self, topic_filter: str) -> Iterator[Publish]:
        """Yield the messages of the topics that a valid filter matches."""
        levels = topic_filter.split("/")
        nodes = [self._root]
        for at, level in enumerate(levels):
            if level == "#":
                yield from _all_below(nodes, is_root=at == 0)
                return
            following: list[_Node] = []
            for node in nodes:
                if level == "+":
                    following += [
                        child for name, child in node.children.items() if at or not name.startswith("$")
                    ]
                elif (child := node.children.get(level)) is not None:
                    following.append(child)
            nodes = following
        yield from (node.message for node in nodes if node.message is not None)

    def _find(self, topic: str) -> Publish | None:
        if topic not in self._since_s:
            return None
        node = self._root
        for level in topic.split("/"):
            node = node.children[level]
        return node.message


def _all_below(nodes: list[_Node], *, is_root: bool) -> Iterator[Publish]:
    """Yield what these nodes and all below them hold; from the root, nothing below `$…` [MQTT-4.7.2-1]."""
    waiting = nodes
    if is_root:
        [root] = nodes
        waiting = [child for name, child in root.children.items() if not name.startswith("$")]
    waiting = list(waiting)
    while waiting:
        node = waiting.pop()
        if node.message is not None:
            yield node.message
        waiting += node.children.values()


def _size_bytes(message: Publish) -> int:
    return len(message.topic) + len(message.payload)
