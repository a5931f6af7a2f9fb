"""A bot that sends messages back. python -m examples.echo_bot NAME PASSWORD [jelly://host:port]"""

import contextlib
import sys

from client_api import ConnectionEvent, JellyClient, MessageEvent, Receiver, RequestRejected


class Echo(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        event.reply(event.content)

    def on_connection(self, event: ConnectionEvent) -> None:
        print(event.state.value, event.reason.value, event.error or "", flush=True)


name, password, url = (*sys.argv[1:], "jelly://127.0.0.1:20000")[:3]
with JellyClient.from_url(url, receiver=Echo()) as bot:
    try:
        bot.register(name, password).result()
    except RequestRejected as error:
        print(error)
    bot.login(name, password).result()
    with contextlib.suppress(KeyboardInterrupt):
        bot.wait()  # until another login takes over, or Ctrl-C
