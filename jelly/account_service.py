"""Accounts: REGISTER, UPDATE_PROFILE (a new password, too), OWN_PROFILE, FRIEND_PROFILE.

What a name or a password may be is in `accounts.py`, because the operator's commands need it, too.
Logging in is in `login_service.py`, the friend list in `friend_service.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jelly import accounts, contacts_dao, last_seen, passwords, receipts
from jelly.accounts import check_new_name, check_password
from jelly.addresses import network_of
from jelly.codec import Type
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.last_seen import LastSeen
from jelly.login_guard import LoginGuard
from jelly.messages import response
from jelly.names import fold
from jelly.outcomes import Answer, CpuTask, Outcome, Place, Write
from jelly.password_check import PasswordCheck
from jelly.policy import Policy
from jelly.rate import RateLimit
from jelly.receipts import Receipts
from jelly.requests import PROFILE_LIMITS, FriendProfile, OwnProfile, Register, UpdateProfile
from jelly.session_lifecycle import PASSWORD_CHANGED, SessionLifecycle
from jelly.sessions import Session, Sessions
from jelly.tokens import Tokens

NEEDS_OLD_PASSWORD = "To set a new password, send the old one, too: as 'oldPassword'."
OLD_PASSWORD_WRONG = "The old password is wrong: nothing was changed."


class Entry(NamedTuple):
    """What comes with a new account, in the same transaction."""

    enter: Callable[[Dao], Callable[[], None]]
    """Runs right before the account is added. Raises Refused as long as it has written nothing.
    Returns what runs after the commit."""


class AccountService:
    """The requests that make, change and show accounts."""

    def __init__(
        self,
        policy: Policy,
        reading: Reading,
        guard: LoginGuard,
        password_check: PasswordCheck,
        tokens: Tokens,
        lifecycle: SessionLifecycle,
        sessions: Sessions,
        ends: LastSeen,
        receipts: Receipts,
    ) -> None:
        """`ends`: the ends of sessions that are not written yet."""
        self._sessions = sessions
        self._ends = ends
        self._receipts = receipts
        self._policy = policy
        self._reading = reading
        self._guard = guard
        self._password_check = password_check
        self._tokens = tokens
        self._lifecycle = lifecycle
        self._registrations = RateLimit(policy.registration_rate / 3600, policy.registration_rate)

    def register(self, session: Session, request: Register, entry: Entry | None = None) -> Outcome:
        """Create an account. The connection closes afterwards, also if the request is refused."""
        if not self._policy.is_registration_open:
            raise Refused(ErrorCode.REGISTRATION_CLOSED)
        check_new_name(request.username, ErrorCode.INVALID_USERNAME)
        if fold(request.username) in self._policy.reserved_names:
            raise Refused(ErrorCode.NAME_RESERVED)
        check_password(request.password)

        def in_transaction(dao: Dao) -> Callable[[], None] | None:
            then = entry.enter(dao) if entry is not None else None
            accounts.add(dao, request.username, password_hash)
            return then

        password_hash = ""

        def after_commit(then: Callable[[], None] | None) -> Answer:
            if then is not None:
                then()
            return Answer(response(Type.REGISTER, {"username": request.username}), close=True)

        def hash_then_write() -> Write:
            nonlocal password_hash
            password_hash = self._password_check.hash(request.password)
            return Write(Type.REGISTER, in_transaction, after_commit)

        with self._reading() as dao:
            # `in_transaction` checks this again, but then the expensive hash has been computed.
            accounts.check_is_free(dao, request.username)
        # Only now: a user who tries names that are taken is not held up.
        if self._policy.registration_rate and not self._registrations.try_acquire(network_of(session.address)):
            raise Refused(ErrorCode.TOO_MANY_REGISTRATIONS)
        return CpuTask(hash_then_write, Place.REGISTRATION)

    def check_free(self, dao: Dao, username: str) -> None:
        """Raise Refused if nobody can get this name."""
        accounts.check_is_free(dao, username)

    def update_profile(self, session: Session, request: UpdateProfile) -> Outcome:
        """Change the user's profile or password. A new password revokes all the user's tokens."""
        values: dict[str, str | int] = {}
        for field in PROFILE_LIMITS:
            value = getattr(request, field)
            if value is None:
                continue
            values[field] = value
            if len(value) > PROFILE_LIMITS[field]:
                limit = PROFILE_LIMITS[field]
                raise Refused(ErrorCode.TOO_LONG, f"The field {field!r} may have at most {limit} characters.")

        if request.showSeen is not None and last_seen.FEATURE in session.features:
            values["hides_seen"] = int(not request.showSeen)
        if request.showRead is not None and receipts.FEATURE in session.features:
            values["hides_read"] = int(not request.showRead)

        def in_transaction(dao: Dao) -> None:
            self._update(dao, request.username, values)

        def after_commit(_: None) -> Answer:
            self._switch_receipts(request.username, values)
            return Answer(response(Type.UPDATE_PROFILE))

        if request.password is not None:
            return self._change_password(session, request, values)
        return Write(Type.UPDATE_PROFILE, in_transaction, after_commit) if values else after_commit(None)

    def _update(self, dao: Dao, username: str, values: dict[str, str | int]) -> None:
        """In the transaction: change the profile, and tell other nodes what concerns them."""
        dao.update_user(username, values)
        if "hides_read" in values:
            dao.announce("receipts", username, int(not values["hides_read"]))

    def _switch_receipts(self, username: str, values: Mapping[str, str | int]) -> None:
        """After the commit: if receipts were turned on or off, begin or end to send them."""
        if "hides_read" in values:
            self._receipts.switched(username, are_sent=not values["hides_read"])

    def _change_password(self, session: Session, request: UpdateProfile, values: dict[str, str | int]) -> Outcome:
        """Set a new password, and these values of the profile; end the user's tokens and other
        sessions.

        A token opens a session without the password. So a session must know the old password, too,
        unless it may belong to a client that cannot send it.
        """
        username, password, old_password = request.username, request.password, request.oldPassword
        network = network_of(session.address)
        assert password is not None
        check_password(password)
        with self._reading() as dao:
            stored, noted_at = dao.credentials(username, network)
            needs_old = session.is_modern or (session.resumed and dao.has_been_modern(username))
        if old_password is None and needs_old:
            raise Refused(ErrorCode.WRONG_CREDENTIALS, NEEDS_OLD_PASSWORD)
        is_known = noted_at is not None
        attempt = None if old_password is None else self._guard.attempt(username, network, is_known, exists=True)
        token = passwords.new_token() if session.is_modern else None
        token_hash = None if token is None else passwords.hash_token(token)

        def in_transaction(dao: Dao) -> None:
            if old_password is not None and not (stored and self._password_check.is_current(dao, username, stored)):
                raise Refused(ErrorCode.WRONG_CREDENTIALS, OLD_PASSWORD_WRONG)
            self._update(dao, username, values)
            dao.remove_tokens(username)
            dao.announce("password", username)
            if token_hash is not None:
                self._tokens.store(dao, token_hash, session.device, network)

        def after_commit(_: None) -> Answer:
            if token_hash is not None:
                session.token_hash = token_hash
            self._switch_receipts(username, values)
            self._lifecycle.end_sessions(username, PASSWORD_CHANGED, keep=session)
            return Answer(response(Type.UPDATE_PROFILE, None if token is None else {"token": token}))

        def verify_then_write() -> Outcome:
            if old_password is not None and attempt is not None:
                self._password_check.verify(attempt, old_password, stored, OLD_PASSWORD_WRONG)
            values["password"] = self._password_check.hash(password)
            return Write(Type.UPDATE_PROFILE, in_transaction, after_commit)

        return CpuTask(verify_then_write, Place.KNOWN, attempt)

    def own_profile(self, session: Session, request: OwnProfile) -> Outcome:
        """Return the profile of the logged-in user.

        With the feature `seen`, it says whether friends may know when the user was online last;
        with `read`, whether receipts are sent.
        """
        username, more = request.username, {}
        with self._reading() as dao:
            if last_seen.FEATURE in session.features:
                more["showSeen"] = last_seen.is_shown(dao, username)
            if receipts.FEATURE in session.features:
                more["showRead"] = receipts.are_sent(dao, username)
        return self._profile(Type.OWN_PROFILE, username, **more)

    def friend_profile(self, session: Session, request: FriendProfile) -> Outcome:
        """Return the profile of a friend: only the name until that user has accepted.

        With the feature `seen`, it says when the friend was online last, if that may be known.
        """
        username, friend = request
        with self._reading() as dao:
            is_shown = contacts_dao.is_shown(dao, username, friend)
        if is_shown is None:
            raise Refused(ErrorCode.NOT_FRIENDS)
        if not is_shown:
            return Answer(response(Type.FRIEND_PROFILE, {"username": friend}))
        if last_seen.FEATURE not in session.features or self._sessions.is_online(friend):
            return self._profile(Type.FRIEND_PROFILE, friend)
        with self._reading() as dao:
            seen = self._ends.read(dao, username, friend)
        return self._profile(Type.FRIEND_PROFILE, friend, seen=seen)

    def _profile(self, type: Type, username: str, **more: object) -> Answer:
        with self._reading() as dao:
            profile = dao.profile(username)
        return Answer(response(type, {"username": username, **profile, **more}))


def _success_write(
    type: Type, in_transaction: Callable[[Dao], None], values: Mapping[str, Any] | None = None, close: bool = False
) -> Write:
    """Return a write that is answered with SUCCESS and these values."""
    return Write(type, in_transaction, lambda _: Answer(response(type, values), close))
