"""Row 35: somebody sends wrong passwords on many connections, without pause."""

import contextlib
import itertools
import secrets
import selectors
import signal
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from faults.context import Control, Finding, Row, RunContext, free_port, wait_until
from faults.load import PASSWORD, Load, register
from jelly.codec import HEADER, Status, Type
from jelly.requests import encode_request

CROWD = 200
"""Connections with wrong passwords at the same time."""
COST = {True: 10, False: 14}
"""The password cost, in the short form and in the long one (the default)."""
GUESSER, ELSEWHERE = "127.0.0.1", "127.0.0.2"
KNOWN, NEW, AWAY = "kim", "lou", "mia"
"""Who has logged in from the guesser's address before, and who has not."""
MAX_HASHES = 25
"""At most this many passwords are hashed while a login waits; in a plain queue it is CROWD. A first
login from the guesser's address cannot always be told from a guess: then it waits for CROWD more.
"""
LOGIN_LIMIT = 120.0
STOP_LIMIT = 10.0


class Crowd:
    """Connections from one address that log in with wrong passwords, each anew after its answer.

    Each attempt has another name. The context manager runs it on a thread.
    """

    def __init__(self, port: int) -> None:
        self.answers = 0
        self._port = port
        self._names = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="crowd")

    def __enter__(self) -> Self:
        for _ in range(CROWD):
            self._begin()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _begin(self) -> None:
        sock = _connect(self._port, GUESSER)
        sock.sendall(_login(f"guess{next(self._names)}", secrets.token_hex(8)))
        self._selector.register(sock, selectors.EVENT_READ)

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(0.1):
                sock: socket.socket = key.fileobj  # type: ignore[assignment]
                with contextlib.suppress(OSError):
                    if sock.recv(4096):
                        self.answers += 1
                        continue
                self._selector.unregister(sock)
                sock.close()
                with contextlib.suppress(OSError):  # the server stops
                    self._begin()


def _connect(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def _login(name: str, password: str) -> bytes:
    return encode_request(Type.LOGIN, {"username": name, "password": password, "features": []})


def log_in(port: int, name: str, source: str) -> bool:
    """Log in from an address, and leave again; return whether that succeeded. Heartbeats go on
    while it waits.
    """
    deadline = time.monotonic() + LOGIN_LIMIT
    with _connect(port, source) as sock:
        sock.sendall(_login(name, PASSWORD))
        sock.settimeout(2.0)
        data = b""
        while time.monotonic() < deadline and len(data) < HEADER.size:
            try:
                received = sock.recv(4096)
            except TimeoutError:
                sock.sendall(encode_request(Type.HEARTBEAT, {}))
                continue
            if not received:
                return False
            data += received
    return len(data) >= HEADER.size and data[4] == Status.SUCCESS


def wrong_passwords(context: RunContext, finding: Finding) -> None:
    """Two hundred connections from one address send wrong passwords; people log in meanwhile."""
    finding.trials = CROWD
    port = free_port()
    hashes = context.directory / f"hashes-{port}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            context.serve(
                context.url(), port, f"--password-cost={COST[context.is_short]}",
                launch=["--variant=count-hashes"], FAULTS_HASH_LOG=str(hashes),
            )
        )  # fmt: skip
        load = stack.enter_context(Load(port, under_way=1))
        register(port, (KNOWN, NEW, AWAY))
        log_in(port, KNOWN, GUESSER)
        load.start()
        crowd = stack.enter_context(Crowd(port))
        # The first attempt of each connection looks like anybody's; from then on they are repeats.
        wait_until(lambda: crowd.answers > CROWD, LOGIN_LIMIT)
        for name, source in ((AWAY, ELSEWHERE), (KNOWN, GUESSER), (NEW, GUESSER)):
            before, since = _size(hashes), time.monotonic()
            is_in = log_in(port, name, source)
            hashed, seconds = _size(hashes) - before, time.monotonic() - since
            finding.expect(is_in, "shut_out", f"{name} could not log in from {source}")
            most = MAX_HASHES + CROWD * (name == NEW)
            finding.expect(hashed <= most, "shut_out", f"{hashed} passwords were hashed before {name}'s")
            finding.notes.append(f"{name} in after {seconds:.1f} s and {hashed} hashes")
        load.finish()
        finding.add_verdict(load.ledger.verdict())
        since = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        is_over = server.ends_within(STOP_LIMIT + 5)
        seconds = time.monotonic() - since
        finding.expect(is_over and seconds < STOP_LIMIT, "late_stop", f"the stop took {seconds:.1f} s")
        finding.expect(server.process.poll() == 0, "exit_code", f"the exit code is {server.process.poll()}")
        finding.notes.append(f"stop after {seconds:.1f} s")


def _size(log: Path) -> int:
    return log.stat().st_size


ROWS = [
    Row(
        35,
        "wrong passwords on 200 connections from one address",
        wrong_passwords,
        (Control("plain-hash-queue", "shut_out"),),
    )
]
