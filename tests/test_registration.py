"""Who may make an account by registering, and how many."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import NullTransport, StartServer
from wire import LOGIN, REGISTER, REQUEST_ERROR, SUCCESS, Wire, logged_in, register

from jelly.config import Settings
from jelly.errors import Refused
from jelly.outcomes import CpuTask
from jelly.requests import Register
from jelly.server import JellyServer
from jelly.sessions import Session


def answer(port: int, name: str, source: str = "") -> str:
    """The code with which a registration is refused; empty if it is not."""
    with Wire(port, source=source) as wire:
        reply = wire.call(REGISTER, username=name, password="pw")
        assert reply.status == (REQUEST_ERROR if reply.error else SUCCESS)
        assert wire.is_closed_by_server()
        return reply.error


def test_a_closed_server(start_server: StartServer) -> None:
    """Every registration is refused with the same code; it says nothing about names. Users log
    in.
    """
    open_server = start_server()
    register(open_server.port, "alice")
    open_server.stop()
    port = start_server(registration="closed").port
    for name in ("bob", "alice", "admin", "a b"):
        assert answer(port, name) == "registration_closed"
    with Wire(port) as wire:
        assert wire.refused(REGISTER, username=1) == "malformed_body"  # as at an open server
    logged_in(port, "alice").close()
    with Wire(port) as wire:
        assert wire.call(LOGIN, username="bob", password="pw").error == "wrong_credentials"


def test_the_rate_of_an_address(start_server: StartServer) -> None:
    """Names that are taken or impossible do not count, and other addresses go on."""
    port = start_server(registration_rate=3).port
    register(port, "alice")
    for name in ("alice", "a b", "admin"):
        assert answer(port, name) in ("username_taken", "invalid_username", "name_reserved")
    register(port, "bob", "carol")
    assert answer(port, "dora") == "too_many_registrations"
    assert answer(port, "dora", source="127.0.0.2") == ""
    logged_in(port, "dora").close()


def is_accepted(server: JellyServer, name: str, address: str) -> bool:
    """Whether the service takes on a registration from an address."""
    session = Session(NullTransport(), address)
    try:
        return isinstance(server.services.accounts.register(session, Register(name, "pw")), CpuTask)
    except Refused as error:
        return error.code != "too_many_registrations"


def test_the_rate_of_a_network(start_server: StartServer) -> None:
    """All addresses of an IPv6 /64 are one, and the allowance comes back within the hour."""
    server = start_server(registration_rate=2)
    now = 0.0
    server.services.accounts._registrations._clock = lambda: now
    assert is_accepted(server, "a", "2001:db8::1")
    assert is_accepted(server, "b", "2001:db8::ffff:2")
    assert not is_accepted(server, "c", "2001:db8::3")
    assert is_accepted(server, "c", "2001:db8:0:1::3")
    now = 1800.0
    assert is_accepted(server, "c", "2001:db8::4")
    assert not is_accepted(server, "d", "2001:db8::5")
    now = 1e6
    assert is_accepted(server, "e", "2001:db8:0:9::1")
    assert len(server.services.accounts._registrations) == 1


def test_a_class_that_registers_at_once(start_server: StartServer) -> None:
    """Forty behind one address are not held up by the default, and neither is a team of 200."""
    default = Settings().registration_rate
    assert default >= 200
    port = start_server(registration_rate=default).port
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda number: answer(port, f"pupil{number}"), range(40))) == [""] * 40


@pytest.mark.parametrize("rate", [0, 1])
def test_without_a_rate(start_server: StartServer, rate: int) -> None:
    """0 turns it off."""
    server = start_server(registration_rate=rate)
    accepted = [is_accepted(server, f"user{number}", "192.0.2.1") for number in range(500)]
    assert accepted == [True] + [rate == 0] * 499
