"""The bounded queue in front of the thread pool: who is served next, in which order, and what is too much.

Each connection has a `Lane`: its requests that wait. A lane with something in it stands in the queue, once;
a worker takes it, serves what it holds, in order, and only then may it stand there again. So one lane is
never in two workers, and the responses of a connection leave in the order of its requests, on which the
protocol rests. (A job for each request, as one would write it first, reordered 7,600 messages of a test run,
and cost ten times the CPU.)

What costs is not Python but waking threads, so:

- the queue holds lanes, not requests, and a worker takes up to 16 lanes at once;
- only one worker is woken at a time: the others sleep while one is running, and take over when it is about to
  block, on a query say (`away`). So the size of the pool costs nothing;
- the messages of a lane go to the store thread together, and the lane stays shut until they are answered.

The queue's limit counts requests that wait in all lanes together. What comes beyond it is answered with
SERVER_BUSY, in its place in the order: at once if the lane is idle, else after the answers that it has to wait
for, because clients match responses by their order.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from jelly.codec import Frame, Status
from jelly.errors import ErrorCode, Refused, StoreError, log_failure
from jelly.messages import MESSAGES, error_response, refusal
from jelly.scheduling import lower_priority, yield_cpu
from jelly.services import Later, Outcome, Services, Slow
from jelly.sessions import Session
from jelly.store import Answer, Entry, Job, NewMessage, Store, failure, send_answers

log = logging.getLogger("jelly.dispatch")

LANE_LIMIT = 256
"""So many requests may wait in one lane; then its reader stops reading, and TCP tells the client to wait."""
HASHERS = 2
LANES_A_TURN = 16
REQUESTS_A_TURN = 64
"""So many messages of one lane go to the store together."""
BYTES_A_TURN = 64 * 1024
"""With more bytes of messages and answers than this a lane's turn ends: lists of friends and groups can be long."""


class Item(NamedTuple):
    """One request in a lane. With `error` it is not served, but answered with that error in its turn."""

    frame: Frame
    asked_at: float
    error: ErrorCode | None = None


class Lane:
    """The requests of one connection that wait. Guarded by the queue's lock, but for `busy`."""

    __slots__ = ("busy", "items", "room", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.items: list[Item] = []
        # Held from the moment the lane enters the queue until its last answer was sent. A lock, not a flag,
        # because it is taken by one thread and released by another, and taking it is one atomic step.
        self.busy = threading.Lock()
        # The reader's, while it waits for room in a full lane.
        self.room: threading.Event | None = None

    @property
    def is_full(self) -> bool:
        """Whether the connection's reader should not read on."""
        return len(self.items) >= LANE_LIMIT


class RequestQueue(queue.Queue[Lane]):
    """A queue of lanes, bounded by the requests that wait in them: `maxsize` is how many.

    It has the lock of `queue.Queue`, and adds what that class does not have: a bound on something else than
    its elements, taking several at once, and waking a worker only if none is running.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self._waiting = 0
        self._running = 0
        self._is_one_woken = False
        self._closed = False

    def put_requests(self, lane: Lane, frames: Sequence[Frame], asked_at: float) -> list[Item]:
        """Put requests into a lane, and the lane into the queue, unless it is being served.

        Those for which there is no room get an error in their place. See `put_lane` for what is returned.
        """
        with self.mutex:
            room = self.maxsize - self._waiting
            if len(frames) <= room:
                self._waiting += len(frames)
                lane.items += [Item(frame, asked_at) for frame in frames]
            else:
                room = max(0, room)
                self._waiting += room
                lane.items += [Item(frame, asked_at) for frame in frames[:room]]
                for frame in frames[room:]:  # without their bodies, which nobody needs any more
                    lane.items.append(Item(frame._replace(body=b""), asked_at, ErrorCode.BUSY))
            return self._open(lane)

    def put_error(self, lane: Lane, item: Item) -> list[Item]:
        """Put an error into a lane: it costs no work, so it does not count. See `put_lane` for what is returned."""
        with self.mutex:
            lane.items.append(item)
            return self._open(lane)

    def put_lane(self, lane: Lane) -> list[Item]:
        """Put a lane into the queue, unless it is being served. Never blocks.

        A lane with nothing but refused requests does not go there, for no worker may be free for long. They are taken
        out and returned; the caller, who holds the lane now, is to answer them.
        """
        with self.mutex:
            return self._open(lane)

    def put_again(self, lane: Lane) -> None:
        """Have a lane served later that its worker holds, and cannot serve now."""
        with self.mutex:
            self._put(lane)
            self._wake()

    def drain(self, lane: Lane, most: int) -> list[Item]:
        """Take the oldest requests out of a lane."""
        with self.mutex:
            items, lane.items = lane.items[:most], lane.items[most:]
            self._waiting -= _count(items)
            if lane.room is not None and not lane.is_full:
                lane.room.set()
            return items

    def put_back(self, lane: Lane, items: Sequence[Item]) -> None:
        """Put requests back in front that were taken and not served."""
        with self.mutex:
            lane.items[:0] = items
            self._waiting += _count(items)

    def wait_for_room(self, lane: Lane, seconds: float) -> bool:
        """Wait until a lane is not full any more, at most some seconds; return whether it has room."""
        with self.mutex:
            if not lane.is_full:
                return True
            room = lane.room = threading.Event()
        has_room = room.wait(seconds)
        lane.room = None
        return has_room

    def take(self, most: int, is_running: bool = False) -> list[Lane]:
        """Wait for lanes to serve; then the caller is running. An empty list means that the queue is closed.

        `is_running`: the caller has served what it took before.
        """
        while True:
            with self.mutex:
                self._running -= is_running
                is_running = False
                while not self.queue and not self._closed:
                    self.not_empty.wait()
                self._is_one_woken = True  # the caller
            yield_cpu()
            with self.mutex:
                self._is_one_woken = False
                lanes = [self._get() for _ in range(min(most, len(self.queue)))]
                self._running += bool(lanes)
                if lanes or self._closed:
                    return lanes

    def leave(self, unserved: list[Lane]) -> None:
        """The caller is about to block: another worker takes over the lanes that it has not served yet."""
        with self.mutex:
            self.queue.extendleft(unserved)
            unserved.clear()
            self._running -= 1
            self._wake()

    def come_back(self) -> None:
        """The caller has stopped blocking."""
        with self.mutex:
            self._running += 1

    def close(self) -> None:
        """Let the workers end, once nothing is left."""
        with self.mutex:
            self._closed = True
            self.not_empty.notify_all()

    def _open(self, lane: Lane) -> list[Item]:
        if not lane.items or not lane.busy.acquire(blocking=False):
            return []  # whoever serves it looks again when it closes it
        if all(item.error is ErrorCode.BUSY for item in lane.items):
            refused, lane.items = lane.items, []
            if lane.room is not None:
                lane.room.set()
            return refused
        self._put(lane)
        self._wake()
        return []

    def _wake(self) -> None:
        """Wake a worker, if there is something to do, and nobody to do it: waking is what costs."""
        if self.queue and not self._running and not self._is_one_woken:
            self._is_one_woken = True  # until some worker is here; between two others would be woken for nothing
            self.not_empty.notify()


def _count(items: Sequence[Item]) -> int:
    return [item.error for item in items].count(None)


class _Turn(threading.local):
    """What a worker has in hand; None in threads that are no workers."""

    lanes: list[Lane] | None = None
    jobs: list[Job] | None = None


class Dispatcher:
    """The workers and the hashers, and the way of a request from its lane to its answer.

    `call_later(seconds, function)` calls a function after some seconds, in any thread.
    """

    def __init__(
        self,
        services: Services,
        store: Store,
        workers: int,
        queue_size: int,
        call_later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._services = services
        self._store = store
        self._call_later = call_later
        self._queue = RequestQueue(queue_size)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="jelly-worker")
        self._hashers = ThreadPoolExecutor(HASHERS, thread_name_prefix="jelly-hasher", initializer=lower_priority)
        # A ThreadPoolExecutor's own queue has no limit, so the limit stands in front of it.
        self._hash_slots = threading.BoundedSemaphore(queue_size)
        self._turn = _Turn()

    # --- called by readers ------------------------------------------------------------------------------

    def submit(self, lane: Lane, frames: Sequence[Frame], asked_at: float) -> None:
        """Have the requests of a connection served, in order. Never blocks."""
        refused = self._queue.put_requests(lane, frames, asked_at)
        if refused:
            self._refuse(lane, refused)

    def submit_error(self, lane: Lane, frame: Frame, asked_at: float, error: ErrorCode) -> None:
        """Have a frame answered with an error, in its turn. Never blocks."""
        refused = self._queue.put_error(lane, Item(frame, asked_at, error))
        if refused:
            self._refuse(lane, refused)

    def wait_for_room(self, lane: Lane, seconds: float) -> bool:
        """If a lane is full, wait until it is not, at most some seconds; return whether it has room."""
        if not lane.is_full:
            return True
        return self._queue.wait_for_room(lane, seconds)

    # --- start and stop ---------------------------------------------------------------------------------

    def start(self) -> None:
        for _ in range(self._workers):
            self._pool.submit(self._work)

    def wait_until_idle(self, lanes: Iterable[Lane], deadline: float) -> bool:
        """Wait until these lanes are served, at most until a monotonic time; return whether they are."""
        for lane in lanes:
            while lane.items or lane.busy.locked():
                if not lane.busy.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    return False
                self._close(lane)
        return True

    def stop(self) -> None:
        """End the threads. What still waits in a lane is not served any more."""
        self._queue.close()
        self._hashers.shutdown(cancel_futures=True)
        self._pool.shutdown()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """To be held while a service may block: a query, say. For threads that are no workers it does nothing."""
        turn = self._turn
        if turn.lanes is None or turn.jobs is None:
            yield
            return
        self._submit(turn.jobs)
        self._queue.leave(turn.lanes)
        try:
            yield
        finally:
            self._queue.come_back()

    # --- the workers ------------------------------------------------------------------------------------

    def _work(self) -> None:
        lanes = self._turn.lanes = []
        jobs = self._turn.jobs = []
        is_running = False
        while True:
            lanes += reversed(self._queue.take(LANES_A_TURN, is_running))
            if not lanes:
                return
            is_running = True
            while lanes:
                lane = lanes.pop()
                try:
                    job = self._serve(lane)
                except Exception as error:  # a bug; the worker lives, and the lane does not stay shut
                    log_failure(log, error)
                    lane.session.transport.close()
                    if lane.busy.locked():
                        self._close(lane)
                else:
                    jobs += [job] if job else []
            self._submit(jobs)

    def _submit(self, jobs: list[Job]) -> None:
        if jobs:
            self._store.submit(jobs)
            jobs.clear()

    def _serve(self, lane: Lane) -> Job | None:
        """Serve a lane: up to the first request that has to wait for something, or all its messages together.

        Returns messages for the store, whose answers open the lane again.
        """
        session = lane.session
        if session.transport.is_full:  # the client does not take its answers: it gets no more until it does
            session.transport.when_room(partial(self._queue.put_again, lane))
            return None
        items = self._queue.drain(lane, REQUESTS_A_TURN)
        size = 0
        answers: list[tuple[Answer, float]] = []
        entries: list[tuple[Entry, Item]] = []
        waits: tuple[Item, Outcome] | None = None
        for position, item in enumerate(items):
            if entries and item.frame.type not in MESSAGES and item.error is None:
                self._queue.put_back(lane, items[position:])  # it may read what these messages change
                break
            outcome = self._outcome(session, item)
            if isinstance(outcome, NewMessage):
                entries.append((outcome, item))
                size += len(item.frame.body)
                if size > BYTES_A_TURN:
                    self._queue.put_back(lane, items[position + 1 :])
                    break
            elif isinstance(outcome, Answer):
                if entries:
                    entries.append((outcome, item))
                else:
                    answers.append((outcome, item.asked_at))
                size += len(outcome.frame or b"")
                if outcome.close:
                    break  # whatever the client sent after this is not served
                if size > BYTES_A_TURN:
                    self._queue.put_back(lane, items[position + 1 :])
                    break
            else:
                waits = item, outcome
                self._queue.put_back(lane, items[position + 1 :])
                break
        if answers:
            send_answers(session, *zip(*answers, strict=True))
        if waits:
            self._carry_on(lane, *waits)
        elif entries:
            return self._job(lane, entries)
        else:
            self._close(lane)
        return None

    def _outcome(self, session: Session, item: Item) -> Outcome:
        """What is to happen for one request, whatever it is."""
        type = item.frame.type
        if session.closing:
            return Answer(None)
        if item.error is ErrorCode.BUSY:
            return _busy(session, type)
        if item.error is not None:
            return Answer(refusal(type, Refused(item.error)), close=True)
        try:
            return self._services.serve(session, item.frame)
        except StoreError as error:
            log.warning("a query failed: %s", error)
        except Exception as error:
            log_failure(log, error)
        return failure(session, type)

    def _carry_on(self, lane: Lane, item: Item, outcome: Outcome) -> None:
        """Do what a request needs next; the lane stays shut until it is answered."""
        if isinstance(outcome, Answer):
            send_answers(lane.session, [outcome], [item.asked_at])
            self._close(lane)
        elif isinstance(outcome, Later):
            self._call_later(outcome.seconds, partial(self._carry_on, lane, item, outcome.answer))
        elif isinstance(outcome, Slow):
            if self._hash_slots.acquire(blocking=False):
                self._hashers.submit(self._hash, lane, item, outcome)
            else:
                self._carry_on(lane, item, _busy(lane.session, item.frame.type))
        else:
            self._store.submit([self._job(lane, [(outcome, item)])])

    def _hash(self, lane: Lane, item: Item, slow: Slow) -> None:
        """On a hasher thread."""
        try:
            outcome: Outcome = slow.run()
        except Refused as error:
            outcome = self._services.refused(lane.session, item.frame.type, error)
        except Exception as error:
            log_failure(log, error)
            outcome = failure(lane.session, item.frame.type)
        finally:
            self._hash_slots.release()
        self._carry_on(lane, item, outcome)

    def _job(self, lane: Lane, entries: Sequence[tuple[Entry, Item]]) -> Job:
        return Job(
            lane.session,
            [entry for entry, _ in entries],
            [item.asked_at for _, item in entries],
            sum([len(item.frame.body) for _, item in entries]),
            partial(self._close, lane),
        )

    def _refuse(self, lane: Lane, items: Sequence[Item]) -> None:
        answers = [_busy(lane.session, item.frame.type) for item in items]
        send_answers(lane.session, answers, [item.asked_at for item in items])
        self._close(lane)

    def _close(self, lane: Lane) -> None:
        """A lane was served; if more came meanwhile, it is to be served again."""
        lane.busy.release()
        if lane.items:
            refused = self._queue.put_lane(lane)
            if refused:
                self._refuse(lane, refused)


def _busy(session: Session, type: int) -> Answer:
    return Answer(error_response(type, Status.SERVER_BUSY, ErrorCode.BUSY), close=session.user is None)
