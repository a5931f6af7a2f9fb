"""Friend requests and invitations to groups, as the application sees them.

The client gets the open requests after each login, and others while it is online. `OpenRequests`
knows which of them the application has had, so that it gets each once.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

FEATURE = "contacts"
CALLBACKS = ("on_friend_request", "on_invitation")
"""The methods of a receiver that need the feature."""


class CanAnswer(Protocol):
    """The client, for those who answer."""

    def answer_friend(self, friend: str, accept: bool = True) -> "Future[None]":
        """Answer a friend request."""

    def answer_group(self, group: str, accept: bool = True) -> "Future[None]":
        """Answer an invitation."""


@dataclass(frozen=True)
class FriendRequestEvent:
    """A user asks to have you on the friend list: to see when you are online, and your profile."""

    client: CanAnswer = field(repr=False, compare=False)
    """The client that received it."""
    friend: str
    """The user who asks."""

    def accept(self) -> "Future[None]":
        """Say yes; see `JellyClient.answer_friend`."""
        return self.client.answer_friend(self.friend, accept=True)

    def decline(self) -> "Future[None]":
        """Say no; see `JellyClient.answer_friend`."""
        return self.client.answer_friend(self.friend, accept=False)


@dataclass(frozen=True)
class InvitationEvent:
    """A user asks you to become a member of a group."""

    client: CanAnswer = field(repr=False, compare=False)
    """The client that received it."""
    group: str
    user: str
    """Who invites you."""

    def accept(self) -> "Future[None]":
        """Become a member; see `JellyClient.answer_group`."""
        return self.client.answer_group(self.group, accept=True)

    def decline(self) -> "Future[None]":
        """Say no; see `JellyClient.answer_group`."""
        return self.client.answer_group(self.group, accept=False)


@dataclass(frozen=True)
class FriendRequests:
    """The result of `JellyClient.friend_requests`: what has no answer yet."""

    pending: tuple[str, ...]
    """The users on your friend list who have not accepted. They are shown as offline."""
    received: tuple[str, ...]
    """The users who have asked you: at most 100, the newest first."""


class OpenRequests:
    """The requests, or the invitations, that the application has had. It belongs to the callback
    thread.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def note(self, user: str) -> None:
        """The application gets the request of a user, of which a notice has told."""
        self._known.add(user)

    def new_ones(self, users: Iterable[str]) -> list[str]:
        """These are all that are open: return those that the application has not had, the oldest
        first.
        """
        now = list(users)
        new = [user for user in reversed(now) if user not in self._known]
        self._known = set(now)
        return new


def defines_callbacks(receiver: object, base: type, names: Sequence[str] = CALLBACKS) -> bool:
    """Whether a receiver has a method of its own for (a part of) what the feature brings."""
    own = getattr(receiver, "__dict__", {})
    return any(name in own or getattr(type(receiver), name, None) is not getattr(base, name) for name in names)


def parse_requests(values: dict[str, Any]) -> FriendRequests:
    """Read the response to ALL_FRIENDS."""
    return FriendRequests(tuple(map(str, values.get("pending", ()))), tuple(map(str, values.get("requests", ()))))


def parse_invitations(values: dict[str, Any]) -> dict[str, str]:
    """Read the response to OWN_GROUPS."""
    return {str(group): str(user) for group, user in values.get("invited", {}).items()}
