"""The life of one client: login, requests and their answers, cuts and coming back, the end.

Each login starts a *network thread*, which lives until the client is offline again. It alone reads; it pairs answers
with requests, sends heartbeats, watches deadlines, and after a cut comes back with the token. Requests are written by
whoever makes them, at once where that is allowed. The application's code runs on a third thread (`callbacks.py`).

**Pairing.** The protocol has no request ids: an answer belongs to the oldest request of its type. So an answer that
comes too late would be taken for another one's; that is why a timeout costs the connection.

**Two kinds of servers.** One that grants features takes any number of requests at once, and so do we (up to WINDOW).
One that grants none may be the original, which stalls for ever when two frames meet in one read, and which answers
requests that overlap in any order. Towards it there is one request under way at a time, and nothing is written
within CLASSIC_GAP after a heartbeat.

**Once.** Messages with ids are acknowledged when the application has had them, and dropped when they come again
(`acks.py`). Messages that a cut left without an answer are written again with their requestId (`pending.py`).

The lock guards everything that is marked so below. Under it nothing waits and nothing of the application runs; futures
are ended without it. Order: this lock, then those of `FrameStream`, `Poller` or `CallbackThread`.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from jelly.client.acks import AckTracker
from jelly.client.callbacks import CallbackThread, RequestFuture
from jelly.client.handshake import Endpoint, do_handshake
from jelly.client.pending import PendingRequests
from jelly.client.poller import READ, Poller, Stopped
from jelly.client.requests import Decode, Request, decode_response, describe, is_retryable
from jelly.client.states import Reason, ReconnectPolicy, State
from jelly.client.stream import FrameStream
from jelly.codec import HEADER, Frame, Sign, Type
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

WINDOW = 128
"""So many requests may be under way at once, where the server can stand more than one."""
CLASSIC_GAP = 0.1
"""Seconds between a heartbeat and the next request towards a server that stalls when they meet in one read."""
MAX_QUEUED = 1000
"""So many requests may wait to be written; whoever makes another one waits until there is room."""
STABLE_AFTER = 5.0
"""Seconds after which a connection counts as stable: when it is lost then, the pauses start again from the first."""
QUICK_CLOSE, MAX_QUICK_CLOSES = 60.0, 4
"""A server that grants no features does not say that another login has taken over: it only closes. If it did so for
so many lines in a row, none of which lived for so many seconds, somebody else wants the account as much as we do."""
FOREVER = float("inf")
WAIT_SLICE = 1.0

T = TypeVar("T")
Values = Mapping[str, Any]


class ConnectionManager:
    """What a `JellyClient` does behind its operations. Any thread may call what has no underscore in front."""

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
        """`on_notice` and `on_change` return what is to be called on the callback thread; they must not wait."""
        self._endpoint, self._policy, self._heartbeat = endpoint, policy, heartbeat
        self._features, self._max_body = features, max_body
        self._on_notice, self._on_change = on_notice, on_change
        self._callbacks = CallbackThread(on_room=self._wake)

        self._lock = threading.Condition()  # guards everything below
        self._state = State.OFFLINE
        self._user = ""
        self._token = 0
        self._stream: FrameStream | None = None  # while ONLINE
        self._pending = PendingRequests()
        self._granted_features: frozenset[str] | None = None  # the features; None: this server knows of none
        self._window = 1
        self._send_not_before = 0.0  # no request is written before that
        self._is_leaving = False  # a logout was requested
        self._was_taken_over = False
        self._is_closing = False  # only callbacks may make requests, nothing read but answers
        self._is_closed = False  # and not even that
        self._is_done = False  # close() has ended
        self._threads: dict[threading.Thread, Poller] = {}  # the network thread, and those that register
        self._poller: Poller | None = None  # the network thread's
        self._wakes_at = 0.0  # when it looks again by itself
        self._is_listening = True  # it waits for the server, too
        self._is_taking = False  # it has frames from which callbacks may still come
        self._acks = AckTracker()  # messages with ids

    # --- for any thread -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    @property
    def username(self) -> str | None:
        return self._user if self._state in (State.ONLINE, State.RECONNECTING) else None

    def login(self, type: Type, username: str, values: Values, decode: Decode[T]) -> RequestFuture[T]:
        """Start a network thread that begins with this LOGIN or RECONNECT."""
        token = int(values.get("token", 0))
        request = Request(type, decode, RequestFuture[T](self._callbacks))
        try:
            request.frame = self._encode(type, {**values, "features": list(self._features) or None})
            with self._lock:
                if self._state not in (State.OFFLINE, State.CLOSED):
                    raise RequestRejected(ErrorCode.ALREADY_LOGGED_IN, "Log out first.")
                run = functools.partial(self._run, request, username, token)
                request.future.set_running_or_notify_cancel()
                self._poller = self._start("jelly-client-network", run)
                self._is_leaving = self._was_taken_over = False
                self._set_state(State.CONNECTING, Reason.LOGIN)
        except RequestError as error:
            request.fail(error)
        return request.future

    def register(self, values: Values, decode: Decode[T]) -> RequestFuture[T]:
        """Send a REGISTER on a connection of its own: the server closes that one afterwards."""
        request = Request(Type.REGISTER, decode, RequestFuture[T](self._callbacks))

        def run(poller: Poller) -> None:
            try:
                handshake = do_handshake(self._endpoint, request.type, request.frame, poller)
            except Stopped as error:
                request.fail(ConnectionLost("The client was closed before there was an answer.", error.was_sent))
            except Exception as error:  # a RequestError, or a bug
                request.future.set_exception(error)
            else:
                handshake.stream.close()
                request.complete(handshake.response)

        try:
            request.frame = self._encode(request.type, values)
            request.future.set_running_or_notify_cancel()
            with self._lock:
                self._start("jelly-client-register", run)
        except RequestError as error:
            request.fail(error)
        return request.future

    def request(self, type: Type, values: Values, decode: Decode[T], feature: str = "") -> RequestFuture[T]:
        """Send a request in the name of the user who is logged in. Waits only if very many wait already.

        `feature`: what the server must grant to know this request.
        """
        request = Request(type, decode, RequestFuture[T](self._callbacks))
        try:
            with self._lock:
                self._lock.wait_for(lambda: len(self._pending.queued) < MAX_QUEUED)
                self._check_online()
                if feature and feature not in (self._granted_features or ()):
                    raise RequestRejected(ErrorCode.UNKNOWN_TYPE, "This server does not know such a request.")
                first = "sender" if type in MESSAGES else "username"
                if type in MESSAGES and "ack" in (self._granted_features or ()):
                    request.request_id = self._pending.new_request_id()
                request.frame = self._encode(type, {first: self._user, **values, "requestId": request.request_id})
                self._pending.add(request)
                self._is_leaving = type == Type.LOGOUT
                self._send_queued(time.monotonic())
        except RequestError as error:
            request.fail(error)
        return request.future

    def logout(self) -> RequestFuture[None]:
        """Send LOGOUT, whose answer is the end of the connection. While RECONNECTING: just stop trying."""
        with self._lock:
            if self._state is State.RECONNECTING and self._poller is not None:
                self._is_leaving = True
                self._poller.stop()
            self._acknowledge(self._acks.ack_delivered())  # behind a LOGOUT the server reads nothing
            return self.request(Type.LOGOUT, {"token": self._token}, lambda _: None)

    def wait(self, timeout: float | None) -> bool:
        """Wait until the client is offline for good."""
        deadline = FOREVER if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._state not in (State.OFFLINE, State.CLOSED):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                # In slices: a Ctrl-C that comes just before it falls asleep is noticed when it wakes up.
                self._lock.wait(min(left, WAIT_SLICE))
            return True

    def wait_until_online(self, timeout: float | None) -> bool:
        """Wait until the client is online, or offline for good; return whether it is online."""
        with self._lock:
            self._lock.wait_for(lambda: self._state not in (State.CONNECTING, State.RECONNECTING), timeout)
            return self._state is State.ONLINE

    def close(self, timeout: float) -> None:
        """First the answers that are on their way, then what the application has still to get, then the end.

        What it gets it may answer: until the last callback has ended, callbacks may make requests.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._is_closing:
                if not self._callbacks.is_current_thread:  # the other one may wait for this very callback
                    self._lock.wait_for(lambda: self._is_done, timeout)
                return
            self._is_closing = True
            self._wake()
        while not self._wait_until_idle(deadline) and time.monotonic() < deadline:
            pass
        has_slow_callback = not (self._callbacks.is_current_thread or self._callbacks.wait_until_idle(deadline))
        with self._lock:
            self._is_closed = True
            self._acknowledge(self._acks.ack_delivered())
            threads = dict(self._threads)
        for poller in threads.values():
            poller.stop()
        for thread in threads:  # each waits for nothing but its poller; only looking up a name cannot be interrupted
            thread.join(max(1.0, deadline - time.monotonic()))
        with self._lock:
            self._set_state(State.CLOSED, Reason.CLOSED)
        # What failed just now has listeners; but a callback that is slow has had its time.
        self._callbacks.shutdown(deadline if has_slow_callback else max(deadline, time.monotonic() + 1.0))
        with self._lock:
            self._is_done = True
            self._lock.notify_all()

    def _wait_until_idle(self, deadline: float) -> bool:
        """Wait for the answers, then for the callbacks; return whether these have made no more requests."""
        with self._lock:
            self._lock.wait_for(lambda: not self._has_open_requests(), max(0.0, deadline - time.monotonic()))
        is_idle = self._callbacks.is_current_thread or self._callbacks.wait_until_idle(deadline)
        with self._lock:
            self._is_closed = is_idle and not self._has_open_requests()
            return self._is_closed

    def _has_open_requests(self) -> bool:
        is_starting = self._state is State.CONNECTING or any(t.name.endswith("register") for t in self._threads)
        return bool(self._pending.in_flight or self._pending.queued or self._is_taking or is_starting)

    def _check_online(self) -> None:
        """Raise the error for a request that cannot be made now."""
        if self._is_closed or (self._is_closing and not self._callbacks.is_current_thread):
            raise _closed()
        if self._state is State.RECONNECTING or (self._is_closing and self._stream is None):  # it is not to come back
            raise ConnectionLost("There is no connection to the server at the moment.", sent=False)
        if self._state is not State.ONLINE or self._is_leaving:
            raise RequestRejected(ErrorCode.NOT_LOGGED_IN)

    def _encode(self, type: int, values: Values) -> bytes:
        """The frame of a request. Raises RequestRejected if the server would refuse, or worse, close on it."""
        try:
            frame = encode_request(type, values)
        except UnicodeEncodeError:
            raise RequestRejected(ErrorCode.MALFORMED_BODY, "Half of a surrogate pair cannot be sent.") from None
        size = len(frame) - HEADER.size
        if size > self._max_body:
            sentence = f"The request has {size:,} bytes; at most {self._max_body:,} can be sent."
            raise RequestRejected(ErrorCode.TOO_LONG, sentence)
        return frame

    def _start(self, name: str, target: Callable[[Poller], None]) -> Poller:
        """With the lock held: start a thread that is counted as ours until it has ended. Raises ConnectionLost."""
        if self._is_closing:
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
            raise ConnectionLost(f"No connection can be made: {describe(error)}.", sent=False) from error
        self._threads[thread] = poller
        return poller

    def _wake(self) -> None:
        poller = self._poller
        if poller is not None:
            poller.wake()

    # --- the network thread -------------------------------------------------------------------------------

    def _run(self, request: Request[Any], user: str, token: int, poller: Poller) -> None:
        """From the login to the end."""
        try:
            stream, early_frames = self._log_in(request, user, token, poller)
        except Exception as error:
            if not isinstance(error, RequestError):  # a bug; but who waits for the login must not wait for ever
                log.exception("the login of %s failed", user)
            with self._lock:
                self._set_state(State.OFFLINE, Reason.LOGIN_FAILED, error)
            request.future.set_exception(error)
            return
        pauses, quick_closes = self._pauses(), 0
        while True:
            end = self._serve_connection(stream, early_frames, poller)
            lived = time.monotonic() - stream.opened_at
            quick_closes = (
                0
                if lived >= QUICK_CLOSE
                else quick_closes + (self._granted_features is None and isinstance(end, EOFError))
            )
            if not self._connection_lost(stream, end, quick_closes >= MAX_QUICK_CLOSES):
                return
            if lived >= STABLE_AFTER:
                pauses = self._pauses()
            reconnected = self._reconnect(pauses, poller)
            if reconnected is None:
                return
            stream, early_frames = reconnected

    def _log_in(self, request: Request[Any], user: str, token: int, poller: Poller) -> tuple[FrameStream, list[Frame]]:
        try:
            stream, response, early_frames = do_handshake(self._endpoint, request.type, request.frame, poller)
        except Stopped as error:
            raise ConnectionLost("The client was closed before the login was done.", error.was_sent) from None
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
        """Try the token until it is accepted or refused, or no try is left; None if the client stays offline."""
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
                    log.info("%s: cannot come back yet: %s", self._user, error)
                    failure = error
        except Stopped:
            reason, failure = Reason.LOGGED_OUT, None
        except Exception:  # a bug, perhaps the policy's; but those who wait for an answer must not wait for ever
            log.exception("%s: cannot come back", self._user)
        with self._lock:
            if not self._is_closing:
                self._set_state(State.OFFLINE, reason, failure)
            failures = self._pending.reconnect_failed(
                f"The connection ended before there was an answer ({reason.value})."
            )
        _fail_all(failures)
        return None

    def _send_token(self, frame: bytes, poller: Poller) -> tuple[FrameStream, list[Frame]]:
        stream, response, early_frames = do_handshake(self._endpoint, Type.RECONNECT, frame, poller)
        try:
            values = decode_response(response, dict)
            with self._lock:
                if self._is_leaving or self._is_closing:
                    raise Stopped
                self._enter_online(stream, values, Reason.RECONNECTED)
                failures = self._pending.reconnected(has_request_ids="ack" in (self._granted_features or ()))
            _fail_all(failures)
        except BaseException:
            stream.close()
            raise
        return stream, early_frames

    def _enter_online(self, stream: FrameStream, values: Values, reason: Reason) -> None:
        """With the lock held: the server has accepted us on this stream."""
        granted = values.get("features")
        self._granted_features = frozenset(map(str, granted)) if isinstance(granted, list) else None
        self._window = 1 if self._granted_features is None else WINDOW
        self._send_not_before = 0.0
        if self._granted_features is None:
            # To the original server a connection that ends before its first heartbeat stays online for ever.
            self._send_heartbeat(stream, time.monotonic())
        self._acks.connected()
        self._stream = stream
        self._set_state(State.ONLINE, reason)

    def _serve_connection(self, stream: FrameStream, early_frames: list[Frame], poller: Poller) -> Exception:
        """Read, write and watch the clock until the connection ends; return why."""
        try:
            self._handle_frames(early_frames)
            while True:
                events, until = self._plan(stream)
                if poller.wait(stream.sock, events, until) & READ:
                    self._handle_frames(stream.receive())
                self._do_due_work(stream)
        except (OSError, EOFError, RequestTimeout, Stopped) as error:
            return error
        except Exception as error:  # a bug; but those who wait for an answer must not wait for ever
            log.exception("the connection of %s failed", self._user)
            return error

    def _plan(self, stream: FrameStream) -> tuple[int, float]:
        """What to wait for, and until when."""
        with self._lock:
            self._is_listening = bool(self._pending.in_flight) or not (self._is_closing or self._callbacks.is_full)
            self._wakes_at = min(
                stream.last_write_at + self._heartbeat,
                self._pending.in_flight[0].deadline if self._pending.in_flight else FOREVER,
                self._send_not_before if self._pending.can_send(self._window) else FOREVER,
            )
            return (READ if self._is_listening else 0) | stream.events, self._wakes_at

    def _do_due_work(self, stream: FrameStream) -> None:
        stream.flush()
        if stream.failure:
            self._receive_the_rest(stream)
            raise stream.failure
        now = time.monotonic()
        with self._lock:
            if self._pending.in_flight and self._pending.in_flight[0].deadline <= now:
                raise RequestTimeout(
                    "", f"The server did not answer within {self._endpoint.request_timeout:g} seconds."
                )
            if now - stream.last_write_at >= self._heartbeat:
                self._send_heartbeat(stream, now)
            self._send_queued(now)

    def _receive_the_rest(self, stream: FrameStream) -> None:
        """Writing has failed; but what the server sent before it closed is still there."""
        with contextlib.suppress(OSError, EOFError):
            while not self._is_closed:
                self._handle_frames(stream.receive())

    def _send_heartbeat(self, stream: FrameStream, now: float) -> None:
        """With the lock held."""
        stream.send(HEARTBEAT)
        if self._granted_features is None:
            self._send_not_before = now + CLASSIC_GAP

    def _send_queued(self, now: float) -> None:
        """With the lock held: write the requests that may be written now."""
        stream = self._stream
        if stream is None:
            return
        if now < self._send_not_before:
            if self._send_not_before < self._wakes_at:
                self._wake()  # the network thread comes back to it
            return
        frames = []
        pending = self._pending
        while pending.can_send(self._window):
            request = pending.queued.popleft()
            if request.sends or request.future.set_running_or_notify_cancel():
                pending.mark_sent(request, now + self._endpoint.request_timeout)
                frames.append(request.frame)
            elif request.type == Type.LOGOUT:
                self._is_leaving = False
        if frames:
            stream.send(b"".join(frames))
            self._lock.notify_all()
            if stream.events or not self._is_listening or self._pending.in_flight[0].deadline < self._wakes_at:
                self._wake()

    def _handle_frames(self, frames: list[Frame]) -> None:
        """Deal with what the server sent."""
        self._is_taking = True
        for frame in frames:
            if frame.sign == Sign.RESPONSE:
                self._handle_response(frame)
            elif frame.sign == Sign.NOTICE:
                self._handle_notice(frame)
            else:
                log.warning("dropped a frame with the sign 0x%02x", frame.sign)
        with self._lock:
            self._is_taking = False
            self._acknowledge(self._acks.ack_duplicates())
            self._lock.notify_all()

    def _handle_response(self, frame: Frame) -> None:
        with self._lock:
            request = self._pending.match_response(frame.type)
            if request is not None:
                self._is_leaving = self._is_leaving and request.type != Type.LOGOUT  # answered at all: it was refused
                # With the same hold of the lock: between the two nothing newer may be written.
                if request.is_resend and is_retryable(frame) and self._retry_later(request):
                    return
        if request is None:
            log.warning("dropped a response of type 0x%02x for which no request is pending", frame.type)
        elif request.is_resend and is_retryable(frame):
            request.fail(ServerFailed("", "The server was too busy to say what became of this message."))
        else:
            request.complete(frame)

    def _retry_later(self, request: Request[Any]) -> bool:
        """With the lock held: have a repeat written again after a pause; False if that was too often."""
        pause = self._pending.retry_later(request)
        if pause is None:
            return False
        self._send_not_before = max(self._send_not_before, time.monotonic() + pause)  # an older one may wait longer
        return True

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
        if id.__class__ is not int:
            self._callbacks.submit(call)
            return
        with self._lock:
            is_new = self._acks.is_new(id, hash((self._user, frame.body)))
        if is_new:
            self._callbacks.submit(lambda: self._deliver(id, call))

    def _connection_lost(self, stream: FrameStream, error: Exception, is_taken_over: bool) -> bool:
        """The connection has ended: tell those who wait for something in vain. Returns whether to come back."""
        with self._lock:
            self._stream = None
            self._is_taking = False
            if not self._is_closing:
                self._set_state(
                    *self._state_after_loss(is_taken_over), None if isinstance(error, EOFError | Stopped) else error
                )
            will_reconnect = self._state is State.RECONNECTING
            sentence = f"The connection ended before there was an answer: {describe(error)}."
            failures = self._pending.connection_lost(error, sentence, will_reconnect)
            self._lock.notify_all()
        stream.close()
        for request, failure in failures:
            if request.type == Type.LOGOUT and isinstance(error, EOFError) and request.sends:
                request.future.set_result(None)
            else:
                request.fail(failure)
        return will_reconnect

    def _state_after_loss(self, is_taken_over: bool) -> tuple[State, Reason]:
        if self._is_leaving:
            return State.OFFLINE, Reason.LOGGED_OUT
        if self._was_taken_over or is_taken_over:  # to come back would throw out the other one, who would throw out us
            return State.OFFLINE, Reason.TAKEN_OVER
        return (State.RECONNECTING if self._policy else State.OFFLINE), Reason.CONNECTION_LOST

    def _pauses(self) -> Iterator[float]:
        return self._policy.pauses() if self._policy else iter(())

    def _set_state(self, state: State, reason: Reason, error: Exception | None = None) -> None:
        """With the lock held. CLOSED is the last one."""
        if self._state is State.CLOSED:
            return
        previous, self._state = self._state, state
        log.debug("%s: %s, %s", self._user, state.value, reason.value)
        self._callbacks.submit(self._on_change(previous, state, reason, error))
        self._lock.notify_all()

    # --- the callback thread ------------------------------------------------------------------------------

    def _deliver(self, id: int, call: Callable[[], None]) -> None:
        """Give a message with an id to the application, and acknowledge it."""
        with self._lock:
            if self._is_closing and self._stream is None:
                return  # nobody could acknowledge it: it stays with the server, and comes at the next login
        try:
            call()
        finally:
            with self._lock:
                self._acknowledge(self._acks.delivered(id, time.monotonic()))

    def _acknowledge(self, upto: int | None) -> None:
        """With the lock held."""
        if upto is not None and self._stream is not None:
            self._stream.send(encode_request(Type.ACK, {"id": upto}))
            if self._stream.events:
                self._wake()


def _fail_all(failures: Iterable[tuple[Request[Any], RequestError]]) -> None:
    for request, error in failures:
        request.fail(error)


HEARTBEAT = encode_request(Type.HEARTBEAT, {})


def _closed() -> ConnectionLost:
    return ConnectionLost("The client is closed.", sent=False)
