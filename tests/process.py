"""The real program, in a process of its own, for the tests that start, stop and kill it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent
PATIENCE = 15.0


def run(*arguments: str, bare: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python jelly.py` to its end; with `bare`, without any installed package."""
    command = [sys.executable, *(["-S"] if bare else []), str(ROOT / "jelly.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**clean_environment(), **environment}
    )


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("JELLY_")}


class Server:
    """A running `python jelly.py` on a free port. The context manager kills it if nobody stopped it."""

    def __init__(self, database: str, *arguments: str, bare: bool = False, cwd: Path = ROOT) -> None:
        command = [sys.executable, *(["-S"] if bare else []), str(ROOT / "jelly.py"), "--port=0", "--password-cost=1"]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [*command, f"--database={database}", *arguments],
            stderr=subprocess.PIPE, cwd=cwd, env=clean_environment(),
        )  # fmt: skip
        self.log = b""
        while b"listening" not in self.log:
            self._read()
        self.start_seconds = time.monotonic() - self.started_at
        self.port = int(self.log.partition(b" port ")[2].split(b";")[0].split()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it in good order; return its exit code. `log` has all that it said."""
        self.process.send_signal(number)
        self.log += self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        ready, _, _ = select.select([self.process.stderr], [], [], PATIENCE)
        assert ready, self.log
        data = os.read(self.process.stderr.fileno(), 65536)
        assert data, self.log
        self.log += data


class Program:
    """A Python program that talks through its input and output, on a bare Python. The context manager kills it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
            cwd=ROOT, env={**clean_environment(), **environment}, start_new_session=True,
            # Whoever runs the tests in the background of a shell ignores Ctrl-C, and that would be inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            self.process.kill()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "it printed nothing"
        return self.process.stdout.readline().decode().rstrip("\n")

    def lines(self) -> list[str]:
        """All that it still prints until it has ended."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return output.decode().splitlines()

    def say(self, *lines: str) -> None:
        """Type lines."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
