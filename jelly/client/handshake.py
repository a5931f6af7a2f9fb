"""The opening handshake: connect, send LOGIN, REGISTER or RECONNECT, and wait for the response."""

import time
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import NamedTuple

from jelly.client.poller import READ, Poller, Stopped
from jelly.client.requests import describe, timed_out
from jelly.client.stream import FrameStream, open_stream
from jelly.codec import Frame, Sign
from jelly.errors import ConnectionLost


@dataclass(frozen=True)
class Endpoint:
    """The address of a server, and how many seconds to wait for a connection and for a response."""

    host: str
    port: int
    tls: SSLContext | None
    connect_timeout: float = 10.0
    request_timeout: float = 30.0


class Handshake(NamedTuple):
    """A new connection, the response to its first request, and the frames that came with it."""

    stream: FrameStream
    response: Frame
    early_frames: list[Frame]


def do_handshake(endpoint: Endpoint, type: int, frame: bytes, poller: Poller) -> Handshake:
    """Connect, send the first request (`frame`, of this type) and wait for its response.

    Raises ConnectionLost, RequestTimeout; Stopped if the poller is stopped meanwhile.
    """
    deadline = time.monotonic() + endpoint.connect_timeout
    try:
        stream = open_stream(endpoint.host, endpoint.port, endpoint.tls, poller, deadline)
    except (OSError, ValueError, OverflowError) as error:  # the last two: not a host name, not a port
        is_no_tls = isinstance(error, SSLError) and not isinstance(error, SSLCertVerificationError)
        hint = " If the server does not use TLS, use a URL that begins with jelly://." if is_no_tls else ""
        if isinstance(error, ConnectionRefusedError):
            hint = " Is the server running?"
        sentence = f"Cannot connect to {endpoint.host} port {endpoint.port}: {describe(error)}.{hint}"
        raise ConnectionLost(sentence, sent=False) from error
    try:
        stream.send(frame)
        return Handshake(stream, *_await_response(stream, type, poller, endpoint.request_timeout))
    except EOFError as error:
        stream.close()
        hint = "" if endpoint.tls else " If the server uses TLS, use a URL that begins with jellys://."
        raise ConnectionLost(f"The server closed the connection without a response.{hint}", sent=True) from error
    except OSError as error:
        stream.close()
        raise ConnectionLost(f"The connection was lost: {describe(error)}.", sent=True) from error
    except BaseException as error:
        stream.close()
        if isinstance(error, Stopped):
            error.was_sent = True
        raise


def _await_response(stream: FrameStream, type: int, poller: Poller, seconds: float) -> tuple[Frame, list[Frame]]:
    deadline = time.monotonic() + seconds
    frames: list[Frame] = []
    while True:
        ready = poller.wait(stream.sock, READ | stream.events, deadline)
        frames += stream.receive() if ready & READ else []
        for position, frame in enumerate(frames):
            if frame.sign == Sign.RESPONSE and frame.type in (type, 0):  # 0: the server could not read the type
                del frames[position]
                return frame, frames
        stream.flush()
        if stream.failure:
            raise stream.failure
        if time.monotonic() >= deadline:
            raise timed_out(seconds)
