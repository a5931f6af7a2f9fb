"""Prints which friends come and go. python -m examples.presence_watcher NAME PASSWORD [URL]"""

import contextlib
import sys

from client_api import ConnectionEvent, JellyClient, Receiver, State, SystemEvent


class Watcher(Receiver):
    def on_connection(self, event: ConnectionEvent) -> None:
        if event.state is State.ONLINE:  # also after reconnecting: changes meanwhile were not reported
            for friend, online in event.client.list_friends().result().items():
                print(friend, "is here" if online else "is away", flush=True)

    def on_system(self, event: SystemEvent) -> None:
        if event.event == "presence":
            print(event.friend, "has come" if event.online else "has gone", flush=True)


name, password, url = (*sys.argv[1:], "jelly://127.0.0.1:20000")[:3]
with JellyClient.from_url(url, receiver=Watcher()) as client:
    client.login(name, password).result()
    with contextlib.suppress(KeyboardInterrupt):
        client.wait()
