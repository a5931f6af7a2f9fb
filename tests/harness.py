"""Servers for the tests: real ones, in this process, on a free port; and what holds them up, from
the inside.
"""

import contextlib
import io
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from wire import NODES, Wire, wait_until

from faults.mariadb import PrivateMariaDB
from faults.process import clean_environment
from jelly import cli, notifier, store
from jelly.config import Settings
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engine import Engine
from jelly.engines import open_engine
from jelly.migrations import migrate
from jelly.mysql_engine import MysqlEngine
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


THROUGH_NODES = int(os.environ.get("JELLY_TEST_NODES", "1"))
"""On how many nodes a server of a test runs that names no database (`test_through_nodes.py`)."""


@pytest.fixture
def start_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[StartServer]:
    """Starts servers, with the settings given; on one SQLite file for each test unless they say
    otherwise.
    """
    monkeypatch.setattr(notifier, "TELL_INTERVAL", 0.0)  # most tests expect a notice for each change
    monkeypatch.setattr(store, "DELIVERED_DELAY", 0.01)  # many tests wait until a message has left the inbox
    servers = []

    def start(**settings: Any) -> JellyServer:
        if THROUGH_NODES > 1 and "database" not in settings:
            return start_nodes(settings)
        server = JellyServer(Settings(**{"database": f"sqlite:///{tmp_path}/jelly.db", **CHEAP, **settings}))
        servers.append(server)
        server.start()
        return server

    def start_nodes(settings: dict[str, Any]) -> JellyServer:
        if not shared:
            shared["database"] = ready_database(request.getfixturevalue("mariadb"), "jelly_nodes")
            shared["cluster"] = request.getfixturevalue("redis_server").url
        nodes = [start(**shared, **settings) for _ in range(THROUGH_NODES)]
        for node in nodes:
            NODES[node.port] = [each.port for each in nodes]
        return nodes[0]

    shared: dict[str, str] = {}

    NODES.clear()  # ports are used again: what another test has left would lead connections elsewhere
    yield start
    for server in servers:
        server.stop()
    NODES.clear()


@pytest.fixture
def port(start_server: StartServer) -> int:
    """The port of a server on SQLite with the usual settings."""
    return start_server().port


_emptying: dict[tuple[int, str], str] = {}
"""For each database whose tables are made, by port and name: the statements that empty it."""


def ready_database(mariadb: PrivateMariaDB, name: str) -> str:
    """A database on MariaDB as after a first start: it has its tables, and nobody has registered.

    The tables are made once and then emptied for each test. Making them takes more CPU time than
    most tests. A test that is about making or changing them begins with `fresh_database()` instead,
    or drops the database at its end.
    """
    if (mariadb.port, name) in _emptying:
        mariadb.start()
        with contextlib.suppress(subprocess.CalledProcessError):  # a test has dropped it
            mariadb.sql(_emptying[mariadb.port, name])
            return mariadb.url(name)
    url = mariadb.fresh_database(name)
    engine = open_engine(url)
    connection = DatabaseConnection(engine, writes=True)
    migrate(connection)
    deletes = [f"DELETE FROM {table}" for table in sorted(connection.tables())]
    rows = ", ".join(f"('{row}', {value})" for row, value in connection.query("SELECT name, value FROM meta"))
    connection.close()
    engine.release()
    steps = [f"USE `{name}`", "BEGIN", *deletes, f"INSERT INTO meta (name, value) VALUES {rows}", "COMMIT"]
    _emptying[mariadb.port, name] = "; ".join(steps)
    return url


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database in which nothing is: each test that asks for it runs on every kind of database.

    On MariaDB it has its tables (see `ready_database`). On SQLite, there is no file yet.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jelly.db"
    return ready_database(request.getfixturevalue("mariadb"), "jelly_test")


@pytest.fixture(params=["sqlite", "mariadb"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As `database_url`, but without tables also on MariaDB, for tests that make or change them."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jelly.db"
    mariadb: PrivateMariaDB = request.getfixturevalue("mariadb")
    return mariadb.fresh_database("jelly_empty")


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


def run_here(*arguments: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """As `faults.process.run`, but in this process, for commands that end without serving.

    Such a command is mostly the start of a Python. That the program passes arguments and exit code
    on is tested with others.
    """
    out, err, stdin = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(3))
    stdin.write(input)
    stdin.seek(0)
    hangup = signal.getsignal(signal.SIGHUP)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", stdin),
        mock.patch.dict(os.environ, {**clean_environment(), **environment}, clear=True),
    ):
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # by the parser, which has printed what there is to say
            code = 0 if end.code is None else int(end.code)
        finally:
            signal.signal(signal.SIGHUP, hangup)
    for stream in (out, err):
        stream.seek(0)
    return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


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


def dated_certificate(directory: Path, key: Path, which: str) -> Path:
    """A certificate for localhost that has "expired", or is one of the "future"."""
    start, end = {"expired": ("20200101", "20210101"), "future": ("20900101", "20910101")}[which]
    request, certificate = directory / f"{which}.csr", directory / f"{which}.pem"
    (directory / "index.txt").touch()
    (directory / "authority.cnf").write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
        "policy=any\ncopy_extensions=copy\nunique_subject=no\n[any]\ncommonName=supplied\n"
    )
    for command in (
        f"req -new -key {key} -subj /CN=localhost -addext subjectAltName=DNS:localhost -out {request}",
        f"ca -batch -config authority.cnf -selfsign -keyfile {key} -in {request} -out {certificate} -notext"
        f" -startdate {start}000000Z -enddate {end}000000Z",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    return certificate


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


def pure_python(engine: Engine) -> Engine:
    """An engine that uses the driver's pure Python, also where its C extension would load."""
    assert isinstance(engine, MysqlEngine)
    engine._use_pure = True
    return engine
