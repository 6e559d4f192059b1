"""Faults between the edge and its IoT Hub: the line, and what the hub answers."""

from __future__ import annotations

from runtime.faults import cloud_answers
from runtime.faults.line import Profile
from runtime.faults.scene import Fault


class CutLink(Fault):
    """Connections are reset, new ones refused."""

    def begin(self, nth: int) -> float | None:
        before = sum(line.resets for line in self.scene.line.lines)
        for line in self.scene.line.lines:
            line.cut()
        self.count += sum(line.resets for line in self.scene.line.lines) - before
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        for line in self.scene.line.lines:
            line.restore()
        return None


class SlowLink(Fault):
    """Everything takes its time on the way."""

    def begin(self, nth: int) -> float | None:
        self._before = sum(line.late_bytes for line in self.scene.line.lines)
        self.scene.line.shape(Profile(delay_s=self.values["by"], bytes_per_s=self.values["rate"]))
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        self.scene.line.shape(Profile())
        self.count += sum(line.late_bytes for line in self.scene.line.lines) - self._before
        return None


class HalfOpenLink(Fault):
    """Connections stand, and nothing gets through."""

    def begin(self, nth: int) -> float | None:
        self._before = sum(line.swallowed_bytes for line in self.scene.line.lines)
        for line in self.scene.line.lines:
            line.swallow()
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        for line in self.scene.line.lines:
            line.restore()
        self.count += sum(line.swallowed_bytes for line in self.scene.line.lines) - self._before
        return None


class CloudAnswers(Fault):
    """The IoT Hub refuses."""

    def begin(self, nth: int) -> float | None:
        cloud = self.scene.line
        self._before = cloud_answers.refusals(cloud.home)
        cloud_answers.answer_with(cloud.home, self.values["error"], self.values["count"], self.values["nth"])
        if self.values["error"] == cloud_answers.UNAUTHORIZED:
            for line in cloud.lines:  # who is let in already stays so until it has to connect again
                line.reset()
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        cloud = self.scene.line
        cloud_answers.answer_with(cloud.home)
        self.count += cloud_answers.refusals(cloud.home) - self._before
        return None
