"""What is unread stays unread until it was on the screen, or printed."""

import re
import signal

import pytest
from screen_tools import Open, opener_of_chats, port_without_pauses, two
from terminal import Terminal
from wire import logged_in, register

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


def leave(chat: Terminal) -> None:
    chat.process.send_signal(signal.SIGHUP)
    assert chat.wait_for_end() == 0


def test_what_was_not_opened(port: int, open_chat: Open) -> None:
    """It has arrived in a chat that ended: the next one shows it, until it was opened."""
    register(port, "alice", "bob")
    alice = open_chat("alice")
    with logged_in(port, "bob") as bob:
        bob.message("alice", "one")
        bob.message("alice", "two")
    alice.wait_for("1:bob(2)")
    for _ in range(2):
        leave(alice)
        alice = open_chat("alice")
        alice.wait_for("1:bob(2)")
    alice.press("alt-a")
    alice.wait_for("│ one", "│ two")
    leave(alice)
    alice = open_chat("alice")
    alice.wait_for("1:bob")
    assert "bob(" not in alice.bar


def test_what_arrives_below_the_screen(port: int, open_chat: Open) -> None:
    """The conversation is open, but scrolled up: what arrives then was not read."""
    with two(port, open_chat) as (alice, bob):
        for number in range(30):
            bob.enter(f"line {number}.")
        alice.wait_for("line 29.")
        alice.press("pageup")
        alice.wait_for("more below", "line 2.")
        for number in range(3):
            bob.enter(f"later {number}.")
        bob.wait_until(lambda: "later 2." in bob.screen and "…" not in bob.screen)
        alice.press("ctrl-end")
        alice.wait_for("later 2.")
        alice.press("pageup")
        alice.wait_for("more below", "line 4.")
        for text in ("unseen", "also unseen"):
            bob.enter(text)
        bob.wait_until(lambda: "also unseen" in bob.screen and "…" not in bob.screen)
        leave(alice)
        open_chat("alice").wait_for("1:bob(2)")


def test_the_plain_mode(port: int, open_chat: Open) -> None:
    """It says what is unread, and prints it when the conversation is opened: then it is read."""
    register(port, "alice", "bob", "carol")
    alice = open_chat("alice")
    with logged_in(port, "bob") as bob:
        bob.message("alice", "one")
        bob.message("alice", "two")
        alice.wait_for("1:bob(2)")
        leave(alice)
        for printed in (["three"], ["three", "four"]):
            with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as plain:
                count = len(printed) + 1
                plain.wait_for(f"-- unread: {count} from bob (/to NAME shows them)")
                bob.message("alice", printed[-1])
                plain.wait_for(f"bob: {printed[-1]}")
                plain.enter("/to carol")
                plain.wait_for("you are writing to carol")
                plain.enter("/quit")
                assert plain.wait_for_end() == 0
    with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as plain:
        plain.wait_for("-- unread: 4 from bob")
        plain.enter("/to bob")
        plain.wait_for("bob: one", "bob: four", "end of earlier messages")
        assert re.findall("bob: (.*)", plain.screen) == ["one", "two", "three", "four"]
        plain.enter("/quit")
        assert plain.wait_for_end() == 0
    with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as plain:
        plain.wait_for("-- Welcome", "friend list is empty")
        plain.enter("/to bob")
        plain.enter("/friends")
        plain.wait_for("you are writing to bob")
        assert "unread" not in plain.screen
        assert "bob: one" not in plain.screen


def test_what_the_plain_mode_prints_is_read(port: int, open_chat: Open) -> None:
    """As soon as it is printed, if nothing older is unread."""
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        bob.message("alice", "one")
        with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as plain:
            plain.wait_for("bob: one", "friend list is empty")
            bob.message("alice", "two")
            plain.wait_for("bob: two")
            plain.enter("/quit")
            assert plain.wait_for_end() == 0
    alice = open_chat("alice")
    alice.wait_for("1:bob")
    assert "bob(" not in alice.bar
