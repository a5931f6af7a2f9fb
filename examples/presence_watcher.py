"""Prints which friends come and go. python -m examples.presence_watcher NAME PASSWORD [URL]"""

from examples.command_line import arguments, exit_when_offline, no_traceback
from jelly import ConnectionEvent, JellyClient, Receiver, State, SystemEvent


class Watcher(Receiver):
    def on_connection(self, event: ConnectionEvent) -> None:
        if event.state is State.ONLINE:  # also after reconnecting: changes meanwhile were not reported
            friends = event.client.list_friends().result()
            for friend, online in friends.items():
                print(friend, "is here" if online else "is away", flush=True)
            if not friends:
                print("your friend list is empty: add a friend in the chat, with /add NAME", flush=True)

    def on_system(self, event: SystemEvent) -> None:
        if event.event == "presence":
            print(event.friend, "has come" if event.online else "has gone", flush=True)


name, password, url = arguments(__doc__, 2)
with no_traceback(), JellyClient.from_url(url, receiver=Watcher()) as client:
    client.login(name, password).result()
    exit_when_offline(client)
