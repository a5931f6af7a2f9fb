"""The client library. Programs import it as `client_api`, which has its public names.

    client_api.py          the names that an application imports
    jelly_client.py        the client, the events, and who receives them
    messaging.py           its operations and their results: messages
    friends.py             the same: other users
    groups.py              the same: groups
    account.py             the same: one's own account
    connection_manager.py  what is behind the operations: login, requests, close
    network_thread.py      the thread that reads: responses, notices, reconnecting
    pipeline.py            the current connection: sends requests, pairs responses, acknowledges
    lifecycle.py           the state, the phase of the close, and the lock of one client
    handshake.py           how a connection begins: the first request and its response
    pending.py             the requests without a response, over any number of connections
    pages.py               a list that comes in several pages
    contacts.py            friend requests, and which of them the application has had
    edits.py               edits of messages, one's own and those of others
    devices.py             the name of the device on which a client runs
    values.py              texts, numbers and times, in the server's answers
    conversations.py       the list of conversations, in the server's answers
    typing.py              how often a client says that its user is typing
    acks.py                drops duplicates, decides when to acknowledge
    requests.py            one request, and what a response means
    addresses.py           which servers there are, and which one is next
    stream.py              one TCP connection: bytes out, frames in
    poller.py              where a thread waits: for a socket, a time or another thread
    callbacks.py           the thread that runs the application's code
    states.py              the states, and when to reconnect
    options.py             what the options of a client may be
    locks.py               a condition whose lock no signal leaves behind
    forks.py               what becomes of a client in a forked child process

Imports go downwards only, and on to the codec, the requests, the names, the errors, `tcp.py` and
`wakeup.py`.
The client uses nothing else of the server.
"""
