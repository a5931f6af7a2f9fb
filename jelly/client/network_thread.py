"""The network thread: it runs one login, from the first connection until the client is offline.

Only this thread reads. It pairs responses with requests, sends heartbeats, checks deadlines, and
after a lost connection it reconnects with the token. With several addresses it begins with the next
one, and goes round. `_deliver` alone runs on the callback thread.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jelly.client.addresses import Address
from jelly.client.callbacks import CallbackThread, RequestFuture
from jelly.client.handshake import (
    PROBE,
    PROBE_TYPE,
    Endpoint,
    do_handshake,
    do_handshake_anywhere,
    is_running,
)
from jelly.client.lifecycle import FOREVER, Lifecycle
from jelly.client.pending import Failures
from jelly.client.pipeline import Pipeline
from jelly.client.poller import READ, Poller, Stopped
from jelly.client.requests import Request, decode_response, describe, is_retryable, seconds_to_wait
from jelly.client.states import Reason, ReconnectPolicy, State, checked_pauses
from jelly.client.stream import FrameStream
from jelly.codec import Frame, Sign, Status, Type
from jelly.errors import ConnectionLost, ErrorCode, Refused, RequestError, RequestRejected, RequestTimeout, ServerFailed
from jelly.requests import MESSAGES, encode_request
from jelly.strict_json import parse_object

log = logging.getLogger("jelly.client")

STABLE_AFTER = 5.0
"""Seconds after which a connection counts as stable. When it is lost later than that, the pauses of
the policy start again from the first, which is 0."""
ENDINGS = {
    "taken_over": Reason.TAKEN_OVER,
    "password_changed": Reason.PASSWORD_CHANGED,
    "logged_out": Reason.ENDED,
}
"""The events after which the client does not reconnect, and why."""

Values = Mapping[str, Any]
Connection = tuple[FrameStream, list[Frame]]
"""A connection on which the server has accepted the user, and the frames that came with the
response."""
Credentials = Callable[[], str | None]
"""Returns the password of the user, from wherever the application has it; None if it has none."""


class Opening(NamedTuple):
    """With which request the client comes back: RECONNECT, or LOGIN."""

    type: Type
    values: Values


class NetworkThread:
    """What the network thread of one login does. Each login has a new one."""

    def __init__(
        self,
        endpoint: Endpoint,
        policy: ReconnectPolicy | None,
        features: tuple[str, ...],
        device: str | None,
        credentials: Credentials | None,
        lifecycle: Lifecycle,
        pipeline: Pipeline,
        callbacks: CallbackThread,
        on_notice: Callable[[int, Values], Callable[[], None]],
    ) -> None:
        self._endpoint, self._policy = endpoint, policy
        self._credentials = credentials
        self._asked = {"features": list(features) or None, "device": device}
        self._lifecycle, self._pipeline, self._callbacks = lifecycle, pipeline, callbacks
        self._lock = lifecycle.lock
        self._on_notice = on_notice
        self._ended_by: Reason | None = None  # why the server has said that it ends the session
        self._is_shutting_down = False  # the server in use has said that it stops
        self._probe_not_before = 0.0  # it has shown that it runs, so it is left alone until this monotonic time

    def run(self, request: Request[Any], user: str, token: int, poller: Poller) -> None:
        """Run one login from the first connection until the client is offline."""
        try:
            stream, early_frames = self._log_in(request, user, token, poller)
        except Exception as error:
            if not isinstance(error, RequestError):  # a bug: log it, and end the future all the same
                log.exception("the login of %s failed", user)
            with self._lock:
                self._lifecycle.set_state(State.OFFLINE, Reason.LOGIN_FAILED, error)
            request.future.fail(error, request.name)
            return
        pauses: Iterator[float] | None = None
        while True:
            cause = self._serve_connection(stream, early_frames, poller)
            if not self._connection_lost(stream, cause):
                return
            if time.monotonic() - stream.opened_at >= STABLE_AFTER:
                pauses = None
            try:
                pauses = pauses or self._pauses()
            except Exception as error:  # of the application's policy
                log.exception("%s: cannot reconnect", user)
                self._stay_offline(Reason.GAVE_UP, error)
                return
            reconnected = self._reconnect(pauses, poller)
            if reconnected is None:
                return
            stream, early_frames = reconnected

    def _log_in(self, request: Request[Any], user: str, token: int, poller: Poller) -> Connection:
        try:
            stream, response, early_frames = do_handshake_anywhere(self._endpoint, request.type, request.frame, poller)
        except Stopped as error:
            raise ConnectionLost("The client was closed before the login was complete.", error.was_sent) from None
        try:
            login = decode_response(response, request.decode)
            values = decode_response(response, dict)
            with self._lock:
                self._lifecycle.user = user
                self._lifecycle.token = int(values["token"]) if request.type == Type.LOGIN else token
                self._enter_online(stream, values, Reason.LOGGED_IN)
            log.info("%s: logged in at %s", user, stream.address)
        except BaseException:
            stream.close()
            raise
        request.future.set_result(login)
        return stream, early_frames

    def _reconnect(self, pauses: Iterator[float], poller: Poller) -> Connection | None:
        """Try the token until the server accepts or refuses it, or the policy ends.

        Returns None if the client stays offline.
        """
        reason = Reason.GAVE_UP
        failure: Exception | None = None
        user, token = self._lifecycle.user, self._lifecycle.token
        opening = Opening(Type.RECONNECT, {"username": user, "token": token, **self._asked})
        try:
            for pause in pauses:
                poller.sleep(pause)
                address = self._endpoint.addresses.current
                try:
                    try:
                        return self._log_in_again(address, opening, poller)
                    except RequestRejected as error:
                        opening = self._opening_with_password(error, opening)
                    return self._log_in_again(address, opening, poller)
                except RequestRejected as error:
                    reason, failure = Reason.TOKEN_REFUSED, error
                    break
                except RequestError as error:
                    log.info("%s: cannot reconnect to %s yet: %s", user, address, error)
                    failure = error
                    self._endpoint.addresses.failed(address)
        except Stopped:
            reason, failure = Reason.LOGGED_OUT, None
        except Exception as error:  # a bug, perhaps in the application's policy: end the futures all the same
            log.exception("%s: cannot reconnect", user)
            failure = error
        self._stay_offline(reason, failure)
        return None

    def _stay_offline(self, reason: Reason, failure: Exception | None) -> None:
        """Give up: change the state, and end the messages that wait for another connection."""
        with self._lock:
            if self._lifecycle.is_open:
                self._lifecycle.set_state(State.OFFLINE, reason, failure)
            failures = self._pipeline.pending.reconnect_failed(
                f"The connection was lost before there was a response, and the client stays offline ({reason.value})."
            )
        _fail_all(failures)

    def _opening_with_password(self, refusal: RequestRejected, refused: Opening) -> Opening:
        """Ask the application for the password, because the token was refused.

        Raises the refusal if the application has none, or must not be asked.
        """
        # Jelly does not tell a classic client of a takeover: it refuses the token. To log in with
        # the password would throw the other client out.
        may_be_takeover = self._pipeline.features is None and bool(refusal.code)
        is_of_token = refused.type is Type.RECONNECT and refusal.likely_code == ErrorCode.INVALID_TOKEN
        if self._credentials is None or not is_of_token or may_be_takeover:
            raise refusal
        user = self._lifecycle.user
        log.info("%s: the token was refused: asking for the password", user)
        try:
            password = self._credentials()
            if password is None:
                raise refusal
            if not isinstance(password, str):
                raise TypeError(f"credentials returned {type(password).__name__} instead of a text")
        except RequestRejected:
            raise
        except Exception:
            log.exception("%s: there is no password", user)
            raise refusal from None
        return Opening(Type.LOGIN, {"username": user, "password": password, **self._asked})

    def _log_in_again(self, address: Address, opening: Opening, poller: Poller) -> Connection:
        frame = encode_request(opening.type, opening.values)
        stream, response, early_frames = do_handshake(self._endpoint, address, opening.type, frame, poller)
        try:
            values = decode_response(response, dict)
            with self._lock:
                if poller.is_stopped or not self._lifecycle.is_open:
                    raise Stopped
                if opening.type is Type.LOGIN:
                    self._lifecycle.token = int(values["token"])
                self._enter_online(stream, values, Reason.RECONNECTED)
                failures = self._pipeline.pending.reconnected(has_request_ids=self._pipeline.has_acks)
            log.info("%s: reconnected at %s", self._lifecycle.user, address)
            _fail_all(failures)
        except BaseException:
            stream.close()
            raise
        return stream, early_frames

    def _enter_online(self, stream: FrameStream, values: Values, reason: Reason) -> None:
        """With the lock held: the server has accepted the login on this connection."""
        granted = values.get("features")
        self._is_shutting_down = False
        self._probe_not_before = 0.0
        self._endpoint.addresses.keep(stream.address)
        self._lifecycle.address = str(stream.address)
        self._pipeline.connected(stream, frozenset(map(str, granted)) if isinstance(granted, list) else None)
        self._lifecycle.set_state(State.ONLINE, reason)

    def _serve_connection(self, stream: FrameStream, early_frames: list[Frame], poller: Poller) -> Exception:
        """Read, send what is due and watch the clock; return why the connection ended."""
        try:
            self._handle_frames(early_frames)
            while True:
                if self._should_leave():
                    raise EOFError("the server is shutting down")
                with self._lock:
                    may_read = self._lifecycle.is_open and not self._callbacks.is_full
                    events, until = self._pipeline.plan(stream, may_read)
                    until = min(until, self._probe_at(stream), self._idle_until(stream))
                if poller.wait(stream.sock, events, until) & READ:
                    self._handle_frames(stream.receive())
                stream.flush()
                if stream.failure:
                    self._receive_the_rest(stream)
                    raise stream.failure
                with self._lock:
                    self._pipeline.do_due_work(stream)
                self._probe_if_silent(stream, poller)
        except (OSError, EOFError, RequestTimeout, Stopped) as error:
            return error
        except Exception as error:  # a bug: log it, and end the futures all the same
            log.exception("the connection of %s failed", self._lifecycle.user)
            return error

    def _should_leave(self) -> bool:
        """Whether the server has said that it stops, and there are others.

        It has answered what it will answer by then. So waiting for the end costs time, and brings
        nothing. (But the response to a LOGOUT is the end.)
        """
        if not self._is_shutting_down or self._policy is None or not self._endpoint.addresses.has_others:
            return False
        with self._lock:
            return self._lifecycle.is_open and not self._pipeline.pending.has_logout

    def _has_alternative(self) -> bool:
        """Whether the client would reconnect to another server, and this one knows probes."""
        return (
            self._endpoint.addresses.has_others
            and self._policy is not None
            and self._pipeline.features is not None
            and self._lifecycle.is_open
        )

    def _probe_at(self, stream: FrameStream) -> float:
        """With the lock held: when to ask on a second connection whether the server runs."""
        if not self._has_alternative():
            return FOREVER
        return max(self._pipeline.silent_since(stream) + self._endpoint.connect_timeout / 2, self._probe_not_before)

    def _idle_until(self, stream: FrameStream) -> float:
        """With the lock held: when to send a request only to see whether the server answers.

        Heartbeats have no answer: without this, a connection on which nothing comes from the server
        any more would stay for ever. Not while the client does not read because callbacks wait: the
        silence is its own then.
        """
        is_watched = self._lifecycle.is_open and not self._callbacks.is_full
        return self._pipeline.idle_until(stream) if is_watched else FOREVER

    def _probe_if_silent(self, stream: FrameStream, poller: Poller) -> None:
        """Ask a server that has sent nothing for long, which ends in a timeout if it is away.

        If there are other servers, find out on a second connection whether this one is frozen: a
        connection to a frozen process stays open, because its kernel goes on. Raises TimeoutError
        if it is.
        """
        with self._lock:
            now = time.monotonic()
            if now >= self._idle_until(stream):
                self._pipeline.submit(self._new_probe())
            is_due = now >= self._probe_at(stream)
        if not is_due:
            return
        seconds = self._endpoint.connect_timeout / 2
        if not is_running(self._endpoint, stream.address, poller, now + seconds) and not poller.wait(
            stream.sock, READ, time.monotonic()
        ):
            raise TimeoutError("the server does nothing, is it frozen")
        self._probe_not_before = time.monotonic() + 4 * seconds

    def _new_probe(self) -> Request[Any]:
        """Return a request that only asks for an answer."""
        type, frame = PROBE_TYPE, PROBE
        if self._pipeline.features is None:  # perhaps the original server, which knows no probes
            type, frame = Type.OWN_PROFILE, encode_request(Type.OWN_PROFILE, {"username": self._lifecycle.user})
        probe = Request(type, dict, RequestFuture[dict[str, Any]](self._callbacks), frame)
        probe.future.hear()  # a refusal is what it is for
        return probe

    def _receive_the_rest(self, stream: FrameStream) -> None:
        """Handle what the server sent before it closed.

        Sending fails, but these frames can still be read. They may tell of a takeover.
        """
        with contextlib.suppress(OSError, EOFError):
            while not self._lifecycle.is_stopping:
                self._handle_frames(stream.receive())

    def _handle_frames(self, frames: list[Frame]) -> None:
        self._pipeline.is_handling_frames = True
        for frame in frames:
            if frame.sign == Sign.RESPONSE:
                self._handle_response(frame)
            elif frame.sign == Sign.NOTICE:
                self._handle_notice(frame)
            else:
                log.warning("dropped a frame with the sign 0x%02x", frame.sign)
        with self._lock:
            self._pipeline.is_handling_frames = False
            self._pipeline.acknowledge(self._pipeline.acks.ack_duplicates())
            self._lock.notify_all()

    def _handle_response(self, frame: Frame) -> None:
        with self._lock:
            request = self._pipeline.pending.match_response(frame.type)
            if request is not None and frame.status == Status.REQUEST_ERROR:
                seconds = seconds_to_wait(frame)
                if seconds is not None:
                    self._pipeline.slow_down(request, seconds)
                    return
            self._pipeline.speed_up()
            is_busy_resend = request is not None and request.is_resend and is_retryable(frame)
            # Under the same lock: no newer request may be sent between the response and the retry.
            if request is not None and is_busy_resend and self._pipeline.retry_later(request):
                return
            after = _place_of_next_page(request, frame)
            if request is not None and after is not None and self._pipeline.pending.ask_for_page(request, after):
                return
        if request is None:
            log.warning("dropped a response of type 0x%02x for which no request is pending", frame.type)
        elif is_busy_resend:
            sentence = "The server was too busy to say whether it had stored this message the first time."
            request.fail(ServerFailed("", sentence))
        elif after is not None:
            request.fail(ConnectionLost("You logged out before the list was complete.", sent=True))
        else:
            request.complete(frame, self._pipeline.features is None)

    def _handle_notice(self, frame: Frame) -> None:
        try:
            values = {key: value for key, value in parse_object(frame.body).items() if value is not None}
            call = self._on_notice(frame.type, values)
            id = values.get("id") if frame.type in MESSAGES else None
        except (Refused, LookupError, TypeError, ValueError) as error:
            log.warning("dropped a notice of type 0x%02x that cannot be read: %r", frame.type, error)
            return
        if frame.type == Type.SYSTEM:
            self._ended_by = ENDINGS.get(str(values.get("event")), self._ended_by)
            self._is_shutting_down = self._is_shutting_down or values.get("event") == "shutdown"
        if frame.type == Type.SYSTEM and values.get("event") == "presence":
            with self._lock:
                self._pipeline.pending.note_presence(values.get("friend"), values.get("online"))
        if id.__class__ is not int:  # not isinstance: a bool is no id
            self._callbacks.submit(call)
            return
        with self._lock:
            is_new = self._pipeline.acks.is_new(id, _fingerprint(self._lifecycle.user, frame.type, values))
        if is_new:
            self._callbacks.submit(lambda: self._deliver(id, call))

    def _connection_lost(self, stream: FrameStream, error: Exception) -> bool:
        """Change the state, and end the requests that cannot be sent again.

        Returns whether to reconnect.
        """
        reason = None
        with self._lock:
            self._pipeline.stream = None
            self._pipeline.is_handling_frames = False
            if self._lifecycle.is_open:
                cause = None if isinstance(error, EOFError | Stopped) else error
                state, reason = self._state_after_loss()
                self._lifecycle.set_state(state, reason, cause)
                if reason is Reason.CONNECTION_LOST:
                    self._endpoint.addresses.failed(stream.address)
            will_reconnect = self._lifecycle.state is State.RECONNECTING
            sentence = f"The connection to {stream.address} was lost before there was a response: {describe(error)}."
            failures = self._pipeline.pending.connection_lost(error, sentence, will_reconnect)
            self._lock.notify_all()
        stream.close()
        if reason is Reason.CONNECTION_LOST:
            log.info("%s: the connection to %s was lost: %s", self._lifecycle.user, stream.address, error)
        for request, failure in failures:
            if request.type == Type.LOGOUT and isinstance(error, EOFError) and request.sends:
                request.future.set_result(None)
            else:
                request.fail(failure)
        return will_reconnect

    def _state_after_loss(self) -> tuple[State, Reason]:
        if self._pipeline.pending.has_logout:
            return State.OFFLINE, Reason.LOGGED_OUT
        # Two clients that both reconnected after a takeover would throw each other out for ever. (A
        # server that only closes has another reason: Jelly refuses the token of a classic client
        # that was taken over, and the original keeps both connections.)
        if self._ended_by:
            return State.OFFLINE, self._ended_by
        return (State.RECONNECTING if self._policy else State.OFFLINE), Reason.CONNECTION_LOST

    def _pauses(self) -> Iterator[float]:
        return self._endpoint.addresses.pauses(checked_pauses(self._policy.pauses())) if self._policy else iter(())

    def _deliver(self, id: int, call: Callable[[], None]) -> None:
        """Let the application process a message with an id, then acknowledge it."""
        with self._lock:
            # A client that is closing without a connection cannot acknowledge the message any more.
            # The server keeps it and sends it after the next login.
            if not self._lifecycle.is_open and self._pipeline.stream is None:
                return
        try:
            call()
        finally:
            with self._lock:
                self._pipeline.acknowledge(self._pipeline.acks.delivered(id, time.monotonic()))


def _fingerprint(user: str, type: int, values: Values) -> int:
    """A number that tells a message from another one with the same id.

    Not of the body: two servers of different versions may write the same message differently.
    """
    return hash((user, type, *(str(values.get(key)) for key in ("sender", "receiver", "content", "time"))))


def _place_of_next_page(request: Request[Any] | None, frame: Frame) -> str | None:
    """Note a page of a list; return the place of the next one, None if there is none."""
    if request is None or request.pages is None or frame.status != Status.SUCCESS:
        return None
    try:
        return request.pages.add(frame.body)
    except (Refused, TypeError, AttributeError):  # the future will say so
        return None


def _fail_all(failures: Failures) -> None:
    for request, error in failures:
        request.fail(error)
