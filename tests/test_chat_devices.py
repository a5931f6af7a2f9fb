"""The chat on several devices of one user: own lines, what was read elsewhere, and gaps."""

import io
import re
from collections.abc import Iterator

import pytest
from fake_client import MS, Chat
from harness import StartServer, ready_database, run_here
from screen_tools import Open, opener_of_chats
from test_chat_plain import PlainChat, send
from test_devices import has_got, is_empty, take
from wire import LOGINS, NODES, PERSON_MESSAGE, logged_in, register

from client_api import (
    ConnectionLost,
    Conversation,
    EditEvent,
    History,
    LastMessage,
    OwnMessageEvent,
    PastMessage,
    Sent,
)
from jelly import devices
from jelly.chat import plain
from jelly.chat.arguments import device_of_machine, parse
from jelly.chat.job_queue import JobQueue
from jelly.chat.model import DeliveryStatus, LineKind, Peer
from jelly.names import is_valid_name

DEVICES = ["ack", "read", "devices", "account"]


# --- the name of a device -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "device"),
    [
        ("desk", "desk"),
        ("alices-mac.local", "alices-mac.local"),
        ("Bob's PC", "Bob'sPC"),
        ("桌面", "桌面"),
        ("x" * 40, "x" * 32),
        ("\u0301desk", "desk"),
        ("cafe\u200d\u0301", "café"),
        (" \t\x1b", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_machine(host: str, device: str) -> None:
    """What no name can have is left out."""
    found = device_of_machine(host)
    assert found == device
    assert not found or is_valid_name(found)


def test_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is the machine, and none for --send."""
    monkeypatch.setattr("socket.gethostname", lambda: "my desk")
    assert parse(["alice"], {}).device == "mydesk"
    assert parse(["alice", "--device", "phone"], {}).device == "phone"
    assert parse(["alice", "--device", ""], {}).device == ""
    assert parse(["alice", "--send", "bob", "x"], {}).device == ""
    assert parse(["alice", "--send", "bob", "x", "--device=pi"], {}).device == "pi"


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "jelly: --device: my phone cannot be a name: it must have 1 to 32 characters, and no spaces."),
        ("zh", "jelly: --device：my phone 不能用作设备名：应有 1 到 32 个字符，且不含空格。"),
    ],
)
def test_a_device_that_cannot_be(language: str, said: str) -> None:
    """One sentence, before anything else happens."""
    done = run_here("chat", "alice", "--device=my phone", f"--lang={language}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)


# --- the session ----------------------------------------------------------------------------------


def wrote(chat: Chat, content: str, id: int, receiver: str = "bob", group: str | None = None) -> None:
    """Alice has written something on another device."""
    event = OwnMessageEvent(chat.typed_client, "alice", content, MS, id, group or receiver, group)
    chat.client.receiver.on_own_message(event)


def test_own_messages_from_elsewhere() -> None:
    """They are own lines in their conversations, which they open if need be, and never unread."""
    chat = Chat()
    chat.receive("bob", "hello", id=5)
    wrote(chat, "hi", 6)
    wrote(chat, "hi all", 7, group="team")
    talk, team = chat.model[Peer("bob")], chat.model[Peer("team", True)]
    assert [(line.kind, line.sender, line.text, line.id) for line in talk.lines] == [
        (LineKind.INCOMING, "bob", "hello", 5),
        (LineKind.OUTGOING, "alice", "hi", 6),
    ]
    assert chat.said(team) == ["hi all"]
    assert (talk.unread, team.unread, chat.client.marked) == (1, 0, [])
    assert chat.said() == ["bob writes to you: Alt-1 goes there"]
    wrote(chat, "hi", 6)
    assert chat.said(talk) == ["hello", "hi"]


def test_a_note_to_oneself() -> None:
    """It is one line here, whichever comes first: the answer or the message itself."""
    chat = Chat()
    chat.session.open(Peer("alice"))
    chat.session.send(chat.model.current, "milk")
    wrote(chat, "milk", 6, receiver="alice")
    chat.client.answer()
    wrote(chat, "eggs", 7, receiver="alice")
    chat.session.send(chat.model.current, "bread")
    chat.client._open.pop(0)[1].set_result(Sent("alice", MS, 8))
    wrote(chat, "bread", 8, receiver="alice")
    assert [(line.text, line.id, line.status) for line in chat.model.current.lines] == [
        ("milk", 6, DeliveryStatus.NONE),
        ("eggs", 7, DeliveryStatus.NONE),
        ("bread", 8, DeliveryStatus.NONE),
    ]


def test_the_same_text_to_somebody_else() -> None:
    """Only a note to oneself comes back to where it was written."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "ok")
    wrote(chat, "ok", 6)
    assert chat.said() == ["ok", "ok"]


@pytest.mark.parametrize(("content", "shown"), [("hello", "hello (edited)"), ("", "(recalled)")])
def test_own_edits_from_elsewhere(content: str, shown: str) -> None:
    """The line changes, if it is here."""
    chat = Chat()

    def edited(replaces: int, receiver: str, group: str | None = None) -> None:
        event = EditEvent(chat.typed_client, "alice", content, replaces, group, MS, 99, None, receiver)
        chat.client.receiver.on_own_edit(event)

    wrote(chat, "helo", 6)
    wrote(chat, "helo", 7, group="team")
    edited(6, "bob")
    edited(7, "team", "team")
    edited(8, "bob")
    edited(6, "carol")
    lines = [line.shown for each in chat.model for line in each.lines]
    assert lines == [shown, shown]


def test_an_own_line_can_be_edited_here() -> None:
    """/recall means it, too."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    wrote(chat, "helo", 6)
    line = chat.model.current.last_own_message()
    assert line is not None
    assert (line.id, line.text) == (6, "helo")


def test_what_was_read_elsewhere() -> None:
    """It is not unread any more; what came later is."""
    chat = Chat()
    for id in (5, 6, 7):
        chat.receive("bob", f"m{id}", id=id)
    chat.receive("carol", "hi all", group="team", id=8)
    talk, team = chat.model[Peer("bob")], chat.model[Peer("team", True)]
    chat.system("own_read", user="bob", id=6)
    assert (talk.unread, talk.first_unread) == (1, talk.lines[2])
    chat.system("own_read", group="team", id=8)
    chat.system("own_read", user="bob", id=5)  # it never goes back
    chat.system("own_read", user="nobody", id=5)
    assert (talk.unread, team.unread, team.first_unread) == (1, 0, None)
    chat.session.open(Peer("bob"))
    assert len(chat.model.conversations) == 2


def test_what_was_read_elsewhere_before_it_came_here() -> None:
    """It is not unread when it comes."""
    chat = Chat()
    chat.receive("bob", "one", id=5)
    chat.system("own_read", user="bob", id=7)
    chat.receive("bob", "two", id=6)
    chat.receive("bob", "three", id=7)
    talk = chat.model[Peer("bob")]
    assert talk.unread == 0
    chat.receive("bob", "four", id=8)
    assert talk.unread == 1


def listed(unread: int, read: int, last: int = 5) -> Conversation:
    return Conversation("bob", False, LastMessage(last, "bob", "x", MS), unread, read)


def test_the_list_of_the_server() -> None:
    """What waits for this device, and was read on another one, is not unread."""
    chat = Chat()
    chat.client.listed = (listed(0, read=7),)
    for id in (6, 7, 8):
        chat.receive("bob", f"m{id}", id=id)
    chat.session.refresh()
    assert chat.model[Peer("bob")].unread == 1


def test_what_is_not_all_here() -> None:
    """Then the server is asked what is left."""
    chat = Chat()
    chat.client.listed = (listed(4, read=1),)
    chat.session.refresh()
    talk = chat.model[Peer("bob")]
    assert talk.unread == 4
    chat.client.listed = (listed(2, read=3),)
    chat.system("own_read", user="bob", id=3)
    assert talk.unread == 2
    chat.client.listed = ()
    chat.system("own_read", user="bob", id=5)
    assert talk.unread == 0


def page(*messages: tuple[int, str], more: bool = False) -> History:
    return History(tuple(PastMessage("bob", "alice", text, MS, id) for id, text in messages), more)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "this device was away for so long that messages may be missing here; /history shows them"),
        ("zh", "本设备离线太久，这里可能缺少一些消息；用 /history 查看"),
    ],
)
def test_a_gap(language: str, said: str) -> None:
    """The chat says so, once, and closes it from the history."""
    chat = Chat(language)
    chat.session.open(Peer("bob"))
    chat.receive("bob", "before", id=5)
    chat.receive("carol", "x", id=6)
    chat.system("gap", since=7)
    assert chat.client.calls == [("history", "bob", {"before": None, "limit": 50})]
    chat.receive("bob", "after", id=12)
    chat.client.answer(page((5, "before"), (8, "missed"), (9, "missed too"), (12, "after")))
    assert [line.text for line in chat.model.current.lines if line.id] == ["before", "missed", "missed too", "after"]
    assert chat.said().count(said) == 1
    chat.system("gap", since=7)  # it comes with each login, until a message has come
    assert chat.said().count(said) == 1
    chat.system("gap", since=20)
    assert chat.said().count(said) == 2
    assert chat.model[Peer("carol")].gap is not None  # closed when it is opened


def test_a_gap_while_the_history_is_read() -> None:
    """It is not read twice."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.load_history(chat.model.current)
    chat.system("gap", since=7)
    assert len(chat.client.calls) == 1
    chat.client.refuse(ConnectionLost("", sent=True))


@pytest.mark.parametrize(("language", "to"), [("en", "alice to bob: hi"), ("zh", "alice 发给 bob: hi")])
def test_the_plain_mode_prints_own_messages(language: str, to: str) -> None:
    """It says to whom they went. What was typed here is not printed."""
    chat, target = Chat(language), io.StringIO()
    plain.PlainInterface(chat.session, JobQueue(), io.StringIO(), target)
    wrote(chat, "hi", 6)
    wrote(chat, "hi all", 7, group="team")
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "typed")
    lines = [re.sub(r"^\d\d:\d\d ", "", line) for line in target.getvalue().splitlines()]
    assert lines == [to, "#team alice: hi all"]


# --- real chats -----------------------------------------------------------------------------------


@pytest.fixture(params=["one server", "two nodes"])
def port(request: pytest.FixtureRequest, start_server: StartServer) -> Iterator[int]:
    """One server, or two nodes: then each connection of a `Wire` goes to any of them."""
    if request.param == "one server":
        yield start_server(classic_gap=0).port
        return
    database = ready_database(request.getfixturevalue("mariadb"), "jelly_chat_devices")
    cluster = request.getfixturevalue("redis_server").url
    ports = [start_server(database=database, cluster=cluster, classic_gap=0).port for _ in range(2)]
    NODES.update(dict.fromkeys(ports, ports))
    yield ports[0]
    NODES.clear()


def other(port: int) -> int:
    """The other node, if there are two."""
    return NODES[port][1] if port in NODES else port


@pytest.fixture
def open_chat(port: int) -> Iterator[Open]:
    yield from opener_of_chats(port)


def test_two_devices_in_plain_mode(port: int) -> None:
    """Both print everything, in order, and the logins say which is which."""
    register(port, "alice", "bob")
    with (
        PlainChat("alice", port, device="desk") as desk,
        PlainChat("alice", other(port), device="phone") as phone,
        PlainChat("bob", port) as bob,
    ):
        desk.say("/to bob", "from the desk")
        assert desk.line() == "-- you are writing to bob"
        assert bob.line() == "alice: from the desk"
        assert phone.line() == "alice to bob: from the desk"
        phone.say("/to bob from the phone")
        assert [phone.line(), bob.line()] == ["-- you are writing to bob", "alice: from the phone"]
        assert desk.line() == "alice to bob: from the phone"
        bob.say("/to alice", "hello both")
        assert [desk.line(), phone.line()] == ["bob: hello both"] * 2
        desk.say("/edit from my phone")
        assert desk.line() == "alice: from my phone (edited)"
        assert phone.line() == "alice: from my phone (edited)"
        desk.say("/account")
        assert {re.sub(r"^(-- |   )\w+: since [\d: -]+, ", "", desk.line()) for _ in range(2)} == {
            "from 127.0.0.1 on desk (this one)",
            "from 127.0.0.1 on phone",
        }


def test_two_devices_on_the_screen(port: int, open_chat: Open) -> None:
    """Own lines come to the other one, and what is read there is not unread here."""
    register(port, "alice", "bob")
    desk, phone = open_chat("alice", "--device=desk"), open_chat("alice", "--device=phone", port=other(port))
    with logged_in(port, "bob") as bob:
        bob.message("alice", "are you there?")
        desk.wait_for("1:bob(1)")
        phone.wait_for("1:bob(1)")
        desk.enter("/to bob")
        desk.wait_for("bob │ are you there?")
        phone.wait_until(lambda: "(1)" not in phone.bar and "1:bob" in phone.bar)
        desk.enter("yes")
        assert bob.contents(1) == ["yes"]
        phone.press("alt-1")
        phone.wait_for("bob │ are you there?", "alice │ yes")
        phone.enter("and here, too")
        desk.wait_for("alice │ and here, too")
        assert bob.contents(1) == ["and here, too"]
        assert phone.screen.count("alice │ yes") == desk.screen.count("alice │ and here, too") == 1
        assert "(1)" not in desk.bar + phone.bar
    third = open_chat("alice", "--device=desk")
    desk.wait_for("someone logged in as alice elsewhere, with")
    third.wait_for("alice │ connected")
    assert "connected" in phone.bar


def test_without_a_device(port: int) -> None:
    """`--device ''` is a client as before: the other one without a device is ended."""
    register(port, "alice")
    with PlainChat("alice", port, device="") as chat, logged_in(port, "alice", features=["ack", "account"]) as wire:
        assert chat.line().startswith("!! someone logged in as alice elsewhere")
        assert [each.get("device") for each in wire.ok(LOGINS)["logins"]] == [None, None]


def test_send_ends_no_chat(port: int) -> None:
    """It has no device, unless it is told one. The chat shows what it sends."""
    register(port, "alice", "bob")
    with PlainChat("alice", port, device="desk") as desk:
        assert send("alice", "--send", "bob", "done", port=other(port)) == (0, "")
        assert desk.line() == "alice to bob: done"
        assert send("alice", "--send", "bob", "again", "--device=pi", port=port) == (0, "")
        assert desk.line() == "alice to bob: again"


def test_send_takes_no_own_message_either(port: int) -> None:
    """What waits for a device goes on waiting."""
    register(port, "alice", "bob")
    with logged_in(port, "alice", features=DEVICES, device="pi"):
        pass
    with logged_in(port, "alice", features=DEVICES, device="desk") as desk:
        desk.message("bob", "own")
    assert send("alice", "--send", "bob", "x", "--device=pi", port=port) == (0, "")
    with logged_in(port, "alice", features=DEVICES, device="pi") as wire:
        notice = wire.receive_notice()
        assert (notice.values["sender"], notice.values["content"]) == ("alice", "own")


def test_a_real_gap(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat on a device for which nothing was kept says so, and /history has what it missed."""
    monkeypatch.setattr(devices, "CHECK_INTERVAL", 0.0)
    server = start_server(inbox_messages=100, classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice", features=DEVICES, device="desk"):
        pass
    with (
        logged_in(server.port, "alice", features=DEVICES, device="phone") as phone,
        logged_in(server.port, "bob", features=["ack", "ids"]) as bob,
    ):
        for number in range(120):
            bob.ok(PERSON_MESSAGE, receiver="alice", content=f"m{number}", time=1)
            take(phone, 1)
            has_got(server, "alice", "phone")
        is_empty(server, "alice")
    with PlainChat("alice", server.port, is_alone=False, device="desk") as desk:
        gap = "-- this device was away for so long that messages may be missing here; /history shows them"
        assert gap in (desk.line(), desk.line())
        desk.say("/to bob", "/history 1")
        while not (line := desk.line()).endswith("bob: m119"):
            assert "m119" not in line
