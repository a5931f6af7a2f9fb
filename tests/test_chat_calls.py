"""The chat calls its user: the bell, the title, the user's name, a command."""

import os
import shlex
import sys
import time
from pathlib import Path

import pytest
from fake_client import NOW
from screen_tools import Open, opener_of_chats, port_without_pauses
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, GROUP_MESSAGE, Wire, logged_in, register, wait_until

from jelly.chat.model import Line, LineKind, Peer
from jelly.chat.notify_command import NotifyCommand
from jelly.chat.session import mentions

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


def say(bob: Wire, receiver: str, text: str, type: int = 0x15) -> None:
    bob.message(receiver, text, type, time=int(time.time() * 1000))


def team_of(port: int) -> None:
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        bob.ok(CREATE_GROUP, groupName="team")
        bob.ok(ADD_MEMBER, groupName="team", member="alice")


def test_the_bell_and_the_title(port: int, open_chat: Open) -> None:
    """They tell of a message to the user, and of one with the user's name; others only count."""
    team_of(port)
    alice = open_chat("alice")
    with logged_in(port, "bob") as bob:
        say(bob, "team", "hello all", GROUP_MESSAGE)
        alice.wait_for("#team(1)")
        assert b"\x07" not in alice.output.replace(b"- Jelly\x07", b"")
        say(bob, "team", "Alice, are you there?", GROUP_MESSAGE)
        alice.wait_for("#team(2, 1!)")
        assert alice.output.replace(b"- Jelly\x07", b"").count(b"\x07") == 1
        say(bob, "alice", "hello")
        alice.wait_for(":bob(1)")
        assert alice.output.replace(b"- Jelly\x07", b"").count(b"\x07") == 2
        alice.wait_until(lambda: b"\x1b]2;(3) alice - Jelly\x07" in alice.output)
        alice.enter("/to #team")
        alice.wait_for("│ Alice, are you there?")
        assert alice.colour_of("bob │ Alice") == "red"
        assert alice.colour_of("bob │ hello all") != "red"
        say(bob, "team", "alice!", GROUP_MESSAGE)
        alice.wait_for("│ alice!")
        assert alice.output.replace(b"- Jelly\x07", b"").count(b"\x07") == 2  # it is in sight
    alice.enter("/quit")
    assert alice.wait_for_end() == 0
    assert alice.output.rindex(b"\x1b]2;\x07") > alice.output.rindex(b"alice - Jelly\x07")


def test_a_quiet_chat(port: int, open_chat: Open, own_home: Path) -> None:
    """Each of it can be turned off."""
    team_of(port)
    file = own_home / "config" / "jelly" / "chat.toml"
    file.parent.mkdir(parents=True)
    file.write_text("bell = false\ntitle = false\nhighlight = false\n")
    alice = open_chat("alice")
    with logged_in(port, "bob") as bob:
        say(bob, "alice", "hello")
        say(bob, "team", "alice!", GROUP_MESSAGE)
        alice.wait_for("#team(1)", ":bob(1)")
    assert b"\x07" not in alice.output
    assert b"\x1b]2;" not in alice.output


SHOW = """
import os, sys
open(sys.argv[1], "a").write(repr(sorted(each for each in os.environ.items() if each[0].startswith("JELLY_"))))
"""
WAIT = "import sys; open(sys.argv[1], 'a').write('x'); open(sys.argv[2]).read()"


@pytest.mark.parametrize("more", [(), ("--notify-content",), ("--plain",)])
def test_notify(more: tuple[str, ...], port: int, tmp_path: Path) -> None:
    """The command gets who and how many, the text only if that is wanted, never the password."""
    register(port, "alice", "bob")
    file = tmp_path / "it's called"
    command = shlex.join([sys.executable, "-c", SHOW, str(file), "$(touch x); `x`"])
    with Terminal("alice", "--notify", command, *more, port=port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("Welcome, alice", "friend list is empty")
        with logged_in(port, "bob") as bob:
            say(bob, "alice", "hello; you")
        wait_until(lambda: file.exists() and file.read_text())
    expected = [("JELLY_CONVERSATION", "bob"), ("JELLY_COUNT", "1"), ("JELLY_FROM", "bob")]
    if more == ("--notify-content",):
        expected.append(("JELLY_TEXT", "hello; you"))
    assert file.read_text() == repr(expected)


def test_a_command_that_is_not_there(port: int) -> None:
    """The chat says so once."""
    register(port, "alice", "bob")
    with Terminal("alice", "--notify", "/no/such", "--plain", port=port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("Welcome, alice", "friend list is empty")
        with logged_in(port, "bob") as bob:
            say(bob, "alice", "one")
            say(bob, "alice", "two")
        alice.wait_for("!! --notify: No such file or directory: /no/such", "bob: two")
        assert alice.screen.count("--notify") == 1
    with Terminal("alice", "--notify", "a 'b", port=port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("jelly: --notify: No closing quotation.")
        assert alice.wait_for_end() == 2


def test_a_command_that_runs(tmp_path: Path) -> None:
    """It is not started a second time meanwhile, and again later."""
    started, fifo = tmp_path / "started", tmp_path / "fifo"
    os.mkfifo(fifo)
    command = NotifyCommand(shlex.join([sys.executable, "-c", WAIT, str(started), str(fifo)]), False)
    line = Line(LineKind.INCOMING, NOW, "x", "bob")
    for count in (1, 2):
        for _ in range(3):
            command.run(Peer("bob"), line, 1)
        fifo.write_text("")  # it waits for the command to read
        assert command._process
        command._process.wait(10)
        assert started.read_text() == "x" * count
    with pytest.raises(ValueError, match="empty"):
        NotifyCommand(" ", False)


@pytest.mark.parametrize(
    ("text", "name", "is_mention"),
    [
        ("alice: hi", "alice", True), ("Hi ALICE!", "alice", True), ("malice", "alice", False),
        ("alice2", "alice", False),
        ("王小明在吗", "王小明", True), ("a.b?", "a.b", True), ("axb", "a.b", False), ("", "alice", False),
        ("@alice", "alice", True), ("anything", "", False),
    ],
)  # fmt: skip
def test_mentions(text: str, name: str, is_mention: bool) -> None:
    """A name is a word of its own."""
    assert mentions(text, name) == is_mention
