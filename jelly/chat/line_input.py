"""Lines of an input, for which another thread can end the wait."""

import codecs
import io
import os
import select
import socket
from typing import TextIO

BLOCK = 65536


class LineInput:
    """Reads a text stream line by line, until its end or until `end_wait`.

    Only a stream with a file descriptor can be waited for together with something else, and not on
    Windows: others are read to their end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._file = _descriptor_of(stream)
        self._text = ""
        self._has_ended = False
        decoder = (
            codecs.getincrementaldecoder(stream.encoding or "utf-8")("replace") if self._file is not None else None
        )
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._wakeup: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> "LineInput":
        self._wakeup = socket.socketpair()
        return self

    def __exit__(self, *_: object) -> None:
        pair, self._wakeup = self._wakeup, None
        for each in pair or ():
            each.close()

    def isatty(self) -> bool:
        """Return whether a person types here."""
        return self._stream.isatty()

    def readline(self) -> str:
        """Return the next line, with its line feed unless it is the last one; "" at the end."""
        if self._file is None:
            return self._stream.readline()
        while "\n" not in self._text and not self._has_ended:
            assert self._wakeup
            wakeup = self._wakeup[0].fileno()
            ready, _, _ = select.select([self._file, wakeup], [], [])
            if wakeup in ready:
                return ""
            data = os.read(self._file, BLOCK)
            self._has_ended = not data
            self._text += self._decoder.decode(data, final=self._has_ended)
        line, feed, self._text = self._text.partition("\n")
        return line + feed

    def end_wait(self) -> None:
        """Have `readline` return, now and from now on. Any thread may call this."""
        if self._wakeup:
            self._wakeup[1].send(b"x")


def _descriptor_of(stream: TextIO) -> int | None:
    if os.name == "nt":
        return None
    try:
        return stream.fileno()
    except OSError:
        return None
