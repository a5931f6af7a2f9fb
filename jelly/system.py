"""Where the server runs. The library and the chat run anywhere."""

from jelly.errors import StartError

NEEDS_POSIX = (
    "The server needs a POSIX system, such as Linux or macOS, and this is none: run it in WSL or in a container, "
    "for example. (The library and `jelly chat` run here, too.)"
)


def check_system() -> None:
    """Raise StartError where the server cannot run: it locks its files as only POSIX systems do."""
    try:
        import fcntl  # noqa: F401
    except ImportError as error:
        raise StartError(NEEDS_POSIX) from error
