"""The friend list, and consent to be on it: ADD_FRIEND, ANSWER_FRIEND, REMOVE_FRIEND, ALL_FRIENDS.

What friends are told of each other is in `presence.py`, what they are told of requests in
`contact_notices.py`, the profile of a friend in `account_service.py`. How a long list is read and
cut is in `lists.py`.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from jelly import contacts_dao, lists
from jelly.codec import Type
from jelly.contact_notices import ContactNotices
from jelly.contacts_dao import Standing
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.messages import SUCCESS, response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, Outcome, Unfinished, Write
from jelly.policy import Policy
from jelly.presence import Presence
from jelly.requests import AddFriend, AllFriends, AnswerFriend, RemoveFriend
from jelly.sessions import Session, Sessions
from jelly.trusted_clock import TrustedClock

MAX_PENDING = 100
"""At most this many users on a friend list have not accepted."""
MAX_ASKED_A_DAY = 20
"""At most this many requests a user makes in a day (of UTC)."""
MAX_REQUESTS = 100
"""At most this many open requests a user is shown, the newest."""


class FriendService:
    """The requests about the friend list of the logged-in user."""

    def __init__(
        self,
        policy: Policy,
        sessions: Sessions,
        presence: Presence,
        notices: ContactNotices,
        reading: Reading,
        cut_log: lists.CutLog,
        clock: TrustedClock,
    ) -> None:
        self._policy = policy
        self._sessions = sessions
        self._presence = presence
        self._notices = notices
        self._reading = reading
        self._cut_log = cut_log
        self._clock = clock

    def add_friend(self, session: Session, request: AddFriend) -> Outcome:
        """Add a user to the friend list of the logged-in user (one-way), or ask that user first.

        Whoever is asked is on the list at once, but shown as offline until accepting. To add
        somebody who has asked is to accept.
        """
        username, friend = request

        def in_transaction(dao: Dao) -> tuple[bool, bool | None]:
            """Return whether the friend is asked; and if the friend's own request is accepted by
            this, whether the friend sees from now on when the user is online.
            """
            found = contacts_dao.acquaintance(dao, friend, username) if is_valid_name(friend) else None
            if found is None:
                raise Refused(ErrorCode.NO_SUCH_USER)
            if found.has_blocked:
                raise Refused(ErrorCode.NOT_ACCEPTED)
            if dao.is_friend(username, friend):
                raise Refused(ErrorCode.ALREADY_FRIENDS)
            if dao.count_friends(username) >= lists.MAX_FRIENDS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"You have {lists.MAX_FRIENDS} friends, the most possible.")
            is_asked = friend != username and contacts_dao.must_ask(found, self._policy.contacts)
            accepts = found.standing not in (None, Standing.ACCEPTED)
            if is_asked:
                self._ask(dao, username, friend)
            else:
                contacts_dao.add_friend(dao, username, friend, None)
            return is_asked, self._answer(dao, friend, username, accepted=True) if accepts else None

        def after_commit(result: tuple[bool, bool | None]) -> Answer:
            is_asked, is_shown = result
            if is_asked:
                self._notices.asked(username, friend)
            else:
                self._presence.add_friend(username, friend)
            if is_shown is not None:
                self._notices.answered(friend, username, accepted=True, is_shown=is_shown)
            if "contacts" in session.features:
                return Answer(response(Type.ADD_FRIEND, {"pending": is_asked}))
            return Answer(SUCCESS[Type.ADD_FRIEND])

        return Write(Type.ADD_FRIEND, in_transaction, after_commit)

    def _ask(self, dao: Dao, username: str, friend: str) -> None:
        """In a transaction: put a request on the friend list. Raises Refused beyond the limits."""
        now = int(self._clock.latest() * 1000)
        today = now // contacts_dao.DAY_MS
        asked_today = contacts_dao.asked_on(dao, username, today)
        if asked_today >= MAX_ASKED_A_DAY:
            raise Refused(ErrorCode.LIMIT_REACHED, f"You have asked {MAX_ASKED_A_DAY} users today, the most possible.")
        if contacts_dao.count_pending(dao, username) >= MAX_PENDING:
            raise Refused(
                ErrorCode.LIMIT_REACHED, f"You have asked {MAX_PENDING} users who have not accepted: remove some."
            )
        contacts_dao.note_asked(dao, username, today, asked_today + 1)
        contacts_dao.add_friend(dao, username, friend, asked_at=now)
        dao.announce("contact", "asked", username, friend)

    def _answer(self, dao: Dao, asker: str, username: str, accepted: bool) -> bool:
        """In a transaction: note what a user says to a request. Return whether the one who asked
        sees from now on when the user is online: not if the user has blocked that one.
        """
        contacts_dao.set_standing(dao, asker, username, Standing.ACCEPTED if accepted else Standing.DECLINED)
        is_shown = contacts_dao.is_shown(dao, asker, username) is True
        dao.announce("contact", "answered", asker, username, accepted, is_shown)
        return is_shown

    def answer_friend(self, session: Session, request: AnswerFriend) -> Outcome:
        """Say yes or no to a user who has asked to have the logged-in user on the friend list.

        A no may become a yes later, not the other way round.
        """
        username, asker, accepted = request

        def in_transaction(dao: Dao) -> bool:
            standing = contacts_dao.standing(dao, asker, username) if is_valid_name(asker) else None
            if standing is None or standing is Standing.ACCEPTED or (standing is Standing.DECLINED and not accepted):
                raise Refused(ErrorCode.NOT_ASKED)
            return self._answer(dao, asker, username, accepted)

        def after_commit(is_shown: bool) -> Answer:
            self._notices.answered(asker, username, accepted, is_shown)
            return Answer(SUCCESS[Type.ANSWER_FRIEND])

        return Write(Type.ANSWER_FRIEND, in_transaction, after_commit)

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

        Those who have not accepted, or have blocked the user, are shown as offline. A client with
        the feature `pages` gets one page. Any other gets what fits into one frame.
        """
        username = request.username
        if "pages" not in session.features:
            return Unfinished(lambda: self._gather_friends(session, username, [], ""))

        def read_page() -> Write:
            with self._reading() as dao:
                friends, rest = lists.read_friends(dao, username, request.after or "", lists.piece_rows(session))

            def answer(state: OpenRequests) -> Answer:
                values: dict[str, object] = {"username": username, "friends": self._shown_to_modern(state, friends)}
                if "contacts" in session.features:
                    values["pending"] = [friend for friend in friends if state.hidden.get(friend)]
                    values["requests"] = state.requests if request.after is None else None
                values |= {"more": rest is not None, "after": rest}
                return Answer(response(Type.ALL_FRIENDS, values))

            return self._in_order_with_notices(username, friends, answer)

        return Unfinished(read_page)

    def _gather_friends(self, session: Session, username: str, friends: list[str], after: str) -> Outcome:
        """Read a piece of the list, and return the response if the list is complete."""
        with self._reading() as dao:
            piece, rest = lists.read_friends(dao, username, after, lists.PIECE_ROWS)
        friends += piece
        if rest is not None and sum(map(len, friends)) < lists.MAX_LIST:
            return Unfinished(lambda: self._gather_friends(session, username, friends, rest), lists.MAX_LIST)

        def answer(shown: Mapping[str, bool], more: Mapping[str, Sequence[str]] | None = None) -> Answer:
            frame = lists.ListFrame(Type.ALL_FRIENDS, username, "friends", more)
            frame.add(lists.friend_entries(list(shown), shown.values()))
            if frame.is_cut:
                self._cut_log.report("friends", username, frame.count)
            return Answer(frame.encode())

        if not session.is_modern:
            with self._reading() as dao:
                online = [name for name in friends if self._sessions.is_online(name)]
                shown = contacts_dao.accepted_among(dao, username, online)
            return answer({name: name in shown for name in friends})

        def answer_modern(state: OpenRequests) -> Answer:
            more = {"pending": state.pending, "requests": state.requests} if "contacts" in session.features else None
            return answer(self._shown_to_modern(state, friends), more)

        return self._in_order_with_notices(username, friends, answer_modern)

    def _shown_to_modern(self, state: "OpenRequests", friends: Sequence[str]) -> dict[str, bool]:
        """For each friend of a modern client, whether it is shown that they are online."""
        user, is_online, is_told = state.username, self._presence.is_announced_online, self._presence.is_shown
        return {
            name: is_online(name, user)
            and name not in state.hidden
            and (is_told(name, user) or name in state.still_friends)
            for name in friends
        }

    def _in_order_with_notices(
        self, username: str, friends: Sequence[str], answer: Callable[["OpenRequests"], Answer]
    ) -> Write:
        """Return a write that makes a list of friends in a turn of the store, like the notices.

        The notices continue where the list ends. So it is made from what was announced last.
        Otherwise the list might be older than a notice before it. Or it might be newer than what
        was announced: if the friend's state then changes back, no notice corrects the list.
        """

        def read(dao: Dao) -> OpenRequests:
            hidden, requests = contacts_dao.hidden(dao, username), contacts_dao.requests(dao, username, MAX_REQUESTS)
            # The names were read before: the user may have removed some of them on another device.
            # Those of whom the user is told here are still friends.
            is_online, is_told = self._presence.is_announced_online, self._presence.is_shown
            in_question = [
                name
                for name in friends
                if name not in hidden and is_online(name, username) and not is_told(name, username)
            ]
            return OpenRequests(username, hidden, requests, contacts_dao.accepted_among(dao, username, in_question))

        return Write(Type.ALL_FRIENDS, read, answer)


class OpenRequests(NamedTuple):
    """What a friend list shows of requests that were not accepted."""

    username: str
    hidden: Mapping[str, bool]
    """Those on the list who are shown as offline, and whether it is because they have not
    accepted.
    """
    requests: Sequence[str]
    """Those who have asked this user."""
    still_friends: Set[str]
    """Those who are online, and of whom the user is not told here, but who are on the list."""

    @property
    def pending(self) -> list[str]:
        """Those on the list who have not accepted."""
        return [name for name, is_pending in self.hidden.items() if is_pending]
