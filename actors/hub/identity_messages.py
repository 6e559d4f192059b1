"""What heads, the link to the cloud and the keeper of the identities say to each other."""

from __future__ import annotations

from typing import Final

from messaging.envelope import Secret
from messaging.kinds import message

ACCEPTED: Final = 0
TRY_AGAIN: Final = 3  # CONNACK: the client retries
NOT_AUTHORIZED: Final = 5  # CONNACK: SDK clients stop for good, so only for what is final


NO_TOKEN: Final = Secret(b"")


@message
class Authenticate:
    """May a client be this identity? Answered with Verdict, at the latest after AGENT_LIMIT_S.

    A certificate decides when there is one, as HTTP has it; a head whose protocol has it the other way round
    leaves it out. Neither is a refusal, too.
    """

    identity: str
    token: Secret = NO_TOKEN
    certificates: tuple[bytes, ...] = ()  # `Transport.certificates`
    auth_chain: tuple[str, ...] = ()  # as in `verdicts.check`


@message
class Verdict:
    """The answer as a return code of CONNACK (other protocols have words for the three), and why."""

    identity: str
    return_code: int  # ACCEPTED, TRY_AGAIN or NOT_AUTHORIZED
    reason: str  # why it was refused, for the log
    ends_s: float | None = None  # until when it holds, in seconds since 1970-01-01 UTC; None: until revoked


@message
class IdentityRevoked:
    """This identity is gone, disabled or has other keys: end its connections."""

    identity: str


@message
class GetAccess:
    """With what does this identity prove itself to the cloud? Answered with Access, or RequestFailed.

    `was_refused`: the cloud did not take what was answered before, so it may have changed.
    """

    identity: str
    was_refused: bool = False


@message
class Access:
    """The key of an identity, base64; of `signer`, who speaks for it, when it has none."""

    identity: str
    key: Secret
    signer: str = ""


@message
class AccessChanged:
    """To the cloud's actor: this identity is new or gone, was disabled or enabled, or has other keys."""

    identity: str
