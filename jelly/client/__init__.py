"""The inside of the client library; programs use `client_api.py`, which stands on it.

    client_api.py       what an application sees: operations, results, events
    connection_manager.py  the life of one client: login, requests and responses, reconnecting, close
    stream.py           one TCP connection: bytes out, frames in
    poller.py           waiting for a socket, a time or another thread
    callbacks.py        the thread that runs the application's code
    states.py           the states, and when to try again

Imports run from top to bottom, and on to the codec, the messages and the errors; nothing of the server is used.
"""
