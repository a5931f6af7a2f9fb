"""Drives the real chat in a pseudo-terminal; a terminal emulator draws its screen.

    with Terminal("alice", port=port) as alice:
        alice.wait_for("Password for alice:")
        alice.enter("secret1")

Every wait is for something on the screen; nothing here sleeps.
"""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pyte

from faults.process import ROOT, clean_environment, end

PATIENCE = 10.0
"""Seconds until something that does not appear is an error."""

KEYS = {
    "enter": "\r",
    "tab": "\t",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "pageup": "\x1b[5~",
    "pagedown": "\x1b[6~",
    "ctrl-home": "\x1b[1;5H",
    "ctrl-end": "\x1b[1;5F",
    "ctrl-c": "\x03",
    "ctrl-d": "\x04",
    "ctrl-l": "\x0c",
    "ctrl-z": "\x1a",
    "alt-enter": "\x1b\r",
    "alt-left": "\x1b[1;3D",
    "alt-right": "\x1b[1;3C",
    "wheel-up": "\x1b[<64;10;5M",
    "wheel-down": "\x1b[<65;10;5M",
    **{f"alt-{key}": f"\x1b{key}" for key in "aj0123456789"},
}


def _take_terminal() -> None:
    """In the new process: set the controlling terminal, and let Ctrl-C interrupt.

    Programs that a shell starts in the background inherit an ignored Ctrl-C.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminal:
    """A terminal in which `python jelly.py chat` runs.

    The context manager kills it if it still runs.
    """

    def __init__(
        self,
        *arguments: str,
        port: int,
        columns: int = 80,
        rows: int = 24,
        bare: bool = False,
        shell: str = "",
        **environment: str,
    ) -> None:
        """`shell`: commands of a shell with job control, in which "$@" is the chat."""
        self._emulator = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._emulator)
        self.output = b""
        """Everything that the program has written."""
        self._master, slave = pty.openpty()
        self._set_size(slave, columns, rows)
        url = f"jelly://127.0.0.1:{port}"
        command = [sys.executable, *(["-S"] if bare else []), str(ROOT / "jelly.py"), "chat", *arguments]
        if shell:
            command = ["bash", "-mc", shell, "bash", *command]
        outer = {name: value for name, value in clean_environment().items() if name not in ("NO_COLOR", "LC_ALL")}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=_take_terminal,
            env={**outer, "LANG": "C.UTF-8", "TERM": "xterm-256color", "JELLY_SERVER": url, **environment},
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self.process)
        os.close(self._master)

    @staticmethod
    def _set_size(file: int, columns: int, rows: int) -> None:
        fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    # --- the keyboard -----------------------------------------------------------------------------

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._master, text.encode())

    def press(self, *keys: str) -> None:
        """Press keys by their names in KEYS."""
        for key in keys:
            self.type(KEYS[key])

    def enter(self, text: str) -> None:
        """Type a text and Enter."""
        self.type(text)
        self.press("enter")

    def paste(self, text: str) -> None:
        """Paste a text, in the brackets of a terminal with bracketed paste."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window."""
        self._emulator.resize(rows, columns)
        self._set_size(self._master, columns, rows)
        self.process.send_signal(signal.SIGWINCH)

    # --- the screen -------------------------------------------------------------------------------

    @property
    def rows(self) -> list[str]:
        """The rows of the screen."""
        return [row.rstrip() for row in self._emulator.display]

    @property
    def screen(self) -> str:
        """The screen as one text."""
        return "\n".join(self.rows)

    @property
    def input(self) -> str:
        """The last row: the input."""
        return self.rows[-1]

    @property
    def bar(self) -> str:
        """The status bar."""
        return self.rows[-2]

    def cells(self, row: int) -> list[str]:
        """Return the cells of a row. A wide character is followed by an empty cell."""
        return [self._emulator.buffer[row][column].data for column in range(self._emulator.columns)]

    def colour_of(self, text: str) -> str:
        """Return the colour of a text on the screen."""
        for number, row in enumerate(self._emulator.display):
            if text in row:
                return str(self._emulator.buffer[number][row.index(text)].fg)
        raise AssertionError(f"no {text!r} on the screen:\n{self.screen}")

    def wait_until(self, condition: Callable[[], bool], description: str = "the expected screen") -> None:
        """Read the program's output until a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._read_output(deadline), f"{description} does not appear:\n{self.screen}"

    def wait_for(self, *texts: str) -> None:
        """Read the program's output until each of these texts has been on the screen."""
        for text in texts:
            self.wait_until(lambda text=text: text in self.screen, repr(text))  # type: ignore[misc]

    def wait_for_end(self) -> int:
        """Wait for the end of the program; return its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read_output(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read_output(self, deadline: float) -> bool:
        """Read new output. Return False if the program has ended or the time is over."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        data = b""
        if ready:
            with contextlib.suppress(OSError):  # Linux raises EIO when the other side has closed
                data = os.read(self._master, 65536)
        self.output += data
        self._stream.feed(data)
        return bool(data)
