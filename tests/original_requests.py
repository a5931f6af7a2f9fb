"""What the original server answers to each request, on a few dictionaries: the half of
`original.py` without sockets.

The names in the docstrings are those of recordings that show it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import randbits
from typing import Any, Protocol

import wire
from wire import REQUEST_ERROR, SERVER_ERROR, Reply, pack

Values = dict[str, Any]
Handler = Callable[["Connection", "Request"], Values | None]
Sent = list[tuple["Connection", bytes]]

PROFILE = ("name", "sex", "age", "phone", "address", "introduction")
NAME_COLUMN, VALUE_COLUMN, FRIEND_COLUMNS, MEMBER_COLUMNS = 64, 255, 20, 10
GSON_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&='\u2028\u2029"})


class Refused(Exception):
    """The answer is an error: an empty body with this status."""

    def __init__(self, status: int) -> None:
        self.status = status


class Silence(Exception):
    """Here the original threw an exception: no answer, ever, and the connection stays open."""


class Request:
    """The body of a request as Gson reads it: unknown keys do not count, null is missing, types are
    converted.
    """

    def __init__(self, body: bytes) -> None:
        try:
            self._values = json.loads(body.decode("utf-8-sig", "replace"))
        except ValueError as error:
            raise Silence from error
        if not isinstance(self._values, dict):
            raise Silence

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if isinstance(value, dict | list):
            raise Silence
        return value if isinstance(value, str | None) else json.dumps(value)

    def number(self, key: str) -> int | None:
        value = self._values.get(key)
        if value is None:
            return None
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise Silence from error
        if isinstance(value, float) and value != number:
            raise Silence
        return number


def to_gson(values: Values) -> bytes:
    """JSON as Gson writes it: without what is None, with < > & = ' escaped, half a character as a
    question mark.
    """
    there = {key: value for key, value in values.items() if value is not None}
    return (
        json.dumps(there, ensure_ascii=False, separators=(",", ":")).translate(GSON_ESCAPES).encode("utf-8", "replace")
    )


def row(name: str | None) -> str | None:
    """What MySQL compares a user's name by: ALICE, and alice with a space behind, are alice."""
    return name and name.rstrip(" ").casefold()


@dataclass
class Account:
    """A user, a row of the original's tables. The password may be missing."""

    name: str
    password: str | None
    profile: dict[str, str] = field(default_factory=dict)
    friends: list[str] = field(default_factory=list)


class Connection(Protocol):
    """What a request must know about its connection."""

    names: list[str]
    """Who logged in on it, one after the other."""
    cached_name: str | None
    """Who will be forgotten with it."""
    is_open: bool

    def write(self, data: bytes) -> None: ...


class Requests:
    """The original's tables and what it does with them. Not for several threads at once."""

    def __init__(self) -> None:
        self._accounts: dict[str | None, Account] = {}
        self._tokens: set[int] = set()
        self._online: dict[str, Connection] = {}
        self._groups: dict[str, list[str | None]] = {}  # the creator first
        self._cached_groups: dict[str, list[str | None]] = {}
        self._stored: dict[str | None, list[tuple[int, Values]]] = {}
        self._sent: Sent = []
        self._handlers: dict[int, Handler] = {
            wire.LOGIN: self._login,
            wire.REGISTER: self._register,
            wire.LOGOUT: self._logout,
            wire.RECONNECT: self._reconnect,
            wire.PERSON_MESSAGE: self._person_message,
            wire.GROUP_MESSAGE: self._group_message,
            wire.CREATE_GROUP: self._create_group,
            wire.DISBAND_GROUP: self._disband_group,
            wire.ADD_MEMBER: self._add_member,
            wire.REMOVE_MEMBER: self._remove_member,
            wire.ADD_FRIEND: self._add_friend,
            wire.REMOVE_FRIEND: self._remove_friend,
            wire.ALL_FRIENDS: self._all_friends,
            wire.OWN_GROUPS: self._own_groups,
            wire.UPDATE_PROFILE: self._update_profile,
            wire.OWN_PROFILE: self._own_profile,
            wire.FRIEND_PROFILE: self._friend_profile,
        }

    def serve(self, connection: Connection, frame: Reply) -> Sent:
        """Serve a request; what is to be sent for it, in order. It closes a connection by its
        `is_open`.
        """
        self._sent = []
        handler = self._handlers.get(frame.type) if frame.sign == wire.REQUEST else None
        try:
            if handler is None:
                # `unknown_type`: the frame's sign in the place of its type
                self._sent.append((connection, pack(frame.sign, b"", wire.RESPONSE, REQUEST_ERROR)))
            else:
                self._answer(handler, connection, frame)
        except Silence:
            pass
        return self._sent

    def _answer(self, handler: Handler, connection: Connection, frame: Reply) -> None:
        is_login = frame.type in (wire.LOGIN, wire.RECONNECT)
        is_first_login = is_login and not connection.names
        try:
            values = handler(connection, Request(frame.body))
            body, status = b"" if values is None else to_gson(values), wire.SUCCESS
        except Refused as refused:
            body, status = b"", refused.status
        if frame.type == wire.REGISTER or (is_login and status != wire.SUCCESS):
            connection.is_open = False
        self._sent.append((connection, pack(frame.type, body, wire.RESPONSE, status)))
        if is_first_login and connection.names:
            waiting = self._stored.pop(row(connection.names[0]), [])
            for type, message in sorted(waiting, key=lambda stored: stored[0]):  # from persons, then from groups
                self._notify(connection, type, message)

    def _notify(self, connection: Connection, type: int, message: Values) -> None:
        self._sent.append((connection, pack(type, to_gson(message), wire.NOTICE)))

    def cache_name(self, connection: Connection) -> None:
        """Learn at a connection's first heartbeat, or the first that did not come, who is to be
        forgotten with it.
        """
        if connection.cached_name is None:
            connection.cached_name = next((name for name, its in self._online.items() if its is connection), None)

    def forget(self, connection: Connection) -> None:
        """A connection has ended: the name that it is known by is offline, also if a newer
        connection has it.

        Without a heartbeat it is known by none:
        `disconnect_before_first_heartbeat_leaves_stale_entry`.
        """
        connection.is_open = False
        if connection.cached_name is not None:
            self._online.pop(connection.cached_name, None)

    # --- logins ---

    def _register(self, connection: Connection, request: Request) -> Values:
        username = request.text("username")
        if username is None or len(username) > NAME_COLUMN:
            raise Refused(SERVER_ERROR)
        if row(username) in self._accounts:
            raise Refused(REQUEST_ERROR)
        self._accounts[row(username)] = Account(username, request.text("password"))
        return {"username": username}

    def _login(self, connection: Connection, request: Request) -> Values:
        username, password = request.text("username"), request.text("password")
        account = self._accounts.get(row(username))
        if account is None:
            raise Refused(REQUEST_ERROR)
        if password is None:
            raise Silence
        if password != account.password:
            raise Refused(REQUEST_ERROR)
        token = randbits(64) - 2**63
        self._tokens.add(token)
        self._enter(connection, username)
        return {"username": username, "token": token}

    def _reconnect(self, connection: Connection, request: Request) -> Values:
        """Any valid token opens any account: `reconn_token_not_bound_to_user`."""
        username = request.text("username")
        if request.number("token") not in self._tokens:
            raise Refused(REQUEST_ERROR)
        self._enter(connection, username)
        return {"username": username}

    def _enter(self, connection: Connection, username: str | None) -> None:
        if username is not None:
            connection.names.append(username)
            self._online[username] = connection

    def _logout(self, connection: Connection, request: Request) -> None:
        self._tokens.discard(request.number("token") or 0)
        connection.is_open = False
        raise Silence

    # --- messages ---

    def _person_message(self, connection: Connection, request: Request) -> None:
        receiver = request.text("receiver")
        if receiver not in self._online and row(receiver) not in self._accounts:
            raise Refused(SERVER_ERROR)
        if not self._pass_on(wire.PERSON_MESSAGE, receiver, request):
            raise Silence

    def _group_message(self, connection: Connection, request: Request) -> None:
        """A group's members at its first message get all later ones: the cache is never emptied."""
        group, sender = request.text("receiver") or "", request.text("sender")
        if group not in self._cached_groups:
            self._cached_groups[group] = list(self._group(group))
        for member in self._cached_groups[group]:
            if member != sender:
                self._pass_on(wire.GROUP_MESSAGE, member, request)

    def _pass_on(self, type: int, receiver: str | None, request: Request) -> bool:
        """Send a message or store it; False if the receiver's connection has ended unnoticed, and
        it is lost.
        """
        time = request.number("time")
        message = {key: request.text(key) for key in ("sender", "receiver", "content")}
        target = self._online.get(receiver or "")
        if target is None:
            if time is None:
                raise Silence
            self._stored.setdefault(row(receiver), []).append((type, {**message, "time": time // 1000 * 1000}))
        elif target.is_open:
            self._notify(target, type, {**message, "time": time})
        return target is None or target.is_open

    # --- groups ---

    def _group(self, name: str | None) -> list[str | None]:
        if name is None or name not in self._groups:
            raise Refused(REQUEST_ERROR)
        return self._groups[name]

    def _own_group(self, request: Request) -> list[str | None]:
        """The group that a request is about, if it is its creator's."""
        members = self._group(request.text("groupName"))
        if members[0] is None:
            raise Silence
        if members[0] != request.text("username"):
            raise Refused(REQUEST_ERROR)
        return members

    def _create_group(self, connection: Connection, request: Request) -> None:
        name = request.text("groupName")
        if name is None:
            raise Refused(SERVER_ERROR)
        if name in self._groups:
            raise Refused(REQUEST_ERROR)
        self._groups[name] = [request.text("username")]

    def _disband_group(self, connection: Connection, request: Request) -> None:
        self._own_group(request)
        del self._groups[request.text("groupName") or ""]

    def _add_member(self, connection: Connection, request: Request) -> None:
        """The eleventh beside the creator gets no answer: `add_10_members_then_11th`."""
        members, member = self._own_group(request), request.text("member")
        if row(member) not in self._accounts:
            raise Refused(REQUEST_ERROR)
        if len(members) > MEMBER_COLUMNS:
            raise Silence
        members.append(member)

    def _remove_member(self, connection: Connection, request: Request) -> None:
        """Nor does the creator's own removal, but a second entry of the creator's goes:
        `member_remove_creator`.
        """
        members, member = self._own_group(request), request.text("member")
        if member == members[0]:
            members[1:] = [other for other in members[1:] if other != member]
            raise Silence
        if member not in members:
            raise Refused(REQUEST_ERROR)
        members.remove(member)

    def _own_groups(self, connection: Connection, request: Request) -> Values:
        username = request.text("username")
        if username is None and self._groups:
            raise Silence
        groups = {name: members for name, members in self._groups.items() if username in members}
        return {"username": username, "groups": groups}

    # --- friends and profiles ---

    def _add_friend(self, connection: Connection, request: Request) -> None:
        """The friend need not exist, and may be added twice."""
        account, friend = self._accounts.get(row(request.text("username"))), request.text("friend")
        if account is None or len(account.friends) == FRIEND_COLUMNS:
            raise Refused(REQUEST_ERROR)
        if friend is not None:
            account.friends.append(friend)

    def _remove_friend(self, connection: Connection, request: Request) -> None:
        self._friends_with(request).remove(request.text("friend") or "")

    def _friends_with(self, request: Request) -> list[str]:
        """The friends of the one who asks, the one that it is about among them."""
        account, friend = self._accounts.get(row(request.text("username"))), request.text("friend")
        if account and friend is None:
            raise Silence
        if account is None or friend not in account.friends:
            raise Refused(REQUEST_ERROR)
        return account.friends

    def _all_friends(self, connection: Connection, request: Request) -> Values:
        username = request.text("username")
        account = self._accounts.get(row(username))
        return {"username": username, "friends": {f: f in self._online for f in (account.friends if account else ())}}

    def _update_profile(self, connection: Connection, request: Request) -> None:
        changes = {key: value for key in ("password", *PROFILE) if (value := request.text(key)) is not None}
        if not changes:
            return
        account = self._accounts.get(row(request.text("username")))
        if account is None or any(len(value) > VALUE_COLUMN for value in changes.values()):
            raise Refused(SERVER_ERROR)
        account.password = changes.pop("password", account.password)
        account.profile.update(changes)

    def _own_profile(self, connection: Connection, request: Request) -> Values:
        """The answer is the request filled in: `json_password_echoed_on_show_self`."""
        return self._profile(request.text("username"), request.text("password"))

    def _friend_profile(self, connection: Connection, request: Request) -> Values:
        self._friends_with(request)
        return self._profile(request.text("friend"))

    def _profile(self, username: str | None, password: str | None = None) -> Values:
        account = self._accounts.get(row(username))
        if account is None:
            raise Refused(SERVER_ERROR)
        return {
            "username": account.name, "password": password, **{key: account.profile.get(key) for key in PROFILE}
        }  # fmt: skip
