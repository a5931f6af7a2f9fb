"""Jelly, an instant-messaging server: the path of a message, file by file.

what happens                            file                           module of the Java server
                                                                       whose protocol this is
the server starts                       cli.py, config.py              launcher
ThreadingTCPServer accepts, and reads   server.py, connection.py       transport
bytes become frames, and requests       codec.py, messages.py          serialization
requests wait for a worker thread       queue_dispatch.py              service
the worker decides what a request does  services.py, outcomes.py       service
the store thread writes and commits     store.py, dao.py               dao
response and notices are sent           delivery.py, send_queue.py     transport

Beside the path: sessions.py and presence.py (who is online), groups.py (a Timer sweeps its cache),
indexing.py, engines.py (SQLite, MySQL), watchdog.py. `docs/architecture.md` has every file.
"""

__version__ = "0.2.0.dev0"
