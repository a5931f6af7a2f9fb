"""No table grows without bound: a season of all that writes, then each is back at its bound."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import StartServer, run_here
from wire import (
    ACK,
    ADD_FRIEND,
    ADD_MEMBER,
    ANSWER_FRIEND,
    ANSWER_GROUP,
    BLOCK,
    CREATE_GROUP,
    DELETE_ACCOUNT,
    DISBAND_GROUP,
    EDIT,
    GROUP_MESSAGE,
    INVITE,
    JOIN,
    NOTICE,
    OWN_PROFILE,
    PASSWORD,
    PERSON_MESSAGE,
    READ,
    REMOVE_FRIEND,
    REPORT,
    SYSTEM,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from jelly import deletion, operator_commands, retention
from jelly.server import JellyServer
from jelly.session_lifecycle import FEATURES

DAY = 0.02
"""Seconds of a day in this test, so that a season of 90 days is over in two seconds."""
USERS = ["alice", "bob", "carol", "dan"]
ROUNDS = 40
GROUPS = ROUNDS // 2
"""Every second group is disbanded."""
PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"

GROW_WITH_USE = {
    "devices", "messages", "history", "requests", "inbox", "missed", "read_pointers", "tokens", "known_addresses",
    "reports", "invitations", "operator_commands", "events", "sessions", "nodes",
}  # fmt: skip
"""The tables of which nothing is left when nobody has done anything for long enough."""


@pytest.fixture
def server(start_server: StartServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> JellyServer:
    """A server whose days are short, with four users, on each kind of database."""
    monkeypatch.setattr(retention, "DAY", DAY)
    monkeypatch.setattr(retention, "SWEEP_INTERVAL", 0.1)
    monkeypatch.setattr(operator_commands, "POLL_INTERVAL", 0.05)
    monkeypatch.setattr(deletion, "PURGE_DELAY", 0.0)
    server = start_server(database=database_url, classic_gap=0, token_days=7 * DAY / 86_400)
    register(server.port, *USERS)
    return server


def rows(server: JellyServer) -> dict[str, int]:
    """How many rows each table has."""
    with server._reading() as dao:
        connection = dao.connection
        return {
            table: int(connection.query(f"SELECT COUNT(*) FROM {table}")[0][0])
            for table in connection.tables()
            if not table.startswith("sqlite_")
        }


def acknowledge(wire: Wire) -> int:
    """Acknowledge what has come until now; the last id."""
    wire.ok(OWN_PROFILE)
    ids = [notice.values["id"] for notice in wire.notices if notice.sign == NOTICE and notice.type != SYSTEM]
    wire.notices.clear()
    if ids:
        wire.send(pack(ACK, to_json({"id": ids[-1]})))
    return int(ids[-1]) if ids else 0


def use_everything(server: JellyServer, wires: dict[str, Wire], number: int) -> None:
    """Make each request that writes. (Some are refused: there are limits a day.)"""
    alice, bob, carol = wires["alice"], wires["bob"], wires["carol"]
    group, guest = f"group{number}", f"guest{number}"
    id = alice.ok(PERSON_MESSAGE, receiver="bob", content="hello", time=1, requestId=f"a{number}")["id"]
    alice.ok(EDIT, id=id, content="hallo" if number % 2 else "", requestId=f"b{number}")
    alice.ok(CREATE_GROUP, groupName=group)
    alice.call(ADD_MEMBER, groupName=group, member="bob")
    bob.call(ANSWER_GROUP, groupName=group, accept=True)
    alice.call(ADD_MEMBER, groupName=group, member="carol")  # who does not answer
    alice.ok(GROUP_MESSAGE, receiver=group, content="hello all", time=1)
    code = alice.call(INVITE, groupName=group, uses=2, hours=1).values.get("code", "")
    for friend, answer in (("bob", True), ("carol", False)):
        alice.call(REMOVE_FRIEND, friend=friend)
        alice.call(ADD_FRIEND, friend=friend)
        wires[friend].call(ANSWER_FRIEND, friend="alice", accept=answer)
    carol.ok(BLOCK, person="bob", blocked=number % 2 == 0)
    carol.call(REPORT, person="alice", text="a report")
    bob.ok(UPDATE_PROFILE, name=str(number))
    logged_in(server.port, "dan", features=list(FEATURES)).close()
    register(server.port, guest)
    with logged_in(server.port, guest, features=list(FEATURES)) as wire:
        wire.call(JOIN, code=code)
        wire.message("alice", "from a guest")
        alice.message(guest, "to a guest")
        wire.call(ADD_FRIEND, friend="alice")
        alice.call(BLOCK, person=guest, blocked=True)
        alice.call(BLOCK, person=guest, blocked=False)
        wire.call(REPORT, person="alice", text="a report of a guest")
        wire.ok(CREATE_GROUP, groupName=f"of-{guest}")
        assert wire.call(DELETE_ACCOUNT, password=PASSWORD).error == ""
    for wire in wires.values():
        wire.send(pack(READ, to_json({"id": acknowledge(wire), "person": "alice"})))
    if number % 2:
        alice.ok(DISBAND_GROUP, groupName=group)


def test_a_season(server: JellyServer) -> None:
    """While all is used, nothing is beyond its bound. After 7, 30 or 90 days only what the users
    keep is left.
    """
    with ExitStack() as stack:
        wires = {user: stack.enter_context(logged_in(server.port, user, features=list(FEATURES))) for user in USERS[:3]}
        for number in range(ROUNDS):
            use_everything(server, wires, number)
            found = rows(server)
            assert found["tokens"] <= 32 * found["users"]
            assert found["invites"] <= 20 * found["users"]
            assert found["reports"] <= 10 * (len(USERS) + ROUNDS)
        here = f"--database={server.settings.database}"
        assert [run_here("user", what, "dan", here).returncode for what in ("disable", "enable")] == [0, 0]
        for wire in wires.values():
            acknowledge(wire)
    kept = {
        "users": len(USERS),
        "deleted_names": ROUNDS,
        "friends": 0,  # she may ask no more today
        "blocks": 0,
        "chat_groups": GROUPS,
        "members": 2 * GROUPS,
        "invites": GROUPS,
        "meta": found["meta"],
        **dict.fromkeys(GROW_WITH_USE, 0),
    }
    wait_until(lambda: rows(server) == kept, seconds=60)


def test_the_page_names_each_table(server: JellyServer) -> None:
    """How large it can be, and what goes when."""
    part = PAGE.read_text(encoding="utf-8").partition("### The tables\n")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(rows(server))
