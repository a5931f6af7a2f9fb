"""Adds users to a group, throws dice. python -m examples.group_bot NAME PASSWORD GROUP [URL]"""

import contextlib
import random
import sys

from client_api import GroupMessageEvent, JellyClient, MessageEvent, Receiver


class Dice(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        refused = event.client.add_member(group, event.sender).exception()  # waits for the response
        event.reply(str(refused or f"Welcome to {group}!"))

    def on_group_message(self, event: GroupMessageEvent) -> None:
        if event.content == "!dice":
            event.reply(f"{event.sender} throws a {random.randint(1, 6)}.")


name, password, group, url = (*sys.argv[1:], "jelly://127.0.0.1:20000")[:4]
with JellyClient.from_url(url, receiver=Dice()) as bot:
    bot.login(name, password).result()
    print(bot.create_group(group).exception() or "created", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        bot.wait()
