"""What a chat keeps until its next start: drafts, and messages that are not confirmed."""

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_client import Chat
from screen_tools import Open, opener_of_chats, port_without_pauses
from terminal import Terminal
from wire import logged_in, register

from faults.process import PATIENCE
from faults.proxy import Proxy
from jelly.chat.kept import KeptMessage, KeptTexts, kept_texts_of
from jelly.chat.model import DeliveryStatus, Peer

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)
ONE = KeptMessage("bob", "你好 \udcff", 1.5, "id-1", perhaps=True)


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with Proxy(port) as proxy:
        yield proxy


def files(home: Path) -> list[Path]:
    return sorted((home / "state").rglob("*.json"))


def kept(home: Path) -> dict[str, Any]:
    """Return what is kept; the file must be for its owner only."""
    [file] = files(home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def cut_off(chat: Terminal, proxy: Proxy) -> None:
    """Take the connection away, and wait until the chat has noticed it."""
    proxy.block()
    chat.wait_until(lambda: "not connected since" in chat.bar)


# --- the full screen ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_a_lost_terminal(number: signal.Signals, port: int, proxy: Proxy, open_chat: Open, own_home: Path) -> None:
    """What waited for the connection is shown at the next start, and arrives once; drafts come
    back, except the input that was open when the chat was killed.
    """
    register(port, "alice", "bob")
    alice = open_chat("alice", port=proxy.port)
    alice.enter("/to carol")
    alice.wait_for("carol>")
    alice.type("later")
    alice.wait_until(lambda: alice.input == "carol> later")
    alice.enter("")  # nobody has this name, so it stays marked
    alice.wait_for("no such user")
    alice.type("a draft for carol")
    alice.wait_until(lambda: "draft" in alice.input)
    alice.press("alt-0")
    alice.enter("/to bob")
    alice.wait_for("bob>")
    cut_off(alice, proxy)
    alice.enter("one")
    alice.enter("two")
    alice.wait_for("│ two")
    alice.type("unfinished")
    alice.wait_until(lambda: "unfinished" in alice.input)
    os.kill(alice.process.pid, number)
    alice.process.wait(PATIENCE)
    found = kept(own_home)
    assert [(each["to"], each["text"], each["perhaps"]) for each in found["messages"]] == [
        ("carol", "later", False), ("bob", "one", False), ("bob", "two", False)
    ]  # fmt: skip
    assert len({each["requestId"] for each in found["messages"]}) == 3
    drafts = {"carol": "a draft for carol"}
    assert found["drafts"] == (drafts if number == signal.SIGKILL else {**drafts, "bob": "unfinished"})

    proxy.mend()
    alice = open_chat("alice", port=proxy.port)
    alice.wait_for("not delivered: 1 to carol, 2 to bob")
    alice.wait_until(lambda: "1:carol✎" in alice.bar)
    alice.enter("/to bob")
    alice.wait_for("✗ alice │ one", "✗ alice │ two", "not delivered when you left")
    if number != signal.SIGKILL:
        assert alice.input == "bob> unfinished"
        alice.press("ctrl-c")
        alice.wait_until(lambda: alice.input == "bob>")
    alice.enter("/resend")
    alice.wait_until(lambda: "✗" not in alice.screen)
    with logged_in(port, "bob") as bob:
        assert bob.contents(2) == ["one", "two"]
    alice.press("alt-1")
    alice.wait_until(lambda: alice.input == "carol> a draft for carol")


def test_a_message_whose_answer_was_lost(port: int, proxy: Proxy, open_chat: Open, own_home: Path) -> None:
    """The server has it: it is sent again with its requestId, and arrives once."""
    register(port, "alice", "bob")
    alice, bob = open_chat("alice", port=proxy.port), open_chat("bob")
    alice.enter("/to bob")
    alice.wait_for("bob>")
    proxy.pause()
    alice.enter("hello")
    alice.wait_for("… alice │ hello")
    alice.process.kill()
    alice.process.wait(PATIENCE)
    [message] = kept(own_home)["messages"]
    assert (message["to"], message["text"], message["perhaps"]) == ("bob", "hello", True)
    proxy.resume()
    bob.wait_for("1:alice(1)")
    with Terminal("alice", "--plain", port=proxy.port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("? bob < hello", "perhaps delivered: 1 to bob")
        alice.enter("/to bob")
        alice.enter("/resend")
        alice.enter("last")
        bob.wait_for("1:alice(2)")
        alice.enter("/quit")
        assert alice.wait_for_end() == 0
        assert "Messages" not in alice.screen
    assert files(own_home) == []


# --- the file -------------------------------------------------------------------------------------


def test_the_file(tmp_path: Path) -> None:
    """It is there while there is something to keep, and what is damaged is ignored."""
    path = tmp_path / "a" / "b" / "chat.json"
    texts = KeptTexts(path)
    assert texts.load() == ({}, [])
    assert texts.save({"#team": "draft"}, [ONE])
    assert KeptTexts(path).load() == ({"#team": "draft"}, [ONE])
    assert list(path.parent.iterdir()) == [path]
    assert texts.save({}, [])
    assert not path.exists()
    for damaged in (b"", b"{", b"[]", b'{"drafts": 1, "messages": []}', b'{"drafts": {}, "messages": [{}]}', b"\xff"):
        path.write_bytes(damaged)
        assert KeptTexts(path).load() == ({}, [])


def test_two_chats_with_one_file(tmp_path: Path) -> None:
    """None of them removes what only the other one knows."""
    one, other = KeptTexts(tmp_path / "chat.json"), KeptTexts(tmp_path / "chat.json")
    one.save({"bob": "draft"}, [ONE])
    other.save({"carol": "draft"}, [ONE._replace(requestId="id-2")])
    assert one.load() == ({"bob": "draft", "carol": "draft"}, [ONE, ONE._replace(requestId="id-2")])
    other.save({}, [])
    assert KeptTexts(tmp_path / "chat.json").load() == ({"bob": "draft"}, [ONE])


def test_it_cannot_be_written(tmp_path: Path) -> None:
    """The reason is there for the user."""
    (tmp_path / "file").write_text("")
    texts = KeptTexts(tmp_path / "file" / "chat.json")
    assert not texts.save({}, [ONE])
    assert texts.error == "File exists"


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each user of each server has a file, whichever address comes first."""
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {
        kept_texts_of(environment, addresses, user, device)._path
        for environment in ({}, {"XDG_STATE_HOME": "relative"}, {"XDG_STATE_HOME": str(tmp_path / ".local/state")})
        for addresses, user, device in (
            (("a:1", "b:1"), "alice", ""), (("b:1", "a:1"), "alice", ""), (("a:1",), "alice", ""),
            (("a:1",), "bob", ""), (("a:1",), "bob", "desk"),
        )
    }  # fmt: skip
    assert len(paths) == 4
    assert {path.parent for path in paths if path} == {tmp_path / ".local" / "state" / "jelly"}


def test_a_confirmed_message_is_not_kept(tmp_path: Path) -> None:
    """Neither is one that turns up in the history; what is sent again keeps its requestId."""
    chat = Chat()
    chat.session.kept = KeptTexts(tmp_path / "chat.json")
    talk = chat.model[Peer("bob")]
    chat.session.send(talk, "one")
    chat.session.send(talk, "two")
    assert [message.text for message in KeptTexts(tmp_path / "chat.json").load()[1]] == ["one", "two"]
    chat.client.answer()
    chat.client.refuse("inbox_full")
    [message] = KeptTexts(tmp_path / "chat.json").load()[1]
    assert (message.text, message.perhaps) == ("two", False)
    chat.session.resend(talk)
    first, second, again = chat.client.request_ids
    assert (first != second, again) == (True, second)
    chat.client.refuse("request_id_reused")
    chat.session.resend(talk)
    assert chat.client.request_ids[-1] not in (first, second)
    talk.lines[-1].status = DeliveryStatus.NONE
    assert chat.session.keep()
    assert not (tmp_path / "chat.json").exists()


def test_leaving_where_nothing_can_be_kept(port: int, own_home: Path) -> None:
    """The chat says so, and to whom what was not delivered."""
    register(port, "alice")
    own_home.mkdir()
    (own_home / "state").write_text("")
    with Terminal("alice", "--plain", port=port, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("-- Welcome, alice")
        alice.enter("/to nobody")
        alice.enter("hello?")
        alice.wait_for("no such user")
        alice.enter("/quit")
        assert alice.wait_for_end() == 0
        alice.wait_until(lambda: "write them again." in alice.screen)
        assert "Messages not delivered: 1 to nobody." in alice.screen
        assert "They cannot be kept (Not a directory): write them again." in alice.screen.replace("\n", "")
