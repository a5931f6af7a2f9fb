"""Servers for the tests: real ones, in this process, on a free port."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.mariadb import PrivateMariaDB
from jelly import store
from jelly.config import Settings
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.migrations import migrate
from jelly.server import JellyServer

StartServer = Callable[..., JellyServer]

CHEAP: dict[str, Any] = {"port": 0, "password_cost": 1, "classic_gap": 10}
"""Settings for tests that are about something else than passwords or the gap between two frames (milliseconds)."""


@pytest.fixture
def start_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartServer]:
    """Starts servers, with the settings given; on one SQLite file for each test unless they say otherwise."""
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
    """No test may bring about an error that the server did not expect: those carry the place in the source."""
    logging.getLogger("jelly").setLevel(logging.DEBUG)
    yield
    bugs = [
        r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR and ".py:" in r.getMessage()
    ]
    assert not bugs
