"""A client for the tests that knows nothing but bytes: it shares no code with what it tests."""

import json
import random
import socket
import struct
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

HEADER = struct.Struct(">HBBBi")
REQUEST, RESPONSE, NOTICE = 1, 2, 3
SUCCESS, REQUEST_ERROR, SERVER_BUSY, SERVER_ERROR = 0x31, 0x32, 0x33, 0x34
LOGIN, REGISTER, LOGOUT, RECONNECT = 0x11, 0x12, 0x13, 0x14
PERSON_MESSAGE, GROUP_MESSAGE = 0x15, 0x16
CREATE_GROUP, DISBAND_GROUP, ADD_MEMBER, REMOVE_MEMBER = 0x17, 0x18, 0x19, 0x1A
ADD_FRIEND, REMOVE_FRIEND, ALL_FRIENDS = 0x1B, 0x1C, 0x1D
UPDATE_PROFILE, OWN_PROFILE, FRIEND_PROFILE, OWN_GROUPS, HEARTBEAT = 0x1E, 0x1F, 0x21, 0x22, 0x23
ACK, SYSTEM, HISTORY = 0x24, 0x25, 0x26
ANSWER_FRIEND, ANSWER_GROUP, BLOCK, BLOCKED = 0x27, 0x28, 0x29, 0x2A
EDIT = 0x36
READ, CONVERSATIONS = 0x30, 0x35
SET_ROLE, TYPING, REPORT, FIND, SEARCH = 0x37, 0x38, 0x39, 0x3A, 0x3B
INVITE, JOIN, DELETE_ACCOUNT, LOGINS, END_LOGIN = 0x2B, 0x2C, 0x2D, 0x2E, 0x2F
PASSWORD = "pw"
PATIENCE = 10.0


NODES: dict[int, list[int]] = {}
"""For the port of a node: the ports of all nodes on its database. A `Wire` connects to any of
them.
"""


class Reply(NamedTuple):
    """A frame that the server sent, its body as it came."""

    sign: int
    type: int
    status: int
    body: bytes

    @property
    def values(self) -> Any:
        return json.loads(self.body) if self.body else {}

    @property
    def error(self) -> str:
        return str(self.values.get("error", ""))


def pack(type: int, body: bytes = b"", sign: int = REQUEST, status: int = 0, magic: int = 0xABCD) -> bytes:
    """The bytes of a frame."""
    return HEADER.pack(magic, sign, type, status, len(body)) + body


def to_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


class Wire:
    """One connection. `user` is who logged in on it; requests are made in that name unless they say
    otherwise.

    `source`: the address to connect from, such as 127.0.0.2.
    """

    def __init__(self, port: int, timeout: float = PATIENCE, source: str = "") -> None:
        port = random.choice(NODES.get(port, [port]))
        self.socket = socket.create_connection(("127.0.0.1", port), timeout, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.user = ""
        self.token = 0
        self.bytes_sent = 0
        self.notices: list[Reply] = []
        self._waiting = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def reset(self) -> None:
        """Break the connection: the server gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def wait_until_served(self) -> None:
        """Wait until the server has accepted the connection and reads from it; nobody is logged in
        on it.
        """
        assert self.call(OWN_PROFILE).error == "not_logged_in"

    # --- sending ---

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)
        self.bytes_sent += len(data)

    def send_request(self, type: int, **values: Any) -> None:
        """Send a request, with the logged-in user's name first where the protocol wants one."""
        first = "sender" if type in (PERSON_MESSAGE, GROUP_MESSAGE) else "username"
        if first not in values and self.user:
            values = {first: self.user, **values}
        self.send(pack(type, to_json(values) if values else b""))

    def send_message(self, receiver: str, content: str, type: int = PERSON_MESSAGE, time: int = 1, **more: Any) -> None:
        self.send_request(type, receiver=receiver, content=content, time=time, **more)

    def heartbeat(self) -> None:
        self.send(pack(HEARTBEAT))

    # --- receiving ---

    def receive(self) -> Reply:
        """The next frame, whatever it is. Raises EOFError when the server has closed,
        TimeoutError.
        """
        header = self._take(HEADER.size)
        magic, sign, type, status, length = HEADER.unpack(header)
        assert magic == 0xABCD, header
        return Reply(sign, type, status, self._take(length))

    def receive_response(self) -> Reply:
        """The next response; notices before it are kept in `notices`."""
        while (reply := self.receive()).sign == NOTICE:
            self.notices.append(reply)
        return reply

    def receive_notice(self) -> Reply:
        """The next notice."""
        if self.notices:
            return self.notices.pop(0)
        reply = self.receive()
        assert reply.sign == NOTICE, reply
        return reply

    def contents(self, count: int) -> list[str]:
        """What the next messages say."""
        return [self.receive_notice().values["content"] for _ in range(count)]

    def is_closed(self) -> bool:
        """Whether the server has closed the connection; what it has sent is thrown away."""
        self.socket.settimeout(0.01)
        try:
            return self.socket.recv(65536) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)

    def contents_at_hand(self) -> list[str]:
        """What the messages say that came together with others in one read: a client that closes
        has them, too.
        """
        contents = [notice.values["content"] for notice in self.notices]
        self.notices.clear()
        while self._holds_a_frame():
            contents.append(self.receive_notice().values["content"])
        return contents

    def is_closed_by_server(self) -> bool:
        """Wait until the server has closed, throwing away what it sends until then."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def says_nothing(self, seconds: float = 0.3) -> bool:
        """Whether no byte comes for a while. (A request's answer is the better barrier where there
        is one.)
        """
        self.socket.settimeout(seconds)
        try:
            return not self._waiting and not self.notices and not self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)

    def _holds_a_frame(self) -> bool:
        header, rest = self._waiting[: HEADER.size], self._waiting[HEADER.size :]
        return len(header) == HEADER.size and len(rest) >= HEADER.unpack(header)[-1]

    def _take(self, count: int) -> bytes:
        while len(self._waiting) < count:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the server has closed")
            self._waiting += data
        data, self._waiting = self._waiting[:count], self._waiting[count:]
        return data

    # --- conversations ---

    def call(self, type: int, **values: Any) -> Reply:
        """A request and its response."""
        self.send_request(type, **values)
        return self.receive_response()

    def ok(self, type: int, **values: Any) -> Any:
        """A request that must succeed; what its response says."""
        reply = self.call(type, **values)
        assert (reply.type, reply.status) == (type, SUCCESS), reply
        return reply.values

    def refused(self, type: int, **values: Any) -> str:
        """A request that must be refused; the error code."""
        reply = self.call(type, **values)
        assert (reply.type, reply.status) == (type, REQUEST_ERROR), reply
        return reply.error

    def message(self, receiver: str, content: str, type: int = PERSON_MESSAGE, time: int = 1) -> None:
        """Send a message that must be accepted."""
        self.ok(type, receiver=receiver, content=content, time=time)

    def ack(self, id: int) -> None:
        """Acknowledge everything up to and including an id. (Nothing comes back.)"""
        self.send(pack(ACK, to_json({"id": id})))

    def login(
        self, username: str, password: str = PASSWORD, features: list[str] | None = None, device: str | None = None
    ) -> Reply:
        more: dict[str, Any] = {} if features is None else {"features": features}
        more |= {} if device is None else {"device": device}
        reply = self.call(LOGIN, username=username, password=password, **more)
        if reply.status == SUCCESS:
            self.user, self.token = username, reply.values["token"]
        return reply

    def reconnect(
        self, username: str, token: int, features: list[str] | None = None, device: str | None = None
    ) -> Reply:
        more: dict[str, Any] = {} if features is None else {"features": features}
        more |= {} if device is None else {"device": device}
        reply = self.call(RECONNECT, username=username, token=token, **more)
        if reply.status == SUCCESS:
            self.user, self.token = username, token
        return reply


def register(port: int, *usernames: str, password: str = PASSWORD) -> None:
    """Create accounts."""
    for username in usernames:
        with Wire(port) as wire:
            reply = wire.call(REGISTER, username=username, password=password)
            assert reply.status == SUCCESS, reply


def logged_in(
    port: int, username: str, password: str = PASSWORD, features: list[str] | None = None, device: str | None = None
) -> Wire:
    """A connection on which a user has logged in."""
    wire = Wire(port)
    reply = wire.login(username, password, features, device)
    assert reply.status == SUCCESS, reply
    return wire


def found(creator: Wire, *members: str) -> None:
    """Have somebody create the group `team` with some members."""
    creator.ok(CREATE_GROUP, groupName="team")
    for member in members:
        creator.ok(ADD_MEMBER, groupName="team", member=member)


def wait_until(condition: Any, seconds: float = PATIENCE) -> None:
    """Wait until something holds that nothing on the wire tells; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
