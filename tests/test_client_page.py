"""What docs/client.md says: its programs run, and its tables are the library's."""

import re
import shutil
import signal
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import StartServer
from wire import logged_in, register

from client_api import JellyClient, Reason, RequestError, ServerBusy, State
from faults.process import ROOT, Program
from jelly.errors import SENTENCES, ErrorCode

PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


README = (
    (ROOT / "README.md").read_text(encoding="utf-8").partition("## Build a bot")[2].partition("\nEvery operation")[0]
)
README_BOT = textwrap.dedent(README[README.index("    import contextlib") :])


@pytest.fixture
def names(port: int) -> Iterator[dict[str, Any]]:
    """The names that the page's programs use: `client`, logged in as alice, and her token."""
    register(port, "alice", "bob", password="secret1")
    register(port, "echo", password="its password")
    with JellyClient(port=port) as client:
        token = client.login("alice", "secret1").result(timeout=10).token
        yield {"client": client, "saved_token": token, "port": port}


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block.replace("20000", str(names["port"])), "docs/client.md", "exec"), names)


@pytest.mark.parametrize("bot", [BLOCKS[0], README_BOT], ids=["client.md", "README.md"])
def test_the_shortest_bot(bot: str, names: dict[str, Any]) -> None:
    """It sends messages back, until another login takes over its account."""
    thread = threading.Thread(target=run, args=(bot, dict(names)))
    with logged_in(names["port"], "bob", "secret1") as bob:
        bob.message("echo", "hello")
        thread.start()
        assert bob.contents(1) == ["hello"]
        logged_in(names["port"], "echo", "its password").close()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("bot", [BLOCKS[0], README_BOT], ids=["client.md", "README.md"])
def test_ctrl_c_ends_the_shortest_bot(bot: str, names: dict[str, Any], tmp_path: Path) -> None:
    """It prints no traceback. It runs from a file that is not in the checkout, as the pages say."""
    file = tmp_path / "bot.py"
    file.write_text(bot.replace("20000", str(names["port"])), encoding="utf-8")
    with Program(str(file), PYTHONPATH=str(ROOT)) as program, logged_in(names["port"], "bob", "secret1") as bob:
        bob.message("echo", "hello")
        assert bob.contents(1) == ["hello"]
        program.press_ctrl_c()
        assert (program.lines(), program.process.returncode) == ([], 0)


def test_the_bot_of_the_readme_is_not_registered(start_server: StartServer, tmp_path: Path) -> None:
    """It says what the server said, before the login fails, which cannot know the reason."""
    file = tmp_path / "bot.py"
    file.write_text(README_BOT.replace("20000", str(start_server(registration="closed").port)), encoding="utf-8")
    with Program(str(file), PYTHONPATH=str(ROOT)) as program:
        assert program.lines()[0] == SENTENCES[ErrorCode.REGISTRATION_CLOSED]


def test_the_other_programs(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    """They run as they are, one after the other; the one that counts remembers what it has
    counted."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(certificate[0], "cert.pem")
    assert len(BLOCKS) > 5
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        for block in BLOCKS[1:]:
            if "os.fork" not in block:
                run(block, names)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert names["client"].wait(10)
    counter = names["Counter"]()
    for id in (1, 2, 1):
        counter.on_message(SimpleNamespace(id=id, sender="bob"))
    assert counter.database.execute("SELECT COUNT(*) FROM seen").fetchall() == [(2,)]
    counter.database.close()


def test_the_program_that_forks(names: dict[str, Any], tmp_path: Path) -> None:
    """It runs in a process of its own, because that of the tests has many threads."""
    (block,) = (block for block in BLOCKS if "os.fork" in block)
    names["client"].close()
    begin = "from client_api import JellyClient\nclient = JellyClient(port=20000)\n"
    login = 'client.login("alice", "secret1").result(10)\n'
    file = tmp_path / "forks.py"
    file.write_text((begin + login + block).replace("20000", str(names["port"])), encoding="utf-8")
    with Program("-W", "ignore::DeprecationWarning", str(file), PYTHONPATH=str(ROOT)) as program:
        assert (program.lines(), program.process.returncode) == ([], 0)
    with logged_in(names["port"], "bob", "secret1") as bob:
        assert bob.contents(1) == ["hello"]


def test_the_table_of_errors() -> None:
    """It names every error with which a future can end."""
    table = PAGE.partition("## What can go wrong?")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {
        kind.__name__ for parent in (RequestError, ServerBusy) for kind in parent.__subclasses__()
    }


def test_the_table_of_states() -> None:
    """It has every change in the docstring of State, and names the reasons by their names."""
    rows = re.findall(r"^\| (OFFLINE|CONNECTING|ONLINE|RECONNECTING|any) \| ([A-Z]+) \|", PAGE, re.MULTILINE)
    said = re.findall(r"^ *\| (\w+) +\| ([A-Z]+) +\|", State.__doc__ or "", re.MULTILINE)
    assert rows == said
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE)) <= set(Reason.__members__)
