"""Servers on each database whose messages are indexed at once, not during the test, or some at a
time: the functions of the fixtures of the tests for which that must make no difference.
"""

import pytest
from harness import StartServer
from wire import PERSON_MESSAGE, SUCCESS, Wire, register

from jelly import indexing
from jelly.server import JellyServer


def index(how: str, monkeypatch: pytest.MonkeyPatch, some: int = 7) -> None:
    """From now on servers index messages at once ("indexed"), not during the test ("unindexed"), or
    so many at a time, and no more of them during the test ("half").
    """
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.0 if how == "indexed" else 1000.0)
    if how == "half":
        monkeypatch.setattr(indexing, "INDEX_BATCH", some)


def indexed_server(
    request: pytest.FixtureRequest, start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> JellyServer:
    """A server with four users, on each database. The parameter says how messages are indexed."""
    index(request.param, monkeypatch)
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dan")
    return server


def server_on_sqlite(start_server: StartServer) -> JellyServer:
    """A server with four users, for what does not depend on the database or on indexes."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dan")
    return server


def say(wire: Wire, to: str, *contents: str, type: int = PERSON_MESSAGE) -> None:
    """Send messages one behind the other; all are stored."""
    for content in contents:
        wire.send_message(to, content, type)
    assert {wire.receive_response().status for _ in contents} == {SUCCESS}
