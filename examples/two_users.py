"""Two users in one process ask and answer. python -m examples.two_users [jelly://host:port]"""

import sys
import threading

from client_api import JellyClient, MessageEvent, Receiver, RequestRejected


class Polite(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        print(f"{event.sender} to {event.client.username}: {event.content}", flush=True)
        event.reply("Fine, thank you.") if event.content.endswith("?") else answered.set()


answered = threading.Event()
url = sys.argv[1] if len(sys.argv) > 1 else "jelly://127.0.0.1:20000"
with JellyClient.from_url(url, receiver=Polite()) as ann, JellyClient.from_url(url, receiver=Polite()) as ben:
    for client, name in ((ann, "ann"), (ben, "ben")):
        try:
            client.register(name, "a-secret").result()
        except RequestRejected as error:
            print(error)  # this example has run before
        client.login(name, "a-secret").result()
    ann.send_message("ben", "How are you?").result()
    answered.wait(timeout=10)
