"""A quiet chat: closed conversations, ignored people, presence, the list at the side."""

import pytest
from fake_client import Chat
from screen_tools import Open, opener_of_chats, port_without_pauses, two
from wire import ADD_MEMBER, CREATE_GROUP, GROUP_MESSAGE, logged_in, register

from client_api import Conversation as Listed
from client_api import History, LastMessage, PastMessage
from jelly.chat.commands import submit
from jelly.chat.kept import KeptTexts
from jelly.chat.model import HistoryState, Peer

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


def test_presence_without_a_word() -> None:
    """Who comes and goes, or goes and comes back, leaves no lines; around messages they stay."""
    chat = Chat()
    chat.model.friends["bob"] = False
    talk = chat.model[Peer("bob")]
    for online in (True, False, True):
        chat.system("presence", friend="bob", online=online)
    assert chat.said(talk) == ["bob is online"]
    chat.receive("bob", "hello")
    for online in (False, True, False):
        chat.system("presence", friend="bob", online=online)
    assert chat.said(talk) == ["bob is online", "hello", "bob is offline"]


def test_closing() -> None:
    """The conversation is gone until a message comes; one with undelivered messages stays."""
    chat = Chat()
    chat.receive("bob", "hello", id=5)
    chat.session.open(Peer("bob"))
    listed = Listed("bob", False, LastMessage(5, "bob", "hello", 1), 0, 5)
    submit(chat.session, "/close")
    assert (chat.model.current, list(chat.model.conversations)) == (chat.model.home, [])
    chat.session._set_conversations([listed])
    assert list(chat.model.conversations) == []
    chat.receive("bob", "again", id=6)
    assert list(chat.model.conversations) == [Peer("bob")]
    chat.session.open(Peer("bob"))
    submit(chat.session, "mine")
    chat.client.refuse("inbox_full")
    submit(chat.session, "/close")
    assert chat.said()[-1].startswith("messages are marked ✗ or ? here")
    chat.session.open_conversation(chat.model.home)
    submit(chat.session, "/close")
    assert chat.said()[-1].startswith("no receiver yet")


def test_clearing() -> None:
    """Nothing is shown but what is not confirmed; loading begins with what was there."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    talk = chat.model.current
    for id in (5, 6):
        chat.receive("bob", f"m{id}", id=id)
    submit(chat.session, "mine")
    submit(chat.session, "/clear")
    assert chat.said() == ["mine"]
    assert (talk.history_cursor, talk.history_state, talk.is_history_requested) == (7, HistoryState.MAYBE_MORE, True)
    assert talk.character_count == 4


def test_ignoring(tmp_path: object) -> None:
    """Nothing of the person is shown, in groups and alone, and it is remembered."""
    chat = Chat()
    chat.session.kept = KeptTexts(tmp_path / "chat.json")  # type: ignore[operator]
    submit(chat.session, "/ignore")
    submit(chat.session, "/ignore bob")
    assert chat.said() == [
        "you ignore nobody", "bob is ignored: nothing of that is shown here. /ignore bob ends it"
    ]  # fmt: skip
    chat.receive("bob", "hello")
    chat.receive("bob", "hello", group="team")
    chat.session._set_conversations([Listed("bob", False, LastMessage(5, "bob", "x", 1), 1, 0)])
    assert list(chat.model.conversations) == []
    chat.session.open(Peer("team", True))
    chat.system("typing", user="bob", group="team")
    assert chat.session.who_is_typing() == []
    chat.session.load_history(chat.model.current)
    page = [PastMessage(name, "team", f"of {name}", 1, id) for id, name in enumerate(("bob", "carol"), 1)]
    chat.client.answer(History(tuple(page), False))
    assert chat.said() == ["of carol"]
    again = KeptTexts(tmp_path / "chat.json")  # type: ignore[operator]
    assert again.load() == ({}, [])
    assert again.ignored == {"bob"}
    submit(chat.session, "/ignore")
    submit(chat.session, "/ignore bob")
    assert chat.said()[1:] == ["ignored: bob", "bob is not ignored any more"]
    chat.receive("bob", "hello", group="team")
    assert chat.said()[-1] == "hello"


def test_the_list_at_the_side(port: int, open_chat: Open) -> None:
    """It is there from 100 columns on: conversations, what is unread, members, who is online."""
    register(port, "alice", "bob", "carol")
    with logged_in(port, "alice") as classic:
        classic.ok(CREATE_GROUP, groupName="team")
        for name in ("bob", "carol"):
            classic.ok(ADD_MEMBER, groupName="team", member=name)
    alice = open_chat("alice", columns=120, rows=30)
    for name in ("bob", "carol"):
        alice.enter(f"/add {name}")
        alice.wait_for(f"{name} is on your friend list now")
    with logged_in(port, "bob") as bob:
        bob.message("team", "hello", GROUP_MESSAGE)
        bob.message("alice", "hello")
        alice.enter("/to #team")
        alice.wait_for("│ 1 # team", "│ 2 ● bob (1)", "│ ● alice", "│ ● bob", "│ ○ carol", "bob │ hello")
        assert max(map(len, alice.rows)) <= 120
        assert all(row[96] == "│" for row in alice.rows[:6])
        alice.resize(99, 30)
        alice.wait_until(lambda: "● alice" not in alice.screen)
        alice.wait_for("bob │ hello")
        alice.resize(100, 30)
        alice.wait_for("│ ● alice")


def test_closing_on_the_screen(port: int, open_chat: Open) -> None:
    """/close and /clear, and what comes then."""
    with two(port, open_chat) as (alice, bob):
        bob.enter("one")
        alice.wait_for("bob │ one")
        alice.enter("/clear")
        alice.wait_until(lambda: "one" not in alice.screen)
        bob.enter("two")
        alice.wait_for("bob │ two")
        assert "one" not in alice.screen
        alice.press("pageup")
        alice.wait_for("bob │ one")
        alice.enter("/close")
        alice.wait_until(lambda: alice.input == ">" and "bob" not in alice.bar)
        bob.enter("three")
        alice.wait_for("1:bob(1)")
