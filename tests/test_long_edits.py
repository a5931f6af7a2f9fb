"""EDIT of what many have been sent costs little; and what is erased is gone from the file, too."""

from pathlib import Path

import pytest
from harness import StartServer
from wire import ADD_MEMBER, CREATE_GROUP, EDIT, GROUP_MESSAGE, PERSON_MESSAGE, logged_in, register, wait_until

from jelly import edits
from jelly.server import JellyServer

ALL = ["ack", "ids", "edit"]
MEMBERS = ("bob", "carol")


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with a group of three, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", *MEMBERS)
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in MEMBERS:
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    return server


@pytest.mark.parametrize("is_long", [False, True])
def test_the_old_text_is_not_copied_for_many(
    server: JellyServer, monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    """What was sent and not acknowledged comes again. A short text is kept for that; a long one is
    not, as a thousand copies of it would be: then the new text comes, and the edit.
    """
    old, new = "the old text", "the new text"
    monkeypatch.setattr(edits, "MAX_KEPT", len(MEMBERS) * len(old) - is_long)
    with logged_in(server.port, "alice", features=ALL) as alice:
        for member in MEMBERS:
            with logged_in(server.port, member, features=ALL) as wire:
                if member == MEMBERS[0]:
                    id = alice.ok(GROUP_MESSAGE, receiver="team", content=old, time=1)["id"]
                assert wire.contents(1) == [old]
            wait_until(lambda member=member: not server.sessions.is_online(member))
        alice.ok(EDIT, id=id, content=new)
    for member in MEMBERS:
        with logged_in(server.port, member, features=ALL) as wire:
            first, second = wire.receive_notice().values, wire.receive_notice().values
            assert (first["id"], first["content"]) == (id, new if is_long else old)
            assert (second["replaces"], second["content"]) == (id, new)
    with server._reading() as dao:
        kept = dao.connection.query("SELECT COUNT(*) FROM inbox WHERE text IS NOT NULL")
    assert kept == [(0 if is_long else len(MEMBERS),)]


def test_a_recalled_text_is_not_in_the_file(start_server: StartServer, tmp_path: Path) -> None:
    """Neither where it was stored, nor where it was kept for those who had been sent it."""
    database = tmp_path / "jelly.db"
    server = start_server(database=f"sqlite:///{database}", classic_gap=0)
    register(server.port, "alice", *MEMBERS)
    secrets = [f"secret text number {number}" for number in range(3)]
    with logged_in(server.port, "alice", features=ALL) as alice:
        with logged_in(server.port, "bob", features=ALL) as bob:
            id = alice.ok(PERSON_MESSAGE, receiver="bob", content=secrets[0], time=1)["id"]
            assert bob.contents(1) == secrets[:1]
        alice.ok(EDIT, id=id, content=secrets[1])  # the first text is kept for bob
        alice.ok(EDIT, id=id, content=secrets[2])
        alice.ok(EDIT, id=id, content="")
        alice.message("bob", "another text")
    server.stop()
    assert not [secret for secret in secrets if secret.encode() in database.read_bytes()]
    assert b"another text" in database.read_bytes()
