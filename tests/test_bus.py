"""The bus between nodes: hints through a real Redis, and what happens while it is away."""

import itertools
import logging
import re
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wire import wait_until

from faults.process import ROOT
from faults.redis import PrivateRedis
from jelly.cluster import bus as bus_module
from jelly.cluster.bus import Bus, Hint, NoBus, RedisBus, open_bus
from jelly.cluster.redis_connection import REQUIREMENT, USAGE
from jelly.errors import ConfigError

redis = pytest.importorskip("redis")
LONG = 60.0
"""Seconds after which what the bus does by itself has failed, also on a busy machine."""
_numbers = itertools.count(1)


class Node:
    """A bus, and what it said."""

    def __init__(self, url: str, cluster_id: str) -> None:
        self.hints: list[Hint] = []
        self.changes: list[bool] = []
        self.notes: list[bytes] = []
        self.bus = open_bus(url, cluster_id, self.hints.append, self.changes.append, self.notes.append)

    def wait_until_up(self) -> None:
        wait_until(lambda: self.bus.is_up, LONG)

    def wait_until_down(self) -> None:
        wait_until(lambda: not self.bus.is_up, LONG)

    def wait_for(self, *hints: Hint) -> None:
        """Wait until exactly these have come, in this order. (Of one node they come in order.)"""
        wait_until(lambda: len(self.hints) >= len(hints), LONG)
        assert self.hints == [*hints]


Join = Callable[..., Node]


@pytest.fixture
def cluster_id() -> str:
    """The tests share one server, so each has channels of its own."""
    return f"test{next(_numbers)}"


@pytest.fixture
def join(redis_server: PrivateRedis, cluster_id: str) -> Iterator[Join]:
    """Start a bus as this node, and wait until it is up. 0: do not start it."""
    nodes: list[Node] = []

    def start(number: int, url: str = redis_server.url, cluster_id: str = cluster_id) -> Node:
        node = Node(url, cluster_id)
        nodes.append(node)
        if number:
            node.bus.start(number)
            node.wait_until_up()
        return node

    yield start
    for node in nodes:
        node.bus.stop()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the log says of the bus since the last call."""
    caplog.set_level(logging.INFO)

    def take() -> list[str]:
        found = [r.getMessage() for r in caplog.records if r.name.startswith("jelly")]
        caplog.clear()
        return found

    return take


@pytest.fixture
def say(redis_server: PrivateRedis, cluster_id: str) -> Iterator[Callable[[str, bytes], None]]:
    """Publish any bytes on a channel of the cluster."""
    with redis.Redis(port=redis_server.port) as client:
        yield lambda channel, data: client.publish(f"jelly:{cluster_id}:{channel}", data)


# --- Hints ----------------------------------------------------------------------------------------


def test_hints_arrive(join: Join) -> None:
    """A node gets what is for it and what is for all, and nothing of its own."""
    one, two, three = join(1), join(2), join(3)
    one.bus.publish({1: 4, 2: 5, 3: 7}, 9)
    two.wait_for(Hint(5, 0), Hint(0, 9))
    three.wait_for(Hint(7, 0), Hint(0, 9))
    two.bus.publish({1: 8}, 0)
    one.wait_for(Hint(8, 0))
    assert one.changes == two.changes == three.changes == [True]


def test_greetings(join: Join) -> None:
    """The others hear of the sender, once for each look, and take it for no hint. So they do with a
    hint.
    """
    one, two, three = join(1), join(2), join(3)
    one.bus.greet()
    for other in (two, three):
        wait_until(lambda other=other: set(other.bus.take_heard()) == {one.bus.sender}, LONG)
    two.bus.publish({1: 5}, 0)
    one.wait_for(Hint(5, 0))
    assert set(one.bus.take_heard()) == {two.bus.sender}
    assert [*one.bus.take_heard(), *two.bus.take_heard(), *three.bus.take_heard()] == []
    assert two.hints == three.hints == []


def test_clusters_do_not_hear_each_other(join: Join) -> None:
    """Several clusters may share one Redis."""
    one, two, stranger = join(1), join(2), join(3, cluster_id="another")
    stranger.bus.publish({1: 99, 2: 99}, 99)
    fourth = join(4, cluster_id="another")
    stranger.bus.publish({4: 1}, 0)
    # So the others have gone out, or go with it: they gather while the bus is not ready.
    wait_until(lambda: any(hint.upto == 1 for hint in fourth.hints), LONG)
    one.bus.publish({2: 1}, 0)
    two.wait_for(Hint(1, 0))
    two.bus.publish({1: 2}, 0)
    one.wait_for(Hint(2, 0))
    assert stranger.hints == []


def test_what_gathers_goes_out_once(join: Join) -> None:
    """The largest id for each node, and the largest event."""
    one, two, three = join(0), join(2), join(3)
    for number in (3, 5, 4):
        one.bus.publish({2: number, 3: 10 * number}, number)
        one.bus.publish({2: number}, 0)
    one.bus.start(1)
    two.wait_for(Hint(5, 0), Hint(0, 5))
    three.wait_for(Hint(50, 0), Hint(0, 5))


def test_hints_are_handed_over_as_they_come(join: Join, say: Callable[[str, bytes], None]) -> None:
    """Those that come twice or in another order, too: the node keeps the largest."""
    one = join(1)
    for upto, event in ((7, 0), (7, 0), (5, 0), (0, 3), (0, 2), (2**53 - 1, 0)):
        say("1" if upto else "all", b"1 0123abcd %d %d" % (upto, event))
    one.wait_for(Hint(7, 0), Hint(7, 0), Hint(5, 0), Hint(0, 3), Hint(0, 2), Hint(2**53 - 1, 0))


GARBAGE = (
    b"", b" ", b"\xff" * 1000, b"1", b"1 2 3", b"2 0123abcd 5 0", b"1 0123abcd -5 0", b"1 0123abcd 5 0 ", b"\r\n",
    b"1 0123abcd 5 0\n", b"1 0123abcd " + b"9" * 17 + b" 0", b"1 0123abcd \xd9\xa3 0", b"x" * 100_000,
)  # fmt: skip


def test_what_is_no_hint_is_ignored(
    join: Join, say: Callable[[str, bytes], None], lines: Callable[[], list[str]]
) -> None:
    """Any bytes may come, and hints of another version: a warning a minute, and no more."""
    one = join(1)
    lines()
    for garbage in GARBAGE:
        say("1", garbage)
        say("all", garbage)
    say("1", b"1 0123abcd 5 0")
    one.wait_for(Hint(5, 0))
    assert lines() == ["what came through the bus is no hint, and is ignored: b''"]
    assert one.changes == [True]


# --- Redis goes and comes back --------------------------------------------------------------------


def test_redis_is_killed(redis_server: PrivateRedis, join: Join, lines: Callable[[], list[str]]) -> None:
    """The node hears of it, and of its return; however many attempts fail, the log has one line."""
    one, two = join(1), join(0)
    redis_server.kill()
    one.wait_until_down()
    attempts = _count_attempts(one)
    wait_until(lambda: len(attempts) > 3, LONG)
    redis_server.start()
    one.wait_until_up()
    two.bus.start(2)
    two.wait_until_up()
    two.bus.publish({1: 5}, 0)
    one.wait_for(Hint(5, 0))
    assert one.changes == [True, False, True]
    works, failed, again, other = lines()
    assert works == other == f"the bus {redis_server.url} works"
    reason = "Connection closed by server|.*Connection reset by peer.*"
    assert re.fullmatch(
        f"the bus {redis_server.url} failed: ({reason}); this node polls the database meanwhile", failed
    )
    assert again == f"{works} again"


def test_redis_hangs(redis_server: PrivateRedis, join: Join, lines: Callable[[], list[str]]) -> None:
    """A Redis that is stopped, or cut off without a word, counts as gone after three seconds. To
    publish does not wait for it, and fills no memory.
    """
    one, two = join(1), join(2)
    lines()
    paused_at = time.monotonic()
    redis_server.pause()
    for number in range(10_000):
        two.bus.publish({1: number, 3: number, 4: number}, number)
    assert time.monotonic() < paused_at + LONG  # to wait for one reply takes a second
    assert isinstance(two.bus, RedisBus)
    assert len(two.bus._waiting.upto) <= 3
    one.wait_until_down()
    two.wait_until_down()
    attempts = _count_attempts(one)
    wait_until(lambda: len(attempts) > 1, LONG)
    redis_server.resume()
    one.wait_until_up()
    two.wait_until_up()
    one.hints.clear()  # those that Redis had received go out now
    two.bus.publish({1: 77_777}, 0)
    wait_until(lambda: Hint(77_777, 0) in one.hints, LONG)
    assert one.changes == [True, False, True]
    said = lines()
    gone = f"the bus {redis_server.url} failed: it is silent for 3 seconds; this node polls the database meanwhile"
    assert sorted(said) == sorted([gone, f"the bus {redis_server.url} works again"] * 2)


def test_redis_is_away_at_the_start(cluster_id: str, lines: Callable[[], list[str]]) -> None:
    """The node starts without it, says so once, and has the bus as soon as Redis is there."""
    with PrivateRedis() as server:
        server.stop()
        node = Node(server.url, cluster_id)
        node.bus.start(1)
        attempts = _count_attempts(node)
        wait_until(lambda: len(attempts) > 3, LONG)
        assert node.changes == []
        server.start()
        node.wait_until_up()
        wait_until(lambda: node.changes == [True])
        node.bus.stop()
        failed, works = lines()
        assert re.fullmatch(f"the bus {server.url} failed: .*Connection refused; this node polls .*", failed)
        assert works == f"the bus {server.url} works again"


def test_a_bus_that_comes_and_goes(join: Join, redis_server: PrivateRedis, lines: Callable[[], list[str]]) -> None:
    """It fills no log: the next failure has its line ten seconds after the last one."""
    one = join(1)
    with redis.Redis(port=redis_server.port) as client:
        for number in range(5):
            client.client_kill_filter(_type="pubsub")
            wait_until(lambda number=number: len(one.changes) == 2 * number + 3, LONG)
    assert one.changes == [True, *[False, True] * 5]
    said = lines()
    assert len([line for line in said if "failed" in line]) == len([line for line in said if "again" in line]) <= 2


def test_the_connection_for_hints_breaks_unnoticed(redis_server: PrivateRedis, join: Join) -> None:
    """Redis closes a connection: what was sent on it without an answer is sent again, with the
    greeting that follows each renewal of the lease.
    """
    one, two = join(1), join(2)
    one.bus.publish({2: 1}, 0)
    two.wait_for(Hint(1, 0))
    with redis.Redis(port=redis_server.port) as client:
        assert client.client_kill_filter(_type="normal", skipme=True) >= 1
    one.bus.publish({2: 2}, 0)
    one.bus.greet()
    two.wait_for(Hint(1, 0), Hint(2, 0))
    assert two.changes == [True]


def _count_attempts(node: Node) -> list[float]:
    """From now on, a list that grows with each failed attempt to listen."""
    attempts: list[float] = []
    bus = node.bus
    assert isinstance(bus, RedisBus)
    failed = bus._log.failed

    def counted(error: Exception) -> None:
        failed(error)
        attempts.append(time.monotonic())

    bus._log.failed = counted  # type: ignore[method-assign]
    return attempts


# --- The node -------------------------------------------------------------------------------------


def test_a_node_starts_over_with_another_number(join: Join) -> None:
    """It hears what is for the new number, and no longer what is for the old one."""
    one, two = join(1), join(2)
    one.bus.start(1)
    assert one.bus.is_up  # the same number: nothing changes
    one.bus.start(4)
    assert not one.bus.is_up
    one.wait_until_up()
    wait_until(lambda: one.changes == [True, False, True])
    two.bus.publish({1: 5}, 0)
    two.bus.publish({4: 6}, 0)
    one.wait_for(Hint(6, 0))
    one.bus.publish({2: 7, 4: 8}, 0)
    two.wait_for(Hint(7, 0))
    assert one.hints == [Hint(6, 0)]


def test_stop(join: Join) -> None:
    """No thread is left, what was published before goes out, and nothing happens after."""
    before = threading.active_count()
    one, two = join(1), join(2)
    assert threading.active_count() == before + 4
    one.bus.publish({2: 5}, 0)
    one.bus.stop()
    two.wait_for(Hint(5, 0))
    assert threading.active_count() == before + 2
    assert not one.bus.is_up
    assert one.changes == [True]
    one.bus.stop()
    one.bus.start(3)
    one.bus.publish({2: 6}, 6)
    assert threading.active_count() == before + 2
    never_started = join(0)
    never_started.bus.stop()


def test_stop_while_redis_hangs(redis_server: PrivateRedis, join: Join) -> None:
    """The threads end all the same (`no_thread_left_behind` looks for them)."""
    one = join(1)
    redis_server.pause()
    one.bus.publish({2: 5}, 0)
    one.bus.stop()
    wait_until(lambda: not one.bus._publisher.is_alive() and not one.bus._listener.is_alive(), LONG)  # type: ignore[attr-defined]


def test_a_bug_in_a_callback(redis_server: PrivateRedis, cluster_id: str, lines: Callable[[], list[str]]) -> None:
    """It is logged, and the bus goes on. After four of them the thread ends, and the node polls."""
    changes: list[bool] = []

    def fail(hint: Hint) -> None:
        raise ZeroDivisionError(f"hint {hint.upto}")

    bus = open_bus(redis_server.url, cluster_id, fail, changes.append)
    bus.start(1)
    with redis.Redis(port=redis_server.port) as client:
        for number in range(1, 5):
            wait_until(lambda: bus.is_up, LONG)
            client.publish(f"jelly:{cluster_id}:1", b"1 0123abcd %d 0" % number)
            wait_until(lambda number=number: changes.count(False) >= number, LONG)
    wait_until(lambda: not bus._listener.is_alive(), LONG)  # type: ignore[attr-defined]
    assert not bus.is_up
    text = "\n".join(lines())
    assert [number for number in range(9) if f"ZeroDivisionError: hint {number} (" in text] == [1, 2, 3, 4]
    assert "the thread jelly-bus-listener has ended" in text
    bus.publish({2: 5}, 0)
    bus.stop()


# --- How Redis is named ---------------------------------------------------------------------------


def test_user_password_and_database(cluster_id: str, lines: Callable[[], list[str]]) -> None:
    """They stand in the URL; the log never shows the password. A wrong one is a bus that fails."""
    allowed = ["--user", "ann", "on", ">s/cret", "&jelly:*", "+@all"]
    with PrivateRedis("--requirepass", "o@ther", *allowed) as server:
        host = f"127.0.0.1:{server.port}"
        for login in ("ann:s%2Fcret", ":o%40ther"):
            node = Node(f"redis://{login}@{host}/3", cluster_id)
            node.bus.start(1)
            node.wait_until_up()
            node.bus.stop()
        shown = [f"the bus redis://ann@{host}/3 works", f"the bus redis://{host}/3 works"]
        assert lines() == shown
        node = Node(f"redis://ann:s3cret@{host}", cluster_id)
        node.bus.start(1)
        attempts = _count_attempts(node)
        wait_until(lambda: len(attempts) > 2, LONG)
        node.bus.stop()
        assert node.changes == []
        (line,) = lines()
        assert "invalid username-password pair" in line
        assert "s3cret" not in line


def test_a_user_who_may_not_publish(
    cluster_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus of this node is up, so its log says that others do not hear of it."""
    monkeypatch.setattr(bus_module, "ONE_WAY_SECONDS", 0.0)
    with PrivateRedis("--user", "ann", "on", ">secret", "&jelly:*", "+@all", "-publish") as server:
        node = Node(f"redis://ann:secret@127.0.0.1:{server.port}", cluster_id)
        node.bus.start(1)
        node.wait_until_up()
        node.bus.publish({2: 1}, 0)
        wait_until(lambda: any("cannot publish" in line and "permissions" in line for line in caplog.messages), LONG)
        node.bus.stop()


def test_a_unix_socket(redis_server: PrivateRedis, join: Join) -> None:
    one, two = join(1, f"unix://{redis_server.socket}?db=2"), join(2)
    one.bus.publish({2: 5}, 0)
    two.wait_for(Hint(5, 0))


def test_tls(cluster_id: str, certificate: tuple[Path, Path], lines: Callable[[], list[str]]) -> None:
    """rediss:// checks the certificate, and the name in it."""
    file, key = map(str, certificate)
    with PrivateRedis("--tls-cert-file", file, "--tls-key-file", key, "--tls-auth-clients", "no", tls=True) as server:
        good = f"rediss://localhost:{server.port}?ssl_ca_certs={file}"
        one, two = Node(good, cluster_id), Node(good, cluster_id)
        one.bus.start(1)
        two.bus.start(2)
        one.wait_until_up()
        two.wait_until_up()
        one.bus.publish({2: 5}, 0)
        two.wait_for(Hint(5, 0))
        one.bus.stop()
        two.bus.stop()
        lines()
        for url in (good.replace("localhost", "127.0.0.1"), good.partition("?")[0]):
            node = Node(url, cluster_id)
            node.bus.start(1)
            attempts = _count_attempts(node)
            wait_until(lambda attempts=attempts: attempts, LONG)
            node.bus.stop()
            (line,) = lines()
            assert "certificate" in line.lower()


@pytest.mark.parametrize(
    "url",
    [
        "", "None", "localhost", "localhost:6379", "http://localhost", "redis:localhost", "redis://", "redis:///0",
        "redis://localhost:port", "redis://localhost:99999", "redis://localhost:0", "redis://localhost/jelly", "redis://:se/cret@localhost",
        "redis://[::1", "redis://localhost#secret", "unix://", "unix://socket", "unix:///", "nats://localhost",
        "redis://localhost?no_such_option=1", "redis://:secret@localhost?socket_timeout=long",
    ],
)  # fmt: skip
def test_a_wrong_url(url: str) -> None:
    """One sentence says how it is written, and shows no password."""
    with pytest.raises(ConfigError, match=re.escape(USAGE)) as raised:
        open_bus(url, "x", print, print)
    assert "cret" not in str(raised.value)


def test_redis_py_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install; the extra installs the same."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=re.escape(f"pip install '{REQUIREMENT}'")):
        open_bus("redis://localhost", "x", print, print)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["optional-dependencies"]["cluster"] == [REQUIREMENT]
    assert REQUIREMENT in project["project"]["optional-dependencies"]["test"]


def test_no_bus() -> None:
    """A cluster without Redis polls: this bus is never up, and needs no package."""
    bus: Bus = open_bus("none", "x", print, print)
    assert isinstance(bus, NoBus)
    bus.start(1)
    bus.publish({1: 2}, 3)
    bus.greet()
    assert not bus.is_up
    assert (bus.name, [*bus.take_heard()]) == ("none", [])
    bus.stop()


# --- notes ----------------------------------------------------------------------------------------


def test_notes_arrive(join: Join) -> None:
    """At the node that they are for, in order, whatever is in them; hints come as before."""
    one, two, three = join(1), join(2), join(3)
    notes = [b"hello", b"", bytes(range(256)), "\u738b".encode()]
    for note in notes:
        one.bus.send_note(2, note)
    one.bus.publish({2: 5, 3: 5}, 0)
    two.wait_for(Hint(5, 0))
    three.wait_for(Hint(5, 0))
    wait_until(lambda: two.notes == notes, LONG)
    assert three.notes == one.notes == []


def test_older_nodes_notice_nothing_of_notes(
    join: Join, redis_server: PrivateRedis, cluster_id: str, lines: Callable[[], list[str]]
) -> None:
    """They listen on the channels of hints, where what is no hint would be in their log."""
    one, two = join(1), join(2)
    with redis.Redis(port=redis_server.port) as client, client.pubsub() as older:
        older.subscribe(f"jelly:{cluster_id}:2", f"jelly:{cluster_id}:all")
        wait_until(lambda: dict(client.pubsub_numsub(f"jelly:{cluster_id}:2")) == {f"jelly:{cluster_id}:2".encode(): 2})
        lines()
        one.bus.send_note(2, b"typing")
        wait_until(lambda: two.notes == [b"typing"], LONG)
        one.bus.publish({2: 7}, 9)
        heard: list[bytes] = []
        while len(heard) < 2:
            message = older.get_message(timeout=LONG)
            assert message is not None
            if message["type"] == "message":
                heard.append(message["data"])
        assert [data.split()[2:] for data in heard] == [[b"7", b"0"], [b"0", b"9"]]
    two.wait_for(Hint(7, 0), Hint(0, 9))
    assert lines() == []


def test_notes_are_lost_while_redis_is_away(join: Join, redis_server: PrivateRedis) -> None:
    """They would be old news when it is back; and no more of them wait than a few."""
    one, two = join(1), join(2)
    assert isinstance(one.bus, RedisBus)
    redis_server.kill()
    one.wait_until_down()
    one.bus.send_note(2, b"old news")
    assert one.bus._notes == []
    redis_server.start()
    for node in (one, two):
        node.wait_until_up()
    with one.bus._publishing_lock:  # so they cannot be sent
        for _ in range(bus_module.MAX_NOTES + 10):
            one.bus.send_note(2, b"news")
        assert len(one.bus._notes) <= bus_module.MAX_NOTES
    wait_until(lambda: b"news" in two.notes, LONG)
    assert b"old news" not in two.notes


def test_no_bus_sends_no_notes() -> None:
    """Without a bus nobody hears of what is not stored."""
    NoBus().send_note(2, b"typing")
