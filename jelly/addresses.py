"""Addresses of clients: one way to write each, and the network that it belongs to."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

NETWORK_BITS = 64
"""How many leading bits of an IPv6 address name its network."""


def canonical(address: str) -> str:
    """Return the usual text of an address; an IPv4 address that is mapped into IPv6 as IPv4.

    A text that is no address is returned as it is.
    """
    parsed = _parse(address)
    return address if parsed is None else str(parsed)


@lru_cache(4096)
def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address itself, the /64 of an IPv6 address.

    Providers give each customer a whole /64, so its addresses are one customer's. An IPv4 address
    that is mapped into IPv6 counts as IPv4. A text that is no address is returned as it is.
    """
    parsed = _parse(address)
    if parsed is None:
        return address
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    host_bits = 128 - NETWORK_BITS
    return f"{IPv6Address(int(parsed) >> host_bits << host_bits)}/{NETWORK_BITS}"


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
