"""Several nodes on one database, each in a process of its own, and a load over all of them."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from client_api import State
from faults.checker import Ledger
from faults.context import RunContext, free_port, wait_until
from faults.load import GROUP, ONLINE, Load, Sender, User
from faults.process import Server
from faults.redis import RedisMissing, find_program
from jelly.cluster.node_dao import SERVING

NODES = 3
NO_BUS = "none"
STEADY_INTERVAL = 0.02
"""Seconds between two messages of a sender who writes steadily."""
STOP_SECONDS = 10.0
"""At most this many seconds until a process has stopped after SIGSTOP."""


class Cluster:
    """Nodes on one database. The context manager starts and kills them.

    Before that, `urls` and `buses` may be changed: the database and the bus of each node.
    """

    def __init__(self, context: RunContext, bus: str, *arguments: str, launch: Sequence[str] = ()) -> None:
        """`bus`: the value of --cluster. `arguments`: more of them for each node. `launch`: see
        `RunContext.serve`.
        """
        self.url = context.url()
        self.urls, self.buses = [self.url] * NODES, [bus] * NODES
        self.ports = [free_port() for _ in range(NODES)]
        self.addresses = [("127.0.0.1", port) for port in self.ports]
        self.started: list[Server] = []
        """All servers, also those that have ended."""
        self._context = context
        self._arguments, self._launch = arguments, launch
        self._nodes: dict[int, Server] = {}

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.start, range(NODES)))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, place: int) -> Server:
        return self._nodes[place]

    def start(self, place: int) -> Server:
        """Start the node in a place, on its port."""
        if place in self._nodes:
            self._nodes[place].kill()
        arguments = f"--cluster={self.buses[place]}", *self._arguments
        server = self._context.serve(self.urls[place], self.ports[place], *arguments, launch=self._launch)
        self._nodes[place] = server
        self.started.append(server)
        return server

    def kill(self, place: int) -> None:
        self._nodes[place].kill()

    def pause(self, place: int) -> None:
        """Stop a node (SIGSTOP) until `resume`."""
        self._nodes[place].process.send_signal(signal.SIGSTOP)
        self.wait_until_paused(place)

    def wait_until_paused(self, place: int) -> None:
        """Wait until a node is stopped. Raises RuntimeError."""
        stat = Path(f"/proc/{self._nodes[place].process.pid}/stat")
        if not wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("T"), STOP_SECONDS):
            raise RuntimeError("the node did not stop")

    def resume(self, place: int) -> None:
        self._nodes[place].process.send_signal(signal.SIGCONT)

    def place_of(self, user: User) -> int:
        """The place of the node at which a user is, or was last."""
        return self.ports.index(int(user.address.rpartition(":")[2]))

    def busiest(self, users: Sequence[User]) -> int:
        """The place of the node at which most of these users are."""
        places = [self.place_of(user) for user in users]
        return max(places, key=places.count)

    def load(self, **options: Any) -> Load:
        """The usual load. Each client has the addresses of all nodes, unless `options` has some."""
        return Load(self.ports[0], **{"addresses": self.addresses, **options})

    def count_in_logs(self, words: bytes) -> list[int]:
        """How often each server has logged these words."""
        return [server.log.count(words) for server in self.started]

    def count_registered(self) -> int:
        """How many nodes the table of nodes has that serve."""
        name = self.url.rpartition("/")[2]
        [[count]] = self._context.db.sql(f"SELECT COUNT(*) FROM `{name}`.nodes WHERE state = {SERVING}")
        return int(count)

    def close(self) -> None:
        for server in self._nodes.values():
            if server.process.poll() is None:
                os.kill(server.process.pid, signal.SIGCONT)
            server.kill()


@contextmanager
def steady_writing(
    senders: Sequence[Sender], targets: Sequence[str] = (*ONLINE, GROUP), interval: float = STEADY_INTERVAL
) -> Iterator[None]:
    """Within the block, each sender writes a message each `interval` seconds.

    While a sender is offline, messages gather; their delay begins when they should have been sent.
    """
    ending = threading.Event()

    def write(sender: Sender) -> None:
        due, number = time.monotonic(), 0
        while not ending.wait(max(0.0, due - time.monotonic())):
            if sender.client.state is not State.ONLINE:
                sender.client.wait_until_online(0.2)
                continue
            sender.write(targets[number % len(targets)], due)
            number += 1
            due += interval

    threads = [threading.Thread(target=write, args=(sender,), name=f"steady-{sender.name}") for sender in senders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def percentile(delays: Sequence[float], share: float) -> float:
    """Return the delay that a share of sorted delays does not exceed; infinite without delays."""
    return delays[min(len(delays) - 1, int(share * len(delays)))] if delays else float("inf")


def worst(ledger: Ledger, since: float) -> float:
    """Return the longest delay to those who are online, of messages sent since a time."""
    return percentile(ledger.delays((*ONLINE,), since), 1.0)


def no_redis() -> str:
    """Return why nodes with Redis cannot run here, or an empty string."""
    try:
        find_program()
        import redis  # noqa: F401 - the nodes need it
    except RedisMissing as error:
        return f"{error}."
    except ImportError:
        return "the package redis is not installed."
    return ""
