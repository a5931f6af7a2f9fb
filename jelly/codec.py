"""Bytes to frames and back: the outermost layer of the protocol, and nothing else.

A frame is nine bytes of header, big-endian, and a body:

    magic 0xABCD (2) | sign (1) | type (1) | status (1) | length of the body (4) | body

TCP is a stream: one read may hold half a frame or fifty. So the decoder is fed whatever came, and gives
whatever is whole. There is no socket, thread, clock or JSON in here; `messages.py` knows what a body means.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = 0xABCD
HEADER = struct.Struct(">HBBBi")
DEFAULT_MAX_BODY = 64 * 1024


class Sign(IntEnum):
    """Who speaks, and why: the third byte of a frame."""

    REQUEST = 0x01
    RESPONSE = 0x02
    NOTICE = 0x03


class Type(IntEnum):
    """What a frame is about: the fourth byte. 0x20 is unused."""

    LOGIN = 0x11
    REGISTER = 0x12
    LOGOUT = 0x13
    RECONNECT = 0x14
    PERSON_MESSAGE = 0x15
    GROUP_MESSAGE = 0x16
    CREATE_GROUP = 0x17
    DISBAND_GROUP = 0x18
    ADD_MEMBER = 0x19
    REMOVE_MEMBER = 0x1A
    ADD_FRIEND = 0x1B
    REMOVE_FRIEND = 0x1C
    ALL_FRIENDS = 0x1D
    UPDATE_PROFILE = 0x1E
    OWN_PROFILE = 0x1F
    FRIEND_PROFILE = 0x21
    OWN_GROUPS = 0x22
    HEARTBEAT = 0x23
    ACK = 0x24
    SYSTEM = 0x25
    HISTORY = 0x26


class Status(IntEnum):
    """How a request went: the fifth byte of a response, 0 in requests and notices."""

    NONE = 0
    SUCCESS = 0x31
    REQUEST_ERROR = 0x32
    SERVER_BUSY = 0x33
    SERVER_ERROR = 0x34


class Frame(NamedTuple):
    """One frame. The three bytes stay plain integers: a peer may send values that no enumeration has."""

    sign: int
    type: int
    status: int
    body: bytes


def encode(sign: int, type: int, status: int = 0, body: bytes = b"") -> bytes:
    """The bytes of one frame. Raises struct.error if one of the three bytes is not in 0 to 255."""
    return HEADER.pack(MAGIC, sign, type, status, len(body)) + body


class Decoder:
    """Cuts a stream of bytes into frames.

    Call `feed()` with every piece that arrives, then look at `error_type`: once it is set, the stream cannot be
    trusted any more, and the decoder drops whatever it is fed.
    """

    __slots__ = ("_waiting", "error_type", "max_body")

    def __init__(self, max_body: int = DEFAULT_MAX_BODY) -> None:
        self.max_body = max_body
        self.error_type: int | None = None
        """None while all is well, else the type of the frame that broke the stream (0: not known)."""
        self._waiting = b""

    @property
    def has_incomplete_frame(self) -> bool:
        """Whether the beginning of a frame waits for its end."""
        return bool(self._waiting)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the frames that they complete, in order."""
        if self._waiting:
            data = self._waiting + data
        elif len(data) >= HEADER.size and self.error_type is None:
            # Nearly always just one whole frame has come: this way it is cut out in half the time.
            magic, sign, type, status, length = HEADER.unpack_from(data)
            if magic == MAGIC and length == len(data) - HEADER.size <= self.max_body:
                return [Frame(sign, type, status, data[HEADER.size :])]
        frames = []
        start, end = 0, len(data)
        while end - start >= HEADER.size and self.error_type is None:
            magic, sign, type, status, length = HEADER.unpack_from(data, start)
            body = start + HEADER.size
            if magic != MAGIC:
                self.error_type = 0
            elif not 0 <= length <= self.max_body:
                self.error_type = type
            elif end - body < length:
                break
            else:
                start = body + length
                frames.append(Frame(sign, type, status, data[body:start]))
        rest = data[start:] if start else data
        if self.error_type is None and not MAGIC.to_bytes(2).startswith(rest[:2]):
            self.error_type = 0  # two bytes are enough to know a stranger: do not wait for seven more
        self._waiting = b"" if self.error_type is not None else rest
        return frames
