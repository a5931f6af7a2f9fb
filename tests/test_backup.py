"""`jelly backup`: a copy of the database while people write, and a server that starts from it."""

import os
import shlex
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import kept_for
from wire import logged_in, register, wait_until

from faults.mariadb import PASSWORD, USER, PrivateMariaDB
from faults.process import Server, clean_environment, run
from jelly import backup
from jelly.backup import back_up
from jelly.errors import StartError


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
        Server(url) as server,
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
    with Server(f"sqlite:///{path}") as server:
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
    # Restore it, as the README says.
    for old in tmp_path.glob("jelly.db*"):
        old.unlink()
    copy.rename(path)
    assert_is_restored(f"sqlite:///{path}", kept)


def test_a_backup_of_mysql_under_load(mariadb: PrivateMariaDB, tmp_path: Path) -> None:
    """It says which command to use, and this one does it: with its dump, a server has all
    messages.
    """
    if shutil.which("mysqldump") is None or shutil.which("mysql") is None:
        pytest.skip("mysqldump is not installed")
    url, dump = mariadb.fresh_database("dumped"), tmp_path / "a dump.sql"
    sent: list[str] = []
    with Server(url) as server:
        register(server.port, "alice", "bob")
        with writing(server.port, sent):
            wait_until(lambda: len(sent) >= 100)
            before = len(sent)
            done = run("backup", str(dump), f"--database={url}")
            assert done.returncode == 1
            [line] = done.stderr.splitlines()
            assert PASSWORD not in line.replace("the password", "").replace("--password", "")
            command = shlex.split(line[line.index("mysqldump --") :])
            command.remove("--password")  # it would ask for it
            environment = {**clean_environment(), "MYSQL_PWD": PASSWORD}
            subprocess.run([command[0], "--no-defaults", *command[1:]], env=environment, check=True, timeout=30)
        assert server.stop() == 0
    restored = mariadb.fresh_database("restored")
    address = ["--host=127.0.0.1", f"--port={mariadb.port}", f"--user={USER}", "--default-character-set=utf8mb4"]
    with dump.open("rb") as statements:
        subprocess.run(
            ["mysql", "--no-defaults", *address, "restored"], stdin=statements, env=environment, check=True, timeout=30
        )
    [[count]] = mariadb.sql("SELECT COUNT(*) FROM restored.inbox")
    assert before <= int(count) <= len(sent)
    assert_is_restored(restored, sent[: int(count)])


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
    advice = "Check --database, and the room on the disk."
    assert fails(copy, url) == f"The database {url} cannot be backed up: unable to open database file. {advice}"
    assert "nobody but its server can read it" in fails(copy, "memory:")
    with Server(url) as server:
        assert server.stop() == 0
    assert fails(path, url) == f"The file {path} exists already: name a new file."
    line = fails(tmp_path / "missing" / "copy.db", url)
    assert line.startswith("Cannot write ")
    assert line.endswith("No such file or directory. Name a file elsewhere.")
    other = tmp_path / "other.db"
    sqlite3.connect(other).close()
    assert "no such table: meta" in fails(copy, f"sqlite:///{other}")
    monkeypatch.setattr(backup, "TIMEOUT", 0.01)
    with sqlite3.connect(path, isolation_level=None) as locked:
        locked.execute("DELETE FROM meta WHERE name = 'schema_version'")
        assert "it was not made by Jelly" in fails(copy, url)
        locked.execute("PRAGMA journal_mode = DELETE")
        locked.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in fails(copy, url)
    locked.close()


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
    assert run("backup", f"{tmp_path}/one.db", JELLY_DATABASE=url).returncode == 0
    (tmp_path / "jelly.toml").write_text(f'database = "{url}"\nport = 1\n')
    assert run("backup", f"{tmp_path}/two.db", f"--config={tmp_path}/jelly.toml").returncode == 0
    done = run("backup", f"{tmp_path}/three.db", "--database=oracle://x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jelly: --database: A database is named as sqlite:///")
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()
