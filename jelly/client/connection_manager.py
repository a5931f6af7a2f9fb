"""What is behind the operations of a `JellyClient`: login, requests, close.

**Threads.** Each login starts a network thread (`network_thread.py`), which lives until the client
is offline again. Requests are sent by the threads that make them, at once where that is allowed
(`pipeline.py`). The application's code runs on a third thread (`callbacks.py`).

**Exactly once, while the program runs.** Messages with ids are acknowledged when the application
has processed them, and duplicates are dropped (`acks.py`). Messages that had no response when the
connection was lost are sent again with the same idempotency key (`pending.py`).
"""

import atexit
import functools
import logging
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jelly.client.callbacks import CallbackThread, RequestFuture
from jelly.client.forks import abandon_in_children
from jelly.client.handshake import Endpoint, do_handshake_anywhere
from jelly.client.lifecycle import Lifecycle, Phase
from jelly.client.network_thread import Credentials, NetworkThread
from jelly.client.pages import Pages
from jelly.client.pipeline import Pipeline
from jelly.client.poller import Poller, Stopped
from jelly.client.requests import Decode, Request, describe, encode
from jelly.client.states import Reason, ReconnectPolicy, State
from jelly.codec import Type
from jelly.errors import ConnectionLost, ErrorCode, RequestError, RequestRejected
from jelly.requests import MESSAGES, REQUESTS

MAX_QUEUED = 1000
"""At most this many requests wait to be sent. A thread that makes another one waits until there is
room."""
EXIT_TIMEOUT = 5.0
"""At most this many seconds a program that ends without `close` waits for responses."""
log = logging.getLogger("jelly.client")
T = TypeVar("T")
Values = Mapping[str, Any]


class ConnectionManager:
    """What is behind the operations of a `JellyClient`. Any thread may call the public methods."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        policy: ReconnectPolicy | None,
        heartbeat: float,
        features: tuple[str, ...],
        device: str | None,
        credentials: Credentials | None,
        max_body: int,
        on_notice: Callable[[int, Values], Callable[[], None]],
        on_change: Callable[[State, State, Reason, Exception | None, str], Callable[[], None]],
    ) -> None:
        """Neither connect nor start a thread.

        `on_notice` and `on_change` return the function to call on the callback thread. They must
        not wait. `policy`: None means not to reconnect. `heartbeat`: seconds without sending until
        a heartbeat is sent. `max_body`: bytes that the body of a request may have.
        """
        self._endpoint, self._policy = endpoint, policy
        self.features, self._device, self._max_body = features, device, max_body
        self._credentials = credentials
        self._on_notice = on_notice
        self._callbacks = CallbackThread(on_room=self._wake)
        self._lifecycle = Lifecycle(self._callbacks, on_change)
        self._lock = self._lifecycle.lock  # guards everything below
        self._pipeline = Pipeline(self._lock, self._wake, endpoint.request_timeout, heartbeat)
        self._threads: dict[threading.Thread, Poller] = {}  # the network thread, and those that register
        self._poller: Poller | None = None  # the network thread's
        self._handshakes: weakref.WeakSet[RequestFuture[Any]] = weakref.WeakSet()  # of LOGIN, RECONNECT and REGISTER
        abandon_in_children(self)

    @property
    def state(self) -> State:
        """The state now. It may change at any moment."""
        return self._lifecycle.state

    @property
    def username(self) -> str | None:
        """Who is logged in; None while nobody is."""
        return self._lifecycle.user if self._lifecycle.state in (State.ONLINE, State.RECONNECTING) else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the servers, in the order in which this client tries them."""
        return tuple(map(str, self._endpoint.addresses.in_order))

    @property
    def address(self) -> str | None:
        """The address in use; None while there is no connection on which a user is logged in."""
        stream = self._pipeline.stream
        return None if stream is None else str(stream.address)

    @property
    def token(self) -> int | None:
        """The token of the user who is logged in; None while nobody is."""
        with self._lock:
            return None if self.username is None else self._lifecycle.token

    def keep_token(self, values: Values) -> None:
        """Use the token in a response, if there is one, from now on."""
        if "token" in values:
            with self._lock:
                self._lifecycle.token = int(values["token"])

    def login(self, type: Type, username: str, values: Values, decode: Decode[T]) -> RequestFuture[T]:
        """Start a network thread that begins with this LOGIN or RECONNECT."""
        token = int(values.get("token", 0))
        request = Request(type, decode, RequestFuture[T](self._callbacks))
        self._handshakes.add(request.future)
        try:
            asked = {"features": list(self.features) or None, "device": self._device}
            request.frame = encode(type, {**values, **asked}, self._max_body)
            with self._lock:
                if self._lifecycle.state not in (State.OFFLINE, State.CLOSED):
                    sentence = "This client is logged in already, or logging in: log out first."
                    raise RequestRejected(ErrorCode.ALREADY_LOGGED_IN, sentence)
                run = functools.partial(self._new_network_thread().run, request, username, token)
                request.future.set_running_or_notify_cancel()
                self._lifecycle.address = str(self._endpoint.addresses.current)  # before the thread changes it
                self._poller = self._start("jelly-client-network", run)
                self._lifecycle.set_state(State.CONNECTING, Reason.LOGIN)
        except RequestError as error:
            request.fail(error)
        return request.future

    def register(self, values: Values, decode: Decode[T]) -> RequestFuture[T]:
        """Send a REGISTER on a connection of its own: the server closes it afterwards."""
        request = Request(Type.REGISTER, decode, RequestFuture[T](self._callbacks))
        self._handshakes.add(request.future)

        def run(poller: Poller) -> None:
            try:
                handshake = do_handshake_anywhere(self._endpoint, request.type, request.frame, poller)
            except Stopped as error:
                request.fail(ConnectionLost("The client was closed before there was a response.", error.was_sent))
            except Exception as error:  # noqa: BLE001 - a RequestError or a bug: the future carries both
                request.future.fail(error, request.name)
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

    def request(
        self,
        type: Type,
        values: Values,
        decode: Decode[T],
        feature: str = "",
        list_key: str = "",
        request_id: str | None = None,
    ) -> RequestFuture[T]:
        """Send a request of the user who is logged in. Waits if MAX_QUEUED requests are queued.

        `feature`: the feature that the server must grant to know this request. `list_key`: the key
        of the list in the response, which may come in pages. `request_id`: the idempotency key of a
        message, if the application has chosen one.
        """
        request = Request(type, decode, RequestFuture[T](self._callbacks))
        pipeline = self._pipeline
        try:
            with self._lock:
                if len(pipeline.pending.queued) >= MAX_QUEUED:
                    self._wait_for_room()
                may_wait = type in MESSAGES and pipeline.has_acks
                self._check_online(may_wait)
                if feature and feature not in (pipeline.features or ()):
                    raise RequestRejected(ErrorCode.UNKNOWN_TYPE, "This server does not support this request.")
                actor = REQUESTS[type]._fields[0]
                if may_wait:
                    request.request_id = request_id or pipeline.pending.new_request_id()
                values = {actor: self._lifecycle.user, **values, "requestId": request.request_id}
                request.frame = encode(type, values, self._max_body)
                if list_key and (feature or "pages" in (pipeline.features or ())):  # a list of a feature has pages
                    self._expect_pages(request, values, list_key)
                pipeline.submit(request)
        except RequestError as error:
            request.fail(error)
        return request.future

    def tell(self, type: Type, values: Values, feature: str) -> bool:
        """Send a request that has no response, and return True; return False if there is no
        connection, or if the server has not granted the feature.
        """
        with self._lock:
            if self._lifecycle.state is not State.ONLINE or feature not in (self._pipeline.features or ()):
                return False
            self._pipeline.send_unanswered(encode(type, values, self._max_body))
            return True

    def _wait_for_room(self) -> None:
        """With the lock held: wait until fewer than MAX_QUEUED requests are queued.

        A signal handler that has interrupted the sending does not wait: it is what must end first.
        If it has interrupted its thread right before that, the network thread sends.
        """
        self._wake()
        pipeline = self._pipeline
        self._lock.wait_for(lambda: len(pipeline.pending.queued) < MAX_QUEUED or pipeline.is_sending)

    def _expect_pages(self, request: Request[Any], values: Values, list_key: str) -> None:
        """Have a request gather all pages of its list."""
        pages, decode = Pages(list_key), request.decode
        request.pages = pages
        request.decode = lambda last: decode(pages.complete(last))
        request.frame_of_page = lambda after: encode(request.type, {**values, "after": after}, self._max_body)

    def logout(self) -> RequestFuture[None]:
        """Send LOGOUT, whose response is the end of the connection.

        While RECONNECTING: only stop trying.
        """
        with self._lock:
            if self._lifecycle.state is State.RECONNECTING and self._poller is not None:
                self._poller.stop()
            # The server reads no acknowledgement after a LOGOUT.
            self._pipeline.acknowledge(self._pipeline.acks.ack_delivered())
            return self.request(Type.LOGOUT, {"token": self._lifecycle.token}, lambda _: None)

    def wait(self, timeout: float | None) -> bool:
        """Wait until the client is OFFLINE or CLOSED; return whether it is."""
        return self._lifecycle.wait_until_offline(timeout)

    def wait_until_online(self, timeout: float | None) -> bool:
        """Wait while a login or a reconnect is under way; return whether the client is ONLINE."""
        return self._lifecycle.wait_until_online(timeout)

    def close(self, timeout: float) -> int:
        """Wait for responses and callbacks, at most `timeout` seconds, then end the threads.

        Callbacks may make requests until the last callback has returned. Returns how many requests
        ended without a response.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            if not self._lifecycle.is_open:
                if not self._callbacks.is_current_thread:  # the other call may wait for this very callback
                    self._lock.wait_for(lambda: self._lifecycle.phase is Phase.CLOSED, timeout)
                return 0
            self._lifecycle.phase = Phase.CLOSING
            self._wake()
        try:
            while not self._wait_until_idle(deadline) and time.monotonic() < deadline:
                pass
            has_slow_callback = not (self._callbacks.is_current_thread or self._callbacks.wait_until_idle(deadline))
        except BaseException:  # a second Ctrl-C: the user wants no more waiting, but the threads must end
            self._end_threads(time.monotonic(), has_slow_callback=True)
            raise
        return self._end_threads(deadline, has_slow_callback)

    def _end_threads(self, deadline: float, has_slow_callback: bool) -> int:
        with self._lock:
            self._lifecycle.phase = Phase.STOPPING
            self._pipeline.acknowledge(self._pipeline.acks.ack_delivered())
            threads, lost = dict(self._threads), self._pipeline.pending.count
        for poller in threads.values():
            poller.stop()
        # `stop` interrupts everything that a thread waits for, except looking up a host name.
        for thread in threads:
            thread.join(max(1.0, deadline - time.monotonic()))
        with self._lock:
            self._lifecycle.set_state(State.CLOSED, Reason.CLOSED)
        # Requests that failed just now have listeners. A slow callback has had its time already.
        self._callbacks.shutdown(deadline if has_slow_callback else max(deadline, time.monotonic() + 1.0))
        with self._lock:
            self._lifecycle.phase = Phase.CLOSED
            self._lock.notify_all()
        _running.discard(self)
        return lost

    def drop(self, name: str) -> None:
        """The client was dropped without `close`, perhaps by the garbage collector, which may run
        anywhere: end the threads from another one.
        """
        if self._lifecycle.is_open and self in _running:
            threading.Thread(target=self.close, args=(0.0,), name="jelly-client-close", daemon=True).start()
            warnings.warn(f"{name} was not closed", ResourceWarning, stacklevel=2)

    @property
    def reason(self) -> Reason | None:
        """Why the state changed last."""
        return self._lifecycle.reason

    def abandon(self) -> None:
        """In a forked child: end everything that waits, and be closed. But a client that has done
        nothing yet is as good as new.
        """
        self._lock.renew()
        self._pipeline.pending.renew_ids()
        if not self._callbacks.abandon():
            return
        self._lifecycle.abandon()
        self._pipeline.stream = self._poller = None
        self._threads.clear()
        _running.discard(self)
        for future in (*(request.future for request in self._pipeline.pending.clear()), *self._handshakes):
            future.abandon()

    def _wait_until_idle(self, deadline: float) -> bool:
        """Wait for the responses, then for the callbacks.

        Returns whether the callbacks made no more requests.
        """
        with self._lock:
            self._lock.wait_for(lambda: not self._has_open_requests(), max(0.0, deadline - time.monotonic()))
        is_idle = self._callbacks.is_current_thread or self._callbacks.wait_until_idle(deadline)
        with self._lock:
            is_idle = is_idle and not self._has_open_requests()
            if is_idle:  # under the same lock: from here on nobody may make a request
                self._lifecycle.phase = Phase.STOPPING
            return is_idle

    def _has_open_requests(self) -> bool:
        pending = self._pipeline.pending
        is_registering = any(thread.name.endswith("register") for thread in self._threads)
        is_connecting = is_registering or self._lifecycle.state is State.CONNECTING
        return bool(pending.in_flight or pending.queued or self._pipeline.is_handling_frames or is_connecting)

    def _check_online(self, may_wait: bool) -> None:
        """With the lock held: raise the error for a request that cannot be made now.

        `may_wait`: whether it waits for the next connection if there is none.
        """
        is_closing = self._lifecycle.phase is Phase.CLOSING
        if self._lifecycle.is_stopping or (is_closing and not self._callbacks.is_current_thread):
            raise self._lifecycle.closed_error()
        # A client that is closing does not reconnect, and its state is not updated any more.
        if self._lifecycle.state is State.RECONNECTING or (is_closing and self._pipeline.stream is None):
            if may_wait and not is_closing and self._pipeline.pending.has_room:
                return
            sentence = "There is no connection to the server now: try again when the client is online."
            if may_wait and not is_closing:
                sentence = "There is no connection to the server now, and too many messages wait for it."
            raise ConnectionLost(sentence, sent=False)
        if self._lifecycle.state is not State.ONLINE or self._pipeline.pending.has_logout:
            raise RequestRejected(ErrorCode.NOT_LOGGED_IN)

    def _new_network_thread(self) -> NetworkThread:
        return NetworkThread(
            self._endpoint,
            self._policy,
            self.features,
            self._device,
            self._credentials,
            lifecycle=self._lifecycle,
            pipeline=self._pipeline,
            callbacks=self._callbacks,
            on_notice=self._on_notice,
        )

    def _start(self, name: str, target: Callable[[Poller], None]) -> Poller:
        """With the lock held: start a thread, and keep it in `_threads` until it ends.

        Raises ConnectionLost.
        """
        if not self._lifecycle.is_open:
            raise self._lifecycle.closed_error()

        def run() -> None:
            with self._lock:  # after the caller
                is_known = threading.current_thread() in self._threads
            try:
                if is_known:  # else a signal handler has raised in `start`
                    target(poller)
            finally:
                poller.close()
                with self._lock:
                    self._threads.pop(threading.current_thread(), None)
                    self._lock.notify_all()

        thread = threading.Thread(target=run, name=name, daemon=True)
        try:
            self._callbacks.start()
            _running.add(self)
            poller = Poller()
            try:
                thread.start()
            except RuntimeError:
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


_running: weakref.WeakSet[ConnectionManager] = weakref.WeakSet()  # those that have started threads


@atexit.register
def close_all() -> None:
    """At the end of the program, before its threads are gone: close what it has not closed."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    lost = sum(manager.close(max(0.0, deadline - time.monotonic())) for manager in list(_running))
    if lost:
        log.warning("the program has ended without close(), and %d requests without a response", lost)
