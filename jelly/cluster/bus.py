"""The bus carries hints between nodes: "there is something for you up to this id".

The database has everything; the bus says only when it is worth a look. So hints may be lost,
doubled or swapped, and a bus that fails costs time and nothing else: the node polls meanwhile.

Beside them it carries *notes*: what nobody stores, such as who is typing. They have channels of
their own, on which only nodes listen that know them. What cannot be sent at once is lost.
"""

import logging
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from jelly.cluster.redis_connection import ConnectionFailed, RedisConnection
from jelly.minute_log import MinuteLog
from jelly.threads import VitalThread

log = logging.getLogger("jelly.bus")

PING_INTERVAL = 1.0
"""Seconds from one PING to the next one."""
SILENCE = 3.0
"""Seconds without a byte from Redis after which its connection counts as dead."""
LOOK_INTERVAL = 0.2
"""Seconds between two looks at whether to stop, to send a PING, or to listen as another node."""
RETRY_INTERVAL = 0.3
"""Seconds until the next attempt after one that failed."""
STOP_SECONDS = 1.2
"""At most this many seconds in which `stop` waits for the threads."""
LINE_INTERVAL = 10.0
"""Seconds between two log lines that say that the bus failed, if it comes and goes."""
ONE_WAY_SECONDS = 5.0
"""Seconds for which hints arrive, but cannot be published, until the log says so."""
MAX_NOTES = 100
"""At most this many notes wait to be sent. Those beyond are lost."""
MAX_SHOWN = 40
"""At most this many bytes of a message that is no hint are in the log."""
NO_BUS = "none"
HINT = re.compile(rb"1 ([0-9a-f]{8}) ([0-9]{1,16}) ([0-9]{1,16})")
"""A hint on a channel: the version of this format, its sender, `upto`, `event`. Both are 0 in a
greeting."""


class Hint(NamedTuple):
    """What a node says to another one. 0 says nothing."""

    upto: int
    """Everything for the receiving node up to this message id is committed and synced."""
    event: int
    """The events up to this number are committed and synced."""


class Bus(Protocol):
    """Carries hints between the nodes of one cluster."""

    @property
    def name(self) -> str:
        """What `--cluster` names, without the password."""

    @property
    def sender(self) -> str:
        """By this random text the others know who has sent something."""

    @property
    def is_up(self) -> bool:
        """Whether hints arrive. While they do not, the node has to poll."""

    def start(self, node: int) -> None:
        """Listen as this node from now on. With another number: no longer as the one before."""

    def publish(self, upto: Mapping[int, int], event: int) -> None:
        """Send hints soon. Never raise an error, nor wait for Redis. (But if it has sent a part of
        an answer of four bytes, at most a second for the rest.)

        `upto`: for each node that has something new, the id up to which all is committed and
        synced. `event`: the same for events, of which all nodes hear; 0 if there is none.
        """

    def greet(self) -> None:
        """Let the other nodes hear that this one has the same bus. Never wait or raise an error."""

    def send_note(self, node: int, data: bytes) -> None:
        """Send a note to another node, or lose it. Never wait or raise an error."""

    def take_heard(self) -> Collection[str]:
        """Return the senders of what has arrived since the last call."""

    def stop(self) -> None:
        """End the threads, within about a second. No callback begins after that."""


class NoBus:
    """For a cluster without Redis: its nodes poll."""

    name = NO_BUS
    sender = ""
    is_up = False

    def start(self, node: int) -> None:
        """Do nothing."""

    def publish(self, upto: Mapping[int, int], event: int) -> None:
        """Do nothing."""

    def greet(self) -> None:
        """Do nothing."""

    def send_note(self, node: int, data: bytes) -> None:
        """Do nothing."""

    def take_heard(self) -> Collection[str]:
        return ()

    def stop(self) -> None:
        """Do nothing."""


class _Hints:
    """What a node has to say to the others: only the largest numbers count."""

    def __init__(self) -> None:
        self.upto: dict[int, int] = {}
        self.event = 0
        self.greets = False

    def add(self, upto: Mapping[int, int], event: int, greets: bool) -> None:
        for node, message_id in upto.items():
            if message_id > self.upto.get(node, 0):
                self.upto[node] = message_id
        self.event = max(self.event, event)
        self.greets |= greets

    def clear(self) -> None:
        self.upto.clear()
        self.event, self.greets = 0, False


class RedisBus:
    """Hints through publish/subscribe of Redis or Valkey, which store nothing.

    Each node listens on a channel of its own and on one for all. A thread listens. Whoever has a
    hint sends it at once, if Redis has answered all before. Else hints gather, only the largest id
    for each node, and another thread sends them, which waits for the answers, and connects. Raises
    ConfigError if the URL is wrong or redis-py is missing; it does not connect before `start`.
    """

    def __init__(
        self,
        url: str,
        cluster_id: str,
        on_hint: Callable[[Hint], None],
        on_change: Callable[[bool], None],
        on_note: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """`on_hint` gets each hint, `on_change` each change of `is_up`, `on_note` each note; all on
        the thread that listens. They must not wait for long.
        """
        self._listening = RedisConnection(url)
        self._publishing = RedisConnection(url)
        self._on_hint = on_hint
        self._on_change = on_change
        self._on_note = on_note
        self._prefix = f"jelly:{cluster_id}:"
        self.name = self._listening.name
        self.sender = secrets.token_hex(4)  # not the node: its number may have been another's
        self._log = _BusLog(self.name)
        self._minute_log = MinuteLog(log)
        self._stopping = threading.Event()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # cheaper than an Event
        self._lock = threading.Lock()  # guards the five below
        self._is_woken = False
        self._node: int | None = None
        self._waiting = _Hints()
        self._notes: list[tuple[str, bytes]] = []  # each with its channel
        self._heard: set[str] = set()
        self._publishing_lock = threading.Lock()  # guards the connection that publishes, and the one below
        self._sent = _Hints()  # what Redis may not have answered yet
        self._listens_as: int | None = None  # changed by the thread that listens
        self._listener = VitalThread(self._listen_until_stopped, "jelly-bus-listener")
        self._publisher = VitalThread(self._publish_until_stopped, "jelly-bus-publisher")
        self._listener.on_end = self._publisher.on_end = self._on_thread_end

    @property
    def is_up(self) -> bool:
        node = self._listens_as
        return node is not None and node == self._node

    def start(self, node: int) -> None:
        with self._lock:
            is_first = self._node is None
            self._node = node
            if is_first and not self._stopping.is_set():
                self._listener.start()
                self._publisher.start()

    def publish(self, upto: Mapping[int, int], event: int) -> None:
        with self._lock:
            self._waiting.add(upto, event, greets=False)
        self._send_soon()

    def greet(self) -> None:
        with self._lock:
            self._waiting.greets = True
        self._send_soon()

    def send_note(self, node: int, data: bytes) -> None:
        if not self.is_up:
            return
        with self._lock:
            if len(self._notes) < MAX_NOTES:
                self._notes.append((self._notes_of(node), data))
        self._send_soon()

    def _notes_of(self, node: int | None) -> str:
        """Return the channel on which a node gets notes."""
        return f"{self._prefix}notes:{node}"

    def _send_soon(self) -> None:
        if self._send_at_once():
            return
        with self._lock:
            is_woken, self._is_woken = self._is_woken, True
        if not is_woken:
            self._wake.put(None)

    def _send_at_once(self) -> bool:
        """Send what waits, on this thread, unless it would have to wait. Return whether it did."""
        if not self._publishing_lock.acquire(blocking=False):
            return False
        try:
            if not self._publishing.is_open or not self._publishing.is_answered():
                return False
            self._sent.clear()
            self._send()
        except ConnectionFailed:
            self._take_back()
            return False
        else:
            return True
        finally:
            self._publishing_lock.release()

    def take_heard(self) -> Collection[str]:
        with self._lock:
            heard, self._heard = self._heard, set()
        return heard

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
        self._wake.put(None)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in (self._listener, self._publisher):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    # --- The thread that listens ---

    def _listen_until_stopped(self) -> None:
        while not self._stopping.is_set():
            failure: ConnectionFailed | None = None
            try:
                self._listen_as(self._node)
            except ConnectionFailed as error:
                failure = error
            finally:
                self._listening.close()
                self._set_up(None)
            if failure is not None:
                self._log.failed(failure)
                self._stopping.wait(RETRY_INTERVAL)

    def _listen_as(self, node: int | None) -> None:
        """Listen until the bus stops or the node gets another number.

        Raises ConnectionFailed.
        """
        connection = self._listening
        connection.open()
        notes = self._notes_of(node)
        connection.send("SUBSCRIBE", f"{self._prefix}{node}", f"{self._prefix}all", notes)
        unconfirmed = 3
        unanswered = 0  # PINGs since the last byte
        heard_at = time.monotonic()
        ping_at = heard_at + PING_INTERVAL
        while not self._stopping.is_set() and self._node == node:
            reply = connection.receive(LOOK_INTERVAL)
            now = time.monotonic()
            if reply is not None:
                heard_at, unanswered = now, 0
                match reply:
                    case [b"message", channel, bytes(data)] if channel == notes.encode():
                        self._on_note(data)
                    case [b"message", _, data]:
                        self._take(data)
                    case [b"subscribe", *_] if unconfirmed:
                        unconfirmed -= 1
                        if not unconfirmed:
                            self._set_up(node)
            # Two PINGs, because this process may have stood still, and not Redis.
            elif now >= heard_at + SILENCE and unanswered >= 2:
                raise ConnectionFailed(f"it is silent for {SILENCE:.0f} seconds")
            if now >= ping_at:
                connection.send("PING")
                unanswered += 1
                ping_at = now + PING_INTERVAL

    def _take(self, data: object) -> None:
        """Hand over a hint, unless it is our own."""
        found = HINT.fullmatch(data) if isinstance(data, bytes) else None
        if found is None:
            shown = repr(data[:MAX_SHOWN] if isinstance(data, bytes) else type(data))
            self._minute_log.warn("no hint", "what came through the bus is no hint, and is ignored: %s", shown)
            return
        sender, hint = found[1].decode(), Hint(int(found[2]), int(found[3]))
        if sender == self.sender:
            return
        with self._lock:
            self._heard.add(sender)
        if hint != (0, 0):
            self._on_hint(hint)

    def _set_up(self, node: int | None) -> None:
        """Note as which node we listen; None if hints do not arrive."""
        changed = (self._listens_as is None) != (node is None)
        self._listens_as = node
        if not changed or self._stopping.is_set():
            return
        if node is not None:
            self._log.worked()
        self._on_change(node is not None)

    # --- The thread that publishes if that needs waiting ---

    def _publish_until_stopped(self) -> None:
        failing_since: float | None = None
        try:
            while not self._stopping.is_set():
                self._wake.get()
                failure = self._publish()
                if failure is None:
                    failing_since = None
                    continue
                now = time.monotonic()
                failing_since = failing_since or now
                if self.is_up and now >= failing_since + ONE_WAY_SECONDS:
                    text = "hints arrive through the bus %s, but this node cannot publish any: %s"
                    self._minute_log.warn("publish", text, self._publishing.name, failure)
                self._stopping.wait(RETRY_INTERVAL)
            if self._publishing.is_open:  # what came before `stop` still goes out
                self._publish()
        finally:
            with self._publishing_lock:
                self._publishing.close()

    def _publish(self) -> ConnectionFailed | None:
        """Publish what waits, and wait for the answers. Return why it could not be published; then
        it waits for the next time.
        """
        with self._lock:
            self._is_woken = False
        with self._publishing_lock:
            # A connection may have broken while nothing was sent on it, so what fails on an old one
            # is tried again.
            for is_new in (True,) if not self._publishing.is_open else (False, True):
                try:
                    if is_new:
                        self._publishing.open()
                    self._send()
                    self._publishing.wait_for_answers()
                    self._sent.clear()
                    return None
                except ConnectionFailed as error:
                    failure = error
                    self._take_back()
                    if self._stopping.is_set():
                        break
        return failure

    def _send(self) -> None:
        """Send what waits. The caller has the connection. Raises ConnectionFailed."""
        with self._lock:
            waiting, self._waiting = self._waiting, _Hints()
            notes, self._notes = self._notes, []
            own = self._node
        self._sent.add(waiting.upto, waiting.event, waiting.greets)
        hints = {str(node): Hint(message_id, 0) for node, message_id in waiting.upto.items() if node != own}
        if waiting.event or waiting.greets:
            hints["all"] = Hint(0, waiting.event)
        if hints or notes:
            sender = self.sender.encode()
            said = [(self._prefix + channel, b"1 %b %d %d" % (sender, *hint)) for channel, hint in hints.items()]
            self._publishing.publish(said + notes)

    def _take_back(self) -> None:
        """The connection has failed: what was not answered waits again."""
        self._publishing.close()
        with self._lock:
            self._waiting.add(self._sent.upto, self._sent.event, self._sent.greets)
            self._notes.clear()  # they would be old news
        self._sent.clear()

    # --- Both ---

    def _on_thread_end(self, thread: threading.Thread) -> None:
        if not self._stopping.is_set():
            log.error(
                "the thread %s has ended: until this node is started anew, hints do not arrive or do not leave",
                thread.name,
            )


class _BusLog:
    """Says when the bus fails and when it works again; not more often than each LINE_INTERVAL.

    Only one thread may use it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._next_line_at = float("-inf")
        self._is_told: bool | None = None  # whether the last line said that the bus works

    def failed(self, error: Exception) -> None:
        """Note an attempt that failed, or a connection that has ended."""
        now = time.monotonic()
        if self._is_told is not False and now >= self._next_line_at:
            self._is_told = False
            self._next_line_at = now + LINE_INTERVAL
            log.warning("the bus %s failed: %s; this node polls the database meanwhile", self._name, error)

    def worked(self) -> None:
        """Note that hints arrive."""
        if self._is_told is not True:
            log.info("the bus %s works%s", self._name, "" if self._is_told is None else " again")
            self._is_told = True


def open_bus(
    url: str,
    cluster_id: str,
    on_hint: Callable[[Hint], None],
    on_change: Callable[[bool], None],
    on_note: Callable[[bytes], None] = lambda _: None,
) -> Bus:
    """Return the bus that `url` names: "none", redis://, rediss:// (TLS) or unix://.

    It does not connect before `start`. Raises ConfigError.
    """
    return NoBus() if url == NO_BUS else RedisBus(url, cluster_id, on_hint, on_change, on_note)
