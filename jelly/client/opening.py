"""How a connection begins: connect, send LOGIN, REGISTER or RECONNECT, and wait for the answer."""

import time
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import NamedTuple

from jelly.client.poller import READ, Poller, Stopped
from jelly.client.requests import why
from jelly.client.stream import FrameStream, open_stream
from jelly.codec import Frame, Sign
from jelly.errors import ConnectionLost, RequestTimeout


@dataclass(frozen=True)
class Server:
    """Where a server is, and how many seconds to wait for a connection and for an answer."""

    host: str
    port: int
    tls: SSLContext | None
    connect_timeout: float = 10.0
    request_timeout: float = 30.0


class Opened(NamedTuple):
    """A connection that has begun: the answer to its first request, and the other frames that have come already."""

    stream: FrameStream
    answer: Frame
    early: list[Frame]


def open_with(server: Server, type: int, request: bytes, poller: Poller) -> Opened:
    """Connect, send the first request (of this type), wait for its answer. Raises RequestError, Stopped."""
    try:
        stream = open_stream(server.host, server.port, server.tls, poller, time.monotonic() + server.connect_timeout)
    except (OSError, ValueError, OverflowError) as error:  # the latter for what is no host name and no port
        is_no_tls = isinstance(error, SSLError) and not isinstance(error, SSLCertVerificationError)
        hint = " (If it speaks no TLS, its URL begins with jelly://.)" if is_no_tls else ""
        sentence = f"Cannot connect to {server.host} port {server.port}: {why(error)}.{hint}"
        raise ConnectionLost(sentence, sent=False) from error
    try:
        stream.send(request)
        return Opened(stream, *_first_answer(stream, type, poller, server.request_timeout))
    except EOFError as error:
        stream.close()
        hint = "" if server.tls else " (If it speaks TLS, its URL begins with jellys://.)"
        raise ConnectionLost(f"The server closed the connection without an answer.{hint}", sent=True) from error
    except OSError as error:
        stream.close()
        raise ConnectionLost(f"The connection broke: {why(error)}.", sent=True) from error
    except BaseException as error:
        stream.close()
        if isinstance(error, Stopped):
            error.was_sent = True
        raise


def _first_answer(stream: FrameStream, type: int, poller: Poller, seconds: float) -> tuple[Frame, list[Frame]]:
    until = time.monotonic() + seconds
    early: list[Frame] = []
    while True:
        ready = poller.wait(stream.sock, READ | stream.events, until)
        early += stream.receive() if ready & READ else []
        for position, frame in enumerate(early):
            if frame.sign == Sign.RESPONSE and frame.type in (type, 0):  # 0: the server could not read the type
                del early[position]
                return frame, early
        stream.flush()
        if stream.failure:
            raise stream.failure
        if time.monotonic() >= until:
            raise RequestTimeout("", f"The server did not answer within {seconds:g} seconds.")
