"""Invitations, as the library shows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Invite:
    """The result of `JellyClient.invite`."""

    code: str = field(repr=False)
    """What others need to join (`JellyClient.join`), or to register. Give it to nobody else."""
    expires: int
    """Until when it is valid: milliseconds since 1970."""


def invite(values: Mapping[str, Any]) -> Invite:
    """Return the invitation in a response."""
    return Invite(str(values["code"]), int(values["expires"]))
