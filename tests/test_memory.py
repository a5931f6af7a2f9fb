"""The database `memory:`: a whole one while the server runs, and nothing of it afterwards."""

import logging
import threading
import time
from pathlib import Path

import pytest
from harness import StartServer
from wire import ADD_FRIEND, ALL_FRIENDS, HISTORY, PATIENCE, logged_in, register

from faults.process import Server
from jelly.config import Settings
from jelly.dao import Dao, StoredMessage
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import StartError
from jelly.migrations import migrate
from jelly.server import JellyServer
from jelly.sqlite_engine import MemoryEngine

KEEPS_NOTHING = "the database memory: keeps nothing"
ENOUGH = 50
"""Reads of each reader, while there is always something written."""


def test_it_serves(start_server: StartServer) -> None:
    """Accounts, messages that wait, lists and history work as on any database."""
    port = start_server(database="memory:").port
    register(port, "alice", "bob")
    with logged_in(port, "alice", features=["ack"]) as alice:
        alice.message("bob", "for later")
        alice.ok(ADD_FRIEND, friend="bob")
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": False}
        assert [message["content"] for message in alice.ok(HISTORY, person="bob")["messages"]] == ["for later"]
    with logged_in(port, "bob") as bob:
        assert bob.contents(1) == ["for later"]


def test_two_servers_share_nothing(start_server: StartServer) -> None:
    """In one process, at the same time, the same name is another user in each."""
    for server in (start_server(database="memory:"), start_server(database="memory:")):
        register(server.port, "alice")


def test_it_says_that_it_keeps_nothing(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """Once, as a warning; and the database's name in the log is the one that was given."""
    server = start_server(database="memory:")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning for warning in warnings if KEEPS_NOTHING in warning] == warnings
    assert len(warnings) == 1
    assert server.engine.describe() == "memory:"


def test_a_restart_begins_with_nothing(tmp_path: Path) -> None:
    """The real program leaves no file when it is stopped, and knows nobody when it is back."""
    for _ in range(2):
        with Server("memory:", TMPDIR=str(tmp_path)) as server:
            assert KEEPS_NOTHING.encode() in server.log
            assert list(tmp_path.iterdir())
            register(server.port, "alice")  # would be refused if the name was taken
            assert server.stop() == 0
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_listen_leaves_nothing(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory goes with a start that fails, too."""
    port = start_server(database="memory:").port
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StartError, match="Cannot listen"):
        JellyServer(Settings(port=port, database="memory:"))
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no directory can be made, it is one sentence."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(StartError, match="no temporary directory for the database: No such file"):
        open_engine("memory:")


def test_reading_while_writing() -> None:
    """Under load no reader waits for the writer or fails, and each sees whole transactions only."""
    engine = MemoryEngine()
    writer = Dao(DatabaseConnection(engine, writes=True))
    migrate(writer.connection)
    end = time.monotonic() + PATIENCE
    problems: list[str] = []
    reads = [0] * 4
    is_enough = threading.Event()

    def write() -> None:
        while min(reads) < ENOUGH and time.monotonic() < end:
            with writer.connection.transaction():
                writer.move_mark(16)
                ids = [writer.allocate_id() for _ in range(16)]
                messages = [StoredMessage(id, False, "alice", "bob", "hello", 0) for id in ids]
                writer.add_messages(messages, [("bob", id) for id in ids])
            writer.mark = writer.new_mark
        is_enough.set()

    def read(number: int) -> None:
        connection = DatabaseConnection(engine)
        try:
            while not is_enough.is_set():
                [both] = connection.query("SELECT (SELECT COUNT(*) FROM messages), (SELECT COUNT(*) FROM inbox)")
                reads[number] += 1
                if both[0] != both[1] or both[0] % 16:
                    problems.append(f"half a transaction: {both}")
        except Exception as error:  # noqa: BLE001 - the test's own thread says below what failed
            problems.append(repr(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=write), *(threading.Thread(target=read, args=(n,)) for n in range(4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = DatabaseConnection(engine)
    with writer.connection.transaction():
        writer.add_messages([StoredMessage(writer.peek_id(), False, "alice", "bob", "not yet", 0)], [])
        [[stored]] = reader.query("SELECT COUNT(*) FROM messages")
    reader.close()
    writer.connection.close()
    engine.release()
    assert problems == []
    assert stored > 0
    assert stored % 16 == 0
    assert min(reads) >= ENOUGH
