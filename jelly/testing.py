"""A real server for the tests of your own bot or client: private, quick to start, gone afterwards.

    from jelly.testing import local_server

    with local_server("alice", "bob") as url:
        alice = url.client("alice")
        alice.send_message("bob", "hello").result(timeout=10)

`url` is a text, such as `jelly://127.0.0.1:40123`, that a program may take as an argument. pytest
has it as the fixture `jelly_server`, wherever Jelly is installed. Neither the server nor the
library imports this module.
"""

import contextlib
import logging
import ssl
from collections.abc import Iterator
from typing import Any, Self

from client_api import JellyClient
from jelly.config import Settings
from jelly.server import JellyServer
from jelly.system import check_system

PASSWORD = "secret1"
"""The password of users for whom you name none."""
PATIENCE = 30.0
"""Seconds until a call gives up. A server on a busy machine takes some, a quiet one none."""

QUICK: dict[str, Any] = {
    "port": 0,
    "database": "memory:",
    "password_cost": 1,
    "workers": 2,
    "message_rate": 0,
    "change_rate": 0,
    "registration_rate": 0,
}
"""How the server differs from one with the settings that Jelly has by default: it listens on a free
port of 127.0.0.1, keeps everything in memory, and neither hashes passwords slowly nor limits how
often something may be done.
"""


class LocalServer(str):
    """The URL of a server that runs in this process, and what a test does with that server."""

    def __new__(cls, url: str, tls: ssl.SSLContext | bool = False) -> Self:
        """`local_server` makes them. `tls`: what its clients trust."""
        server = super().__new__(cls, url)
        server._tls, server._clients = tls, []
        return server

    _tls: ssl.SSLContext | bool
    _clients: list[JellyClient]

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.rpartition(":")[2])

    def add_user(self, name: str, password: str = PASSWORD) -> None:
        """Make an account. Raises RequestRejected if the name is taken, for example."""
        with JellyClient.from_url(self, tls=self._tls) as client:
            client.register(name, password).result(timeout=PATIENCE)

    def client(self, name: str, password: str = PASSWORD, **options: Any) -> JellyClient:
        """Return a client that is logged in. The options are those of `JellyClient`, such as
        `receiver`.

        It is closed before the server stops, if you have not done that.
        """
        client = JellyClient.from_url(self, **{"tls": self._tls, **options})
        self._clients.append(client)
        client.login(name, password).result(timeout=PATIENCE)
        return client


@contextlib.contextmanager
def local_server(*users: str, **settings: Any) -> Iterator[LocalServer]:
    """Run a server in this process. The result is its URL, with the methods of `LocalServer`.

    `users` get accounts with `PASSWORD`. The settings are those of the server, with `_` for `-`:
    `local_server("alice", registration="closed")`. At the end the clients that it made are closed,
    the server has stopped, none of its threads is left, and nothing of what it kept. Raises
    StartError if the server cannot run, TypeError if there is no such setting.

    >>> with local_server("alice") as url:
    ...     url.client("alice").username
    'alice'
    """
    check_system()
    with _unsaid("keeps nothing"):
        server = JellyServer(Settings(**{**QUICK, **settings}))
    try:
        server.start()
        certificate = server.settings.tls_cert
        scheme, tls = ("jellys", _trust(certificate)) if certificate else ("jelly", False)
        url = LocalServer(f"{scheme}://127.0.0.1:{server.port}", tls)
        try:
            for user in users:
                url.add_user(user)
            yield url
        finally:
            for client in url._clients:
                client.close()
    finally:
        server.stop()


def _trust(certificate: str) -> ssl.SSLContext:
    """Trust this certificate alone, whatever name it has: it is the test's own."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context


@contextlib.contextmanager
def _unsaid(words: str) -> Iterator[None]:
    """Leave a warning out of the log that an operator needs, and nobody who runs tests."""
    log = logging.getLogger("jelly.database")

    def is_wanted(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    log.addFilter(is_wanted)
    try:
        yield
    finally:
        log.removeFilter(is_wanted)
