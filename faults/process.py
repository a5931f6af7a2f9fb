"""The real program in a process of its own, for tests that start, stop and kill it."""

import functools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent
PATIENCE = 15.0
"""Seconds until a process that does not react is an error."""


def bare_python() -> list[str]:
    """How a Python without installed packages is started. (With them while coverage is measured,
    which is one.)
    """
    return [sys.executable] if "COVERAGE_PROCESS_CONFIG" in os.environ else [sys.executable, "-S"]


def run(*arguments: str, bare: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python jelly.py` until it ends. With `bare`: without any installed package."""
    command = [sys.executable, *(["-S"] if bare else []), str(ROOT / "jelly.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**clean_environment(), **environment}
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program that may have ended: with SIGTERM, on which coverage keeps what it has
    measured, else by force.
    """
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


NO_LIMITS = {
    "--message-rate": "0",
    "--inbox-messages": "0",
    "--inbox-bytes": "0",
    "--outbox-messages": "0",
    "--change-rate": "0",
    "--registration-rate": "0",
    "--max-per-address": "10000",
}
"""The flags that turn off what limits a user, who may send as much under load as the server takes;
all of them come from one address."""


@functools.cache
def no_limits(root: Path = ROOT) -> tuple[str, ...]:
    """The flags of NO_LIMITS that the revision of the server in `root` has."""
    command = [sys.executable, str(root / "jelly.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=PATIENCE, check=True).stdout
    return tuple(f"{flag}={value}" for flag, value in NO_LIMITS.items() if f"  {flag} " in shown)


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("JELLY_")}


def free_port() -> int:
    """Return a free port below the range that the system uses for outgoing connections.

    A port in that range could be given to a client that tries to reconnect while the server is
    down. The client would connect to itself, and the server could not start again.

    It is given once only while this process lives, also to others that call this: a server that
    starts a moment later finds it free.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(15000, 30000)
        with socket.socket() as probe, socket.socket(socket.AF_UNIX) as claim:
            try:
                probe.bind(("127.0.0.1", port))
                claim.bind(f"\0jelly test port {port}")  # an abstract name, which ends with the process
            except OSError:
                continue
            claim.detach()
            return port
    raise RuntimeError("no free port found")


def memory(pid: int) -> float:
    """Return the resident memory of a process, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def kernel_memory(port: int) -> int:
    """Return how many bytes the kernel holds for the connections of a port on this machine.

    These are bytes that were written and are not acknowledged, or have arrived and were not read.
    """
    held = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.partition(":")[2], 16) == port:
            held += sum(int(size, 16) for size in queues.split(":"))
    return held


class Server:
    """A running server, by default `python jelly.py`. The context manager kills it.

    `launch`: what to run instead, such as `-m faults.server ... --`. `within`: a command that runs
    the server, such as `ip netns exec`. The log goes to a file, so the server never blocks on a
    full pipe.
    """

    def __init__(
        self,
        database: str,
        *arguments: str,
        bare: bool = False,
        cwd: Path = ROOT,
        launch: Sequence[str] = (str(ROOT / "jelly.py"),),
        within: Sequence[str] = (),
        **environment: str,
    ) -> None:
        command = [*within, *(bare_python() if bare else [sys.executable]), *launch, "--port=0", "--password-cost=1"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `kill` closes it
        self._whole_log = b""
        started_at = time.monotonic()
        self.process = subprocess.Popen(
            [*command, f"--database={database}", *arguments],
            stdout=subprocess.DEVNULL, stderr=self._log, cwd=cwd, env={**clean_environment(), **environment},
        )  # fmt: skip
        try:
            self.wait_for_log(b"; driver ")
        except BaseException:
            self.kill()
            raise
        self.start_seconds = time.monotonic() - started_at
        self.port = int(self.log.partition(b" port ")[2].split(b";")[0].split()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def log(self) -> bytes:
        """The whole log so far."""
        return self._whole_log if self._log.closed else os.pread(self._log.fileno(), 1 << 24, 0)

    def wait_for_log(self, words: bytes) -> None:
        """Wait until the log contains `words`.

        Raises RuntimeError if the server ends or takes too long.
        """
        deadline = time.monotonic() + PATIENCE
        while words not in self.log:
            if time.monotonic() > deadline or (self.process.poll() is not None and words not in self.log):
                raise RuntimeError(f"the server never said {words!r}: {self.log.decode(errors='replace')}")
            time.sleep(0.002)

    def ends_within(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of the process; return whether it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the server with a signal; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._whole_log = self.log
        self._log.close()


class Program:
    """A Python program, by default without installed packages, driven through stdin and stdout.

    The context manager kills it.
    """

    is_bare = True
    """Whether it runs without installed packages."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*(bare_python() if self.is_bare else [sys.executable]), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            cwd=ROOT, env={**clean_environment(), **environment}, start_new_session=True,
            # In the background of a shell Ctrl-C is ignored, and the program would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            end(self.process)

    def line(self) -> str:
        """Return the next line that the program prints."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "it printed nothing"
        return self.process.stdout.readline().decode().rstrip("\n")

    def lines(self) -> list[str]:
        """Close the input, and return the lines that the program prints until it ends."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return output.decode().splitlines()

    def say(self, *lines: str) -> None:
        """Write lines to the input of the program."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
