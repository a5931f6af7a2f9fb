"""Logging in and out: LOGIN with a password, RECONNECT with a token, LOGOUT.

Whether the password is right is in `password_check.py`, which tokens are valid in `tokens.py`. What
a login does to the user's sessions is in `session_lifecycle.py`. Accounts are made and changed in
`account_service.py`.
"""

from jelly import account_dao, contacts_dao, last_seen, lists, passwords, receipts
from jelly.addresses import network_of
from jelly.codec import Type
from jelly.dao import Dao, Reading
from jelly.devices import Devices, Start
from jelly.errors import ErrorCode, Refused
from jelly.login_guard import LoginGuard
from jelly.messages import response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, CpuTask, Outcome, Place, Write
from jelly.password_check import PasswordCheck
from jelly.requests import Login, Logout, Reconnect
from jelly.session_lifecycle import Friends, Newcomer, SessionLifecycle, device_of
from jelly.sessions import Session
from jelly.tokens import Tokens
from jelly.trusted_clock import TrustedClock

MAX_KNOWN_ADDRESSES = 32
"""At most this many networks are remembered from which a user has logged in; a new one replaces the
one that was not used for longest."""
ADDRESS_PRECISION = 86_400_000
"""Milliseconds until a login from the same network is noted again: most logins write nothing."""

MAX_REMEMBERED = 64
"""At most this many characters of a name the guard remembers: names that exist are shorter."""


class LoginService:
    """The requests with which a session gets its user, and gives it up."""

    def __init__(
        self,
        reading: Reading,
        guard: LoginGuard,
        clock: TrustedClock,
        password_check: PasswordCheck,
        tokens: Tokens,
        lifecycle: SessionLifecycle,
        devices: Devices,
    ) -> None:
        self._reading = reading
        self._guard = guard
        self._clock = clock
        self._password_check = password_check
        self._tokens = tokens
        self._lifecycle = lifecycle
        self._devices = devices

    def login(self, session: Session, request: Login) -> Outcome:
        """Log in with the password: answer with a new token, then deliver the inbox."""
        username, network = request.username, network_of(session.address)
        _stop_pacing_if_modern(session, request)
        _check_device(request)
        stored = noted_at = None
        if is_valid_name(username):
            with self._reading() as dao:
                stored, noted_at = dao.credentials(username, network)
                self._password_check.learn_costs(dao)
        is_known = noted_at is not None
        # Names that nobody can have are guesses, too. They may be long.
        attempt = self._guard.attempt(username[:MAX_REMEMBERED], network, is_known, exists=stored is not None)

        def verify() -> Outcome:
            verified = self._password_check.verify(attempt, request.password, stored)
            renewed = self._password_check.renewal(request.password, verified)
            return self._issue_token(session, request, verified, renewed, noted_at)

        return CpuTask(verify, Place.KNOWN if is_known else Place.LOGIN, attempt)

    def _issue_token(
        self, session: Session, request: Login, verified: str, renewed: str | None, noted_at: int | None
    ) -> Write:
        """Return the write that stores a new token; after its commit the user is logged in.

        `verified`: the hash that the password was checked against; `renewed`: one of today's cost
        to replace it, if it is an old one. `noted_at`: when a login from this network was last
        noted.
        """
        username, device = request.username, device_of(request)
        token = passwords.new_token()
        token_hash = passwords.hash_token(token)

        def in_transaction(dao: Dao) -> tuple[Friends, Start]:
            if account_dao.is_disabled(dao, username):  # only who knows the password learns it
                raise Refused(ErrorCode.ACCOUNT_DISABLED)
            self._password_check.renew(dao, username, verified, renewed)
            self._lifecycle.take_over(dao, _newcomer(dao, session, request, token_hash))
            self._tokens.store(dao, token_hash, device, network_of(session.address))
            if request.features is not None:
                dao.note_modern_login(username)
            _note_contacts(dao, request)
            now = self._now()
            start = self._devices.enter(dao, device, now)
            last_seen.note(dao, username, now)  # if the server is killed, the end is noted nowhere
            if noted_at is None or noted_at <= now - ADDRESS_PRECISION:
                dao.remember_address(username, network_of(session.address), now, MAX_KNOWN_ADDRESSES)
            return _load_friends(dao, request), start

        def after_commit(begun: tuple[Friends, Start]) -> Answer:
            self._password_check.on_login()
            features = self._lifecycle.attach(session, request, token_hash, *begun)
            return Answer(response(Type.LOGIN, {"username": username, "token": token, "features": features}))

        return Write(
            Type.LOGIN, in_transaction, after_commit, lambda _: self._lifecycle.end_revoked(device, token_hash)
        )

    def reconnect(self, session: Session, request: Reconnect) -> Outcome:
        """Log in with a token, after the connection was lost."""
        token_hash = passwords.hash_token(request.token)
        username, device = request.username, device_of(request)
        _stop_pacing_if_modern(session, request)
        _check_device(request)

        def check(dao: Dao) -> None:
            if self._tokens.owner(dao, token_hash) != device:
                raise Refused(ErrorCode.INVALID_TOKEN)

        def in_transaction(dao: Dao) -> tuple[Friends, Start]:
            check(dao)
            self._tokens.renew(dao, [token_hash])
            if is_first_modern:
                dao.note_modern_login(username)
            _note_contacts(dao, request)
            self._lifecycle.take_over(dao, _newcomer(dao, session, request, token_hash))
            now = self._now()
            last_seen.note(dao, username, now)
            start = self._devices.enter(dao, device, now)
            return _load_friends(dao, request), start

        def after_commit(begun: tuple[Friends, Start]) -> Answer:
            session.resumed = True
            features = self._lifecycle.attach(session, request, token_hash, *begun)
            return Answer(response(Type.RECONNECT, {"username": username, "features": features}))

        with self._reading() as dao:
            check(dao)  # here, too, so that guessed tokens do not occupy the store
            is_first_modern = request.features is not None and not dao.has_been_modern(username)
        return Write(
            Type.RECONNECT, in_transaction, after_commit, lambda _: self._lifecycle.end_revoked(device, token_hash)
        )

    def logout(self, session: Session, request: Logout) -> Outcome:
        """Revoke the token of the request and of the session; close without a response."""
        hashes = {passwords.hash_token(request.token), session.token_hash}

        def in_transaction(dao: Dao) -> None:
            for token_hash in hashes:
                dao.remove_token(token_hash, request.username)
            last_seen.note(dao, request.username, self._now())
            self._lifecycle.log_out_in_transaction(session)

        def after_commit(_: None) -> Answer:
            self._lifecycle.log_out(session, request.username)
            return Answer(None, close=True)

        def on_late_commit(_: None) -> None:
            after_commit(None)
            session.transport.close()

        return Write(Type.LOGOUT, in_transaction, after_commit, on_late_commit)

    def _now(self) -> int:
        """The time to note, in milliseconds since 1970."""
        return int(self._clock.latest() * 1000)


def _stop_pacing_if_modern(session: Session, request: Login | Reconnect) -> None:
    """Answer a modern client at once, also if its login is refused: it takes any split of the
    stream.
    """
    if request.features is not None:
        session.transport.stop_pacing()


def _check_device(request: Login | Reconnect) -> None:
    if request.device is not None and not is_valid_name(request.device):
        raise Refused(ErrorCode.MALFORMED_BODY, "The 'device' must have 1 to 32 characters, and no spaces.")


def _load_friends(dao: Dao, request: Login | Reconnect) -> Friends:
    return None if request.features is None else contacts_dao.accepted_friends(dao, request.username, lists.MAX_FRIENDS)


def _newcomer(dao: Dao, session: Session, request: Login | Reconnect, token_hash: str) -> Newcomer:
    """Return the session that is logging in. In the transaction of the login."""
    is_classic = request.features is None
    session.sends_receipts = not is_classic and receipts.are_sent(dao, request.username)
    wants_receipts = session.sends_receipts and receipts.FEATURE in (request.features or ())
    return Newcomer(session, request.username, token_hash, is_classic, wants_receipts, device_of(request).name)


def _note_contacts(dao: Dao, request: Login | Reconnect) -> None:
    """Remember whether the user can be asked from now on."""
    contacts_dao.note_login(dao, request.username, "contacts" in (request.features or ()))
