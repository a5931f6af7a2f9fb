"""What breaks, and what must come out: nothing acknowledged is lost, and everything heals by itself."""

import contextlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from harness import StartServer
from ledger import Ledger, collect
from mariadb import PrivateMariaDB
from process import Server
from wire import OWN_PROFILE, SERVER_ERROR, SUCCESS, UPDATE_PROFILE, Wire, logged_in, register, wait_until

from jelly import store
from jelly.dao import Dao
from jelly.database import Link, SqliteDatabase
from jelly.delivery import Delivery
from jelly.filing import Filing
from jelly.sessions import Session, Sessions
from jelly.store import Job, NewMessage, Store

SENDERS = ["ann", "ben", "cat", "dan"]


@contextlib.contextmanager
def under_load(ledger: Ledger, port: int) -> Iterator[None]:
    """Four senders write to bob, each as fast as it is answered, until the end or until their line breaks."""
    stop = threading.Event()
    wires = [logged_in(port, sender) for sender in SENDERS]

    def send(wire: Wire) -> None:
        number = 0
        while not stop.is_set() and ledger.send(wire, "bob", number):
            number += 1
        wire.close()

    threads = [threading.Thread(target=send, args=(wire,)) for wire in wires]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def count(ledger: Ledger, status: int) -> int:
    return list(ledger.answers.values()).count(status)


def wait_for_more(ledger: Ledger, status: int, more: int = 50) -> None:
    """Wait until so many more messages were answered with a status."""
    enough = count(ledger, status) + more
    wait_until(lambda: count(ledger, status) >= enough, 15)


def test_the_server_killed_under_load(database_url: str) -> None:
    """After kill -9 it serves again within 2 s of its start, with everything that it acknowledged, in order."""
    ledger = Ledger()
    with Server(database_url) as server:
        register(server.port, "bob", *SENDERS)
        with under_load(ledger, server.port):
            wait_for_more(ledger, SUCCESS, 200)
            server.kill()
    with Server(database_url, "--classic-gap=0") as server:
        assert server.start_seconds < 2
        collect(ledger, server.port, "bob")
        assert server.stop() == 0
    verdict = ledger.verdict()
    assert verdict.is_clean, verdict
    assert verdict.acknowledged >= 200


def test_a_token_survives_the_kill(tmp_path: Path) -> None:
    """Who was logged in comes back without the password."""
    url = f"sqlite:///{tmp_path}/j.db"
    with Server(url) as server:
        register(server.port, "alice")
        with logged_in(server.port, "alice") as alice:
            token = alice.token
            server.kill()
    with Server(url) as server, Wire(server.port) as alice:
        assert alice.reconnect("alice", token).status == SUCCESS


def test_the_checker_finds_what_is_lost() -> None:
    """Control: messages that were acknowledged and never arrive, arrive twice or out of order, are counted."""
    ledger = Ledger()
    ledger.answers = {("ann", number): SUCCESS for number in range(5)} | {("ann", 5): None}
    for content in ("ann 0", "ann 2", "ann 1", "ann 1", "ann 7"):
        ledger.delivered(content)
    verdict = ledger.verdict()
    assert (verdict.acknowledged, verdict.unknown) == (5, 1)
    assert (verdict.lost, verdict.twice, verdict.out_of_order, verdict.invented) == (2, 1, 1, 1)
    assert not verdict.is_clean


def test_a_store_that_answers_before_it_commits_is_caught(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with answers before the commit, and commits that fail, the same checker finds losses."""
    server = start_server(classic_gap=0)
    register(server.port, "bob", *SENDERS)
    ledger = Ledger()

    def write_nothing(self: Store, jobs: Sequence[Job], *_: object) -> None:
        for job in jobs:
            store.send_answers(job.session, [store.Answer(store.SUCCESS[0x15])] * len(job.entries), job.asked_at)
            job.entries.clear()
            job.asked_at.clear()

    with under_load(ledger, server.port):
        wait_for_more(ledger, SUCCESS)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_write", write_nothing)
            wait_for_more(ledger, SUCCESS)
    collect(ledger, server.port, "bob")
    assert ledger.verdict().lost > 0


def test_the_database_killed_under_load(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """Requests get SERVER_ERROR meanwhile, are served again afterwards, and nothing acknowledged is lost."""
    server = start_server(database=mariadb.fresh_database("killed"), classic_gap=0)
    register(server.port, "bob", *SENDERS)
    ledger = Ledger()
    with under_load(ledger, server.port):
        wait_for_more(ledger, SUCCESS, 100)
        mariadb.kill()
        wait_for_more(ledger, SERVER_ERROR)
        mariadb.start()
        back = time.monotonic()
        wait_for_more(ledger, SUCCESS, 100)
        assert time.monotonic() - back < 5
    collect(ledger, server.port, "bob")
    verdict = ledger.verdict()
    assert verdict.is_clean, verdict
    assert verdict.acknowledged >= 200


def test_receivers_online_while_the_database_is_killed(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """Who is online meanwhile stays online, and gets everything that was acknowledged once and in order."""
    server = start_server(database=mariadb.fresh_database("online"), classic_gap=0)
    register(server.port, "bob", *SENDERS)
    ledger = Ledger()
    with logged_in(server.port, "bob") as bob:
        with under_load(ledger, server.port):
            wait_for_more(ledger, SUCCESS)
            mariadb.kill()
            wait_for_more(ledger, SERVER_ERROR, 10)
            bob.heartbeat()
            mariadb.start()
            wait_for_more(ledger, SUCCESS)
        bob.message("bob", "the-mark -1")
        while (content := bob.receive_notice().values["content"]) != "the-mark -1":
            ledger.delivered(content)
    assert ledger.verdict().is_clean, ledger.verdict()


def test_a_database_that_hangs(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """Writes and reads of many clients are answered with SERVER_ERROR within 10 seconds, and it heals."""
    server = start_server(database=mariadb.fresh_database("hanging"), classic_gap=0)
    register(server.port, "bob", *SENDERS)
    wires = [logged_in(server.port, name) for name in SENDERS]
    mariadb.pause()
    try:
        started = time.monotonic()
        for wire in wires:
            wire.socket.settimeout(12)
            for _ in range(3):
                wire.send_request(OWN_PROFILE)
            wire.send_message("bob", "x")
            wire.heartbeat()
        for wire in wires:
            assert [wire.receive().status for _ in range(4)] == [SERVER_ERROR] * 4
        assert time.monotonic() - started < 12
    finally:
        mariadb.resume()
    wait_until(lambda: wires[0].call(OWN_PROFILE).status == SUCCESS, 5)
    wait_until(lambda: wires[0].call(UPDATE_PROFILE, name="A").status == SUCCESS, 5)
    for wire in wires:
        wire.close()


def test_connections_that_the_database_drops(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """When the database closes connections that were idle, no user sees it."""
    server = start_server(database=mariadb.fresh_database("idle"), workers=1)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        for _ in range(2):
            alice.ok(OWN_PROFILE)
            alice.message("bob", "x")
            ids = mariadb.sql("SELECT id FROM information_schema.processlist WHERE user = 'jelly'")
            assert ids
            for [id] in ids:
                mariadb.sql(f"KILL {id}")
        alice.ok(OWN_PROFILE)
        alice.message("bob", "x")


def test_connections_that_were_idle_for_too_long(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """When MariaDB's own wait_timeout ends all connections, the next read, message and login are served as ever."""
    url = mariadb.fresh_database("idle")
    count = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'jelly'"
    mariadb.sql("SET GLOBAL wait_timeout = 1")
    try:
        port = start_server(database=url, classic_gap=0).port
        register(port, "alice", "bob")
        with logged_in(port, "alice") as alice:
            wait_until(lambda: mariadb.sql(count) == [["0"]])
            alice.ok(OWN_PROFILE)
            alice.message("bob", "x")
            wait_until(lambda: mariadb.sql(count) == [["0"]])
            with logged_in(port, "bob") as bob:
                assert bob.contents(1) == ["x"]
    finally:
        mariadb.sql("SET GLOBAL wait_timeout = 28800")


class LineThatBreaks(sqlite3.Connection):
    """A connection whose next commit happens, but nobody is told so."""

    breaks = False

    def commit(self) -> None:
        super().commit()
        if LineThatBreaks.breaks:
            LineThatBreaks.breaks = False
            raise sqlite3.OperationalError("the line broke")


@pytest.fixture
def line_breaks(monkeypatch: pytest.MonkeyPatch) -> type[LineThatBreaks]:
    """Set its `breaks`, and the next commit to SQLite is in doubt."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, factory=LineThatBreaks, **options))
    monkeypatch.setattr(LineThatBreaks, "breaks", False)
    return LineThatBreaks


def test_a_commit_in_doubt_is_taken_back(line_breaks: type[LineThatBreaks], start_server: StartServer) -> None:
    """A message that was committed, but answered with an error because nobody knew, never arrives."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice:
        line_breaks.breaks = True
        assert alice.call(0x15, receiver="bob", content="denied", time=1).status == SERVER_ERROR
        with logged_in(port, "bob") as bob:
            alice.message("bob", "kept")
            assert bob.contents(1) == ["kept"]


class Notices:
    """An outlet that notes which messages it was given."""

    confirmed = 0
    is_closed = False
    is_full = False
    has_room = True

    def __init__(self) -> None:
        self.ids: list[int] = []

    def send_responses(self, responses: Sequence[tuple[bytes, float]]) -> None: ...
    def when_room(self, function: object) -> None: ...
    def stop_spacing(self) -> None: ...
    def finish(self, last_words: object = b"") -> None: ...
    def close(self) -> None: ...

    def send_notices(self, notices: Sequence[tuple[int, bytes]]) -> None:
        self.ids += [id for id, _ in notices]


def test_a_commit_in_doubt_is_not_fed(line_breaks: type[LineThatBreaks], tmp_path: Path) -> None:
    """Nor does it arrive at a receiver who is behind, and whose outbox has room just then."""
    opened = SqliteDatabase(f"{tmp_path}/jelly.db")
    link = Link(opened, writes=True)
    link.create_tables()
    sessions, notices = Sessions(), Notices()
    delivery = Delivery(sessions)
    bob = Session(notices, "127.0.0.1")
    bob.user = "bob"
    sessions.attach(bob)
    delivery.begin(bob)
    writer = Store(Dao(link), delivery, Filing(30))
    new = NewMessage(0x15, "alice", "bob", "denied", 0, None, receivers=lambda: ["bob"])
    writer.submit([Job(Session(Notices(), "127.0.0.1"), [new], [0.0], lambda: None)])
    line_breaks.breaks = True
    writer.start()
    writer.stop()
    opened.release()
    assert not line_breaks.breaks
    assert notices.ids == []


def test_a_locked_file(start_server: StartServer, tmp_path: Path) -> None:
    """While another program holds the SQLite file, writes fail within 10 seconds, reads go on, and it heals."""
    server = start_server()
    register(server.port, "alice", "bob")
    other = sqlite3.connect(tmp_path / "jelly.db", isolation_level=None)
    with logged_in(server.port, "alice") as alice:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert alice.call(0x15, receiver="bob", content="x", time=1).status == SERVER_ERROR
        assert time.monotonic() - started < 10
        alice.heartbeat()
        other.execute("ROLLBACK")
        wait_until(lambda: alice.call(0x15, receiver="bob", content="y", time=1).status == SUCCESS, 5)
        alice.ok(OWN_PROFILE)
    other.close()
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(1) == ["y"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one megabyte."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_full_disk(small_disk: Path, start_server: StartServer) -> None:
    """When nothing fits any more it is SERVER_ERROR; with room again it works, and what was acknowledged is there."""
    server = start_server(database=f"sqlite:///{small_disk}/jelly.db", classic_gap=0)
    register(server.port, "alice", "bob")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    acknowledged = []
    with logged_in(server.port, "alice") as alice:
        for number in range(100):
            reply = alice.call(0x15, receiver="bob", content=f"{number} {'x' * 20_000}", time=1)
            if reply.status == SERVER_ERROR:
                break
            acknowledged.append(number)
        assert reply.status == SERVER_ERROR
        alice.heartbeat()
        ballast.unlink()
        wait_until(lambda: alice.call(0x15, receiver="bob", content="1000 x", time=1).status == SUCCESS, 5)
    with logged_in(server.port, "bob") as bob:
        contents = [int(content.split()[0]) for content in bob.contents(len(acknowledged) + 1)]
    assert contents == [*acknowledged, 1000]
