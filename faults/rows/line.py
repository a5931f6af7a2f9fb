"""Rows 12, 15, 16 and 20: receivers that do not read, resets, odd pieces of the stream, a thousand cuts at once."""

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from client_api import ConnectionEvent, Reason, ReconnectPolicy
from faults.bench import Bench, Control, Finding, Row, free_port, wait_until
from faults.checker import Answer, Ledger
from faults.load import AWAY, GROUP, ONLINE, PASSWORD, PATIENCE, Load, Sender, User, register
from faults.process import memory
from faults.proxy import Proxy
from jelly.codec import HEADER, Decoder, Frame, Type
from jelly.messages import encode_request

SLOW: dict[str, list[str] | None] = {"uma": ["ack"], "vic": [], "wes": None}
"""The receivers that never read, with the features that they announce: modern with and without "ack", and classic."""
PIECE = 8000
BYTES = {True: 20e6, False: 60e6}
"""How much is written to them in all, in the short form and else."""
GROWTH = {True: 10e6, False: 40 * 2**20}
"""Bytes by which the server may grow meanwhile."""
SLOW_SECONDS = 60.0
HARM = 0.5
"""Seconds that a message between others may take, or three times what it took while everybody read."""
SETTLED = 0.5
"""Seconds after which a server has the threads and descriptors that it needs."""
LEAK_LIMIT = 3.0
"""Seconds in which what belonged to broken connections is to be gone."""
NOBODY = "nobody"
CLIENTS = {True: 100, False: 1000}
BACK_LIMIT = 10.0


def slow_receivers(bench: Bench, finding: Finding) -> None:
    """Three sockets never read what is sent to them; afterwards they get everything."""
    finding.trials = len(SLOW)
    port = free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(bench.serve(bench.url(), port, "--classic-gap=0"))
        load = stack.enter_context(Load(port, under_way=1))
        flooder = Sender("eva", load.ledger, port, padding=PIECE, under_way=0)
        stack.callback(flooder.client.close)
        register(port, (flooder.name, *SLOW))
        flooder.log_in()
        load.start()
        count = int(BYTES[bench.is_short] / PIECE)
        before, since = memory(server.process.pid), time.monotonic()
        _flood(flooder, ["sue"], count // 4)
        usual = _percentile(load.ledger, since)
        sockets = [stack.enter_context(_never_reads(port, name, features)) for name, features in SLOW.items()]
        since = time.monotonic()
        is_done = _flood(flooder, list(SLOW), count)
        if not bench.is_short:
            time.sleep(max(0.0, since + SLOW_SECONDS - time.monotonic()))
        growth = 1e6 * (memory(server.process.pid) - before)
        harmed = _percentile(load.ledger, since)
        finding.expect(is_done, "latency", "messages to those who do not read were not answered in time")
        finding.expect(growth < GROWTH[bench.is_short], "memory", f"the server grew by {growth / 1e6:.0f} MB")
        finding.expect(harmed < max(HARM, 3 * usual), "latency", f"for others 1 of 100 messages took {harmed:.1f} s")
        for sock in sockets:
            sock.close()
        readers = [User(name, load.ledger, port) for name in SLOW]
        for reader in readers:
            stack.callback(reader.client.close)
            reader.log_in()
            reader.catch_up()
        load.finish()
        finding.notes.append(
            f"{count * PIECE / 1e6:.0f} MB; server grew by {growth / 2**20:.1f} MiB; p99 of others "
            f"{harmed * 1000:.0f} ms (all reading: {usual * 1000:.0f} ms)"
        )
        finding.judge(load.ledger.verdict())


def _flood(flooder: Sender, receivers: Sequence[str], count: int) -> bool:
    """Write large messages, some at a time; return whether each was answered in time."""
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


def _percentile(ledger: Ledger, since: float) -> float:
    """In which time 99 of 100 messages of the load were answered, of those that were sent since."""
    latencies = sorted(ledger.latencies("ann", since) + ledger.latencies("ben", since))
    return latencies[int(0.99 * len(latencies))] if latencies else float("inf")


def _never_reads(port: int, name: str, features: list[str] | None) -> socket.socket:
    """A connection on which a user is logged in, with the least of buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    sock.sendall(encode_request(Type.LOGIN, {"username": name, "password": PASSWORD, "features": features}))
    sock.recv(1, socket.MSG_PEEK)  # the answer is here, and stays unread
    return sock


def resets(bench: Bench, finding: Finding) -> None:
    """Connections break in the middle of a frame, before and after a login: nothing of them stays."""
    finding.trials = 60 if bench.is_short else 2000
    port = free_port()
    # With one worker the number of its descriptors for the database is settled after the first requests.
    with bench.serve(bench.url(), port, "--workers=1") as server, Load(port) as load:
        register(port, ["ida"])
        load.start()
        for number in range(10):
            _reset(port, is_logged_in=number % 2 == 0)
        pid = server.process.pid
        time.sleep(SETTLED)
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
        finding.expect(not load.cuts, "cut", f"{load.cuts} other lines were cut")
        finding.judge(load.ledger.verdict())


def _reset(port: int, is_logged_in: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        login = encode_request(Type.LOGIN, {"username": "ida", "password": PASSWORD, "features": []})
        if is_logged_in:
            sock.sendall(login)
            sock.recv(1)
        sock.sendall(login[: len(login) // 2])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _resources(pid: int) -> tuple[int, int]:
    """How many threads and descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


class Chopper(Proxy):
    """A proxy that can pass on each byte by itself, or hold back what clients send and pass it on in one piece."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.one_by_one = False
        self.held: dict[socket.socket, bytes] | None = None
        """What each client has sent, while it is held back."""

    def _deliver(self, sock: socket.socket, data: bytes) -> None:
        if self.held is not None and sock in list(self._pairs)[::2]:
            self.held[sock] = self.held.get(sock, b"") + data
            return
        size = 1 if self.one_by_one else len(data)
        for start in range(0, len(data), size):
            super()._deliver(sock, data[start : start + size])

    def release(self) -> None:
        """Pass on what was held back."""

        def release() -> bool:
            held, self.held = self.held or {}, None
            for sock, data in held.items():
                super(Chopper, self)._deliver(sock, data)
            return True

        self._tell(release)


def odd_pieces(bench: Bench, finding: Finding) -> None:
    """The stream comes one byte at a time, then fifty frames and more in one write."""
    pieces = 100 if bench.is_short else 2000
    rounds = 3 if bench.is_short else 50
    finding.trials = 1 + rounds
    port = free_port()
    with bench.serve(bench.url(), port), Chopper(port) as proxy, Load(proxy.port) as load:
        proxy.one_by_one = True
        load.start()
        load.ledger.wait_for_more(Answer.STORED, pieces, 2 if bench.is_short else 60)
        finding.expect(not load.cuts, "cut", f"{load.cuts} lines were cut by the server")
        proxy.one_by_one = False
        load.stop()
        load.wait_until_online()
        targets = [*ONLINE, NOBODY, AWAY, GROUP] * 10
        for _ in range(rounds):
            proxy.held = {}
            futures = [sender.write(target) for sender in load.senders for target in targets]
            wait_until(lambda: _frames(proxy) >= len(load.senders) * len(targets), 10)
            proxy.release()
            for future in futures:
                future.exception(PATIENCE)
        load.finish()
        finding.judge(load.ledger.verdict())


def _frames(proxy: Chopper) -> int:
    """How many whole requests a proxy holds back."""
    frames: list[Frame] = [
        frame for data in list((proxy.held or {}).values()) for frame in Decoder().feed(data) if len(data) > HEADER.size
    ]
    return sum(frame.type in (Type.PERSON_MESSAGE, Type.GROUP_MESSAGE) for frame in frames)


class Comeback(User):
    """A user who notes when it was back."""

    back_at = float("inf")

    def on_connection(self, event: ConnectionEvent) -> None:
        super().on_connection(event)
        if event.reason is Reason.RECONNECTED:
            self.back_at = time.monotonic()


def many_cuts(bench: Bench, finding: Finding) -> None:
    """All lines are cut at once: the clients come back by their tokens, with the library's usual pauses."""
    count = CLIENTS[bench.is_short]
    finding.trials = count
    _allow_descriptors(10 * count)
    port, ledger = free_port(), Ledger()
    hashes = bench.directory / f"hashes-{port}"
    with contextlib.ExitStack() as stack:
        server = bench.serve(bench.url(), port, launch=["--variant=count-hashes"], FAULTS_HASH_LOG=str(hashes))
        stack.enter_context(server)
        proxy = stack.enter_context(Proxy(port))
        users = [Comeback(f"u{number}", ledger, proxy.port, reconnect=ReconnectPolicy()) for number in range(count)]
        writer = Sender("eva", ledger, port, padding=0, under_way=0)
        for user in (*users, writer):
            stack.callback(user.client.close)
        register(port, [user.name for user in (*users, writer)])
        for user in (*users, writer):
            user.log_in()
        before, cut_at = hashes.stat().st_size, time.monotonic()
        proxy.cut()
        futures = [writer.write(user.name) for user in users]
        wait_until(lambda: all(user.back_at < float("inf") for user in users), 3 * BACK_LIMIT)
        took = max(user.back_at for user in users) - cut_at
        hashed = hashes.stat().st_size - before
        finding.expect(took < BACK_LIMIT, "late", f"after {took:.1f} s not all were back")
        finding.expect(not hashed, "hashing", f"{hashed} passwords were hashed")
        for future in futures:
            future.exception(PATIENCE)
        for user in users:
            user.catch_up()
        finding.notes.append(f"all back after {took:.1f} s, {hashed} passwords hashed")
        finding.judge(ledger.verdict())


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
        (Control("unbounded-send-queue", "memory"), Control("blocking-send", "latency")),
    ),
    Row(15, "reset in mid-frame (SO_LINGER 0)", resets, (Control("leaks-sockets", "leak"),)),
    Row(
        16,
        "bytes one at a time; 50 frames in one write",
        odd_pieces,
        (Control("frame-a-read", "cut"), Control("answers-reversed", "refused_but_arrived")),
    ),
    Row(20, "all clients cut at once", many_cuts, (Control("hashes-at-reconnect", "hashing"),)),
]
