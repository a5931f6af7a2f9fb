"""Conversations with the original server, replayed: Jelly answers the same, or as the list of differences says.

`golden/README.md` explains the files. The gap between two frames to a classic client is off in a replay: then
everything is written at once, and a fence shows that nothing more comes.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    HEADER,
    LOGIN,
    NOTICE,
    RECONNECT,
    REMOVE_FRIEND,
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

from jelly.server import JellyServer

GOLDEN = Path(__file__).parent / "golden"
PAGE = Path(__file__).parent.parent / "docs" / "differences.md"
FILES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(GOLDEN.glob("*.json"))}
CONVERSATIONS = [conversation for file in FILES.values() for conversation in file["conversations"]]

STATUSES = {
    SUCCESS: "SUCCESS",
    REQUEST_ERROR: "REQUEST_ERROR",
    SERVER_BUSY: "SERVER_BUSY",
    SERVER_ERROR: "SERVER_ERROR",
}
NO_TYPE = 0x7F


# --- frames as lines ----------------------------------------------------------------------------------------


def describe(reply: Reply) -> str:
    """One line for a frame: everything that counts, so neither the value of a token nor the order of a map."""
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


# --- the replay ---------------------------------------------------------------------------------------------


class Replay:
    """The connections of one file, and what is carried from one of its conversations to the next."""

    def __init__(self, server: JellyServer) -> None:
        self._server = server
        self._wires: dict[str, Wire | None] = {}  # None: Jelly has closed it, and the original had not
        self._waiting: set[str] = set()  # connections on which half a frame was sent
        self._tokens: dict[bytes, bytes] = {}  # of the recording, to ours

    def prepare(self, given: dict[str, Any]) -> None:
        """Make what a file takes as given; nobody is online afterwards."""
        actors: dict[str, Wire] = {}

        def actor(user: str) -> Wire:
            if user not in actors:
                actors[user] = logged_in(self._server.port, user)
            return actors[user]

        register(self._server.port, *given.get("users", []))
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
        """Replay one conversation and compare; then nothing more may come, and who is connected stays so."""
        wanted, heard = [], []
        for step in conversation["steps"]:
            name, what, *rest = step
            if what in ("<", "+"):
                wanted.append(line_of(what, *rest))
                heard.append(self._hear(name, rest[0]))
                if not conversation.get("racing"):
                    assert heard == wanted, (conversation["name"], step)
                if what == "+" and rest[0] == "closed":
                    self._wires[name] = None
            elif what != "-":
                self._act(name, what, *rest)
        assert sorted(heard) == sorted(wanted), conversation["name"]
        for name, wire in list(self._wires.items()):
            if wire is not None and name not in self._waiting:
                fence, answer = fence_for(wire)
                self._send(name, fence)
                assert self._hear(name) == answer, (conversation["name"], name)

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
            return Wire(self._server.port)
        wire = logged_in(self._server.port, user)
        if token:
            self._tokens[token.encode()] = str(wire.token).encode()
        return wire

    def _send(self, name: str, data: bytes) -> None:
        wire = self._wires[name]
        if wire is not None:
            with contextlib.suppress(OSError):  # closed: what is heard next will say so
                wire.send(data)

    def _with_our_tokens(self, data: bytes) -> bytes:
        """A request with the tokens that Jelly gave in place of those of the recording."""
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
            wire.user = reply.values["username"]
            if reply.type == LOGIN:
                token = recorded_reply(recorded).values["token"]
                self._tokens[str(token).encode()] = str(reply.values["token"]).encode()
        return describe(reply)

    def _close(self, wire: Wire | None) -> None:
        """Close a connection, and wait until the server has noticed that its user is gone."""
        if wire is None:
            return
        address = wire.socket.getsockname()
        wire.close()
        wait_until(lambda: all(c.client_address != address for c in tuple(self._server.connections)))


def fence_for(wire: Wire) -> tuple[bytes, str]:
    """A request that changes nothing, and the answer to it.

    Where somebody is logged in it takes the way through the store, as messages do: so what was sent before it
    stands before its answer.
    """
    if wire.user:
        body = to_json({"username": wire.user, "friend": "nobody-at-all"})
        return pack(REMOVE_FRIEND, body), f"0x{REMOVE_FRIEND:02x} REQUEST_ERROR not_friends"
    return pack(NO_TYPE), f"0x{NO_TYPE:02x} REQUEST_ERROR unknown_type"


@contextlib.contextmanager
def replay_of(server: JellyServer) -> Iterator[Replay]:
    replay = Replay(server)
    try:
        yield replay
    finally:
        replay.close()


@pytest.mark.parametrize("name", FILES)
def test_replay(start_server: StartServer, name: str) -> None:
    """Jelly answers each recorded conversation as the original did, or exactly as the file says that it differs."""
    file = FILES[name]
    with replay_of(start_server(classic_gap=0, **file.get("settings", {}))) as replay:
        replay.prepare(file.get("given", {}))
        for conversation in file["conversations"]:
            replay.run(conversation)


# --- the list of differences --------------------------------------------------------------------------------


def side(conversation: dict[str, Any], mark: str) -> dict[str, list[str]]:
    """What one of the servers does in a conversation, by connection; errors without their codes."""
    lines: dict[str, list[str]] = {}
    for name, what, *rest in conversation["steps"]:
        if what in ("<", mark):
            line = line_of(what, rest[0])
            error = re.match(r"0x\w\w \w+_(ERROR|BUSY)\b", line)
            lines.setdefault(name, []).append(error[0] if error else line)
    return lines


def rows() -> dict[str, list[str]]:
    """The rows of the page's table: the name of each, and the patterns of the conversations that show it."""
    table = PAGE.read_text(encoding="utf-8").split("\n## In the recordings\n")[1].split("\n## ")[0]
    found = {}
    for line in re.findall(r"^\| `.*$", table, re.M):
        name, recorded, *others = line.strip("| ").split(" | ")
        assert len(others) == 3, line
        assert all(others), line
        assert name.strip("`") not in found, f"{name} has two rows"
        found[name.strip("`")] = re.findall(r"`([\w*]+)`", recorded)
    return found


def test_names_are_unique() -> None:
    """No two conversations have the same name, so the table can refer to them."""
    names = [conversation["name"] for conversation in CONVERSATIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("file", FILES)
def test_what_differs_is_explained(file: str) -> None:
    """A conversation names a difference exactly if the two servers do not do the same in it."""
    for conversation in FILES[file]["conversations"]:
        is_different = side(conversation, "-") != side(conversation, "+")
        assert is_different == bool(conversation.get("differs")), conversation["name"]
        marks = {step[1] for step in conversation["steps"]}
        assert is_different == bool(marks & {"-", "+"}), conversation["name"]


def test_the_page_lists_the_differences() -> None:
    """The table of the page has each difference of each conversation, and no others."""
    in_data = {(row, conversation["name"]) for conversation in CONVERSATIONS for row in conversation.get("differs", [])}
    on_page = {
        (row, conversation["name"])
        for row, patterns in rows().items()
        for conversation in CONVERSATIONS
        if any(fnmatchcase(conversation["name"], pattern) for pattern in patterns)
    }
    assert on_page == in_data


def test_the_page_names_nothing_else() -> None:
    """Each name or pattern in the table is that of a conversation."""
    names = [conversation["name"] for conversation in CONVERSATIONS]
    for patterns in rows().values():
        assert patterns
        for pattern in patterns:
            assert any(fnmatchcase(name, pattern) for name in names), pattern
