"""The plain mode at a terminal: a prompt, editing, and what arrives while a line is being typed."""

import pytest
from screen_tools import port_without_pauses
from terminal import Terminal
from wire import logged_in, register

port = pytest.fixture(port_without_pauses)


def last(chat: Terminal) -> str:
    """Return the last row that is not empty."""
    return next((row for row in reversed(chat.rows) if row), "")


def test_a_line_that_is_being_typed(port: int) -> None:
    """It stays whole, below what arrives, and the prompt says to whom it goes."""
    register(port, "alice", "bob")
    with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as alice, logged_in(port, "bob") as bob:
        alice.wait_for("friend list is empty")
        alice.enter("/to bob")
        alice.wait_until(lambda: last(alice) == "bob>")
        alice.type("half a sen")
        alice.wait_until(lambda: last(alice) == "bob> half a sen")
        for text in ("one", "你好"):
            bob.message("alice", text)
            alice.wait_for(f" bob: {text}")
            alice.wait_until(lambda: last(alice) == "bob> half a sen")
        alice.enter("tence")
        assert bob.contents(1) == ["half a sentence"]
        alice.wait_until(lambda: last(alice) == "bob>")
        assert alice.screen.count("half a sen") == 1
        alice.press("up")
        alice.wait_until(lambda: last(alice) == "bob> half a sentence")
        alice.enter(", too")
        assert bob.contents(1) == ["half a sentence, too"]


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_ctrl_c(terminal: str, port: int) -> None:
    """It gives up what was typed; with nothing typed it exits."""
    register(port, "alice", "bob")
    with Terminal("alice", "--plain", port=port, TERM=terminal, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("friend list is empty")
        alice.enter("/to bob")
        alice.wait_until(lambda: last(alice) == "bob>")
        alice.type("oops")
        alice.wait_until(lambda: last(alice) == "bob> oops")
        alice.press("ctrl-c")
        alice.wait_until(lambda: last(alice) == "bob>")
        alice.press("ctrl-c")
        assert alice.wait_for_end() == 0
    with logged_in(port, "bob") as bob:
        assert bob.says_nothing()


def test_completion(port: int) -> None:
    """Tab completes commands and names, as on the full screen."""
    register(port, "alice", "bob")
    with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("friend list is empty")
        alice.enter("/add bob")
        alice.wait_for("bob is on your friend list now")
        alice.wait_until(lambda: last(alice) == ">")
        alice.type("/frie")
        alice.press("tab")
        alice.wait_until(lambda: last(alice) == "> /friends")
        alice.press("enter")
        alice.wait_for("offline: bob")
        alice.wait_until(lambda: last(alice) == ">")
        alice.type("/to b")
        alice.press("tab")
        alice.wait_until(lambda: last(alice) == "> /to bob")
        alice.press("enter")
        alice.wait_until(lambda: last(alice) == "bob>")
