"""Jelly's client library: an account in a few lines, for programs with threads.

    from client_api import JellyClient, Receiver

    class Printer(Receiver):
        def on_message(self, event):
            print(event.sender, "wrote:", event.content)

    with JellyClient("127.0.0.1", 20000, receiver=Printer()) as client:
        client.login("alice", "secret1").result()
        client.send_message("bob", "hello").result(timeout=5)

**`help(JellyClient)`** lists what a client can do, and `help(Receiver)` what it is told.

**Every request returns a `concurrent.futures.Future`** at once. `.result(timeout)` waits for the
response, and returns a typed result or raises. `.add_done_callback(function)` calls your function
when the response is there. Each future ends with a result or with one of these errors:

    RequestRejected   The server refused: `error.code` is one of `ErrorCode`. Nothing was done.
    ServerBusy        The server had too much to do. Nothing was done: try again a little later.
      RateLimited     The same: you ask for too much at once. `error.retry_after`: seconds to wait.
      InboxFull       The same: too much waits for the receiver, or of you for others.
    ServerFailed      The server failed. Nobody knows whether the request was carried out. (The
                      original server says so of an unknown receiver, too: see `likely_code`.)
    RequestTimeout    There was no response in time. Nobody knows whether the request was carried
                      out. The client makes a new connection. (Responses have no ids, so a late
                      response would be taken for the response to another request.)
    ConnectionLost    There is no connection. If `error.sent` is False, nothing was done.

All of them are a `RequestError`, which is a `JellyError`; `str(error)` is a sentence to show.
(`.result(timeout)` itself raises TimeoutError when *its* time is up; the request goes on.) In the
descriptions below, "rejected with `code`" means: the future ends with RequestRejected and this
code. Every request may also end with the other errors, and a request that needs a login is rejected
with `not_logged_in` if nobody is logged in.

**Threads.** Any number of threads may use a `JellyClient` at once, and callbacks may, too. Requests
leave in the order of the calls, and a client's requests are answered in that order. (Only a list so
long that it comes in several pages may end after requests that you made later.) A client runs all
your callbacks (methods of the `Receiver` and listeners of futures) on *one* thread of its own, one
after the other, in the order in which things happened, and without holding a lock. So you may call
`.result()` in a callback; a slow callback delays only the callbacks behind it. An exception in a
callback is logged (logger `jelly.client`) and has no other effect. `Future.cancel` works until the
request is sent.

**When the connection is lost**, the client reconnects by itself: `State` lists what can happen, and
`ReconnectPolicy` says when it tries. With several addresses (`jelly://a:20000,b:20000`) it goes to
the next one at once. Messages without a response are sent again then, with the same *idempotency
key* (`requestId`), so that the server stores each once. Their futures wait as long as the client is
RECONNECTING; so do those of messages that you send meanwhile, up to 2,000. All other requests
without a response end with `ConnectionLost`. (So do messages to a server that knows no such keys,
like the original one.) docs/client.md answers the questions of people who write bots.
"""

import sys

# Before the other imports: old versions fail at them, and do not say why.
if sys.version_info < (3, 11):  # noqa: UP036
    raise ImportError("client_api needs Python 3.11 or newer, and this is Python %d.%d." % sys.version_info[:2])  # noqa: UP031

from jelly.client.account import Login, OwnLogin, Profile
from jelly.client.contacts import FriendRequestEvent, FriendRequests, InvitationEvent
from jelly.client.conversations import Conversation, LastMessage
from jelly.client.edits import Edited, EditEvent
from jelly.client.groups import Group, Invite
from jelly.client.jelly_client import FEATURES as FEATURES
from jelly.client.jelly_client import (
    ConnectionEvent,
    GroupMessageEvent,
    JellyClient,
    MessageEvent,
    OwnMessageEvent,
    Receiver,
    SystemEvent,
)
from jelly.client.messaging import History, PastMessage, Sent
from jelly.client.states import Reason, ReconnectPolicy, State
from jelly.errors import (
    ConnectionLost,
    ErrorCode,
    InboxFull,
    JellyError,
    RateLimited,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
)
from jelly.version import __version__ as __version__

__all__ = [
    "ConnectionEvent", "ConnectionLost", "Conversation", "EditEvent", "Edited", "ErrorCode", "FriendRequestEvent",
    "FriendRequests", "Group", "GroupMessageEvent", "History", "InboxFull", "InvitationEvent", "Invite", "JellyClient",
    "JellyError", "LastMessage", "Login", "MessageEvent", "OwnLogin", "OwnMessageEvent", "PastMessage", "Profile",
    "RateLimited", "Reason", "Receiver", "ReconnectPolicy", "RequestError", "RequestRejected", "RequestTimeout", "Sent",
    "ServerBusy", "ServerFailed", "State", "SystemEvent",
]  # fmt: skip


class _Name(str):
    """A name of this module: `help` sorts them, and so shows the client before all others."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return _rank(self) < _rank(other)


def _rank(name: str) -> tuple[int, str]:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST), str(name)


_FIRST = ("JellyClient", "Receiver", "MessageEvent", "GroupMessageEvent")


def __dir__() -> list[str]:
    return [_Name(name) for name in globals()]
