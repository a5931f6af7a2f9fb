"""The examples of the client library: each is run as its first line says, and does what it says."""

from pathlib import Path

import pytest
from wire import GROUP_MESSAGE, OWN_GROUPS, logged_in, register

from faults.process import ROOT, Program

EXAMPLES = [
    path for path in sorted((ROOT / "examples").glob("*.py")) if "client_api" in path.read_text(encoding="utf-8")
]


class Example(Program):
    """An example, started as a module from the project's own directory, as its first line says."""

    def __init__(self, name: str, port: int, *arguments: str) -> None:
        super().__init__("-m", f"examples.{name}", *arguments, f"jelly://127.0.0.1:{port}")


def test_there_are_five() -> None:
    """Five programs use the library."""
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_they_are_short(path: Path) -> None:
    """Each has at most 25 lines, and its first one says how to start it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 25
    assert f"python -m examples.{path.stem}" in lines[0]


def test_two_users(port: int) -> None:
    """One asks, the other answers, on the first run and on the second."""
    conversation = ["ann to ben: How are you?", "ben to ann: Fine, thank you."]
    for before in ([], ["This user name is taken: choose another one."] * 2):
        with Example("two_users", port) as program:
            assert program.lines() == before + conversation
            assert program.process.returncode == 0


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
        assert bot.process.returncode == 0


def test_group_bot(port: int) -> None:
    """Who writes to it gets into its group, once, and there it throws dice."""
    register(port, "bot", "alice")
    with Example("group_bot", port, "bot", "pw", "casino") as bot, logged_in(port, "alice") as alice:
        assert bot.line() == "created"
        alice.message("bot", "hello")
        assert alice.contents(1) == ["Welcome to casino!"]
        assert alice.ok(OWN_GROUPS)["groups"] == {"casino": ["bot", "alice"]}
        alice.message("casino", "!dice", GROUP_MESSAGE)
        [thrown] = alice.contents(1)
        assert thrown in {f"alice throws a {number}." for number in range(1, 7)}
        alice.message("bot", "hello")
        assert alice.contents(1) == ["This user is already a member of the group."]


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
