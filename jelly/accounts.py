"""Accounts: what may be a new name or password, and what makes or changes an account.

`account_service.py` and `group_service.py` use this for requests of clients, `user_command.py` and
`operator_commands.py` for the command `jelly user`.
"""

from enum import StrEnum
from typing import NamedTuple

from jelly import account_dao, report_dao
from jelly.dao import Dao
from jelly.errors import ErrorCode, Refused
from jelly.names import is_valid_name, problem_of_new_name
from jelly.requests import MAX_PASSWORD


class Action(StrEnum):
    """What an operator may do with an account."""

    ADD = "add"
    PASSWD = "passwd"
    DISABLE = "disable"
    ENABLE = "enable"
    DELETE = "delete"
    CLOSE_REPORT = "close_report"


class OperatorCommand(NamedTuple):
    """What an operator asks for."""

    action: Action
    username: str
    """The user; of CLOSE_REPORT the number of the report."""
    password_hash: str


def check_new_name(name: str, code: ErrorCode) -> None:
    """Raise Refused with this code if no new user or group may have this name."""
    if not is_valid_name(name):
        raise Refused(code)
    if problem := problem_of_new_name(name):
        raise Refused(code, f"This name is not possible: {problem}. Choose another one.")


def check_password(password: str) -> None:
    """Raise Refused if this cannot be a password."""
    if not 1 <= len(password) <= MAX_PASSWORD:
        raise Refused(ErrorCode.INVALID_PASSWORD)


def check_is_free(dao: Dao, username: str) -> None:
    """Raise Refused if a user has this name, or one that looks the same."""
    if dao.is_username_taken(username):
        raise Refused(ErrorCode.USERNAME_TAKEN)


def add(dao: Dao, username: str, password_hash: str) -> None:
    """Add a user. Raises Refused if the name is taken; then nothing was written."""
    check_is_free(dao, username)
    dao.add_user(username, password_hash)


def check_name(dao: Dao, action: Action, username: str) -> None:
    """Raise Refused if an action is not possible with this name."""
    if action == Action.ADD:
        check_is_free(dao, username)
    elif not dao.has_user(username):
        raise Refused(ErrorCode.NO_SUCH_USER)


def carry_out(dao: Dao, command: OperatorCommand) -> None:
    """Do what an operator asks for, within a transaction.

    Raises Refused if that is not possible; then nothing was written.
    """
    action, username, password_hash = command
    if action == Action.CLOSE_REPORT:
        report_dao.remove(dao, int(username))
        return
    check_name(dao, action, username)
    if action == Action.ADD:
        dao.add_user(username, password_hash)
        return
    if action == Action.DELETE:
        account_dao.delete(dao, username)
    elif action in (Action.DISABLE, Action.ENABLE):
        account_dao.set_disabled(dao, username, action == Action.DISABLE)
    else:
        dao.update_user(username, {"password": password_hash})
        dao.remove_tokens(username)
