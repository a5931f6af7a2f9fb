"""A private HAProxy in front of servers: with the configuration of docs/hosting.md, or with that of
examples/cluster/.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator

import pytest

from faults.haproxy import HAProxyMissing, PrivateHAProxy, find_program
from faults.process import ROOT, free_port

StartProxy = Callable[..., PrivateHAProxy]
CLUSTER = ROOT / "examples" / "cluster" / "haproxy.cfg"
NODES = 3
"""How many servers the configuration of a cluster has."""


def configuration() -> str:
    """The lines that docs/hosting.md shows."""
    text = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
    match = re.search(r"^    defaults\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
    assert match
    return re.sub(r"^    ", "", match[0], flags=re.MULTILINE)


@pytest.fixture
def proxies() -> Iterator[contextlib.ExitStack]:
    """Ends what is entered into it after the test.

    Without HAProxy on the machine the tests that need it are skipped; where CI is set they fail.
    """
    try:
        find_program()
    except HAProxyMissing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def start_haproxy(proxies: contextlib.ExitStack) -> StartProxy:
    """Starts HAProxy in front of a port. `options`: what else it does for the server."""

    def start(port: int, options: str = "") -> PrivateHAProxy:
        text = configuration()
        for pattern, replacement in (
            (r"bind \S+", 'bind "${JELLY_BIND}"'),
            (r"server (\S+) \S+ (.*)", rf"server \1 127.0.0.1:{port} \2 inter 200ms {options}"),
        ):
            text, count = re.subn(pattern, replacement, text)
            assert count == 1
        return proxies.enter_context(PrivateHAProxy(text))

    return start


@pytest.fixture
def start_cluster_haproxy(proxies: contextlib.ExitStack) -> StartProxy:
    """Starts HAProxy in front of up to three ports, with the configuration of examples/cluster/.

    Nothing listens where the nodes would be that are not given.
    """

    def start(*ports: int) -> PrivateHAProxy:
        addresses = [*ports, *(free_port() for _ in range(NODES - len(ports)))]
        nodes = {f"JELLY_NODE_{number}": f"127.0.0.1:{port}" for number, port in enumerate(addresses, 1)}
        return proxies.enter_context(PrivateHAProxy(CLUSTER.read_text(encoding="utf-8"), nodes))

    return start
