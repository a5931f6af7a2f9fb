"""A patched server: `python -m faults.server --variant NAME -- ARGUMENTS OF jelly.py`.

It patches the real server in its own process and then runs the usual command line, so the server
itself needs no hooks for tests. There are three kinds of patches:

- A *variant* is a defect, for the controls: the harness must find it.
- `--kill-at POINT --passes N` kills the process (SIGKILL) when it reaches a point for the Nth time.
- A *seam* is not a defect. `clock` lets SIGUSR1 and SIGUSR2 move the clock. `count-hashes` records
  each password hash. With `impatient`, the server waits a quarter of its time for its database.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from faults import variants_nodes
from jelly import admission, cli, delivery, lists, passwords, store, tcp, watchdog
from jelly.admission import Connections
from jelly.answer_memory import AnswerMemory
from jelly.connection import Connection
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engine import Engine
from jelly.errors import StoreError
from jelly.outcomes import NewMessage
from jelly.queue_dispatch import Dispatcher, RequestQueue
from jelly.send_queue import SendQueue
from jelly.server import JellyServer
from jelly.sessions import Notice, Response, Session
from jelly.sqlite_engine import SqliteEngine
from jelly.store import Batch, Store
from jelly.watchdog import Watchdog

# The patches are as short as they can be, and what they replace has types of its own.
# mypy: disable-error-code="method-assign,assignment,return-value"

HOUR = 3600.0
LATE_COMMIT = 0.05
"""Seconds until the variant `answers-early` commits the messages that it has answered."""
HASH_LOG = "FAULTS_HASH_LOG"
"""The environment variable with the path of the file to which `count-hashes` appends bytes."""


# --- defects --------------------------------------------------------------------------------------


def answers_early() -> None:
    """The store answers messages up to 50 ms before it commits them."""
    open_since: dict[DatabaseConnection, float] = {}

    @contextlib.contextmanager
    def transaction(self: DatabaseConnection) -> Iterator[None]:
        if self not in open_since:
            self._with_retry(self._engine.begin)
            open_since[self] = time.monotonic()
        self._in_transaction = True
        try:
            yield
            if time.monotonic() - open_since[self] > LATE_COMMIT or not _has_messages.pop(self, False):
                self._raw.commit()
                del open_since[self]
        except BaseException:
            open_since.pop(self, None)
            self._rollback()
            raise
        finally:
            self._in_transaction = False

    DatabaseConnection.transaction = transaction
    _note_messages()


def ignores_failures() -> None:
    """The store treats a failed transaction as committed."""
    write = Store._write

    def write_blindly(self: Store, batch: Batch) -> None:
        try:
            write(self, batch)
        except StoreError:
            for job in batch.jobs:
                left = job.entries[len(job.results) :]
                job.results += [1 if isinstance(entry, NewMessage) else None for entry in left]  # 1: some id

    Store._write = write_blindly


def doubt_is_success() -> None:
    """The store takes a commit that is in doubt for one that has happened."""
    move_mark = Dao.move_mark

    def move_any_mark(self: Dao, count: int) -> None:
        self.mark = 0
        move_mark(self, count)

    def answer(self: Store, batch: Batch, _: StoreError) -> None:
        self._answer(batch)
        for job in batch.jobs:
            job.done()

    Dao.move_mark, Store._begin_doubt = move_any_mark, answer


def doubt_is_failure() -> None:
    """The store takes a commit that is in doubt for one that has not happened."""

    def fail(self: Store, batch: Batch, error: StoreError) -> None:
        self._fail(batch, error)
        for job in batch.jobs:
            job.done()

    Store._begin_doubt = fail


def ids_from_the_database() -> None:
    """Ids go on where the database says, whatever the server has given before."""
    init, move_mark = Dao.__init__, Dao.move_mark

    def count(self: Dao, connection: DatabaseConnection, *_: Any) -> None:
        init(self, connection)

    def move_any_mark(self: Dao, count: int) -> None:
        self.mark, self.new_mark = 0, 1
        move_mark(self, count)

    Dao.__init__, Dao.move_mark = count, move_any_mark


def waits_for_ever() -> None:
    """The server waits for the database without a time limit."""
    Engine.query_timeout = HOUR


def tries_once() -> None:
    """The server does not retry a query after the database has dropped the connection."""

    def try_once(self: DatabaseConnection, action: Callable[..., Any], *arguments: Any) -> Any:
        self.open()
        try:
            return action(self._raw, *arguments)
        except self._engine.errors as error:
            raise self._failed(error) from error

    DatabaseConnection._with_retry = try_once


def synchronous_normal() -> None:
    """SQLite does not sync each commit."""
    connect = SqliteEngine.connect

    def connect_normal(self: SqliteEngine) -> Any:
        connection = connect(self)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    SqliteEngine.connect = connect_normal


def drops_queue() -> None:
    """A stop does not wait for accepted requests."""
    Dispatcher.wait_until_idle = lambda *_: True


def ignores_signals() -> None:
    """A second signal does not end a stop that hangs."""
    real = signal.signal

    def deaf(number: int, handler: Any) -> Any:
        return real(number, signal.SIG_IGN if handler is signal.SIG_DFL else handler)

    signal.signal = deaf


def unbounded_queue() -> None:
    """The request queue has no limit."""
    init = RequestQueue.__init__
    RequestQueue.__init__ = lambda self, _maxsize: init(self, 1 << 30)


def unbounded_send_queue() -> None:
    """The server queues more and more data for a receiver that does not read."""
    Session.has_room = property(lambda _: True)


def blocking_send() -> None:
    """A write to a receiver blocks until the socket has taken all the data."""
    tcp.DO_NOT_WAIT = 0  # send_queue.py asks for it at each send


def unbounded_buffers() -> None:
    """The kernel's buffers for a connection grow as they are needed."""
    tcp.limit_buffers = lambda _: None


def whole_lists() -> None:
    """A list is read and answered in one piece, and any number of them may wait."""
    lists.PIECE_ROWS = lists.SHORT_PIECE_ROWS = lists.MAX_LIST = lists.GROUPS_AT_ONCE = 1 << 30
    AnswerMemory.is_short = property(lambda _: False)
    AnswerMemory.reserve = lambda *_: True


def strangers_stay() -> None:
    """A connection that never logs in keeps its place as long as it sends heartbeats."""
    admission.GUEST_SHARE = 1.0
    Connections._choose_victim = lambda *_: None
    watchdog.TYPING_TIMEOUT = HOUR


def no_watchdog() -> None:
    """Neither the server nor TCP notices a dead connection."""
    Watchdog.check = lambda *_: None
    tcp.set_socket_options = lambda _: None


def delivered_when_written() -> None:
    """A message counts as delivered when it is written, not when the receiver acknowledges it."""
    stores: list[Store] = []
    init, send = Store.__init__, delivery.send_or_close

    def note(self: Store, *arguments: Any, **options: Any) -> None:
        stores.append(self)
        init(self, *arguments, **options)

    def send_and_forget(session: Session, responses: Sequence[Response], notices: Sequence[Notice] = ()) -> None:
        send(session, responses, notices)
        if session.user is not None and notices:
            stores[0].delivered(session, notices[-1].id)

    Store.__init__ = note
    delivery.send_or_close = send_and_forget


def leaks_sockets() -> None:
    """A closed connection keeps its file descriptor."""
    kept: list[Any] = []
    JellyServer.shutdown_request = lambda _, request: kept.append(request)


def answers_reversed() -> None:
    """Answers that are ready at the same time are sent in the wrong order."""
    send = SendQueue.send
    SendQueue.send = lambda self, responses=(), notices=(): send(self, responses[::-1], notices)


def frame_a_read() -> None:
    """The server closes a connection if a read ends in the middle of a frame."""
    read = Connection._read

    def read_whole(self: Connection, data: bytes) -> None:
        read(self, data)
        if self.decoder.has_incomplete_frame:
            self.send_queue.close()

    Connection._read = read_whole


def wall_clock() -> None:
    """Idle time is measured with the wall clock, and a jump is not taken for a standstill."""
    clock()
    time.monotonic = lambda: time.time()
    watchdog.LATENESS = 2 * HOUR


def order_by_time() -> None:
    """Waiting messages are delivered in the order of the senders' clocks."""
    query = DatabaseConnection.query
    DatabaseConnection.query = lambda self, sql, parameters=(): query(
        self, sql.replace("ORDER BY i.message_id", "ORDER BY m.time"), parameters
    )


def hashes_at_reconnect() -> None:
    """A token is checked with a slow hash, like a password."""
    try:
        service: Any = importlib.import_module("jelly.login_service").LoginService
    except ImportError:  # older versions have one class for all requests
        service = importlib.import_module("jelly.services").Services
    reconnect = service.reconnect

    def reconnect_slowly(self: Any, *arguments: Any) -> Any:
        is_older = hasattr(self, "_policy")
        passwords.hash_password("", self._policy.password_cost if is_older else self._password_check.cost)
        return reconnect(self, *arguments)

    service.reconnect = reconnect_slowly


def plain_hash_queue() -> None:
    """Passwords are hashed in the order in which they came, whoever sent them."""
    hashing = importlib.import_module("jelly.hashing")  # older versions have no such file
    hashing.Work.is_repeat = False
    init = hashing.Work.__init__

    def init_equal(self: Any, session: Any, _network: str, _place: Any, *arguments: Any, **named: Any) -> None:
        init(self, session, "", hashing.Place.LOGIN, *arguments, **named)

    hashing.Work.__init__ = init_equal


# --- seams ----------------------------------------------------------------------------------------


def clock() -> None:
    """Not a defect: SIGUSR1 moves the wall clock one hour forward, SIGUSR2 one hour back."""
    real, offset = time.time, [0.0]

    def move(number: int, _frame: FrameType | None) -> None:
        offset[0] += HOUR if number == signal.SIGUSR1 else -HOUR

    time.time = lambda: real() + offset[0]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, move)


def count_hashes() -> None:
    """Not a defect: records each password hash."""
    scrypt = passwords._scrypt

    def noted(*arguments: Any) -> bytes:
        with Path(os.environ[HASH_LOG]).open("ab") as log:
            log.write(b".")
        return scrypt(*arguments)

    passwords._scrypt = noted


def impatient() -> None:
    """Not a defect: the server waits for its database for a quarter of the time."""
    Engine.query_timeout /= 4
    store.DOUBT_SECONDS /= 4


VARIANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        answers_early, ignores_failures, doubt_is_success, doubt_is_failure, ids_from_the_database, waits_for_ever,
        tries_once,
        synchronous_normal, drops_queue, ignores_signals,
        unbounded_queue, unbounded_send_queue, unbounded_buffers, whole_lists, blocking_send, no_watchdog,
        delivered_when_written, leaks_sockets, answers_reversed, frame_a_read, wall_clock, order_by_time,
        hashes_at_reconnect, plain_hash_queue, clock, count_hashes, impatient, strangers_stay,
    )
} | variants_nodes.VARIANTS  # fmt: skip


# --- points at which to die -----------------------------------------------------------------------

POINTS = ("before-commit", "after-commit", "after-push", "at-ack")
"""Before messages are committed; before they are pushed and answered; before they are answered; and
when the receiver has them, but its acknowledgement is not noted."""


def kill_at(point: str, passes: int) -> None:
    """Kill the process when it reaches a point for the nth time."""
    left = [passes]
    lock = threading.Lock()

    def here(name: str) -> None:
        if name == point:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    transaction, send, delivered = DatabaseConnection.transaction, delivery.send_or_close, Store.delivered

    @contextlib.contextmanager
    def watched(self: DatabaseConnection) -> Iterator[None]:
        with transaction(self):
            yield
            has_messages = _has_messages.get(self, False)
            if has_messages:
                here("before-commit")
        if _has_messages.pop(self, False) or has_messages:
            here("after-commit")

    def send_and_pass(session: Session, responses: Sequence[Response], notices: Sequence[Notice] = ()) -> None:
        send(session, responses, notices)
        if notices:
            here("after-push")

    def pass_and_note(self: Store, *what: Any) -> None:
        here("at-ack")
        delivered(self, *what)

    DatabaseConnection.transaction, delivery.send_or_close, Store.delivered = watched, send_and_pass, pass_and_note
    _note_messages()


_has_messages: dict[DatabaseConnection, bool] = {}
"""The database connections whose current transaction stores a message."""


def _note_messages() -> None:
    add = Dao.add_messages

    def add_and_note(self: Dao, *arguments: Any) -> None:
        _has_messages[self.connection] = True
        add(self, *arguments)

    Dao.add_messages = add_and_note


def main() -> int:
    """Apply the patches, run the server's command line, and return its exit code."""
    epilog = "Variants:\n" + "\n".join(f"  {name:24}{made.__doc__}" for name, made in VARIANTS.items())
    parser = argparse.ArgumentParser(
        "faults.server", description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=VARIANTS, action="append", default=[], metavar="NAME")
    parser.add_argument("--kill-at", choices=POINTS)
    parser.add_argument("--passes", type=int, default=1, help="die at the Nth time")
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help="an argument for jelly.py")
    options = parser.parse_args()
    for name in options.variant:
        VARIANTS[name]()
    if options.kill_at:
        kill_at(options.kill_at, options.passes)
    return cli.main(options.arguments)


if __name__ == "__main__":
    sys.exit(main())
