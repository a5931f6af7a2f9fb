"""Servers for the tests: real ones, in this process, on a free port; and what holds them up, from
the inside.
"""

import contextlib
import logging
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wire import Wire, wait_until

from faults.mariadb import PrivateMariaDB
from jelly import notifier, store
from jelly.config import Settings
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.migrations import migrate
from jelly.queue_dispatch import Lane
from jelly.server import JellyServer

StartServer = Callable[..., JellyServer]

CHEAP: dict[str, Any] = {
    "port": 0,
    "password_cost": 1,
    "classic_gap": 10,
    "message_rate": 0,
    "change_rate": 0,
    "registration_rate": 0,
}
"""Settings for tests that are about something else than passwords, the gap between two frames
(milliseconds), or the rate of messages and registrations.
"""


@pytest.fixture
def start_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartServer]:
    """Starts servers, with the settings given; on one SQLite file for each test unless they say
    otherwise.
    """
    monkeypatch.setattr(notifier, "TELL_INTERVAL", 0.0)  # most tests expect a notice for each change
    monkeypatch.setattr(store, "DELIVERED_DELAY", 0.01)  # many tests wait until a message has left the inbox
    servers = []

    def start(**settings: Any) -> JellyServer:
        server = JellyServer(Settings(**{"database": f"sqlite:///{tmp_path}/jelly.db", **CHEAP, **settings}))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def port(start_server: StartServer) -> int:
    """The port of a server on SQLite with the usual settings."""
    return start_server().port


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: each test that asks for it runs on every kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jelly.db"
    mariadb: PrivateMariaDB = request.getfixturevalue("mariadb")
    return mariadb.fresh_database("jelly_test")


@pytest.fixture
def dao(database_url: str) -> Iterator[Dao]:
    """A Dao that may write, on new tables."""
    engine = open_engine(database_url)
    connection = DatabaseConnection(engine, writes=True)
    migrate(connection)
    yield Dao(connection)
    connection.close()
    engine.release()


@pytest.fixture(autouse=True)
def nothing_unexpected_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may bring about an error that the server did not expect: those carry the place in the
    source.
    """
    logging.getLogger("jelly").setLevel(logging.DEBUG)
    yield
    bugs = [
        r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR and ".py:" in r.getMessage()
    ]
    assert not bugs


# --- what holds a server up, and what stands in for its parts -------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that was signed by itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def allocate_ids(dao: Dao, count: int = 1) -> list[int]:
    """Ids from a transaction of their own."""
    with dao.connection.transaction():
        dao.move_mark(count)
        ids = [dao.allocate_id() for _ in range(count)]
    dao.mark = dao.new_mark
    return ids


class NullTransport:
    """A transport that drops everything that is sent."""

    tcp_acked_id = 0
    has_room = True
    is_closed = False
    is_full = False
    is_memory_short = False

    def has_left(self) -> bool:
        return self.is_closed

    def is_half_closed(self) -> bool:
        return False

    def when_not_full(self, function: object) -> None: ...
    def send(self, responses: object = (), notices: object = ()) -> None: ...
    def queue_notice(self, frame: bytes) -> None: ...
    def write_queued(self) -> None: ...
    def stop_pacing(self) -> None: ...
    def stop_confirming(self) -> None: ...
    def finish(self, closing_frame: object = b"") -> None: ...
    def close(self) -> None: ...


def lane_of(server: JellyServer, user: str) -> Lane:
    """The lane of somebody's connection."""
    [lane] = [c.lane for c in tuple(server.connections) if c.session.user == user]
    return lane


@contextlib.contextmanager
def stuck_store(path: Path) -> Iterator[None]:
    """Have somebody else hold the database, so that the store thread waits for it."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def occupy_the_store(server: JellyServer, alice: Wire, receiver: str) -> None:
    """Have alice send a message that the store thread, which is stuck, takes and cannot answer."""
    lane = lane_of(server, "alice")
    wait_until(lambda: not lane.busy.locked())  # the login was answered, but its lane may not be open again yet
    alice.send_message(receiver, "taken")
    wait_until(lambda: lane.busy.locked() and not lane.waiting)


def kept_for(user: str, database: Path) -> list[str]:
    """What the messages say that wait for a user."""
    query = "SELECT content FROM inbox JOIN messages ON id = message_id WHERE inbox.receiver = ? ORDER BY id"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [content for (content,) in connection.execute(query, (user,))]


class InDoubtCommit(sqlite3.Connection):
    """A connection whose next commit happens, but nobody is told so."""

    breaks = False
    code = 0
    """SQLite's code for the error."""

    def commit(self) -> None:
        super().commit()
        if InDoubtCommit.breaks:
            InDoubtCommit.breaks = False
            error = sqlite3.OperationalError("the connection broke")
            error.sqlite_errorcode = InDoubtCommit.code
            raise error


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> type[InDoubtCommit]:
    """Set its `breaks`, and the next commit to SQLite is in doubt."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, factory=InDoubtCommit, **options))
    monkeypatch.setattr(InDoubtCommit, "breaks", False)
    monkeypatch.setattr(InDoubtCommit, "code", 0)
    return InDoubtCommit
