"""How a user's session begins and ends: logged in, taken over, logged out, closed from here.

Everything here runs in turns of the store (`store.py`), which never overlap. Whether a user may log
in is decided in `login_service.py`. When a connection ends, its reader takes the session out
itself (`connection.py`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from jelly import devices
from jelly.dao import Dao
from jelly.delivery import Delivery
from jelly.devices import Start
from jelly.messages import Event, NoticeForm, system
from jelly.presence import Presence
from jelly.requests import Login, Reconnect
from jelly.sessions import Device, Session, Sessions, Window

FEATURES = (
    "ack",
    "pages",
    "ids",
    "search",
    "roles",
    "find",
    "typing",
    "report",
    "seen",
    "block",
    "contacts",
    "edit",
    "read",
    "account",
    "invites",
    "devices",
)
"""What a client can ask for, in the order in which the response names what it is granted."""
TAKEN_OVER = system(Event.TAKEN_OVER)
PASSWORD_CHANGED = system(Event.PASSWORD_CHANGED)

Friends = list[str] | None
"""The friend list of a modern client; None for a classic client, which gets no presence notices."""


class Newcomer(NamedTuple):
    """A session whose login is being written."""

    session: Session
    username: str
    token_hash: str
    is_classic: bool
    wants_receipts: bool = False
    """Whether its client asks for receipts, and its user sends some (`receipts.py`)."""
    device: str = ""
    """The name of its device; empty if the client has not told it."""

    @property
    def is_pending(self) -> bool:
        """Whether the transaction of this login is still open: it has neither succeeded nor
        failed.
        """
        return self.session.user is None and not self.session.closing


class NodeSessions(Protocol):
    """What a node writes of the sessions that begin there (`cluster/node.py`)."""

    def enter(self, session: Session, device: Device, classic_token: str, wants_receipts: bool) -> str:
        """In the transaction of a login: tell the other nodes. `classic_token`: the hash of the
        token of a classic client, else empty.

        Returns the same of the session that is taken over, wherever it is.
        """

    def end(self, session: Session) -> None:
        """In the transaction of a logout: tell the other nodes."""

    def login_failed(self, device: Device) -> None:
        """The commit of a login was in doubt for too long, and has happened: nobody is logged in by
        it.
        """


class SessionLifecycle:
    """Begins and ends the sessions of users, and tells presence and delivery."""

    def __init__(
        self, sessions: Sessions, presence: Presence, delivery: Delivery, withheld: frozenset[str] = frozenset()
    ) -> None:
        """`withheld`: features that the operator does not want."""
        self._offered = [feature for feature in FEATURES if feature not in withheld]
        self._offered_to_unnamed = [feature for feature in self._offered if feature != devices.FEATURE]
        self.on_login: Callable[[Session], None] = lambda _: None
        """Called when a user has logged in, before anything is delivered to the session."""
        self.node: NodeSessions | None = None
        """If the server is a node of a cluster."""
        self._sessions = sessions
        self._presence = presence
        self._delivery = delivery
        self._logging_in: dict[Device, Newcomer] = {}  # see take_over

    def take_over(self, dao: Dao, newcomer: Newcomer) -> None:
        """Revoke the token of a classic session that this login is about to take over.

        Nobody tells a classic client why its connection ends. So it comes back by its token at
        once, and would throw out the newer login, whose client would do the same, and so on for
        ever. A client that comes back by the same token has lost its connection, and keeps it.
        """
        logging_in, username = self._logging_in, newcomer.username
        device = Device(username, newcomer.device)
        if self.node is not None:
            classic_token = newcomer.token_hash if newcomer.is_classic else ""
            taken_over = self.node.enter(newcomer.session, device, classic_token, newcomer.wants_receipts)
            if taken_over not in ("", newcomer.token_hash):
                dao.remove_token(taken_over, username)
            return
        # Logins in this transaction are not attached yet, so they are remembered here. Those of a
        # transaction that failed lie at the front.
        while logging_in and not (oldest := next(iter(logging_in.values()))).is_pending:
            del logging_in[Device(oldest.username, oldest.device)]
        before = logging_in.pop(device, None)
        logging_in[device] = newcomer
        if before is not None and before.is_pending:
            is_classic, token_hash = before.is_classic, before.token_hash
        elif (old := self._sessions.on(device)) is not None:
            is_classic, token_hash = not old.is_modern, old.token_hash
        else:
            return
        if is_classic and token_hash != newcomer.token_hash:
            dao.remove_token(token_hash, username)

    def end_revoked(self, device: Device, token_hash: str) -> None:
        """Close a classic session whose token `take_over` has revoked, for a login that failed.

        (The commit of that login was in doubt for too long.) The session has no successor, but
        without its token it could not come back. So its client learns it now.
        """
        if self.node is not None:
            self.node.login_failed(device)
        old = self._sessions.on(device)
        if old is not None and not old.is_modern and old.token_hash != token_hash:
            old.closing = True
            old.transport.close()

    def attach(
        self, session: Session, request: Login | Reconnect, token_hash: str, friends: Friends, start: Start
    ) -> list[str] | None:
        """Log a user in on a session; return the granted features (None for a classic client).

        It runs in a turn of the store, and turns never overlap. So no message is stored while it
        runs: each message is either in the inbox or pushed to this session.
        """
        device = device_of(request)
        self._logging_in.pop(device, None)
        features = _grant_features(
            session, request.features, self._offered if device.name else self._offered_to_unnamed
        )
        session.token_hash = token_hash
        session.device = device
        session.gap = start.gap
        session.user = request.username
        old = self._sessions.attach(session)
        if old is not None:
            _end(old, TAKEN_OVER)
        if session.transport.is_closed:
            # The reader found no session to detach, because it saw the connection end before this.
            self._sessions.detach(session)
        self._presence.user_logged_in(request.username, friends)
        self.on_login(session)
        self._delivery.begin(session, start.since)
        return features

    def session_moved(self, session: Session) -> None:
        """The user of a session has logged in at another node."""
        _end(session, TAKEN_OVER)
        self._sessions.detach(session)

    def log_out_in_transaction(self, session: Session) -> None:
        """Write that a user logs out."""
        if self.node is not None:
            self.node.end(session)

    def log_out(self, session: Session, user: str) -> None:
        """End the session of a user who logs out. Its connection stays open for now."""
        self._sessions.detach(session)  # now: the client may take long to close
        self._presence.refresh(user)

    def end_sessions(self, user: str, closing_frame: bytes, keep: Session | None = None, login: str = "") -> None:
        """End all sessions of a user but one; or only that of a login, which begins like the hash
        of its token.

        Modern clients get the closing frame, which says why.
        """
        for session in self._sessions.of(user, ()):
            if session is not keep and session.token_hash.startswith(login):
                _end(session, closing_frame)
                self._sessions.detach(session)
        self._presence.refresh(user)


def device_of(request: Login | Reconnect) -> Device:
    """The device of a login: one with a name, if the client asks for the feature, and tells it."""
    has_name = request.device is not None and devices.FEATURE in (request.features or ())
    return Device(request.username, request.device or "" if has_name else "")


def _end(session: Session, closing_frame: bytes) -> None:
    """Serve nothing more on a session, and close its connection.

    A modern client gets the closing frame before. A classic one would not understand it.
    """
    session.closing = True
    if session.is_modern:
        session.transport.finish(closing_frame)
    else:
        session.transport.close()


def _grant_features(session: Session, asked: Sequence[str] | None, offered: Sequence[str]) -> list[str] | None:
    """Make a session modern if its request has the key `features`; return the granted ones.

    `asked` is None for a classic client. An empty list makes a session modern, too.
    """
    if asked is None:
        return None
    session.is_modern = True
    granted = [feature for feature in offered if feature in asked]
    session.features = frozenset(granted)
    if "ack" in asked:
        session.transport.stop_confirming()
        session.window = Window()
        session.notice_form = NoticeForm.WITH_ID
    if "edit" in asked:  # an edit says which message it replaces
        session.notice_form = NoticeForm.WITH_ID
    if "ids" in asked:
        session.notice_form = NoticeForm.WITH_TIME
    return granted
