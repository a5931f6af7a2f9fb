"""A request that waits for its answer, and what an answer means."""

from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLError
from typing import Any, Generic, TypeVar

from jelly.client.callbacks import Reply
from jelly.codec import Frame, Status
from jelly.errors import ErrorCode, Refused, RequestError, ServerBusy, ServerFailed, error_for
from jelly.messages import parse_object

T = TypeVar("T")
Decode = Callable[[dict[str, Any]], T]
"""Makes a result of the values in a SUCCESS. Raises LookupError, TypeError or ValueError if they are not as agreed."""


@dataclass(slots=True, eq=False)
class Request(Generic[T]):
    """A request that has no response yet."""

    type: int
    decode: Decode[T]
    future: Reply[T]
    frame: bytes = b""
    request_id: str | None = None
    """The idempotency key of a message; None if the request must not be sent twice."""
    deadline: float = float("inf")
    """The monotonic time until which the response must arrive; counts from when the request is sent."""
    # `PendingRequests` counts these:
    number: int = 0
    """Its place in the order."""
    sends: int = 0
    connection_losses: int = 0
    """How many connections were lost while it was in flight."""
    timeouts: int = 0
    retries: int = 0
    """How many times it was sent again because the server was too busy."""

    @property
    def is_resend(self) -> bool:
        """Whether it was written before: then "nothing was done" says nothing about the first time."""
        return self.request_id is not None and self.sends > 1

    def finish(self, frame: Frame) -> None:
        """End its future with what the server answered."""
        try:
            result = read_answer(frame, self.decode)
        except RequestError as error:
            self.fail(error)
        else:
            self.future.set_result(result)

    def fail(self, error: RequestError) -> None:
        """End its future without an answer (unless it was cancelled, as those can be that were not written)."""
        if self.future.running() or self.future.set_running_or_notify_cancel():
            # Its traceback leads here, and so to the future, which only the garbage collector could free then.
            self.future.set_exception(error.with_traceback(None))


def read_answer(frame: Frame, decode: Decode[T]) -> T:
    """What a response says. Raises RequestError: what the server said, or ServerFailed if that cannot be read."""
    try:
        values = parse_object(frame.body) if frame.body else {}
        values = {key: value for key, value in values.items() if value is not None}
        if frame.status == Status.SUCCESS:
            return decode(values)
    except (Refused, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServerFailed("", "The server's answer cannot be read.") from error
    raise error_for(frame.status, str(values.get("error", "")), str(values.get("message", "")))


def is_refused_for_now(frame: Frame) -> bool:
    """Whether a response says to try again later."""
    try:
        read_answer(frame, dict)
    except ServerBusy:
        return True
    except RequestError as error:
        return error.code == ErrorCode.RATE_LIMITED
    return False


def why(error: Exception) -> str:
    """What an error of the network says, as a part of a sentence."""
    if isinstance(error, SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message.rstrip('.')})"
    if isinstance(error, SSLError):
        return f"TLS failed ({(error.reason or 'no reason given').replace('_', ' ').lower()})"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.rstrip(".")
