"""What must never be seen: passwords, tokens and contents in the log, passwords and tokens in the database."""

import logging
from pathlib import Path

import pytest
from harness import StartServer
from wire import LOGIN, LOGOUT, UPDATE_PROFILE, Wire, logged_in, register, wait_until

PASSWORDS = ["Old-Secret-1", "New-Secret-2", "Wrong-Secret-3"]
CONTENTS = ["The-Content-Of-A-Message", "Another-Content"]


def test_secrets_stay_secret(start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a whole conversation nothing of it stands in the log, nor what opens an account in the database."""
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
