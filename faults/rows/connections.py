"""Rows 12, 15, 16, 20 and 34: receivers that do not read, resets, odd chunks, mass disconnects,
sockets that never log in.
"""

import contextlib
import resource
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from client_api import ConnectionEvent, Reason, ReconnectPolicy
from faults.checker import Answer, Ledger
from faults.context import Control, Finding, Row, RunContext, free_port, wait_until
from faults.load import AWAY, GROUP, ONLINE, PASSWORD, PATIENCE, Load, Sender, User, register
from faults.process import kernel_memory, memory
from faults.proxy import Proxy
from jelly.codec import HEADER, Decoder, Frame, Sign, Status, Type, encode
from jelly.requests import encode_request

SLOW: dict[str, list[str] | None] = {"uma": ["ack"], "vic": [], "wes": None}
"""The receivers that never read, and their features: modern with and without "ack", and classic."""
PIECE = 8000
BYTES = {True: 20e6, False: 60e6}
"""Bytes that are sent to them in all, in the short form and in the long one."""
GROWTH = {True: 10e6, False: 40 * 2**20}
"""At most this many bytes may the server grow meanwhile, in the short form and in the long one."""
KERNEL_GROWTH = 256 * 2**10
"""At most this many bytes may the kernel hold for each of them."""
SLOW_SECONDS = 60.0
MAX_LATENCY = 0.5
"""At most this many seconds for a message between other users, or three times the usual time."""
WARM_UP = 0.5
"""Seconds until a server has all the threads and descriptors that it needs."""
LEAK_LIMIT = 3.0
"""At most this many seconds until the resources of broken connections are released."""
UNKNOWN_USER = "nobody"
CLIENTS = {True: 100, False: 1000}
BACK_LIMIT = 10.0
STRANGERS = {True: 200, False: 2000}
"""How many sockets never log in: as many as the server has places."""
STRANGERS_AT_ONCE = 20
"""At most this many of them connect together, ten times a second."""
STRANGERS_SECONDS = 45.0
HEARTBEAT = encode(Sign.REQUEST, Type.HEARTBEAT)
LOGINS = {True: 10, False: 100}
SLOWEST_LOGIN = 2.0
"""At most this many seconds for a login meanwhile."""


def slow_receivers(context: RunContext, finding: Finding) -> None:
    """Three receivers never read from their sockets.

    When they log in again, they get everything.
    """
    finding.trials = len(SLOW)
    port = free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(context.serve(context.url(), port, "--classic-gap=0"))
        load = stack.enter_context(Load(port, under_way=1))
        flooder = Sender("eva", load.ledger, port, padding=PIECE, under_way=0)
        stack.callback(flooder.client.close)
        register(port, (flooder.name, *SLOW))
        flooder.log_in()
        load.start()
        count = int(BYTES[context.is_short] / PIECE)
        before, held, since = memory(server.process.pid), kernel_memory(port), time.monotonic()
        _flood(flooder, ["sue"], count // 4)
        usual = percentile(load.ledger, since)
        sockets = [stack.enter_context(never_reads(port, name, features)) for name, features in SLOW.items()]
        since = time.monotonic()
        is_done = _flood(flooder, list(SLOW), count)
        if not context.is_short:
            time.sleep(max(0.0, since + SLOW_SECONDS - time.monotonic()))
        growth = 1e6 * (memory(server.process.pid) - before)
        held = kernel_memory(port) - held
        harmed = percentile(load.ledger, since)
        finding.expect(is_done, "latency", "messages to those who do not read were not answered in time")
        finding.expect(growth < GROWTH[context.is_short], "memory", f"the server grew by {growth / 1e6:.0f} MB")
        finding.expect(held < KERNEL_GROWTH * len(SLOW), "kernel", f"the kernel holds {held / 1e6:.1f} MB for them")
        finding.expect(
            harmed < max(MAX_LATENCY, 3 * usual), "latency", f"for others 1 of 100 messages took {harmed:.1f} s"
        )
        for sock in sockets:
            sock.close()
        readers = [User(name, load.ledger, port) for name in SLOW]
        for reader in readers:
            stack.callback(reader.client.close)
            reader.log_in()
            reader.catch_up()
        load.finish()
        finding.notes.append(
            f"{count * PIECE / 1e6:.0f} MB; server grew by {growth / 2**20:.1f} MiB, the kernel's buffers by "
            f"{held / 2**20:.1f} MiB; p99 of others "
            f"{harmed * 1000:.0f} ms (all reading: {usual * 1000:.0f} ms)"
        )
        finding.add_verdict(load.ledger.verdict())


def _flood(flooder: Sender, receivers: Sequence[str], count: int) -> bool:
    """Send large messages in batches; return whether all were answered in time."""
    under_way: list[Future[Any]] = []
    for number in range(count):
        under_way.append(flooder.write(receivers[number % len(receivers)]))
        if len(under_way) == 32 or number == count - 1:
            try:
                for future in under_way:
                    future.exception(5)
            except TimeoutError:
                return False
            under_way.clear()
    return True


def percentile(ledger: Ledger, since: float) -> float:
    """Return the 99th percentile of the answer times of the load, in seconds, since a time."""
    latencies = sorted(ledger.latencies("ann", since) + ledger.latencies("ben", since))
    return latencies[int(0.99 * len(latencies))] if latencies else float("inf")


def never_reads(port: int, name: str, features: list[str] | None) -> socket.socket:
    """Log a user in on a connection with the smallest receive buffer, and do not read from it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    sock.sendall(encode_request(Type.LOGIN, {"username": name, "password": PASSWORD, "features": features}))
    sock.recv(1, socket.MSG_PEEK)  # the answer has arrived, and stays unread
    return sock


def resets(context: RunContext, finding: Finding) -> None:
    """Reset connections in the middle of a frame, before and after a login: no resource leaks."""
    finding.trials = 60 if context.is_short else 2000
    port = free_port()
    # With one worker, the number of database descriptors is constant after the first requests.
    with context.serve(context.url(), port, "--workers=1") as server, Load(port) as load:
        register(port, ["ida"])
        load.start()
        for number in range(10):
            _reset(port, is_logged_in=number % 2 == 0)
        pid = server.process.pid
        time.sleep(WARM_UP)
        before = _resources(pid)
        for number in range(finding.trials):
            _reset(port, is_logged_in=number % 2 == 0)
        is_back = wait_until(
            lambda: all(now <= then for now, then in zip(_resources(pid), before, strict=True)), LEAK_LIMIT
        )
        threads, descriptors = _resources(pid)
        sentence = f"{before[0]} threads, {before[1]} descriptors before; {threads} and {descriptors} after"
        finding.expect(is_back, "leak", sentence)
        finding.notes.append(sentence)
        load.finish()
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} other connections were lost")
        finding.add_verdict(load.ledger.verdict())


def _reset(port: int, is_logged_in: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        login = encode_request(Type.LOGIN, {"username": "ida", "password": PASSWORD, "features": []})
        if is_logged_in:
            sock.sendall(login)
            sock.recv(1)
        sock.sendall(login[: len(login) // 2])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _resources(pid: int) -> tuple[int, int]:
    """Return how many threads and file descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir())), len(list(Path(f"/proc/{pid}/fd").iterdir()))


class ChunkingProxy(Proxy):
    """A proxy that can forward single bytes, or hold the clients' data and forward it at once."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.one_by_one = False
        self.held: dict[socket.socket, bytes] | None = None
        """The data of each client that is held back. None: nothing is held back."""

    def _deliver(self, sock: socket.socket, data: bytes) -> None:
        if self.held is not None and sock in list(self._pairs)[::2]:
            self.held[sock] = self.held.get(sock, b"") + data
            return
        size = 1 if self.one_by_one else len(data)
        for start in range(0, len(data), size):
            super()._deliver(sock, data[start : start + size])

    def release(self) -> None:
        """Forward the data that was held back."""

        def release() -> bool:
            held, self.held = self.held or {}, None
            for sock, data in held.items():
                super(ChunkingProxy, self)._deliver(sock, data)
            return True

        self._run_on_thread(release)


def odd_pieces(context: RunContext, finding: Finding) -> None:
    """Send the stream byte by byte, and then fifty frames or more in one write."""
    pieces = 100 if context.is_short else 2000
    rounds = 3 if context.is_short else 50
    finding.trials = 1 + rounds
    port = free_port()
    with context.serve(context.url(), port), ChunkingProxy(port) as proxy, Load(proxy.port) as load:
        proxy.one_by_one = True
        load.start()
        load.ledger.wait_for_more(Answer.STORED, pieces, 2 if context.is_short else 60)
        finding.expect(not load.disconnects, "disconnected", f"the server closed {load.disconnects} connections")
        proxy.one_by_one = False
        load.stop()
        load.wait_until_online()
        targets = [*ONLINE, UNKNOWN_USER, AWAY, GROUP] * 10
        for _ in range(rounds):
            proxy.held = {}
            futures = [sender.write(target) for sender in load.senders for target in targets]
            wait_until(lambda: _frames(proxy) >= len(load.senders) * len(targets), 10)
            proxy.release()
            for future in futures:
                future.exception(PATIENCE)
        load.finish()
        finding.add_verdict(load.ledger.verdict())


def _frames(proxy: ChunkingProxy) -> int:
    """Return how many complete requests a proxy holds back."""
    frames: list[Frame] = [
        frame for data in list((proxy.held or {}).values()) for frame in Decoder().feed(data) if len(data) > HEADER.size
    ]
    return sum(frame.type in (Type.PERSON_MESSAGE, Type.GROUP_MESSAGE) for frame in frames)


class ReconnectingUser(User):
    """A user who records when the client has reconnected."""

    reconnected_at = float("inf")

    def on_connection(self, event: ConnectionEvent) -> None:
        super().on_connection(event)
        if event.reason is Reason.RECONNECTED:
            self.reconnected_at = time.monotonic()


def mass_disconnect(context: RunContext, finding: Finding) -> None:
    """Cut all connections at once: the clients reconnect with their tokens and the usual pauses."""
    count = CLIENTS[context.is_short]
    finding.trials = count
    _allow_descriptors(10 * count)
    port, ledger = free_port(), Ledger()
    hashes = context.directory / f"hashes-{port}"
    with contextlib.ExitStack() as stack:
        server = context.serve(context.url(), port, launch=["--variant=count-hashes"], FAULTS_HASH_LOG=str(hashes))
        stack.enter_context(server)
        proxy = stack.enter_context(Proxy(port))
        users = [
            ReconnectingUser(f"u{number}", ledger, proxy.port, reconnect=ReconnectPolicy()) for number in range(count)
        ]
        writer = Sender("eva", ledger, port, padding=0, under_way=0)
        for user in (*users, writer):
            stack.callback(user.client.close)
        register(port, [user.name for user in (*users, writer)])
        for user in (*users, writer):
            user.log_in()
        before, cut_at = hashes.stat().st_size, time.monotonic()
        proxy.cut()
        futures = [writer.write(user.name) for user in users]
        wait_until(lambda: all(user.reconnected_at < float("inf") for user in users), 3 * BACK_LIMIT)
        took = max(user.reconnected_at for user in users) - cut_at
        hashed = hashes.stat().st_size - before
        finding.expect(took < BACK_LIMIT, "late", f"after {took:.1f} s not all were back")
        finding.expect(not hashed, "hashing", f"{hashed} passwords were hashed")
        for future in futures:
            future.exception(PATIENCE)
        for user in users:
            user.catch_up()
        finding.notes.append(f"all back after {took:.1f} s, {hashed} passwords hashed")
        finding.add_verdict(ledger.verdict())


class Strangers:
    """Sockets that send heartbeats and never log in. Those that the server closes are renewed.

    The context manager keeps them open until it ends.
    """

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self._selector = selectors.DefaultSelector()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="strangers")
        self.renewed = -count
        """How many were closed, and opened again."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._close(key.fileobj)
        self._selector.close()

    def _run(self) -> None:
        next_beat = 0.0
        while not self._ending.wait(0.1):
            for key, _ in self._selector.select(0):  # nothing is sent to them, so this is their end
                self._close(key.fileobj)
            sockets = self._selector.get_map().values()
            for _ in range(min(self._count - len(sockets), STRANGERS_AT_ONCE)):
                with contextlib.suppress(OSError):
                    sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
                    sock.sendall(HEARTBEAT)
                    sock.setblocking(False)
                    self._selector.register(sock, selectors.EVENT_READ)
                    self.renewed += 1
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + 5
                for key in sockets:
                    with contextlib.suppress(OSError):
                        key.fileobj.send(HEARTBEAT)  # type: ignore[union-attr]

    def _close(self, sock: Any) -> None:
        self._selector.unregister(sock)
        sock.close()


def strangers(context: RunContext, finding: Finding) -> None:
    """All places of the server are wanted by sockets from one address that never log in.

    Users log in from the same address meanwhile, and those inside are served.
    """
    finding.trials = LOGINS[context.is_short]
    count = STRANGERS[context.is_short]
    _allow_descriptors(4 * count)
    port = free_port()
    limits = f"--max-connections={count}", f"--max-per-address={2 * count}"
    with context.serve(context.url(), port, *limits) as server, Load(port) as load:
        names = [f"u{number}" for number in range(finding.trials)]
        register(port, names)
        load.start()
        with Strangers(port, count) as crowd:
            wait_until(lambda: crowd.renewed >= 0, 10 * PATIENCE)
            since = time.monotonic()
            took = [_log_in_once(port, name) for name in names]
            is_told = b"--max-connections" in server.log
            lines = server.log.count(b"turned away")
            if not context.is_short:
                time.sleep(max(0.0, since + STRANGERS_SECONDS - time.monotonic()))
            took.append(_log_in_once(port, names[0]))
        load.finish()
        refused = took.count(None)
        slowest = max((seconds for seconds in took if seconds is not None), default=0.0)
        finding.expect(not refused, "shut out", f"{refused} of {len(took)} users could not log in")
        finding.expect(slowest < SLOWEST_LOGIN, "late", f"a login took {slowest:.1f} s")
        finding.expect(is_told and lines < 5, "log", f"{lines} lines say that connections were turned away")
        finding.expect(not load.disconnects, "disconnected", f"{load.disconnects} users were cut off")
        finding.notes.append(
            f"{count} sockets, {crowd.renewed} renewed; {len(took) - refused} of {len(took)} logins, the slowest "
            f"{slowest:.2f} s; {lines} lines in the log"
        )
        finding.add_verdict(load.ledger.verdict())


def _log_in_once(port: int, name: str) -> float | None:
    """Log in, and return how many seconds it took; None if the server closes or says no."""
    started = time.monotonic()
    login = encode_request(Type.LOGIN, {"username": name, "password": PASSWORD, "features": []})
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(login)
            header = sock.recv(HEADER.size, socket.MSG_WAITALL)
    except OSError:
        return None
    if len(header) < HEADER.size or HEADER.unpack(header)[3] != Status.SUCCESS:
        return None
    return time.monotonic() - started


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


ROWS = [
    Row(
        12,
        "receivers that never read (SO_RCVBUF 4096)",
        slow_receivers,
        (
            Control("unbounded-send-queue", "memory"),
            Control("unbounded-buffers", "kernel"),
            Control("blocking-send", "latency"),
        ),
    ),
    Row(15, "reset in mid-frame (SO_LINGER 0)", resets, (Control("leaks-sockets", "leak"),)),
    Row(
        16,
        "bytes one at a time; 50 frames in one write",
        odd_pieces,
        (Control("frame-a-read", "disconnected"), Control("answers-reversed", "refused_but_arrived")),
    ),
    Row(
        34,
        "sockets that never log in, as many as there are places",
        strangers,
        (Control("strangers-stay", "shut out"),),
    ),
    Row(20, "all clients cut at once", mass_disconnect, (Control("hashes-at-reconnect", "hashing"),)),
]
