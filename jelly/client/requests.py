"""A request that waits for its response, and what a response means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLError
from typing import Any, Generic, TypeVar

from jelly.client.callbacks import RequestFuture
from jelly.client.certificates import describe_problem
from jelly.client.pages import Pages
from jelly.codec import HEADER, Frame, Status, Type
from jelly.errors import (
    ErrorCode,
    InboxFull,
    RateLimited,
    Refused,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
    error_for,
)
from jelly.requests import MESSAGES, encode_request
from jelly.strict_json import parse_object

MAX_RETRY_AFTER = 60.0
"""At most this many seconds a server's `retryAfter` is obeyed; then the client asks again."""
LIKELY_CODES: dict[tuple[int, int], ErrorCode] = {
    (Type.REGISTER, Status.REQUEST_ERROR): ErrorCode.USERNAME_TAKEN,
    (Type.REGISTER, Status.SERVER_ERROR): ErrorCode.INVALID_USERNAME,
    (Type.LOGIN, Status.REQUEST_ERROR): ErrorCode.WRONG_CREDENTIALS,
    (Type.RECONNECT, Status.REQUEST_ERROR): ErrorCode.INVALID_TOKEN,
    (Type.PERSON_MESSAGE, Status.SERVER_ERROR): ErrorCode.NO_SUCH_USER,
    (Type.GROUP_MESSAGE, Status.REQUEST_ERROR): ErrorCode.NO_SUCH_GROUP,
    (Type.CREATE_GROUP, Status.REQUEST_ERROR): ErrorCode.GROUP_EXISTS,
    (Type.ADD_FRIEND, Status.REQUEST_ERROR): ErrorCode.LIMIT_REACHED,
    (Type.REMOVE_FRIEND, Status.REQUEST_ERROR): ErrorCode.NOT_FRIENDS,
    (Type.FRIEND_PROFILE, Status.REQUEST_ERROR): ErrorCode.NOT_FRIENDS,
    (Type.FRIEND_PROFILE, Status.SERVER_ERROR): ErrorCode.NO_SUCH_USER,
    (Type.UPDATE_PROFILE, Status.SERVER_ERROR): ErrorCode.TOO_LONG,
}
"""What an error response with an empty body means, where it means one thing only: the original
server sends no codes, and takes SERVER_ERROR for some faults of the client. (tests/golden/ has its
answers.)"""

T = TypeVar("T")
Decode = Callable[[dict[str, Any]], T]
"""Makes a result of the values in a SUCCESS; raises LookupError, TypeError, ValueError if it
cannot."""


def _no_page(_after: str) -> bytes:
    raise LookupError("this request has no pages")


@dataclass(slots=True, eq=False)
class Request(Generic[T]):
    """A request that has no response yet."""

    type: int
    decode: Decode[T]
    future: RequestFuture[T]
    frame: bytes = b""
    request_id: str | None = None
    """The idempotency key of a message; None if the request must not be sent twice."""
    pages: Pages | None = None
    """What has come of a list that the server may answer in pages."""
    frame_of_page: Callable[[str], bytes] = _no_page
    """Returns the frame that asks for the page behind a place."""
    deadline: float = float("inf")
    """The monotonic time until which the response must arrive."""
    # `PendingRequests` counts these:
    number: int = 0
    """Its place in the order."""
    sends: int = 0
    """How many times it was sent. Not counted are those that the server refused for the rate."""
    connection_losses: int = 0
    """How many connections were lost while it was in flight."""
    timeouts: int = 0
    retries: int = 0
    """How many times it was sent again because the server was too busy."""

    @property
    def name(self) -> str:
        """The name of its type, for the log."""
        return Type(self.type).name if self.type in list(Type) else f"0x{self.type:02x}"

    @property
    def is_resend(self) -> bool:
        """Whether it was sent before. Then "nothing was done" says nothing about the first time."""
        return self.request_id is not None and self.sends > 1

    def complete(self, response: Frame, may_be_original: bool = True) -> None:
        """End the future with what the server answered; see `decode_response`."""
        try:
            result = decode_response(response, self.decode, may_be_original)
        except RequestError as error:
            self.fail(error)
        else:
            self.future.set_result(result)

    def fail(self, error: RequestError) -> None:
        """End the future without a response.

        A future that was cancelled before it was sent stays cancelled.
        """
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.fail(error, self.name)


def decode_response(frame: Frame, decode: Decode[T], may_be_original: bool = True) -> T:
    """Return the result in a SUCCESS.

    `may_be_original`: whether the server may be the original one, because it has granted no
    features, or nobody has logged in yet. Raises the RequestError that another response stands for;
    ServerFailed if the response cannot be read.
    """
    try:
        values = parse_object(frame.body, max_parts=None) if frame.body else {}
        values = {key: value for key, value in values.items() if value is not None}
        if frame.status == Status.SUCCESS:
            return decode(values)
    except (Refused, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServerFailed("", "The server sent a response that this client cannot read.") from error
    is_original = may_be_original and not frame.body
    likely_code = LIKELY_CODES.get((frame.type, frame.status), "") if is_original else ""
    # Not a local variable: its traceback would refer to this frame, and so to itself.
    raise _refusal(frame, values, likely_code)


def _refusal(frame: Frame, values: Mapping[str, Any], likely_code: str) -> RequestError:
    """Return the error for a response that is not SUCCESS."""
    code, sentence = str(values.get("error", "")), str(values.get("message", ""))
    refusal = error_for(frame.status, code, sentence, likely_code, _retry_after(values))
    if frame.type in MESSAGES and code == ErrorCode.LIMIT_REACHED:  # of the messages that wait for others
        refusal = InboxFull(code, sentence)
        refusal.retry_after = _retry_after(values)
    return refusal


def _retry_after(values: Mapping[str, Any]) -> float | None:
    """The seconds after which a server wants the request again; None if it does not say."""
    milliseconds = values.get("retryAfter")
    # Not isinstance: a bool is no number here.
    return min(max(0.0, milliseconds / 1000), MAX_RETRY_AFTER) if milliseconds.__class__ is int else None


def encode(type: int, values: Mapping[str, Any], max_body: int) -> bytes:
    """Return the frame of a request.

    Raises RequestRejected if the body cannot be encoded or has more than `max_body` bytes: the
    server would refuse the request, or even close the connection.
    """
    try:
        frame = encode_request(type, values)
    except UnicodeEncodeError:
        sentence = "The text contains half of a surrogate pair, which cannot be sent: remove it."
        raise RequestRejected(ErrorCode.MALFORMED_BODY, sentence) from None
    size = len(frame) - HEADER.size
    if size > max_body:
        sentence = f"The request has {size:,} bytes, but at most {max_body:,} can be sent: shorten it."
        raise RequestRejected(ErrorCode.TOO_LONG, sentence)
    return frame


def seconds_to_wait(frame: Frame) -> float | None:
    """The seconds after which to send a request again that was refused for the rate.

    None if the response says something else, or not how long.
    """
    try:
        decode_response(frame, dict)
    except RateLimited as error:
        return error.retry_after if error.code == ErrorCode.RATE_LIMITED else None
    except RequestError:
        pass
    return None


def is_retryable(frame: Frame) -> bool:
    """Whether a response says that the same request may succeed later."""
    try:
        decode_response(frame, dict)
    except InboxFull:  # not soon; and the server has looked whether it has the message
        return False
    except ServerBusy:
        return True
    except RequestError:
        pass
    return False


def timed_out(seconds: float) -> RequestTimeout:
    """The error for a request without a response in time."""
    return RequestTimeout("", f"The server did not answer within {seconds:g} seconds. It may have done this or not.")


def describe(error: Exception) -> str:
    """Say what a network error means, as a part of a sentence."""
    if isinstance(error, SSLCertVerificationError):
        return describe_problem(error)
    if isinstance(error, SSLError):
        return f"TLS failed ({(error.reason or 'no reason given').replace('_', ' ').lower()})"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.rstrip(".")
