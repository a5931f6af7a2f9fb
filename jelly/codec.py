"""Bytes to frames and back: the outermost layer of the protocol.

A frame is a header of nine bytes, big-endian, and a body:

    magic 0xABCD (2) | sign (1) | type (1) | status (1) | length of the body (4) | body

TCP is a stream: one read may return half a frame, or fifty. So the decoder takes all bytes that
arrive, and returns the frames that are complete. This module has no sockets, threads, clock or
JSON; `requests.py` and `messages.py` know what a body means.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = 0xABCD
HEADER = struct.Struct(">HBBBi")
DEFAULT_MAX_BODY = 64 * 1024
"""Bytes that the body of a request may have at most, unless the operator sets another limit."""
MAX_FIRST_BODY = 4 * 1024
"""Bytes that a body may have at most on a connection that has not asked to log in. (The longest
login that the server accepts has about 2 KiB, even if all its characters are escaped.)"""


class Sign(IntEnum):
    """The kind of a frame: its third byte."""

    REQUEST = 0x01
    RESPONSE = 0x02
    NOTICE = 0x03


class Type(IntEnum):
    """What a frame is about: its fourth byte. 0x20 is unused."""

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
    ANSWER_FRIEND = 0x27
    ANSWER_GROUP = 0x28
    BLOCK = 0x29
    BLOCKED = 0x2A
    INVITE = 0x2B
    JOIN = 0x2C
    DELETE_ACCOUNT = 0x2D
    LOGINS = 0x2E
    END_LOGIN = 0x2F
    READ = 0x30
    CONVERSATIONS = 0x35
    EDIT = 0x36
    SET_ROLE = 0x37
    TYPING = 0x38
    REPORT = 0x39
    FIND = 0x3A
    SEARCH = 0x3B


LOGINS = frozenset({Type.LOGIN, Type.REGISTER, Type.RECONNECT})
"""The requests with which a connection begins; they are allowed only until a user is logged in."""


class Status(IntEnum):
    """The result of a request: the fifth byte of a response. It is 0 in requests and notices."""

    NONE = 0
    SUCCESS = 0x31
    REQUEST_ERROR = 0x32
    SERVER_BUSY = 0x33
    SERVER_ERROR = 0x34


class Frame(NamedTuple):
    """One frame. The three bytes are plain integers, because a peer may send unknown values."""

    sign: int
    type: int
    status: int
    body: bytes


def encode(sign: int, type: int, status: int = 0, body: bytes = b"") -> bytes:
    """Return the bytes of a frame. Raises struct.error if sign, type or status is not a byte."""
    return HEADER.pack(MAGIC, sign, type, status, len(body)) + body


TOO_LONG = "The body of this frame has {:,} bytes, and it may have {:,} here: send less at once."


class Decoder:
    """Cuts a stream of bytes into frames.

    Call `feed()` with all bytes that arrive, then look at `error_type`. Once it is set, the stream
    is broken: nobody knows where the next frame begins, and the decoder drops all further bytes.
    """

    __slots__ = ("_buffer", "_limit", "_needed", "_quick_limit", "error_sentence", "error_type", "max_body")

    def __init__(self, max_body: int = DEFAULT_MAX_BODY, max_first_body: int | None = None) -> None:
        """`max_first_body`: the limit until a LOGIN, REGISTER or RECONNECT is complete."""
        self.max_body = max_body
        self.error_type: int | None = None
        """The type of the frame that broke the stream (0: unknown), or None."""
        self.error_sentence = ""
        """What is wrong with that frame, if its body is too long; else empty."""
        # The beginning of an incomplete frame. A bytearray, because `+=` copies only what is new:
        # with bytes, each read would copy all that came before it.
        self._buffer: bytearray | bytes = b""
        self._needed = 0  # with fewer bytes in the buffer there is nothing to decide
        self._limit = max_body if max_first_body is None else min(max_first_body, max_body)
        self._quick_limit = max_body if max_first_body is None else -1  # of the short path in `feed`

    @property
    def awaits_login(self) -> bool:
        """Whether `max_first_body` still holds."""
        return self._quick_limit < 0

    @property
    def has_incomplete_frame(self) -> bool:
        """Whether the decoder has the beginning of a frame, and waits for the rest."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the frames that they complete, in order."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
        elif len(data) >= HEADER.size and self.error_type is None:
            # Nearly always exactly one frame has arrived: this path takes half the time.
            magic, sign, type, status, length = HEADER.unpack_from(data)
            if magic == MAGIC and length == len(data) - HEADER.size <= self._quick_limit:
                return [Frame(sign, type, status, data[HEADER.size :])]
        frames = []
        start, end, needed = 0, len(data), HEADER.size
        while end - start >= HEADER.size and self.error_type is None:
            magic, sign, type, status, length = HEADER.unpack_from(data, start)
            body = start + HEADER.size
            if magic != MAGIC:
                self.error_type = 0
            elif not 0 <= length <= self._limit:
                self.error_type = type
                if length > 0:
                    self.error_sentence = TOO_LONG.format(length, self._limit)
            elif end - body < length:
                needed += length
                break
            else:
                start = body + length
                frames.append(Frame(sign, type, status, data[body:start]))
                if self._quick_limit < 0 and type in LOGINS and sign == Sign.REQUEST:
                    self._limit = self._quick_limit = self.max_body
        rest = data[start:] if start else data
        if self.error_type is None and not MAGIC.to_bytes(2).startswith(rest[:2]):
            self.error_type = 0  # the magic is wrong: do not wait for the rest of the header
        self._buffer = bytearray(rest) if rest and self.error_type is None else b""
        self._needed = needed if len(rest) > 1 else 2  # the magic is looked at as soon as it is there
        return frames
