"""The tests of messages, groups and friends once more, through two nodes: each connection
goes to one of them at random.
"""

import os
import subprocess
import sys

import pytest

from faults.process import ROOT

SUITE = ["person_messages", "group_requests", "friends_and_profiles"]


@pytest.mark.usefixtures("mariadb", "redis_server")
def test_through_two_nodes() -> None:
    """They pass unchanged: a client notices nothing of the nodes."""
    files = [f"tests/test_{name}.py" for name in SUITE]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-n", "0"]  # each worker would start a MariaDB server
    command = [sys.executable, "-m", "pytest", *options, *files]
    environment = {**os.environ, "JELLY_TEST_NODES": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
