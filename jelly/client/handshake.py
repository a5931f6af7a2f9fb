"""The opening handshake: connect, send LOGIN, REGISTER or RECONNECT, and wait for the response.

With several addresses, one that does not work leads to the next one. What a server has *refused*
(a wrong password, for example) does not: all servers would refuse it.
"""

import logging
import time
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import NamedTuple

from jelly.client.addresses import Address, AddressList
from jelly.client.certificates import ADVICE, problem_of
from jelly.client.poller import READ, Poller, Stopped
from jelly.client.requests import decode_response, describe, timed_out
from jelly.client.stream import FrameStream, open_stream
from jelly.codec import Frame, Sign, Type, encode
from jelly.errors import (
    ConnectionLost,
    RateLimited,
    Refused,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
)
from jelly.strict_json import parse_object

log = logging.getLogger("jelly.client")

PROBE_TYPE = 0x20
PROBE = encode(Sign.REQUEST, PROBE_TYPE)
"""A request of a type that does not exist. A server that runs answers it at once, also before a
login."""


@dataclass(frozen=True)
class Endpoint:
    """The addresses of the servers, and how many seconds to wait for a connection and a response.

    With several addresses, `connect_timeout` is also how long a server may be silent after it has
    accepted the connection, until the client takes it for frozen.
    """

    addresses: AddressList
    tls: SSLContext | None
    connect_timeout: float = 10.0
    request_timeout: float = 30.0


class Handshake(NamedTuple):
    """A new connection, the response to its first request, and the frames that came with it."""

    stream: FrameStream
    response: Frame
    early_frames: list[Frame]


def do_handshake_anywhere(endpoint: Endpoint, type: int, frame: bytes, poller: Poller) -> Handshake:
    """Do the handshake at the first address where it succeeds; try each address once.

    Raises what `do_handshake` raises if there is one address, or if the request may have been done.
    If no address works, raises ServerBusy or ServerFailed if a server said that, else a
    ConnectionLost that names all addresses.
    """
    addresses = endpoint.addresses
    failures: list[tuple[Address, RequestError]] = []
    for address in addresses.round():
        try:
            return do_handshake(endpoint, address, type, frame, poller)
        except (RequestRejected, RateLimited):
            raise
        except RequestError as error:
            addresses.failed(address)
            # A second REGISTER would be refused if the first one was done: the name is taken then.
            is_repeatable = isinstance(error, ServerBusy) or (isinstance(error, ConnectionLost) and not error.sent)
            if not addresses.has_others or (type == Type.REGISTER and not is_repeatable):
                raise
            log.info("cannot use %s: %s", address, error)
            failures.append((address, error))
    raise _error_of_all(failures)


def do_handshake(endpoint: Endpoint, address: Address, type: int, frame: bytes, poller: Poller) -> Handshake:
    """Connect, send the first request (`frame`, of this type) and wait for its response: SUCCESS.

    Raises ConnectionLost, RequestTimeout, or the RequestError that another response stands for;
    Stopped if the poller is stopped meanwhile.
    """
    deadline = time.monotonic() + endpoint.connect_timeout
    try:
        stream = open_stream(address, endpoint.tls, poller, deadline)
    except (OSError, ValueError, OverflowError) as error:  # the last two: not a host name, not a port
        sentence = f"Cannot connect to {address.host} port {address.port}: {describe(error)}.{_advice(error)}"
        raise ConnectionLost(sentence, sent=False) from error
    try:
        stream.send(frame)
        handshake = Handshake(stream, *_await_response(endpoint, stream, type, poller))
        decode_response(handshake.response, dict)
        return handshake
    except EOFError as error:
        stream.close()
        hint = "" if endpoint.tls else " If the server uses TLS, use a URL that begins with jellys://."
        sentence = f"The server at {address} closed the connection without a response.{hint}"
        raise ConnectionLost(sentence, sent=True) from error
    except OSError as error:
        stream.close()
        raise ConnectionLost(f"The connection to {address} was lost: {describe(error)}.", sent=True) from error
    except BaseException as error:
        stream.close()
        if isinstance(error, Stopped):
            error.was_sent = True
        raise


def _advice(error: Exception) -> str:
    """Say what to do about an error: a sentence after a space; empty if nobody knows."""
    if isinstance(error, SSLCertVerificationError):
        return f" {ADVICE[problem_of(error)]}"
    if isinstance(error, SSLError):
        return " If the server does not use TLS, use a URL that begins with jelly://."
    return " Is the server running?" if isinstance(error, ConnectionRefusedError) else ""


def _await_response(endpoint: Endpoint, stream: FrameStream, type: int, poller: Poller) -> tuple[Frame, list[Frame]]:
    """Wait for the response of this type; return it, and the other frames.

    With several addresses: if the server stays silent, asks on a second connection whether it runs
    at all. So a frozen server costs `connect_timeout`, and a server that only takes its time (it
    lets a login wait while somebody guesses passwords) is not abandoned.
    """
    started_at = time.monotonic()
    deadline = started_at + endpoint.request_timeout
    # A REGISTER must not be sent to the next server, so there is nothing to gain.
    has_alternative = endpoint.addresses.has_others and type != Type.REGISTER
    probe_at = started_at + endpoint.connect_timeout / 2 if has_alternative else deadline
    is_frozen = False
    frames: list[Frame] = []
    while True:
        ready = poller.wait(stream.sock, READ | stream.events, min(probe_at, deadline))
        frames += stream.receive() if ready & READ else []
        for position, frame in enumerate(frames):
            if frame.sign == Sign.RESPONSE and frame.type in (type, 0):  # 0: the server could not read the type
                del frames[position]
                return frame, frames
        if has_alternative and any(map(_says_shutdown, frames)):
            raise ConnectionLost(f"The server at {stream.address} is shutting down.", sent=True)
        stream.flush()
        if stream.failure:
            raise stream.failure
        now = time.monotonic()
        if now >= deadline:
            raise timed_out(endpoint.request_timeout) if not is_frozen else _frozen(stream.address)
        if now >= probe_at:
            is_frozen = not is_running(endpoint, stream.address, poller, now + endpoint.connect_timeout / 2)
            # The response may have come just now: the loop looks once more.
            deadline = probe_at = time.monotonic() if is_frozen else deadline


def _says_shutdown(frame: Frame) -> bool:
    """Whether a server says that it stops. It has answered what it will answer by then."""
    if frame.sign != Sign.NOTICE or frame.type != Type.SYSTEM:
        return False
    try:
        return parse_object(frame.body).get("event") == "shutdown"
    except Refused:
        return False


def is_running(endpoint: Endpoint, address: Address, poller: Poller, until: float) -> bool:
    """Whether a server does anything on a new connection until a monotonic time.

    A frozen process does nothing: only its kernel accepts connections. Raises Stopped.
    """
    try:
        stream = open_stream(address, endpoint.tls, poller, until)
    except TimeoutError:
        return False
    except OSError:  # somebody refuses, so the machine lives; a dead process breaks the first connection, too
        return True
    try:
        stream.send(PROBE)
        while time.monotonic() < until and not stream.failure:
            if poller.wait(stream.sock, READ | stream.events, until) & READ:
                return True
            stream.flush()
        return stream.failure is not None
    finally:
        stream.close()


def _frozen(address: Address) -> RequestTimeout:
    return RequestTimeout("", f"The server at {address} accepts connections, but answers nothing. Is it frozen?")


def _error_of_all(failures: list[tuple[Address, RequestError]]) -> RequestError:
    """Return one error for a round in which no address worked."""
    for _, error in failures:
        if isinstance(error, ServerBusy | ServerFailed):
            return error
    reasons = ", ".join(f"{address} ({_reason(error)})" for address, error in failures)
    was_sent = any(not isinstance(error, ConnectionLost) or error.sent for _, error in failures)
    summary = ConnectionLost(f"Cannot log in at any of the {len(failures)} addresses: {reasons}.", sent=was_sent)
    summary.__cause__ = failures[-1][1].__cause__
    return summary


def _reason(error: RequestError) -> str:
    if isinstance(error.__cause__, Exception):
        return describe(error.__cause__)
    return "no answer in time" if isinstance(error, RequestTimeout) else str(error).rstrip(".")
