"""Blocking: BLOCK, BLOCKED.

What a block stops is decided where it would happen: messages in `store.py`, friend requests in
`friend_service.py`, groups in `group_service.py`. Who is shown as offline is in `contacts_dao.py`.
"""

from jelly import blocks, contacts_dao, invitations
from jelly.blocks import Blocks
from jelly.codec import Type
from jelly.contact_notices import ContactNotices
from jelly.contacts_dao import Standing
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.messages import SUCCESS, response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, Outcome, Write
from jelly.requests import Block, Blocked
from jelly.sessions import Session

MAX_BLOCKED = 1000
"""At most this many people a user blocks."""


class BlockService:
    """The requests about whom the logged-in user has blocked."""

    def __init__(self, in_memory: Blocks, notices: ContactNotices, reading: Reading) -> None:
        self._in_memory = in_memory
        self._notices = notices
        self._reading = reading

    def block(self, session: Session, request: Block) -> Outcome:
        """Block a person, or end that. To do it twice changes nothing."""
        username, person, blocked = request
        if person == username:
            raise Refused(ErrorCode.MALFORMED_BODY, "You cannot block yourself.")

        def in_transaction(dao: Dao) -> bool | None:
            """Return whether the person sees from now on when the user is online; None if nothing
            has changed.
            """
            is_blocked = is_valid_name(person) and blocks.is_blocked(dao, username, person)
            if not is_blocked and not (is_valid_name(person) and dao.has_user(person)):
                raise Refused(ErrorCode.NO_SUCH_USER)  # (a block of a user who was deleted can be taken back)
            if is_blocked == blocked:
                return None
            if blocked:
                self._add(dao, username, person)
            else:
                blocks.remove(dao, username, person)
            is_shown = contacts_dao.is_shown(dao, person, username) is True
            dao.announce("contact", "blocked", username, person, is_shown)
            return is_shown

        def after_commit(is_shown: bool | None) -> Answer:
            if is_shown is not None:
                self._notices.blocked(username, person, is_shown)
            return Answer(SUCCESS[Type.BLOCK])

        return Write(Type.BLOCK, in_transaction, after_commit)

    def _add(self, dao: Dao, username: str, person: str) -> None:
        """In a transaction: block a person, whose open requests are declined by that. Raises
        Refused.
        """
        if len(blocks.blocked_by(dao, username)) >= MAX_BLOCKED:
            raise Refused(ErrorCode.LIMIT_REACHED, f"You have blocked {MAX_BLOCKED} users, the most possible.")
        blocks.add(dao, username, person)
        self._in_memory.blockers.add(username)  # now: a message in the same transaction must be refused
        invitations.remove_from(dao, username, person)
        if contacts_dao.standing(dao, person, username) is Standing.ASKED:
            contacts_dao.set_standing(dao, person, username, Standing.DECLINED)

    def blocked(self, session: Session, request: Blocked) -> Outcome:
        """Return whom the user has blocked."""
        with self._reading() as dao:
            people = blocks.blocked_by(dao, request.username)
        return Answer(response(Type.BLOCKED, {"username": request.username, "blocked": people}))
