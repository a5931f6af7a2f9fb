"""What all tests share: no test may leave a thread behind, and those that need a MariaDB or Redis
server get one.
"""

import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from faults.mariadb import MariaDBMissing, PrivateMariaDB
from faults.mysql import private_server
from faults.redis import PrivateRedis, RedisMissing

# Without a deadline for one example, which a busy machine would miss. Where CI is set the examples
# are always the same: what a run finds there is about what has changed, and others look further.
hypothesis.settings.register_profile("anywhere", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "anywhere")

# Under nohup, the servers that tests start would ignore SIGHUP, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

LAST_THREAD = 5.0
"""Seconds that the threads of a test may take to end after it."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from looking at the thousands of tests, which all stay: neither
    while they are collected, nor whenever it looks at everything later.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a MariaDB server, for `pytest -m mariadb`."""
    for item in items:
        if "mariadb" in getattr(item, "fixturenames", ()) or "mariadb" in item.name:
            item.add_marker("mariadb")


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + LAST_THREAD
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [f"{thread.name}{' (daemon)' if thread.daemon else ''}" for thread in started if thread.is_alive()]
    if left:
        pytest.fail(f"threads left behind: {', '.join(left)}", pytrace=False)


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New directories for what a program keeps for its user, one for each test."""
    base = tmp_path_factory.mktemp("homes")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the user who runs the tests, or of another test, reaches a chat. It is made when
    something is kept there.
    """
    home = next(homes)
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    return home


@pytest.fixture(scope="session")
def mariadb() -> Iterator[PrivateMariaDB]:
    """A MariaDB server, started for the first test that asks for it. Begin with `ready_database()`
    of harness.py, or with its own `fresh_database()`.

    It is MySQL if JELLY_MYSQLD names the program of one, as `make test-mysql` does. Without MariaDB
    on the machine the tests that need it are skipped; where CI is set they fail, so that nobody
    takes them for done.
    """
    try:
        server = private_server()
    except MariaDBMissing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[PrivateRedis]:
    """The Redis server of `redis_server`."""
    try:
        server = PrivateRedis()
    except RedisMissing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def redis_server(shared_redis: PrivateRedis) -> PrivateRedis:
    """A Redis server that answers, also if a test has left it killed or paused.

    Its tests share one, so each of them needs a channel of its own. Without Redis on the machine
    they are skipped; where CI is set they fail.
    """
    shared_redis.start()
    return shared_redis


pytest_plugins = ["harness", "client_tools", "haproxy"]
