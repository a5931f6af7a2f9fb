"""The examples of the client library: each is run as its first line says, and does what it says."""

import runpy
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    GROUP_MESSAGE,
    OWN_GROUPS,
    logged_in,
    register,
    wait_until,
)

from faults.process import PATIENCE, ROOT, Program, Server
from jelly.errors import SENTENCES, ErrorCode

EXAMPLES = [
    path
    for path in sorted((ROOT / "examples").glob("*.py"))
    if "from examples.command_line import" in path.read_text(encoding="utf-8")
]


COUNTS = {"bulk_sender": 3, "echo_bot": 2, "group_bot": 3, "presence_watcher": 2, "two_users": 0}
"""How many arguments each of them needs."""


@pytest.fixture
def free_port() -> int:
    """A port on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Example(Program):
    """An example, started as a module from the project's own directory, as its first line says."""

    def __init__(self, name: str, port: int, *arguments: str) -> None:
        super().__init__("-m", f"examples.{name}", *arguments, f"jelly://127.0.0.1:{port}")


def test_there_are_five() -> None:
    """Five programs use the library."""
    assert [path.stem for path in EXAMPLES] == list(COUNTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_they_are_short(path: Path) -> None:
    """Each has at most 25 lines, and its first one says how to start it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 25
    assert f"python -m examples.{path.stem}" in lines[0]


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_without_a_server(name: str, count: int, free_port: int) -> None:
    """Each ends with the client's sentence, which is its last line, and with exit code 1."""
    with Example(name, free_port, *["argument"] * count) as program:
        *before, last = program.lines()
    assert last == f"Cannot connect to 127.0.0.1 port {free_port}: Connection refused. Is the server running?"
    assert program.process.returncode == 1
    assert not any("Traceback" in line for line in before)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_wrong_arguments(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few or too many arguments, or with a URL that is none, each says how to start it."""
    usage = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()[0].strip('"')
    fits = ["argument"] * count
    with Program("-m", f"examples.{name}", *fits, "localhost") as program:
        assert program.lines() == [usage]
        assert program.process.returncode == 1
    for wrong in (
        [*fits, "jelly://localhost:abc"],
        [*fits, "jelly://localhost,,localhost:5"],
        [*fits, "jelly://localhost:70000"],
        [*fits, "jelly://a:b@localhost"],
        [*fits, "jelly://localhost/path"],
        [*fits, "jelly://localhost", "more"],
        *([fits[1:], []] if count else []),
    ):
        monkeypatch.setattr(sys, "argv", [name, *wrong])
        with pytest.raises(SystemExit) as end:  # as above, but without a process for each
            runpy.run_module(f"examples.{name}", run_name="__main__")
        assert end.value.code == usage


def test_ctrl_c(port: int) -> None:
    """It also ends a program that waits for its input, without a word."""
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob, Example("bulk_sender", port, "alice", "pw", "bob") as sender:
        bob.ok(ADD_FRIEND, friend="alice")
        wait_until(lambda: bob.ok(ALL_FRIENDS)["friends"]["alice"])
        sender.press_ctrl_c()
        assert (sender.lines(), sender.process.returncode) == ([], 0)


def test_two_users(port: int) -> None:
    """One asks, the other answers, on the first run and on the second."""
    conversation = ["ann to ben: How are you?", "ben to ann: Fine, thank you."]
    for before in ([], ["ann is registered already", "ben is registered already"]):
        with Example("two_users", port) as program:
            assert program.lines() == before + conversation
            assert program.process.returncode == 0


def test_registration_is_refused(start_server: StartServer) -> None:
    """Each example that registers says what the server said, and then what it said to the login."""
    port = start_server(registration="closed").port
    refused, unknown = SENTENCES[ErrorCode.REGISTRATION_CLOSED], SENTENCES[ErrorCode.WRONG_CREDENTIALS]
    for name, *arguments in (("two_users",), ("echo_bot", "echo", "secret")):
        with Example(name, port, *arguments) as program:
            said = [line for line in program.lines() if not line.startswith(("connecting", "offline", "closed"))]
            assert said == [refused, unknown]
            assert program.process.returncode == 1


def test_echo_bot(port: int) -> None:
    """It sends back what it gets, also after its connection was lost; Ctrl-C stops it."""
    register(port, "alice")
    with Example("echo_bot", port, "echo", "secret") as bot, logged_in(port, "alice") as alice:
        assert [bot.line(), bot.line()] == ["connecting login ", "online logged in "]
        alice.message("echo", "你好")
        assert alice.contents(1) == ["你好"]
        logged_in(port, "echo", "secret").close()
        assert bot.line().startswith("offline taken over")
        assert bot.lines()[-1:] == ["closed closed "]
        assert bot.process.returncode == 3
    with Example("echo_bot", port, "echo", "secret") as bot:
        assert bot.line() == "echo is registered already"
        assert [bot.line(), bot.line()] == ["connecting login ", "online logged in "]


def test_group_bot(port: int) -> None:
    """Who writes to it gets into its group, and there it throws dice. At its second start,
    its group is there already.
    """
    register(port, "bot", "alice", "bob")
    with Example("group_bot", port, "bot", "pw", "casino") as bot, logged_in(port, "alice") as alice:
        assert bot.line() == "write to bot to get into casino, then !dice in casino; Ctrl-C ends"
        alice.message("bot", "hello")
        assert alice.contents(1) == ["Welcome to casino! Write !dice there."]
        assert alice.ok(OWN_GROUPS)["groups"] == {"casino": ["bot", "alice"]}
        alice.message("casino", "!dice", GROUP_MESSAGE)
        [thrown] = alice.contents(1)
        assert thrown in {f"alice throws a {number}." for number in range(1, 7)}
    with (
        Example("group_bot", port, "bot", "pw", "casino") as bot,
        logged_in(port, "alice") as alice,
        logged_in(port, "bob") as bob,
    ):
        assert bot.line() == "write to bot to get into casino, then !dice in casino; Ctrl-C ends"
        for wire in (alice, bob):
            wire.message("bot", "hello")
            assert wire.contents(1) == ["Welcome to casino! Write !dice there."]
        assert alice.ok(OWN_GROUPS)["groups"] == {"casino": ["bot", "alice", "bob"]}
        bob.message("casino", "!dice", GROUP_MESSAGE)
        [thrown] = bob.contents(1)
        assert thrown.startswith("bob throws a ")


def test_group_bot_where_another_user_has_the_group(port: int) -> None:
    """It ends with the server's sentence, although it is a member: it could not let anybody in."""
    register(port, "bot", "alice")
    with logged_in(port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="casino")
        alice.ok(ADD_MEMBER, groupName="casino", member="bot")
    with Example("group_bot", port, "bot", "pw", "casino") as bot:
        assert bot.lines() == [SENTENCES[ErrorCode.GROUP_EXISTS]]
        assert bot.process.returncode == 1


def test_presence_watcher(port: int) -> None:
    """It says who is there, who comes and who goes; Ctrl-C ends it with code 0, without a word."""
    register(port, "alice", "bob", "carol")
    with logged_in(port, "alice") as alice:
        alice.ok(0x1B, friend="bob")
    with Example("presence_watcher", port, "alice", "pw") as watcher:
        assert watcher.line() == "bob is away"
        with logged_in(port, "carol"), logged_in(port, "bob"):
            assert watcher.line() == "bob has come"
        assert watcher.line() == "bob has gone"
        watcher.press_ctrl_c()
        assert (watcher.lines(), watcher.process.returncode) == ([], 0)


def test_presence_watcher_without_friends(port: int) -> None:
    """It says why it has nothing to say."""
    register(port, "alice")
    with Example("presence_watcher", port, "alice", "pw") as watcher:
        assert watcher.line() == "your friend list is empty: add a friend in the chat, with /add NAME"


def test_bulk_sender(port: int) -> None:
    """It sends what it reads, in order; it says what was refused, and exits with 1 if anything
    was.
    """
    register(port, "alice", "bob")
    for receiver, expected, code in (
        ("bob", ["3 of 3 stored"], 0),
        ("nobody", [*(f"refused: line {n} (There is no such user.)" for n in range(3)), "0 of 3 stored"], 1),
    ):
        with Example("bulk_sender", port, "alice", "pw", receiver) as sender:
            for number in range(3):
                sender.say(f"line {number}")
            assert sender.lines() == expected
            assert sender.process.returncode == code
    with logged_in(port, "bob") as bob:
        assert bob.contents(3) == ["line 0", "line 1", "line 2"]


# --- raw_client.py --------------------------------------------------------------------------------


def raw_client(port: object) -> Program:
    return Program("examples/raw_client.py", "alice", "secret1", "bob", str(port))


def test_raw_client_without_a_server(free_port: int) -> None:
    """It says in one line how to start one."""
    with raw_client(free_port) as program:
        assert program.lines() == [f"! no server on port {free_port}: start one with python jelly.py"]
        assert program.process.returncode == 1


def test_raw_client_with_a_wrong_port() -> None:
    """It says how to start it."""
    for port in ("x", "70000"):
        with raw_client(port) as program:
            assert "python examples/raw_client.py ME PASSWORD FRIEND [PORT]" in program.lines()[0]
            assert program.process.returncode == 1


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"registration": "closed"}, ErrorCode.REGISTRATION_CLOSED),
        ({"registration_rate": 1}, ErrorCode.TOO_MANY_REGISTRATIONS),
        ({"reserved_names": "alice"}, ErrorCode.NAME_RESERVED),
        ({}, ErrorCode.USERNAME_TAKEN),
    ],
)
def test_raw_client_is_not_registered(start_server: StartServer, settings: dict[str, Any], code: ErrorCode) -> None:
    """It prints the server's sentence, not only that of the login, which cannot know the reason."""
    port = start_server(**settings).port
    if code in (ErrorCode.TOO_MANY_REGISTRATIONS, ErrorCode.USERNAME_TAKEN):
        register(port, "alice" if code == ErrorCode.USERNAME_TAKEN else "first", password="of somebody else")
    with raw_client(port) as program:
        assert program.lines() == [
            f"! alice was not registered: {SENTENCES[code]}",
            f"! alice is not logged in: {SENTENCES[ErrorCode.WRONG_CREDENTIALS]}",
        ]
        assert program.process.returncode == 1


def test_raw_client_ends_with_the_connection(start_server: StartServer) -> None:
    """When the server closes the connection it ends by itself, without waiting for a line."""
    server = start_server()
    with raw_client(server.port) as program:
        assert program.line() == "logged in as alice; every line goes to bob"
        server.stop()
        assert program.line() == "! the server has closed the connection"
        assert program.process.wait(PATIENCE) == 1
        assert program.lines() == []


def test_raw_client_at_a_server_with_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """When the server has given it up it says what the reason may be."""
    tls = (f"--tls-cert={certificate[0]}", f"--tls-key={certificate[1]}", "--heartbeat-interval=0.05")
    with Server(f"sqlite:///{tmp_path}/jelly.db", *tls) as server, raw_client(server.port) as program:
        assert program.line().startswith("! the server has closed the connection before it answered: does it use TLS?")
        assert program.process.wait(PATIENCE) == 1
