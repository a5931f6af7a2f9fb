"""The keys of the full screen: nothing happens by accident, and each key does what it says."""

import time

import pytest
from screen_tools import Open, opener_of_chats, port_without_pauses, two
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, logged_in, register

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


def test_ctrl_c_does_not_leave(port: int, open_chat: Open) -> None:
    """Pressed again and again, it clears the input, and says once what leaves."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.type("oops")
    for _ in range(4):
        alice.press("ctrl-c")
    alice.wait_for("Ctrl-D or /quit exits")
    alice.enter("/to alice")
    alice.wait_for("alice>")
    alice.press("alt-0")
    alice.wait_until(lambda: alice.input == ">")
    assert alice.screen.count("Ctrl-D or /quit exits") == 1
    alice.enter("/to alice")
    alice.type("half a sen")
    alice.press("ctrl-c", "ctrl-c")
    alice.wait_until(lambda: alice.input == "alice>" and "Ctrl-D or /quit exits" in alice.screen)
    alice.press("up")
    alice.wait_until(lambda: alice.input == "alice> half a sen")


def test_disbanding_asks(port: int, open_chat: Open) -> None:
    """Enter, n and Ctrl-C leave the group as it is."""
    register(port, "alice", "bob")
    with logged_in(port, "alice") as classic:
        classic.ok(CREATE_GROUP, groupName="team")
        classic.ok(ADD_MEMBER, groupName="team", member="bob")
    alice = open_chat("alice")
    alice.enter("/to #team")
    alice.wait_for("#team>")
    alice.enter("/group list")  # so the chat knows how many they are
    alice.wait_for("#team: alice (owner), bob")
    question = "Disband #team with 2 members for ever? [y/N]"
    for answer in ("", "n"):
        alice.enter("/group disband")
        alice.wait_until(lambda: alice.input == question)
        alice.enter(answer)
        alice.wait_until(lambda: alice.input == "#team>")
    alice.wait_for("nothing was changed")
    alice.enter("/group disband")
    alice.wait_until(lambda: alice.input == question)
    alice.press("ctrl-c")
    alice.wait_until(lambda: alice.input == "#team>")
    alice.enter("/group disband")
    alice.wait_until(lambda: alice.input == question)
    alice.enter("y")
    alice.wait_for("#team was disbanded")


def test_disbanding_asks_in_the_plain_mode(port: int) -> None:
    """The next line is the answer."""
    register(port, "alice")
    with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("-- Welcome")
        for line in ("/group create team", "/group disband team", "n", "/group list", "/group disband team", "y"):
            alice.enter(line)
        alice.wait_for("Disband #team", "nothing was changed", "#team: alice (owner)", "#team is disbanded")


def test_ctrl_z(port: int) -> None:
    """It stops the chat, and the shell continues it; nothing is sent."""
    register(port, "alice", "bob")
    shell = '"$@"; echo; echo "the shell is here"; read; fg'
    with Terminal("alice", port=port, shell=shell, JELLY_PASSWORD="pw") as alice:
        alice.wait_for(" alice │ connected")
        alice.enter("/to bob")
        alice.wait_for("bob>")
        alice.type("before")
        alice.wait_until(lambda: "before" in alice.input)
        alice.press("ctrl-z")
        alice.wait_for("the shell is here")
        with logged_in(port, "bob") as bob:
            bob.message("alice", "while it was stopped")
        alice.press("enter")
        alice.wait_for("bob │ while it was stopped", "bob> before")
        alice.enter(" and after")
        alice.wait_for("alice │ before and after")


def test_recall_is_of_the_conversation(port: int, open_chat: Open) -> None:
    """↑ brings back nothing that was written to somebody else."""
    register(port, "alice", "bob", "carol")
    alice = open_chat("alice")
    alice.enter("/to bob")
    alice.wait_for("bob>")
    alice.enter("a secret for bob")
    alice.wait_for("│ a secret for bob")
    alice.enter("/to carol")
    alice.wait_for("carol>")
    alice.press("up", "up")
    alice.enter("hello carol")
    alice.wait_for("alice │ hello carol")
    alice.press("up")
    alice.wait_until(lambda: alice.input == "carol> hello carol")
    alice.press("ctrl-c", "alt-1")
    alice.wait_until(lambda: alice.input == "bob>")
    alice.press("up")
    alice.wait_until(lambda: alice.input == "bob> /to carol")
    alice.press("up")
    alice.wait_until(lambda: alice.input == "bob> a secret for bob")


def test_the_wheel(port: int, open_chat: Open) -> None:
    """It scrolls, and does not touch the input."""
    with two(port, open_chat) as (alice, bob):
        for number in range(40):
            bob.enter(f"line {number}.")
        alice.wait_for("line 39.")
        alice.type("draft")
        alice.press(*["wheel-up"] * 4)
        alice.wait_until(lambda: "more below" in alice.bar and "line 27." in alice.rows[-3])
        alice.press(*["wheel-down"] * 2)
        alice.wait_until(lambda: "line 33." in alice.rows[-3])
        alice.press(*["wheel-down"] * 2)
        alice.wait_until(lambda: "more below" not in alice.bar and "line 39." in alice.rows[-3])
        assert alice.input == "bob> draft"


def test_more_conversations_than_digits(port: int, open_chat: Open) -> None:
    """Alt-j and a number opens any of them; Alt-← and Alt-→ go to the next ones."""
    people = [f"p{number}" for number in range(1, 13)]
    register(port, "alice", *people)
    alice = open_chat("alice")
    for name in people[:-1]:
        alice.enter(f"/to {name}")
        alice.wait_for(f"{name}>")
    alice.press("alt-0")
    with logged_in(port, "p12") as last:
        last.message("alice", "hello", time=int(time.time() * 1000))
    alice.wait_for("p12 writes to you: Alt-j 12 goes there")
    alice.press("alt-j")
    alice.wait_until(lambda: alice.input == "Conversation number:")
    alice.enter("12")
    alice.wait_until(lambda: alice.input == "p12>")
    for keys, prompt in (("alt-right", ">"), ("alt-left", "p12>"), ("alt-left", "p11>"), ("alt-right", "p12>")):
        alice.press(keys)
        alice.wait_until(lambda prompt=prompt: alice.input == prompt)  # type: ignore[misc]
    for answer in ("99", "x", ""):
        alice.press("alt-j")
        alice.wait_until(lambda: alice.input == "Conversation number:")
        alice.enter(answer)
        alice.wait_until(lambda: alice.input == "p12>")
