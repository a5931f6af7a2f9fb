"""Other users: the list of friends, requests, blocks, looking for users and reporting them."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from jelly.client.connection_manager import ConnectionManager
from jelly.client.contacts import FEATURE as CONTACTS
from jelly.client.contacts import FriendRequests, parse_requests
from jelly.client.values import nothing, text
from jelly.codec import Type


class FriendOperations:
    """What a client does about other users."""

    _manager: ConnectionManager

    def add_friend(self, friend: str) -> "Future[bool]":
        """Add a user to your friend list (one-way), or ask that user first.

        The result is True if the user is your friend now. It is False if the user was asked, and is
        shown as offline until accepting; then your receiver gets the system event `friend_answer`.
        (A client without the feature `contacts` is not told: the result is True.) If the user has
        asked you, this accepts.

        Rejected with `no_such_user`, `already_friends`; with `not_accepted`, if the user has
        blocked you; with `limit_reached`: you may ask 20 users a day, and 100 may leave you without
        a yes.

        >>> client.add_friend("carol").result(timeout=5)
        True
        """
        return self._manager.request(
            Type.ADD_FRIEND, {"friend": friend}, lambda values: values.get("pending") is not True
        )

    def answer_friend(self, friend: str, accept: bool = True) -> "Future[None]":
        """Accept or decline the request of a user to have you on the friend list.

        It adds nobody to your own list. A user to whom you say no is told, and may ask again after
        removing you; you may still accept. Rejected with `not_asked`; with `unknown_type` unless
        the server grants `contacts` to this client (`Receiver.on_friend_request`).

        >>> client.answer_friend("carol", accept=True).result(timeout=5)
        """
        values = {"friend": friend, "accept": accept}
        return self._manager.request(Type.ANSWER_FRIEND, values, nothing, feature=CONTACTS)

    def friend_requests(self) -> "Future[FriendRequests]":
        """List the friend requests that have no answer yet; rejected like `answer_friend`.

        >>> client.friend_requests().result(timeout=5).received
        ('carol',)
        """
        return self._manager.request(Type.ALL_FRIENDS, {}, parse_requests, feature=CONTACTS, list_key="friends")

    def find_users(self, prefix: str) -> "Future[tuple[str, ...]]":
        """Find users by the beginning of their names: the first 20 of them, in their order.

        Rejected with `rate_limited` if you ask too often (30 times a minute, 20 at once); with
        `unknown_type` if the operator does not want it, which is the default.

        >>> client.find_users("bo").result(timeout=5)
        ('bob',)
        """
        return self._manager.request(Type.FIND, {"prefix": prefix}, _names, feature="find")

    def report(self, person: str, text: str, *, message_id: int | None = None) -> "Future[None]":
        """Tell the operator of the server about a user. Nobody else learns of it.

        `message_id`: the id of a message of that user to you, or to a group that you are in; the
        operator gets what it says. Rejected with `no_such_user`, `no_such_message`, `too_long`
        (1,000 characters); with `limit_reached` after 10 reports within 24 hours; with
        `unknown_type` if the server takes no reports.

        >>> client.report("carol", "sends me advertisements").result(timeout=5)
        """
        values = {"person": person, "text": text, "id": message_id}
        return self._manager.request(Type.REPORT, values, nothing, feature="report")

    def remove_friend(self, friend: str) -> "Future[None]":
        """Remove a user from your friend list. Rejected with `not_friends`.

        >>> client.remove_friend("bob").result(timeout=5)
        """
        return self._manager.request(Type.REMOVE_FRIEND, {"friend": friend}, nothing)

    def block(self, person: str) -> "Future[None]":
        """Block a user, who from now on cannot write to you, ask you, add you to groups, or see
        when you are online. To block twice changes nothing.

        The user's messages to your common groups arrive all the same, because all members get the
        same messages: do not show them. Rejected with `no_such_user`, `limit_reached`.

        >>> client.block("carol").result(timeout=5)
        """
        return self._manager.request(Type.BLOCK, {"person": person, "blocked": True}, nothing, feature="block")

    def unblock(self, person: str) -> "Future[None]":
        """End a block; otherwise as `block`.

        >>> client.unblock("carol").result(timeout=5)
        """
        return self._manager.request(Type.BLOCK, {"person": person, "blocked": False}, nothing, feature="block")

    def blocked(self) -> "Future[tuple[str, ...]]":
        """List the users whom you have blocked, in the order of their names.

        >>> client.blocked().result(timeout=5)
        ()
        """
        return self._manager.request(Type.BLOCKED, {}, _blocked, feature="block")

    def list_friends(self) -> "Future[dict[str, bool]]":
        """List your friends. The result maps each name to whether that user is online.

        >>> client.list_friends().result(timeout=5)
        {'bob': False}
        """
        return self._manager.request(Type.ALL_FRIENDS, {}, _friends, list_key="friends")


def _names(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(text, values["found"]))


def _blocked(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, values["blocked"]))


def _friends(values: Mapping[str, Any]) -> dict[str, bool]:
    return dict(values.get("friends", {}))
