"""The program as its operator meets it: exit codes, sentences, the line at the start, signals."""

import contextlib
import json
import logging
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from harness import run_here
from wire import Wire, logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from faults.process import ROOT, Server, clean_environment, end, run
from jelly import __version__, cli
from jelly.config import VALUES, Settings
from jelly.sqlite_engine import SqliteEngine


def test_help_shows_every_setting() -> None:
    """`--help` has each flag with its default."""
    text = " ".join(run("--help").stdout.split())
    for setting in fields(Settings):
        assert f"--{setting.name.replace('_', '-')}" in text
        assert str(setting.default) in text


def test_help_says_what_each_value_is() -> None:
    """A number is N. The values of all other settings have names."""
    texts = {setting.name for setting in fields(Settings) if not isinstance(setting.default, int | float)}
    assert set(VALUES) == texts
    shown = run("--help").stdout
    for flag in ("--max-connections N", "--registration open|invite|closed", "--tls-cert FILE"):
        assert f"  {flag} " in shown.replace("\n", " ")


def test_the_usage_names_every_command() -> None:
    """It has a line for each, with its arguments."""
    usage = run("--help").stdout.partition("\n\n")[0]
    for command in (*cli.COMMANDS[1:], "user add|passwd NAME", "user list [NAME]", "backup FILE", "restore FILE"):
        assert f" jelly {command} " in usage


def test_the_next_step(tmp_path: Path) -> None:
    """A person who starts the server in a terminal is told how to chat; other logs lack that."""
    url = f"sqlite:///{tmp_path}/j.db"
    master, slave = pty.openpty()
    command = [sys.executable, str(ROOT / "jelly.py"), "--port=0", "--password-cost=1", f"--database={url}"]
    process = subprocess.Popen(command, stderr=slave, env=clean_environment())
    try:
        os.close(slave)
        log = b""
        while b"Ctrl-C stops the server" not in log:
            log += os.read(master, 65536)
        [port] = re.findall(rb"listening on 127.0.0.1 port (\d+)", log)
        assert b"to chat, type in another terminal: " in log
        assert b"jelly.py chat NAME --server jelly://127.0.0.1:" + port in log
    finally:
        end(process)
        os.close(master)
    with Server(url) as server:
        register(server.port, "alice")
        assert b"to chat" not in server.log


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 10)], ids=str)
@pytest.mark.parametrize("file", ["jelly.py", "client_api.py"])
def test_an_old_python(file: str, version: tuple[int, int]) -> None:
    """One sentence names the version that is needed. (Only the number is an old one here.)"""
    run_it = f"runpy.run_path({str(ROOT / file)!r}, None, '__main__')"
    code = f"import sys, runpy; sys.version_info = {(*version, 1, 'final', 0)}; {run_it}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    sentence = "needs Python 3.11 or newer, and this is Python {}.{}.".format(*version)
    assert done.stderr.splitlines()[-1].endswith(sentence)


def test_version() -> None:
    """`--version` says which one."""
    assert run("--version").stdout == f"jelly {__version__}\n"


def fails(code: int, *arguments: str, bare: bool = False, **environment: str) -> str:
    """Start a server that must fail with an exit code; return the one line that it says."""
    return only_line(code, run("--port=0", *arguments, bare=bare, **environment))


def only_line(code: int, done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a program has said that ended with an exit code."""
    assert done.returncode == code, done.stderr
    [line] = done.stderr.splitlines()
    assert done.stdout == ""
    return line.removeprefix("jelly: ")


def test_a_wrong_setting() -> None:
    """One sentence that says what, where and what would be right; exit code 2."""
    assert fails(2, "--workers=many") == "--workers is 'many', but it must be a whole number from 1 to 64."
    assert fails(2, JELLY_QUEUE_SIZE="0").startswith("JELLY_QUEUE_SIZE is '0', but it must be a whole number")
    for flag, line in (
        ("--database=oracle://x", "--database: A database is named as sqlite:///"),
        ("--cluster=none", "A cluster needs MySQL or MariaDB: name one with --database mysql://"),
        ("--nodes=2", "--nodes 2 is for a cluster: give --cluster"),
    ):
        assert only_line(2, run_here("--port=0", flag)).startswith(line)


def test_a_wrong_command() -> None:
    """One sentence names all commands."""
    for command in ("serv", "chatt"):
        line = only_line(2, run_here(command))
        assert line.startswith(f"There is no command {command} (did you mean ")
        assert line.endswith(": choose from serve, chat, backup, restore, user, reports, nodes. See jelly --help.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--prot 1", "There is no flag --prot (did you mean --port?). See jelly --help."),
        ("serve --prot=1", "There is no flag --prot (did you mean --port?). See jelly --help."),
        ("--zebra", "There is no flag --zebra. See jelly --help."),
        ("--port", "--port needs a value. See jelly --help."),
        ("--demo=yes", "--demo takes no value. See jelly --help."),
        ("serve more", "There are too many arguments: more. See jelly --help."),
        ("backup", "FILE is missing. See jelly backup --help."),
        ("backup c.db --databse x", "There is no flag --databse (did you mean --database?). See jelly backup --help."),
        ("--port 1 backup c.db", "There is no flag --port. See jelly backup --help."),
        ("user", "ACTION is missing. See jelly user --help."),
        ("user add", "NAME is missing. See jelly user add --help."),
        (
            "user ad bob",
            "There is no command ad (did you mean add?): choose from add, passwd, disable, enable, delete, export, "
            "list. See jelly user --help.",
        ),
        ("nodes --jsn", "There is no flag --jsn (did you mean --json?). See jelly nodes --help."),
        ("user add bob --pasword x", "There is no flag --pasword. See jelly user add --help."),
    ],
)
def test_a_wrong_command_line(arguments: str, sentence: str) -> None:
    """One sentence says what is wrong, and where to look; exit code 2."""
    done = run_here(*arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"jelly: {sentence}\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_letters_that_cannot_be_shown(tmp_path: Path, encoding: str) -> None:
    """They are written as codes; nothing ends with a traceback."""
    url = f"sqlite:///{tmp_path}/j.db"
    with Server(url) as server:
        register(server.port, "alice", "小王")
        assert server.stop() == 0
    assert run("user", "list", f"--database={url}", PYTHONIOENCODING=encoding).stdout == "alice\n\\u5c0f\\u738b\n"
    assert run("--help", PYTHONIOENCODING=encoding).returncode == 0
    done = run("--host=小王", PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_flags_before_the_command(tmp_path: Path) -> None:
    """They mean the same as behind it."""
    url, toml = f"sqlite:///{tmp_path}/j.db", tmp_path / "jelly.toml"
    toml.write_text(f'database = "{url}"')
    with Server(url) as server:
        register(server.port, "alice")
        assert server.stop() == 0
    for flags in ([f"--database={url}"], ["--database", url], ["--config", str(toml)]):
        assert run_here(*flags, "user", "list").stdout == "alice\n"
        assert run_here("user", *flags, "list").stdout == "alice\n"
        assert run_here(*flags, "backup", str(tmp_path / "copy.db")).stdout.endswith(" bytes\n")
        assert run_here("restore", *flags, str(tmp_path / "copy.db")).returncode == 0
        (tmp_path / "copy.db").unlink()
    assert "--server" in run_here("--server", "jelly://127.0.0.1:1", "chat", "--help").stdout


def test_mysql_without_its_package() -> None:
    """It is one sentence with the command that helps."""
    assert "pip install 'mysql-connector-python" in fails(2, "--database=mysql://u:p@127.0.0.1/jelly", bare=True)


def test_a_port_in_use(tmp_path: Path) -> None:
    """One sentence, exit code 1, and the database is free again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = fails(1, f"--port={port}", f"--database=sqlite:///{tmp_path}/j.db")
    assert line.startswith(f"Cannot listen on 127.0.0.1 port {port}: Address already in use.")
    with Server(f"sqlite:///{tmp_path}/j.db") as server:
        assert server.stop() == 0


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    """One sentence, exit code 1."""
    line = fails(1, "--host=203.0.113.1", f"--database=sqlite:///{tmp_path}/j.db")
    assert line.startswith("Cannot listen on 203.0.113.1 port 0: ")
    assert "This machine does not have that address: use 127.0.0.1" in line
    line = fails(1, "--host=no.such.host.invalid", f"--database=sqlite:///{tmp_path}/j.db")
    assert line.endswith(" Choose another --host or --port.")


@pytest.mark.parametrize(
    ("path", "what_to_do"),
    [
        ("{tmp}/missing/j.db", "There is no directory {tmp}/missing: create it first."),
        ("{tmp}", "{tmp} is a directory: name a file in it."),
    ],
)
def test_a_file_that_cannot_be_written(path: str, what_to_do: str, tmp_path: Path) -> None:
    """One line with the database's name and what to do, exit code 1."""
    url = f"sqlite:///{path.format(tmp=tmp_path)}"
    line = fails(1, f"--database={url}")
    assert line.startswith(f"The database {url} cannot be used: ")
    assert line.endswith(f". {what_to_do.format(tmp=tmp_path)}")


def test_a_directory_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice names the directory. (The tests may run as root, who may write everywhere.)"""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert SqliteEngine(f"{tmp_path}/j.db").advice == f"This user may not write to {tmp_path}: change its permissions."


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Somebody's other file is not touched."""
    (tmp_path / "letter.txt").write_text("Dear friend, " * 100)
    line = fails(1, f"--database=sqlite:///{tmp_path}/letter.txt")
    assert "cannot be used" in line
    assert line.endswith("or name another file with --database.")
    assert (tmp_path / "letter.txt").read_text() == "Dear friend, " * 100
    assert "cannot be used" in run("user", "list", f"--database=sqlite:///{tmp_path}/letter.txt").stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_mysql_that_refuses(mariadb: PrivateMariaDB) -> None:
    """A wrong password, or nobody there: one sentence without the password."""
    url = mariadb.fresh_database("refusing")
    line = fails(1, f"--database={url.replace('password', 'Wrong-Secret')}")
    assert line.startswith(f"The database mysql://127.0.0.1:{mariadb.port}/refusing cannot be used: ")
    assert line.endswith(
        "Check that it runs, the user, the password and the name in its URL, and what this user may do."
    )
    assert "Secret" not in line
    assert "cannot be used" in fails(1, "--database=mysql://jelly:Wrong-Secret@127.0.0.1:1/jelly")


def test_a_second_server_on_the_same_database(database_url: str) -> None:
    """One database belongs to one server; after a crash it is free at once."""
    with Server(database_url) as first:
        line = fails(1, f"--database={database_url}")
        assert line.endswith(
            "cannot be used: another server is using this database: stop that one, or name another database."
        )
        first.kill()
    with Server(database_url) as second:
        assert second.stop() == 0


def test_a_second_server_through_a_hard_link(tmp_path: Path) -> None:
    """It is the same file, so it is refused, although it would have another log beside it."""
    (tmp_path / "other").mkdir()
    with Server(f"sqlite:///{tmp_path}/j.db") as first:
        register(first.port, "alice")
        (tmp_path / "other" / "linked.db").hardlink_to(tmp_path / "j.db")
        line = fails(1, f"--database=sqlite:///{tmp_path}/other/linked.db")
        assert "another server is using this database" in line
        first.kill()
    with Server(f"sqlite:///{tmp_path}/other/linked.db") as second:
        assert second.stop() == 0


def is_connected(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has a socket."""
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if "socket:" in str(file.readlink()):
                return True
    return False


def test_ctrl_c_while_it_starts(mariadb: PrivateMariaDB) -> None:
    """Who gives up waiting for a database that hangs is not shown a traceback."""
    command = [sys.executable, str(ROOT / "jelly.py"), "--port=0", f"--database={mariadb.fresh_database('hanging')}"]
    mariadb.pause()
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=clean_environment()) as process:
            wait_until(lambda: is_connected(process))
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=10)[1]
    finally:
        mariadb.resume()
    assert b"Traceback" not in said


def test_the_line_at_the_start(tmp_path: Path) -> None:
    """It says where it listens, on which database, with which limits, and through which driver."""
    with Server(f"sqlite:///{tmp_path}/j.db", "--queue-size=77") as server:
        assert server.stop() == 0
        line = server.log.decode().splitlines()[0]
        for part in (f"127.0.0.1 port {server.port};", f"sqlite:///{tmp_path}/j.db", "77 waiting", "driver sqlite3"):
            assert part in line


def test_the_log_in_json(tmp_path: Path) -> None:
    """Each line is an object."""
    with Server(f"sqlite:///{tmp_path}/j.db", "--log-format=json") as server:
        assert server.stop() == 0
        entries = [json.loads(line) for line in server.log.splitlines()]
        assert entries[0].keys() == {"time", "level", "logger", "message"}
        assert entries[-1]["message"] == "stopped"


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """While the first one waits for a database that somebody else holds."""
    import sqlite3

    with Server(f"sqlite:///{tmp_path}/j.db") as server:
        register(server.port, "alice")
        other = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
        with logged_in(server.port, "alice") as alice:
            other.execute("BEGIN IMMEDIATE")
            alice.send_message("alice", "x")
            server.process.send_signal(signal.SIGTERM)
            server.wait_for_log(b"stopping")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(2) == -signal.SIGTERM
        other.close()


def test_it_is_a_module_too() -> None:
    """An `import jelly` beside jelly.py finds the package."""
    code = "import jelly; print(jelly.__path__[0])"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("jelly")


def test_a_database_that_hangs(mariadb: PrivateMariaDB) -> None:
    """It keeps nobody for ten seconds: a start fails with one sentence, exit code 1, and a stop
    says that it did not wait. Both wait for the same hang.
    """
    url = mariadb.fresh_database("hanging")
    with Server(mariadb.fresh_database("hangs")) as server:
        register(server.port, "alice")
        with logged_in(server.port, "alice") as alice:
            mariadb.pause()
            try:
                with ThreadPoolExecutor() as pool:
                    start = pool.submit(fails, 1, f"--database={url}")
                    alice.send_message("alice", "x")
                    assert server.stop() in (0, 1)
                    assert "cannot be used" in start.result()
            finally:
                mariadb.resume()


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    """Nobody else on the machine may read the messages."""
    with Server(f"sqlite:///{tmp_path}/j.db") as server:
        register(server.port, "alice")
        assert [path.stat().st_mode & 0o077 for path in tmp_path.glob("j.db*")] == [0, 0, 0, 0]
        assert server.stop() == 0


@dataclass
class Stopping:
    """A server that was told to stop when it had much to answer, the client that asked, and the
    database.
    """

    server: Server
    alice: Wire
    url: str


@contextlib.contextmanager
def stopping(directory: Path, number: int, features: list[str] | None) -> Iterator[Stopping]:
    """On a bare Python, from another directory: alice sends 3000 messages, and at the first answer
    a signal comes.
    """
    url = f"sqlite:///{directory}/j.db"
    with Server(url, "--message-rate=0", bare=True, cwd=directory) as server:
        register(server.port, "alice", "bob")
        with Wire(server.port) as alice:
            alice.login("alice", features=features)
            for _ in range(3000):
                alice.send_message("bob", "x")
            alice.receive()
            server.process.send_signal(number)
            yield Stopping(server, alice, url)


@pytest.fixture(scope="module", autouse=True)
def slow_stop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopping]:
    """With a classic client, it takes eight seconds: it begins before the other tests here, and
    passes during them.
    """
    with stopping(tmp_path_factory.mktemp("slow"), signal.SIGTERM, None) as begun:
        yield begun


def assert_ends_well(stopping: Stopping) -> None:
    """It ends with 0, and what it answered is there at the next start."""
    answered = 1
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            answered += stopping.alice.receive().status == 0x31
    stopping.alice.close()
    assert stopping.server.process.wait(10) == 0
    with Server(stopping.url, "--classic-gap=0") as server, logged_in(server.port, "bob") as bob:
        assert len(bob.contents(answered)) == answered


def test_stopping_while_messages_come(tmp_path: Path) -> None:
    """A modern client is answered in time."""
    with stopping(tmp_path, signal.SIGINT, []) as begun:
        assert_ends_well(begun)


def test_stopping_before_all_is_answered(slow_stop: Stopping) -> None:
    """A classic client cannot be answered in time, because its answers are paced."""
    assert_ends_well(slow_stop)


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "asked"),
    [
        (1024, 4096, 5000, (4096, 4096)),
        (1024, resource.RLIM_INFINITY, 5000, (5100, resource.RLIM_INFINITY)),
        (1024, 1 << 20, 5000, (5100, 1 << 20)),
        (1024, 4096, 100, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 5000, None),
    ],
)
def test_the_limit_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, connections: int, asked: tuple[int, int] | None
) -> None:
    """It is raised to what the connections need, as far as the system lets it."""
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    cli._raise_descriptor_limit(Settings(max_connections=connections))
    assert limits == ([asked] if asked else [])


def test_something_that_hangs_at_the_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The process ends all the same, and says that it did not wait."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    cli._force_exit()
    assert codes == [1]
    assert "ending the process without waiting for it" in caplog.text


def test_a_traceback_in_json() -> None:
    """It is a field of the one object, so that the line stays one line."""
    try:
        raise LookupError("no such thing")
    except LookupError:
        record = logging.LogRecord("jelly", logging.ERROR, __file__, 1, "it failed", None, sys.exc_info())
    [line] = cli.JsonFormatter().format(record).splitlines()
    entry = json.loads(line)
    assert entry["message"] == "it failed"
    assert entry["traceback"].endswith("LookupError: no such thing")


@pytest.mark.parametrize(("host", "is_warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_server_without_tls(host: str, is_warned: bool) -> None:
    """Who opens it to the network is told that everybody there can read along."""
    with Server("memory:", f"--host={host}") as server:
        assert server.stop() == 0
        log = server.log.decode()
    assert ("cross the network in clear" in log) is is_warned
