"""A client with several addresses: how they are written, and where the first login goes."""

import itertools
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from client_tools import (
    NEVER,
    SYSTEM,
    NewClient,
    Peer,
    Recorder,
    ScriptedServer,
    Scripts,
    error,
    has_connection,
    name_of,
    result,
    three,
)
from harness import StartServer
from wire import LOGIN, LOGOUT, RECONNECT, REGISTER, SERVER_BUSY, SERVER_ERROR

from client_api import ConnectionLost, JellyClient, ServerBusy, ServerFailed, State
from jelly.client.addresses import Address, AddressList, parse_url

# --- how addresses are written --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "addresses", "has_tls"),
    [
        ("jelly://a", [("a", 20000)], False),
        ("jelly://a:20001,b:20002", [("a", 20001), ("b", 20002)], False),
        ("JELLYS://A.example.org,b:5/", [("a.example.org", 20000), ("b", 5)], True),
        (" jelly:// a:1 ,\tb:2 ", [("a", 1), ("b", 2)], False),
        ("jelly://[::1],[2001:DB8::7]:5", [("::1", 20000), ("2001:db8::7", 5)], False),
        ("jelly://[fe80::1%eth0]:6", [("fe80::1%eth0", 6)], False),
        ("jelly://a,A:20000,b,a:20001", [("a", 20000), ("b", 20000), ("a", 20001)], False),
        ("jelly://[::1],[0:0::1]:20000", [("::1", 20000)], False),
        ("jelly://h:", [("h", 20000)], False),
    ],
)  # fmt: skip
def test_a_list_in_a_url(url: str, addresses: list[tuple[str, int]], has_tls: bool) -> None:
    """Spaces around an address do not count, and an address that comes twice counts once."""
    assert parse_url(url) == (tuple(addresses), has_tls)
    client = JellyClient.from_url(url)
    assert sorted(client.addresses) == sorted(str(Address(*address)) for address in addresses)
    assert (client._manager._endpoint.tls is not None) == has_tls


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("jelly://a,,b", "^an address is missing beside a comma in 'jelly://a,,b': remove the comma, or add"),
        ("jelly://a,", "^an address is missing beside a comma in 'jelly://a,'"),
        ("jelly:// ,a", "^an address is missing beside a comma in 'jelly:// ,a'"),
        ("jelly://", "is not a server's URL: write jelly://host:port or jellys://host:port, and several addresses as"),
        ("a:1,b:2", "'a:1,b:2' is not a server's URL: write jelly://host:port"),
        ("jelly://a,jelly://b", "has more than one scheme: write jelly://host:port"),
        ("jelly://a:x,b", "'a:x' is not a server's address: write host:port$"),
        ("jelly://a b", "'a b' is not a server's address: write host:port$"),
        ("jelly://::1", r"'::1' is not a server's address: write host:port, with an IPv6 address in brackets: \["),
        ("jelly://a,[::g]:1", r"'\[::g\]:1' has no IPv6 address in its brackets: write \[::1\]:20000, for example"),
        ("jelly://a:0", "the port of 'a:0' is not possible: write a number from 1 to 65535"),
        ("jelly://a,b:65536", "the port of 'b:65536' is not possible: write a number from 1 to 65535"),
        ("jelly://a,b/room", "'jelly://a,b/room' is not a server's URL"),
        ("jelly://a,me:secret@b/room", "must not contain a user name or a password"),
    ],
)  # fmt: skip
def test_a_list_that_is_wrong(url: str, sentence: str) -> None:
    """One sentence says what is wrong and what to write; it does not show a password."""
    with pytest.raises(ValueError, match=sentence) as raised:
        JellyClient.from_url(url)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("addresses", [["a:1"], "a:1", [("a",)], [("a", 1, 2)]])
def test_what_is_no_pair(addresses: Any) -> None:
    """The constructor says so, and what to do."""
    with pytest.raises(ValueError, match=r"is not a pair of host and port: from_url\(\) reads"):
        JellyClient(addresses=addresses)


def test_the_order_is_random() -> None:
    """Each client has its own order, so the clients of a dead server spread over the others."""
    orders = {JellyClient.from_url("jelly://a,b,c").addresses for _ in range(500)}
    assert orders == set(itertools.permutations(f"{host}:20000" for host in "abc"))


def test_round_robin() -> None:
    """The next one is the one behind the one that failed; what works is kept; late news of another
    address changes nothing."""
    addresses = AddressList(Address(host, 1) for host in "abc")
    first, second, third = addresses.in_order
    assert addresses.round() == (first, second, third)
    addresses.failed(first)
    assert addresses.round() == (second, third, first)
    addresses.failed(first)
    assert addresses.current == second
    addresses.keep(third)
    addresses.failed(third)
    assert addresses.current == first


def test_a_pause_only_between_rounds() -> None:
    """Within a round there is none, and a round tries each address once."""
    addresses = AddressList(Address(host, 1) for host in "abc")
    assert list(addresses.pauses(iter([0.0, 1.0, 2.0]))) == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0]
    assert list(AddressList([Address("a", 1)]).pauses(iter([0.0, 1.0]))) == [0.0, 1.0]


# --- the first login ------------------------------------------------------------------------------


@three
def test_a_login_goes_to_the_first_that_works(alice: JellyClient, scripts: Scripts, recorder: Recorder) -> None:
    """It tries each once, keeps the one that works, and says which one it is."""
    first, second, third = scripts.of(alice)
    first.close()
    login = alice.login("alice", "pw")
    second.accept().close()
    peer = third.accept_login()
    assert result(login).username == "alice"
    assert alice.address == name_of(third)
    events = [recorder.wait_for_state(state).address for state in (State.CONNECTING, State.ONLINE)]
    assert events == [name_of(first), name_of(third)]
    logout = alice.logout()
    peer.receive_request(LOGOUT)
    peer.close()
    result(logout)
    assert alice.address is None
    third.log_in(alice)  # a new login begins with the address that has worked
    assert not has_connection(second)


@three
def test_no_address_works(alice: JellyClient, scripts: Scripts, caplog: pytest.LogCaptureFixture) -> None:
    """One error names all of them, with the reasons; nothing was sent, unless to one of them."""
    caplog.set_level(logging.INFO, "jelly.client")
    first, second, third = scripts.of(alice)
    for server in (first, third):
        server.close()
    login = alice.login("alice", "pw")
    second.accept().close()
    failure = error(login)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert str(failure).startswith("Cannot log in at any of the 3 addresses: ")
    assert f"{name_of(first)} (Connection refused)" in str(failure)
    assert f"{name_of(second)} (" in str(failure)
    assert f"cannot use {name_of(first)}: Cannot connect to 127.0.0.1 port {first.port}" in caplog.text
    second.close()
    failure = error(alice.login("alice", "pw"))
    assert (type(failure), failure.sent, alice.state) == (ConnectionLost, False, State.OFFLINE)
    assert isinstance(failure.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize(("status", "kind"), [(SERVER_BUSY, ServerBusy), (SERVER_ERROR, ServerFailed)])
def test_a_server_that_cannot_now(alice: JellyClient, scripts: Scripts, status: int, kind: type) -> None:
    """It has refused nothing, so the next one is tried. If none can, the future says so."""
    first, second = scripts.of(alice)

    def decline(server: ScriptedServer) -> None:
        with server.accept() as peer:
            peer.receive_request(LOGIN)
            peer.answer(LOGIN, status)

    login = alice.login("alice", "pw")
    decline(first)
    decline(second)
    assert type(error(login)) is kind
    login = alice.login("alice", "pw")
    decline(first)
    second.accept_login()
    result(login)


def test_a_server_that_stops_during_a_login(new_client: NewClient, scripts: Scripts) -> None:
    """It says so instead of an answer: the client does not wait for the end, and not for the time
    after which a server counts as frozen. So it does with its token.
    """
    alice = new_client(1, addresses=scripts.addresses, reconnect=NEVER, connect_timeout=3600)
    first, second = scripts.of(alice)

    def stop(server: ScriptedServer, type: int) -> Peer:
        peer = server.accept()
        peer.receive_request(type)
        peer.notify(SYSTEM, event="presence", friend="bob", online=True)
        peer.notify(SYSTEM, event="shutdown")
        return peer

    login = alice.login("alice", "pw")
    assert stop(first, LOGIN).is_closed_by_server()
    peer = second.accept_login()
    result(login)
    peer.close()
    assert stop(first, RECONNECT).is_closed_by_server()
    second.accept_login()
    assert alice.wait_until_online(10)
    failing = new_client(1, addresses=scripts.addresses, connect_timeout=3600)
    one, other = scripts.of(failing)
    login = failing.login("alice", "pw")
    stop(one, LOGIN)
    stop(other, LOGIN)
    failure = error(login)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert str(failure).count("is shutting down") == 2


@pytest.mark.parametrize("code", ["wrong_credentials", "too_many_attempts"])
def test_a_login_that_is_refused(alice: JellyClient, scripts: Scripts, code: str) -> None:
    """All servers would refuse it: the next one is not asked."""
    first, second = scripts.of(alice)
    login = alice.login("alice", "pw")
    with first.accept() as peer:
        peer.receive_request(LOGIN)
        peer.answer(LOGIN, 0x32, error=code)
    assert error(login).code == code
    assert not has_connection(second)


def test_a_registration(alice: JellyClient, scripts: Scripts) -> None:
    """It goes to the next address only if nothing was done: a second one would be refused."""
    first, second = scripts.of(alice)
    future = alice.register("dora", "pw")
    with first.accept() as peer:
        peer.receive_request(REGISTER)
        peer.answer(REGISTER, 0x32, error="registration_closed")
    assert error(future).code == "registration_closed"
    future = alice.register("dora", "pw")
    with first.accept() as peer:
        peer.receive_request(REGISTER)
    failure = error(future)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert not has_connection(second)
    second.close()  # which would be the next one
    future = alice.register("dora", "pw")
    with first.accept() as peer:
        peer.receive_request(REGISTER)
        peer.answer(REGISTER, username="dora")
    assert result(future) == "dora"


# --- TLS ------------------------------------------------------------------------------------------


def test_the_name_that_is_verified(
    start_server: StartServer, certificate: tuple[Path, Path], new_client: NewClient, recorder: Recorder
) -> None:
    """It is that of the address in use: the certificate is for localhost only."""
    files = {"tls_cert": str(certificate[0]), "tls_key": str(certificate[1])}
    context = ssl.create_default_context(cafile=str(certificate[0]))
    port = start_server(host="0.0.0.0", **files).port
    result(new_client(1, addresses=[("localhost", port)], tls=context).register("alice", "pw"))
    alice = new_client(1, recorder, addresses=[("localhost", port), ("127.0.0.1", port)], tls=context)
    result(alice.login("alice", "pw"))
    assert alice.address == f"localhost:{port}"
    wrong = new_client(1, addresses=[("127.0.0.1", port), ("127.0.0.2", port)], tls=context)
    failure = error(wrong.login("alice", "pw"))
    assert (type(failure), failure.sent) == (ConnectionLost, False)
    assert str(failure).count("(its certificate is for another name or address)") == 2
