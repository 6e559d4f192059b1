"""Knows which deployment is in force, where it comes from, and what became of the one that came last.

Used by AgentActor alone, whose restarts it outlives. A deployment that cannot be used leaves the one before
in force, and is what is reported.

Source: spec sheet agent.md sections 1.4 and 6.2; deviation D5: a bad deployment stops no supervision
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final, Protocol

from msgspec import Struct

from actors.manifest.cloud_deployment import parse_agent
from actors.manifest.deployment import Deployment
from actors.manifest.hub_manifest import HubSettings, parse_hub_desired
from messaging.errors import ConfigError, DeploymentError, EdgeError

log = logging.getLogger(__name__)

APPLIED: Final = 200
REFUSED: Final = 400
NOT_APPLIED: Final = 406  # yet
FAILED: Final = 500
LONGEST_DESCRIPTION: Final = 1000  # characters; a text of a twin may have 4096 bytes


@dataclass(frozen=True, slots=True)
class KeptDeployment:
    """The last good deployment as the cloud sent it; JSON. The hub's is empty while it is not known.

    `taken_back` is what came after it and did not stay up, and why; empty when nothing did.
    """

    agent_version: int
    agent_desired: bytes = field(repr=False)  # may hold passwords
    hub_version: int = 0
    hub_desired: bytes = field(default=b"", repr=False)
    taken_back: bytes = field(default=b"", repr=False)
    taken_back_because: str = ""


class DeploymentPlace(Protocol):
    """What a deployment needs of this machine besides its modules. Used by AgentActor's thread."""

    def prepare(self, deployment: Deployment) -> Deployment:
        """Check what this device allows, and have ready what the hub starts from.

        Returns:
            The deployment with what its hub is made from.

        Raises:
            ConfigError: it asks for what this device does not allow.
            EnvironmentFault: this machine cannot do it now.
        """
        ...

    def keep(self, kept: KeptDeployment) -> None:
        """Keep the last good deployment, encrypted, for a start without the cloud.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        ...


class DeploymentStatus(Struct, frozen=True):
    """`lastDesiredStatus`."""

    code: int = APPLIED
    description: str = ""


class Taken(Enum):
    """What is to be done after desired properties came."""

    NOTHING = auto()
    ROLL_OUT = auto()  # another deployment is in force
    ASK_FOR_HUB = auto()  # it has to be known first what `$edgeHub` desires


class DeploymentKeeper:
    """One source: a file of this device, or the cloud."""

    def __init__(
        self,
        deployment: Deployment,
        place: DeploymentPlace | None = None,
        *,
        file_name: str = "",
        kept: KeptDeployment | None = None,
    ) -> None:
        """Begin with what is in force.

        Args:
            deployment: Prepared; without a file and a kept one it is `no_deployment()`.
            place: Where deployments from the cloud are prepared; None: there is no cloud.
            file_name: Of the deployment file of this device; while there is one, no other is applied.
            kept: What the deployment was made from, if it came from the cloud.
        """
        self.deployment = deployment
        self._outcome = DeploymentStatus()  # of the deployment in force
        self._verdict: DeploymentStatus | None = None  # on a later one that is not in force
        self._place = place
        self._file_name = file_name
        self._kept = kept
        self._hub: HubSettings | None = None if kept is None or not kept.hub_desired else deployment.hub
        self._hub_version = 0 if kept is None else kept.hub_version
        self._hub_desired = b"" if kept is None else kept.hub_desired
        self._waiting: tuple[bytes, int] | None = None  # until what `$edgeHub` desires is known
        self._before: KeptDeployment | None = None  # to return to: the last one before that stayed up
        self._stayed_up = True  # whether the one in force is known to
        self._given_up = b""  # what was rolled back is not applied again
        if kept is not None and kept.taken_back:
            self._give_up(kept.taken_back, kept.taken_back_because)

    @property
    def status(self) -> DeploymentStatus:
        """What became of the deployment that came last."""
        return self._verdict or self._outcome

    @property
    def is_local(self) -> bool:
        """Whether a file of this device says what runs."""
        return bool(self._file_name)

    @property
    def version(self) -> int | None:
        """The `$version` of the deployment in force; None when none has come from the cloud."""
        return None if self._kept is None else self._kept.agent_version

    def take_agent(self, desired: bytes, version: int) -> Taken:
        """Take desired properties of `$edgeAgent`, JSON without `$version`."""
        if self._file_name:
            self._outcome = DeploymentStatus(
                APPLIED,
                f"the deployment file {self._file_name} of this device is in force; version {version} from "
                "the cloud is applied once the edge is started without --deployment",
            )
            return Taken.NOTHING
        self._waiting = None
        kept = self._kept
        if self._given_up and desired == self._given_up:
            return Taken.NOTHING  # its status stays
        self._given_up, self._verdict = b"", None
        if kept is not None and kept.agent_desired == desired:
            if kept.agent_version != version or kept.taken_back:
                self._keep(replace(kept, agent_version=version))
            return Taken.NOTHING
        return self._apply(desired, version)

    def take_hub(self, desired: bytes, version: int) -> Taken:
        """Take desired properties of `$edgeHub`, JSON without `$version`. Bad ones the hub reports itself."""
        if self._file_name or (self._hub is not None and desired == self._hub_desired):
            return Taken.NOTHING
        try:
            warnings: list[str] = []
            self._hub = parse_hub_desired(desired, version, warnings)
            self._hub_desired, self._hub_version = desired, version
            for warning in warnings:
                log.warning("%s", warning)
        except DeploymentError as exc:
            log.error("%s", exc)
            return self.go_on_without_hub()
        if self._waiting is not None:
            return self._apply(*self._waiting)
        if self._kept is None:
            return Taken.NOTHING
        # Not the one in force: what that hub was made from is part of it.
        deployment = parse_agent(self._kept.agent_desired, self._kept.agent_version)
        return self._put_in_force(replace(deployment, hub=self._hub), self._kept)

    def go_on_without_hub(self) -> Taken:
        """What `$edgeHub` desires is not to be had: without routes is better than not at all."""
        if self._waiting is None:
            return Taken.NOTHING
        self._hub = self._hub or HubSettings()
        return self._apply(*self._waiting)

    def _apply(self, desired: bytes, version: int) -> Taken:
        try:
            deployment = parse_agent(desired, version)
        except DeploymentError as exc:
            return self._refuse(exc.code, exc)
        if deployment.edge_hub is not None and self._hub is None:
            self._waiting = desired, version
            return Taken.ASK_FOR_HUB
        self._waiting = None
        before = self._kept
        kept = KeptDeployment(version, desired)
        taken = self._put_in_force(replace(deployment, hub=self._hub or HubSettings()), kept)
        if taken is Taken.ROLL_OUT:
            if self._stayed_up or self._before is None:
                self._before = before
            self._stayed_up = False
        return taken

    def stays_up(self) -> None:
        """The modules of the deployment in force have stayed up: one may return to it."""
        self._stayed_up = True

    def roll_back(self, reason: str) -> Taken:
        """Return to the deployment before this one, because of its modules; routes stay as they are."""
        before, bad = self._before, self._kept
        if before is None or bad is None:
            return Taken.NOTHING
        deployment = replace(
            parse_agent(before.agent_desired, before.agent_version), hub=self._hub or HubSettings()
        )
        text = f"version {bad.agent_version} was taken back, version {before.agent_version} runs: {reason}"
        self._give_up(bad.agent_desired, shortened(text))
        if self._put_in_force(deployment, before) is Taken.NOTHING:
            self._given_up = b""
            return Taken.NOTHING
        self._before, self._stayed_up = None, True
        log.error("%s", text)
        return Taken.ROLL_OUT

    def _give_up(self, desired: bytes, because: str) -> None:
        """Not apply these desired properties again until others came."""
        self._given_up, self._verdict = desired, DeploymentStatus(FAILED, because)

    def _put_in_force(self, deployment: Deployment, kept: KeptDeployment) -> Taken:
        assert self._place is not None
        try:
            self.deployment = self._place.prepare(deployment)
        except DeploymentError as exc:
            return self._refuse(exc.code, exc)
        except ConfigError as exc:
            return self._refuse(REFUSED, exc)
        except EdgeError as exc:
            return self._refuse(FAILED, exc)
        self._keep(replace(kept, hub_version=self._hub_version, hub_desired=self._hub_desired))
        return Taken.ROLL_OUT

    def _keep(self, kept: KeptDeployment) -> None:
        because = self._verdict.description if self._given_up and self._verdict else ""
        kept = self._kept = replace(kept, taken_back=self._given_up, taken_back_because=because)
        self._outcome = DeploymentStatus()
        assert self._place is not None
        try:
            self._place.keep(kept)
        except EdgeError as exc:
            log.error("deployment %d is in force but not kept: %s", kept.agent_version, exc)
            self._outcome = DeploymentStatus(FAILED, shortened(f"in force, but not kept: {exc}"))

    def _refuse(self, code: int, error: EdgeError) -> Taken:
        if self._kept is None:
            log.warning("%s; the edge waits for another deployment", error)
        else:
            log.error("%s; the deployment before it stays in force", error)
        self._verdict = DeploymentStatus(code, shortened(str(error)))
        return Taken.NOTHING


def shortened(text: str) -> str:
    """Return a description that fits into a twin."""
    return text if len(text) <= LONGEST_DESCRIPTION else f"{text[: LONGEST_DESCRIPTION - 1]}…"
