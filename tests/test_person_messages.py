"""Messages from one person to another: on the line, while away, in order, and once."""

from collections.abc import Callable

import pytest
from harness import StartServer
from wire import logged_in, register, wait_until


@pytest.fixture
def users(port: int) -> int:
    register(port, "alice", "bob")
    return port


def test_online(users: int) -> None:
    """A message to somebody online arrives as a notice with the same four values, and the sender gets an empty SUCCESS."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.message("bob", "hello <&'=>  😀", time=1795466514788)
        notice = bob.receive_notice()
        expected = {"sender": "alice", "receiver": "bob", "content": "hello <&'=>  😀", "time": 1795466514788}
        assert list(notice.values.items()) == list(expected.items())
        assert (notice.type, notice.status) == (0x15, 0)
