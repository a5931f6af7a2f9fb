"""The friend list: ADD_FRIEND, REMOVE_FRIEND, ALL_FRIENDS.

What friends are told of each other is in `presence.py`, the profile of a friend in
`account_service.py`. How a long list is read and cut is in `lists.py`.
"""

from collections.abc import Callable

from jelly import lists
from jelly.codec import Type
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.messages import SUCCESS, AddFriend, AllFriends, RemoveFriend, response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, Outcome, Unfinished, Write
from jelly.presence import Presence
from jelly.sessions import Session, Sessions


class FriendService:
    """The requests about the friend list of the logged-in user."""

    def __init__(self, sessions: Sessions, presence: Presence, reading: Reading, cut_log: lists.CutLog) -> None:
        self._sessions = sessions
        self._presence = presence
        self._reading = reading
        self._cut_log = cut_log

    def add_friend(self, session: Session, request: AddFriend) -> Outcome:
        """Add a user to the friend list of the logged-in user (one-way)."""
        username, friend = request

        def in_transaction(dao: Dao) -> None:
            if not is_valid_name(friend) or not dao.has_user(friend):
                raise Refused(ErrorCode.NO_SUCH_USER)
            if dao.is_friend(username, friend):
                raise Refused(ErrorCode.ALREADY_FRIENDS)
            if dao.count_friends(username) >= lists.MAX_FRIENDS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"You have {lists.MAX_FRIENDS} friends, the most possible.")
            dao.add_friend(username, friend)

        def after_commit(_: None) -> Answer:
            self._presence.add_friend(username, friend)
            return Answer(SUCCESS[Type.ADD_FRIEND])

        return Write(Type.ADD_FRIEND, in_transaction, after_commit)

    def remove_friend(self, session: Session, request: RemoveFriend) -> Outcome:
        """Remove a user from the friend list of the logged-in user."""
        username, friend = request

        def in_transaction(dao: Dao) -> None:
            if not dao.is_friend(username, friend):
                raise Refused(ErrorCode.NOT_FRIENDS)
            dao.remove_friend(username, friend)

        def after_commit(_: None) -> Answer:
            self._presence.remove_friend(username, friend)
            return Answer(SUCCESS[Type.REMOVE_FRIEND])

        return Write(Type.REMOVE_FRIEND, in_transaction, after_commit)

    def all_friends(self, session: Session, request: AllFriends) -> Outcome:
        """Return the friend list, and for each friend whether they are online.

        A client with the feature `pages` gets one page. Any other gets what fits into one frame.
        """
        username = request.username
        if "pages" not in session.features:
            return Unfinished(lambda: self._gather_friends(session, username, [], ""))

        def read_page() -> Write:
            with self._reading() as dao:
                friends, rest = lists.read_friends(dao, username, request.after or "", lists.piece_rows(session))

            def answer() -> Answer:
                online = {friend: self._presence.is_announced_online(friend, username) for friend in friends}
                values = {"username": username, "friends": online, "more": rest is not None, "after": rest}
                return Answer(response(Type.ALL_FRIENDS, values))

            return _in_order_with_presence(answer)

        return Unfinished(read_page)

    def _gather_friends(self, session: Session, username: str, friends: list[str], after: str) -> Outcome:
        """Read a piece of the list, and return the response if the list is complete."""
        with self._reading() as dao:
            piece, rest = lists.read_friends(dao, username, after, lists.PIECE_ROWS)
        friends += piece
        if rest is not None and sum(map(len, friends)) < lists.MAX_LIST:
            return Unfinished(lambda: self._gather_friends(session, username, friends, rest), lists.MAX_LIST)

        def answer(is_online: Callable[[str], bool]) -> Answer:
            frame = lists.ListFrame(Type.ALL_FRIENDS, username, "friends")
            frame.add(lists.friend_entries(friends, map(is_online, friends)))
            if frame.is_cut:
                self._cut_log.report("friends", username, frame.count)
            return Answer(frame.encode())

        if not session.is_modern:
            return answer(self._sessions.is_online)
        return _in_order_with_presence(
            lambda: answer(lambda friend: self._presence.is_announced_online(friend, username))
        )


def _in_order_with_presence(answer: Callable[[], Answer]) -> Write:
    """Return a write that makes a list of friends in a turn of the store, like presence notices.

    The notices continue where the list ends. So it is made from what was announced last. Otherwise
    the list might be older than a notice before it. Or it might be newer than what was announced:
    if the friend's state then changes back, no notice corrects the list.
    """
    return Write(Type.ALL_FRIENDS, lambda _: None, lambda _: answer())
