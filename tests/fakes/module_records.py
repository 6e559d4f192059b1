"""Module records in memory."""

from __future__ import annotations

from actors.ports.modules import ModuleRecord


class FakeModuleRecords:
    """Like the files; `fault` is raised once, at the next save."""

    def __init__(self) -> None:
        self.kept: dict[str, ModuleRecord] = {}
        self.fault: Exception | None = None

    def all(self) -> dict[str, ModuleRecord]:
        return dict(self.kept)

    def load(self, name: str) -> ModuleRecord | None:
        return self.kept.get(name)

    def save(self, name: str, record: ModuleRecord, durable: bool = True) -> None:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.kept[name] = record

    def remove(self, name: str) -> None:
        self.kept.pop(name, None)
