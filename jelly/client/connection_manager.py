"""The life of one client: login, requests, lost connections and reconnecting, close.

**Threads.** Each login starts a *network thread*, which lives until the client is offline again. Only
this thread reads. It pairs responses with requests, sends heartbeats, checks deadlines, and after a
lost connection it reconnects with the token. Requests are sent by the threads that make them, at once
where that is allowed (`pipeline.py`). The application's code runs on a third thread (`callbacks.py`).

**Exactly once, while the program runs.** Messages with ids are acknowledged when the application has
processed them, and duplicates are dropped (`acks.py`). Messages that had no response when the
connection was lost are sent again with the same idempotency key (`pending.py`).

**The lock** guards everything that is marked so below. Nobody waits while holding it (except in
`wait_for`, which releases it), and no code of the application runs under it; futures are ended without
it. Lock order: this lock, then those of `FrameStream`, `Poller` or `CallbackThread`.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from jelly.client.callbacks import CallbackThread, RequestFuture
from jelly.client.handshake import Endpoint, do_handshake
from jelly.client.pending import Failures
from jelly.client.pipeline import FOREVER, Pipeline
from jelly.client.poller import READ, Poller, Stopped
from jelly.client.requests import Decode, Request, decode_response, describe, encode, is_retryable
from jelly.client.states import Reason, ReconnectPolicy, State
from jelly.client.stream import FrameStream
from jelly.codec import Frame, Sign, Type
from jelly.errors import (
    ConnectionLost,
    ErrorCode,
    Refused,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerFailed,
)
from jelly.messages import MESSAGES, encode_request, parse_object

log = logging.getLogger("jelly.client")

MAX_QUEUED = 1000
"""At most this many requests wait to be sent. A thread that makes another one waits until there is room."""
STABLE_AFTER = 5.0
"""Seconds after which a connection counts as stable. When it is lost later than that, the pauses of the
policy start again from the first, which is 0."""
QUICK_CLOSE, MAX_QUICK_CLOSES = 60.0, 4
"""A server that grants no features does not say that another login has taken over: it only closes the
connection. When it closes this many connections in a row, each within this many seconds, the client
assumes that another program wants the account, too, and stops."""
WAIT_SLICE = 1.0
"""Seconds after which `wait` wakes up to let Python handle a Ctrl-C."""

T = TypeVar("T")
Values = Mapping[str, Any]


class Phase(Enum):
    """How far `close` has come. A phase only ever changes to the next one.

    | from     | to       | when                                                                     |
    | -------- | -------- | ------------------------------------------------------------------------ |
    | OPEN     | CLOSING  | `close` was called                                                       |
    | CLOSING  | STOPPING | no request and no callback is left to wait for, or the time is up        |
    | STOPPING | CLOSED   | the threads have ended (or were given up), and `close` returns           |
    """

    OPEN = "open"
    """Everything is allowed."""
    CLOSING = "closing"
    """Only callbacks may make requests; the client reads only while requests are in flight, and does not reconnect."""
    STOPPING = "stopping"
    """Nobody may make requests; the threads are told to end."""
    CLOSED = "closed"


class ConnectionManager:
    """What is behind the operations of a `JellyClient`. Any thread may call the public methods."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        policy: ReconnectPolicy | None,
        heartbeat: float,
        features: tuple[str, ...],
        max_body: int,
        on_notice: Callable[[int, Values], Callable[[], None]],
        on_change: Callable[[State, State, Reason, Exception | None], Callable[[], None]],
    ) -> None:
        """`on_notice` and `on_change` return the function to call on the callback thread; they must not wait.

        `policy`: None means not to reconnect. `heartbeat`: seconds without sending until a heartbeat is
        sent. `max_body`: bytes that the body of a request may have.
        """
        self._endpoint, self._policy = endpoint, policy
        self._features, self._max_body = features, max_body
        self._on_notice, self._on_change = on_notice, on_change
        self._callbacks = CallbackThread(on_room=self._wake)

        self._lock = threading.Condition()  # guards everything below
        self._phase = Phase.OPEN
        self._state = State.OFFLINE
        self._user = ""
        self._token = 0
        self._pipeline = Pipeline(self._lock, self._wake, endpoint.request_timeout, heartbeat)
        self._threads: dict[threading.Thread, Poller] = {}  # the network thread, and those that register
        self._poller: Poller | None = None  # the network thread's
        self._was_taken_over = False  # the server has said so
        self._is_handling_frames = False  # callbacks may still come of frames that were received

    # --- for any thread -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Whether the client is online; it may change at any moment."""
        return self._state

    @property
    def username(self) -> str | None:
        """Who is logged in; None while nobody is."""
        return self._user if self._state in (State.ONLINE, State.RECONNECTING) else None

    def login(self, type: Type, username: str, values: Values, decode: Decode[T]) -> RequestFuture[T]:
        """Start a network thread that begins with this LOGIN or RECONNECT."""
        token = int(values.get("token", 0))
        request = Request(type, decode, RequestFuture[T](self._callbacks))
        try:
            request.frame = encode(type, {**values, "features": list(self._features) or None}, self._max_body)
            with self._lock:
                if self._state not in (State.OFFLINE, State.CLOSED):
                    sentence = "This client is logged in already, or logging in: log out first."
                    raise RequestRejected(ErrorCode.ALREADY_LOGGED_IN, sentence)
                run = functools.partial(self._run, request, username, token)
                request.future.set_running_or_notify_cancel()
                self._poller = self._start("jelly-client-network", run)
                self._was_taken_over = False
                self._set_state(State.CONNECTING, Reason.LOGIN)
        except RequestError as error:
            request.fail(error)
        return request.future

    def register(self, values: Values, decode: Decode[T]) -> RequestFuture[T]:
        """Send a REGISTER on a connection of its own, because the server closes that connection afterwards."""
        request = Request(Type.REGISTER, decode, RequestFuture[T](self._callbacks))

        def run(poller: Poller) -> None:
            try:
                handshake = do_handshake(self._endpoint, request.type, request.frame, poller)
            except Stopped as error:
                request.fail(ConnectionLost("The client was closed before there was a response.", error.was_sent))
            except Exception as error:  # a RequestError, or a bug
                request.future.set_exception(error)
            else:
                handshake.stream.close()
                request.complete(handshake.response)

        try:
            request.frame = encode(request.type, values, self._max_body)
            request.future.set_running_or_notify_cancel()
            with self._lock:
                self._start("jelly-client-register", run)
        except RequestError as error:
            request.fail(error)
        return request.future

    def request(self, type: Type, values: Values, decode: Decode[T], feature: str = "") -> RequestFuture[T]:
        """Send a request of the user who is logged in. Waits if MAX_QUEUED requests are queued.

        `feature`: the feature that the server must grant to know this request.
        """
        request = Request(type, decode, RequestFuture[T](self._callbacks))
        pipeline = self._pipeline
        try:
            with self._lock:
                self._lock.wait_for(lambda: len(pipeline.pending.queued) < MAX_QUEUED)
                self._check_online()
                if feature and feature not in (pipeline.features or ()):
                    raise RequestRejected(ErrorCode.UNKNOWN_TYPE, "This server does not support this request.")
                actor = "sender" if type in MESSAGES else "username"
                if type in MESSAGES and pipeline.has_acks:
                    request.request_id = pipeline.pending.new_request_id()
                values = {actor: self._user, **values, "requestId": request.request_id}
                request.frame = encode(type, values, self._max_body)
                pipeline.submit(request)
        except RequestError as error:
            request.fail(error)
        return request.future

    def logout(self) -> RequestFuture[None]:
        """Send LOGOUT, whose response is the end of the connection. While RECONNECTING: only stop trying."""
        with self._lock:
            if self._state is State.RECONNECTING and self._poller is not None:
                self._poller.stop()
            # The server reads no acknowledgement after a LOGOUT.
            self._pipeline.acknowledge(self._pipeline.acks.ack_delivered())
            return self.request(Type.LOGOUT, {"token": self._token}, lambda _: None)

    def wait(self, timeout: float | None) -> bool:
        """Wait until the client is OFFLINE or CLOSED, at most `timeout` seconds; return whether it is."""
        deadline = FOREVER if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._state not in (State.OFFLINE, State.CLOSED):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                # In slices: Python handles a Ctrl-C that comes just before the wait when the wait ends.
                self._lock.wait(min(left, WAIT_SLICE))
            return True

    def wait_until_online(self, timeout: float | None) -> bool:
        """Wait while a login or a reconnect is under way, at most `timeout` seconds; return whether it is ONLINE."""
        with self._lock:
            self._lock.wait_for(lambda: self._state not in (State.CONNECTING, State.RECONNECTING), timeout)
            return self._state is State.ONLINE

    def close(self, timeout: float) -> None:
        """Wait for responses and callbacks, at most `timeout` seconds, then end the threads.

        Callbacks may make requests until the last callback has returned.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._phase is not Phase.OPEN:
                if not self._callbacks.is_current_thread:  # the other call may wait for this very callback
                    self._lock.wait_for(lambda: self._phase is Phase.CLOSED, timeout)
                return
            self._phase = Phase.CLOSING
            self._wake()
        while not self._wait_until_idle(deadline) and time.monotonic() < deadline:
            pass
        has_slow_callback = not (self._callbacks.is_current_thread or self._callbacks.wait_until_idle(deadline))
        with self._lock:
            self._phase = Phase.STOPPING
            self._pipeline.acknowledge(self._pipeline.acks.ack_delivered())
            threads = dict(self._threads)
        for poller in threads.values():
            poller.stop()
        for thread in threads:  # a thread waits only in its poller; only resolving a host name cannot be interrupted
            thread.join(max(1.0, deadline - time.monotonic()))
        with self._lock:
            self._set_state(State.CLOSED, Reason.CLOSED)
        # Requests that failed just now have listeners to call. A slow callback has had its time already.
        self._callbacks.shutdown(deadline if has_slow_callback else max(deadline, time.monotonic() + 1.0))
        with self._lock:
            self._phase = Phase.CLOSED
            self._lock.notify_all()

    def _wait_until_idle(self, deadline: float) -> bool:
        """Wait for the responses, then for the callbacks; return whether the callbacks made no more requests."""
        with self._lock:
            self._lock.wait_for(lambda: not self._has_open_requests(), max(0.0, deadline - time.monotonic()))
        is_idle = self._callbacks.is_current_thread or self._callbacks.wait_until_idle(deadline)
        with self._lock:
            is_idle = is_idle and not self._has_open_requests()
            if is_idle:  # under the same lock: from here on nobody may make a request
                self._phase = Phase.STOPPING
            return is_idle

    def _has_open_requests(self) -> bool:
        pending = self._pipeline.pending
        is_starting = self._state is State.CONNECTING or any(t.name.endswith("register") for t in self._threads)
        return bool(pending.in_flight or pending.queued or self._is_handling_frames or is_starting)

    def _check_online(self) -> None:
        """With the lock held: raise the error for a request that cannot be made now."""
        is_closing = self._phase is Phase.CLOSING
        if self._phase in (Phase.STOPPING, Phase.CLOSED) or (is_closing and not self._callbacks.is_current_thread):
            raise _closed()
        # A client that is closing does not reconnect, and its state is not updated any more.
        if self._state is State.RECONNECTING or (is_closing and self._pipeline.stream is None):
            sentence = "There is no connection to the server now: try again when the client is online."
            raise ConnectionLost(sentence, sent=False)
        if self._state is not State.ONLINE or self._pipeline.pending.has_logout:
            raise RequestRejected(ErrorCode.NOT_LOGGED_IN)

    def _start(self, name: str, target: Callable[[Poller], None]) -> Poller:
        """With the lock held: start a thread, and keep it in `_threads` until it ends. Raises ConnectionLost."""
        if self._phase is not Phase.OPEN:
            raise _closed()

        def run() -> None:
            try:
                target(poller)
            finally:
                poller.close()
                with self._lock:
                    del self._threads[threading.current_thread()]
                    self._lock.notify_all()

        thread = threading.Thread(target=run, name=name, daemon=True)
        try:
            self._callbacks.start()
            poller = Poller()
            try:
                thread.start()
            except BaseException:
                poller.close()
                raise
        except (OSError, RuntimeError) as error:
            sentence = f"This process cannot open a connection: {describe(error)}. Close others, or raise its limits."
            raise ConnectionLost(sentence, sent=False) from error
        self._threads[thread] = poller
        return poller

    def _wake(self) -> None:
        poller = self._poller
        if poller is not None:
            poller.wake()

    # --- the network thread -------------------------------------------------------------------------------

    def _run(self, request: Request[Any], user: str, token: int, poller: Poller) -> None:
        """Run one login from the first connection until the client is offline."""
        try:
            stream, early_frames = self._log_in(request, user, token, poller)
        except Exception as error:
            if not isinstance(error, RequestError):  # a bug: log it, and end the future all the same
                log.exception("the login of %s failed", user)
            with self._lock:
                self._set_state(State.OFFLINE, Reason.LOGIN_FAILED, error)
            request.future.set_exception(error)
            return
        pauses, quick_closes = self._pauses(), 0
        while True:
            cause = self._serve_connection(stream, early_frames, poller)
            age = time.monotonic() - stream.opened_at
            was_closed = self._pipeline.features is None and isinstance(cause, EOFError)
            quick_closes = 0 if age >= QUICK_CLOSE else quick_closes + was_closed
            if not self._connection_lost(stream, cause, quick_closes >= MAX_QUICK_CLOSES):
                return
            if age >= STABLE_AFTER:
                pauses = self._pauses()
            reconnected = self._reconnect(pauses, poller)
            if reconnected is None:
                return
            stream, early_frames = reconnected

    def _log_in(self, request: Request[Any], user: str, token: int, poller: Poller) -> tuple[FrameStream, list[Frame]]:
        try:
            stream, response, early_frames = do_handshake(self._endpoint, request.type, request.frame, poller)
        except Stopped as error:
            raise ConnectionLost("The client was closed before the login was complete.", error.was_sent) from None
        try:
            login = decode_response(response, request.decode)
            values = decode_response(response, dict)
            with self._lock:
                self._user, self._token = user, int(values["token"]) if request.type == Type.LOGIN else token
                self._enter_online(stream, values, Reason.LOGGED_IN)
        except BaseException:
            stream.close()
            raise
        request.future.set_result(login)
        return stream, early_frames

    def _reconnect(self, pauses: Iterator[float], poller: Poller) -> tuple[FrameStream, list[Frame]] | None:
        """Try the token until the server accepts or refuses it, or the policy ends.

        Returns None if the client stays offline.
        """
        reason = Reason.GAVE_UP
        failure: RequestError | None = None
        values = {"username": self._user, "token": self._token, "features": list(self._features) or None}
        frame = encode_request(Type.RECONNECT, values)
        try:
            for pause in pauses:
                poller.sleep(pause)
                try:
                    return self._send_token(frame, poller)
                except RequestRejected as error:
                    reason, failure = Reason.TOKEN_REFUSED, error
                    break
                except RequestError as error:
                    log.info("%s: cannot reconnect yet: %s", self._user, error)
                    failure = error
        except Stopped:
            reason, failure = Reason.LOGGED_OUT, None
        except Exception:  # a bug, perhaps in the application's policy: log it, and end the futures all the same
            log.exception("%s: cannot reconnect", self._user)
        with self._lock:
            if self._phase is Phase.OPEN:
                self._set_state(State.OFFLINE, reason, failure)
            failures = self._pipeline.pending.reconnect_failed(
                f"The connection was lost before there was a response, and the client stays offline ({reason.value})."
            )
        _fail_all(failures)
        return None

    def _send_token(self, frame: bytes, poller: Poller) -> tuple[FrameStream, list[Frame]]:
        stream, response, early_frames = do_handshake(self._endpoint, Type.RECONNECT, frame, poller)
        try:
            values = decode_response(response, dict)
            with self._lock:
                if poller.is_stopped or self._phase is not Phase.OPEN:
                    raise Stopped
                self._enter_online(stream, values, Reason.RECONNECTED)
                failures = self._pipeline.pending.reconnected(has_request_ids=self._pipeline.has_acks)
            _fail_all(failures)
        except BaseException:
            stream.close()
            raise
        return stream, early_frames

    def _enter_online(self, stream: FrameStream, values: Values, reason: Reason) -> None:
        """With the lock held: the server has accepted the login on this connection."""
        granted = values.get("features")
        self._pipeline.connected(stream, frozenset(map(str, granted)) if isinstance(granted, list) else None)
        self._set_state(State.ONLINE, reason)

    def _serve_connection(self, stream: FrameStream, early_frames: list[Frame], poller: Poller) -> Exception:
        """Read, send what is due and watch the clock until the connection ends; return why it ended."""
        try:
            self._handle_frames(early_frames)
            while True:
                with self._lock:
                    may_read = self._phase is Phase.OPEN and not self._callbacks.is_full
                    events, until = self._pipeline.plan(stream, may_read)
                if poller.wait(stream.sock, events, until) & READ:
                    self._handle_frames(stream.receive())
                stream.flush()
                if stream.failure:
                    self._receive_the_rest(stream)
                    raise stream.failure
                with self._lock:
                    self._pipeline.do_due_work(stream)
        except (OSError, EOFError, RequestTimeout, Stopped) as error:
            return error
        except Exception as error:  # a bug: log it, and end the futures all the same
            log.exception("the connection of %s failed", self._user)
            return error

    def _receive_the_rest(self, stream: FrameStream) -> None:
        """Handle what the server sent before it closed: sending fails, but these frames can still be read."""
        with contextlib.suppress(OSError, EOFError):
            while self._phase in (Phase.OPEN, Phase.CLOSING):
                self._handle_frames(stream.receive())

    def _handle_frames(self, frames: list[Frame]) -> None:
        self._is_handling_frames = True
        for frame in frames:
            if frame.sign == Sign.RESPONSE:
                self._handle_response(frame)
            elif frame.sign == Sign.NOTICE:
                self._handle_notice(frame)
            else:
                log.warning("dropped a frame with the sign 0x%02x", frame.sign)
        with self._lock:
            self._is_handling_frames = False
            self._pipeline.acknowledge(self._pipeline.acks.ack_duplicates())
            self._lock.notify_all()

    def _handle_response(self, frame: Frame) -> None:
        with self._lock:
            request = self._pipeline.pending.match_response(frame.type)
            is_busy_resend = request is not None and request.is_resend and is_retryable(frame)
            # Under the same lock: no newer request may be sent between the response and the retry.
            if request is not None and is_busy_resend and self._pipeline.retry_later(request):
                return
        if request is None:
            log.warning("dropped a response of type 0x%02x for which no request is pending", frame.type)
        elif is_busy_resend:
            sentence = "The server was too busy to say whether it had stored this message the first time."
            request.fail(ServerFailed("", sentence))
        else:
            request.complete(frame)

    def _handle_notice(self, frame: Frame) -> None:
        try:
            values = {key: value for key, value in parse_object(frame.body).items() if value is not None}
            call = self._on_notice(frame.type, values)
            id = values.get("id") if frame.type in MESSAGES else None
        except (Refused, LookupError, TypeError, ValueError) as error:
            log.warning("dropped a notice of type 0x%02x that cannot be read: %r", frame.type, error)
            return
        if frame.type == Type.SYSTEM and values.get("event") == "taken_over":
            self._was_taken_over = True
        if id.__class__ is not int:  # not isinstance: a bool is no id
            self._callbacks.submit(call)
            return
        with self._lock:
            is_new = self._pipeline.acks.is_new(id, hash((self._user, frame.body)))
        if is_new:
            self._callbacks.submit(lambda: self._deliver(id, call))

    def _connection_lost(self, stream: FrameStream, error: Exception, seems_taken_over: bool) -> bool:
        """Change the state, and end the requests that cannot be sent again; return whether to reconnect."""
        with self._lock:
            self._pipeline.stream = None
            self._is_handling_frames = False
            if self._phase is Phase.OPEN:
                cause = None if isinstance(error, EOFError | Stopped) else error
                self._set_state(*self._state_after_loss(seems_taken_over), cause)
            will_reconnect = self._state is State.RECONNECTING
            sentence = f"The connection was lost before there was a response: {describe(error)}."
            failures = self._pipeline.pending.connection_lost(error, sentence, will_reconnect)
            self._lock.notify_all()
        stream.close()
        for request, failure in failures:
            if request.type == Type.LOGOUT and isinstance(error, EOFError) and request.sends:
                request.future.set_result(None)
            else:
                request.fail(failure)
        return will_reconnect

    def _state_after_loss(self, seems_taken_over: bool) -> tuple[State, Reason]:
        if self._pipeline.pending.has_logout:
            return State.OFFLINE, Reason.LOGGED_OUT
        # Two clients that both reconnected after a takeover would throw each other out for ever.
        if self._was_taken_over or seems_taken_over:
            return State.OFFLINE, Reason.TAKEN_OVER
        return (State.RECONNECTING if self._policy else State.OFFLINE), Reason.CONNECTION_LOST

    def _pauses(self) -> Iterator[float]:
        return self._policy.pauses() if self._policy else iter(())

    def _set_state(self, state: State, reason: Reason, error: Exception | None = None) -> None:
        """With the lock held: change the state, unless it is CLOSED, which is the last one."""
        if self._state is State.CLOSED:
            return
        previous, self._state = self._state, state
        log.debug("%s: %s, %s", self._user, state.value, reason.value)
        self._callbacks.submit(self._on_change(previous, state, reason, error))
        self._lock.notify_all()

    # --- the callback thread ------------------------------------------------------------------------------

    def _deliver(self, id: int, call: Callable[[], None]) -> None:
        """Let the application process a message with an id, then acknowledge it."""
        with self._lock:
            # A client that is closing without a connection cannot acknowledge the message any more. The server
            # keeps it and sends it after the next login.
            if self._phase is not Phase.OPEN and self._pipeline.stream is None:
                return
        try:
            call()
        finally:
            with self._lock:
                self._pipeline.acknowledge(self._pipeline.acks.delivered(id, time.monotonic()))


def _fail_all(failures: Failures) -> None:
    for request, error in failures:
        request.fail(error)


def _closed() -> ConnectionLost:
    return ConnectionLost("The client is closed: make a new one.", sent=False)
