"""The logins of one's own account, as the library shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OwnLogin:
    """A login of yours whose token is still valid, from `JellyClient.logins`."""

    id: str
    """Its name for `JellyClient.end_login`."""
    created: int | None
    """When it was made: milliseconds since 1970; None if that is not known."""
    network: str | None
    """From where: an IPv4 address, or the first 64 bits of an IPv6 address; None: not known."""
    expires: int
    """When its token expires: milliseconds since 1970."""
    is_current: bool
    """Whether it is the login of this client."""


def own_logins(values: Mapping[str, Any]) -> tuple[OwnLogin, ...]:
    """Return the logins in a response."""
    return tuple(
        OwnLogin(
            str(each["login"]), each.get("created"), each.get("network"), int(each["expires"]), each["current"] is True
        )
        for each in values["logins"]
    )
