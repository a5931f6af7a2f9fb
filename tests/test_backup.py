"""`jelly backup`: a copy of the database while people write, and a server that starts from it."""

import contextlib
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from copies import assert_is_restored, made_and_copied
from harness import kept_for, ready_database, run_here
from wire import logged_in, register, wait_until

from faults.mariadb import PASSWORD, PrivateMariaDB
from faults.process import Server, clean_environment, no_limits, run
from jelly import backup
from jelly.backup import OtherProgram, back_up, restore
from jelly.config import Settings
from jelly.errors import StartError
from jelly.user_command import run_user_command


@contextmanager
def writing(port: int, sent: list[str]) -> Iterator[None]:
    """Alice writes to bob without a pause, and everything is answered with SUCCESS."""
    is_over = threading.Event()

    def write() -> None:
        with logged_in(port, "alice", features=[]) as alice:
            while not is_over.is_set():
                content = f"{len(sent)} 你好 😀"
                alice.message("bob", content)
                sent.append(content)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_a_backup_under_load(tmp_path: Path) -> None:
    """It ends while people write, and has all that was answered with SUCCESS before it began; of
    what came meanwhile it has the first part, in order.
    """
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    sent: list[str] = []
    with Server(f"sqlite:///{path}", *no_limits()) as server:
        register(server.port, "alice", "bob")
        with writing(server.port, sent):
            wait_until(lambda: len(sent) >= 100)
            before = len(sent)
            done = run("backup", str(copy), f"--database=sqlite:///{path}")
            assert (done.returncode, done.stderr) == (0, "")
            assert len(sent) > before
        assert done.stdout == f"{copy}: {copy.stat().st_size:,} bytes\n"
        assert copy.stat().st_mode & 0o077 == 0
        assert server.stop() == 0
    kept = kept_for("bob", copy)
    assert len(kept) >= before
    assert kept == sent[: len(kept)]
    done = run("restore", str(copy), f"--database=sqlite:///{path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert_is_restored(f"sqlite:///{path}", kept)


@pytest.mark.parametrize(("command", "program"), [("backup", "mysqldump"), ("restore", "mysql")])
def test_the_command_for_mysql(command: str, program: str, tmp_path: Path) -> None:
    """It stands alone on standard output, without the password; what to do with it is beside it."""
    copy = tmp_path / "copy.sql"
    if command == "restore":
        copy.write_text("-- a dump")
    done = run_here(command, str(copy), "--database=mysql://jelly:Secret-1@127.0.0.1:1/chat")
    assert done.returncode == 1
    [line], [sentence] = done.stdout.splitlines(), done.stderr.splitlines()
    words = shlex.split(line.removeprefix("(umask 077 && ").removesuffix(")"))
    assert words[0] == program
    assert {"--host=127.0.0.1", "--port=1", "--user=jelly", "--password", "chat"} <= set(words)
    assert sentence.endswith(":")
    assert "Secret" not in done.stdout + done.stderr


def test_a_file_that_mysql_cannot_load(tmp_path: Path) -> None:
    """A copy of SQLite, no file, a directory: no command is printed."""
    _, _, copy = made_and_copied(tmp_path)
    for path, sentence in (
        (copy, f"{copy} is a copy of an SQLite database, which MySQL and MariaDB cannot read, and Jelly cannot"),
        (tmp_path / "none", f"There is no file {tmp_path}/none: name a copy that `jelly backup` has made."),
        (tmp_path, f"{tmp_path} is a directory: name a file in it."),
    ):
        with pytest.raises(StartError, match=f"^{re.escape(sentence)}") as caught:
            restore("mysql://jelly:Secret-1@127.0.0.1:1/chat", path)
        assert not isinstance(caught.value, OtherProgram)


def test_no_command_for_mysql_while_it_is_used(mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    """By a server, or by nodes, which the sentence names."""
    url, dump = ready_database(mariadb, "used"), tmp_path / "dump.sql"
    dump.write_text("-- a dump")

    def sentence() -> str:
        with pytest.raises(StartError) as caught:
            restore(url, dump)
        assert isinstance(caught.value, OtherProgram) == ("run this, and start them" in str(caught.value))
        return str(caught.value)

    with Server(url) as server:
        assert re.fullmatch(r"A server uses the database mysql://\S+/used: stop it, and run this again\.", sentence())
        assert server.stop() == 0
    with Server(url, "--cluster=none") as node:
        said = (
            rf"Nodes of a cluster use .+ \(1 at 127\.0\.0\.1:{node.port}, .+\): stop all of them, or wait for \d s if"
        )
        assert re.match(said, sentence())
        assert node.stop() == 0
    assert "Stop the server, or all nodes, run this" in sentence()


def test_a_backup_of_mysql_under_load(mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    """It says which command to use, and this one does it: with its dump, a server has all
    messages.
    """
    if shutil.which("mysqldump") is None or shutil.which("mysql") is None:
        pytest.skip("mysqldump is not installed")
    url, dump = mariadb.fresh_database("dumped"), tmp_path / "a dump.sql"
    sent: list[str] = []
    with Server(url, *no_limits()) as server:
        register(server.port, "alice", "bob")
        with writing(server.port, sent):
            wait_until(lambda: len(sent) >= 100)
            before = len(sent)
            done = run("backup", str(dump), f"--database={url}")
            assert done.returncode == 1
            line = done.stdout.replace(" --password ", " ")  # it would ask for it
            environment = {**clean_environment(), "MYSQL_PWD": PASSWORD}
            line = line.replace(" mysqldump ", " mysqldump --no-defaults ")
            subprocess.run(["sh", "-c", line], env=environment, check=True, timeout=30)
            assert dump.stat().st_mode & 0o777 == 0o600
        assert server.stop() == 0
    restored = mariadb.fresh_database("restored")
    done = run_here("restore", str(dump), f"--database={restored}")
    assert done.returncode == 1
    command = shlex.split(done.stdout)
    assert command[-2:] == ["<", str(dump)]
    command.remove("--password")
    with dump.open("rb") as statements:
        restoring = [command[0], "--no-defaults", *command[1:-2]]
        subprocess.run(restoring, stdin=statements, env=environment, check=True, timeout=30)
    [[count]] = mariadb.sql("SELECT COUNT(*) FROM restored.inbox")
    assert before <= int(count) <= len(sent)
    assert_is_restored(restored, sent[: int(count)])


def test_a_file_in_use_by_another_path(tmp_path: Path) -> None:
    """A connection by this path would make a second log, and destroy the file."""
    path, link, copy = tmp_path / "jelly.db", tmp_path / "link.db", tmp_path / "copy.db"
    with Server(f"sqlite:///{path}") as server:
        register(server.port, "alice", "bob")
        link.hardlink_to(path)
        (tmp_path / "symlink.db").symlink_to(path)
        assert "A server uses this file by another path" in fails(copy, f"sqlite:///{link}")
        with pytest.raises(
            StartError, match=r"A server uses .*link\.db by another path: make a copy with `jelly backup`"
        ):
            restore(f"sqlite:///{tmp_path}/new.db", link)
        assert not [*tmp_path.glob("link.db?*"), *tmp_path.glob("new.db*")]
        back_up(f"sqlite:///{tmp_path}/symlink.db", copy)
        assert server.stop() == 0
    back_up(f"sqlite:///{link}", tmp_path / "second.db")


def fails(target: Path, url: str) -> str:
    """Why a backup is refused; it leaves nothing behind."""
    before = sorted(target.parent.iterdir()) if target.parent.exists() else []
    with pytest.raises(StartError) as refused:
        back_up(url, target)
    assert (sorted(target.parent.iterdir()) if target.parent.exists() else []) == before
    return str(refused.value)


def test_what_cannot_be_backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says why, and neither file is made."""
    path = tmp_path / "jelly.db"
    url, copy = f"sqlite:///{path}", tmp_path / "copy.db"
    assert fails(copy, url) == f"There is no database {url}: check --database."
    assert "nobody but its server can read it" in fails(copy, "memory:")
    with Server(url) as server:
        assert server.stop() == 0
    assert fails(path, url) == f"The file {path} exists already: name a new file."
    line = fails(tmp_path / "missing" / "copy.db", url)
    assert line.startswith("Cannot write ")
    assert line.endswith("No such file or directory. Name a file elsewhere.")
    other = tmp_path / "other.db"
    sqlite3.connect(other).close()
    for content, sentence in (
        (other.read_bytes(), "is no database of Jelly (no such table: meta): check --database."),
        (b"hello, this is not a database" * 100, "is no database of Jelly (file is not a database): check --database."),
        (path.read_bytes()[:20000], "is damaged (database disk image is malformed): stop its server, and restore an "),
    ):
        other.write_bytes(content)
        assert fails(copy, f"sqlite:///{other}").startswith(f"{other} {sentence}")
        other.with_name("other.db-wal").unlink(missing_ok=True)
    monkeypatch.setattr(backup, "TIMEOUT", 0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as locked, locked:
        locked.execute("DELETE FROM meta WHERE name = 'schema_version'")
        assert "it was not made by Jelly" in fails(copy, url)
        locked.execute("PRAGMA journal_mode = DELETE")
        locked.execute("BEGIN EXCLUSIVE")
        assert fails(copy, url) == f"Another program has locked {path}: end that program, or try again later."
    locked.close()


def test_a_path_that_leads_to_no_file(tmp_path: Path) -> None:
    """A directory, a pipe (which nobody writes), a loop: the sentence says which, for both."""
    url, _, copy = made_and_copied(tmp_path)
    new, pipe, loop = tmp_path / "new.db", tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path, sentence in (
        (tmp_path, f"{tmp_path} is a directory: name a file in it."),
        (pipe, f"{pipe} is not a file that holds data: name another one."),
        (loop, f"{loop} cannot be read: Too many levels of symbolic links. Name another file."),
    ):
        assert fails(new, f"sqlite:///{path}") == sentence
        with pytest.raises(StartError, match=re.escape(sentence)):
            restore(url, path)
    assert fails(tmp_path, f"sqlite:///{copy}") == f"{tmp_path} is a directory: name a new file in it."


def test_what_this_user_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the file, and the user to be. (Root may do everything, so the answers of
    the system are replaced.)
    """
    url, path, copy = made_and_copied(tmp_path)
    new = tmp_path / "new.db"
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        sentence = "This user may not read {}: run this as the user that the server runs as, or change"
        assert fails(new, url).startswith(sentence.format(path))
        with pytest.raises(StartError, match=sentence.format(copy)):
            restore(url, copy)

    def refuse(_: Path, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        sentence = "This user may not look into the directory of {}: run this as the user that the"
        for reading, asked in ((path, lambda: back_up(url, new)), (copy, lambda: restore(url, copy))):
            with pytest.raises(StartError, match=sentence.format(reading)):
                asked()
        with pytest.raises(StartError, match=f"Permission denied. This user cannot look into the directory of {path}"):
            run_user_command("list", None, Settings(database=url))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (sqlite3.SQLITE_FULL, "The disk with {copy} is full: make room, or name a file on another disk."),
        (sqlite3.SQLITE_READONLY_CANTINIT, "SQLite has to write beside {path}, and this user may not (the reason): "),
        (sqlite3.SQLITE_IOERR_WRITE, "Cannot copy {path} to {copy}: the reason. Check the disks of both."),
    ],
)
def test_what_sqlite_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str) -> None:
    """The sentence says what to do about it."""
    url, path, _ = made_and_copied(tmp_path)
    copy = tmp_path / "second.db"

    def fail(*_: Path) -> None:
        error = sqlite3.OperationalError("the reason")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(backup, "_copy", fail)
    assert fails(copy, url).startswith(sentence.format(path=path, copy=copy))


def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is not synced is none."""
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url) as server:
        assert server.stop() == 0

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert (
        fails(tmp_path / "copy.db", url)
        == f"Cannot write {tmp_path}/copy.db: Input/output error. Name a file elsewhere."
    )


def test_where_the_database_comes_from(tmp_path: Path) -> None:
    """From the environment and the TOML file, as for the server; a wrong one is said in a
    sentence.
    """
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url) as server:
        assert server.stop() == 0
    assert run_here("backup", f"{tmp_path}/one.db", JELLY_DATABASE=url).returncode == 0
    (tmp_path / "jelly.toml").write_text(f'database = "{url}"\nport = 1\n')
    assert run_here("backup", f"{tmp_path}/two.db", f"--config={tmp_path}/jelly.toml").returncode == 0
    done = run_here("backup", f"{tmp_path}/three.db", "--database=oracle://x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jelly: --database: A database is named as sqlite:///")
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()
