"""What strangers send, and what becomes of them: for the tests of bad input."""

import logging
from collections.abc import Iterator

import pytest
from harness import CHEAP
from wire import (
    HEADER,
    OWN_PROFILE,
    REQUEST,
    REQUEST_ERROR,
    RESPONSE,
    SUCCESS,
    Reply,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
)  # fmt: skip

from jelly.config import Settings
from jelly.server import JellyServer

PASSWORD = "correct-horse-battery"
CONTENT = "what-alice-wrote"
MAX_BODY, MAX_FIRST_BODY = 65536, 4096
ME = b'{"username":"alice"}'
ASK = pack(OWN_PROFILE, ME)
WHOLE = to_json({"username": "alice", "password": PASSWORD})
MALFORMED_FRAME, UNKNOWN_TYPE = "malformed_frame", "unknown_type"


def server_of_all_rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JellyServer]:
    """The server that all rows share, with alice and bob."""
    database = tmp_path_factory.mktemp("bad-input") / "jelly.db"
    server = JellyServer(Settings(**{**CHEAP, "database": f"sqlite:///{database}", "classic_gap": 0}))
    server.start()
    register(server.port, "alice", "bob", password=PASSWORD)
    yield server
    server.stop()


def port_of_all_rows(server: JellyServer) -> int:
    return server.port


def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No bad input may bring a traceback, a password or a message into the log."""
    yield
    for record in caplog.get_records("call"):
        text = logging.Formatter().format(record)
        assert not any(word in text for word in ("Traceback", PASSWORD, CONTENT)), text


def alice_at(port: int) -> Wire:
    return logged_in(port, "alice", PASSWORD)


def assert_refused(reply: Reply, type: int, error: str) -> None:
    """A refusal as the protocol has it: a response of that type, with a code and a sentence."""
    assert (reply.sign, reply.type, reply.status, reply.error) == (RESPONSE, type, REQUEST_ERROR, error)
    assert reply.values["message"].endswith(".")


def assert_goes_on(wire: Wire) -> None:
    """The connection is usable: alice is logged in on it, or can log in now."""
    if not wire.user:
        assert wire.login("alice", PASSWORD).status == SUCCESS
    assert wire.ok(OWN_PROFILE)["username"] == "alice"


def assert_ended(wire: Wire) -> None:
    """The server says not one byte more, and closes cleanly."""
    with pytest.raises(EOFError):
        wire.receive()


def header(length: int, type: int = OWN_PROFILE, magic: int = 0xABCD) -> bytes:
    return HEADER.pack(magic, REQUEST, type, 0, length)


# --- frames ---------------------------------------------------------------------------------------


# --- JSON -----------------------------------------------------------------------------------------
