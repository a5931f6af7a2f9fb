"""Jelly: a library for bots and clients, and an instant-messaging server.

Programs take the library from here, `from jelly import JellyClient, Receiver`. `help(JellyClient)`
lists what a client can do, and `help("client_api")` begins at the beginning.

In the server, a message takes this path, file by file:

what happens                            file                           module of the Java server
                                                                       whose protocol this is
the server starts                       cli.py, config.py              launcher
ThreadingTCPServer accepts, and reads   server.py, connection.py       transport
bytes become frames                     codec.py                       serialization
requests wait for a worker thread       queue_dispatch.py              service
the worker parses it, finds its service requests.py, services.py       serialization, service
the service decides what happens next   message_service.py             service
the store thread writes and commits     store.py, dao.py               dao
response and notices are sent           delivery.py, send_queue.py     transport

Beside the path: the services of other requests (login_service.py and its neighbours), outcomes.py,
sessions.py and presence.py (who is online), groups.py (a Timer sweeps its cache), indexing.py,
sqlite_engine.py, mysql_engine.py, watchdog.py. `docs/architecture.md` has every file.
"""

from typing import TYPE_CHECKING

from jelly.version import __version__ as __version__

if TYPE_CHECKING:
    from client_api import *  # noqa: F403
    from client_api import FEATURES as FEATURES


def __getattr__(name: str) -> object:
    """Import the library when a program asks for one of its names, so that the server runs without.

    All of them begin with a capital, and no module does.
    """
    if name[:1].isupper() or name == "__all__":
        import client_api

        if hasattr(client_api, name):
            return getattr(client_api, name)
    raise AttributeError(f"module 'jelly' has no attribute {name!r}")


def __dir__() -> "list[str]":
    import client_api

    return [*client_api.__dir__(), *(name for name in globals() if name not in dir(client_api))]
