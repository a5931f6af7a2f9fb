"""Jelly, an instant-messaging server: the path of a message, file by file.

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

__version__ = "0.2.0.dev0"
