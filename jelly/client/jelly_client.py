"""The client of an application, the events that it brings, and who receives them."""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Self

from jelly.client import options, typing
from jelly.client.account import AccountOperations, Login, parse_login
from jelly.client.addresses import DEFAULT_PORT, Address, AddressList, parse_url
from jelly.client.connection_manager import ConnectionManager
from jelly.client.contacts import FEATURE as CONTACTS
from jelly.client.contacts import (
    FriendRequestEvent,
    FriendRequests,
    InvitationEvent,
    OpenRequests,
    defines_callbacks,
)
from jelly.client.devices import FEATURE as DEVICES
from jelly.client.devices import checked_device
from jelly.client.edits import EditEvent, edit_event
from jelly.client.friends import FriendOperations
from jelly.client.groups import GroupOperations
from jelly.client.handshake import Endpoint
from jelly.client.messaging import MessageOperations, Sent
from jelly.client.states import Reason, ReconnectPolicy, State
from jelly.client.values import Timed, number, text
from jelly.codec import Type

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
"""What a client asks for, unless you say otherwise. Not `typing`: few programs show that. (And not
`devices`: the parameter `device` asks for it.)"""


# --- what arrives ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Message(Timed):
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

    def reply(self, content: str, *, request_id: str | None = None) -> "Future[Sent]":
        """Send a message to the sender; see `JellyClient.send_message`."""
        return self.client.send_message(self.sender, content, request_id=request_id)


@dataclass(frozen=True)
class GroupMessageEvent(_Message):
    """A member wrote to a group that you are a member of."""

    group: str

    def reply(self, content: str, *, request_id: str | None = None) -> "Future[Sent]":
        """Send a message to the same group; see `JellyClient.send_group_message`."""
        return self.client.send_group_message(self.group, content, request_id=request_id)


@dataclass(frozen=True)
class OwnMessageEvent(_Message):
    """You wrote this yourself: on another device of yours, or to yourself."""

    receiver: str
    """The user or the group that you wrote to."""
    group: str | None
    """The group; None if you wrote to a user."""


@dataclass(frozen=True)
class SystemEvent:
    """A notice from the server itself. The original server sends none."""

    client: "JellyClient" = field(repr=False, compare=False)
    event: str
    """`presence`, `friend_answer`, `group_changed`, `group_disbanded`, `inbox_full`, `typing`,
    `read`, `delivered`, `own_read`, `gap`, `taken_over`, `password_changed`, `logged_out` or
    `shutdown`. Later servers may send others."""
    user: str = ""
    """For `typing`: who is writing a message; for `read` and `delivered`: who has read messages, or
    got them. For `own_read`: with whom the conversation is that you have read; empty for a
    group."""
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
    read, or have arrived. For `own_read`: the id up to which you have read the conversation, on
    another device."""
    since: int | None = None
    """For `gap`: the id of the first message that this device may have missed. What came from there
    on until now is in `history` and `group_history`."""
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

    def on_own_message(self, event: OwnMessageEvent) -> None:
        """You have written a message on another device of yours, or to yourself.

        Only a client with a `device` gets these. (Without one, a message to yourself comes to
        `on_message`, as always.)
        """

    def on_own_edit(self, event: EditEvent) -> None:
        """You have changed or recalled a message on another device, or one to yourself. Also only
        with a `device`.
        """

    def on_system(self, event: SystemEvent) -> None:
        """The server tells you something: a friend came or went, a group changed."""

    def on_connection(self, event: ConnectionEvent) -> None:
        """The state of the connection has changed."""


# --- the client -----------------------------------------------------------------------------------


class JellyClient(MessageOperations, FriendOperations, GroupOperations, AccountOperations):
    """One account on one server, or on several that share one database.

    The constructor does not connect; `login` does. It raises TypeError or ValueError, with a
    sentence, if a parameter cannot be what it is. Use the client as a context manager, or call
    `close`. The parameters:

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
    - `heartbeat`: seconds without sending until the client sends a heartbeat, 0.01 to 3600. The
      server closes a connection that is silent for 30 seconds.
    - `features`: the features that the client asks for. `()` makes it a classic client, like the
      original one: the server tells it nothing of presence and takeovers, and messages may arrive
      twice. If your receiver defines `on_friend_request` or `on_invitation`, it asks for
      `contacts`, too.
    - `device`: the name of the device on which this client runs, for example "desk": 1 to 32
      characters, no spaces. Then your user has a session on each device, each gets every message,
      also what you write on another one (`Receiver.on_own_message`), and only a login on the same
      device takes over. A token belongs to its device. None: no device; all such clients of a user
      take over from each other.
    - `credentials`: a function that returns the password, for a program that runs for months. It is
      called, once, if the server refuses the token when the client comes back; then the client logs
      in anew. (It is not called after a takeover, nor if the login was ended, the account disabled
      or the password changed, as far as the server has said so.) It runs on a thread of the client,
      and must not wait for the client. None as its result: go OFFLINE, as without it.
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
        device: str | None = None,
        credentials: Callable[[], str | None] | None = None,
    ) -> None:
        self.receiver = receiver if receiver is not None else Receiver()
        options.check_receiver(self.receiver, Receiver)
        options.check_switch("reconnect", reconnect, ReconnectPolicy)
        options.check_switch("tls", tls, SSLContext)
        options.check_switch("accept_all", accept_all)
        options.check_seconds("connect_timeout", 1 if connect_timeout is None else connect_timeout)
        options.check_seconds("request_timeout", request_timeout)
        options.check_number("heartbeat", heartbeat, options.MIN_SECONDS, options.MAX_HEARTBEAT)
        options.check_features(features)
        options.check_count("max_body", max_body, 1)
        options.check_function("credentials", credentials)
        self._typing_pace = typing.TypingPace()
        self._features, self._accept_all = tuple(features), accept_all
        self._device = checked_device(device, self._features)
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
            device=self._device,
            credentials=credentials,
            max_body=max_body,
            on_notice=weakly(self._on_notice),
            on_change=weakly(self._on_change),
        )
        # The threads of a client do not hold it: so one that is dropped ends.
        weakref.finalize(self, self._manager.drop, f"a {type(self).__name__}").atexit = False

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
        return self._manager.login(Type.LOGIN, username, {"username": username, "password": password}, parse_login)

    def resume(self, username: str, token: int) -> "Future[Login]":
        """Connect and log in with the token of an earlier `login`, also of another process.

        Rejected with `invalid_token` if the token has expired (after 7 days by default), if a
        logout or a new password has ended it, or if it is of another `device`; otherwise as
        `login`.

        >>> client.resume("alice", saved_token).result(timeout=10).username
        'alice'
        """
        self._manager.features = self._features_to_ask_for()
        values = {"username": username, "token": token}
        return self._manager.login(Type.RECONNECT, username, values, lambda v: parse_login({**v, "token": token}))

    def _features_to_ask_for(self) -> tuple[str, ...]:
        """A client that does not answer requests must not make others wait for an answer."""
        asks = bool(self._features) and CONTACTS not in self._features and self._takes_requests
        wanted = (*self._features, CONTACTS) if asks else self._features
        return (*wanted, DEVICES) if self._device is not None and DEVICES not in wanted else wanted

    @property
    def _takes_requests(self) -> bool:
        return self._accept_all or defines_callbacks(self.receiver, Receiver)

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
        until a logout, a takeover or a refused token, for example. `Receiver.on_connection` was
        told then, and `reason` says why.
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
    def reason(self) -> Reason | None:
        """Why the state changed last; None before the first login.

        Closing a client that is OFFLINE leaves it as it is: so it says why a bot has ended.
        """
        return self._manager.reason

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

    # --- what arrives, on the callback thread -----------------------------------------------------

    def _on_notice(self, type: int, values: Mapping[str, Any]) -> Callable[[], None]:
        """Return the function to call for a notice.

        Raises LookupError or TypeError if the notice is malformed.
        """
        is_message = type in (Type.PERSON_MESSAGE, Type.GROUP_MESSAGE)
        is_own = is_message and self._device is not None and values["sender"] == self._manager.username
        if is_message and "replaces" in values:
            edit = edit_event(self, type == Type.GROUP_MESSAGE, values)
            return lambda: (self.receiver.on_own_edit if is_own else self.receiver.on_edit)(edit)
        if is_own:
            own = _own_message(self, type == Type.GROUP_MESSAGE, values)
            return lambda: self.receiver.on_own_message(own)
        if type == Type.PERSON_MESSAGE:
            message = MessageEvent(self, *_message(values), stored=number(values, "stored"))
            return lambda: self.receiver.on_message(message)
        if type == Type.GROUP_MESSAGE:
            group_message = GroupMessageEvent(
                self, *_message(values), group=text(values["receiver"]), stored=number(values, "stored")
            )
            return lambda: self.receiver.on_group_message(group_message)
        if type == Type.SYSTEM and values["event"] == "friend_request":
            request = FriendRequestEvent(self, text(values["friend"]))
            return lambda: self._on_friend_request(request)
        if type == Type.SYSTEM and values["event"] == "group_invitation":
            invitation = InvitationEvent(self, text(values["group"]), text(values["user"]))
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


def weakly(method: Callable[..., Callable[[], None]]) -> Callable[..., Callable[[], None]]:
    """Return a function that calls a method, and does not hold its object."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Callable[[], None]:
        found = reference()
        return _nothing if found is None else found(*arguments)

    return call


def _nothing() -> None:
    """Tell nobody: the client was dropped."""


def _address(pair: tuple[str, int]) -> Address:
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"{pair!r} is not a pair of host and port: from_url() reads addresses that are texts")
    options.check_address(*pair)
    return Address(*pair)


def _message(values: Mapping[str, Any]) -> tuple[str, str, int, int | None]:
    """Return sender, content, time and id.

    The original server accepts a message without a time: such a message gets the time now.
    """
    sent_at = number(values, "time")
    return (
        text(values["sender"]),
        text(values["content"]),
        int(time.time() * 1000) if sent_at is None else sent_at,
        number(values, "id"),
    )


def _own_message(client: JellyClient, is_group: bool, values: Mapping[str, Any]) -> OwnMessageEvent:
    receiver = text(values["receiver"])
    group = receiver if is_group else None
    return OwnMessageEvent(client, *_message(values), receiver, group, stored=number(values, "stored"))


def _system_event(client: JellyClient, values: Mapping[str, Any]) -> SystemEvent:
    return SystemEvent(
        client,
        text(values["event"]),
        user=text(values.get("user", "")),
        id=number(values, "id"),
        since=number(values, "since"),
        friend=text(values.get("friend", "")),
        accepted=values.get("accepted") is True,
        online=values.get("online") is True,
        group=text(values.get("group", "")),
        members=tuple(values.get("members", ())),
        roles=dict(values.get("roles", {})),
        groups=dict(values.get("groups", {})),
        values=values,
    )
