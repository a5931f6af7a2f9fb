"""What the chat writes to its output, which may be a pipe that nobody reads, or a full disk."""

import os
import sys
from typing import TextIO


class OutputError(Exception):
    """The output cannot be written. `reason`: what the operating system says."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.reason = error.strerror or str(error)


def write_line(text: str, stream: TextIO | None = None) -> None:
    """Write a line, to the standard output by default. Raises OutputError."""
    try:
        print(text, file=stream or sys.stdout, flush=True)
    except OSError as error:
        raise OutputError(error) from error


def flush_output() -> None:
    """Write what other code has printed. Raises OutputError."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error


def drop_output() -> None:
    """Throw away what the standard output has not taken: else Python tries it again at its end, and
    complains.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
