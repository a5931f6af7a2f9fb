"""The private Redis server itself: other tests rely on it when they kill and pause it."""

import shutil
import socket

import pytest

from faults.redis import PrivateRedis, RedisMissing


def ask(server: PrivateRedis, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(command + b"\r\n")
        return client.recv(1000)


def test_it_comes_back_on_the_same_port_and_has_kept_nothing(redis_server: PrivateRedis) -> None:
    """However it ends: it is a fresh one after each start."""
    pids = {redis_server.pid}
    for end in (redis_server.kill, redis_server.stop):
        assert ask(redis_server, b"SET x 1") == b"+OK\r\n"
        end()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", redis_server.port), timeout=10)
        redis_server.start()
        assert ask(redis_server, b"GET x") == b"$-1\r\n"
        pids.add(redis_server.pid)
    assert len(pids) == 3


def test_a_paused_server_hangs_until_it_is_resumed(redis_server: PrivateRedis) -> None:
    """It takes connections but says nothing; resumed, it answers those that waited."""
    redis_server.pause()
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=0.2) as client:
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)
        redis_server.start()  # the same as resume
        client.settimeout(10)
        assert client.recv(100) == b"+PONG\r\n"


def test_options_that_are_wrong() -> None:
    """The error has what the program says, and nothing is left."""
    server = PrivateRedis("--no-such-option", "1")
    with pytest.raises(RuntimeError, match="no-such-option"), server:
        pass
    assert not server.socket.parent.exists()


def test_a_machine_without_redis_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the programs the error says which package brings them."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(RedisMissing, match="apt-get install redis-server"):
        PrivateRedis()
