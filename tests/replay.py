"""Recorded conversations, replayed against a server: against Jelly, or against the stand-in for the
original.

`golden/README.md` explains the files.
"""

import contextlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    HEADER,
    LOGIN,
    NOTICE,
    RECONNECT,
    REQUEST_ERROR,
    RESPONSE,
    SERVER_BUSY,
    SERVER_ERROR,
    SUCCESS,
    UPDATE_PROFILE,
    Reply,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

GOLDEN = Path(__file__).parent / "golden"
FILES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(GOLDEN.glob("*.json"))}
CONVERSATIONS = [conversation for file in FILES.values() for conversation in file["conversations"]]

STATUSES = {
    SUCCESS: "SUCCESS",
    REQUEST_ERROR: "REQUEST_ERROR",
    SERVER_BUSY: "SERVER_BUSY",
    SERVER_ERROR: "SERVER_ERROR",
}


# --- frames as lines ------------------------------------------------------------------------------


def describe(reply: Reply) -> str:
    """One line for a frame: everything that counts, so neither the value of a token nor the order
    of a map.
    """
    values = reply.values
    if reply.sign == NOTICE and reply.status == 0:
        kind = "NOTICE"
    else:
        assert reply.sign == RESPONSE, reply
        kind = STATUSES[reply.status]
        if reply.status != SUCCESS and values:
            assert list(values) == ["error", "message"], reply
            return f"0x{reply.type:02x} {kind} {reply.error}"
    if "token" in values:
        assert type(values["token"]) is int, reply
        assert -(2**63) <= values["token"] < 2**63, reply
        values["token"] = "any"
    for name in ("friends", "groups"):
        if name in values:
            values[name] = dict(sorted(values[name].items()))
    body = to_json(values).decode() if reply.body else ""
    return f"0x{reply.type:02x} {kind} {body}".rstrip()


def recorded_reply(hex: str) -> Reply:
    """The frame of the original that stands in a step."""
    data = bytes.fromhex(hex)
    _, sign, type, status, length = HEADER.unpack_from(data)
    assert len(data) == HEADER.size + length, hex
    return Reply(sign, type, status, data[HEADER.size :])


def line_of(mark: str, what: str, code: str = "") -> str:
    """What a step says that the server does, as a line: a frame, or that it closes."""
    if mark == "+" or what == "closed":
        return what
    return f"{describe(recorded_reply(what))} {code}".rstrip()


# --- the replay -----------------------------------------------------------------------------------


class Replay(ABC):
    """The connections of one file, and what is carried from one of its conversations to the
    next.
    """

    own: ClassVar[str]
    """The mark of the steps that only this kind of server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._wires: dict[str, Wire | None] = {}  # None: this server has closed it, and the other one has not
        self._waiting: set[str] = set()  # connections on which half a frame was sent
        self._tokens: dict[bytes, bytes] = {}  # of the recording, to ours

    def prepare(self, given: dict[str, Any]) -> None:
        """Make what a file takes as given; nobody is online afterwards."""
        actors: dict[str, Wire] = {}

        def actor(user: str) -> Wire:
            if user not in actors:
                actors[user] = self.log_in(user)
            return actors[user]

        register(self._port, *given.get("users", []))
        for user, profile in given.get("profiles", {}).items():
            actor(user).ok(UPDATE_PROFILE, **profile)
        for group, (creator, *members) in given.get("groups", {}).items():
            actor(creator).ok(CREATE_GROUP, groupName=group)
            for member in members:
                actor(creator).ok(ADD_MEMBER, groupName=group, member=member)
        for sender, receiver, content, sent_at in given.get("stored", []):
            actor(sender).message(receiver, content, time=sent_at)
        for wire in actors.values():
            self._close(wire)

    def run(self, conversation: dict[str, Any]) -> None:
        """Replay one conversation and compare; then nothing more may come, and who is connected
        stays so.
        """
        wanted, heard = [], []
        for step in conversation["steps"]:
            name, what, *rest = step
            if what in ("<", self.own):
                wanted.append(self.expected(what, *rest))
                heard.append(self._hear(name, rest[0]))
                if not conversation.get("racing"):
                    assert heard == wanted, (conversation["name"], step)
                if what == self.own and rest[0] == "closed":
                    self._wires[name] = None
            elif what not in ("-", "+"):
                self._act(name, what, *rest)
        assert sorted(heard) == sorted(wanted), conversation["name"]
        for name, wire in list(self._wires.items()):
            if wire is not None and name not in self._waiting and not self.is_deaf(wire):
                fence, answer = self.fence_for(wire)
                self._send(name, fence)
                assert self._hear(name) == answer, (conversation["name"], name)

    # --- what depends on the server ---

    @abstractmethod
    def has_left(self, address: tuple[str, int]) -> bool:
        """Whether the server has noticed the end of a connection."""

    @abstractmethod
    def fence_for(self, wire: Wire) -> tuple[bytes, str]:
        """A request that changes nothing, and the answer to it."""

    def expected(self, mark: str, what: str, code: str = "") -> str:
        """The line for a step of the server's."""
        return line_of(mark, what, code)

    def heard(self, reply: Reply) -> str:
        """The line for a frame that came."""
        return describe(reply)

    def log_in(self, user: str) -> Wire:
        """A connection of a user whom the file takes to be there."""
        return logged_in(self._port, user)

    def is_deaf(self, wire: Wire) -> bool:
        """Whether the server answers nothing more on a connection that is open."""
        return False

    # --- the steps ---

    def close(self) -> None:
        for wire in self._wires.values():
            if wire is not None:
                wire.close()

    def _act(self, name: str, what: str, *rest: str) -> None:
        """Do a step of the client's."""
        if what == "opens":
            assert self._wires.get(name) is None, f"{name} is open"
            self._wires[name] = self._open(*rest)
        elif what == "ends":
            self._close(self._wires.pop(name))
        elif what == "waits":
            self._waiting.add(name)
        else:
            assert what == ">", what
            if name not in self._wires:
                self._wires[name] = self._open()
            self._waiting.discard(name)
            for piece in rest[0].split():
                self._send(name, self._with_our_tokens(bytes.fromhex(piece)))

    def _open(self, user: str = "", token: str = "") -> Wire:
        if not user:
            return Wire(self._port)
        wire = self.log_in(user)
        if token:
            self._tokens[token.encode()] = str(wire.token).encode()
        return wire

    def _send(self, name: str, data: bytes) -> None:
        wire = self._wires[name]
        if wire is not None:
            with contextlib.suppress(OSError):  # closed: what is heard next will say so
                wire.send(data)

    def _with_our_tokens(self, data: bytes) -> bytes:
        """A request with the tokens that this server gave in place of those of the recording."""
        for recorded, ours in self._tokens.items():
            if recorded in data:
                _, sign, type, status, _ = HEADER.unpack_from(data)
                data = pack(type, data[HEADER.size :].replace(recorded, ours), sign, status)
        return data

    def _hear(self, name: str, recorded: str = "") -> str:
        """The next thing that the server does on a connection, as a line."""
        wire = self._wires[name]
        if wire is None:
            return "closed"
        try:
            reply = wire.receive()
        except (EOFError, ConnectionResetError):
            self._close(self._wires.pop(name))
            return "closed"
        except TimeoutError:
            return "nothing"
        if reply.status == SUCCESS and reply.type in (LOGIN, RECONNECT):
            wire.user = reply.values.get("username", "")
            if reply.type == LOGIN:
                token = recorded_reply(recorded).values["token"]
                self._tokens[str(token).encode()] = str(reply.values["token"]).encode()
        return self.heard(reply)

    def _close(self, wire: Wire | None) -> None:
        """Close a connection, and wait until the server has noticed that its user is gone."""
        if wire is None:
            return
        address = wire.socket.getsockname()
        wire.close()
        wait_until(lambda: self.has_left(address))
