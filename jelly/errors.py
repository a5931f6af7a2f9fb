"""Every error of Jelly, and the error codes of the protocol, in one place.

JellyError                 the root: `except JellyError` catches all of ours
│                          on the server
├── Refused                the client's fault: answered with REQUEST_ERROR and a code
├── StoreError             the database cannot be used now: answered with SERVER_ERROR
├── StartError             the server cannot start: one sentence, then exit code 1
│   └── ConfigError        a setting is wrong: one sentence, then exit code 2
│                          on the client: how a request ends that has no result
└── RequestError           the root of these
    ├── RequestRejected    REQUEST_ERROR: `code` says why; asking again changes nothing
    ├── ServerBusy         SERVER_BUSY: nothing was done; ask again later
    ├── ServerFailed       SERVER_ERROR, or an answer that cannot be read: nothing is known
    ├── RequestTimeout     no answer in time: nothing is known
    └── ConnectionLost     the line broke, or there was none: `sent` says what is known
"""

import logging
import traceback
from enum import StrEnum

from jelly.codec import Status


class ErrorCode(StrEnum):
    """What a response that is not SUCCESS carries as `error`. Part of the protocol: never rename one."""

    MALFORMED_FRAME = "malformed_frame"
    MALFORMED_BODY = "malformed_body"
    UNKNOWN_TYPE = "unknown_type"
    NOT_LOGGED_IN = "not_logged_in"
    ALREADY_LOGGED_IN = "already_logged_in"
    WRONG_CREDENTIALS = "wrong_credentials"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    INVALID_USERNAME = "invalid_username"
    INVALID_PASSWORD = "invalid_password"
    USERNAME_TAKEN = "username_taken"
    INVALID_TOKEN = "invalid_token"
    NOT_YOURSELF = "not_yourself"
    NO_SUCH_USER = "no_such_user"
    ALREADY_FRIENDS = "already_friends"
    NOT_FRIENDS = "not_friends"
    INVALID_GROUP_NAME = "invalid_group_name"
    GROUP_EXISTS = "group_exists"
    NO_SUCH_GROUP = "no_such_group"
    NOT_GROUP_CREATOR = "not_group_creator"
    ALREADY_MEMBER = "already_member"
    NOT_A_MEMBER = "not_a_member"
    CREATOR_CANNOT_LEAVE = "creator_cannot_leave"
    TOO_LONG = "too_long"
    LIMIT_REACHED = "limit_reached"
    RATE_LIMITED = "rate_limited"
    REQUEST_ID_REUSED = "request_id_reused"
    BUSY = "busy"
    INTERNAL = "internal"


# What a person reads, where the place that refuses has nothing more exact to say.
SENTENCES = {
    ErrorCode.MALFORMED_FRAME: "These bytes are not a frame that a client may send.",
    ErrorCode.MALFORMED_BODY: "The body is not the JSON object that this request needs.",
    ErrorCode.UNKNOWN_TYPE: "There is no request of this type.",
    ErrorCode.NOT_LOGGED_IN: "Log in first.",
    ErrorCode.ALREADY_LOGGED_IN: "This connection is logged in already.",
    ErrorCode.WRONG_CREDENTIALS: "The user name or the password is wrong.",
    ErrorCode.TOO_MANY_ATTEMPTS: "Too many failed logins: wait a quarter of an hour.",
    ErrorCode.INVALID_USERNAME: "A user name has 1 to 32 characters, without spaces or invisible ones.",
    ErrorCode.INVALID_PASSWORD: "A password has 1 to 128 characters.",
    ErrorCode.USERNAME_TAKEN: "This user name is taken.",
    ErrorCode.INVALID_TOKEN: "The token is not valid (any more): log in with the password.",
    ErrorCode.NOT_YOURSELF: "The request names another user than the one who is logged in.",
    ErrorCode.NO_SUCH_USER: "There is no such user.",
    ErrorCode.ALREADY_FRIENDS: "This user is a friend already.",
    ErrorCode.NOT_FRIENDS: "This user is not a friend.",
    ErrorCode.INVALID_GROUP_NAME: "A group name has 1 to 32 characters, without spaces or invisible ones.",
    ErrorCode.GROUP_EXISTS: "There is a group of this name already.",
    ErrorCode.NO_SUCH_GROUP: "There is no such group.",
    ErrorCode.NOT_GROUP_CREATOR: "Only the creator of the group may do this.",
    ErrorCode.ALREADY_MEMBER: "This user is a member already.",
    ErrorCode.NOT_A_MEMBER: "This user is not a member of the group.",
    ErrorCode.CREATOR_CANNOT_LEAVE: "The creator cannot leave the group, only disband it.",
    ErrorCode.TOO_LONG: "A value is too long.",
    ErrorCode.LIMIT_REACHED: "A limit is reached.",
    ErrorCode.RATE_LIMITED: "Too many messages a second: slow down.",
    ErrorCode.REQUEST_ID_REUSED: "This requestId was used for another message.",
    ErrorCode.BUSY: "The server is busy: nothing was done, try again later.",
    ErrorCode.INTERNAL: "The server failed: nothing is promised about this request.",
}


class JellyError(Exception):
    """The root of all errors of Jelly."""


class Refused(JellyError):
    """A request that the server will not serve, because of what the client asked. Nothing was done."""

    def __init__(self, code: ErrorCode, sentence: str = "") -> None:
        super().__init__(sentence or SENTENCES[code])
        self.code = code


class StoreError(JellyError):
    """The database failed, hangs or is away. Later requests may work again."""


class StartError(JellyError):
    """The server cannot start; the text is one sentence that says why and what would help."""


class ConfigError(StartError):
    """A setting is wrong; the text names it, where it came from, and what would be right."""


class RequestError(JellyError):
    """A request of a client that has no result; the text is one sentence for a person."""

    def __init__(self, code: str = "", sentence: str = "") -> None:
        super().__init__(sentence or _sentence(code) or "The server gave no reason.")
        self.code = str(code)
        """One of ErrorCode where the server said one; the original server says none, and then this is empty."""


class RequestRejected(RequestError):
    """The request is at fault (0x32). Nothing was done; the same request would be refused again."""


class ServerBusy(RequestError):
    """Too many requests wait at the server (0x33). Nothing was done; try again a little later."""


class ServerFailed(RequestError):
    """The server is at fault (0x34), or its answer cannot be read. Whether it did anything is not known."""


class RequestTimeout(RequestError):
    """No answer came in time. Whether the server did anything is not known."""


class ConnectionLost(RequestError):
    """There is no connection (any more), so there will be no answer.

    `sent` is False if the request never left: then nothing was done. It is True if the request, or a part of
    it, was sent: then nobody knows.
    """

    def __init__(self, sentence: str, sent: bool) -> None:
        super().__init__("", sentence)
        self.sent = sent


_BY_STATUS: dict[int, type[RequestError]] = {
    Status.REQUEST_ERROR: RequestRejected,
    Status.SERVER_BUSY: ServerBusy,
    Status.SERVER_ERROR: ServerFailed,
}


def error_for(status: int, code: str, sentence: str) -> RequestError:
    """The error for a response that is not SUCCESS: its status, and what its body says (both may be empty)."""
    return _BY_STATUS.get(status, ServerFailed)(code, sentence)


def _sentence(code: str) -> str:
    return SENTENCES[ErrorCode(code)] if code in SENTENCES else ""


def log_failure(log: logging.Logger, error: Exception) -> None:
    """One line for an exception that nobody expected; the traceback only for those who debug."""
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({where[0].filename.rpartition('/')[2]}:{where[0].lineno})" if where else ""
    log.error("%s: %s%s", type(error).__name__, error, place, exc_info=log.isEnabledFor(logging.DEBUG))
