"""The PROXY protocol: who the client is, if it comes through a load balancer."""

import contextlib
import ipaddress
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
from haproxy import StartProxy
from harness import StartServer
from hypothesis import given
from hypothesis import strategies as st
from test_config import sentence
from wire import OWN_PROFILE, Wire, logged_in, pack, register, wait_until

from client_api import JellyClient
from faults.process import free_port
from jelly.connection import Connection
from jelly.proxy_protocol import (
    HEADER_TIMEOUT,
    IS_LATE,
    IS_MISSING,
    IS_UNEXPECTED,
    IS_VERSION_1,
    MAX_HEADER,
    SIGNATURE,
    HeaderError,
    is_in,
    parse_networks,
    read_header,
)
from jelly.server import JellyServer

FROM = "203.0.113.7"
FROM_6 = "2001:db8::7"


def header(family: int = 0x11, data: bytes = b"", version: int = 0x21, length: int | None = None) -> bytes:
    """The bytes of a header, made by this file alone."""
    count = len(data) if length is None else length
    return b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + struct.pack(">BBH", version, family, count) + data


def ports(count: int = 1) -> bytes:
    return struct.pack(">HH", 40000 * count, 20000)


def ipv4(address: str = FROM, more: bytes = b"") -> bytes:
    """A client that comes over IPv4."""
    return header(0x11, socket.inet_aton(address) + socket.inet_aton("192.0.2.1") + ports() + more)


def ipv6(address: str = FROM_6, more: bytes = b"") -> bytes:
    """A client that comes over IPv6."""
    packed = socket.inet_pton(socket.AF_INET6, address) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    return header(0x21, packed + ports() + more)


def read_from(data: bytes, piece: int = MAX_HEADER) -> tuple[Any, bytes]:
    """What a stream says that comes in pieces, and what it has behind the header."""
    rest = data

    def receive(count: int) -> bytes:
        nonlocal rest
        taken, rest = rest[: min(count, piece)], rest[min(count, piece) :]
        return taken

    return read_header(receive), rest


TLVS = b"\x03\x00\x04\xde\xad\xbe\xef" + b"\x02\x00\x04chat"
GOOD = {
    "ipv4": (ipv4(), (FROM, 40000)),
    "ipv6": (ipv6(), (FROM_6, 40000)),
    "ipv4 in ipv6": (ipv6("::ffff:203.0.113.7"), (FROM, 40000)),
    "values behind the addresses": (ipv4(more=TLVS), (FROM, 40000)),
    "values that are none": (ipv6(more=b"\xff"), (FROM_6, 40000)),
    "the longest": (ipv4(more=bytes(MAX_HEADER - 28)), (FROM, 40000)),
    "local": (header(0x00, version=0x20), None),
    "local with a family": (header(0x11, socket.inet_aton(FROM) * 2 + ports(), version=0x20), None),
    "local with anything": (header(0xFF, b"anything", version=0x20), None),
    "unspecified": (header(0x00), None),
    "unspecified with values": (header(0x00, TLVS), None),
    "udp over ipv4": (header(0x12, bytes(12)), None),
    "udp over ipv6": (header(0x22, bytes(36)), None),
    "a unix socket": (header(0x31, bytes(216)), None),
}
BAD = {
    "version 1": (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 20000\r\n", IS_VERSION_1),
    "version 1, unknown": (b"PROXY UNKNOWN\r\n", IS_VERSION_1),
    "a frame": (pack(0x23), IS_MISSING),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01", IS_MISSING),
    "a wrong signature": (b"\r\n\r\n\0\r\nQUIT\r", IS_MISSING),
    "http": (b"POST / HTTP/1.1\r\n\r\n", IS_MISSING),
    "version 3": (header(version=0x31, data=bytes(12)), "it has version 3"),
    "command 2": (header(version=0x22, data=bytes(12)), "it has the command 2"),
    "family 4": (header(0x41, bytes(12)), "it has the unknown family and transport 0x41"),
    "transport 3": (header(0x13, bytes(12)), "it has the unknown family and transport 0x13"),
    "too short for ipv4": (header(0x11, bytes(11)), "it is too short for its addresses"),
    "too short for ipv6": (header(0x21, bytes(35)), "it is too short for its addresses"),
    "too long": (header(0x11, length=MAX_HEADER - 15), "it has more than 536 bytes"),
    "an end within": (ipv4()[:-1], "it ends too early"),
    "an end within the signature": (ipv4()[:7], "it ends too early"),
    "an end within version 1": (b"PRO", "it ends too early"),
}


@pytest.mark.parametrize("piece", [1, 5, MAX_HEADER])
@pytest.mark.parametrize("name", GOOD)
def test_a_header(name: str, piece: int) -> None:
    """It is read whole, however it comes, and nothing behind it."""
    data, client = GOOD[name]
    assert read_from(data + b"\xab\xcd", piece) == (client, b"\xab\xcd")


@pytest.mark.parametrize("piece", [1, 5, MAX_HEADER])
@pytest.mark.parametrize("name", BAD)
def test_a_header_that_cannot_be_used(name: str, piece: int) -> None:
    """The log is told why."""
    data, reason = BAD[name]
    with pytest.raises(HeaderError, match=r"^.*" + reason.replace("(", r"\(").replace(")", r"\)") + "$"):
        read_from(data, piece)


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes(data: bytes, is_signed: bool) -> None:
    """They are a header or a HeaderError, and never are more bytes taken than a header has."""
    stream = (SIGNATURE if is_signed else b"") + data
    with contextlib.suppress(HeaderError, ConnectionError):
        client, rest = read_from(stream + bytes(MAX_HEADER))
        assert len(stream) + MAX_HEADER - len(rest) <= MAX_HEADER
        assert client is None or ipaddress.ip_address(client.address)


def test_nothing_at_all() -> None:
    """A proxy that only looks whether the port is open is no error."""
    with pytest.raises(ConnectionError):
        read_from(b"")


# --- the setting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.1.2.3"], ["11.0.0.1", "::1"]),
        ("192.0.2.7, 2001:db8::/32", ["192.0.2.7", "2001:db8:1::1"], ["192.0.2.8", "2001:db9::1"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3"], ["11.0.0.1"]),
        ("fe80::/10", ["fe80::1%eth0"], ["fec0::1"]),
        ("", [], ["127.0.0.1"]),
    ],
)
def test_networks(text: str, inside: list[str], outside: list[str]) -> None:
    """Of IPv4 and IPv6, as many as the operator names; an address is a network, too."""
    networks = parse_networks(text)
    assert all(is_in(address, networks) for address in inside)
    assert not any(is_in(address, networks) for address in outside)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' would be 10.0.0.0/8"),
        ("balancer", "'balancer' is none"),
        ("10.0.0.0/8,", "'' is none"),
        ("10.0.0.0/33", "'10.0.0.0/33' is none"),
    ],
)
def test_wrong_networks(text: str, why: str) -> None:
    """The operator is told what they must be."""
    expected = f"must be networks such as 10.0.0.0/8 and 192.0.2.7, separated by commas; {why}."
    assert sentence("--proxy-protocol", text).endswith(expected)


# --- a server behind a proxy ----------------------------------------------------------------------


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    """A server that takes 127.0.0.1 for a load balancer, and knows alice."""
    server = start_server(proxy_protocol="127.0.0.1")
    with proxied(server, "") as wire:
        assert wire.call(0x12, username="alice", password="pw").error == ""
    wait_until(lambda: not server.connections)
    return server


def proxied(server: JellyServer, data: bytes | str) -> Wire:
    """A connection of the balancer that begins with a header."""
    wire = Wire(server.port)
    wire.send(ipv4(data or FROM) if isinstance(data, str) else data)
    wire.bytes_sent = 0
    return wire


def only(server: JellyServer) -> Connection:
    wait_until(lambda: len(server.connections) == 1)
    [connection] = server.connections
    return connection


@pytest.mark.parametrize(
    ("data", "address"),
    [
        (ipv4(), FROM),
        (ipv6(), FROM_6),
        (ipv6("::ffff:203.0.113.7"), FROM),
        (header(0x00), "127.0.0.1"),
        (header(version=0x20), "127.0.0.1"),
    ],
    ids=["ipv4", "ipv6", "mapped", "unspecified", "local"],
)
def test_the_address_of_the_client(server: JellyServer, data: bytes, address: str) -> None:
    """It is the one that the proxy announces, for everything that looks at it."""
    with proxied(server, data) as wire:
        assert wire.login("alice").error == ""
        connection = only(server)
        assert connection.address == connection.session.address == address
        assert address in connection.thread.name


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_header_in_pieces_and_with_a_request(server: JellyServer, size: int) -> None:
    """However the stream is cut, the request behind the header is served."""
    data = ipv4(more=TLVS) + pack(OWN_PROFILE, b'{"username":"alice"}')
    with Wire(server.port) as wire:
        for start in range(0, len(data), size):
            wire.send(data[start : start + size])
        assert wire.receive().error == "not_logged_in"


def test_bytes_are_counted_from_the_first(server: JellyServer) -> None:
    """Those of the header, too: the server asks TCP how many have come."""
    with proxied(server, ipv4(more=TLVS)) as wire:
        wire.login("alice")
        connection = only(server)
        assert connection.send_queue.read_bytes == len(ipv4(more=TLVS)) + wire.bytes_sent


@pytest.mark.parametrize("name", ["version 1", "a frame", "version 3", "too short for ipv4"])
def test_a_bad_header(server: JellyServer, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The connection is closed without an answer, and the log has one line for many of them."""
    data, reason = BAD[name]
    for _ in range(3):
        with proxied(server, data) as wire, contextlib.suppress(ConnectionResetError):
            assert wire.socket.recv(100) == b""
    wait_until(lambda: not server.connections)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("turned away a connection from 127.0.0.1, because ")
    assert reason in line


def test_no_header(server: JellyServer, caplog: pytest.LogCaptureFixture) -> None:
    """The proxy has five seconds, also if it begins one."""
    for beginning in (b"", ipv4()[:20]):
        with proxied(server, beginning) as wire:
            connection = only(server)
            wait_until(lambda: connection.send_queue.read_bytes == len(beginning))  # noqa: B023
            since = connection.header_since or 0.0
            server.watchdog.check(since + HEADER_TIMEOUT - 0.1)
            assert not connection.send_queue.is_closed
            server.watchdog.check(since + HEADER_TIMEOUT)
            assert wire.is_closed_by_server()
        wait_until(lambda: not server.connections)
    assert caplog.text.count("turned away") == 1
    assert IS_LATE in caplog.text


def test_a_look_at_the_port(server: JellyServer, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that ends before any byte is not worth a line."""
    Wire(server.port).close()
    wait_until(lambda: not server.connections)
    assert "turned away" not in caplog.text


def test_a_header_from_elsewhere(server: JellyServer, caplog: pytest.LogCaptureFixture) -> None:
    """From an address that is no balancer's it is a wrong magic, and nothing is announced by it.
    The log says so once a minute.
    """
    with Wire(server.port, source="127.0.0.2") as wire:
        wire.send(ipv4())
        reply = wire.receive()
        assert (reply.type, reply.error) == (0, "malformed_frame")
        assert only(server).address == "127.0.0.2"
        assert wire.is_closed_by_server()
    for data in (ipv4(), b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n"):
        with Wire(server.port, source="127.0.0.2") as wire:
            wire.send(data)
            assert wire.is_closed_by_server()
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == f"turned away a connection from 127.0.0.2, because {IS_UNEXPECTED}"
    with Wire(server.port, source="127.0.0.2") as wire:
        assert wire.login("alice").error == ""


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", SIGNATURE[:4], pack(OWN_PROFILE, b"{}") + ipv4()])
def test_a_wrong_magic_that_is_no_header(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """The log does not speak of a proxy."""
    with Wire(start_server().port) as wire:
        wire.send(data)
        assert wire.is_closed_by_server()
    assert "PROXY" not in caplog.text


def test_the_limit_for_one_address(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """It counts those whom the proxy announces; the proxy itself has none."""
    server = start_server(proxy_protocol="127.0.0.1", max_per_address=2)
    with contextlib.ExitStack() as stack:
        for data in (header(version=0x20), header(0x00), ipv4(), ipv4(), ipv4("203.0.113.8")):
            stack.enter_context(proxied(server, data)).wait_until_served()
        locals_ = [stack.enter_context(proxied(server, header(version=0x20))) for _ in range(5)]
        wait_until(lambda: all(connection.header_since is None for connection in server.connections))
        assert locals_[0].says_nothing(0.05)
        with proxied(server, FROM) as surplus:
            assert surplus.is_closed_by_server()
        assert f"from {FROM}, because one address may have at most 2 (--max-per-address)" in caplog.text
    wait_until(lambda: not server.connections)
    assert not server.connections._per_network


def test_a_header_before_tls(start_server: StartServer, certificate: tuple[Path, Path]) -> None:
    """The handshake comes behind it."""
    cert, key = certificate
    server = start_server(proxy_protocol="127.0.0.1", tls_cert=str(cert), tls_key=str(key))
    context = ssl.create_default_context(cafile=str(cert))
    with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
        plain.sendall(ipv4())
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            wrapped.sendall(pack(OWN_PROFILE, b"{}"))
            assert b"not_logged_in" in wrapped.recv(1000)
            assert only(server).address == FROM


# --- a real one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["", "192.0.2.0/24"])
def test_an_unexpected_header_before_tls(
    start_server: StartServer, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    """The log says what came, also where the handshake fails because of it."""
    cert, key = certificate
    server = start_server(proxy_protocol=setting, tls_cert=str(cert), tls_key=str(key))
    with Wire(server.port) as wire:
        wire.send(ipv4())
        assert wire.is_closed_by_server()
    assert f"from 127.0.0.1, because {IS_UNEXPECTED}" in caplog.text


def test_haproxy(start_server: StartServer, start_haproxy: StartProxy, caplog: pytest.LogCaptureFixture) -> None:
    """With the configuration of docs/hosting.md, clients come through it, and the server knows who
    they are; its checks leave nothing in the log.
    """
    server = start_server(proxy_protocol="127.0.0.1", max_per_address=10)
    port = start_haproxy(server.port).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice, Wire(port, source="127.0.0.5") as bob, contextlib.ExitStack() as stack:
        assert bob.login("bob").error == ""
        bob.message("alice", "through the proxy")
        assert alice.contents(1) == ["through the proxy"]
        users = {c.session.user: c.address for c in server.connections if c.session.user}
        assert users == {"alice": "127.0.0.1", "bob": "127.0.0.5"}
        for _ in range(10):
            stack.enter_context(Wire(port, source="127.0.0.5"))
        wait_until(lambda: "turned away" in caplog.text)
    wait_until(lambda: not [c for c in server.connections if c.session.user])
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("turned away a connection from 127.0.0.5, because one address may have at most 10")


def test_checks_of_haproxy(start_server: StartServer, start_haproxy: StartProxy) -> None:
    """They find out that the server is there by an answer that it gives before any login."""
    port = free_port()
    haproxy = start_haproxy(port)
    haproxy.wait_until_says("Server jelly/jelly is DOWN")
    start_server(port=port, proxy_protocol="127.0.0.1")
    haproxy.wait_until_says("Server jelly/jelly is UP, reason: Layer7 check passed")
    register(haproxy.port, "alice")


def test_haproxy_with_tls(start_server: StartServer, start_haproxy: StartProxy, certificate: tuple[Path, Path]) -> None:
    """It passes TLS through, so clients check the server's own certificate. Its checks use TLS."""
    cert, key = certificate
    port = free_port()
    haproxy = start_haproxy(port, "check-ssl verify none")
    haproxy.wait_until_says("Server jelly/jelly is DOWN")
    server = start_server(port=port, proxy_protocol="127.0.0.1", tls_cert=str(cert), tls_key=str(key))
    haproxy.wait_until_says("Server jelly/jelly is UP, reason: Layer7 check passed")
    context = ssl.create_default_context(cafile=str(cert))
    with JellyClient("localhost", haproxy.port, tls=context) as client:
        client.register("alice", "pw").result(10)
        client.login("alice", "pw").result(10)
        [user] = [c for c in server.connections if c.session.user == "alice"]
        assert user.header_since is None
        client.send_message("alice", "encrypted").result(10)


def test_haproxy_in_front_of_a_server_that_does_not_expect_it(
    start_server: StartServer, start_haproxy: StartProxy
) -> None:
    """Without the setting its header is a wrong magic, and its checks say that the server is
    down.
    """
    start_haproxy(start_server().port).wait_until_says("Server jelly/jelly is DOWN, reason: Layer7 ")
