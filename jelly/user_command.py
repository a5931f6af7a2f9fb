"""The command `jelly user`: add a user, set a password, list the users.

While a server uses the database, the server does what is asked for (`operator_commands.py`). While
none does, this process takes the server's claim and does it itself. Passwords are asked for on the
terminal, or read from standard input; never are they on the command line, which others can see.
"""

import argparse
import contextlib
import getpass
import secrets
import sys
import time
import unicodedata
from collections.abc import Iterator

from jelly import accounts
from jelly.accounts import Action, OperatorCommand
from jelly.config import Settings
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engine import Engine
from jelly.engines import open_engine
from jelly.errors import SENTENCES, ErrorCode, Refused, StartError, StoreError
from jelly.export import export_account
from jelly.file_claim import OTHER_PATH, InUse, mode_of
from jelly.live_nodes import live_nodes
from jelly.migrations import SCHEMA_VERSION, is_ours, migrate
from jelly.operator_commands import DONE
from jelly.passwords import hash_password
from jelly.sqlite_engine import SqliteEngine

ANSWER_TIMEOUT = 15.0
"""Seconds to wait for the running server."""
ANSWER_INTERVAL = 0.1
"""Seconds from one look for its answer to the next one."""
KEY_PREFIX = "jellybot-"
"""How the key of a bot begins: so that one that was published is found."""
KEY_BYTES = 24
"""Random bytes in it."""
NAMES_AT_ONCE = 1000
"""How many names are read at a time."""
DONE_SENTENCES = {
    Action.ADD: "{name} is added",
    Action.PASSWD: "the password of {name} is changed",
    Action.DISABLE: "{name} is disabled",
    Action.ENABLE: "{name} is enabled",
    Action.DELETE: "{name} is deleted",
}
"""What is said when a command was carried out."""
MAKE_IT = "Check --database, or JELLY_DATABASE. A new database is made by the first start of its server."
OTHER_TABLES = "The database has the tables of another version: start the server of this version first."
OTHER_VERSION = "The server that uses the database is of another version: use its own `jelly user`."


def add_user_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `jelly user` needs to a parser."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", prog="jelly user")
    for action, help in (
        ("add", "make an account; its password is asked for, or read from standard input"),
        ("passwd", "set a user's password; all tokens and sessions of the user end"),
        ("disable", "let a user not log in any more; all tokens and sessions of the user end"),
        ("enable", "let a user log in again"),
        ("delete", "delete an account; nobody gets its name again, and messages stay with those who have them"),
        ("export", "print everything that the database has of a user, as JSON, without secrets"),
        ("list", "print the names of all users; with NAME, only that one, and fail if there is no such user"),
    ):
        each = actions.add_parser(action, help=help, description=help)
        each.add_argument("name", metavar="NAME", nargs="?" if action == "list" else None, help="the user's name")
        if action in ("add", "passwd"):
            each.add_argument("--bot", action="store_true", help="make a key instead of a password, and print it")
        each.add_argument("--database", metavar="DATABASE", help="URL of the database, as for the server")
        each.add_argument("--config", metavar="FILE", help="TOML file with settings")


def run_user_command(action: str, name: str | None, settings: Settings, is_bot: bool = False) -> None:
    """Do what `jelly user` was asked for. Raises StartError: one sentence that says why not.

    `is_bot`: the password is a key, which is made here and printed.
    """
    with command_about(settings.database):
        if action == "list":
            _list_users(settings.database, name)
        elif action == "export":
            _export(settings.database, unicodedata.normalize("NFC", name or ""))
        else:
            _change(Action(action), unicodedata.normalize("NFC", name or ""), settings, is_bot)


@contextlib.contextmanager
def command_about(url: str) -> Iterator[None]:
    """For `with`, around what a command does with a database: all errors become a StartError."""
    if url == "memory:":
        raise StartError("The database memory: has no users but those of its server: name another one.")
    try:
        _check_exists(url)
        yield
    except Refused as error:
        raise StartError(str(error)) from error
    except StoreError as error:
        advice = open_engine(url).advice
        raise StartError(f"The database cannot be used: {error}. {advice}") from error


def _change(action: Action, name: str, settings: Settings, is_bot: bool) -> None:
    if action == Action.ADD:
        accounts.check_new_name(name, ErrorCode.INVALID_USERNAME)  # before the password is asked for
    with opened(settings.database) as connection:  # before somebody types a password for nothing
        _check_name(connection, action, name)
    password = password_hash = ""
    if action in (Action.ADD, Action.PASSWD):
        password = f"{KEY_PREFIX}{secrets.token_urlsafe(KEY_BYTES)}" if is_bot else _ask_password(name)
        accounts.check_password(password)
        password_hash = hash_password(password, settings.password_cost)
    elif action == Action.DELETE:
        _confirm(name)
    have_done(settings.database, OperatorCommand(action, name, password_hash))
    if is_bot:  # last, when it is valid; and alone, so that a program can read it
        print(password)
    else:
        print(DONE_SENTENCES[action].format(name=name))


def have_done(url: str, command: OperatorCommand) -> None:
    """Have a command carried out: by the server that uses the database, or else here.

    Raises Refused, StartError, StoreError.
    """
    with contextlib.closing(_Database(url)) as database:
        if database.claim():
            _check_is_ours(database.connection)
            migrate(database.connection)
            with database.connection.transaction():
                accounts.carry_out(Dao(database.connection), command)
        else:
            _ask_server(Dao(database.connection), command)


class _Database:
    """The database, with the claim of a server or beside one."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_engine(url)
        self._engine.claim_timeout = 0  # a server that has the database is asked instead
        self.connection = DatabaseConnection(self._engine, writes=True)

    def claim(self) -> bool:
        """Be the one process that uses the database, if no server uses it; whether that is so.

        If not, only the table `operator_commands` may be written. Raises StoreError, StartError.
        """
        try:
            self.connection.open()
        except InUse as error:
            if error.by_other_path:
                raise StartError(OTHER_PATH) from error
        else:
            if not _has_nodes(self.connection):
                return True
            self.connection.close()  # nodes have no claim while they serve, but begin with one
        self.connection = DatabaseConnection(self._engine)
        return False

    def close(self) -> None:
        self.connection.close()
        self._engine.release()


def _has_nodes(connection: DatabaseConnection) -> bool:
    """Whether nodes of a cluster use the database."""
    return bool(live_nodes(connection))


@contextlib.contextmanager
def opened(url: str) -> Iterator[DatabaseConnection]:
    """For `with`: the database, to look only. Raises StoreError, StartError."""
    with contextlib.closing(_Database(url)) as database:
        database.claim()
        _check_is_ours(database.connection)
        yield database.connection


def _ask_server(dao: Dao, command: OperatorCommand) -> None:
    """Have the running server carry out a command. Raises Refused, StartError, StoreError."""
    if not has_our_version(dao.connection):
        raise StartError(OTHER_VERSION)
    id = secrets.token_hex(16)
    dao.add_command(id, *command)
    try:
        result = _await_result(dao, id)
    finally:
        dao.withdraw_command(id)
    if result in SENTENCES:
        raise Refused(ErrorCode(result))
    if result != DONE:
        raise StartError(
            "The server that uses the database has not answered: nobody knows whether it was done. "
            "Look at its log, and try again."
        )


def _await_result(dao: Dao, id: str) -> str | None:
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while (result := dao.command_result(id)) == "" and time.monotonic() < deadline:
        time.sleep(ANSWER_INTERVAL)
    return result


def _check_exists(url: str) -> None:
    """Raise StartError if a database is a file that is not there: a connection would make it."""
    engine = open_engine(url)
    try:
        is_missing = isinstance(engine, SqliteEngine) and not mode_of(engine.path)
    except OSError as error:
        raise StoreError(f"the file cannot be opened: {error.strerror}") from error
    if is_missing:
        raise StartError(f"There is no database {engine.describe()}. {MAKE_IT}")
    engine.release()


def _check_is_ours(connection: DatabaseConnection) -> None:
    """Raise StartError if a database has no tables of Jelly."""
    if not is_ours(connection):
        if connection.tables():
            connection.disown()
        raise StartError(f"{connection.describe()} is not a database of Jelly. {MAKE_IT}")


def _list_users(url: str, name: str | None) -> None:
    with opened(url) as connection:
        dao = Dao(connection)
        if name is None:
            for each in _usernames(dao):
                print(each)
        elif dao.has_user(unicodedata.normalize("NFC", name)):
            print(unicodedata.normalize("NFC", name))
        else:
            raise Refused(ErrorCode.NO_SUCH_USER)


def _export(url: str, name: str) -> None:
    with opened(url) as connection:
        if not has_our_version(connection):
            raise StartError(OTHER_TABLES)
        if not Dao(connection).has_user(name):
            raise Refused(ErrorCode.NO_SUCH_USER)
        for line in export_account(connection, name):
            print(line)


def _usernames(dao: Dao) -> Iterator[str]:
    last = ""
    while page := dao.usernames(last, NAMES_AT_ONCE):
        yield from page
        last = page[-1]


def _check_name(connection: DatabaseConnection, action: Action, name: str) -> None:
    """Raise Refused if a command is not possible. In tables of another version, nobody looks."""
    if has_our_version(connection):
        accounts.check_name(Dao(connection), action, name)


def has_our_version(connection: DatabaseConnection) -> bool:
    """Whether a database has the tables that this program knows."""
    rows = connection.query_if_exists("SELECT value FROM meta WHERE name = 'schema_version'")
    return bool(rows) and rows[0][0] == SCHEMA_VERSION


def _confirm(name: str) -> None:
    """Have a person type the name again. Raises StartError if it is another one."""
    if not sys.stdin.isatty():
        return
    try:
        typed = input(f"This cannot be undone. Type {name} to delete the account: ")
    except EOFError:
        typed = ""
    if typed != name:
        raise StartError("The names differ: nothing was deleted.")


def _ask_password(name: str) -> str:
    """Ask for a password twice; or read it, without a terminal, as the first line of the input.

    Raises StartError if there is none, or if the two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().removesuffix("\n")
    try:
        password = getpass.getpass(f"New password for {name}: ")
        if getpass.getpass("Once more: ") != password:
            raise StartError("The passwords differ: nothing was changed.")
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal is still in the line of the question
        raise
    except EOFError:
        print(file=sys.stderr)
        raise StartError("No password was given: nothing was changed.") from None
    return password
