"""The full screen and its terminal: wide characters, colours, sizes, scrolling, and leaving it."""

import re
import signal

import pytest
from screen_tools import Open, opener_of_chats, port_without_pauses, two
from terminal import Terminal
from wire import ADD_MEMBER, CREATE_GROUP, GROUP_MESSAGE, logged_in, register

from jelly.chat.cells import text_width

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


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
    first.press("ctrl-d")
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


def test_leaving(port: int, open_chat: Open) -> None:
    """Ctrl-C clears the input; on an empty one, Ctrl-D exits and restores the screen."""
    register(port, "alice")
    alice = open_chat("alice")
    alice.type("oops")
    alice.wait_for("> oops")
    alice.press("ctrl-c")
    alice.wait_until(lambda: alice.input == ">")
    alice.press("ctrl-d")
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
    with Terminal("alice", "--device=", port=port, bare=True, JELLY_PASSWORD="pw") as alice:
        alice.wait_for("pip install prompt_toolkit", "-- Welcome, alice.")
        alice.enter("/to alice")
        alice.enter("hello, me")
        alice.wait_for(" alice: hello, me")
        alice.press("ctrl-d")
        assert alice.wait_for_end() == 0
        assert alice.screen.count("pip install") == 1
