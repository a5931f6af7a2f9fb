"""Jelly's client library: an account in a few lines, for programs with threads.

    from client_api import JellyClient, Receiver

    class Printer(Receiver):
        def on_message(self, event):
            print(event.sender, "wrote:", event.content)

    with JellyClient("127.0.0.1", 20000, receiver=Printer()) as client:
        client.login("alice", "secret1").result()
        client.send_message("bob", "hello").result(timeout=5)

**Every request returns a `concurrent.futures.Future`** at once. `.result(timeout)` waits for the answer and gives a
typed result, or raises; `.add_done_callback(function)` is called when the answer is there. Each future ends:

    RequestRejected   the server says no: `error.code` is one of `ErrorCode`, `str(error)` is a sentence
    ServerBusy        nothing was done: try again a little later
    ServerFailed      the server is at fault, and nothing is known
    RequestTimeout    no answer in time, and nothing is known. The line is dropped, and made anew: an answer that
                      comes too late would be taken for another one's, since answers have no ids
    ConnectionLost    there is no connection (any more); `error.sent` is False if the request never left

All of them are `RequestError`, and that is a `JellyError`. (`.result(timeout)` itself raises TimeoutError when *its*
time is up; the request goes on.)

**Threads.** A `JellyClient` may be used by any number of threads at once, from within callbacks too; requests go out
in the order of the calls, and one client's requests are answered in that order. Everything of yours that the client
calls (the methods of the `Receiver`, the listeners of futures) runs on *one* thread of the client's own, one call
after the other, in the order in which things happened, and with no lock held: so `.result()` works in there, and a
callback that takes long holds up only the callbacks behind it. An exception in a callback is logged (logger
`jelly.client`) and goes no further. `Future.cancel` works as long as a request was not sent.

**When the line is cut**, the client comes back by itself: see `State` for what can happen, and `ReconnectPolicy`.
Messages that have no answer yet are sent again then, under an id by which the server stores each once; their futures
wait for as long as the client is RECONNECTING. All other requests without an answer end with `ConnectionLost`. (So do
messages to a server that knows no such ids, like the original one.) docs/client.md has the questions of those who
write bots.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from jelly.client.connection_manager import ConnectionManager
from jelly.client.handshake import Endpoint
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
    "ConnectionEvent", "ConnectionLost", "ErrorCode", "Group", "GroupMessageEvent", "History", "JellyClient",
    "JellyError", "Login", "MessageEvent", "PastMessage", "Profile", "Reason", "Receiver", "ReconnectPolicy",
    "RequestError", "RequestRejected", "RequestTimeout", "Sent", "ServerBusy", "ServerFailed", "State", "SystemEvent",
]  # fmt: skip

DEFAULT_PORT = 20000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY, LAST_DAY = -62_135_510_400_000, 253_402_128_000_000
"""0001-01-02 and 9999-12-30 in milliseconds: a day from the ends of the calendar, so that they exist in every zone."""


# --- results ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """What a login gives."""

    username: str
    token: int = field(repr=False)
    """Lets its user come back without the password: keep it as secret as one. See `JellyClient.resume`."""
    features: tuple[str, ...] = ()
    """What the server grants; the original server grants nothing."""


@dataclass(frozen=True)
class Sent:
    """A message that the server has stored safely for each of its receivers. (It need not have reached them.)"""

    receiver: str
    time: int
    """Milliseconds since 1970, as it was sent."""


@dataclass(frozen=True)
class Profile:
    """What somebody says about himself; None is what was never said."""

    username: str
    name: str | None = None
    sex: str | None = None
    age: str | None = None
    phone: str | None = None
    address: str | None = None
    introduction: str | None = None


@dataclass(frozen=True)
class Group:
    """A group and who is in it, the creator first."""

    name: str
    members: tuple[str, ...]

    @property
    def creator(self) -> str:
        """Who may add and remove members, and disband the group."""
        return self.members[0]


# --- what arrives -------------------------------------------------------------------------------------------


class _Written:
    """What was written at some time."""

    time: int

    @property
    def written_at(self) -> datetime:
        """`time` as a date and time with the local zone; for a nonsensical number the nearest one that there is."""
        return (EPOCH + timedelta(milliseconds=min(max(self.time, FIRST_DAY), LAST_DAY))).astimezone()


@dataclass(frozen=True)
class PastMessage(_Written):
    """A message that was read back: see `JellyClient.history`."""

    sender: str
    receiver: str
    """Who it was written to: a person, or a group."""
    content: str
    time: int
    """When it was written, by the sender's clock: milliseconds since 1970."""
    id: int
    """The message's own number at the server: ids grow, and a message has the same one here as when it arrived."""


@dataclass(frozen=True)
class History:
    """A page of a conversation."""

    messages: tuple[PastMessage, ...]
    """The oldest first."""
    more: bool
    """Whether the server has older ones: ask for those with `before=messages[0].id`."""


@dataclass(frozen=True)
class _Message(_Written):
    client: "JellyClient" = field(repr=False, compare=False)
    """The client that it came to."""
    sender: str
    content: str
    time: int
    """When it was written, by the sender's clock: milliseconds since 1970."""
    id: int | None
    """The message's own number at the server: it grows, and stays the same when the message comes again.

    So a program that must not count a message twice stores it, and knows it again. None if the server grants no
    acknowledgements (the original one).
    """


@dataclass(frozen=True)
class MessageEvent(_Message):
    """A person wrote to this user."""

    def reply(self, content: str) -> "Future[Sent]":
        """Write back to the sender."""
        return self.client.send_message(self.sender, content)


@dataclass(frozen=True)
class GroupMessageEvent(_Message):
    """A member wrote to a group that this user is in."""

    group: str

    def reply(self, content: str) -> "Future[Sent]":
        """Write to the same group."""
        return self.client.send_group_message(self.group, content)


@dataclass(frozen=True)
class SystemEvent:
    """The server says something of its own accord. The original server never does."""

    client: "JellyClient" = field(repr=False, compare=False)
    event: str
    """`presence`, `group_changed`, `group_disbanded`, `taken_over`, `shutdown`; later servers may know more."""
    friend: str = ""
    """For `presence`: who came or went."""
    online: bool = False
    """For `presence`: whether the friend is online now."""
    group: str = ""
    """For `group_changed` and `group_disbanded`: which one."""
    members: tuple[str, ...] = ()
    """For `group_changed`: who is in it now, the creator first."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """All that the server said."""


@dataclass(frozen=True)
class ConnectionEvent:
    """The connection of a client has changed: see `State` for what can happen and what to do."""

    client: "JellyClient" = field(repr=False, compare=False)
    previous: State
    state: State
    reason: Reason
    error: Exception | None = None
    """What broke the line or refused the login, where something did."""


class Receiver:
    """Gets what arrives: override what you need. Each method gets one event, on the client's callback thread."""

    def on_message(self, event: MessageEvent) -> None:
        """A person's message."""

    def on_group_message(self, event: GroupMessageEvent) -> None:
        """A message to a group."""

    def on_system(self, event: SystemEvent) -> None:
        """Something that the server says of its own accord: presence of friends, changes of groups."""

    def on_connection(self, event: ConnectionEvent) -> None:
        """The state of the connection has changed."""


# --- the client ---------------------------------------------------------------------------------------------


class JellyClient:
    """One account on one server. The constructor does no I/O; `login` connects.

    - `receiver` gets what arrives.
    - `reconnect`: how to come back after a cut; False: not at all.
    - `tls`: True for TLS with the system's certificates, or an `ssl.SSLContext` of your own.
    - `connect_timeout`, `request_timeout`: seconds for a connection, and for an answer from when its request was sent.
    - `heartbeat`: seconds without a write after which the client shows that it lives; the server closes after 30.
    - `features`: what to announce to the server; `()` makes it a classic client, like the original one, which is told
      nothing of presence and takeovers, and may get a message twice.
    - `max_body`: bytes that a request's body may have; the server closes on those who send more than it allows.

    Raises nothing. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        receiver: Receiver | None = None,
        reconnect: ReconnectPolicy | bool = True,
        tls: SSLContext | bool = False,
        connect_timeout: float = 10.0,
        request_timeout: float = 30.0,
        heartbeat: float = 5.0,
        features: Sequence[str] = ("ack",),
        max_body: int = 65536,
    ) -> None:
        self.receiver = receiver if receiver is not None else Receiver()
        self._manager = ConnectionManager(
            Endpoint(
                host, port, create_default_context() if tls is True else tls or None, connect_timeout, request_timeout
            ),
            policy=ReconnectPolicy() if reconnect is True else reconnect or None,
            heartbeat=heartbeat,
            features=tuple(features),
            max_body=max_body,
            on_notice=self._on_notice,
            on_change=self._on_change,
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """A client for `jelly://host:port`, or `jellys://host:port` with TLS; the port may be left out (20000).

        Takes the same options as the constructor. Raises ValueError for another URL.

        >>> client = JellyClient.from_url("jelly://chat.example.org:20001", reconnect=False)
        """
        parts = urlsplit(url)
        if parts.scheme not in ("jelly", "jellys") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"{url!r} is not of the form jelly://host:port or jellys://host:port")
        if parts.username or parts.password:
            raise ValueError("the URL of a server holds no user name and no password: give them to login()")
        if parts.scheme == "jellys":
            options.setdefault("tls", True)
        return cls(parts.hostname, parts.port or DEFAULT_PORT, **options)

    # --- coming and going ---------------------------------------------------------------------------------

    def register(self, username: str, password: str) -> "Future[str]":
        """Create an account; the result is its name. It uses a connection of its own, and logs nobody in.

        Rejected with `username_taken`, `invalid_username`, `invalid_password`.

        >>> client.register("dora", "secret4").result(timeout=10)
        'dora'
        """
        values = {"username": username, "password": password}
        return self._manager.register(values, lambda answer: str(answer.get("username", username)))

    def login(self, username: str, password: str) -> "Future[Login]":
        """Connect and log in; afterwards the receiver gets what waited. Only when OFFLINE.

        Rejected with `wrong_credentials`, `too_many_attempts`; ConnectionLost if the server cannot be reached. There
        is one try: only a line that stood once is made anew.

        >>> client.login("alice", "secret1").result(timeout=10)
        Login(username='alice', features=('ack',))
        """
        return self._manager.login(Type.LOGIN, username, {"username": username, "password": password}, _login)

    def resume(self, username: str, token: int) -> "Future[Login]":
        """Connect and log in with a token from an earlier `login`, also of another process. Only when OFFLINE.

        Rejected with `invalid_token` if it has expired (usually after 7 days), or a logout or a new password ended it.

        >>> client.resume("alice", saved_token).result(timeout=10).username
        'alice'
        """
        values = {"username": username, "token": token}
        return self._manager.login(Type.RECONNECT, username, values, lambda v: _login({**v, "token": token}))

    def logout(self) -> "Future[None]":
        """End the session and its token; afterwards the client is OFFLINE, and may log in again.

        ConnectionLost if the line breaks before the server has closed it: then the token may still be good.

        >>> client.logout().result(timeout=10)
        """
        return self._manager.logout()

    def close(self, timeout: float = 5.0) -> None:
        """End the connection and the client's threads; the session's token stays good. May be called again.

        Waits up to `timeout` seconds for the answers to what was requested, and until everything that was received
        has been handed to the receiver, who may still reply; what has no answer then ends with ConnectionLost. Called
        in a callback it does not wait for the callbacks behind that one.
        """
        self._manager.close(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client is OFFLINE or CLOSED, at most `timeout` seconds; return whether it is.

        For the main thread of a bot: it ends after a logout, a takeover, a refused token; `Receiver.on_connection`
        is told which.
        """
        return self._manager.wait(timeout)

    def wait_until_online(self, timeout: float | None = None) -> bool:
        """Wait out a login or a reconnect that is under way, at most `timeout` seconds; return whether it is ONLINE.

        For whoever was told that something was not sent, because the line was down: then is the time to send it again.

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
        """Where the client stands now; it may change at any moment."""
        return self._manager.state

    @property
    def username(self) -> str | None:
        """Who is logged in, None if nobody is; while it is RECONNECTING, who was."""
        return self._manager.username

    # --- messages -----------------------------------------------------------------------------------------

    def send_message(self, receiver: str, content: str) -> "Future[Sent]":
        """Write to a person, online or not. The result means: it is stored safely, and once, over cuts too.

        Rejected with `no_such_user`, `rate_limited`; `too_long` if its body is (before it is sent).

        >>> client.send_message("bob", "hello").result(timeout=5).receiver
        'bob'
        """
        return self._send(Type.PERSON_MESSAGE, receiver, content)

    def send_group_message(self, group: str, content: str) -> "Future[Sent]":
        """Write to all other members of a group. Rejected with `no_such_group`, `not_a_member`; else as `send_message`.

        >>> client.send_group_message("team", "hello everybody").result(timeout=5).receiver
        'team'
        """
        return self._send(Type.GROUP_MESSAGE, group, content)

    def _send(self, type: Type, receiver: str, content: str) -> "Future[Sent]":
        sent = Sent(receiver, int(time.time() * 1000))
        values = {"receiver": receiver, "content": content, "time": sent.time}
        return self._manager.request(type, values, lambda _: sent)

    def history(self, person: str, *, before: int | None = None, limit: int = 50) -> "Future[History]":
        """What this user and a person wrote to each other: the newest `limit` messages (at most 100), oldest first.

        With `before`, an id, those before that one. What has not arrived here yet is left out. Rejected with
        `no_such_user`; by a server that keeps no history, like the original one, with `unknown_type`.

        >>> client.history("bob").result(timeout=5)
        History(messages=(), more=False)
        """
        return self._history({"person": person, "before": before, "limit": limit})

    def group_history(self, group: str, *, before: int | None = None, limit: int = 50) -> "Future[History]":
        """What was written to a group since this user became a member; else as `history`.

        Rejected with `no_such_group`, `not_a_member`.

        >>> client.group_history("team").result(timeout=5).more
        False
        """
        return self._history({"groupName": group, "before": before, "limit": limit})

    def _history(self, values: Mapping[str, Any]) -> "Future[History]":
        return self._manager.request(Type.HISTORY, values, _page, feature="ack")

    # --- friends and profiles -----------------------------------------------------------------------------

    def add_friend(self, friend: str) -> "Future[None]":
        """Put a user on one's list; it is not mutual. Rejected with `no_such_user`, `already_friends`, `limit_reached`.

        >>> client.add_friend("carol").result(timeout=5)
        """
        return self._manager.request(Type.ADD_FRIEND, {"friend": friend}, _nothing)

    def remove_friend(self, friend: str) -> "Future[None]":
        """Take a user off one's list. Rejected with `not_friends`.

        >>> client.remove_friend("bob").result(timeout=5)
        """
        return self._manager.request(Type.REMOVE_FRIEND, {"friend": friend}, _nothing)

    def list_friends(self) -> "Future[dict[str, bool]]":
        """The names on one's list, each with whether that user is online.

        >>> client.list_friends().result(timeout=5)
        {'bob': False}
        """
        return self._manager.request(Type.ALL_FRIENDS, {}, lambda values: dict(values.get("friends", {})))

    def own_profile(self) -> "Future[Profile]":
        """What one said about oneself.

        >>> client.own_profile().result(timeout=5).username
        'alice'
        """
        return self._manager.request(Type.OWN_PROFILE, {}, _profile)

    def friend_profile(self, friend: str) -> "Future[Profile]":
        """What somebody on one's list says about himself. Rejected with `not_friends`.

        >>> client.friend_profile("bob").result(timeout=5).name
        'Robert'
        """
        return self._manager.request(Type.FRIEND_PROFILE, {"friend": friend}, _profile)

    def update_profile(
        self,
        *,
        password: str | None = None,
        name: str | None = None,
        sex: str | None = None,
        age: str | None = None,
        phone: str | None = None,
        address: str | None = None,
        introduction: str | None = None,
    ) -> "Future[None]":
        """Change what is given, and leave the rest. Rejected with `too_long`, `invalid_password`.

        A new password ends every token of the user. This connection stays; after a cut the client is OFFLINE
        with `Reason.TOKEN_REFUSED`, and has to log in with the new one.

        >>> client.update_profile(name="Alice", address="Paris").result(timeout=5)
        """
        values = {
            "password": password, "name": name, "sex": sex, "age": age, "phone": phone, "address": address,
            "introduction": introduction,
        }  # fmt: skip
        return self._manager.request(Type.UPDATE_PROFILE, values, _nothing)

    # --- groups -------------------------------------------------------------------------------------------

    def create_group(self, group: str) -> "Future[None]":
        """Found a group; this user is its first member. Rejected with `group_exists`, `invalid_group_name`.

        >>> client.create_group("choir").result(timeout=5)
        """
        return self._manager.request(Type.CREATE_GROUP, {"groupName": group}, _nothing)

    def disband_group(self, group: str) -> "Future[None]":
        """End a group that this user created. Rejected with `no_such_group`, `not_group_creator`.

        >>> client.disband_group("team").result(timeout=5)
        """
        return self._manager.request(Type.DISBAND_GROUP, {"groupName": group}, _nothing)

    def add_member(self, group: str, member: str) -> "Future[None]":
        """Take a user into one's group.

        Rejected with `no_such_group`, `not_group_creator`, `no_such_user`, `already_member`, `limit_reached`.

        >>> client.add_member("team", "carol").result(timeout=5)
        """
        return self._manager.request(Type.ADD_MEMBER, {"groupName": group, "member": member}, _nothing)

    def remove_member(self, group: str, member: str) -> "Future[None]":
        """Take a member out of one's group. A member may remove itself: `leave_group`.

        Rejected with `no_such_group`, `not_group_creator`, `not_a_member`, `creator_cannot_leave`.

        >>> client.remove_member("team", "bob").result(timeout=5)
        """
        return self._manager.request(Type.REMOVE_MEMBER, {"groupName": group, "member": member}, _nothing)

    def leave_group(self, group: str) -> "Future[None]":
        """Leave a group that somebody else created. Rejected with `not_a_member`, `creator_cannot_leave`.

        >>> client.leave_group("club").result(timeout=5)
        """
        return self.remove_member(group, self.username or "")

    def list_groups(self) -> "Future[dict[str, Group]]":
        """The groups that this user is in, by name.

        >>> client.list_groups().result(timeout=5)["team"].members
        ('alice', 'bob')
        """
        return self._manager.request(Type.OWN_GROUPS, {}, _groups)

    # --- what arrives, on the callback thread -------------------------------------------------------------

    def _on_notice(self, type: int, values: Mapping[str, Any]) -> Callable[[], None]:
        """The call that a notice brings about. Raises LookupError or TypeError if it is not as it should be."""
        if type == Type.PERSON_MESSAGE:
            message = MessageEvent(self, *_message(values))
            return lambda: self.receiver.on_message(message)
        if type == Type.GROUP_MESSAGE:
            group_message = GroupMessageEvent(self, *_message(values), group=_text(values["receiver"]))
            return lambda: self.receiver.on_group_message(group_message)
        if type == Type.SYSTEM:
            system = _system_event(self, values)
            return lambda: self.receiver.on_system(system)
        raise LookupError("there is no notice of this type")

    def _on_change(self, previous: State, state: State, reason: Reason, error: Exception | None) -> Callable[[], None]:
        event = ConnectionEvent(self, previous, state, reason, error)
        return lambda: self.receiver.on_connection(event)


# --- what the server's JSON means ---------------------------------------------------------------------------


def _message(values: Mapping[str, Any]) -> tuple[str, str, int, int | None]:
    """Sender, content, time, id. One without a time (the original lets that pass) was written when it came."""
    sent_at, id = values.get("time"), values.get("id")
    return (
        _text(values["sender"]),
        _text(values["content"]),
        sent_at if isinstance(sent_at, int) else int(time.time() * 1000),
        id if isinstance(id, int) else None,
    )


def _system_event(client: JellyClient, values: Mapping[str, Any]) -> SystemEvent:
    return SystemEvent(
        client,
        _text(values["event"]),
        friend=_text(values.get("friend", "")),
        online=values.get("online") is True,
        group=_text(values.get("group", "")),
        members=tuple(values.get("members", ())),
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
    return Profile(**{**said, "username": _text(said["username"])})


def _groups(values: Mapping[str, Any]) -> dict[str, Group]:
    return {name: Group(name, tuple(members)) for name, members in values.get("groups", {}).items()}


def _page(values: Mapping[str, Any]) -> History:
    keys = [each.name for each in fields(PastMessage)]
    messages = [PastMessage(**{key: message[key] for key in keys}) for message in values["messages"]]
    return History(tuple(messages), values.get("more") is True)


def _nothing(values: Mapping[str, Any]) -> None:
    return None
