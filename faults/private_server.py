"""What the private servers of the tests have in common: a process with a directory of its own that
can be started, stopped, killed, and made to hang.
"""

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 30.0
"""At most this many seconds for a server to start or to stop."""


class PrivateServer(ABC):
    """A server in a process of its own. For `with`: it runs inside, and leaves nothing behind."""

    NAME: str
    """What it is called in errors."""

    def __init__(self, directory: str) -> None:
        """`directory` is this server's alone."""
        self._directory = Path(directory)
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the server. Raises RuntimeError if it is not running."""
        if self._process is None:
            raise RuntimeError(f"{self.NAME} is not running: call start()")
        return self._process.pid

    @abstractmethod
    def start(self) -> None:
        """Make the server answer."""

    def stop(self) -> None:
        """Shut the server down cleanly. Does nothing if it is not running."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._process = None

    def kill(self) -> None:
        """Kill the server (SIGKILL), as a crash would. Does nothing if it is not running."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(PATIENCE)
        self._process = None

    def pause(self) -> None:
        """Make the server hang (SIGSTOP): connections stay open, but nothing answers.

        See `resume()`.
        """
        os.kill(self.pid, signal.SIGSTOP)
        # The signal takes a moment to reach all threads; WNOWAIT leaves the rest to Popen.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Resume a paused server (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and delete its files."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
