"""The file with the settings of the chat, and the ways to write a server."""

import re
from pathlib import Path

import pytest
from screen_tools import opener_of_chats, port_without_pauses
from terminal import Terminal
from wire import logged_in, register

from faults.process import ROOT
from jelly.chat.arguments import DEFAULT_SERVER, parse
from jelly.chat.login import FatalError
from jelly.chat.settings import Settings

port = pytest.fixture(port_without_pauses)
open_chat = pytest.fixture(opener_of_chats)


@pytest.fixture
def settings(own_home: Path) -> Path:
    file = own_home / "config" / "jelly" / "chat.toml"
    file.parent.mkdir(parents=True)
    return file


def test_the_settings(settings: Path) -> None:
    """A flag comes first, then the environment, then the file."""
    home = {"XDG_CONFIG_HOME": str(settings.parent.parent)}
    environment = {**home, "LANG": "C"}
    assert parse([], environment).settings == Settings()
    settings.write_text('server = "a"\nname = "alice"\ndevice = "desk"\nlanguage = "zh"\n[keys]\nend = "f2"\n')
    found = parse([], environment)
    assert (found.server, found.name, found.device, found.lang) == ("jellys://a", "alice", "desk", "zh")
    assert found.settings.keys == {"end": "f2"}
    assert parse([], {**environment, "JELLY_SERVER": "jelly://b"}).server == "jelly://b"
    found = parse(["bob", "--server=jelly://c", "--lang=en", "--device=pad"], {**environment, "JELLY_SERVER": "b"})
    assert (found.server, found.name, found.device, found.lang) == ("jelly://c", "bob", "pad", "en")
    assert parse(["bob", "--send", "carol", "x"], environment).device == ""


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("servr = 1", "there is no setting servr (did you mean server?)."),
        ("xyzzy = 1", "there is no setting xyzzy."),
        ("server = 1", 'server must be a text in quotes: "…".'),
        ("colours = 1", "colours must be true or false."),
        ("keys = 1", 'keys must be a table: [keys], and lines like next-unread = "f2".'),
        ("[keys]\nend = 1", 'keys must be a table: [keys], and lines like next-unread = "f2".'),
        ('language = "fr"', "language must be one of en, zh."),
        ("server =", "Invalid value"),
    ],
)
def test_wrong_settings(written: str, said: str, settings: Path) -> None:
    """One sentence says in which file what is wrong."""
    settings.write_text(written)
    with pytest.raises(FatalError) as raised:
        parse([], {"XDG_CONFIG_HOME": str(settings.parent.parent), "LANG": "C"})
    assert str(raised.value).startswith(f"{settings}: {said}")
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "name", "server"),
    [
        ("alice", "alice", DEFAULT_SERVER),
        ("alice@localhost", "alice", "jelly://localhost"),
        ("alice@127.0.0.1:20001", "alice", "jelly://127.0.0.1:20001"),
        ("alice@[::1]:20001", "alice", "jelly://[::1]:20001"),
        ("alice@chat.example.org", "alice", "jellys://chat.example.org"),
        ("alice@jelly://chat.example.org", "alice", "jelly://chat.example.org"),
        ("alice@a:1,localhost", "alice", "jellys://a:1,localhost"),
        ("--server=chat.example.org:20001 alice", "alice", "jellys://chat.example.org:20001"),
        ("--server=localhost a@b", "a@b", "jelly://localhost"),
        ("@alice", "@alice", DEFAULT_SERVER),
        ("alice@", "alice@", DEFAULT_SERVER),
    ],
)
def test_ways_to_write_a_server(arguments: str, name: str, server: str) -> None:
    """A host alone means TLS, except on this machine. With --server, the name is left as it is."""
    found = parse(arguments.split(), {"LANG": "C"})
    assert (found.name, found.server) == (name, server)


def test_a_chat_with_settings(port: int, settings: Path) -> None:
    """The file says who chats where, and which keys do something more."""
    register(port, "alice", "bob")
    settings.write_text(
        f'server = "127.0.0.1:{port}"\nname = "alice"\nlanguage = "zh"\ncolours = false\nmouse = false\n'
        '[keys]\nnext-unread = "f2"\nnext = "alt-n"\nend = "ctrl-e"\n'
    )
    with Terminal(port=port, JELLY_SERVER="", JELLY_PASSWORD="pw") as alice, logged_in(port, "bob") as bob:
        alice.wait_for(" alice │ 已连接")
        bob.message("alice", "hello")
        alice.wait_for("1:bob(1)")
        alice.type("\x1bOQ")
        alice.wait_for("bob │ hello")
        assert alice.colour_of("bob │") == "default"
        alice.type("\x1bn")
        alice.wait_until(lambda: alice.input == ">")
        assert b"\x1b[?1000h" not in alice.output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('fly = "f2"', "there is no action fly. There are: new-line, "),
        ('end = "ctrl-alt-x"', "there is no key ctrl-alt"),
    ],
)
def test_keys_that_there_are_not(line: str, said: str, port: int, settings: Path) -> None:
    """The chat says so, and ends."""
    register(port, "alice")
    settings.write_text(f"[keys]\n{line}\n")
    with Terminal("alice", port=port, columns=200, JELLY_PASSWORD="pw") as alice:
        assert alice.wait_for_end() == 2
        assert f"jelly: {settings}: keys: {said}" in alice.screen.replace("\n", "")


def test_the_page() -> None:
    """docs/chat.md has each setting, with its default."""
    page = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    shown = page.partition("```toml\n")[2].partition("```")[0]
    assert re.findall(r"^(\w+) =", shown.partition("[keys]")[0], re.MULTILINE) == [
        name for name in Settings.__dataclass_fields__ if name != "keys"
    ]
