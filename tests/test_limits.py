"""Everything has a bound, and each bound an answer."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    CREATE_GROUP,
    OWN_PROFILE,
    SERVER_ERROR,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from jelly import services
from jelly.messages import PROFILE_LIMITS

ROOT = Path(__file__).parent.parent


def test_connections(start_server: StartServer) -> None:
    """What is too much is turned away at once; when somebody leaves there is room again."""
    server = start_server(max_connections=3)
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    wires = [Wire(server.port) for _ in range(3)]
    wait_until(lambda: len(server.connections) == 3)
    with Wire(server.port) as surplus:
        assert surplus.is_closed_by_server()
    wires.pop().close()
    wait_until(lambda: len(server.connections) == 2)
    with logged_in(server.port, "alice") as alice:
        alice.ok(OWN_PROFILE)
    for wire in wires:
        wire.close()


def test_connections_from_one_address(start_server: StartServer) -> None:
    """One address may not take all of them."""
    server = start_server(max_per_address=2)
    wires = [Wire(server.port) for _ in range(2)]
    wait_until(lambda: len(server.connections) == 2)
    with Wire(server.port) as surplus, Wire(server.port, source="127.0.0.2") as other:
        assert surplus.is_closed_by_server()
        assert other.login("nobody").error == "wrong_credentials"
    for wire in wires:
        wire.close()


@pytest.mark.parametrize("field", PROFILE_LIMITS)
def test_profiles(port: int, field: str) -> None:
    """A value has as many characters as its limit says, counted as characters, and not one more."""
    register(port, "alice")
    with logged_in(port, "alice") as alice:
        longest = "界" * PROFILE_LIMITS[field]
        alice.ok(UPDATE_PROFILE, **{field: longest})
        assert alice.refused(UPDATE_PROFILE, **{field: longest + "x"}) == "too_long"
        assert alice.ok(OWN_PROFILE)[field] == longest


@pytest.mark.parametrize("length", [0, 1, 128, 129])
def test_passwords(port: int, length: int) -> None:
    """A password has 1 to 128 characters."""
    with Wire(port) as wire:
        reply = wire.call(0x12, username="alice", password="界" * length)
        assert reply.error == ("" if 1 <= length <= 128 else "invalid_password")


def test_lists(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Friends, members and groups have limits, far above what people need."""
    for limit in ("MAX_FRIENDS", "MAX_MEMBERS", "MAX_GROUPS_CREATED"):
        assert getattr(services, limit) >= 200
        monkeypatch.setattr(services, limit, 2)
    monkeypatch.setattr(services, "MAX_GROUPS_JOINED", 1)
    register(port, "alice", "bob", "carol", "dave")
    with logged_in(port, "alice") as alice:
        alice.ok(ADD_FRIEND, friend="bob")
        alice.ok(ADD_FRIEND, friend="carol")
        assert alice.refused(ADD_FRIEND, friend="dave") == "limit_reached"
        alice.ok(CREATE_GROUP, groupName="one")
        alice.ok(CREATE_GROUP, groupName="two")
        assert alice.refused(CREATE_GROUP, groupName="three") == "limit_reached"
        alice.ok(ADD_MEMBER, groupName="one", member="bob")
        assert alice.refused(ADD_MEMBER, groupName="one", member="carol") == "limit_reached"
        assert alice.refused(ADD_MEMBER, groupName="two", member="bob") == "limit_reached"


def test_a_service_that_raises(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a SERVER_ERROR, the connection and the worker live, and the log has one line without a traceback."""
    server = start_server(workers=1)
    register(server.port, "alice")
    table: Any = server.dispatcher._services._table
    logged: list[str] = []
    monkeypatch.setattr("jelly.queue_dispatch.log_failure", lambda log, error: logged.append(repr(error)))
    with logged_in(server.port, "alice") as alice:
        works, table[OWN_PROFILE] = table[OWN_PROFILE], lambda session, request: 1 // 0
        reply = alice.call(OWN_PROFILE)
        assert (reply.status, reply.error) == (SERVER_ERROR, "internal")
        table[OWN_PROFILE] = works
        alice.ok(OWN_PROFILE)
    assert len(logged) == 1


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_out_of_descriptors(tmp_path: Path) -> None:
    """Accepting pauses without burning CPU, those inside are served, and it heals when descriptors are free."""
    command = [
        sys.executable,
        "-S",
        "jelly.py",
        "--port=0",
        "--password-cost=1",
        f"--database=sqlite:///{tmp_path}/j.db",
    ]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
    assert process.stderr is not None
    try:
        while "listening" not in (line := process.stderr.readline()):
            assert line
        port = int(line.partition(" port ")[2].split(";")[0])
        register(port, "alice")
        alice = logged_in(port, "alice")
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        while "cannot accept" not in process.stderr.readline():
            pass
        before, started = cpu_seconds(process.pid), time.monotonic()
        while time.monotonic() - started < 1:
            alice.ok(OWN_PROFILE)
            time.sleep(0.05)
        assert cpu_seconds(process.pid) - before < 0.25
        for each in crowd:
            each.close()
        with Wire(port) as wire:
            assert wire.login("nobody").error == "wrong_credentials"
        alice.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0
