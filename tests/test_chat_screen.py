"""The full screen, driven key by key: real chats in pseudo-terminals with a real server."""

import re

import pytest
from screen_tools import Open, opener_of_chats, port_without_pauses, two
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, DISBAND_GROUP, Wire, logged_in, register

from faults.proxy import Proxy

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)

NEW_PASSWORD = [("Present password:", "pw"), ("New password:", "secret2"), ("Once more:", "secret2")]
"""What /passwd asks, and the answers."""


def test_registering(port: int) -> None:
    """An unknown name can be registered; the password is typed twice and never shown."""
    with Terminal("alice", port=port) as alice:
        alice.wait_for("Password for alice:")
        alice.enter("secret1")
        alice.wait_for("Register alice as a new user? [y/N]")
        alice.enter("y")
        alice.wait_for("Once more:")
        alice.enter("secret1")
        alice.wait_for("Welcome, alice.", "your friend list is empty", "alice │ connected")
        alice.enter("/quit")
        assert alice.wait_for_end() == 0
        assert b"secret1" not in alice.output
    with Terminal("alice", port=port) as alice:
        alice.wait_for("Password for alice:")
        alice.enter("secret1")
        alice.wait_for("Welcome, alice.")


def test_a_wrong_password(port: int) -> None:
    """After a wrong password, registering fails: the name is taken. The password is asked again."""
    register(port, "alice")
    with Terminal(port=port) as alice:
        alice.wait_for("Name:")
        alice.enter("alice")
        alice.wait_for("Password for alice:")
        alice.enter("wrong")
        alice.wait_for("[y/N]")
        alice.enter("y")
        alice.wait_for("Once more:")
        alice.enter("wrong")
        alice.wait_for("The name alice is taken, so the password was wrong.")
        alice.wait_until(lambda: alice.screen.count("Password for alice:") == 2)
        alice.enter("pw")
        alice.wait_for("Welcome, alice.")


def test_both_chat_while_the_other_types(port: int, open_chat: Open) -> None:
    """Arriving messages do not disturb the input."""
    with two(port, open_chat) as (alice, bob):
        bob.type("half a sen")
        bob.wait_for("alice> half a sen")
        for text in ("hello bob", "how are you?", "你好，世界"):
            alice.enter(text)
            bob.wait_for(f"alice │ {text}", "alice> half a sen")
        bob.enter("tence")
        alice.wait_for("bob │ half a sentence")
        bob.wait_until(lambda: bob.input == "alice>")
        alice.wait_until(lambda: "…" not in alice.screen)


def test_messages_while_away(port: int, open_chat: Open) -> None:
    """Waiting messages are counted on the first screen and in the bar; Alt-a opens them."""
    register(port, "alice", "bob", "carol")
    with logged_in(port, "bob") as bob, logged_in(port, "carol") as carol:
        for text in ("one", "two"):
            bob.message("alice", text)
        carol.message("alice", "three")
    alice = open_chat("alice")
    alice.wait_for("while you were away: 2 from bob, 1 from carol (Alt-a goes there)", "1:bob(2) 2:carol(1)")
    alice.press("alt-a")
    alice.wait_for("bob │ one", "bob │ two", "[1:bob] 2:carol(1)")
    alice.press("alt-a")
    alice.wait_for("carol │ three", "1:bob [2:carol]")
    alice.press("alt-1")
    alice.wait_for("bob │ one", "[1:bob] 2:carol")
    alice.press("alt-0")
    alice.wait_for("Welcome, alice.")


def test_a_group_of_three(port: int, open_chat: Open) -> None:
    """A group is created with commands and completed with Tab; all members get all messages."""
    register(port, "alice", "bob", "carol")
    alice, bob, carol = open_chat("alice"), open_chat("bob"), open_chat("carol")
    alice.enter("/group create #team")
    alice.wait_for("#team is created")
    alice.enter("/to #team")
    for name, other in (("bob", bob), ("carol", carol)):
        alice.enter(f"/group add {name}")
        other.wait_for("alice invites you to #team")
        other.enter("/accept #team")
        alice.wait_for(f"-- │ {name} joined")
    alice.enter("welcome")
    for other in (bob, carol):
        other.wait_for("#team(")
        other.type("/to #")
        other.press("tab", "enter")
        other.wait_for("alice │ welcome", "#team>")
    bob.enter("hello from bob")
    alice.wait_for("bob │ hello from bob")
    carol.wait_for("bob │ hello from bob")
    carol.enter("/group list")
    carol.wait_for("#team: alice (owner), bob, carol")


def test_a_lost_connection_and_a_reconnect(port: int, open_chat: Open) -> None:
    """The input survives a lost connection, and what was entered meanwhile is sent afterwards."""
    register(port, "alice", "bob")
    with Proxy(port) as proxy, logged_in(port, "bob") as bob:
        alice = open_chat("alice", port=proxy.port)
        alice.enter("/to bob")
        alice.wait_for("bob>")
        proxy.block()
        alice.wait_until(lambda: bool(re.search(r"not connected since \d\d:\d\d, trying again", alice.bar)))
        alice.enter("are you there?")
        alice.wait_for("… alice │ are you there?", "this is sent as soon as you are connected")
        alice.type("half a sen")
        proxy.mend()
        alice.wait_for("connected again", "alice │ connected", "bob> half a sen")
        alice.wait_until(lambda: "… alice" not in alice.screen)
        assert "✗" not in alice.screen
        assert bob.contents(1) == ["are you there?"]


def test_a_takeover(port: int, open_chat: Open) -> None:
    """The first chat is told, does not reconnect, keeps its input, and can use /connect."""
    register(port, "alice")
    first = open_chat("alice")
    first.type("half a sen")
    second = open_chat("alice")
    first.wait_for("someone logged in as alice elsewhere, with", "> half a sen")
    assert first.bar.startswith(" alice │ ended: logged in elsewhere; /connect │")
    first.press("ctrl-c")
    first.enter("/to alice")
    first.enter("written")
    first.enter("meanwhile")
    first.wait_for("… alice │ written", "not connected: this is sent after /connect", "… alice │ meanwhile")
    first.enter("/connect")
    second.wait_for("someone logged in as alice elsewhere")
    first.wait_for("alice │ connected")
    first.wait_until(lambda: "…" not in first.screen)
    second.enter("/connect")
    second.wait_for("alice │ connected")
    second.enter("/to alice")
    second.wait_for("alice │ written", "alice │ meanwhile")


def test_events_of_the_server(port: int, open_chat: Open) -> None:
    """The chat shows the presence of friends, and changes of the user's groups."""
    register(port, "alice", "bob", "carol")
    alice = open_chat("alice")
    alice.enter("/add bob")
    alice.wait_for("bob is on your friend list now")
    alice.enter("/to bob")
    alice.wait_for("bob>")
    with logged_in(port, "bob") as bob:
        alice.wait_for("bob is online")
        bob.ok(CREATE_GROUP, groupName="team")
        bob.ok(ADD_MEMBER, groupName="team", member="alice")
        bob.ok(ADD_MEMBER, groupName="team", member="carol")
        alice.wait_for("2:#team")
        alice.press("alt-2")
        alice.wait_for("you are in #team with bob", "bob added carol")
        bob.ok(DISBAND_GROUP, groupName="team")
        alice.wait_for("#team was disbanded")
        bob.message("alice", "good night")
    alice.press("alt-1")
    alice.wait_for("bob is offline")


def test_names_complete(port: int, open_chat: Open) -> None:
    """A single candidate is inserted; several are shown in a menu."""
    register(port, "alice", "bob", "bella")
    with logged_in(port, "bob") as bob, logged_in(port, "bella") as bella:
        alice = open_chat("alice")
        bob.message("alice", "hello")
        alice.wait_for("1:bob(1)")
        bella.message("alice", "hello")
        alice.wait_for("1:bob(1) 2:bella(1)")
        alice.type("/t")
        alice.press("tab")
        alice.type("b")
        alice.press("tab")
        alice.wait_until(lambda: bool(re.search(r" bella .*\n.* bob ", alice.screen)))
        alice.press("tab", "tab", "enter")
        alice.wait_for("[1:bob] 2:bella(1)")


def test_an_unknown_receiver(port: int, open_chat: Open) -> None:
    """The message is marked, with the reason below it."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.enter("/to nobody")
    alice.enter("hello?")
    alice.wait_for("✗ alice │ hello?", "not delivered: no such user")
    assert "/resend" not in alice.screen
    assert alice.colour_of("✗") == "red"
    alice.enter("/quit")
    assert alice.wait_for_end() == 0
    assert b"Messages not delivered: 1 to nobody." in alice.output


def test_discarding(port: int, open_chat: Open) -> None:
    """What can never be delivered is gone, for good."""
    register(port, "alice")
    for _ in range(2):
        alice = open_chat("alice")
        assert "nobody" not in alice.bar
        alice.enter("/to nobody")
        alice.enter("hello?")
        alice.wait_for("✗ alice │ hello?")
        alice.enter("/discard")
        alice.wait_for("-- │ discarded: 1")
        assert "✗" not in alice.screen
        alice.enter("/quit")
        assert alice.wait_for_end() == 0
        assert b"Messages" not in alice.output


def test_input_is_recalled(port: int, open_chat: Open) -> None:
    """↑ and ↓ recall earlier input, but no passwords."""
    register(port, "alice", "bob")
    alice = open_chat("alice")
    alice.enter("/to bob")
    alice.enter("first")
    alice.enter("/passwd")
    alice.wait_for("Present password:")
    alice.enter("")
    alice.wait_for("nothing was changed")
    alice.press("up")
    alice.wait_for("bob> /passwd")
    alice.press("up")
    alice.wait_for("bob> first")
    alice.press("down", "down")
    alice.wait_until(lambda: alice.input == "bob>")


def test_a_new_password(port: int, open_chat: Open) -> None:
    """A new password is asked for twice, never shown, and valid at the next login."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.enter("/passwd")
    for question, answer in NEW_PASSWORD:
        alice.wait_until(lambda question=question: alice.input.startswith(question))  # type: ignore[misc]
        alice.enter(answer)
    alice.wait_for("your password was changed")
    assert b"secret2" not in alice.output
    with Wire(port) as wire:
        wire.login("alice", "secret2")
        assert wire.user == "alice"


def test_a_lost_connection_after_a_new_password(port: int, open_chat: Open) -> None:
    """The chat comes back with the token that came with the new password."""
    register(port, "alice")
    with Proxy(port) as proxy:
        alice = open_chat("alice", port=proxy.port)
        alice.enter("/passwd")
        for question, answer in NEW_PASSWORD:
            alice.wait_until(lambda question=question: alice.input.startswith(question))  # type: ignore[misc]
            alice.enter(answer)
        alice.wait_for("your password was changed")
        proxy.block()
        alice.wait_for("not connected since")
        alice.type("half a sen")
        proxy.mend()
        alice.wait_for("connected again", "> half a sen")


def test_a_draft_stays_with_its_conversation(port: int, open_chat: Open) -> None:
    """A draft stays with its conversation, and the bar marks it."""
    register(port, "alice")
    alice = open_chat("alice")
    for name in ("bob", "carol"):
        alice.enter(f"/to {name}")
    alice.wait_for("carol>")
    alice.type("dear ca")
    alice.press("alt-1")
    alice.wait_for("[1:bob] 2:carol✎")
    assert alice.input == "bob>"
    alice.press("alt-2")
    alice.wait_for("carol> dear ca")


def test_a_text_without_a_receiver_is_kept(port: int, open_chat: Open) -> None:
    """It leaves the input, so that the /to that comes next is not joined to it. With that, it comes
    back, to be sent with Enter.
    """
    register(port, "alice", "bob")
    alice = open_chat("alice", port=port)
    alice.enter("good morning")
    alice.wait_for("no receiver yet", "your text is kept", "[0:*✎]")
    alice.wait_until(lambda: alice.input == ">")
    alice.enter("/to bob")
    alice.wait_for("bob> good morning")
    assert "✎" not in alice.bar
    alice.press("enter")
    alice.wait_for("alice │ good morning", "[1:bob]")


def test_texts_without_a_receiver_are_kept_together(port: int, open_chat: Open) -> None:
    """Two of them come back as two lines, after what /to itself sends, and not over a draft."""
    register(port, "alice", "bob", "carol")
    alice = open_chat("alice", port=port)
    alice.enter("/to carol")
    alice.wait_for("carol>")
    alice.type("a draft")
    alice.press("alt-0")
    alice.wait_for("carol✎")
    for text in ("one", "two"):
        alice.enter(text)
        alice.wait_until(lambda: alice.input == ">")
    alice.press("alt-1")
    alice.wait_for("carol> a draft")
    alice.press("alt-0")
    alice.wait_for("> one", "two")
    alice.press("ctrl-c")
    alice.wait_until(lambda: alice.input == ">")
    alice.enter("three")
    alice.enter("/to bob hello")
    alice.wait_for("alice │ hello", "bob> three")


def test_a_paste_of_several_lines(port: int, open_chat: Open) -> None:
    """A pasted text is sent as one message after Enter; Alt-Enter starts a new line."""
    with two(port, open_chat) as (alice, bob):
        alice.paste("one\ntwo\n")
        alice.type("three")
        alice.press("alt-enter")
        alice.type("four")
        alice.wait_for("bob> one", "four")
        assert "one" not in bob.screen
        alice.press("enter")
        bob.wait_for("alice │ one", "      │ two", "      │ three", "      │ four")
