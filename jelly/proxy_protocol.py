"""PROXY protocol version 2: the header in which a load balancer says who its client is.

The header comes before everything else on the connection, also before TLS. After 16 fixed bytes,
which contain the length of the rest, come the addresses and then further values (TLVs), which are
skipped. A CRC32c among these is not checked, which the protocol allows: TCP has checksums.

The protocol: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
"""

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from jelly.addresses import canonical

HEADER_TIMEOUT = 5.0
"""Seconds until the header must have come."""
MAX_HEADER = 536
"""At most this many bytes are in a header: so it always fits into the first packet."""
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VERSION_1 = b"PROXY "
FIXED = struct.Struct(f">{len(SIGNATURE)}sBBH")
LOCAL, PROXY = 0, 1
TCP_OVER_IPV4, TCP_OVER_IPV6 = 0x11, 0x21
LENGTHS = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
"""How many bytes the addresses take, for each family and transport that the protocol has."""

IS_LATE = f"no PROXY protocol header came within {HEADER_TIMEOUT:g} s (--proxy-protocol)"
IS_MISSING = "no PROXY protocol header came first (--proxy-protocol)"
IS_VERSION_1 = "the PROXY protocol header has version 1, but must have version 2 (in HAProxy: send-proxy-v2)"
IS_UNEXPECTED = "it began with a PROXY protocol header, and --proxy-protocol does not name this address"
IS_MALFORMED = "the PROXY protocol header is malformed: "

Network = IPv4Network | IPv6Network


class HeaderError(Exception):
    """A header is missing or cannot be used; the text says why."""


class Client(NamedTuple):
    """Where a client comes from, as the proxy says."""

    address: str
    port: int


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a text like `10.0.0.0/8, 192.0.2.7`.

    Raises ValueError with what the text must be.
    """
    return tuple(_parse_network(part.strip()) for part in text.split(",")) if text.strip() else ()


def _parse_network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        try:
            hint = f"{text!r} would be {ip_network(text, strict=False)}"
        except ValueError:
            hint = f"{text!r} is none"
        raise ValueError(f"networks such as 10.0.0.0/8 and 192.0.2.7, separated by commas; {hint}") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def is_in(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address, in its usual form, is in one of some networks."""
    if not networks:
        return False
    parsed = ip_address(address)
    return any(parsed in network for network in networks)


def begins(data: bytes) -> bool:
    """Whether the first bytes of a connection are a header, of either version. (A proxy must send
    it in one piece.)
    """
    return data.startswith((SIGNATURE, VERSION_1))


def read_header(receive: Callable[[int], bytes]) -> Client | None:
    """Read a header and nothing behind it. Return the client; None if the proxy speaks for itself,
    or does not say who the client is: then the address of the connection is the right one.

    `receive` gets a number of bytes, and returns as many or fewer; none at the end of the stream.
    Raises HeaderError. Raises ConnectionError if nothing came at all: so a proxy looks whether the
    port is open.
    """
    fixed = receive(FIXED.size)
    if not fixed:
        raise ConnectionError("closed before a PROXY protocol header")
    while len(fixed) < FIXED.size:
        _check_signature(fixed)
        fixed += _receive_more(receive, FIXED.size - len(fixed))
    _check_signature(fixed)
    _, version_and_command, family, length = FIXED.unpack(fixed)
    version, command = divmod(version_and_command, 16)
    if version != 2:
        raise HeaderError(f"{IS_MALFORMED}it has version {version}")
    if FIXED.size + length > MAX_HEADER:
        raise HeaderError(f"{IS_MALFORMED}it has more than {MAX_HEADER} bytes")
    rest = b""
    while len(rest) < length:
        rest += _receive_more(receive, length - len(rest))
    if command == LOCAL:
        return None  # whatever else is in the header
    if command != PROXY:
        raise HeaderError(f"{IS_MALFORMED}it has the command {command}")
    return _parse_client(family, rest)


def _check_signature(beginning: bytes) -> None:
    if SIGNATURE.startswith(beginning[: len(SIGNATURE)]):
        return
    if beginning.startswith(VERSION_1):
        raise HeaderError(IS_VERSION_1)
    if not VERSION_1.startswith(beginning):
        raise HeaderError(IS_MISSING)


def _receive_more(receive: Callable[[int], bytes], count: int) -> bytes:
    data = receive(count)
    if not data:
        raise HeaderError(f"{IS_MALFORMED}it ends too early")
    return data


def _parse_client(family: int, data: bytes) -> Client | None:
    if family not in LENGTHS:
        raise HeaderError(f"{IS_MALFORMED}it has the unknown family and transport 0x{family:02x}")
    if len(data) < LENGTHS[family]:
        raise HeaderError(f"{IS_MALFORMED}it is too short for its addresses")
    if family == TCP_OVER_IPV4:
        return Client(str(IPv4Address(data[:4])), int.from_bytes(data[8:10]))
    if family == TCP_OVER_IPV6:
        return Client(canonical(str(IPv6Address(data[:16]))), int.from_bytes(data[32:34]))
    return None  # unspecified, UDP or a Unix socket: nothing that this server could use
