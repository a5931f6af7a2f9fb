"""Full inboxes, as clients see them: what is refused, and what members are told of."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from harness import InDoubtCommit, StartServer, kept_for
from wire import (
    GROUP_MESSAGE,
    HISTORY,
    PERSON_MESSAGE,
    Wire,
    found,
    logged_in,
    register,
    wait_until,
)

from jelly.dao import Dao
from jelly.errors import StoreError


def send(wire: Wire, to: str, type: int = PERSON_MESSAGE, content: str = "x", **more: Any) -> str:
    return wire.call(type, receiver=to, content=content, time=1, **more).error or "ok"


@pytest.mark.parametrize("features", [None, ["ack"]])
def test_a_full_inbox(start_server: StartServer, features: list[str] | None) -> None:
    """The sender is told, and can send it again; a repeat of what was stored is no new message."""
    server = start_server(classic_gap=0, inbox_messages=20)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice", features=features) as alice:
        assert [send(alice, "bob", requestId=f"r{n}") for n in range(3)] == ["ok", "ok", "inbox_full"]
        assert send(alice, "bob", requestId="r1") == "ok"
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            bob.ack(bob.receive_notice().values["id"])
            wait_until(lambda: send(alice, "bob", requestId="r2") == "ok")
            assert send(alice, "bob") == "inbox_full"
        assert send(alice, "alice") == "ok"


def test_a_full_member(start_server: StartServer, tmp_path: Path) -> None:
    """Gets no more rows, is told at the next login, and reads the rest with HISTORY."""
    server = start_server(classic_gap=0, inbox_messages=20)
    register(server.port, "alice", "bob", "carol")
    with logged_in(server.port, "alice") as alice:
        found(alice, "bob", "carol")
        with logged_in(server.port, "carol", features=["ack"]) as carol:
            for number in range(5):
                assert send(alice, "team", GROUP_MESSAGE, f"m{number}") == "ok"
                carol.ack(carol.receive_notice().values["id"])
                wait_until(lambda: not kept_for("carol", tmp_path / "jelly.db"))
        assert kept_for("bob", tmp_path / "jelly.db") == ["m0", "m1"]
        for _ in range(2):  # until bob has acknowledged something
            with logged_in(server.port, "bob", features=["ack"]) as bob:
                told = bob.receive_notice().values
                assert list(told) == ["event", "groups"]
                assert told["event"] == "inbox_full"
                assert list(told["groups"]) == ["team"]
                ids = [bob.receive_notice().values["id"] for _ in range(2)]
                page = bob.ok(HISTORY, groupName="team")["messages"]
                assert [message["content"] for message in page] == [f"m{number}" for number in range(5)]
                assert page[2]["id"] == told["groups"]["team"]
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            bob.receive_notice()
            for _ in range(2):
                bob.receive_notice()
            bob.ack(ids[-1])
            wait_until(lambda: not kept_for("bob", tmp_path / "jelly.db"))
            assert send(alice, "team", GROUP_MESSAGE, "m5") == "ok"
            assert bob.receive_notice().values["content"] == "m5"
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert bob.receive_notice().values["content"] == "m5"  # not told again


def test_a_member_who_is_online_and_acknowledges_nothing(start_server: StartServer) -> None:
    """Is told at once."""
    server = start_server(classic_gap=0, inbox_messages=20)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        found(alice, "bob")
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            for number in range(4):
                assert send(alice, "team", GROUP_MESSAGE, f"m{number}") == "ok"
            notices = [bob.receive_notice().values for _ in range(3)]
            assert [values.get("content") for values in notices] == ["m0", "m1", None]
            assert notices[2]["event"] == "inbox_full"


def told(wire: Wire) -> Any:
    """The groups in the next notice of what was left out, after messages."""
    while (values := wire.receive_notice().values).get("event") != "inbox_full":
        assert "content" in values
    return values["groups"]


def missed(path: Path) -> list[tuple[str, int]]:
    """The groups of which something was left out, as the table says."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT group_name, since FROM missed").fetchall()


def test_an_acknowledgement_that_crosses_the_notice(start_server: StartServer, tmp_path: Path) -> None:
    """Of a message that was sent before: it does not say that the notice has arrived."""
    server, path = start_server(classic_gap=0, inbox_messages=20), tmp_path / "jelly.db"
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        found(alice, "bob")
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert [send(alice, "team", GROUP_MESSAGE, f"m{n}") for n in range(3)] == ["ok"] * 3
            first = bob.receive_notice().values["id"]
            left_out = told(bob)
            bob.ack(first)
            wait_until(lambda: kept_for("bob", path) == ["m1"])
            assert missed(path) == [*left_out.items()]
            bob.reset()
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert told(bob) == left_out
            bob.ack(bob.receive_notice().values["id"])
            wait_until(lambda: not missed(path))


@pytest.mark.parametrize("fails", ["nothing", "another message", "the first of them"])
def test_what_is_left_out_after_the_notice(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str
) -> None:
    """Is told when the notice has arrived, whatever failed meanwhile."""
    server, path = start_server(classic_gap=0, inbox_messages=20), tmp_path / "jelly.db"
    register(server.port, "alice", "bob", "carol")

    def fail(*_: object) -> None:
        raise StoreError("no space left")

    with logged_in(server.port, "alice") as alice, logged_in(server.port, "carol") as carol:
        found(alice, "bob")
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert [send(alice, "team", GROUP_MESSAGE, f"m{n}") for n in range(3)] == ["ok"] * 3
            told(bob)
            if fails == "the first of them":
                with monkeypatch.context() as patch:
                    patch.setattr(Dao, "add_messages", fail)
                    assert send(alice, "team", GROUP_MESSAGE, "m3") == "internal"
                told(bob)
            assert [send(alice, "team", GROUP_MESSAGE, f"m{n}") for n in (3, 4)] == ["ok"] * 2
            if fails == "another message":
                with monkeypatch.context() as patch:
                    patch.setattr(Dao, "add_messages", fail)
                    assert send(carol, "alice") == "internal"
            assert send(carol, "bob", content="hello") == "ok"
            hello = bob.receive_notice().values
            assert hello["content"] == "hello"
            bob.ack(hello["id"])
            left_out = told(bob)
            page = bob.ok(HISTORY, groupName="team")["messages"]
            assert left_out == {"team": page[3]["id"]}
            assert missed(path) == [*left_out.items()]
            assert send(carol, "bob", content="bye") == "ok"
            bob.ack(bob.receive_notice().values["id"])
            wait_until(lambda: not missed(path))


def test_what_is_left_out_after_a_restart(start_server: StartServer) -> None:
    """The second notice has the id of the first message that was left out since the first one."""
    server = start_server(classic_gap=0, inbox_messages=20)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        found(alice, "bob")
        assert [send(alice, "team", GROUP_MESSAGE, f"m{n}") for n in range(3)] == ["ok"] * 3
    server.stop()
    server = start_server(classic_gap=0, inbox_messages=20)
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob", features=["ack"]) as bob:
        told(bob)
        first = bob.receive_notice().values["id"]
        assert send(alice, "team", GROUP_MESSAGE, "m3") == "ok"
        bob.ack(first)
        left_out = told(bob)
        assert left_out == {"team": bob.ok(HISTORY, groupName="team")["messages"][3]["id"]}


def test_what_a_commit_in_doubt_leaves_out(start_server: StartServer, commits: type[InDoubtCommit]) -> None:
    """Is told when it is certain."""
    server = start_server(classic_gap=0, inbox_messages=20)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        found(alice, "bob")
        with logged_in(server.port, "bob", features=["ack"]) as bob:
            assert [send(alice, "team", GROUP_MESSAGE, f"m{n}") for n in range(2)] == ["ok"] * 2
            assert bob.contents(2) == ["m0", "m1"]
            commits.breaks = True
            assert send(alice, "team", GROUP_MESSAGE, "m2") == "ok"
            assert not commits.breaks
            assert list(told(bob)) == ["team"]


def test_counts_after_a_commit_in_doubt(start_server: StartServer, commits: type[InDoubtCommit]) -> None:
    """What was found in the database counts."""
    server = start_server(classic_gap=0, inbox_messages=20)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        assert send(alice, "bob") == "ok"
        commits.breaks = True
        assert [send(alice, "bob") for _ in range(2)] == ["ok", "inbox_full"]
