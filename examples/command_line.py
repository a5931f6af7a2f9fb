"""What the examples share: their arguments, and an end with a sentence instead of a traceback."""

import contextlib
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from client_api import RequestError


def arguments(usage: str | None, count: int) -> list[str]:
    """Return `count` arguments and the URL of the server, which may be left out.

    If the arguments do not fit, end the program with the line that says how to start it.
    """
    given = sys.argv[1:]
    if len(given) not in (count, count + 1) or not all(
        url.startswith(("jelly://", "jellys://")) and _is_whole(url) for url in given[count:]
    ):
        sys.exit(usage)
    return [*given, "jelly://127.0.0.1:20000"][: count + 1]


def _is_whole(url: str) -> bool:
    """Whether there is a host, perhaps a port, and nothing else."""
    try:
        parts = urlsplit(url)
        more = (parts.username, parts.password, parts.path.strip("/"), parts.query)
        return bool(parts.hostname) and parts.port != 0 and not any(more)
    except ValueError:  # the port is no number, or too large
        return False


@contextlib.contextmanager
def no_traceback() -> Iterator[None]:
    """End the program at Ctrl-C, or with the sentence of an error that the client raises."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except RequestError as error:
        sys.exit(str(error))
