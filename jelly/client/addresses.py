"""The addresses of a client's servers: how they are written, and in which order they are tried."""

import random
import re
import threading
from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

DEFAULT_PORT = 20000
FORM = "write jelly://host:port or jellys://host:port, and several addresses as jelly://a:20000,b:20000"

_URL = re.compile(r"(jellys?)://([^/?#]*)/*", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^\[\]:\s]+))(?::(?P<port>[0-9]*))?")


class Address(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return host:port, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> tuple[tuple[Address, ...], bool]:
    """Return the addresses in `jelly://a:20000,b:20000`, and whether to use TLS (`jellys://`).

    Spaces around an address do not count, and an address that comes twice counts once. Raises
    ValueError with a sentence if the URL has another form.
    """
    if "@" in url:  # checked first: the other sentences show the URL, and with it the password
        raise ValueError("a server's URL must not contain a user name or a password: pass them to login()")
    if url.count("://") > 1:
        raise ValueError(f"{url!r} has more than one scheme: {FORM}")
    match = _URL.fullmatch(url.strip())
    if match is None or not match[2].strip():
        raise ValueError(f"{url!r} is not a server's URL: {FORM}")
    parts = [part.strip() for part in match[2].split(",")]
    if not all(parts):
        raise ValueError(f"an address is missing beside a comma in {url!r}: remove the comma, or add the address")
    return tuple(dict.fromkeys(map(_parse_address, parts))), match[1].lower() == "jellys"


def _parse_address(text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        hint = ", with an IPv6 address in brackets: [::1]:20000" if text.count(":") > 1 else ""
        raise ValueError(f"{text!r} is not a server's address: write host:port{hint}")
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"the port of {text!r} is not possible: write a number from 1 to 65535")
    if match["ipv6"] is None:
        return Address(match["name"].lower(), port)
    try:
        return Address(str(IPv6Address(match["ipv6"])), port)
    except AddressValueError:
        raise ValueError(f"{text!r} has no IPv6 address in its brackets: write [::1]:20000, for example") from None


class AddressList:
    """The addresses of one client, and which one is next. Any thread may use it.

    The order is random, so that the clients of a server that fails spread over the others.
    """

    def __init__(self, addresses: Iterable[Address]) -> None:
        """`addresses`: at least one."""
        unique = list(dict.fromkeys(addresses))
        self.in_order: tuple[Address, ...] = tuple(random.sample(unique, len(unique)))
        """All of them, in the order in which this client tries them."""
        self._lock = threading.Lock()
        self._place = 0

    @property
    def has_others(self) -> bool:
        """Whether there is more than one address."""
        return len(self.in_order) > 1

    @property
    def current(self) -> Address:
        """The address in use, or the one to try next."""
        return self.in_order[self._place]

    def round(self) -> tuple[Address, ...]:
        """Return all addresses, the current one first."""
        place = self._place
        return self.in_order[place:] + self.in_order[:place]

    def keep(self, address: Address) -> None:
        """Go on with an address: it works."""
        with self._lock:
            self._place = self.in_order.index(address)

    def failed(self, address: Address) -> None:
        """Go on with the next address, if this one is still the current one."""
        with self._lock:
            if self.in_order[self._place] == address:
                self._place = (self._place + 1) % len(self.in_order)

    def pauses(self, between_rounds: Iterator[float]) -> Iterator[float]:
        """Yield the seconds to wait before each attempt: nothing within a *round*.

        A round tries each address once. `between_rounds`: the seconds before each round.
        """
        for pause in between_rounds:
            yield pause
            for _ in range(len(self.in_order) - 1):
                yield 0.0
