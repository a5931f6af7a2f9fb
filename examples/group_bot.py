"""Adds users to a group, throws dice. python -m examples.group_bot NAME PASSWORD GROUP [URL]"""

import random

from examples.command_line import arguments, exit_when_offline, no_traceback, why_refused
from jelly import GroupMessageEvent, JellyClient, MessageEvent, Receiver


class Dice(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        refused = why_refused(event.client.add_member(group, event.sender), but_not="already_member")
        event.reply(refused or f"Welcome to {group}! Write !dice there.")

    def on_group_message(self, event: GroupMessageEvent) -> None:
        if event.content == "!dice":
            event.reply(f"{event.sender} throws a {random.randint(1, 6)}.")


name, password, group, url = arguments(__doc__, 3)
with no_traceback(), JellyClient.from_url(url, receiver=Dice()) as bot:
    bot.login(name, password).result()
    if group not in [own.name for own in bot.list_groups().result().values() if own.creator == bot.username]:
        bot.create_group(group).result()  # at the first start
    print(f"write to {name} to get into {group}, then !dice in {group}; Ctrl-C ends", flush=True)
    exit_when_offline(bot)
