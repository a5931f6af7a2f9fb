"""The load: users who write to each other with the client library while something breaks.

Four senders write to two receivers who are online, to one who is offline until the end, and to a
group. All are modern clients. The library reconnects them and drops duplicates. The ledger records
what the library delivers to the application, and what it answers.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from client_api import (
    ConnectionEvent,
    ConnectionLost,
    GroupMessageEvent,
    JellyClient,
    MessageEvent,
    Reason,
    Receiver,
    ReconnectPolicy,
    RequestRejected,
    ServerBusy,
    ServerFailed,
    State,
    SystemEvent,
)
from faults.checker import Answer, Key, Ledger

SENDERS = ("ann", "ben", "cat", "dan")
ONLINE = ("rob", "sue")
AWAY = "tom"
GROUP, MEMBERS = "team", (*SENDERS, "rob", AWAY)
PASSWORD = "pw"
QUICK = ReconnectPolicy(pause=0.02, factor=1.2, maximum=0.1)
PATIENCE = 60.0
"""Seconds until a missing answer is an error of the harness."""
AFTER_ERROR = 0.02
"""Seconds that a sender waits after an error."""
MARKER = "mark"
"""Begins the key of a message that only shows that all before it have arrived."""
MARK_SECONDS = 5.0
"""Seconds until the next one is sent if one does not arrive."""


class User(Receiver):
    """A user whose client records what arrives. `options` go to the client."""

    def __init__(self, name: str, ledger: Ledger, port: int, host: str = "127.0.0.1", **options: Any) -> None:
        self.name = name
        self.disconnects = 0
        self.address = ""
        """The server in use, or the last one: host:port."""
        self.presence: dict[str, bool] = {}
        """The latest presence of each friend."""
        self.went_offline: dict[str, int] = {}
        """How often each friend went offline."""
        self._ledger = ledger
        self._marks = 0
        self._marker_arrived = threading.Event()
        self.client = JellyClient(host, port, receiver=self, **{"reconnect": QUICK, **options})

    def on_message(self, event: MessageEvent) -> None:
        key = _key(event.content)
        self._ledger.delivered(self.name, key)
        if key[0].startswith(MARKER):
            self._marker_arrived.set()

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._ledger.delivered(self.name, _key(event.content))

    def on_system(self, event: SystemEvent) -> None:
        if event.event == "presence":
            self.presence[event.friend] = event.online
            self.went_offline[event.friend] = self.went_offline.get(event.friend, 0) + (not event.online)

    def on_connection(self, event: ConnectionEvent) -> None:
        self.disconnects += event.reason is Reason.CONNECTION_LOST
        self.address = event.address

    def log_in(self) -> None:
        self.client.login(self.name, PASSWORD).result(PATIENCE)

    def catch_up(self) -> None:
        """Wait for all messages that are stored for this user.

        Messages arrive in order, so a message of the user to themselves arrives last. It is in the
        ledger, too: a server with a defect may lose it, and then the next one comes.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._marker_arrived.is_set():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the mark never came to {self.name}")
            if not self.client.wait_until_online(PATIENCE):
                raise RuntimeError(f"{self.name} does not come back: {self.client.state}")
            key = f"{MARKER}-{self.name}", self._marks
            self._marks += 1
            self._ledger.sent(key, self.name, [self.name])
            mark = self.client.send_message(self.name, f"{key[0]} {key[1]}")
            is_stored = mark.exception(PATIENCE) is None
            self._ledger.answered(key, _answer(mark))
            if is_stored:
                self._marker_arrived.wait(MARK_SECONDS)


class Sender(User):
    """Sends messages from `start` to `stop`, with up to `under_way` of them unanswered."""

    def __init__(self, name: str, ledger: Ledger, port: int, padding: int, under_way: int, **options: Any) -> None:
        super().__init__(name, ledger, port, **options)
        self._padding = "x" * padding
        self._under_way = under_way
        self._slots = threading.Semaphore(under_way)
        self._number = 0
        self._stopping = False
        self._pauses = False
        self._thread = threading.Thread(target=self._run, name=f"sender-{name}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, and wait for all answers."""
        self._stopping = True
        if self._thread.is_alive():
            self._thread.join()
            for _ in range(self._under_way):
                if not self._slots.acquire(timeout=PATIENCE):
                    raise RuntimeError(f"{self.name} is still without an answer")

    def write(self, receiver: str, wanted_at: float | None = None) -> "Future[Any]":
        """Send one message to a person or to the group, and record its answer. `wanted_at`: see
        `Ledger.sent`.
        """
        key = self.name, self._number
        self._number += 1
        content = f"{key[0]} {key[1]} {self._padding}"
        if receiver == GROUP:
            self._ledger.sent(key, GROUP, [name for name in MEMBERS if name != self.name], wanted_at)
            future = self.client.send_group_message(GROUP, content)
        else:
            self._ledger.sent(key, receiver, [receiver], wanted_at)
            future = self.client.send_message(receiver, content)
        future.add_done_callback(lambda done: self._note(key, _answer(done)))
        return future

    def _note(self, key: Key, answer: Answer) -> None:
        self._ledger.answered(key, answer)
        self._pauses = answer is not Answer.STORED

    def _run(self) -> None:
        targets = (*ONLINE, AWAY, GROUP)
        while not self._stopping:
            if self._pauses:  # after an error, do not retry at once
                self._pauses = False
                time.sleep(AFTER_ERROR)
            if self.client.state is not State.ONLINE:
                self.client.wait_until_online(0.2)
            elif self._slots.acquire(timeout=0.2):
                self.write(targets[self._number % len(targets)]).add_done_callback(lambda _: self._slots.release())


class Load:
    """The users of one server.

    The context manager registers them, and closes the clients at the end.
    """

    def __init__(
        self, port: int, *, host: str = "127.0.0.1", padding: int = 0, under_way: int = 16, **options: Any
    ) -> None:
        """`padding`: characters in each message after its number; `under_way`: per sender."""
        self.ledger = Ledger()
        self._port, self._host = port, host
        options["host"] = host
        self.senders = [Sender(name, self.ledger, port, padding, under_way, **options) for name in SENDERS]
        self.online = [User(name, self.ledger, port, **options) for name in ONLINE]
        self.away = User(AWAY, self.ledger, port, **options)

    def __enter__(self) -> Self:
        """Register all users, log in those who are online, and create the group."""
        try:
            register(self._port, (*SENDERS, *ONLINE, AWAY), self._host)
            for user in self.present:
                user.log_in()
            creator = self.senders[0].client
            creator.create_group(GROUP).result(PATIENCE)
            for member in MEMBERS[1:]:
                creator.add_member(GROUP, member).result(PATIENCE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def present(self) -> Sequence[User]:
        """The users who are online."""
        return [*self.senders, *self.online]

    @property
    def disconnects(self) -> int:
        """How many connections were lost."""
        return sum(user.disconnects for user in self.present)

    def wait_until_online(self) -> None:
        """Wait until all users are connected again."""
        for user in self.present:
            user.client.wait_until_online(PATIENCE)

    def start(self) -> None:
        for sender in self.senders:
            sender.start()

    def stop(self) -> None:
        """Stop sending, and wait for all answers."""
        for sender in self.senders:
            sender._stopping = True
        for sender in self.senders:
            sender.stop()

    def finish(self) -> None:
        """Stop, log in the offline user, and wait until everybody has all stored messages."""
        self.stop()
        self.away.log_in()
        for user in (*self.present, self.away):
            user.catch_up()

    def close(self) -> None:
        for sender in self.senders:
            sender._stopping = True
        for user in (*self.present, self.away):
            user.client.close()


def register(port: int, names: Iterable[str], host: str = "127.0.0.1") -> None:
    """Create accounts."""
    with JellyClient(host, port) as client:
        for name in names:
            client.register(name, PASSWORD).result(PATIENCE)


def _key(content: str) -> Key:
    sender, number, *_ = content.split(" ")
    return sender, int(number)


def _answer(future: "Future[Any]") -> Answer:
    error = future.exception()
    if error is None:
        return Answer.STORED
    if isinstance(error, RequestRejected | ServerBusy) or (isinstance(error, ConnectionLost) and not error.sent):
        return Answer.REFUSED
    return Answer.FAILED if isinstance(error, ServerFailed) else Answer.UNKNOWN
