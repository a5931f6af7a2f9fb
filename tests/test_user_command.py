"""`jelly user`: accounts that the operator makes and changes, beside a running server or alone."""

import contextlib
import getpass
import io
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from harness import StartServer, run_here
from wire import LOGIN, RECONNECT, Wire, logged_in, register, wait_until

from faults.process import PATIENCE, ROOT, Server, clean_environment
from jelly import user_command
from jelly.config import Settings
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import StartError
from jelly.migrations import migrate
from jelly.user_command import run_user_command

User = Callable[..., str]
TAKEN = "jelly: This user name, or one that looks the same, is taken: choose another one."


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    """Runs `jelly user` in this process; returns what it prints."""

    def run(url: str, action: str, name: str | None = None, password: str = "") -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            run_user_command(action, name, Settings(database=url, password_cost=1))
        return output.getvalue().removesuffix("\n")

    return run


def run_program(url: str, *arguments: str, password: str = "", code: int = 0) -> str:
    """Run `jelly user` as a program, which must end with an exit code; return what it says."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jelly.py"), "user", *arguments, f"--database={url}"],
        input=f"{password}\n", capture_output=True, text=True, timeout=PATIENCE + 10,
        env={**clean_environment(), "JELLY_PASSWORD_COST": "1", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert not (done.stdout if code else done.stderr)
    return (done.stderr if code else done.stdout).removesuffix("\n")


def test_nobody_reads_the_list(tmp_path: Path) -> None:
    """As in `jelly user list | true`: the program ends, without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url) as server:
        run_program(url, "add", "alice", password="secret1")
        assert server.stop() == 0
    command = [sys.executable, str(ROOT / "jelly.py"), "user", "list", f"--database={url}"]
    with os.fdopen(writer, "w") as nowhere:
        done = subprocess.run(command, stdout=nowhere, stderr=subprocess.PIPE, env=clean_environment(), check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_program(tmp_path: Path) -> None:
    """It is a command like the others, and no secret comes into the server's log."""
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url, "--registration=closed") as server:
        assert run_program(url, "add", "小王", password="secret1") == "小王 is added"
        logged_in(server.port, "小王", "secret1").close()
        assert run_program(url, "list") == "小王"
        assert run_program(url, "passwd", "bob", password="x", code=1) == "jelly: There is no such user."
        assert run_program(url, "add", "小王", password="x", code=1) == TAKEN
        assert run_program(url, "passwd", "小王", password="secret1") == "the password of 小王 is changed"
        assert server.stop() == 0
        for line in ("add the user 小王: it is done", "set the password of 小王: it is done"):
            assert f"INFO jelly.operator: the operator asked to {line}\n" in server.log.decode()
        for secret in (b"secret1", b"scrypt"):
            assert secret not in server.log


def test_the_key_of_a_bot(tmp_path: Path) -> None:
    """It is printed alone, and is the password; a new one ends it, its tokens and the session."""
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url, "--registration=closed") as server:
        keys = [run_program(url, "add", "echo", "--bot")]
        with logged_in(server.port, "echo", keys[0]) as bot:
            keys.append(run_program(url, "passwd", "echo", "--bot"))
            assert bot.is_closed_by_server()
        with Wire(server.port) as again:
            assert again.refused(LOGIN, username="echo", password=keys[0]) == "wrong_credentials"
        with Wire(server.port) as again:
            assert again.refused(RECONNECT, username="echo", token=bot.token) == "invalid_token"
        logged_in(server.port, "echo", keys[1]).close()
        for key in keys:
            assert key.startswith("jellybot-")
            assert len(key) == 9 + 32
            assert key.encode() not in server.log
        assert run_program(url, "add", "echo", "--bot", code=1) == TAKEN
        assert keys[0] != keys[1]
        assert "--bot" in run_program(url, "disable", "echo", "--bot", code=2)


def test_beside_a_running_server(start_server: StartServer, database_url: str, user: User) -> None:
    """It adds users to a server that is closed, also with reserved names, and lists them."""
    port = start_server(database=database_url, registration="closed").port
    assert user(database_url, "add", "alice", "secret1") == "alice is added"
    logged_in(port, "alice", "secret1").close()
    for name, password, sentence in (
        ("alice", "pw", "is taken"), ("ａｌｉｃｅ", "pw", "is taken"), ("victiм", "pw", "mixes scripts"),
        ("a b", "pw", "1 to 32 characters"), ("bob", "", "1 to 128 characters"),
    ):  # fmt: skip
        with pytest.raises(StartError, match=sentence):
            user(database_url, "add", name, password)
    for name in ("admin", "小王"):
        user(database_url, "add", name, "pw")
    assert user(database_url, "list").split() == ["admin", "alice", "小王"]
    assert user(database_url, "list", "小王") == "小王"
    for action in ("list", "passwd"):
        with pytest.raises(StartError, match="There is no such user"):
            user(database_url, action, "bob", "pw")


@pytest.mark.parametrize("features", [None, []], ids=["classic", "modern"])
def test_a_new_password_ends_what_the_old_one_opened(
    start_server: StartServer, database_url: str, user: User, features: list[str] | None
) -> None:
    """The user's session is told and closed, and no token is left. Others notice nothing."""
    port = start_server(database=database_url).port
    register(port, "alice", "bob")
    with logged_in(port, "alice", features=features) as alice, logged_in(port, "bob") as bob:
        user(database_url, "passwd", "alice", "new")
        if features is not None:
            assert alice.receive_notice().values == {"event": "password_changed"}
        assert alice.is_closed_by_server()
        with Wire(port) as again:
            assert again.refused(RECONNECT, username="alice", token=alice.token) == "invalid_token"
        bob.message("alice", "hello")
    with Wire(port) as wire:
        assert wire.login("alice", "pw").error == "wrong_credentials"
    with logged_in(port, "alice", "new") as alice:
        assert alice.contents(1) == ["hello"]


def test_without_a_server(start_server: StartServer, database_url: str, user: User) -> None:
    """A server finds the users that were made, and their tokens ended."""
    start_server(database=database_url).stop()
    assert user(database_url, "add", "alice", "pw") == "alice is added"
    server = start_server(database=database_url)
    with logged_in(server.port, "alice") as alice:
        pass
    server.stop()
    assert user(database_url, "passwd", "alice", "new") == "the password of alice is changed"
    with pytest.raises(StartError, match="There is no such user"):
        user(database_url, "passwd", "bob", "new")
    assert user(database_url, "list") == "alice"
    port = start_server(database=database_url).port
    with Wire(port) as again:
        assert again.refused(RECONNECT, username="alice", token=alice.token) == "invalid_token"
    logged_in(port, "alice", "new").close()


def test_while_people_write(start_server: StartServer, database_url: str, user: User) -> None:
    """It does not wait until they are quiet, and costs them nothing."""
    port = start_server(database=database_url, inbox_messages=0).port
    register(port, "alice", "bob")
    is_over, sent = threading.Event(), list[str]()

    def write() -> None:
        with logged_in(port, "alice", features=[]) as alice:
            while not is_over.is_set():
                alice.message("bob", str(len(sent)))
                sent.append(str(len(sent)))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_until(lambda: len(sent) > 10)
        for number in range(3):
            user(database_url, "passwd", "bob", f"pw{number}")
            user(database_url, "add", f"user{number}", "pw")
    finally:
        is_over.set()
        thread.join()
    with logged_in(port, "bob", "pw2", []) as bob:
        assert bob.contents(len(sent)) == sent


def test_a_database_that_is_away_for_a_moment(tmp_path: Path, start_server: StartServer, user: User) -> None:
    """The server tries again, and the command waits for it."""
    server = start_server()
    register(server.port, "alice")
    with closing(sqlite3.connect(tmp_path / "jelly.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE tokens RENAME TO lost_tokens")
        said: list[str] = []
        url = f"sqlite:///{tmp_path}/jelly.db"
        thread = threading.Thread(target=lambda: said.append(user(url, "passwd", "alice", "new")))
        thread.start()
        wait_until(lambda: server.store.outage.is_open)
        database.execute("ALTER TABLE lost_tokens RENAME TO tokens")
        thread.join()
    assert said == ["the password of alice is changed"]
    logged_in(server.port, "alice", "new").close()


def test_commands_that_cannot_be_read_for_a_moment(tmp_path: Path, start_server: StartServer, user: User) -> None:
    """The server says so in its log, and looks again."""
    server = start_server()
    with closing(sqlite3.connect(tmp_path / "jelly.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE operator_commands RENAME TO lost")
        wait_until(lambda: server.store.outage.is_open)
        database.execute("ALTER TABLE lost RENAME TO operator_commands")
    assert user(f"sqlite:///{tmp_path}/jelly.db", "add", "alice", "pw") == "alice is added"


def test_a_server_that_reaches_the_file_by_another_path(tmp_path: Path, start_server: StartServer, user: User) -> None:
    """The file is not touched: its log is beside the other path."""
    register(start_server().port, "alice")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "linked.db").hardlink_to(tmp_path / "jelly.db")
    (tmp_path / "symlink.db").symlink_to(tmp_path / "jelly.db")
    for action in ("list", "add"):
        with pytest.raises(StartError, match="uses this file by another path"):
            user(f"sqlite:///{tmp_path}/other/linked.db", action, "bob", "pw")
    assert {file.name for file in (tmp_path / "other").iterdir()} == {"linked.db", "linked.db.lock"}
    assert user(f"sqlite:///{tmp_path}/symlink.db", "add", "bob", "pw") == "bob is added"
    assert user(f"sqlite:///{tmp_path}/symlink.db", "list").split() == ["alice", "bob"]


@contextmanager
def claimed(url: str) -> Iterator[Dao]:
    """A database that belongs to a server which does not look for commands."""
    engine = open_engine(url)
    connection = DatabaseConnection(engine, writes=True)
    migrate(connection)
    yield Dao(connection)
    connection.close()
    engine.release()


def test_a_server_that_does_not_answer(database_url: str, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gives up, says that nobody knows, and takes back what it asked for."""
    monkeypatch.setattr(user_command, "ANSWER_TIMEOUT", 0.2)
    with claimed(database_url) as dao:
        with pytest.raises(StartError, match="has not answered: nobody knows whether it was done"):
            user(database_url, "add", "alice", "pw")
        assert dao.connection.query("SELECT * FROM operator_commands") == []
        assert not dao.has_user("alice")
        dao.connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
        with pytest.raises(StartError, match="is of another version"):
            user(database_url, "add", "alice", "pw")


def test_what_is_left_in_the_table(
    start_server: StartServer, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands of a process that has died are carried out once; no hash stays, and old results
    go.
    """
    server = start_server(database=database_url)
    connection = DatabaseConnection(open_engine(database_url))
    dao = Dao(connection)
    dao.add_command("1", "add", "alice", "scrypt$x")
    wait_until(lambda: dao.command_result("1") == "done")
    dao.add_command("2", "add", "alice", "scrypt$x")
    wait_until(lambda: dao.command_result("2") == "username_taken")
    assert connection.query("SELECT password FROM operator_commands") == [("",), ("",)]
    connection.execute("UPDATE operator_commands SET finished = 1")
    dao.add_command("3", "passwd", "bob", "scrypt$x")
    wait_until(lambda: dao.command_result("3") == "no_such_user")
    assert connection.query("SELECT id FROM operator_commands") == [("3",)]
    connection.close()
    server.stop()
    assert (
        f"the operator asked to add the user alice: it was refused. {TAKEN.removeprefix('jelly: ')}" in caplog.messages
    )


def test_a_command_that_is_withdrawn(start_server: StartServer, tmp_path: Path) -> None:
    """If it goes before its turn comes, nothing is done."""
    server = start_server()
    with closing(DatabaseConnection(open_engine(f"sqlite:///{tmp_path}/jelly.db"))) as connection:
        dao = Dao(connection)
        with server.store._turn:
            dao.add_command("1", "add", "alice", "scrypt$x")
            wait_until(lambda: bool(server.store._jobs))
            dao.withdraw_command("1")
        dao.add_command("2", "add", "bob", "scrypt$x")
        wait_until(lambda: dao.command_result("2") == "done")
        assert not dao.has_user("alice")


def test_a_stop_while_a_command_waits(start_server: StartServer, tmp_path: Path) -> None:
    """The store carries it out before it ends."""
    server = start_server()
    with closing(DatabaseConnection(open_engine(f"sqlite:///{tmp_path}/jelly.db"))) as connection:
        dao = Dao(connection)
        with server.store._turn:
            dao.add_command("1", "add", "alice", "scrypt$x")
            wait_until(lambda: bool(server.store._jobs))
            stopping = threading.Thread(target=server.stop)
            stopping.start()
        stopping.join()
        assert dao.command_result("1") == "done"


def test_passwords_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for twice, and never shown; nothing is done if they differ."""
    url = f"sqlite:///{tmp_path}/jelly.db"
    settings = Settings(database=url, password_cost=1)
    with claimed(url):
        pass

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    answers: list[str] = []

    def ask(_prompt: str) -> str:
        if not answers:
            raise EOFError
        return answers.pop(0)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", ask)
    for typed, sentence in ((["a", "b"], "The passwords differ"), ([], "No password was given")):
        answers[:] = typed
        with pytest.raises(StartError, match=sentence):
            run_user_command("add", "alice", settings)
    answers[:] = ["a", "a"]
    run_user_command("add", "re\u0301ne\u0301", settings)  # typed on a system that takes letters apart
    answers[:] = ["b", "b"]
    run_user_command("passwd", "réné", settings)
    for action, name, sentence in (("add", "réné", "is taken"), ("passwd", "bob", "There is no such user")):
        answers[:] = ["unused"]
        with pytest.raises(StartError, match=sentence):
            run_user_command(action, name, settings)
        assert answers == ["unused"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, EOFError])
def test_an_end_at_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: type[BaseException]
) -> None:
    """The next prompt of the shell begins a line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def ask(prompt: str) -> str:
        sys.stderr.write(prompt)
        raise end

    with claimed(f"sqlite:///{tmp_path}/jelly.db"):
        pass
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", ask)
    with pytest.raises(StartError if end is EOFError else end):
        run_user_command("add", "alice", Settings(database=f"sqlite:///{tmp_path}/jelly.db"))
    assert capsys.readouterr().err == "New password for alice: \n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["add"], 2, "NAME is missing."),
        (["add", "alice", "secret"], 2, "There are too many arguments: secret"),
        (
            ["remove", "alice"],
            2,
            "There is no command remove: choose from add, passwd, disable, enable, delete, export, list",
        ),
        ([], 2, "ACTION is missing."),
        (["list", "--database=memory:"], 1, "has no users but those of its server"),
        (["list", "--database=sqlite:///{tmp}/none.db"], 1, "There is no database sqlite:///{tmp}/none.db"),
        (["list", "--database=sqlite:///{tmp}"], 1, "The database cannot be used"),
        (["add", "alice", "--database=sqlite:///{tmp}/no/j.db"], 1, "There is no database sqlite:///{tmp}/no/j.db. "),
        (["add", "alice", "--database=sqlite:///{tmp}/none.db"], 1, "made by the first start of its server"),
        (["passwd", "alice", "--database=sqlite:///{tmp}/none.db"], 1, "made by the first start of its server"),
        (["list", "--database=oracle://x"], 2, "A database is named as"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence says what is wrong; a password is no argument, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    done = run_here("user", *(each.format(tmp=tmp_path) for each in arguments), input="pw\n")
    assert done.returncode == code
    assert sentence.format(tmp=tmp_path) in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("action", ["add", "passwd", "list"])
def test_a_database_without_tables_of_ours(empty_database_url: str, user: User, action: str) -> None:
    """No command makes them, neither in an empty database nor beside those of another program."""
    engine = open_engine(empty_database_url)
    connection = DatabaseConnection(engine, writes=True)
    for statements in ([], ["CREATE TABLE users (name VARCHAR(32), PRIMARY KEY (name))"]):
        with connection.transaction():
            for statement in statements:
                connection.define(statement)
        connection.close()
        engine.release()
        with pytest.raises(StartError, match=r"is not a database of Jelly\. Check --database"):
            user(empty_database_url, action, "alice", "pw")
        assert connection.tables() == ({"users"} if statements else set())
    connection.close()
    engine.release()


def test_a_file_that_may_not_be_written(tmp_path: Path, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names what to change. (The tests may run as root, who may write everywhere.)"""
    url = f"sqlite:///{tmp_path}/jelly.db"
    with claimed(url):
        pass

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for action in ("list", "add"):
        with pytest.raises(StartError, match=f"Permission denied. This user may not write to {tmp_path}: change"):
            user(url, action, "alice", "pw")


def test_many_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them are listed, page by page, and a database of an older version is readable, too."""
    monkeypatch.setattr(user_command, "NAMES_AT_ONCE", 7)
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        raw.executescript((Path(__file__).parent / "schema_1.sql").read_text())
        names = sorted(f"user{number}" for number in range(50))
        raw.executemany("INSERT INTO users (username, password) VALUES (?, 'x')", [(name,) for name in names])
        raw.commit()
    run_user_command("list", None, Settings(database=f"sqlite:///{tmp_path}/old.db"))
    assert capsys.readouterr().out.split() == names
