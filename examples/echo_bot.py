"""A bot that sends messages back. python -m examples.echo_bot NAME PASSWORD [jelly://host:port]"""

from examples.command_line import arguments, exit_when_offline, no_traceback
from jelly import ConnectionEvent, JellyClient, MessageEvent, Receiver, RequestRejected


class Echo(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        event.reply(event.content)

    def on_connection(self, event: ConnectionEvent) -> None:
        print(event.state.value, event.reason.value, event.error or "", flush=True)


name, password, url = arguments(__doc__, 2)
with no_traceback(), JellyClient.from_url(url, receiver=Echo()) as bot:
    try:
        bot.register(name, password).result()
    except RequestRejected as error:
        print(f"{name} is registered already" if error.code == "username_taken" else error, flush=True)
    bot.login(name, password).result()
    exit_when_offline(bot)  # until another login takes over, or Ctrl-C
