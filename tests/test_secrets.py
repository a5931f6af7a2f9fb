"""What must never be seen: passwords, tokens and contents in the log, passwords and tokens in the
database.
"""

import contextlib
import logging
import sqlite3
from pathlib import Path

import pytest
from harness import StartServer
from wire import LOGIN, LOGOUT, PERSON_MESSAGE, UPDATE_PROFILE, Wire, logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from jelly.config import Settings
from jelly.engines import open_engine
from jelly.errors import StartError
from jelly.server import JellyServer

PASSWORDS = ["Old-Secret-1", "New-Secret-2", "Wrong-Secret-3"]
CONTENTS = ["The-Content-Of-A-Message", "Another-Content"]


def test_secrets_stay_secret(start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a whole conversation nothing of it stands in the log, nor what opens an account in the
    database.
    """
    caplog.set_level(logging.DEBUG)
    server = start_server()
    register(server.port, "alice", "bob", password=PASSWORDS[0])
    with Wire(server.port) as wire:
        assert wire.login("alice", PASSWORDS[2]).error == "wrong_credentials"
    tokens = []
    with logged_in(server.port, "alice", PASSWORDS[0]) as alice:
        tokens.append(alice.token)
        alice.message("bob", CONTENTS[0])
        alice.ok(UPDATE_PROFILE, password=PASSWORDS[1])
        alice.send(b"\xab\xcd" + CONTENTS[1].encode() * 3)  # a broken stream
        assert alice.is_closed_by_server()
    with logged_in(server.port, "alice", PASSWORDS[1]) as alice:
        tokens.append(alice.token)
        alice.refused(LOGIN, username="alice", password=PASSWORDS[1])
        alice.send_request(LOGOUT, token="no number")
        alice.receive()
    with Wire(server.port) as wire:
        wire.reconnect("bob", tokens[1])
    bob = logged_in(server.port, "bob", PASSWORDS[0])
    bob.send_message("alice", CONTENTS[1])
    bob.receive()
    bob.reset()  # which is logged
    wait_until(lambda: not server.connections)
    text = caplog.text
    assert "reset" in text
    for secret in [*PASSWORDS, *CONTENTS, *map(str, tokens)]:
        assert secret not in text
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("jelly.db*"))
    assert b"alice" in stored
    assert CONTENTS[0].encode() in stored  # it waits for bob: what is searched is what there is
    for secret in [*PASSWORDS, *map(str, tokens)]:
        assert secret.encode() not in stored
    for token in tokens:
        assert token.to_bytes(8, signed=True) not in stored


def test_a_message_that_cannot_be_stored(
    start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the database fails the log says so, and still nothing of what was to be written."""
    server = start_server()
    register(server.port, "alice", password=PASSWORDS[0])
    with logged_in(server.port, "alice", PASSWORDS[0]) as alice:
        with contextlib.closing(sqlite3.connect(tmp_path / "jelly.db", isolation_level=None)) as database:
            for table in ("messages", "users", "tokens"):
                database.execute(f"ALTER TABLE {table} RENAME TO lost_{table}")
        assert alice.call(PERSON_MESSAGE, receiver="alice", content=CONTENTS[0], time=1).error == "internal"
        assert alice.call(UPDATE_PROFILE, password=PASSWORDS[1]).error == "internal"
        with Wire(server.port) as wire:
            assert wire.login("alice", PASSWORDS[0]).error == "internal"
    assert "no such table" in caplog.text
    for secret in [*PASSWORDS, *CONTENTS, str(alice.token)]:
        assert secret not in caplog.text


def test_the_same_password_twice(start_server: StartServer, tmp_path: Path) -> None:
    """Two users with one password have two hashes, each with its own salt: nobody sees that they
    are the same.
    """
    server = start_server()
    register(server.port, "alice", "bob", password=PASSWORDS[0])
    with contextlib.closing(sqlite3.connect(tmp_path / "jelly.db")) as database:
        hashes = [row[0].split("$") for row in database.execute("SELECT password FROM users")]
    assert [stored[:4] for stored in hashes] == [["scrypt", "1", "8", "5"]] * 2
    assert hashes[0][4] != hashes[1][4]
    assert hashes[0][5] != hashes[1][5]


def test_the_password_of_the_database(mariadb: PrivateMariaDB) -> None:
    """The name under which a database is logged, and what is said when it refuses, are without its
    password.
    """
    url = mariadb.fresh_database("secret").replace(":password@", f":{PASSWORDS[0]}@")
    assert PASSWORDS[0] in url
    assert PASSWORDS[0] not in open_engine(url).describe()
    with pytest.raises(StartError) as refused:
        JellyServer(Settings(database=url, port=0, password_cost=1))
    assert PASSWORDS[0] not in str(refused.value)
