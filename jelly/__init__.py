"""Jelly, an instant-messaging server: the way of a message, station by station.

station                           file                               module of the original
python jelly.py                   cli.py, config.py                  launcher
ThreadingTCPServer, its readers   server.py, connection.py           transport
struct: bytes <-> frames          codec.py, messages.py (the JSON)   serialization
queue.Queue, ThreadPoolExecutor   queue_dispatch.py                  service
what each request does            services.py, outcomes.py           service
transactions, and the SQL         store.py, dao.py                   dao
response and notice               delivery.py, send_queue.py         transport
Timer that sweeps the groups      groups.py                          service
"""

__version__ = "0.2.0.dev0"
