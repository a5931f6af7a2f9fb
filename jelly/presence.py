"""Presence: modern clients are told when a friend comes online or goes offline.

A user is told about the users on their friend list. The server loads the list of a modern user in
the transaction of the login, and keeps it here while the user is online. The reverse is kept, too:
the *watchers* of a user (the term of RFC 2778) are the online users who have that user on their
list. So a notice needs no query.

Everything here runs in turns of the store (`store.py`), which never overlap. A reader whose
connection ends only asks the store to call `refresh`. `refresh` compares who is online with what
was announced last. So the order in which the server notices logins and ends does not matter: the
last notice about a user is always right. A takeover is no change, and neither is a reconnect that
comes before the end of the old connection was noticed.
"""

from collections.abc import Iterable

from jelly.messages import Event, system
from jelly.sessions import Sessions


class Presence:
    """Friend lists of the modern users who are online, and what was announced last."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._friend_lists: dict[str, set[str]] = {}  # of each modern user who is online
        self._watchers: dict[str, set[str]] = {}  # the reverse: from a friend to the users to tell
        self._announced_online: set[str] = set()

    def user_logged_in(self, user: str, friends: Iterable[str] | None) -> None:
        """Note a login, with the user's friend list (None for a classic client)."""
        self._drop_friend_list(user)
        if friends is not None:
            self._friend_lists[user] = set()
            for friend in friends:
                self.add_friend(user, friend)
        self.refresh(user)

    def add_friend(self, user: str, friend: str) -> None:
        """Note that `user` has added `friend`."""
        if user in self._friend_lists:
            self._friend_lists[user].add(friend)
            self._watchers.setdefault(friend, set()).add(user)

    def remove_friend(self, user: str, friend: str) -> None:
        """Note that `user` has removed `friend`."""
        if user in self._friend_lists:
            self._friend_lists[user].discard(friend)
            self._remove_watcher(user, friend)

    def is_announced_online(self, user: str) -> bool:
        """Whether the last announcement about a user was that they are online."""
        return user in self._announced_online

    def refresh(self, user: str) -> None:
        """Check whether a user is online; if that has changed, tell the watchers."""
        is_online = self._sessions.get(user) is not None
        if not is_online:
            self._drop_friend_list(user)
        if is_online == (user in self._announced_online):
            return
        (self._announced_online.add if is_online else self._announced_online.discard)(user)
        watchers = self._watchers.get(user, set()) - {user}
        if watchers:
            self._sessions.tell(watchers, system(Event.PRESENCE, friend=user, online=is_online))

    def _drop_friend_list(self, user: str) -> None:
        for friend in self._friend_lists.pop(user, ()):
            self._remove_watcher(user, friend)

    def _remove_watcher(self, user: str, friend: str) -> None:
        watchers = self._watchers.get(friend, set())
        watchers.discard(user)
        if not watchers:
            self._watchers.pop(friend, None)
