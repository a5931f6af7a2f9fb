"""FIND: users by the beginnings of their names, where the operator wants a directory."""

from typing import Any

import pytest
from client_tools import NewClient, result
from harness import StartServer, ready_database
from wire import FIND, Wire, logged_in, register

from client_api import RequestRejected
from faults.mariadb import PrivateMariaDB
from jelly import finding_service
from jelly.finding_service import MAX_NAMES
from jelly.server import JellyServer

USERS = ("alice", "al", "Alice", "alfred", "álvaro", "bob", "小王", "小明", "a_b", "a%b")


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with a directory of some users, on each kind of database."""
    server = start_server(database=database_url, directory="on", classic_gap=0)
    register(server.port, *USERS)
    return server


def found(wire: Wire, prefix: str) -> tuple[list[str], bool]:
    values = wire.ok(FIND, prefix=prefix)
    assert list(values) == ["username", "found", "more"]
    return values["found"], values["more"]


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("al", ["al", "alfred", "alice"]),
        ("ali", ["alice"]),
        ("A", ["Alice"]),
        ("ａｌｉ", ["alice"]),
        ("á", ["álvaro"]),
        ("a\u0301", ["álvaro"]),
        ("小", ["小明", "小王"]),
        ("bob", ["bob"]),
        ("bobo", []),
        ("%", []),
        ("_", []),
        ("a%", ["a%b"]),
        ("a_", ["a_b"]),
        ("'", []),
        ("\0", []),
        ("\U0010ffff", []),
        ("x" * 32, []),
    ],
)
def test_which_names_are_found(server: JellyServer, prefix: str, names: list[str]) -> None:
    """Compared as new names are: by their NFKC forms, capital letters apart."""
    with logged_in(server.port, "bob", features=["find"]) as bob:
        assert found(bob, prefix) == (names, False)


def test_there_are_at_most_twenty(server: JellyServer) -> None:
    """And the answer says that there are more."""
    names = [f"user{number:02}" for number in range(MAX_NAMES + 1)]
    register(server.port, *names[:-1])
    with logged_in(server.port, "bob", features=["find"]) as bob:
        assert found(bob, "user") == (names[:-1], False)
        register(server.port, names[-1])
        assert found(bob, "user") == (names[:-1], True)
        assert found(bob, "user2") == (["user20"], False)


def test_nobody_copies_the_list(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each user may ask 20 times at once, and is told when to ask again."""
    monkeypatch.setattr(server.services.finding._find_rate, "_clock", lambda: 1.0)
    with logged_in(server.port, "bob", features=["find"]) as bob:
        for _ in range(finding_service.FIND_BURST):
            found(bob, "al")
        reply = bob.call(FIND, prefix="al")
        assert reply.error == "rate_limited"
        assert 1 <= reply.values["retryAfter"] <= 1000 / finding_service.FIND_RATE * finding_service.FIND_BURST
    with logged_in(server.port, "alice", features=["find"]) as alice:
        assert found(alice, "bo") == (["bob"], False)


@pytest.mark.parametrize("asked", [{}, {"prefix": ""}, {"prefix": "x" * 33}, {"prefix": 1}])
def test_what_is_refused(server: JellyServer, asked: dict[str, Any]) -> None:
    with logged_in(server.port, "bob", features=["find"]) as bob:
        assert bob.refused(FIND, **asked) == "malformed_body"
        assert bob.refused(FIND, username="alice", prefix="a") == "not_yourself"


@pytest.mark.parametrize("features", [None, [], ["ack", "search"]])
def test_without_the_feature(server: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one that did not ask for it, the type does not exist."""
    with logged_in(server.port, "bob", features=features) as bob:
        assert bob.refused(FIND, prefix="a") == "unknown_type"


def test_without_a_directory(start_server: StartServer) -> None:
    """By default nobody is granted the feature, and a stranger learns no name."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with Wire(port) as wire:
        reply = wire.login("bob", features=["find", "search"])
        assert reply.values["features"] == ["search"]
        assert wire.refused(FIND, prefix="a") == "unknown_type"
        assert wire.refused(FIND, prefix="zzz") == "unknown_type"


def test_through_another_node(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """Who registered at one node is found at another one."""
    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster="none", directory="on", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob")
    with logged_in(second.port, "bob", features=["find"]) as bob:
        assert found(bob, "a") == (["alice"], False)


def test_the_library(start_server: StartServer, new_client: NewClient) -> None:
    """`find_users` gives the names."""
    ports = [start_server(directory=each, database="memory:").port for each in ("on", "off")]
    for port, is_on in zip(ports, (True, False), strict=True):
        client = new_client(port)
        result(client.register("bob", "pw"))
        result(client.login("bob", "pw"))
        if is_on:
            assert result(client.find_users("b")) == ("bob",)
        else:
            with pytest.raises(RequestRejected, match="does not support"):
                result(client.find_users("b"))
