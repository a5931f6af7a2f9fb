"""`jelly restore`: a copy takes the place of a database."""

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from copies import assert_is_restored, made_and_copied
from harness import kept_for, run_here
from schemas import make_old_version
from wire import logged_in, register

from faults.process import Server, free_port
from jelly import backup
from jelly.backup import back_up, restore
from jelly.errors import StartError
from jelly.trusted_clock import FIRST_DATED, IDS_PER_MS, MAX_ID, MS


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
