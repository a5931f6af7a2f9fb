"""All errors of Jelly, and the error codes of the protocol.

JellyError                 the root: `except JellyError` catches all errors of Jelly
│                          on the server
├── Refused                the client's fault: answered with REQUEST_ERROR and a code
├── StoreError             the database cannot be used now: answered with SERVER_ERROR
├── StartError             the server cannot start: one sentence, then exit code 1
│   └── ConfigError        a setting is wrong: one sentence, then exit code 2
│                          on the client: a request ended without a result
└── RequestError           the root of these
    ├── RequestRejected    REQUEST_ERROR: `code` says why; the same request fails again
    ├── ServerBusy         SERVER_BUSY: nothing was done; try again later
    │   ├── RateLimited    REQUEST_ERROR, for too much at once: `retry_after` says when
    │   └── InboxFull      REQUEST_ERROR, for too much that waits: when somebody has read it
    ├── ServerFailed       SERVER_ERROR, or an answer that cannot be read: outcome unknown
    ├── RequestTimeout     no answer in time: outcome unknown
    └── ConnectionLost     there is no connection: `sent` says whether the outcome is unknown
"""

import logging
import traceback
from enum import StrEnum

from jelly.codec import Status


class ErrorCode(StrEnum):
    """The values of the key `error` in a response that is not SUCCESS.

    They are part of the protocol: never rename one.
    """

    MALFORMED_FRAME = "malformed_frame"
    MALFORMED_BODY = "malformed_body"
    UNKNOWN_TYPE = "unknown_type"
    NOT_LOGGED_IN = "not_logged_in"
    ALREADY_LOGGED_IN = "already_logged_in"
    WRONG_CREDENTIALS = "wrong_credentials"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    ACCOUNT_DISABLED = "account_disabled"
    INVALID_USERNAME = "invalid_username"
    INVALID_PASSWORD = "invalid_password"
    USERNAME_TAKEN = "username_taken"
    NAME_RESERVED = "name_reserved"
    REGISTRATION_CLOSED = "registration_closed"
    INVITE_NEEDED = "invite_needed"
    INVALID_INVITE = "invalid_invite"
    TOO_MANY_REGISTRATIONS = "too_many_registrations"
    INVALID_TOKEN = "invalid_token"
    NOT_YOURSELF = "not_yourself"
    NO_SUCH_USER = "no_such_user"
    ALREADY_FRIENDS = "already_friends"
    NOT_FRIENDS = "not_friends"
    NOT_ASKED = "not_asked"
    NOT_ACCEPTED = "not_accepted"
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
    INBOX_FULL = "inbox_full"
    REQUEST_ID_REUSED = "request_id_reused"
    NO_SUCH_MESSAGE = "no_such_message"
    TOO_LATE = "too_late"
    BUSY = "busy"
    INTERNAL = "internal"


SENTENCES = {
    ErrorCode.MALFORMED_FRAME: "These bytes are not a frame that a client may send.",
    ErrorCode.MALFORMED_BODY: "The body is not the JSON object that this request needs.",
    ErrorCode.UNKNOWN_TYPE: "The server does not know this type of request.",
    ErrorCode.NOT_LOGGED_IN: "This connection is not logged in: log in first.",
    ErrorCode.ALREADY_LOGGED_IN: "This connection is already logged in: open another one to log in again.",
    ErrorCode.WRONG_CREDENTIALS: "The user name or the password is wrong.",
    ErrorCode.TOO_MANY_ATTEMPTS: "Too many failed logins to this account: this one was not tried, try again later.",
    ErrorCode.ACCOUNT_DISABLED: "The operator of the server has disabled this account: ask the operator.",
    ErrorCode.INVALID_USERNAME: "A user name must have 1 to 32 characters, without spaces or invisible characters.",
    ErrorCode.INVALID_PASSWORD: "A password must have 1 to 128 characters.",
    ErrorCode.USERNAME_TAKEN: "This user name, or one that looks the same, is taken: choose another one.",
    ErrorCode.NAME_RESERVED: "This user name is reserved for the operator of the server: choose another one.",
    ErrorCode.REGISTRATION_CLOSED: "This server does not let anybody register: ask its operator for an account.",
    ErrorCode.INVITE_NEEDED: "To register here one needs an invitation: ask somebody who has an account for a code.",
    ErrorCode.INVALID_INVITE: "This invitation is not valid, or no longer valid: ask for another one.",
    ErrorCode.TOO_MANY_REGISTRATIONS: "Too many accounts were made from this address: try again in an hour.",
    ErrorCode.INVALID_TOKEN: "The token is not valid, or no longer valid: log in with the password.",
    ErrorCode.NOT_YOURSELF: "The user in the request is not the user who is logged in on this connection.",
    ErrorCode.NO_SUCH_USER: "There is no such user.",
    ErrorCode.ALREADY_FRIENDS: "This user is already on your friend list.",
    ErrorCode.NOT_FRIENDS: "This user is not on your friend list.",
    ErrorCode.NOT_ASKED: "Nobody has asked you this, or the question was withdrawn or accepted.",
    ErrorCode.NOT_ACCEPTED: "This user accepts nothing from you. Nothing was done.",
    ErrorCode.INVALID_GROUP_NAME: "A group name must have 1 to 32 characters, without spaces or invisible characters.",
    ErrorCode.GROUP_EXISTS: "There is already a group with this name, or one that looks the same: choose another name.",
    ErrorCode.NO_SUCH_GROUP: "There is no such group.",
    ErrorCode.NOT_GROUP_CREATOR: "Only the creator of the group may do this.",
    ErrorCode.ALREADY_MEMBER: "This user is already a member of the group.",
    ErrorCode.NOT_A_MEMBER: "This user is not a member of the group.",
    ErrorCode.CREATOR_CANNOT_LEAVE: "The creator cannot leave the group: disband it instead.",
    ErrorCode.TOO_LONG: "A value is too long: shorten it.",
    ErrorCode.LIMIT_REACHED: "A limit is reached: remove something first.",
    ErrorCode.RATE_LIMITED: "Too many messages a second: send this one again later.",
    ErrorCode.INBOX_FULL: "Too many messages wait for this user: send this one when the user has read some.",
    ErrorCode.REQUEST_ID_REUSED: "This requestId was used for another message: choose a new one.",
    ErrorCode.NO_SUCH_MESSAGE: "There is no such message.",
    ErrorCode.TOO_LATE: "A message can be changed for 15 minutes: write a new one.",
    ErrorCode.BUSY: "The server is busy: nothing was done, try again later.",
    ErrorCode.INTERNAL: "The server failed: it is not known whether the request was carried out.",
}
"""For each code, the sentence for a person. A service may give a more exact one."""


class JellyError(Exception):
    """The root of all errors of Jelly."""


class Refused(JellyError):
    """The server refuses a request, and the client is at fault. Nothing was done."""

    def __init__(self, code: ErrorCode, sentence: str = "", retry_after: float | None = None) -> None:
        super().__init__(sentence or SENTENCES[code])
        self.code = code
        self.retry_after = retry_after
        """Seconds until the same request may succeed; None if nobody knows."""


class StoreError(JellyError):
    """The database failed, does not answer, or cannot be reached. Later requests may work again."""


class StartError(JellyError):
    """The server cannot start. The text is one sentence: why, and what to do."""


class ConfigError(StartError):
    """A setting is wrong. The text names the setting, its source, and the values allowed."""


class RequestError(JellyError):
    """A request of a client ended without a result. The text is one sentence for a person."""

    def __init__(self, code: str = "", sentence: str = "", likely_code: str = "") -> None:
        likely = f" Probably: {_sentence(likely_code)}" if likely_code else ""
        super().__init__(sentence or _sentence(code) or f"The server gave no reason.{likely}")
        self.code = str(code)
        """The server's error code (one of ErrorCode), or empty: the original server sends none."""
        self.likely_code = str(code or likely_code)
        """The same as `code`. If that is empty: what the original server means by such a response,
        as far as it was ever observed; empty if that may be several things."""


class RequestRejected(RequestError):
    """The request is at fault (0x32). Nothing was done, and the same request would fail again."""


class ServerBusy(RequestError):
    """The same request may succeed later: nothing was done. Too many requests wait at the server
    (0x33), or it is one of the two below.
    """

    retry_after: float | None = None
    """Seconds after which to try again; None if the server does not say."""


class RateLimited(ServerBusy):
    """You ask for too much in too short a time (0x32, with such a `code`). Nothing was done."""


class InboxFull(ServerBusy):
    """Too many messages wait for the receiver, or too many of yours for others (0x32, with the
    `code` `inbox_full` or `limit_reached`). Nothing was done: try again when they have read some.
    """


class ServerFailed(RequestError):
    """The server is at fault (0x34), or its answer cannot be read. The outcome is unknown.

    The original server answers so to some faults of the client, too: then there is a `likely_code`.
    """


class RequestTimeout(RequestError):
    """No answer came in time. The outcome is unknown."""


class ConnectionLost(RequestError):
    """There is no connection, or it ended, so no answer will come.

    `sent` is False if nothing of the request was sent: then nothing was done. It is True if the
    request, or a part of it, was sent: then the outcome is unknown.
    """

    def __init__(self, sentence: str, sent: bool) -> None:
        super().__init__("", sentence)
        self.sent = sent


_BY_STATUS: dict[int, type[RequestError]] = {
    Status.REQUEST_ERROR: RequestRejected,
    Status.SERVER_BUSY: ServerBusy,
    Status.SERVER_ERROR: ServerFailed,
}


_LATER: dict[str, type[RequestError]] = {
    ErrorCode.RATE_LIMITED: RateLimited,
    ErrorCode.TOO_MANY_ATTEMPTS: RateLimited,
    ErrorCode.TOO_MANY_REGISTRATIONS: RateLimited,
    ErrorCode.INBOX_FULL: InboxFull,
}
"""What REQUEST_ERROR means with a code after which the same request may succeed later."""


def error_for(
    status: int, code: str, sentence: str, likely_code: str = "", retry_after: float | None = None
) -> RequestError:
    """Return the error for a response that is not SUCCESS.

    `code` and `sentence` come from its body, and may be empty, as `retry_after`, in seconds.
    `likely_code`: what the response means if they are.
    """
    kind = _BY_STATUS.get(status, ServerFailed)
    if kind is RequestRejected:
        kind = _LATER.get(code, kind)
    error = kind(code, sentence, likely_code)
    if isinstance(error, ServerBusy):
        error.retry_after = retry_after
    return error


def _sentence(code: str) -> str:
    return SENTENCES[ErrorCode(code)] if code in SENTENCES else ""


def log_failure(log: logging.Logger, error: BaseException) -> None:
    """Log an unexpected exception in one line; add the traceback if the log level is debug."""
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({where[0].filename.rpartition('/')[2]}:{where[0].lineno})" if where else ""
    log.error("%s: %s%s", type(error).__name__, error, place, exc_info=log.isEnabledFor(logging.DEBUG))
