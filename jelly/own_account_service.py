"""One's own account: LOGINS, END_LOGIN, DELETE_ACCOUNT; and how its sessions end from elsewhere.

What else goes after an account was deleted is in `deletion.py`.
"""

from typing import Any

from jelly import account_dao
from jelly.account_dao import ID_LENGTH
from jelly.addresses import network_of
from jelly.codec import Type
from jelly.dao import Dao, Reading
from jelly.devices import Devices
from jelly.errors import ErrorCode, Refused
from jelly.known_users import KnownUsers
from jelly.login_guard import LoginGuard
from jelly.messages import SUCCESS, Event, response, system
from jelly.outcomes import Answer, CpuTask, Outcome, Place, Write
from jelly.password_check import PasswordCheck
from jelly.requests import DeleteAccount, EndLogin, Logins
from jelly.session_lifecycle import SessionLifecycle
from jelly.sessions import Device, Session
from jelly.trusted_clock import TrustedClock

ENDED, DISABLED, DELETED = "ended", "account_disabled", "account_deleted"
"""The values of `reason` in the notice `logged_out`. Part of the protocol: never rename one."""
PASSWORD_WRONG = "The password is wrong: nothing was changed."


class OwnAccountService:
    """The requests about one's own account that few users ever make."""

    def __init__(
        self,
        reading: Reading,
        guard: LoginGuard,
        clock: TrustedClock,
        password_check: PasswordCheck,
        lifecycle: SessionLifecycle,
        known_users: KnownUsers,
        devices: Devices,
    ) -> None:
        self._reading = reading
        self._guard = guard
        self._clock = clock
        self._password_check = password_check
        self._lifecycle = lifecycle
        self._known_users = known_users
        self._devices = devices

    def logins(self, session: Session, request: Logins) -> Outcome:
        """Return the logins of the user whose tokens are valid, the newest first."""
        with self._reading() as dao:
            found = account_dao.logins(dao, request.username, int(self._clock.now() * 1000))
        own = session.token_hash[:ID_LENGTH]
        entries = []
        for each in found:
            entry: dict[str, Any] = {"login": each.id}
            entry |= {"created": each.created} if each.created else {}
            entry |= {"network": each.network} if each.network else {}
            entry |= {"device": each.device} if each.device else {}
            entries.append({**entry, "expires": each.expires, "current": each.id == own})
        return Answer(response(Type.LOGINS, {"username": request.username, "logins": entries}))

    def end_login(self, session: Session, request: EndLogin) -> Outcome:
        """End a login of the user: its token, and its session if there is one."""
        username, id = request
        is_own = id == session.token_hash[:ID_LENGTH]

        def in_transaction(dao: Dao) -> None:
            device = account_dao.end_login(dao, username, id)
            if device is None:
                raise Refused(ErrorCode.INVALID_TOKEN, "You have no such login, or it has ended.")
            dao.announce("ended", username, ENDED, id)
            if device and not account_dao.logins_on(dao, username, device):
                self._devices.forget(dao, Device(username, device))
            if is_own:
                self._lifecycle.log_out_in_transaction(session)

        def after_commit(_: None) -> Answer:
            if is_own:
                self._lifecycle.log_out(session, username)
                return Answer(SUCCESS[Type.END_LOGIN] + _logged_out(ENDED), close=True)
            self.ended(username, ENDED, id)
            return Answer(SUCCESS[Type.END_LOGIN])

        return Write(Type.END_LOGIN, in_transaction, after_commit)

    def delete_account(self, session: Session, request: DeleteAccount) -> Outcome:
        """Delete the account of the user, who must know the password: a token is not enough."""
        username, password = request
        network = network_of(session.address)
        with self._reading() as dao:
            stored, noted_at = dao.credentials(username, network)
        attempt = self._guard.attempt(username, network, noted_at is not None, exists=True)

        def in_transaction(dao: Dao) -> None:
            if not (stored and self._password_check.is_current(dao, username, stored)):
                raise Refused(ErrorCode.WRONG_CREDENTIALS, PASSWORD_WRONG)
            account_dao.delete(dao, username)
            dao.announce("ended", username, DELETED, "")
            self._lifecycle.log_out_in_transaction(session)

        def after_commit(_: None) -> Answer:
            self._lifecycle.log_out(session, username)
            self.ended(username, DELETED)
            return Answer(SUCCESS[Type.DELETE_ACCOUNT] + _logged_out(DELETED), close=True)

        def on_late_commit(_: None) -> None:
            after_commit(None)
            session.transport.close()

        def verify_then_write() -> Outcome:
            self._password_check.verify(attempt, password, stored, PASSWORD_WRONG)
            return Write(Type.DELETE_ACCOUNT, in_transaction, after_commit, on_late_commit)

        return CpuTask(verify_then_write, Place.KNOWN, attempt)

    def ended(self, username: str, reason: str, login: str = "") -> None:
        """End the sessions of a user here, or only that of a login. It runs in a turn of the
        store.
        """
        if reason == DELETED:
            self._known_users.forget(username)
        self._lifecycle.end_sessions(username, _logged_out(reason), login=login)


def _logged_out(reason: str) -> bytes:
    return system(Event.LOGGED_OUT, reason=reason)
