"""The bounded queue in front of the thread pool: which request is served next, how many may wait.

The reader of each connection puts requests into its `Lane`, and the lane into the `RequestQueue`, a
`queue.Queue`. Workers, which run in a `ThreadPoolExecutor`, get lanes from it and serve their
requests in order. A lane is a *strand* (a serial executor): it is in the queue at most once, and
only the worker that got it serves it. So the responses of a connection leave in the order of its
requests, on which the protocol relies. (A pool job for each request, the obvious first design,
reordered 7,600 messages of a test run and cost ten times the CPU.)

Waking threads costs more than running Python, so:

- the queue holds lanes, not requests, and a worker gets up to 16 lanes at once;
- only one worker runs at a time. The others sleep; one of them takes over when the running worker
  enters `blocking()`, for a query say. So the size of the pool costs nothing;
- the messages of a lane go to the store thread together, and the lane stays closed until the store
  has answered them.

Requests for long lists and for history stand behind all others (`Unfinished`): one of them at a
time does one part of its work, after the lanes that a worker has got.

The queue's `maxsize` bounds the requests that wait in all lanes together. A quarter of it is kept
for lanes in which few wait, so that a few clients that flood the server do not take all of it. A
request for which there is no room gets SERVER_BUSY, in its place in the order: at once if its lane
is idle, otherwise after the answers before it, because clients match responses to requests by their
order.
"""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from jelly.addresses import network_of
from jelly.answer_memory import AnswerMemory
from jelly.codec import Frame, Status, Type
from jelly.errors import ErrorCode, Refused, StoreError, log_failure
from jelly.fair_queue import Job
from jelly.hashing import Hashers, Work
from jelly.messages import error_response, refusal
from jelly.outcomes import Answer, CpuTask, NewMessage, Outcome, Unfinished, Write
from jelly.requests import MESSAGES, UNANSWERED, Edit, GroupMessage, PersonMessage, parse_request
from jelly.scheduling import yield_cpu
from jelly.services import Services
from jelly.sessions import Session
from jelly.store import Store, failure, send_answers
from jelly.threads import VitalThread

log = logging.getLogger("jelly.dispatch")

LANE_LIMIT = 256
"""At most this many requests wait in one lane; then its reader stops reading, and TCP makes the
client wait.
"""
FEW_REQUESTS = 2
"""How many requests of a lane may use the last part of the queue. A client that waits for its
answers has fewer, and one that does not cannot take that part away from it."""
KEPT_SHARE = 4
"""One of this many shares of the queue is that part."""
LANES_AT_ONCE = 16
"""At most this many lanes are served by a worker before it looks at the queue again."""
REQUESTS_AT_ONCE = 64
"""At most this many requests of one lane are served together."""
BYTES_AT_ONCE, SHORT_BYTES_AT_ONCE = 64 * 1024, 16 * 1024
"""Bytes of messages and answers after which the next lane is served, usually and while memory for
answers is short: pages of friends, groups and history can be long.
"""


class PendingRequest(NamedTuple):
    """One request that waits in a lane. With `error` it is not served, but answered with that
    error.
    """

    frame: Frame
    received_at: float
    """When the reader got it, in monotonic seconds."""
    error: ErrorCode | None = None
    sentence: str = ""
    """What to say about the error, if it is more than usual."""


class Lane:
    """The requests of one connection that wait, oldest first."""

    __slots__ = ("busy", "incoming", "on_served", "reserved", "room", "session", "unfinished", "waiting")

    def __init__(self, session: Session) -> None:
        self.session = session
        # The reader's, until `RequestQueue.put` moves them into `waiting`.
        self.incoming: list[PendingRequest] = []
        # Guarded by the queue's mutex.
        self.waiting: list[PendingRequest] = []
        # Held from the moment the lane enters the queue until its last answer is sent. A lock and
        # not a flag, because one thread takes it and another releases it, and taking it is one
        # atomic step.
        self.busy = threading.Lock()
        # Set while the reader waits for room in a full lane.
        self.room: threading.Event | None = None
        # Called once, by the thread that releases the lane when nothing waits in it any more.
        self.on_served: Callable[[], None] | None = None
        # The two below belong to the thread that holds `busy`: the request whose answer is made in
        # several turns, and how many bytes of memory are reserved for that answer.
        self.unfinished: tuple[PendingRequest, Unfinished] | None = None
        self.reserved = 0

    @property
    def is_full(self) -> bool:
        """Whether the connection's reader should stop reading."""
        return len(self.waiting) >= LANE_LIMIT


class RequestQueue(queue.Queue[Lane]):
    """A `queue.Queue` of lanes. `maxsize` bounds the requests that wait in all of them together.

    It differs from its base class in three ways: it counts requests and not its elements,
    `get_many` takes several lanes at once, and `put` wakes a worker only if no worker is running.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        # All guarded by the mutex.
        self._waiting = 0  # requests in all lanes, without those that are refused already
        self._running = 0  # workers that are neither asleep nor blocked
        self._is_waking = False  # a worker was woken and has not come to the queue yet
        self.unfinished: deque[Lane] = deque()  # lanes whose request goes on, one at a time
        self._one_goes_on = False  # a worker has one of these in hand
        self._closed = False

    def put(self, item: Lane, block: bool = False, timeout: float | None = None) -> None:  # noqa: ARG002 - never blocks
        """Count what has come into a lane, and put the lane into the queue unless a worker has it.

        Never blocks. Requests beyond `maxsize` are marked with the error `busy`. Raises queue.Full
        if nothing but such requests wait in the lane: the caller then holds the lane, and answers
        them. They must not wait for a worker, since the queue is full because no worker is free.
        """
        lane = item
        with self.mutex:
            if lane.incoming:
                incoming, lane.incoming = lane.incoming, []
                self._admit(lane, incoming)
            if not lane.waiting or not lane.busy.acquire(blocking=False):
                return  # the thread that has the lane looks again when it releases it
            if lane.waiting[0].error is ErrorCode.BUSY and all(map(_is_refused, lane.waiting)):
                raise queue.Full
            self._schedule(lane)

    def get_many(self, most: int, was_running: bool = False) -> list[Lane]:
        """Wait for lanes and take up to `most` of them; an empty list means that the queue is
        closed.

        From then on the caller counts as running, until it calls this again (with `was_running`).
        """
        while True:
            with self.mutex:
                self._running -= was_running
                was_running = False
                while not (self.queue or self._has_work or self._closed):
                    self.not_empty.wait()
                self._is_waking = True  # the caller is on its way: wake no other one
            yield_cpu()
            with self.mutex:
                self._is_waking = False
                lanes = [self.queue.popleft() for _ in range(min(most, len(self.queue)))]
                if self.unfinished and not self._one_goes_on:
                    self._one_goes_on = True
                    lanes.append(self.unfinished.popleft())
                if lanes or self._closed:
                    self._running += bool(lanes)
                    return lanes

    def put_back(self, lane: Lane) -> None:
        """Put a lane back into the queue. The caller holds it, and cannot serve it now."""
        with self.mutex:
            self._schedule(lane)

    def put_off(self, lane: Lane) -> None:
        """Put a lane behind all others. The caller holds it, and its request is not finished."""
        with self.mutex:
            self.unfinished.append(lane)
            self._wake()

    def went_on(self) -> None:
        """The calling worker has done a part of a request: another one may go on."""
        with self.mutex:
            self._one_goes_on = False

    def take_requests(self, lane: Lane, most: int) -> list[PendingRequest]:
        """Take the oldest requests out of a lane."""
        with self.mutex:
            requests = lane.waiting[:most]
            del lane.waiting[:most]
            self._waiting -= _count(requests)
            if lane.room is not None and not lane.is_full:
                lane.room.set()
            return requests

    def take_refused(self, lane: Lane) -> list[PendingRequest]:
        """Take the refused requests out of a lane that holds no others in front of them."""
        with self.mutex:
            refused = list(itertools.takewhile(_is_refused, lane.waiting))
            del lane.waiting[: len(refused)]
            if lane.room is not None and not lane.is_full:
                lane.room.set()
            return refused

    def return_requests(self, lane: Lane, requests: Sequence[PendingRequest]) -> None:
        """Put requests that were taken and not served back to the front of their lane."""
        with self.mutex:
            lane.waiting[:0] = requests
            self._waiting += _count(requests)

    def wait_for_room(self, lane: Lane, seconds: float) -> bool:
        """Wait at most some seconds until a lane is no longer full; return whether it has room."""
        with self.mutex:
            if not lane.is_full:
                return True
            room = lane.room = threading.Event()
        has_room = room.wait(seconds)
        with self.mutex:  # else a worker might find the event, and None when it sets it
            lane.room = None
        return has_room

    def enter_blocking(self, unserved: list[Lane]) -> None:
        """The calling worker is about to block: another one takes over the lanes that it has not
        served.
        """
        with self.mutex:
            self.queue.extendleft(unserved)
            unserved.clear()
            self._running -= 1
            self._wake()

    def exit_blocking(self) -> None:
        """The calling worker runs again."""
        with self.mutex:
            self._running += 1

    def forget_worker(self, was_running: bool, unserved: list[Lane]) -> None:
        """A worker has failed: forget it, and have another one serve what it left."""
        with self.mutex:
            self._running -= was_running
            self._is_waking = False  # it may have been the one that was woken
            self.queue.extendleft(unserved)
            unserved.clear()
            self._wake()

    def close(self) -> None:
        """Let the workers end once the queue is empty."""
        with self.mutex:
            self._closed = True
            self.not_empty.notify_all()

    # --- with the mutex held ----------------------------------------------------------------------

    def _admit(self, lane: Lane, incoming: list[PendingRequest]) -> None:
        room, kept = self.maxsize - self._waiting, self.maxsize // KEPT_SHARE
        if len(incoming) > room - kept:
            incoming = _refuse_beyond(room, kept, FEW_REQUESTS - len(lane.waiting), incoming)
        lane.waiting += incoming
        self._waiting += _count(incoming)

    def _schedule(self, lane: Lane) -> None:
        self.queue.append(lane)
        self._wake()

    @property
    def _has_work(self) -> bool:
        return bool(self.queue) or (bool(self.unfinished) and not self._one_goes_on)

    def _wake(self) -> None:
        """Wake a worker if lanes wait and no worker runs. (Waking costs more than serving.)"""
        # (The condition is `_has_work`, last and without its call: each message comes here twice.)
        if not self._running and not self._is_waking and (self.queue or (self.unfinished and not self._one_goes_on)):
            self._is_waking = True
            self.not_empty.notify()


def _count(requests: Sequence[PendingRequest]) -> int:
    """How many requests need work: one with an error is only answered, so it does not count."""
    return [request.error for request in requests].count(None)


def _is_refused(request: PendingRequest) -> bool:
    return request.error is ErrorCode.BUSY


def _refuse_beyond(room: int, kept: int, few: int, requests: list[PendingRequest]) -> list[PendingRequest]:
    """The same requests, with those for which there is no room marked as refused.

    The first `few` may take all the room, and the others must leave `kept` of it.
    """
    admitted = []
    for request in requests:
        if request.error is None:
            if room > (0 if few > 0 else kept):
                room -= 1
            else:  # the body is not needed any more, so free it
                request = PendingRequest(request.frame._replace(body=b""), request.received_at, ErrorCode.BUSY)
            few -= 1
        admitted.append(request)
    return admitted


class _WorkerState(threading.local):
    """The lanes and jobs that a worker has in hand; None in threads that are not workers."""

    lanes: list[Lane] | None = None
    jobs: list[Job] | None = None
    is_running = False
    """Whether the queue counts this worker as running."""


class Blocking(contextlib.AbstractContextManager[None]):
    """For `with`, around anything that blocks a worker, like a query: another worker runs
    meanwhile.

    (Java calls this a ManagedBlocker, Go's scheduler entersyscall.) In other threads it does
    nothing.
    """

    def __init__(self, queue: RequestQueue, store: Store, state: _WorkerState) -> None:
        self._queue = queue
        self._store = store
        self._state = state

    def __enter__(self) -> None:
        state = self._state
        if state.lanes is None or state.jobs is None:
            return
        if state.jobs:
            self._store.submit(state.jobs)
            state.jobs.clear()
        self._queue.enter_blocking(state.lanes)

    def __exit__(self, *_: object) -> None:
        if self._state.lanes is not None:
            self._queue.exit_blocking()


class Dispatcher:
    """The workers and the hashers, and the path of a request from its lane to its answer.

    `longest_hold`: seconds until a login that the guard holds back is refused.
    """

    def __init__(
        self,
        services: Services,
        store: Store,
        workers: int,
        queue_size: int,
        longest_hold: float,
        answer_memory: AnswerMemory | None = None,
    ) -> None:
        self._services = services
        self._store = store
        self._answer_memory = answer_memory or AnswerMemory()
        self._queue = RequestQueue(queue_size)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="jelly-worker")
        self._hashers = Hashers(queue_size, longest_hold)
        self._state = _WorkerState()
        self.blocking = Blocking(self._queue, store, self._state)

    # --- called by readers ------------------------------------------------------------------------

    def submit(self, lane: Lane, requests: list[PendingRequest]) -> None:
        """Have the requests of a connection served, in order. Never blocks."""
        lane.incoming = requests
        try:
            self._queue.put(lane)
        except queue.Full:
            self._refuse(lane)
            self._release(lane)

    def wait_for_room(self, lane: Lane, seconds: float) -> bool:
        """If a lane is full, wait at most some seconds until it is not; return whether it has
        room.
        """
        return not lane.is_full or self._queue.wait_for_room(lane, seconds)

    def when_served(self, lane: Lane, function: Callable[[], None]) -> None:
        """Call a function, once, when all requests of a lane are served; at once if they are now.

        Call this when nothing more comes into the lane.
        """
        with self._queue.mutex:
            is_served = not lane.waiting and not lane.busy.locked()
            if not is_served:
                lane.on_served = function
        if is_served:
            function()

    def stop_waiting(self, lane: Lane) -> None:
        """The connection of a lane has ended: it does not wait for memory any more."""
        if self._answer_memory.stop_waiting(lane):
            self._queue.put_off(lane)

    @property
    def hashers(self) -> Sequence[VitalThread]:
        """The threads that hash passwords."""
        return self._hashers.threads

    # --- start and stop ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers and the hashers."""
        for _ in range(self._workers):
            self._pool.submit(self._work)
        self._hashers.start()

    def refuse_logins(self) -> None:
        """Answer logins and registrations that wait for a hasher with SERVER_BUSY: the server stops
        before their turn comes.
        """
        self._hashers.refuse_logins()

    def wait_until_idle(self, lanes: Iterable[Lane], deadline: float) -> bool:
        """Wait until these lanes are served, at most until a monotonic time; return whether they
        are.
        """
        for lane in lanes:
            while lane.waiting or lane.busy.locked():
                if not lane.busy.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    return False
                self._release(lane)
        return True

    def stop(self) -> None:
        """End the threads. What still waits in a lane is not served any more."""
        self._queue.close()
        self._hashers.stop()
        self._pool.shutdown()

    # --- the workers ------------------------------------------------------------------------------

    def _work(self) -> None:
        """A worker: serve until the queue is closed. After a failure it begins anew."""
        state = self._state
        lanes: list[Lane] = []
        jobs: list[Job] = []
        state.lanes, state.jobs = lanes, jobs
        while True:
            try:
                return self._serve_lanes(state, lanes, jobs)
            except BaseException as error:  # noqa: BLE001 - a bug; the pool would end the worker without a word
                log_failure(log, error)
            self._store.submit(jobs)
            jobs.clear()
            self._queue.forget_worker(state.is_running, lanes)
            state.is_running = False

    def _serve_lanes(self, state: _WorkerState, lanes: list[Lane], jobs: list[Job]) -> None:
        while True:
            was_running, state.is_running = state.is_running, False
            lanes += reversed(self._queue.get_many(LANES_AT_ONCE, was_running))
            if not lanes:
                return
            state.is_running = True
            while lanes:
                lane = lanes.pop()
                try:
                    job = self._serve(lane)
                except BaseException as error:  # noqa: BLE001 - a bug: this connection ends, the worker lives
                    self._give_up(lane, error)
                else:
                    if job is not None:
                        jobs.append(job)
            # A single job, and nothing else to do: take the store's turn here, and wake no other
            # thread. (But not if this worker is the only one: while the database works none could
            # take over. Both lists are looked at without the mutex: a wrong guess costs time, and
            # nothing else.)
            if len(jobs) == 1 and not lane.waiting and not self._queue.queue and self._workers > 1:
                job = jobs.pop()
                if self._store.write_now(job, self.blocking):
                    continue
                jobs.append(job)
            if jobs:
                self._store.submit(jobs)
                jobs.clear()

    def _serve(self, lane: Lane) -> Job | None:
        """Serve the requests of a lane, up to the first one that has to wait for something.

        Returns what the store thread has to write: the lane stays closed until that is answered.
        """
        session = lane.session
        if lane.unfinished is not None:
            return self._go_on(lane, *lane.unfinished)
        # The client does not take its answers. To serve more would only fill the memory. So the
        # lane stays out of the queue, and needs no worker, until there is room.
        if session.transport.is_full:
            session.transport.when_not_full(partial(self._queue.put_back, lane))
            return None
        requests = self._queue.take_requests(lane, REQUESTS_AT_ONCE)
        outcomes = self._outcomes(session, requests)
        if len(outcomes) < len(requests):
            self._queue.return_requests(lane, requests[len(outcomes) :])
        # Answers in front of the first write leave now. Those behind it go with the job: the store
        # sends them after its commit, and so in their order.
        answers: list[Answer] = []
        for outcome in outcomes:
            if not isinstance(outcome, Answer):
                break
            answers.append(outcome)
        if answers:
            send_answers(session, answers, [request.received_at for request in requests])
        if len(answers) == len(outcomes):
            self._release(lane)
            return None
        return self._carry_on(lane, requests[len(answers) : len(outcomes)], outcomes[len(answers) :])

    def _outcomes(self, session: Session, requests: Sequence[PendingRequest]) -> list[Outcome]:
        """Serve these requests; return their outcomes, in order.

        Stop where a request must wait for an earlier one: after any outcome that is neither an
        answer nor a message, and before a request that is no message but follows one. Such a
        request may read what the earlier one changes. Also stop after BYTES_AT_ONCE.
        """
        outcomes: list[Outcome] = []
        size = 0
        has_messages = has_failed = False
        for request in requests:
            if has_messages and request.frame.type not in MESSAGES and request.error is None:
                break
            outcome = self._outcome(session, request)
            if has_failed and isinstance(outcome, NewMessage) and outcome.request_id is not None:
                outcome = failure(session, outcome.type)  # it must not overtake the one that has failed
            outcomes.append(outcome)
            if isinstance(outcome, NewMessage):
                has_messages = True
                size += len(request.frame.body)
            elif isinstance(outcome, Answer):
                size += len(outcome.frame or b"")
                has_failed = has_failed or outcome.fails_message
                if outcome.close:
                    break  # nothing behind it is served
            else:
                break
            if size > BYTES_AT_ONCE or (size > SHORT_BYTES_AT_ONCE and session.transport.is_memory_short):
                break
        return outcomes

    def _outcome(self, session: Session, request: PendingRequest) -> Outcome:
        """Serve one request."""
        type = request.frame.type
        if session.closing:
            return Answer(None)
        if request.error is ErrorCode.BUSY:
            return _busy(session, type)
        if request.error is not None:
            return Answer(refusal(type, Refused(request.error, request.sentence)), close=True)
        try:
            return self._services.serve(session, request.frame)
        except StoreError as error:
            self._store.outage.failed(error)
            parsed = parse_request(type, request.frame.body)
            # (A message without a requestId is not sent again, so nothing need wait for it.)
            comes_again = isinstance(parsed, PersonMessage | GroupMessage | Edit) and parsed.requestId is not None
        except Exception as error:  # noqa: BLE001 - a bug: this request fails, the thread lives
            log_failure(log, error)
            comes_again = type in MESSAGES
        return failure(session, type, comes_again)

    def _go_on(self, lane: Lane, request: PendingRequest, unfinished: Unfinished) -> Job | None:
        """Do the next part of a request that takes several turns."""
        lane.unfinished = None
        session, type = lane.session, request.frame.type
        outcome: Outcome
        try:
            if session.closing:
                outcome = Answer(None)
            elif session.transport.is_closed:  # nobody will read it: do not make the rest
                outcome = failure(session, type)
            else:
                outcome = unfinished.go_on()
        except Refused as error:
            outcome = self._services.refused(session, type, error)
        except StoreError as error:
            self._store.outage.failed(error)
            outcome = failure(session, type)
        except Exception as error:  # noqa: BLE001 - a bug: this request fails, the thread lives
            log_failure(log, error)
            outcome = failure(session, type)
        finally:
            self._queue.went_on()
        if isinstance(outcome, Answer):
            send_answers(session, [outcome], [request.received_at])
            self._release(lane)
            return None
        return self._carry_on(lane, [request], [outcome])

    def _put_off(self, lane: Lane, request: PendingRequest, unfinished: Unfinished) -> None:
        """Let the next part of a request wait for its turn, and for its memory."""
        lane.unfinished = request, unfinished

        def on_reserved() -> None:
            lane.reserved = unfinished.size
            self._queue.put_off(lane)

        if unfinished.size <= lane.reserved:
            self._queue.put_off(lane)
        elif self._answer_memory.reserve(lane, unfinished.size, on_reserved):
            on_reserved()
        elif lane.session.transport.is_closed:  # the reader may have looked before the lane waited
            self.stop_waiting(lane)

    def _carry_on(self, lane: Lane, requests: Sequence[PendingRequest], outcomes: list[Outcome]) -> Job | None:
        """Do what the first of these outcomes needs next. Returns a job if it is for the store
        thread.
        """
        first = outcomes[0]
        if isinstance(first, CpuTask):
            self._hash(lane, requests[0], first)
        elif isinstance(first, Unfinished):
            self._put_off(lane, requests[0], first)
        else:
            return Job(
                lane.session,
                outcomes,  # type: ignore[arg-type] # see _outcomes: answers, messages and writes only
                [request.received_at for request in requests],
                sum([len(request.frame.body) for request in requests]),
                partial(self._release, lane),
                is_write=isinstance(first, Write),
            )
        return None

    def _hash(self, lane: Lane, request: PendingRequest, task: CpuTask) -> None:
        session = lane.session
        self._hashers.submit(
            Work(
                session,
                network_of(session.address),
                task.place,
                task.attempt,
                run=partial(self._run_task, lane, request, task),
                refuse=partial(self._finish, lane, request, _busy(session, request.frame.type)),
                give_up=partial(self._refuse_login, lane, request),
                drop=partial(self._close, lane),
            )
        )

    def _refuse_login(self, lane: Lane, request: PendingRequest) -> None:
        self._finish(lane, request, self._services.too_many_attempts(lane.session, request.frame.type))

    def _run_task(self, lane: Lane, request: PendingRequest, task: CpuTask) -> None:
        """On a hasher thread."""
        try:
            outcome = self._task_outcome(lane.session, request.frame.type, task)
        except BaseException as error:  # noqa: BLE001 - a bug: the pool would swallow it, and the client wait for ever
            self._give_up(lane, error)
        else:
            self._finish(lane, request, outcome)

    def _task_outcome(self, session: Session, type: int, task: CpuTask) -> Outcome:
        try:
            return task.run()
        except Refused as error:
            return self._services.refused(session, type, error)
        except Exception as error:  # noqa: BLE001 - a bug: this request fails, the thread lives
            log_failure(log, error)
            return failure(session, type)

    def _finish(self, lane: Lane, request: PendingRequest, outcome: Outcome) -> None:
        """Go on with the one request for which a lane waited, on any thread."""
        try:
            if isinstance(outcome, Answer):
                send_answers(lane.session, [outcome], [request.received_at])
                self._release(lane)
            elif job := self._carry_on(lane, [request], [outcome]):
                self._store.submit([job])
        except Exception as error:  # noqa: BLE001 - a bug: this connection ends, the thread lives
            self._give_up(lane, error)

    def _give_up(self, lane: Lane, error: BaseException) -> None:
        """Serving a lane failed: close its connection, and do not leave the lane closed.

        The caller still holds the lane: nothing fails after a lane was handed on, and `_release`
        fails only while it holds the lane again.
        """
        log_failure(log, error)
        self._close(lane)

    def _close(self, lane: Lane) -> None:
        """Close a connection, and give back its lane, which the caller holds."""
        lane.session.closing = True  # a login that still waits here must not take over its successor
        try:
            lane.session.transport.close()
        finally:
            self._release(lane)

    def _refuse(self, lane: Lane) -> None:
        """Answer the requests of a lane that holds nothing but refused ones."""
        session = lane.session
        requests = self._queue.take_refused(lane)
        if session.user is None:
            del requests[1:]  # the first answer closes the connection
        if not session.closing:
            answers = [_busy(session, request.frame.type) for request in requests]
            send_answers(session, answers, [request.received_at for request in requests])

    def _release(self, lane: Lane) -> None:
        """Give back a lane that was served; queue it again if more requests have come."""
        if lane.reserved:  # the answer itself is counted by its send queue now
            size, lane.reserved = lane.reserved, 0
            for call in self._answer_memory.change(-size):
                call()
        while True:
            # Under the mutex, under which readers add a request and then try the lock: so either
            # the reader gets the lock, or this thread sees the request.
            with self._queue.mutex:
                lane.busy.release()
                if not lane.waiting:
                    on_served, lane.on_served = lane.on_served, None
                    break
            try:
                self._queue.put(lane)
            except queue.Full:
                self._refuse(lane)
            else:
                return
        if on_served is not None:
            on_served()


def _busy(session: Session, type: int) -> Answer:
    if type in UNANSWERED:
        return Answer(None, close=type == Type.LOGOUT)
    return Answer(error_response(type, Status.SERVER_BUSY, ErrorCode.BUSY), close=session.user is None)
