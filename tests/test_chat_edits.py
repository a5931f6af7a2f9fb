"""Edited and recalled messages in the chat: the user's own, and those of others."""

import io
import re

import pytest
from fake_client import MS, Chat
from harness import StartServer
from test_chat_plain import PlainChat
from wire import logged_in, register

from client_api import Edited, EditEvent, History, PastMessage
from jelly.chat import plain
from jelly.chat.commands import submit
from jelly.chat.job_queue import JobQueue
from jelly.chat.model import DeliveryStatus, Line, LineKind, Peer
from jelly.chat.rows import columns_of, rows_of


def with_own_message(language: str = "en", id: int | None = 7) -> tuple[Chat, Line]:
    """A chat with bob in which alice has written something that the server has."""
    chat = Chat(language)
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "helo")
    chat.client.answer()
    (line,) = chat.model.current.lines
    line.id = id
    return chat, line


def edited(chat: Chat, sender: str, content: str, replaces: int, group: str | None = None) -> None:
    """An author has edited a message."""
    chat.client.receiver.on_edit(EditEvent(chat.typed_client, sender, content, replaces, group, MS, 99))


@pytest.mark.parametrize(("language", "note"), [("en", "(edited)"), ("zh", "（已编辑）")])
def test_edit(language: str, note: str) -> None:
    """The last own message changes when the server has changed it."""
    chat, line = with_own_message(language)
    chat.receive("bob", "what?", id=8)
    submit(chat.session, "/edit hello  bob")
    assert chat.client.calls[-1] == ("edit", 7, "hello  bob")
    assert line.shown == "helo"
    chat.client.answer(Edited(7, 9))
    assert line.shown == f"hello  bob {note}"
    shown = "".join(text for row in rows_of(line, columns_of(chat.model.current, 80)) for _, text in row)
    assert shown.endswith(f"hello  bob {note}")


@pytest.mark.parametrize(("language", "note"), [("en", "(recalled)"), ("zh", "（已撤回）")])
def test_recall(language: str, note: str) -> None:
    """The text is gone, and the next command means the message before."""
    chat, line = with_own_message(language)
    submit(chat.session, "/recall")
    assert chat.client.calls[-1] == ("edit", 7, "")
    chat.client.answer(Edited(7, 9))
    assert line.shown == note
    submit(chat.session, "/edit x")
    assert chat.model.current.lines[-1].kind is LineKind.ERROR
    assert len(chat.client.calls) == 2


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("too_late", "/edit: a message can be changed for 15 minutes only"),
        ("no_such_message", "/edit: there is no such message"),
        ("unknown_type", "/edit: this server does not support that"),
    ],
)
def test_refused(code: str, said: str) -> None:
    """The message stays, and the reason is shown where the command was typed."""
    chat, line = with_own_message()
    submit(chat.session, "/edit x")
    where = chat.model.current
    chat.session.open(Peer("carol"))
    chat.client.refuse(code)
    assert line.shown == "helo"
    assert chat.said(where)[-1] == said


def test_nothing_to_edit() -> None:
    """Neither a message of the other one, nor one that the server does not have."""
    chat, line = with_own_message(id=None)
    chat.receive("bob", "hi", id=8)
    for command in ("/edit x", "/recall"):
        submit(chat.session, command)
        assert chat.said()[-1] == "there is no message of yours here that could be changed"
    line.id, line.status = None, DeliveryStatus.FAILED
    submit(chat.session, "/edit x")
    assert len(chat.client.calls) == 1
    submit(chat.session, "/edit")
    assert chat.said()[-1] == "usage: /edit TEXT"
    submit(chat.session, "/recall now")
    assert chat.said()[-1] == "usage: /recall"


def test_an_edit_by_somebody_else() -> None:
    """The line changes in its place. What is not here, or not that author's, changes nothing."""
    chat = Chat()
    chat.receive("bob", "helo", id=5)
    chat.receive("carol", "to all", group="team", id=6)
    bob, team = chat.model[Peer("bob")], chat.model[Peer("team", True)]
    edited(chat, "bob", "hello", 5)
    edited(chat, "bob", "x", 4)
    edited(chat, "dan", "x", 5)
    edited(chat, "dan", "x", 6, "team")
    assert [line.shown for line in bob.lines] == ["hello (edited)"]
    assert bob.character_count == len("hello")
    edited(chat, "carol", "", 6, "team")
    assert [line.shown for line in team.lines] == ["(recalled)"]
    assert list(chat.model.conversations) == [Peer("bob"), Peer("team", True)]


def test_edited_messages_of_the_history() -> None:
    """They are marked, too."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.load_history(chat.model.current)
    found = (("a", 1, None), ("b", 2, 8), ("", 3, 9))
    past = [PastMessage("bob", "alice", text, MS, id, edited=by) for text, id, by in found]
    chat.client.answer(History(tuple(past), more=False))
    assert [line.shown for line in chat.model.current.lines] == ["a", "b (edited)", "(recalled)"]


def test_the_plain_mode() -> None:
    """It prints the message again."""
    chat, target = Chat(), io.StringIO()
    plain.PlainInterface(chat.session, JobQueue(), io.StringIO(), target)
    chat.receive("bob", "helo", id=5)
    edited(chat, "bob", "hello", 5)
    assert re.findall(r"bob: (.*)", target.getvalue()) == ["helo", "hello (edited)"]


def test_on_a_server(start_server: StartServer) -> None:
    """What the chat does reaches another client."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "bob", features=["ack", "edit"]) as bob, PlainChat("alice", port) as chat:
        chat.say("/to bob helo", "/edit hello", "/recall", "/quit")
        said: list[tuple[str, bool]] = []
        while len(said) < 3:
            notice = bob.receive_notice().values
            if "content" in notice:
                said.append((notice["content"], "replaces" in notice))
        assert said == [("helo", False), ("hello", True), ("", True)]
