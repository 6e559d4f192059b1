"""Removes images that were pulled for modules and that nobody has used for long.

Kept is whatever the current or the previous deployment names, what any container was made from, and every
image that we did not pull.

Source: spec sheet security-daemon.md section 7.7
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from messaging.errors import EdgeError
from runtime.docker.engine import DockerEngine, explanation
from runtime.docker.image_use import ImageRecord, ImageUse
from runtime.docker.images import inspect

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

AGAIN_S: Final = 60.0  # after an engine that did not answer
LONGEST_WAIT_S: Final = 600.0


class CollectionTimes(Struct, frozen=True):
    """When images are removed."""

    interval_s: float  # between two looks
    threshold_s: float  # for how long an image is unused before it goes
    at: time_of_day | None = None  # local; None: at any time


def collectable(
    record: ImageRecord, kept_ids: Collection[str], now_s: float, threshold_s: float
) -> tuple[str, ...]:
    """Return the ids of the images to remove.

    Args:
        record: What we pulled, and when each was last used.
        kept_ids: Of containers, and of the deployments.
        now_s: Seconds since 1970-01-01 UTC.
        threshold_s: How long an image has to be unused. A use in the future, of a clock that was set back,
            counts as one of now.
    """
    return tuple(
        image_id
        for image_id, pulled in record.pulled.items()
        if image_id not in kept_ids and now_s - pulled.used_at_s >= threshold_s
    )


def next_look_s(looked_at_s: float, now_s: float, times: CollectionTimes) -> float:
    """Return when to look again. One that was missed is made up for at once.

    Args:
        looked_at_s: The last time; 0.0 for never. One in the future, of a clock that was set back, counts as
            missed.
        now_s: Seconds since 1970-01-01 UTC, as what is returned.
        times: With a time of day it is the one of the day on which the interval ends, or the day after when
            that is no later than the last look.
    """
    due_s = looked_at_s + times.interval_s
    if times.at is not None:
        day = datetime.fromtimestamp(due_s).date()
        due_s = datetime.combine(day, times.at).timestamp()
        if due_s <= looked_at_s:
            due_s = datetime.combine(day + timedelta(days=1), times.at).timestamp()
    return now_s if looked_at_s > now_s else max(now_s, due_s)


class ImageCollector:
    """Looks for images to remove, in a thread of its own."""

    def __init__(self, engine: DockerEngine, use: ImageUse, times: CollectionTimes) -> None:
        self._engine = engine
        self._use = use
        self._times = times
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="image collector", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End it; a removal that is going on is the engine's."""
        self._closed.set()

    def _run(self) -> None:
        while True:
            now_s = time.time()
            wait_s = next_look_s(self._use.read().looked_at_s, now_s, self._times) - now_s
            # The clock may be set meanwhile, and days are a long time.
            if self._closed.wait(min(wait_s, LONGEST_WAIT_S)):
                return
            if wait_s > LONGEST_WAIT_S:
                continue
            try:
                self.collect()
            except EdgeError as exc:
                log.info("images to remove are looked for later: %s", exc)
                if self._closed.wait(AGAIN_S):
                    return

    def collect(self) -> None:
        """Remove what is to be removed now.

        Raises:
            EdgeError: the engine does not answer; nothing more is removed.
        """
        with self._engine.calls() as client:
            record = self._use.read()
            kept = {str(one["ImageID"]) for one in client.containers(all=True)}
            for name in {*record.deployed, *record.deployed_before}:
                found = inspect(client, name)
                if found is not None:
                    kept.add(str(found["Id"]))
            for image_id in collectable(record, kept, time.time(), self._times.threshold_s):
                self._remove(client, image_id, record.pulled[image_id].names)
        self._use.looked()

    def _remove(self, client: APIClient, image_id: str, names: Collection[str]) -> None:
        """Take our names from an image; it goes with the last, unless somebody else gave it one too."""
        from docker.errors import APIError, ImageNotFound

        found = inspect(client, image_id)
        if found is not None:
            tags = found.get("RepoTags") or ()
            ours = [tag for tag in tags if tag in names]
            try:
                for tag in ours if tags else [image_id]:
                    client.remove_image(tag)
            except ImageNotFound:
                pass  # by somebody else meanwhile
            except APIError as exc:
                log.warning("image %s is used no more and cannot be removed: %s", image_id, explanation(exc))
                return
            if ours or not tags:
                log.info("image %s (%s) was removed: nobody uses it any more", image_id, ", ".join(names))
        self._use.forget(image_id)
