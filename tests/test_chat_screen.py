"""The full screen, driven key by key: real chats in pseudo-terminals with a real server."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness import StartServer
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, DISBAND_GROUP, GROUP_MESSAGE, Wire, logged_in, register

from faults.process import Server
from faults.proxy import Proxy
from jelly.chat.cells import text_width

Open = Callable[..., Terminal]

NEW_PASSWORD = [("Present password:", "pw"), ("New password:", "secret2"), ("Once more:", "secret2")]
"""What /passwd asks, and the answers."""


@pytest.fixture
def port(start_server: StartServer) -> int:
    """The port of a server without pauses between frames: these clients need none."""
    return start_server(classic_gap=0).port


@pytest.fixture
def open_chat(port: int) -> Iterator[Open]:
    """A function that opens a chat in a terminal for a registered user with the password pw."""
    with ExitStack() as stack:

        def open_one(name: str, *arguments: str, port: int = port, **options: str | int) -> Terminal:
            terminal = stack.enter_context(
                Terminal(name, *arguments, port=port, **{"JELLY_PASSWORD": "pw", **options})  # type: ignore[arg-type]
            )
            terminal.wait_for(f" {name} │")
            return terminal

        yield open_one


@contextmanager
def two(port: int, open_chat: Open) -> Iterator[tuple[Terminal, Terminal]]:
    """Open chats for alice and bob, each in the conversation with the other."""
    register(port, "alice", "bob")
    alice, bob = open_chat("alice"), open_chat("bob")
    alice.enter("/to bob")
    bob.enter("/to alice")
    alice.wait_for("bob>")
    bob.wait_for("alice>")
    yield alice, bob


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
    first.wait_for("someone logged in as alice elsewhere. /connect logs in again", "> half a sen")
    assert first.bar.startswith(" alice │ ended: logged in elsewhere; /connect │")
    first.press("ctrl-c")
    first.enter("/connect")
    second.wait_for("someone logged in as alice elsewhere")
    first.wait_for("-- │ connected", "alice │ connected")


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
    assert b"Messages not delivered: 1." in alice.output


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


def test_nothing_harmful_reaches_the_terminal(port: int, open_chat: Open) -> None:
    """Escape sequences and overrides in messages are shown, not sent to the terminal."""
    register(port, "alice", "bob")
    alice = open_chat("alice")
    with logged_in(port, "bob") as bob:
        bob.message("alice", "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r\x08")
    alice.wait_for("1:bob(1)")
    alice.press("alt-1")
    alice.wait_for("bob │ ␛]0;owned␇␛[2J�31m�evil␍␈")
    for raw in (b"]0;owned\x07", b"\x9b31m".decode("latin-1").encode(), "\u202e".encode()):
        assert raw not in alice.output


def test_columns_of_wide_characters(port: int, open_chat: Open) -> None:
    """Chinese names and texts are aligned with others."""
    register(port, "alice", "王小明", "li")
    with logged_in(port, "王小明") as wang, logged_in(port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for name in ("王小明", "li"):
            alice.ok(ADD_MEMBER, groupName="team", member=name)
        screen = open_chat("li", columns=60)
        wang.message("team", "你好" * 40, GROUP_MESSAGE)
        screen.wait_for("#team(1)")
        alice.message("team", "hello", GROUP_MESSAGE)
        screen.wait_for("#team(2)")
    screen.press("alt-a")
    screen.wait_for("alice │ hello")
    bars = {screen.cells(row).index("│") for row, text in enumerate(screen.rows[:-2]) if "│" in text}
    assert len(bars) == 1
    assert max(text_width(row) for row in screen.rows) <= 60
    assert "".join(re.findall("[你好]", screen.screen)) == "你好" * 40


def test_chinese(port: int, open_chat: Open) -> None:
    """LANG or --lang switch the chat to Chinese."""
    register(port, "alice")
    first = open_chat("alice", LANG="zh_CN.UTF-8")
    first.wait_for("欢迎，alice。", "alice │ 已连接", "好友列表还是空的")
    first.enter("/help")
    first.wait_for("查看好友列表及谁在线")
    first.press("ctrl-c")
    assert first.wait_for_end() == 0
    open_chat("alice", "--lang=zh").wait_for("欢迎，alice。")


def test_colours(port: int, open_chat: Open) -> None:
    """A name always has the same colour; with NO_COLOR there are no colours."""
    register(port, "alice", "bob")
    seen = []
    for environment in ({}, {}, {"NO_COLOR": "1"}):
        alice = open_chat("alice", **environment)
        with logged_in(port, "bob") as bob:
            bob.message("alice", "hello")
        alice.wait_for("1:bob(1)")
        alice.press("alt-1")
        alice.wait_for("bob │ hello")
        seen.append(alice.colour_of("bob │"))
        alice.enter("/nothing")
        alice.wait_for("there is no /nothing")
        alice.enter("/quit")
        assert alice.wait_for_end() == 0
    assert seen[0] == seen[1] != "default"
    assert seen[2] == "default"
    assert not re.search(
        rb"\x1b\[(?:\d+;)*[34]\d(?:;\d+)*m", alice.output.replace(b"\x1b[0;39;49m", b"").replace(b"39;49", b"")
    )


def test_sizes(port: int, open_chat: Open) -> None:
    """The chat works in a window of any size, which may change at any time."""
    with two(port, open_chat) as (alice, bob):
        for number, size in enumerate([(80, 24), (20, 5), (10, 3), (3, 2), (1, 1), (200, 60)]):
            alice.resize(*size)
            bob.enter(f"你好 no. {number}.")
            alice.resize(40, 10)
            alice.wait_for("[1:bob]", f"你好 no. {number}.")
        alice.resize(80, 24)
        alice.wait_until(lambda: alice.bar.startswith(" alice │ connected │ [1:bob]"))
        alice.enter("fine")
        bob.wait_for("alice │ fine")
        assert b"Traceback" not in alice.output


def test_scrolling(port: int, open_chat: Open) -> None:
    """PageUp scrolls back, new messages do not move the view, and PageDown returns to the end."""
    with two(port, open_chat) as (alice, bob):
        for number in range(50):
            bob.enter(f"line {number}.")
        alice.wait_for("line 49.")
        alice.press("pageup", "pageup")
        alice.wait_for("more below", "line 10.")
        before = alice.rows[:-2]
        bob.enter("and one more")
        bob.wait_until(lambda: "…" not in bob.screen and "and one more" in bob.screen)
        alice.press("ctrl-l")
        alice.wait_for("line 10.")
        assert alice.rows[:-2] == before
        alice.press("pagedown", "pagedown", "pagedown")
        alice.wait_for("and one more")
        assert "more below" not in alice.bar


@pytest.mark.parametrize("key", ["ctrl-c", "ctrl-d"])
def test_leaving_before_the_chat_begins(key: str, port: int) -> None:
    """Ctrl-C or Ctrl-D at the password prompt exit without a traceback."""
    with Terminal("alice", port=port) as alice:
        alice.wait_for("Password for alice:")
        alice.press(key)
        assert alice.wait_for_end() == 130
        assert alice.rows[1:] == [""] * 23


@pytest.mark.parametrize("key", ["ctrl-c", "ctrl-d"])
def test_leaving(key: str, port: int, open_chat: Open) -> None:
    """Ctrl-C clears the input; on an empty one, both keys exit and restore the screen."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.type("oops")
    alice.wait_for("> oops")
    alice.press("ctrl-c")
    alice.wait_until(lambda: alice.input == ">")
    alice.press(key)
    assert alice.wait_for_end() == 0
    assert b"\x1b[?1049l" in alice.output


def test_a_signal_restores_the_terminal(port: int, open_chat: Open) -> None:
    """SIGTERM restores the terminal."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.process.send_signal(signal.SIGTERM)
    assert alice.wait_for_end() == 0
    assert b"\x1b[?1049l" in alice.output


def test_a_dumb_terminal(port: int) -> None:
    """A dumb terminal gets the plain mode, without escape sequences."""
    register(port, "alice")
    with Terminal("alice", port=port, TERM="dumb", JELLY_PASSWORD="pw") as alice:
        alice.wait_for("-- Welcome, alice.")
        alice.enter("/quit")
        assert alice.wait_for_end() == 0
        assert b"\x1b" not in alice.output


def test_ctrl_c_at_a_question(port: int) -> None:
    """In the plain mode, Ctrl-C cancels the question, not the chat."""
    register(port, "alice")
    with Terminal("alice", port=port, TERM="dumb", JELLY_PASSWORD="pw") as alice:
        alice.wait_for("-- Welcome, alice")
        alice.enter("/passwd")
        alice.wait_for("Present password:")
        alice.press("ctrl-c")
        alice.wait_for("-- nothing was changed")
        alice.enter("/quit")
        assert alice.wait_for_end() == 0


def test_without_prompt_toolkit(port: int) -> None:
    """Without prompt_toolkit, the chat uses the plain mode, and says how to get the full screen."""
    register(port, "alice")
    with Terminal("alice", port=port, bare=True, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("pip install '.[chat]'", "-- Welcome, alice.")
        alice.enter("/to alice")
        alice.enter("hello, me")
        alice.wait_for(" alice: hello, me")
        alice.press("ctrl-d")
        assert alice.wait_for_end() == 0
        assert alice.screen.count("pip install") == 1


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
    chat.wait_until(lambda: all(map(str.endswith, chat.rows[2:20], top)))
    chat.wait_for("bob │ number 10.")
    chat.wait_until(lambda: all(map(str.endswith, chat.rows[2:20], top)))
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
        alice = open_chat("alice")
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
