"""The full screen: older messages."""

import itertools
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from screen_tools import Open, opener_of_chats, port_without_pauses
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, GROUP_MESSAGE, logged_in, register

from faults.process import Server
from jelly.chat.model import MAX_LINES

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


def test_history(port: int, open_chat: Open) -> None:
    """Opening a conversation loads its last page; PageUp at the top loads more; no row moves."""
    register(port, "alice", "bob")
    with logged_in(port, "bob", features=["ack"]) as bob, logged_in(port, "alice", features=["ack"]) as alice:
        for number in range(60):
            bob.message("alice", f"number {number}.")
            alice.ack(alice.receive_notice().values["id"])
        alice.message("bob", "my last word")
    chat = open_chat("alice", rows=24)
    chat.enter("/to bob")
    chat.wait_for("bob │ number 59.", "alice │ my last word")
    top = [f"bob │ number {number}." for number in range(11, 29)]  # the page has 49 messages of bob and one of alice
    chat.press("ctrl-home")
    chat.wait_until(lambda: all(map(str.endswith, chat.rows[1:19], top)))
    chat.wait_for("bob │ number 10.")
    chat.wait_until(lambda: all(map(str.endswith, chat.rows[1:19], top)))
    chat.press("pageup")
    chat.wait_for("bob │ number 5.")
    chat.press("ctrl-home")
    chat.wait_for("there are no earlier messages", "bob │ number 0.")
    chat.press("ctrl-end")
    chat.wait_for("alice │ my last word")
    chat.enter("/history")
    chat.wait_for("-- │ there are no earlier messages")


def test_history_of_a_group(port: int, open_chat: Open) -> None:
    """A group has a history, too; later messages appear below it, once."""
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        bob.ok(CREATE_GROUP, groupName="team")
        bob.ok(ADD_MEMBER, groupName="team", member="alice")
        with logged_in(port, "alice", features=["ack"]) as first:
            bob.message("team", "before", GROUP_MESSAGE)
            first.ack(first.receive_notice().values["id"])
            first.message("team", "mine", GROUP_MESSAGE)
        alice = open_chat("alice")
        alice.enter("/to #team")
        alice.wait_for("bob │ before", "alice │ mine")
        bob.message("team", "after", GROUP_MESSAGE)
        alice.wait_for("bob │ after")
        alice.enter("/history 3")
        alice.wait_for("there are no earlier messages")
        for text in ("bob │ before", "alice │ mine", "bob │ after"):
            assert alice.screen.count(text) == 1


def test_a_page_that_cannot_be_loaded(port: int, open_chat: Open) -> None:
    """If a page cannot be loaded, the first row says why, and PageUp tries again."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.enter("/to nobody")
    alice.wait_for("cannot load earlier messages: no such user")
    register(port, "nobody")
    alice.press("pageup")
    alice.wait_for("there are no earlier messages")


def test_a_slow_page(open_chat: Open, tmp_path: Path) -> None:
    """The first row says that a page is being loaded; afterwards no row has moved."""
    with Server(f"sqlite:///{tmp_path}/slow.db", "--classic-gap=0") as server:
        register(server.port, "alice", "bob")
        with logged_in(server.port, "alice") as wire:
            for number in range(60):
                wire.message("bob", f"number {number}.")
        alice = open_chat("alice", port=server.port)
        alice.enter("/to bob")
        alice.wait_for("number 59.")
        server.process.send_signal(signal.SIGSTOP)
        alice.press("ctrl-home")
        alice.wait_for("loading earlier messages", "number 10.", "number 27.")  # the whole screen is drawn
        shown = alice.rows[2:20]
        server.process.send_signal(signal.SIGCONT)
        alice.wait_for("number 9.")
        assert alice.rows[2:20] == shown


def test_messages_of_another_session(port: int, open_chat: Open) -> None:
    """/connect loads the messages of another session of the account, once each."""
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        alice = open_chat("alice", "--device=")
        alice.enter("/to bob")
        alice.enter("hello")
        bob.receive_notice()
        with logged_in(port, "alice", features=["ack"]) as elsewhere:
            bob.message("alice", "missed")
            elsewhere.ack(elsewhere.receive_notice().values["id"])
            elsewhere.message("bob", "from elsewhere")
            alice.wait_for("logged in as alice elsewhere")
        alice.enter("/connect")
        alice.wait_for("bob │ missed", "alice │ from elsewhere", "there are no earlier messages")
        for text in ("alice │ hello", "bob │ missed", "alice │ from elsewhere"):
            assert alice.screen.count(text) == 1


def numbers_on(chat: Terminal) -> list[int]:
    return [int(number) for number in re.findall(r"│ number (\d+)\.$", chat.screen, re.MULTILINE)]


def press_until(chat: Terminal, key: str, condition: Callable[[], bool]) -> None:
    """Press a key again and again. Each time the screen is drawn before it is looked at."""
    deadline = time.monotonic() + 60
    for number in itertools.count():
        chat.press(key)
        chat.type(f"{number}")
        chat.wait_until(lambda: chat.input == f"bob> {number}")  # noqa: B023
        chat.press("ctrl-c")
        chat.wait_until(lambda: chat.input == "bob>")
        if condition():
            return
        assert time.monotonic() < deadline


def test_more_than_the_memory_takes(port: int, open_chat: Open) -> None:
    """Everything that waited can be read, back to the first message and forth to the last one."""
    count = MAX_LINES + 150
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        for number in range(count):
            bob.message("alice", f"number {number}.")
    alice = open_chat("alice", rows=60)
    alice.enter("/to bob")
    alice.wait_for(f"number {count - 1}.")
    press_until(alice, "ctrl-home", lambda: "there are no earlier messages" in alice.screen)
    seen = set(numbers_on(alice))
    assert 0 in seen

    def is_at_the_end() -> bool:
        seen.update(numbers_on(alice))
        return "more below" not in alice.bar

    press_until(alice, "pagedown", is_at_the_end)
    assert seen == set(range(count))
    press_until(alice, "ctrl-home", lambda: "there are no earlier messages" in alice.screen)
    alice.enter("and now")
    alice.wait_for(f"number {count - 1}.", "alice │ and now")
