"""`jelly backup`: a copy of the database while people write, and a server that starts from it."""

import contextlib
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import kept_for, ready_database, run_here
from schemas import make_old_version
from wire import logged_in, register, wait_until

from faults.mariadb import PASSWORD, PrivateMariaDB
from faults.process import Server, clean_environment, free_port, no_limits, run
from jelly import backup
from jelly.backup import OtherProgram, back_up, restore
from jelly.config import Settings
from jelly.errors import StartError
from jelly.trusted_clock import FIRST_DATED, IDS_PER_MS, MAX_ID, MS
from jelly.user_command import run_user_command


def made_and_copied(directory: Path) -> tuple[str, Path, Path]:
    """The URL and the file of an empty database that no server uses, and a copy of it."""
    path, copy = directory / "jelly.db", directory / "copy.db"
    url = f"sqlite:///{path}"
    with Server(url) as server:
        assert server.stop() == 0
    back_up(url, copy)
    return url, path, copy


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


def assert_is_restored(url: str, kept: list[str]) -> None:
    """A server on a copy hands over what is in it, and carries new messages after that."""
    with (
        Server(url, *no_limits()) as server,
        logged_in(server.port, "bob", features=["ack"]) as bob,
        logged_in(server.port, "alice") as alice,
    ):
        alice.message("bob", "new")
        notices = []
        for _ in range(len(kept) + 1):
            notices.append(bob.receive_notice().values)
            bob.ack(notices[-1]["id"])  # the server has only so many unacknowledged ones under way
        assert [notice["content"] for notice in notices] == [*kept, "new"]
        ids = [notice["id"] for notice in notices]
        assert ids == sorted(set(ids))


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


def test_ids_go_on_above_the_replaced_file(tmp_path: Path) -> None:
    """Even if the clock stands still. A running program of a receiver gets what is new, and the
    replaced file stays, whole.
    """
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    url = f"sqlite:///{path}"
    port = free_port()
    with Server(url, f"--port={port}"):
        register(port, "alice", "bob")
        assert run_here("backup", str(copy), f"--database={url}").returncode == 0
        with logged_in(port, "alice") as alice, logged_in(port, "bob", features=["ack"]) as bob:
            alice.message("bob", "old")
            last = bob.receive_notice().values["id"]
            assert run_here("restore", str(copy), f"--database={url}").stderr.startswith(
                f"jelly: The database {url} cannot be replaced: another server is using this database"
            )
    before = next_id(path)
    path.chmod(0o640)
    kept = restore(url, copy)
    assert kept is not None
    assert next_id(path) == next_id(kept) >= before > last
    assert (kept_for("bob", path), kept_for("bob", kept)) == ([], ["old"])
    assert path.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*-wal"))
    assert restore(url, copy) != kept
    with (
        Server(url, f"--port={port}"),
        logged_in(port, "alice") as alice,
        logged_in(port, "bob", features=["ack"]) as bob,
    ):
        alice.message("bob", "new")
        assert bob.receive_notice().values["id"] > last


def next_id(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        [(id,)] = raw.execute("SELECT value FROM meta WHERE name = 'next_id'").fetchall()
    return int(id)


def test_a_file_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    """With the log beside it, which would destroy the new one; both stay, under other names."""
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    url = f"sqlite:///{path}"
    with Server(url) as server:
        register(server.port, "alice", "bob")
        assert server.stop() == 0
    back_up(url, copy)
    path.write_bytes(b"damaged" * 1000)
    Path(f"{path}-wal").write_bytes(b"log")
    kept = restore(url, copy)
    assert kept is not None
    assert kept.read_bytes() == b"damaged" * 1000
    assert Path(f"{kept}-wal").read_bytes() == b"log"
    assert not Path(f"{path}-wal").exists()
    assert_is_restored(url, [])


def test_a_file_that_was_copied_over(tmp_path: Path) -> None:
    """With the log of the old file beside it, as after `cp`. Ids go on above those in the log."""
    url, path, copy = made_and_copied(tmp_path)
    log = Path(f"{path}-wal")
    newest = (FIRST_DATED + MAX_ID) // 2
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("CREATE TABLE large AS SELECT zeroblob(2000000)")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.execute("UPDATE meta SET value = ? WHERE name = 'next_id'", (newest,))
        old_log = log.read_bytes()
    shutil.copyfile(copy, path)
    log.write_bytes(old_log)
    kept = restore(url, copy)
    assert kept is not None
    assert Path(f"{kept}-wal").read_bytes() == old_log
    assert not log.exists()
    assert next_id(path) == newest


def test_a_copy_of_an_older_version(tmp_path: Path) -> None:
    """Its ids were counted. The next ones carry the time, so these count as stored now."""
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    url = f"sqlite:///{path}"
    make_old_version(f"sqlite:///{copy}", 2)
    with Server(url) as server:
        assert server.stop() == 0
    restore(url, copy)
    with Server(url) as server:
        assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(path)) as raw:
        rows = dict(raw.execute("SELECT name, value FROM meta"))
    assert FIRST_DATED < rows["first_dated"] < rows["next_id"]


def test_a_copy_of_an_older_version_over_an_unused_database(tmp_path: Path) -> None:
    """The copy's messages count as stored now, not when the replaced database was last used."""
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    url = f"sqlite:///{path}"
    make_old_version(f"sqlite:///{copy}", 1)
    with Server(url) as server:
        register(server.port, "alice", "bob")
        assert server.stop() == 0
    now = int(time.time() * MS) * IDS_PER_MS
    last_used = now - 40 * 86400 * MS * IDS_PER_MS
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE meta SET value = ? WHERE name = 'next_id'", (last_used,))
    restore(url, copy)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        rows = dict(raw.execute("SELECT name, value FROM meta"))
    assert rows["first_dated"] >= now
    assert rows["next_id"] == last_used


def test_a_restore_where_nothing_was(tmp_path: Path) -> None:
    """On a new machine there is nothing to keep. Through a symlink, its file is replaced."""
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    with Server(f"sqlite:///{path}") as server:
        register(server.port, "alice", "bob")
        assert server.stop() == 0
    back_up(f"sqlite:///{path}", copy)
    (tmp_path / "link.db").symlink_to(tmp_path / "new.db")
    assert restore(f"sqlite:///{tmp_path}/link.db", copy) is None
    assert (tmp_path / "link.db").is_symlink()
    assert_is_restored(f"sqlite:///{tmp_path}/new.db", [])


def test_what_cannot_be_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says why, and the database is as it was."""
    url, path, copy = made_and_copied(tmp_path)
    before = path.read_bytes()

    def refused(url: str, source: Path) -> str:
        with pytest.raises(StartError) as error:
            restore(url, source)
        return str(error.value)

    assert "nothing to restore" in refused("memory:", copy)
    assert "There is no file" in refused(url, tmp_path / "missing.db")
    assert "is the database itself" in refused(url, path)
    (tmp_path / "text.db").write_text("hello, this is not a database" * 100)
    assert "is no database of Jelly: file is not a database" in refused(url, tmp_path / "text.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("CREATE TABLE meta (name, value)")
    assert refused(url, tmp_path / "other.db").endswith("is no database of Jelly: no such table: users.")
    assert refused(f"sqlite:///{tmp_path}/no/jelly.db", copy).endswith(
        f"No such file or directory. There is no directory {tmp_path}/no: create it first."
    )
    assert refused(f"sqlite:///{copy}/jelly.db", copy).endswith(
        f"Not a directory. There is no directory {copy}: create it first."
    )
    (tmp_path / "part.db").write_bytes(before[:20000])
    assert refused(url, tmp_path / "part.db").startswith(f"{tmp_path}/part.db is damaged: database disk image is")
    (tmp_path / "directory").mkdir()
    assert refused(f"sqlite:///{tmp_path}/directory", copy).endswith(
        f"the file cannot be opened: Is a directory. {tmp_path}/directory is a directory: name a file in it."
    )
    assert not (tmp_path / "directory.lock").exists()
    for statement, sentence in (
        ("UPDATE meta SET value = 'abc' WHERE name = 'schema_version'", "is no database of Jelly."),
        ("DELETE FROM meta WHERE name = 'schema_version'", "is no database of Jelly."),
        ("DELETE FROM meta WHERE name = 'next_id'", "is damaged: its table meta has lost the row next_id. Name an"),
        ("DELETE FROM meta WHERE name = 'indexed'", "is damaged: its table meta has lost the row indexed. Name an"),
        ("UPDATE meta SET value = 'x' WHERE name = 'next_id'", "is damaged: its table meta has lost the row next_id"),
    ):
        shutil.copyfile(copy, tmp_path / "altered.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "altered.db")) as altered, altered:
            altered.execute(statement)
        assert sentence in refused(url, tmp_path / "altered.db")
    with contextlib.closing(sqlite3.connect(copy)) as newer, newer:
        newer.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
    assert "schema version 99, this program knows 3: use a newer Jelly" in refused(url, copy)
    back_up(url, tmp_path / "good.db")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert refused(url, tmp_path / "good.db") == (
        f"Cannot write {path}: Input/output error. Check its directory, and the disk."
    )
    refused(f"sqlite:///{tmp_path}/new.db", tmp_path / "good.db")
    assert not (tmp_path / "new.db").exists()
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*.replaced-*"))


def test_a_copy_that_sqlite_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be good. The sentence says what to do."""
    url, copy = f"sqlite:///{tmp_path}/jelly.db", tmp_path / "copy.db"
    with Server(url) as server:
        assert server.stop() == 0
    back_up(url, copy)
    monkeypatch.setattr(backup, "TIMEOUT", 0.01)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StartError, match=r"cannot be opened: database is locked\. .* into a directory of your own"):
            restore(url, copy)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StartError, match="This user may not read"):
        restore(url, copy)


def test_a_copy_leaves_no_log_beside_it(tmp_path: Path) -> None:
    """Neither if it is refused: it may be a link to the database, or a plain copy of the file."""
    path = tmp_path / "jelly.db"
    with Server(f"sqlite:///{path}") as server:
        assert server.stop() == 0
    (tmp_path / "link.db").hardlink_to(path)
    shutil.copyfile(path, tmp_path / "plain.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "plain.db")) as newer, newer:
        newer.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
    for source, sentence in (("link.db", "is the database itself"), ("plain.db", "has schema version 99")):
        with pytest.raises(StartError, match=sentence):
            restore(f"sqlite:///{path}", tmp_path / source)
    assert not [*tmp_path.glob("*-wal"), *tmp_path.glob("*-shm")]


def read(raw: sqlite3.Connection) -> None:
    """As a program that only looks at the database."""
    raw.execute("BEGIN")
    raw.execute("SELECT COUNT(*) FROM messages").fetchall()


def lock(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA locking_mode = EXCLUSIVE")
    raw.execute("BEGIN EXCLUSIVE")
    raw.execute("UPDATE meta SET value = value WHERE name = 'next_id'")


@pytest.mark.parametrize(("use", "is_before"), [(read, True), (lock, False)])
def test_another_program_uses_the_database(
    use: Callable[[sqlite3.Connection], None], is_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is replaced: the last messages may be only in the log. `is_before`: the other program
    begins before the last message.
    """
    monkeypatch.setattr(backup, "TIMEOUT", 0.05)
    path, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    url = f"sqlite:///{path}"
    raw = sqlite3.connect(path, isolation_level=None)
    with contextlib.closing(raw):
        with Server(url) as server:
            register(server.port, "alice", "bob")
            assert run_here("backup", str(copy), f"--database={url}").returncode == 0
            if is_before:
                use(raw)
            with logged_in(server.port, "alice") as alice:
                alice.message("bob", "last")
            server.kill()
        if not is_before:
            use(raw)
        files = sorted(tmp_path.iterdir())
        with pytest.raises(StartError, match=f"Another program uses the database {path}: end that program"):
            restore(url, copy)
        assert sorted(tmp_path.iterdir()) == files
    kept = restore(url, copy)
    assert kept is not None
    assert (kept_for("bob", path), kept_for("bob", kept)) == ([], ["last"])
    assert next_id(path) == next_id(kept)


def begin_to_write(raw: sqlite3.Connection) -> None:
    raw.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("use", [read, begin_to_write])
def test_another_program_uses_a_database_without_a_log(
    use: Callable[[sqlite3.Connection], None], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does, and although all messages are in the file: what it writes would be lost."""
    monkeypatch.setattr(backup, "TIMEOUT", 0.05)
    url, path, copy = made_and_copied(tmp_path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(f"PRAGMA journal_mode = {mode}")
        use(raw)
        before = path.stat().st_ino
        with pytest.raises(StartError, match="Another program uses the database"):
            restore(url, copy)
        assert path.stat().st_ino == before
        raw.execute("ROLLBACK")
    assert restore(url, copy) is not None


def test_the_log_comes_back_if_the_restore_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite drops it together with a file that it cannot read."""
    url, path, copy = made_and_copied(tmp_path)
    path.write_bytes(b"damaged" * 1000)
    Path(f"{path}-wal").write_bytes(b"log")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StartError):
        restore(url, copy)
    assert path.read_bytes() == b"damaged" * 1000
    assert Path(f"{path}-wal").read_bytes() == b"log"
    assert not list(tmp_path.glob("*.replaced-*"))


def test_the_owner_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if root restores: the server of another user goes on. The lock is that user's, too."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    url, path, copy = made_and_copied(tmp_path)
    os.chown(path, 65534, 65533)
    Path(f"{path}.lock").unlink()
    monkeypatch.setattr(os, "link", fail_to_link)
    kept = restore(url, copy)
    assert kept is not None
    for file in (path, kept, Path(f"{path}.lock")):
        status = file.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o600)


def fail_to_link(*_: object) -> None:
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("is_own", [True, False])
def test_an_owner_that_cannot_stay(is_own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may not give files away. A group that cannot stay gives another group no rights."""
    url, path, copy = made_and_copied(tmp_path)
    path.chmod(0o660)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid if is_own else 12345)
    if is_own:
        assert restore(url, copy) is not None
        assert path.stat().st_mode & 0o777 == 0o600
    else:
        with pytest.raises(StartError, match="belongs to another user"):
            restore(url, copy)
        assert not list(tmp_path.glob("*.replaced-*"))


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
