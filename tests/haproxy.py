"""A private HAProxy in front of a server, with the configuration that docs/hosting.md shows."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from wire import wait_until

from faults.process import ROOT, end, free_port

PROGRAM = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


class HAProxy(NamedTuple):
    """A running HAProxy."""

    port: int
    log: Path

    def wait_until_says(self, words: str) -> None:
        wait_until(lambda: words in self.log.read_text())


StartProxy = Callable[..., HAProxy]


def configuration() -> str:
    """The lines that docs/hosting.md shows."""
    text = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
    match = re.search(r"^    defaults\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
    assert match
    return re.sub(r"^    ", "", match[0], flags=re.MULTILINE)


@pytest.fixture
def start_haproxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Starts HAProxy in front of a port. `options`: what else it does for the server.

    Without HAProxy on the machine the tests that need it are skipped; where CI is set they fail.
    """
    if PROGRAM is None:
        sentence = "HAProxy is not installed: run apt-get install haproxy"
        if os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)
    with contextlib.ExitStack() as stack:

        def start(port: int, options: str = "") -> HAProxy:
            own_port = free_port()
            text = configuration()
            for pattern, replacement in (
                (r"bind \S+", f"bind 127.0.0.1:{own_port}"),
                (r"server (\S+) \S+ (.*)", rf"server \1 127.0.0.1:{port} \2 inter 200ms {options}"),
            ):
                text, count = re.subn(pattern, replacement, text)
                assert count == 1
            file = tmp_path / f"haproxy-{own_port}.cfg"
            file.write_text(text)
            log = tmp_path / f"haproxy-{own_port}.log"
            output = stack.enter_context(log.open("wb"))
            process = subprocess.Popen([str(PROGRAM), "-db", "-f", str(file)], stdout=output, stderr=output)
            stack.callback(end, process)
            wait_until(lambda: _listens(own_port))
            return HAProxy(own_port, log)

        yield start


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
