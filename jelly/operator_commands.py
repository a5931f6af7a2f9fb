"""Commands of the operator to the running server: `jelly user` writes them, the server does them.

Another process must not change accounts while a server runs. Only the store thread writes, so that
a look and the change after it are one step, and running sessions hear of a new password. So
`jelly user` writes its command as a row into the table `operator_commands`, and waits for the
result there. It needs nothing but the database, on every kind of it. The row holds the hash of a
password, never the password.

The thread here only looks for such rows. The store thread carries them out, like any other write.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from jelly.accounts import Action, OperatorCommand, carry_out
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.errors import SENTENCES, ErrorCode, Refused, StoreError, log_failure
from jelly.fair_queue import Job
from jelly.outcomes import Answer, Write
from jelly.own_account_service import DELETED, DISABLED
from jelly.services import Services
from jelly.session_lifecycle import PASSWORD_CHANGED
from jelly.sessions import Notice, Response, Session
from jelly.store import Store

log = logging.getLogger("jelly.operator")

POLL_INTERVAL = 0.5
"""Seconds from one look for commands to the next one."""
PURGE_PAUSE = 0.02
"""Seconds between two slices of what goes after an account was deleted."""
ENDINGS = {Action.DISABLE: DISABLED, Action.DELETE: DELETED}
"""The commands that end the sessions of a user, and what these are told."""
RESULT_SECONDS = 3600
"""Seconds until a result that nobody has fetched is forgotten."""
DONE = "done"
"""The result of a command that was carried out; any other is an error code."""


class OperatorCommands:
    """The thread that looks for commands, and hands them to the store."""

    def __init__(self, connection: DatabaseConnection, store: Store, services: Services) -> None:
        """`connection` is for this thread alone."""
        self._connection = connection
        self._dao = Dao(connection)
        self._store = store
        self._services = services
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jelly-operator", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look for no more commands. One that the store has is still carried out."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(POLL_INTERVAL):
            try:
                for id, action, username, password_hash in self._dao.waiting_commands():
                    self._carry_out(id, OperatorCommand(Action(action), username, password_hash))
                while not self._stopping.is_set() and (user := self._services.deletions.next_user(self._dao)):
                    self._submit(self._services.deletions.slice_of(user))
                    self._stopping.wait(PURGE_PAUSE)
            except StoreError as error:
                self._store.outage.failed(error)
            except Exception as error:  # noqa: BLE001 - a bug; but later commands must be found
                log_failure(log, error)
        self._connection.close()

    def _carry_out(self, id: str, command: OperatorCommand) -> None:
        self._submit(Write(0, partial(_write, id, command), partial(self._answer, command)))

    def _submit(self, write: Write) -> None:
        """Have the store do a write, and wait until it has answered."""
        is_done = threading.Event()
        session = Session(NoTransport(), "the operator")
        self._store.submit([Job(session, [write], [time.monotonic()], 0, is_done.set, is_write=True)])
        while not is_done.wait(POLL_INTERVAL) and not self._stopping.is_set():
            pass  # the database may be away for long

    def _answer(self, command: OperatorCommand, result: str | None) -> Answer:
        """After the commit, in the store's turn."""
        if result is not None:
            log.info("the operator asked to %s: %s", _what(command), _outcome(result))
        if result == DONE and command.action == Action.PASSWD:
            self._services.lifecycle.end_sessions(command.username, PASSWORD_CHANGED)
        elif result == DONE and command.action in ENDINGS:
            self._services.own_account.ended(command.username, ENDINGS[command.action])
        return Answer(None)


def _what(command: OperatorCommand) -> str:
    if command.action == Action.ADD:
        return f"add the user {command.username}"
    if command.action == Action.CLOSE_REPORT:
        return f"close the report {command.username}"
    if command.action in (Action.DISABLE, Action.ENABLE, Action.DELETE):
        return f"{command.action} the account {command.username}"
    return f"set the password of {command.username}"


def _outcome(result: str) -> str:
    return "it is done" if result == DONE else f"it was refused. {SENTENCES[ErrorCode(result)]}"


def _write(id: str, command: OperatorCommand, dao: Dao) -> str | None:
    """In the store's transaction: return the result; None if the command was withdrawn."""
    if not dao.waiting_commands(id):
        return None
    result = DONE
    try:
        carry_out(dao, command)
        if command.action == Action.PASSWD:
            dao.announce("password", command.username)
        elif command.action in ENDINGS:
            dao.announce("ended", command.username, ENDINGS[command.action], "")
    except Refused as error:
        result = str(error.code)
    now = int(time.time() * 1000)
    dao.finish_command(id, result, now, now - RESULT_SECONDS * 1000)
    return result


class NoTransport:
    """The transport of a session without a client: the result is in the database."""

    tcp_acked_id = 0
    is_closed = False
    has_room = True
    is_full = False
    is_memory_short = False

    def has_left(self) -> bool:
        return False

    def is_half_closed(self) -> bool:
        return False

    def when_not_full(self, function: Callable[[], None]) -> None:
        function()

    def send(self, responses: Sequence[Response] = (), notices: Sequence[Notice] = ()) -> None: ...
    def queue_notice(self, frame: bytes) -> None: ...
    def write_queued(self) -> None: ...
    def stop_pacing(self) -> None: ...
    def stop_confirming(self) -> None: ...
    def finish(self, closing_frame: bytes = b"") -> None: ...
    def close(self) -> None: ...
