"""Two users in one process ask and answer. python -m examples.two_users [jelly://host:port]"""

import threading
from functools import partial

from examples.command_line import arguments, no_traceback
from jelly import JellyClient, MessageEvent, Receiver, RequestRejected


class Polite(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        print(f"{event.sender} to {event.client.username}: {event.content}", flush=True)
        event.reply("Fine, thank you.") if event.content.endswith("?") else answered.set()


answered, new_client = threading.Event(), partial(JellyClient.from_url, *arguments(__doc__, 0), receiver=Polite())
with no_traceback(), new_client() as ann, new_client() as ben:
    for client, name in ((ann, "ann"), (ben, "ben")):
        try:
            client.register(name, "a-secret").result()
        except RequestRejected as error:
            print(f"{name} is registered already" if error.code == "username_taken" else error, flush=True)
        client.login(name, "a-secret").result()
    ann.send_message("ben", "How are you?").result()
    answered.wait(timeout=10)
