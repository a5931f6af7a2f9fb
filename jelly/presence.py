"""Presence: telling modern clients when a friend comes online or goes offline.

A user is told about the friends on the own list. So each modern user's list is loaded in the transaction of the
login and kept here, together with its reverse: who is to be told about whom. There is no query for that.

Everything in here runs on the store thread. Readers, on whose threads connections end, only ask it to look again
at a user (`refresh`). It compares who is online with what was told last, so it does not matter in which order
ends and logins are noticed: the last word about a user is always right, and a takeover, or a reconnect before
the end of the old connection was seen, is no change. What was committed without our knowing (the line to the
database broke in a commit) is missing from a list until that user's next login.
"""

from collections.abc import Iterable

from jelly.messages import Event, system
from jelly.sessions import Sessions


class Presence:
    """Who is to be told about whom, and what was told last."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lists: dict[str, set[str]] = {}  # of each modern user who is online
        self._watchers: dict[str, set[str]] = {}  # the same, from the friend to those who have it on their list
        self._online: set[str] = set()  # as it was told last

    def entered(self, user: str, friends: Iterable[str] | None) -> None:
        """A user has logged in, with this list; None for a classic client, which is told nothing."""
        self._forget(user)
        if friends is not None:
            self._lists[user] = set()
            for friend in friends:
                self.add_friend(user, friend)
        self.refresh(user)

    def add_friend(self, user: str, friend: str) -> None:
        """A user has put another one on the own list."""
        if user in self._lists:
            self._lists[user].add(friend)
            self._watchers.setdefault(friend, set()).add(user)

    def remove_friend(self, user: str, friend: str) -> None:
        """A user has taken another one off the own list."""
        if user in self._lists:
            self._lists[user].discard(friend)
            self._unwatch(user, friend)

    def was_told_online(self, user: str) -> bool:
        """Whether a user is online as far as anybody was told."""
        return user in self._online

    def refresh(self, user: str) -> None:
        """See whether a user is online, and tell who wants to know if that is news."""
        is_online = self._sessions.get(user) is not None
        if not is_online:
            self._forget(user)
        if is_online == (user in self._online):
            return
        (self._online.add if is_online else self._online.discard)(user)
        watchers = self._watchers.get(user, set()) - {user}
        if watchers:
            self._sessions.tell(watchers, system(Event.PRESENCE, friend=user, online=is_online))

    def _forget(self, user: str) -> None:
        for friend in self._lists.pop(user, ()):
            self._unwatch(user, friend)

    def _unwatch(self, user: str, friend: str) -> None:
        watchers = self._watchers.get(friend, set())
        watchers.discard(user)
        if not watchers:
            self._watchers.pop(friend, None)
