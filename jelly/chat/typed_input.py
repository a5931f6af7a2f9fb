"""Lines that a person types at a terminal, in the plain mode: with a prompt, and editing."""

import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

from jelly.chat.cells import text_width

try:
    import readline
except ImportError:  # Windows: the terminal edits the line, and nothing can be redrawn
    readline = None  # type: ignore[assignment]


class TypedInput:
    """Reads lines with a prompt. What is printed meanwhile goes above what is being typed."""

    def __init__(self, prompt: Callable[[], str], complete: Callable[[str], list[str]]) -> None:
        """`prompt` is asked before each line, `complete` for what a line may become."""
        self._prompt, self._complete = prompt, complete
        self._shown: str | None = None  # the prompt of the line that is being typed
        self._had_text = False
        self._found: list[str] = []
        self._before: Any = None

    def __enter__(self) -> "TypedInput":
        with contextlib.suppress(ValueError):  # not the main thread
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        if readline:
            readline.set_completer(self._completion)
            readline.set_completer_delims("\n")
            readline.parse_and_bind("tab: complete")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if readline:
            readline.set_completer(None)

    def isatty(self) -> bool:
        """Return whether a person types here."""
        return True

    def readline(self) -> str:
        """Return the next line; "" at the end. Raises KeyboardInterrupt if nothing was typed."""
        while True:
            self._shown = self._prompt()
            try:
                return input(self._shown) + "\n"
            except EOFError:
                return ""
            except KeyboardInterrupt:
                if not self._had_text:
                    raise
                print(flush=True)  # the line that was being typed is given up
            finally:
                self._shown = None

    def end_wait(self) -> None:
        """Nothing waits for the output of a terminal."""

    def print_above(self, text: str, stream: TextIO, write: Callable[[str, TextIO], None]) -> None:
        """Write a text, and below it again what is being typed."""
        if self._shown is None:
            return write(text, stream)
        typed = self._shown + (readline.get_line_buffer() if readline else "")
        stream.write("\r" + " " * text_width(typed) + "\r")
        write(text, stream)
        stream.write(typed)
        stream.flush()
        return None

    def _interrupted(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signal's signature
        self._had_text = bool(readline and self._shown is not None and readline.get_line_buffer())
        raise KeyboardInterrupt

    def _completion(self, text: str, state: int) -> str | None:
        if state == 0:
            self._found = self._complete(text)
        return self._found[state] if state < len(self._found) else None


def is_at_terminal(stream: TextIO) -> bool:
    """Return whether `input` reads a terminal that a person looks at."""
    return stream is sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()
