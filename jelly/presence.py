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

A user who comes and goes without pause must not keep everybody busy. So the first change is told at
once, and those that follow within a second are told together at its end: the last state, or nothing
if it is the one that was told last. Until then ALL_FRIENDS says what was told last. One thing does
not wait: a friend's message does not come before the notice that the friend is online. So its
receiver is told early.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from jelly.messages import Event, system
from jelly.notifier import CallAt, Notifier, RecentlyTold
from jelly.sessions import Sessions


class Presence:
    """Friend lists of the modern users who are online, and what was announced last."""

    def __init__(
        self, sessions: Sessions, notifier: Notifier, call_at: CallAt, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`call_at` must call a function at a time, in a turn of the store."""
        self._sessions = sessions
        self.notifier = notifier
        self._call_at = call_at
        self._clock = clock
        self._recent = RecentlyTold(clock)
        self.on_offline: Callable[[str], None] = lambda _: None
        """Called when a user may have gone."""
        self._friend_lists: dict[str, set[str]] = {}  # of each modern user who is online
        self._watchers: dict[str, set[str]] = {}  # the reverse: from a friend to the users to tell
        self._announced_online: set[str] = set()
        self.untold: dict[str, set[str]] = {}
        """For each user whose changes wait: the watchers who were told early that the user is
        online."""

    def user_logged_in(self, user: str, friends: Iterable[str] | None) -> None:
        """Note a login, with the user's friend list (None for a classic client)."""
        if friends is not None or not any(session.is_modern for session in self._sessions.of(user, ())):
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

    def friend_accepted(self, user: str, friend: str) -> None:
        """`friend`, whom `user` was shown as offline, has accepted: tell `user` if that changes."""
        if user in self._friend_lists and friend not in self._friend_lists[user]:
            self.add_friend(user, friend)
            if friend != user and self.is_announced_online(friend, user):
                self.notifier.tell([user], system(Event.PRESENCE, friend=friend, online=True))

    def friend_hidden(self, user: str, friend: str) -> None:
        """`friend` is shown to `user` as offline from now on: tell `user` if that changes."""
        if friend in self._friend_lists.get(user, ()):
            was_online = friend != user and self.is_announced_online(friend, user)
            self.remove_friend(user, friend)
            self.untold.get(friend, set()).discard(user)
            if was_online:
                self.notifier.tell([user], system(Event.PRESENCE, friend=friend, online=False))

    def remove_friend(self, user: str, friend: str) -> None:
        """Note that `user` has removed `friend`."""
        if user in self._friend_lists:
            self._friend_lists[user].discard(friend)
            self._remove_watcher(user, friend)

    def is_shown(self, user: str, watcher: str) -> bool:
        """Whether `watcher`, who is online here with a modern client, is told when `user` comes and
        goes. Any thread may ask.
        """
        return user in self._friend_lists.get(watcher, ())

    def is_announced_online(self, user: str, watcher: str = "") -> bool:
        """Whether the last announcement about a user was that they are online: to all, or to this
        watcher.
        """
        return user in self._announced_online or watcher in self.untold.get(user, ())

    def refresh(self, user: str) -> None:
        """Check whether a user is online; if that has changed, tell the watchers, now or later."""
        is_online = self._sessions.is_online(user)
        if not is_online:
            self._drop_friend_list(user)
            self.on_offline(user)
        if user in self.untold or is_online == (user in self._announced_online):
            return  # (in the first case, there is another look when the second is over)
        wait_until = self._recent.wait_until(user) if self._watchers_of(user) else None
        if wait_until is None:
            self._announce(user, is_online)
        else:
            self.untold[user] = set()
            self._call_at(wait_until, partial(self._tell_late, user))

    def tell_before(self, message: Any, receivers: Sequence[str]) -> None:
        """A message is about to be pushed: tell those receivers first who watch its sender."""
        sender = message.sender
        told_early = self.untold.get(sender)
        if told_early is None or sender in self._announced_online or not self._sessions.is_online(sender):
            return
        watchers = self._watchers_of(sender)
        to_tell = [user for user in receivers if user in watchers and user not in told_early]
        if to_tell:
            told_early.update(to_tell)
            self._tell(to_tell, sender, is_online=True)

    def call_in(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function later, in a turn of the store."""
        self._call_at(self._clock() + seconds, function)

    def _tell_late(self, user: str) -> None:
        """The second is over: tell the last state to those who do not know it."""
        told_early = self.untold.pop(user)
        is_online = self._sessions.is_online(user)
        if is_online != (user in self._announced_online):
            self._announce(user, is_online, told_early)
        elif told_early and not is_online:
            self._tell(told_early & self._watchers_of(user), user, is_online)

    def _announce(self, user: str, is_online: bool, told_early: Iterable[str] = ()) -> None:
        (self._announced_online.add if is_online else self._announced_online.discard)(user)
        if watchers := self._watchers_of(user).difference(told_early):
            self._tell(watchers, user, is_online)

    def _tell(self, watchers: Iterable[str], user: str, is_online: bool) -> None:
        self._recent.note(user)
        self.notifier.tell(watchers, system(Event.PRESENCE, friend=user, online=is_online))

    def _watchers_of(self, user: str) -> set[str]:
        return self._watchers.get(user, set()) - {user}

    def _drop_friend_list(self, user: str) -> None:
        for friend in self._friend_lists.pop(user, ()):
            self._remove_watcher(user, friend)

    def _remove_watcher(self, user: str, friend: str) -> None:
        watchers = self._watchers.get(friend, set())
        watchers.discard(user)
        if not watchers:
            self._watchers.pop(friend, None)
