"""What the examples share: their arguments, and sentences instead of tracebacks."""

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from jelly import JellyClient, Reason, RequestError


def arguments(usage: str | None, count: int) -> list[str]:
    """Return `count` arguments and the URL of the server, which may be left out.

    If the arguments do not fit, end the program with the line that says how to start it.
    """
    given = sys.argv[1:]
    if len(given) not in (count, count + 1) or not all(_is_url(url) for url in given[count:]):
        sys.exit(usage)
    return [*given, "jelly://127.0.0.1:20000"][: count + 1]


def _is_url(url: str) -> bool:
    """Whether the client library can use a URL, such as jelly://a:20000,b:20000."""
    try:
        JellyClient.from_url(url)  # it does not connect
    except ValueError:
        return False
    return True


def why_refused(request: Future[Any], but_not: str) -> str:
    """Wait for a request, and return why it failed. Return nothing if it succeeded, or was refused
    with the code `but_not`: then an earlier run of the program has done it.
    """
    try:
        request.result()
    except RequestError as error:
        return "" if error.code == but_not else str(error)
    return ""


def exit_when_offline(client: JellyClient) -> None:
    """Wait until a client is offline, and end the program: with the exit code 3 if it should not be
    started again by itself, and 1 if it may.
    """
    client.wait()
    if client.reason in (Reason.LOGGED_OUT, Reason.CLOSED):
        sys.exit()
    print(f"ended: {client.reason.value if client.reason else 'not logged in'}", file=sys.stderr)
    sys.exit(3 if client.reason in (Reason.TAKEN_OVER, Reason.PASSWORD_CHANGED, Reason.ENDED) else 1)


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """End the program at Ctrl-C, or with the sentence of an error that the client raises."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except RequestError as error:
        sys.exit(str(error))
