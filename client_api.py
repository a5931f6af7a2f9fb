"""Jelly's client library: an account in a few lines, for programs with threads.

    from client_api import JellyClient, Receiver

    class Printer(Receiver):
        def on_message(self, event):
            print(event.sender, "wrote:", event.content)

    with JellyClient("127.0.0.1", 20000, receiver=Printer()) as client:
        client.login("alice", "secret1").result()
        client.send_message("bob", "hello").result(timeout=5)

**Every request returns a `concurrent.futures.Future`** at once. `.result(timeout)` waits for the
response, and returns a typed result or raises. `.add_done_callback(function)` calls your function
when the response is there. Each future ends with a result or with one of these errors:

    RequestRejected   The server refused: `error.code` is one of `ErrorCode`. Nothing was done.
    ServerBusy        The server had too much to do. Nothing was done: try again a little later.
    ServerFailed      The server failed. Nobody knows whether the request was carried out. (The
                      original server says so of an unknown receiver, too: see `likely_code`.)
    RequestTimeout    There was no response in time. Nobody knows whether the request was carried
                      out. The client makes a new connection. (Responses have no ids, so a late
                      response would be taken for the response to another request.)
    ConnectionLost    There is no connection. If `error.sent` is False, nothing was done.

All of them are a `RequestError`, which is a `JellyError`; `str(error)` is a sentence to show.
(`.result(timeout)` itself raises TimeoutError when *its* time is up; the request goes on.) In the
descriptions below, "rejected with `code`" means: the future ends with RequestRejected and this
code. Every request may also end with the other errors, and a request that needs a login is rejected
with `not_logged_in` if nobody is logged in.

**Threads.** Any number of threads may use a `JellyClient` at once, and callbacks may, too. Requests
leave in the order of the calls, and a client's requests are answered in that order. (Only a list so
long that it comes in several pages may end after requests that you made later.) A client runs all
your callbacks (methods of the `Receiver` and listeners of futures) on *one* thread of its own, one
after the other, in the order in which things happened, and without holding a lock. So you may call
`.result()` in a callback; a slow callback delays only the callbacks behind it. An exception in a
callback is logged (logger `jelly.client`) and has no other effect. `Future.cancel` works until the
request is sent.

**When the connection is lost**, the client reconnects by itself: `State` lists what can happen, and
`ReconnectPolicy` says when it tries. With several addresses (`jelly://a:20000,b:20000`) it goes to
the next one at once. Messages without a response are sent again then, with the same
*idempotency key* (`requestId`), so that the server stores each once. Their futures wait as long as
the client is RECONNECTING. All other requests without a response end with `ConnectionLost`. (So do
messages to a server that knows no such keys, like the original one.) docs/client.md answers the
questions of people who write bots.
"""

import sys

# Before the other imports: old versions fail at them, and do not say why.
if sys.version_info < (3, 11):  # noqa: UP036
    raise ImportError("client_api needs Python 3.11 or newer, and this is Python %d.%d." % sys.version_info[:2])  # noqa: UP031

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Self

from jelly.client import typing
from jelly.client.addresses import DEFAULT_PORT, Address, AddressList, parse_url
from jelly.client.connection_manager import ConnectionManager
from jelly.client.contacts import FEATURE as CONTACTS
from jelly.client.contacts import (
    FriendRequestEvent,
    FriendRequests,
    InvitationEvent,
    OpenRequests,
    defines_callbacks,
    parse_invitations,
    parse_requests,
)
from jelly.client.conversations import FEATURE as READ_FEATURE
from jelly.client.conversations import Conversation, LastMessage, parse_conversations
from jelly.client.edits import Edited, EditEvent, edit_event, edited
from jelly.client.handshake import Endpoint
from jelly.client.invites import Invite
from jelly.client.invites import invite as to_invite
from jelly.client.logins import OwnLogin, own_logins
from jelly.client.roles import admins_among
from jelly.client.states import Reason, ReconnectPolicy, State
from jelly.codec import Type
from jelly.errors import (
    ConnectionLost,
    ErrorCode,
    JellyError,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
)

__all__ = [
    "ConnectionEvent", "ConnectionLost", "Conversation", "EditEvent", "Edited", "ErrorCode", "FriendRequestEvent",
    "FriendRequests", "Group", "GroupMessageEvent", "History", "InvitationEvent", "Invite", "JellyClient", "JellyError",
    "LastMessage", "Login", "MessageEvent", "OwnLogin", "PastMessage", "Profile", "Reason", "Receiver",
    "ReconnectPolicy",
    "RequestError", "RequestRejected", "RequestTimeout", "Sent", "ServerBusy", "ServerFailed", "State", "SystemEvent",
]  # fmt: skip

FEATURES = (
    "ack",
    "pages",
    "ids",
    "search",
    "roles",
    "find",
    "report",
    "seen",
    "edit",
    "block",
    "read",
    "account",
    "invites",
)
"""What a client asks for, unless you say otherwise. Not `typing`: few programs show that."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY, LAST_DAY = -62_135_510_400_000, 253_402_128_000_000
"""0001-01-02 and 9999-12-30 in milliseconds since 1970: one day inside the limits of `datetime`, so
that both exist in every time zone."""


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """The result of `JellyClient.login` and `JellyClient.resume`."""

    username: str
    token: int = field(repr=False)
    """Logs the user in without the password (`JellyClient.resume`): keep it as secret as the
    password.
    """
    features: tuple[str, ...] = ()
    """The features that the server granted; the original server grants none."""


@dataclass(frozen=True)
class Sent:
    """The result of sending a message: the server has stored it safely for each receiver.

    The receivers may get it later.
    """

    receiver: str
    """The user or the group that you wrote to."""
    time: int
    """When you sent it, by the clock of this machine: milliseconds since 1970."""
    id: int | None = None
    """The server's number for the message, as its receivers get it. None if the server does not
    tell it (an older one, or the original one)."""
    stored: int | None = None
    """When the server stored it, by the server's clock: milliseconds since 1970; None as above. If
    you had sent it before, this is when it was stored first."""


@dataclass(frozen=True)
class Profile:
    """What a user says about himself or herself. A value is None until the user sets it."""

    username: str
    name: str | None = None
    sex: str | None = None
    age: str | None = None
    phone: str | None = None
    address: str | None = None
    introduction: str | None = None
    seen: int | None = None
    """For a friend: when that user was online last, by the server's clock, in milliseconds since
    1970. None if the user is online, does not show it, has neither accepted you nor added you, too,
    or if the server does not tell it."""
    show_seen: bool | None = None
    """For yourself: whether friends may see that of you; None if the server does not tell it."""
    show_read: bool | None = None
    """For yourself: whether you send receipts, and get them; None if the server does not tell
    it."""

    @property
    def seen_at(self) -> datetime | None:
        """The time of `seen` in the local time zone; None if there is none."""
        return None if self.seen is None else _local_time(self.seen)


@dataclass(frozen=True)
class Group:
    """A group that you are a member of."""

    name: str
    members: tuple[str, ...]
    """The names of the members, the owner first."""
    admins: tuple[str, ...] = ()
    """Those who may add members, and remove plain ones, as the owner may. Empty if the server knows
    no roles (an older one, or the original one)."""

    @property
    def owner(self) -> str:
        """The user who may do everything in the group: its creator, until they pass it on."""
        return self.members[0]

    @property
    def creator(self) -> str:
        """The same as `owner`, for programs that were written before groups could be passed on."""
        return self.members[0]


# --- what arrives ---------------------------------------------------------------------------------


def _local_time(ms: int) -> datetime:
    return (EPOCH + timedelta(milliseconds=min(max(ms, FIRST_DAY), LAST_DAY))).astimezone()


class _Timed:
    """Anything with a time in milliseconds."""

    time: int

    @property
    def written_at(self) -> datetime:
        """`time` as a `datetime` in the local time zone.

        A number outside the calendar gives the first or the last date.
        """
        return _local_time(self.time)


@dataclass(frozen=True)
class PastMessage(_Timed):
    """A message from `JellyClient.history`, `JellyClient.group_history` or `JellyClient.search`."""

    sender: str
    receiver: str
    """The user or the group that the sender wrote to."""
    content: str
    time: int
    """When it was written, by the sender's clock: milliseconds since 1970."""
    id: int
    """The server's number for the message, the same as in the event when it arrived. Later messages
    have greater ids."""
    stored: int | None = None
    """When the server stored it, by the server's clock: milliseconds since 1970; None if the server
    does not tell it."""
    group: str | None = None
    """From `search`: the group, if it was written to a group."""
    edited: int | None = None
    """If its author has changed it: the number of the last edit. An empty `content` means then that
    it was recalled."""


@dataclass(frozen=True)
class History:
    """One page of a conversation, or of what a search has found."""

    messages: tuple[PastMessage, ...]
    """The oldest first."""
    more: bool
    """Whether the server has older messages, or has not searched all of them. Get them with
    `before`."""
    before: int | None = None
    """The `before` with which to ask for the next page; None if there is no more."""


@dataclass(frozen=True)
class _Message(_Timed):
    client: "JellyClient" = field(repr=False, compare=False)
    """The client that received it."""
    sender: str
    content: str
    time: int
    """When it was written, by the sender's clock: milliseconds since 1970."""
    id: int | None
    """The server's number for the message. Later messages have greater ids.

    A message that arrives again, in a later run of your program, has the same id. Store the id if
    you must not process a message twice. None if the server grants no acknowledgements (the
    original one).
    """
    stored: int | None = field(default=None, kw_only=True)
    """When the server stored it, by the server's clock: milliseconds since 1970. None if the server
    does not tell it (an older one, or the original one)."""


@dataclass(frozen=True)
class MessageEvent(_Message):
    """A user wrote to you."""

    def reply(self, content: str) -> "Future[Sent]":
        """Send a message to the sender; see `JellyClient.send_message`."""
        return self.client.send_message(self.sender, content)


@dataclass(frozen=True)
class GroupMessageEvent(_Message):
    """A member wrote to a group that you are a member of."""

    group: str

    def reply(self, content: str) -> "Future[Sent]":
        """Send a message to the same group; see `JellyClient.send_group_message`."""
        return self.client.send_group_message(self.group, content)


@dataclass(frozen=True)
class SystemEvent:
    """A notice from the server itself. The original server sends none."""

    client: "JellyClient" = field(repr=False, compare=False)
    event: str
    """`presence`, `friend_answer`, `group_changed`, `group_disbanded`, `inbox_full`, `typing`,
    `read`, `delivered`, `taken_over`, `password_changed`, `logged_out` or `shutdown`. Later servers
    may send others."""
    user: str = ""
    """For `typing`: who is writing a message; for `read` and `delivered`: who has read messages, or
    got them."""
    friend: str = ""
    """For `presence`: the friend who came online or went offline. For `friend_answer`: the user who
    answers."""
    accepted: bool = False
    """For `friend_answer`: whether the user has accepted."""
    online: bool = False
    """For `presence`: whether the friend is online now."""
    group: str = ""
    """For `group_changed` and `group_disbanded`: the name of the group. For `typing`: the group in
    which the message is going to be; empty if it is for you."""
    members: tuple[str, ...] = ()
    """For `group_changed`: the members now, the owner first. (Who changed what is in `values`:
    `changes`.)"""
    roles: Mapping[str, str] = field(default_factory=dict)
    """For `group_changed`: `owner` and `admin`, by the names of those members."""
    id: int | None = None
    """For `read` and `delivered`: the id up to which all messages to `user`, or in `group`, were
    read, or have arrived."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """For `inbox_full`: each group of which messages were left out of your inbox, with the id of
    the first one. `group_history` has them."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Everything in the notice, by the names of the protocol."""


@dataclass(frozen=True)
class ConnectionEvent:
    """The state of a client has changed. `State` lists all changes, and what to do."""

    client: "JellyClient" = field(repr=False, compare=False)
    previous: State
    state: State
    reason: Reason
    error: Exception | None = None
    """What broke the connection or refused the login; None if there is no error."""
    address: str = ""
    """The server (`host:port`) in use, or the one that was lost. With CONNECTING: the first one to
    try."""


class Receiver:
    """Gets what arrives. Override the methods that you need.

    The client calls each method with one event, on its callback thread.
    """

    def on_message(self, event: MessageEvent) -> None:
        """A user wrote to you."""

    def on_group_message(self, event: GroupMessageEvent) -> None:
        """A member wrote to one of your groups."""

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        """A user asks to have you on the friend list: now, or while you were offline.

        If your receiver has neither this method nor the next, nobody asks: who adds you sees your
        profile, and when you are online.
        """

    def on_invitation(self, event: InvitationEvent) -> None:
        """A user asks you to become a member of a group: now, or while you were offline.

        If your receiver has neither this method nor the one before, nobody asks: you are a member.
        """

    def on_edit(self, event: EditEvent) -> None:
        """An author has changed the text of a message that you have got, or has recalled it."""

    def on_system(self, event: SystemEvent) -> None:
        """The server tells you something: a friend came or went, a group changed."""

    def on_connection(self, event: ConnectionEvent) -> None:
        """The state of the connection has changed."""


# --- the client -----------------------------------------------------------------------------------


class JellyClient:
    """One account on one server, or on several that share one database.

    The constructor does not connect; `login` does. It raises nothing but ValueError, if `addresses`
    are no pairs. Use the client as a context manager, or call `close`. The parameters:

    - `host`, `port`: the address of the server.
    - `addresses`: several addresses, as pairs of host and port, instead of `host` and `port`. The
      servers must share one database. The client tries them in a random order until one works,
      keeps that one, and goes to the next one when its connection is lost. (`from_url` reads them
      from a URL.)
    - `receiver`: gets what arrives; by default nothing does.
    - `reconnect`: when to reconnect after the connection is lost; False: never.
    - `tls`: True for TLS with the system's certificates, or your own `ssl.SSLContext`.
    - `connect_timeout`: at most this many seconds to open a connection, by default 10. With several
      addresses: for each, by default 5; a server that owes a response and does nothing for this
      long, not even on a second connection, is left, too.
    - `request_timeout`: at most this many seconds from when a request is sent until its response.
    - `heartbeat`: seconds without sending until the client sends a heartbeat. The server closes a
      connection that is silent for 30 seconds.
    - `features`: the features that the client asks for. `()` makes it a classic client, like the
      original one: the server tells it nothing of presence and takeovers, and messages may arrive
      twice. If your receiver defines `on_friend_request` or `on_invitation`, it asks for
      `contacts`, too.
    - `accept_all`: accept every friend request and invitation at once, without a `Receiver`: for
      bots.
    - `max_body`: at most this many bytes in the body of a request. The server closes the connection
      if a body is larger than the server allows.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        receiver: Receiver | None = None,
        reconnect: ReconnectPolicy | bool = True,
        tls: SSLContext | bool = False,
        connect_timeout: float | None = None,
        request_timeout: float = 30.0,
        heartbeat: float = 5.0,
        features: Sequence[str] = FEATURES,
        max_body: int = 65536,
        addresses: Sequence[tuple[str, int]] = (),
        accept_all: bool = False,
    ) -> None:
        self.receiver = receiver if receiver is not None else Receiver()
        self._typing_pace = typing.TypingPace()
        self._features, self._accept_all = tuple(features), accept_all
        self._open_requests, self._open_invitations = OpenRequests(), OpenRequests()
        servers = AddressList(map(_address, addresses or [(host, port)]))
        if connect_timeout is None:
            connect_timeout = 5.0 if servers.has_others else 10.0
        self._manager = ConnectionManager(
            Endpoint(
                servers, create_default_context() if tls is True else tls or None, connect_timeout, request_timeout
            ),
            policy=ReconnectPolicy() if reconnect is True else reconnect or None,
            heartbeat=heartbeat,
            features=self._features,
            max_body=max_body,
            on_notice=self._on_notice,
            on_change=self._on_change,
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Make a client for `jelly://host:port`, or `jellys://host:port` with TLS.

        Several addresses stand behind one another, with commas: `jelly://a:20000,b:20000`. Without
        a port it is 20000. An IPv6 address has brackets: `jelly://[::1]:20000`. The options are
        those of the constructor. Raises ValueError with a sentence if the URL has another form.

        >>> client = JellyClient.from_url("jelly://chat.example.org:20001", reconnect=False)
        >>> client = JellyClient.from_url("jelly://one.example.org,two.example.org:20001")
        """
        addresses, has_tls = parse_url(url)
        if has_tls:
            options.setdefault("tls", True)
        if len(addresses) > 1:
            options["addresses"] = addresses
        return cls(*addresses[0], **options)

    # --- connecting -------------------------------------------------------------------------------

    def register(self, username: str, password: str, *, invite: str | None = None) -> "Future[str]":
        """Create an account. The result is its name.

        This uses a connection of its own and does not log in. You may call it in any state except
        CLOSED. Rejected with `username_taken`, `name_reserved`, `invalid_username`,
        `invalid_password`; with `registration_closed` if only the operator makes accounts, and with
        `too_many_registrations` if too many came from your address. `invite`: the code of an
        invitation, where the server wants one (`invite_needed`, `invalid_invite`); if it is for a
        group, you are a member then.

        >>> client.register("dora", "secret4").result(timeout=10)
        'dora'
        """
        values = {"username": username, "password": password}
        if invite is not None:
            values["invite"] = invite
        return self._manager.register(values, lambda values: str(values.get("username", username)))

    def login(self, username: str, password: str) -> "Future[Login]":
        """Connect and log in. Afterwards your receiver gets the messages that waited for you.

        Rejected with `wrong_credentials`, `too_many_attempts`; with `already_logged_in` unless the
        client is OFFLINE. ConnectionLost if the server cannot be reached: the client tries each
        address once, because it reconnects only after a login has succeeded.

        >>> client.login("alice", "secret1").result(timeout=10).features[:3]
        ('ack', 'pages', 'ids')
        """
        self._manager.features = self._features_to_ask_for()
        return self._manager.login(Type.LOGIN, username, {"username": username, "password": password}, _login)

    def resume(self, username: str, token: int) -> "Future[Login]":
        """Connect and log in with the token of an earlier `login`, also of another process.

        Rejected with `invalid_token` if the token has expired (after 7 days by default), or if a
        logout or a new password has ended it; otherwise as `login`.

        >>> client.resume("alice", saved_token).result(timeout=10).username
        'alice'
        """
        self._manager.features = self._features_to_ask_for()
        values = {"username": username, "token": token}
        return self._manager.login(Type.RECONNECT, username, values, lambda v: _login({**v, "token": token}))

    def _features_to_ask_for(self) -> tuple[str, ...]:
        """A client that does not answer requests must not make others wait for an answer."""
        asks = bool(self._features) and CONTACTS not in self._features and self._takes_requests
        return (*self._features, CONTACTS) if asks else self._features

    @property
    def _takes_requests(self) -> bool:
        return self._accept_all or defines_callbacks(self.receiver, Receiver)

    def logins(self) -> "Future[tuple[OwnLogin, ...]]":
        """List your logins whose tokens are valid, the newest first.

        Rejected with `unknown_type` if the server does not grant the feature `account`.

        >>> client.logins().result(timeout=5)[0].is_current
        True
        """
        return self._manager.request(Type.LOGINS, {}, own_logins, feature="account")

    def end_login(self, login: str) -> "Future[None]":
        """End one of your logins: its token is not valid any more, and its session ends.

        `login`: the `id` of an `OwnLogin`. Rejected with `invalid_token` if there is none.

        >>> oldest = client.logins().result(timeout=5)[-1]
        >>> client.end_login(oldest.id).result(timeout=5)
        """
        return self._manager.request(Type.END_LOGIN, {"login": login}, _nothing, feature="account")

    def delete_account(self, password: str) -> "Future[None]":
        """Delete your account. Nobody can undo that, and nobody gets your name again.

        Messages that you wrote stay with those who have them. You leave your groups; those that you
        own get another owner. Afterwards the client is OFFLINE. Rejected with `wrong_credentials`,
        and with `too_many_attempts` if the password was wrong too often.

        >>> client.delete_account("secret1").result(timeout=5)
        """
        return self._manager.request(Type.DELETE_ACCOUNT, {"password": password}, _nothing, feature="account")

    def logout(self) -> "Future[None]":
        """End the session and its token. Afterwards the client is OFFLINE and may log in again.

        ConnectionLost if the connection is lost before the server has closed it: then the token may
        still be valid.

        >>> client.logout().result(timeout=10)
        """
        return self._manager.logout()

    def close(self, timeout: float = 5.0) -> None:
        """End the connection and the client's threads. The session's token stays valid.

        Waits at most `timeout` seconds for the responses to your requests, and until your receiver
        has processed everything that has arrived; it may still reply. Requests without a response
        then end with ConnectionLost. In a callback, `close` does not wait for the callbacks behind
        this one. You may call it again.
        """
        self._manager.close(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client is OFFLINE or CLOSED; return whether it is.

        Waits at most `timeout` seconds (None: without limit). The main thread of a bot waits here,
        until a logout, a takeover or a refused token, for example. `Receiver.on_connection` gets
        the reason.
        """
        return self._manager.wait(timeout)

    def wait_until_online(self, timeout: float | None = None) -> bool:
        """Wait while the client is CONNECTING or RECONNECTING.

        Waits at most `timeout` seconds (None: without limit). Returns whether the client is ONLINE.
        Call this after a ConnectionLost with `sent=False`, and then send again.

        >>> client.wait_until_online(timeout=10)
        True
        """
        return self._manager.wait_until_online(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> State:
        """The state now. It may change at any moment."""
        return self._manager.state

    @property
    def username(self) -> str | None:
        """The user who is logged in, also while the client is RECONNECTING; None if nobody is."""
        return self._manager.username

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the servers (`host:port`), in this client's order of trying them."""
        return self._manager.addresses

    @property
    def address(self) -> str | None:
        """The address in use (`host:port`); None unless the client is ONLINE."""
        return self._manager.address

    @property
    def token(self) -> int | None:
        """The token of the session, as `Login.token`; None if nobody is logged in.

        A new password brings a new one (`update_profile`).
        """
        return self._manager.token

    # --- messages ---------------------------------------------------------------------------------

    def send_message(self, receiver: str, content: str) -> "Future[Sent]":
        """Send a message to a user, online or not.

        The result means: the server has stored the message safely, and once, even if the connection
        was lost meanwhile. If you send more than the server takes, the client waits, and the result
        comes later. Rejected with `no_such_user`; with `not_accepted`, if the user has blocked you;
        with `inbox_full`, if too much waits for the user; with `limit_reached`, if too many of your
        messages wait for others; with `too_long`, before it is sent, if its body has more than
        `max_body` bytes.

        >>> client.send_message("bob", "hello").result(timeout=5).receiver
        'bob'
        """
        return self._send(Type.PERSON_MESSAGE, receiver, content)

    def send_group_message(self, group: str, content: str) -> "Future[Sent]":
        """Send a message to all other members of a group.

        Rejected with `no_such_group`, `not_a_member`; otherwise as `send_message`.

        >>> client.send_group_message("team", "hello everybody").result(timeout=5).receiver
        'team'
        """
        return self._send(Type.GROUP_MESSAGE, group, content)

    def _send(self, type: Type, receiver: str, content: str) -> "Future[Sent]":
        now = int(time.time() * 1000)
        values = {"receiver": receiver, "content": content, "time": now}
        return self._manager.request(
            type, values, lambda found: Sent(receiver, now, _number(found, "id"), _number(found, "stored"))
        )

    def typing(self, person: str) -> None:
        """Tell a user that you are writing a message. Call it at every key, if you like.

        Nothing is stored or answered, and nothing is raised. At most one notice goes out in 3
        seconds, and only if you asked for the feature `typing` and the server granted it. The user
        is told if you are on each other's friend lists: as the system event `typing`, which also
        needs the feature. Show it for some 6 seconds, or until the message comes.

        >>> client.typing("bob")
        """
        self._tell_typing({"person": person})

    def group_typing(self, group: str) -> None:
        """Tell the members of a group that you are writing; otherwise as `typing`.

        In groups of more than 100 members nobody is told.

        >>> client.group_typing("team")
        """
        self._tell_typing({"groupName": group})

    def _tell_typing(self, values: Mapping[str, Any]) -> None:
        if self._typing_pace.is_due():
            with contextlib.suppress(RequestError):  # a name that no request can have
                self._manager.tell(Type.TYPING, values, typing.FEATURE)

    def edit(self, id: int, content: str) -> "Future[Edited]":
        """Change the text of a message that you have sent, within 15 minutes.

        `id`: the message, as in `Sent.id` or `PastMessage.id`. Who has got it is told
        (`Receiver.on_edit`, if the client of the receiver knows edits); everybody else gets the new
        text only. Rejected with `no_such_message`, if you have written no such message, or have
        recalled it; with `too_late`; with `unknown_type` if the server knows no edits; otherwise as
        the message itself would be.

        >>> sent = client.send_message("bob", "helo").result(timeout=5)
        >>> client.edit(sent.id, "hello").result(timeout=5).original == sent.id
        True
        """
        return self._manager.request(
            Type.EDIT, {"id": id, "content": content}, lambda values: edited(id, values), feature="edit"
        )

    def recall(self, id: int) -> "Future[Edited]":
        """Take back a message that you have sent, within 15 minutes: its text is erased.

        Otherwise as `edit`.

        >>> sent = client.send_message("bob", "oops").result(timeout=5)
        >>> client.recall(sent.id).result(timeout=5).original == sent.id
        True
        """
        return self.edit(id, "")

    def history(self, person: str, *, before: int | None = None, limit: int = 50) -> "Future[History]":
        """Read back the newest `limit` messages (at most 100) that you and a user exchanged.

        `before`: the id of a message; then the result has the messages before it. Messages that the
        server has not sent to this client yet are left out. Rejected with `no_such_user`; with
        `unknown_type` if the server keeps no history, like the original one.

        >>> client.history("bob").result(timeout=5)
        History(messages=(), more=False, before=None)
        """
        return self._history({"person": person, "before": before, "limit": limit})

    def group_history(self, group: str, *, before: int | None = None, limit: int = 50) -> "Future[History]":
        """Read back what was written to a group since you became a member; otherwise as `history`.

        Rejected with `no_such_group`, `not_a_member`.

        >>> client.group_history("team").result(timeout=5).more
        False
        """
        return self._history({"groupName": group, "before": before, "limit": limit})

    def _history(self, values: Mapping[str, Any]) -> "Future[History]":
        return self._manager.request(Type.HISTORY, values, _page, feature="ack")

    def conversations(self) -> "Future[tuple[Conversation, ...]]":
        """List your conversations, that with the newest message first: what came last, and what is
        unread.

        Messages that the server has not sent to this client yet are left out: they arrive later.
        Rejected with `unknown_type` if the server knows no such list.

        >>> client.conversations().result(timeout=5)
        ()
        """
        return self._manager.request(
            Type.CONVERSATIONS, {}, parse_conversations, feature=READ_FEATURE, list_key="conversations"
        )

    def mark_read(self, person: str, id: int) -> bool:
        """Say that you have read what a user and you have written, up to the message with this id.

        The server stores it: `conversations` of all your programs counts what is unread from there.
        Nothing is answered or raised. Returns whether it was sent: False without a connection, or
        if the server does not know how. Call it with the id of the last message that was shown.

        >>> client.mark_read("bob", 1838557699418115)
        True
        """
        return self._mark_read({"id": id, "person": person})

    def mark_group_read(self, group: str, id: int) -> bool:
        """Say that you have read what was written to a group; otherwise as `mark_read`.

        >>> client.mark_group_read("team", 1838557699418115)
        True
        """
        return self._mark_read({"id": id, "groupName": group})

    def _mark_read(self, values: Mapping[str, Any]) -> bool:
        try:
            return self._manager.tell(Type.READ, values, READ_FEATURE)
        except RequestError:  # a name that no request can have
            return False

    def search(
        self,
        text: str,
        *,
        person: str | None = None,
        group: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> "Future[History]":
        """Find the newest `limit` messages (at most 100) that contain a text, in either case.

        They are in the conversation with a user (`person`), in a `group`, or in all conversations
        and groups that you have. A request looks at about 20,000 messages: while the result has
        `more`, ask again with its `before`. Rejected with `no_such_user`, `no_such_group`,
        `not_a_member`; with `malformed_body` if the text is empty or has more than 100 characters;
        with `unknown_type` if the server cannot search.

        >>> client.search("lunch", person="bob").result(timeout=5)
        History(messages=(), more=False, before=None)
        """
        values = {"text": text, "person": person, "groupName": group, "before": before, "limit": limit}
        return self._manager.request(Type.SEARCH, values, _page, feature="search")

    # --- friends and profiles ---------------------------------------------------------------------

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
        return self._manager.request(Type.ANSWER_FRIEND, values, _nothing, feature=CONTACTS)

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
        return self._manager.request(Type.REPORT, values, _nothing, feature="report")

    def remove_friend(self, friend: str) -> "Future[None]":
        """Remove a user from your friend list. Rejected with `not_friends`.

        >>> client.remove_friend("bob").result(timeout=5)
        """
        return self._manager.request(Type.REMOVE_FRIEND, {"friend": friend}, _nothing)

    def block(self, person: str) -> "Future[None]":
        """Block a user, who from now on cannot write to you, ask you, add you to groups, or see
        when you are online. To block twice changes nothing.

        The user's messages to your common groups arrive all the same, because all members get the
        same messages: do not show them. Rejected with `no_such_user`, `limit_reached`.

        >>> client.block("carol").result(timeout=5)
        """
        return self._manager.request(Type.BLOCK, {"person": person, "blocked": True}, _nothing, feature="block")

    def unblock(self, person: str) -> "Future[None]":
        """End a block; otherwise as `block`.

        >>> client.unblock("carol").result(timeout=5)
        """
        return self._manager.request(Type.BLOCK, {"person": person, "blocked": False}, _nothing, feature="block")

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

    def own_profile(self) -> "Future[Profile]":
        """Get your own profile.

        >>> client.own_profile().result(timeout=5).username
        'alice'
        """
        return self._manager.request(Type.OWN_PROFILE, {}, _profile)

    def friend_profile(self, friend: str) -> "Future[Profile]":
        """Get the profile of a user on your friend list. Rejected with `not_friends`.

        >>> client.friend_profile("bob").result(timeout=5).name
        'Robert'
        """
        return self._manager.request(Type.FRIEND_PROFILE, {"friend": friend}, _profile)

    def update_profile(
        self,
        *,
        password: str | None = None,
        old_password: str | None = None,
        name: str | None = None,
        sex: str | None = None,
        age: str | None = None,
        phone: str | None = None,
        address: str | None = None,
        introduction: str | None = None,
        show_seen: bool | None = None,
        show_read: bool | None = None,
    ) -> "Future[None]":
        """Change your profile or your password. Values that are None stay as they are.

        `show_seen`: whether friends may see when you were online last. (The server ignores it if it
        does not know the feature `seen`.) `show_read`: whether others are told what has reached you
        and what you have read; if not, you are not told, either. (The same with `read`.)

        A new `password` needs the present one as `old_password`. It ends all your tokens, and your
        other sessions with `Reason.PASSWORD_CHANGED`. This session goes on with a new `token`. (The
        original server gives no new token: if this connection is lost, the client goes OFFLINE with
        `Reason.TOKEN_REFUSED`.)

        Rejected with `too_long`, `invalid_password`; with `wrong_credentials` if the old password
        is wrong or missing, and with `too_many_attempts` if it was wrong too often.

        >>> client.update_profile(name="Alice", address="Paris").result(timeout=5)
        >>> client.update_profile(password="secret9", old_password="secret1").result(timeout=5)
        """
        values = {
            "password": password, "oldPassword": old_password, "name": name, "sex": sex, "age": age, "phone": phone,
            "address": address, "introduction": introduction, "showSeen": show_seen,
            "showRead": show_read,
        }  # fmt: skip
        return self._manager.request(Type.UPDATE_PROFILE, values, self._manager.keep_token)

    # --- groups -----------------------------------------------------------------------------------

    def create_group(self, group: str) -> "Future[None]":
        """Create a group. You are its owner and first member.

        Rejected with `group_exists`, `invalid_group_name`.

        >>> client.create_group("choir").result(timeout=5)
        """
        return self._manager.request(Type.CREATE_GROUP, {"groupName": group}, _nothing)

    def disband_group(self, group: str) -> "Future[None]":
        """Disband a group that you own. Rejected with `no_such_group`, `not_group_creator`.

        >>> client.disband_group("team").result(timeout=5)
        """
        return self._manager.request(Type.DISBAND_GROUP, {"groupName": group}, _nothing)

    def add_member(self, group: str, member: str) -> "Future[bool]":
        """Add a user to a group that you own, or are an admin of; or ask that user first.

        The result is True if the user is a member now, and False if the user was invited. (A client
        without the feature `contacts` is not told: the result is True.) `remove_member` withdraws
        an invitation. Rejected with `no_such_group`, `not_group_creator`, `no_such_user`,
        `already_member`, `not_accepted`, `limit_reached`.

        >>> client.add_member("team", "carol").result(timeout=5)
        True
        """
        values = {"groupName": group, "member": member}
        return self._manager.request(Type.ADD_MEMBER, values, lambda found: found.get("pending") is not True)

    def answer_group(self, group: str, accept: bool = True) -> "Future[None]":
        """Become a member of a group to which you are invited, or decline that.

        Rejected with `not_asked`, `limit_reached`; with `unknown_type` unless the server grants
        `contacts` to this client (`Receiver.on_invitation`).

        >>> client.answer_group("club2", accept=True).result(timeout=5)
        """
        values = {"groupName": group, "accept": accept}
        return self._manager.request(Type.ANSWER_GROUP, values, _nothing, feature=CONTACTS)

    def invitations(self) -> "Future[dict[str, str]]":
        """List the groups to which you are invited, each with the user who invites you: at most
        100, the newest first. Rejected like `answer_group`.

        >>> client.invitations().result(timeout=5)
        {'club2': 'carol'}
        """
        return self._manager.request(Type.OWN_GROUPS, {}, parse_invitations, feature=CONTACTS, list_key="groups")

    def remove_member(self, group: str, member: str) -> "Future[None]":
        """Remove a member from a group that you own, or a plain member if you are an admin.

        (To leave a group, call `leave_group`.) Rejected with `no_such_group`, `not_group_creator`,
        `not_a_member`.

        >>> client.remove_member("team", "bob").result(timeout=5)
        """
        return self._manager.request(Type.REMOVE_MEMBER, {"groupName": group, "member": member}, _nothing)

    def leave_group(self, group: str) -> "Future[None]":
        """Leave a group.

        Rejected with `not_a_member`; with `creator_cannot_leave` if you own it: pass it on first
        (`set_role`), or disband it.

        >>> client.leave_group("club").result(timeout=5)
        """
        return self.remove_member(group, self.username or "")

    def set_role(self, group: str, member: str, role: str) -> "Future[None]":
        """Make a member of a group that you own an `admin`, a plain `member`, or the `owner`.

        Admins add members, and remove plain ones. There is one owner: with `owner` you pass the
        group on, stay in it as an admin, and may leave it then. As an admin you may make yourself a
        `member`. A member who has the role already keeps it.

        Rejected with `no_such_group`, `not_group_creator`, `not_a_member`; with
        `creator_cannot_leave` if you would take the role from yourself as the owner; with
        `limit_reached` if the new owner owns 100 groups; with `malformed_body` for another role;
        with `unknown_type` if the server knows no roles.

        >>> client.set_role("team", "bob", "admin").result(timeout=5)
        """
        values = {"groupName": group, "member": member, "role": role}
        return self._manager.request(Type.SET_ROLE, values, _nothing, feature="roles")

    def invite(self, group: str | None = None, *, uses: int = 1, hours: int = 24) -> "Future[Invite]":
        """Make a code with which others join a group that you may add members to.

        Without `group` it is good for an account, where the server wants an invitation for one. It
        can be used `uses` times (at most 100), for `hours` (at most 720). Rejected with
        `no_such_group`, `not_group_creator`, `registration_closed`; with `limit_reached` if 20 of
        your invitations are valid; with `unknown_type` if the server has no invitations.

        >>> code = client.invite("team", uses=5).result(timeout=5).code
        """
        values = {"groupName": group, "uses": uses, "hours": hours}
        return self._manager.request(Type.INVITE, values, to_invite, feature="invites")

    def join(self, code: str) -> "Future[str]":
        """Join the group of an invitation; the result is the name of the group.

        Rejected with `invalid_invite`, `already_member`, `limit_reached`.

        >>> client.join(code).result(timeout=5)
        'crew'
        """
        return self._manager.request(
            Type.JOIN, {"code": code}, lambda values: _text(values["groupName"]), feature="invites"
        )

    def list_groups(self) -> "Future[dict[str, Group]]":
        """List the groups that you are a member of. The result maps each name to its `Group`.

        >>> client.list_groups().result(timeout=5)["team"].members
        ('alice', 'bob')
        """
        return self._manager.request(Type.OWN_GROUPS, {}, _groups, list_key="groups")

    # --- what arrives, on the callback thread -----------------------------------------------------

    def _on_notice(self, type: int, values: Mapping[str, Any]) -> Callable[[], None]:
        """Return the function to call for a notice.

        Raises LookupError or TypeError if the notice is malformed.
        """
        if type in (Type.PERSON_MESSAGE, Type.GROUP_MESSAGE) and "replaces" in values:
            edit = edit_event(self, type == Type.GROUP_MESSAGE, values)
            return lambda: self.receiver.on_edit(edit)
        if type == Type.PERSON_MESSAGE:
            message = MessageEvent(self, *_message(values), stored=_number(values, "stored"))
            return lambda: self.receiver.on_message(message)
        if type == Type.GROUP_MESSAGE:
            group_message = GroupMessageEvent(
                self, *_message(values), group=_text(values["receiver"]), stored=_number(values, "stored")
            )
            return lambda: self.receiver.on_group_message(group_message)
        if type == Type.SYSTEM and values["event"] == "friend_request":
            request = FriendRequestEvent(self, _text(values["friend"]))
            return lambda: self._on_friend_request(request)
        if type == Type.SYSTEM and values["event"] == "group_invitation":
            invitation = InvitationEvent(self, _text(values["group"]), _text(values["user"]))
            return lambda: self._on_invitation(invitation)
        if type == Type.SYSTEM:
            system = _system_event(self, values)
            return lambda: self.receiver.on_system(system)
        raise LookupError("there is no notice of this type")

    def _on_change(
        self, previous: State, state: State, reason: Reason, error: Exception | None, address: str
    ) -> Callable[[], None]:
        event = ConnectionEvent(self, previous, state, reason, error, address)

        def changed() -> None:
            if state is State.ONLINE and CONTACTS in self._manager.features:
                self._ask_what_is_open()
            self.receiver.on_connection(event)

        return changed

    def _ask_what_is_open(self) -> None:
        """Fetch what was asked while the user was offline, as far as the receiver takes it."""
        if self._accept_all or defines_callbacks(self.receiver, Receiver, ["on_friend_request"]):
            self.friend_requests().add_done_callback(self._pass_on_requests)
        if self._accept_all or defines_callbacks(self.receiver, Receiver, ["on_invitation"]):
            self.invitations().add_done_callback(self._pass_on_invitations)

    def _pass_on_requests(self, future: "Future[FriendRequests]") -> None:
        """Give the application what was asked while it was offline."""
        if future.exception() is None:  # else the connection is lost, or the server knows no requests
            for user in self._open_requests.new_ones(future.result().received):
                self._on_friend_request(FriendRequestEvent(self, user))

    def _pass_on_invitations(self, future: "Future[dict[str, str]]") -> None:
        if future.exception() is None:
            found = future.result()
            for group in self._open_invitations.new_ones(found):
                self._on_invitation(InvitationEvent(self, group, found[group]))

    def _on_invitation(self, invitation: InvitationEvent) -> None:
        self._open_invitations.note(invitation.group)
        if self._accept_all:
            invitation.accept()
        else:
            self.receiver.on_invitation(invitation)

    def _on_friend_request(self, request: FriendRequestEvent) -> None:
        self._open_requests.note(request.friend)
        if self._accept_all:
            request.accept()
        else:
            self.receiver.on_friend_request(request)


def _address(pair: tuple[str, int]) -> Address:
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"{pair!r} is not a pair of host and port: from_url() reads addresses that are texts")
    return Address(*pair)


# --- what the server's JSON means -----------------------------------------------------------------


def _message(values: Mapping[str, Any]) -> tuple[str, str, int, int | None]:
    """Return sender, content, time and id.

    The original server accepts a message without a time: such a message gets the time now.
    """
    sent_at = _number(values, "time")
    return (
        _text(values["sender"]),
        _text(values["content"]),
        int(time.time() * 1000) if sent_at is None else sent_at,
        _number(values, "id"),
    )


def _number(values: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number; None if there is none."""
    found = values.get(key)
    return found if isinstance(found, int) else None


def _system_event(client: JellyClient, values: Mapping[str, Any]) -> SystemEvent:
    return SystemEvent(
        client,
        _text(values["event"]),
        user=_text(values.get("user", "")),
        id=_number(values, "id"),
        friend=_text(values.get("friend", "")),
        accepted=values.get("accepted") is True,
        online=values.get("online") is True,
        group=_text(values.get("group", "")),
        members=tuple(values.get("members", ())),
        roles=dict(values.get("roles", {})),
        groups=dict(values.get("groups", {})),
        values=values,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string is missing")
    return value


def _login(values: Mapping[str, Any]) -> Login:
    features = values.get("features", ())
    return Login(_text(values["username"]), int(values["token"]), tuple(map(str, features)))


def _profile(values: Mapping[str, Any]) -> Profile:
    said: dict[str, Any] = {each.name: values.get(each.name) for each in fields(Profile)}
    more = {"username": _text(said["username"]), "seen": _number(values, "seen"), "show_seen": values.get("showSeen")}
    more["show_read"] = values.get("showRead")
    return Profile(**{**said, **more})


def _friends(values: Mapping[str, Any]) -> dict[str, bool]:
    return dict(values.get("friends", {}))


def _groups(values: Mapping[str, Any]) -> dict[str, Group]:
    roles = values.get("roles", {})
    return {
        name: Group(name, tuple(members), admins_among(members, roles.get(name, {})))
        for name, members in values.get("groups", {}).items()
    }


def _page(values: Mapping[str, Any]) -> History:
    messages = tuple(_past_message(message) for message in values["messages"])
    more, before = values.get("more") is True, _number(values, "before")
    if more and before is None and messages:
        before = messages[0].id
    return History(messages, more, before)


def _past_message(values: Mapping[str, Any]) -> PastMessage:
    keys = [each.name for each in fields(PastMessage) if each.name not in ("stored", "group", "edited")]
    known: dict[str, Any] = {key: values[key] for key in keys}
    known.update((key, _number(values, key)) for key in ("stored", "edited"))
    return PastMessage(**known, group=values.get("groupName"))


def _names(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(_text, values["found"]))


def _blocked(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, values["blocked"]))


def _nothing(_values: Mapping[str, Any]) -> None:
    return None
