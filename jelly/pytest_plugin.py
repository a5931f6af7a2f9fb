"""The fixture of pytest, which finds this module by an entry point of the installed package.

Every run of pytest imports this module, where Jelly is installed. So it imports the server only for
a test that asks for one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jelly.testing import LocalServer


@pytest.fixture
def jelly_server() -> "Iterator[LocalServer]":
    """The URL of a real server for this test alone: `add_user(name)` makes an account there, and
    `client(name, receiver=...)` logs in.
    """
    from jelly.testing import local_server

    with local_server() as server:
        yield server
