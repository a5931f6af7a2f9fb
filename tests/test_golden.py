"""Conversations with the original server, replayed: Jelly answers the same, or as the list of
differences says.

`golden/README.md` explains the files. The gap between two frames to a classic client is off in a
replay: then everything is written at once, and a fence shows that nothing more comes.
"""

import contextlib
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer
from replay import CONVERSATIONS, FILES, Replay, line_of
from wire import REMOVE_FRIEND, Wire, pack, to_json

from jelly.server import JellyServer

PAGE = Path(__file__).parent.parent / "docs" / "differences.md"
NO_TYPE = 0x7F


# --- the replay -----------------------------------------------------------------------------------


class JellyReplay(Replay):
    """Conversations with Jelly."""

    own = "+"

    def __init__(self, server: JellyServer) -> None:
        super().__init__(server.port)
        self._server = server

    def has_left(self, address: tuple[str, int]) -> bool:
        return all(c.client_address != address for c in tuple(self._server.connections))

    def fence_for(self, wire: Wire) -> tuple[bytes, str]:
        """Where somebody is logged in it takes the way through the store, as messages do.

        So what was sent before it stands before its answer.
        """
        if wire.user:
            body = to_json({"username": wire.user, "friend": "nobody-at-all"})
            return pack(REMOVE_FRIEND, body), f"0x{REMOVE_FRIEND:02x} REQUEST_ERROR not_friends"
        return pack(NO_TYPE), f"0x{NO_TYPE:02x} REQUEST_ERROR unknown_type"


@pytest.mark.parametrize("name", FILES)
def test_replay(start_server: StartServer, name: str) -> None:
    """Jelly answers each recorded conversation as the original did, or exactly as the file says
    that it differs.
    """
    file = FILES[name]
    server = start_server(classic_gap=0, **file.get("settings", {}))
    with contextlib.closing(JellyReplay(server)) as replay:
        replay.prepare(file.get("given", {}))
        for conversation in file["conversations"]:
            replay.run(conversation)


# --- the list of differences ----------------------------------------------------------------------


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
    """The rows of the page's table: the name of each, and the patterns of the conversations that
    show it.
    """
    table = PAGE.read_text(encoding="utf-8").split("\n## In the recordings\n")[1].split("\n## ")[0]
    found = {}
    for line in re.findall(r"^\| `.*$", table, re.MULTILINE):
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
