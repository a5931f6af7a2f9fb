"""A bot that is killed again and again: it answers each message once, over all of its lives."""

import random

from client_tools import NewClient, Recorder, result
from harness import StartServer
from wire import ADD_MEMBER, CREATE_GROUP, logged_in, register

from client_api import GroupMessageEvent
from faults.process import ROOT, Program

KILLS = 50
MODERATOR = """
import sys
from jelly import JellyClient, Receiver

class Moderator(Receiver):
    def on_group_message(self, event):
        if "spam" in event.content:
            # It waits for the result: only then is the message acknowledged, and does not come again.
            event.reply(f"{event.sender}, no spam here: {event.content}", request_id=f"no-spam-{event.id}").result()

with JellyClient("127.0.0.1", int(sys.argv[1]), receiver=Moderator()) as moderator:
    moderator.login("moderator", "pw").result()
    print("online", flush=True)
    moderator.wait()
"""


def test_a_moderator_that_is_killed_fifty_times(start_server: StartServer, new_client: NewClient) -> None:
    """Each unwanted message gets one warning, whenever the bot is killed: before it has the
    message, before or after the warning is stored, or before the message is acknowledged."""
    port = start_server().port
    register(port, "alice", "moderator")
    with logged_in(port, "alice") as alice_by_hand:
        alice_by_hand.ok(CREATE_GROUP, groupName="team")
        alice_by_hand.ok(ADD_MEMBER, groupName="team", member="moderator")
    recorder = Recorder()
    alice = new_client(port, recorder)
    result(alice.login("alice", "pw"))
    sent: list[str] = []

    def warnings(count: int) -> list[str]:
        """The first warnings, as soon as there are so many."""
        events = recorder.wait_for(lambda event: isinstance(event, GroupMessageEvent), count) if count else []
        return [event.content for event in events]

    chance = random.Random(7)
    warned = 0
    for kill in range(KILLS + 1):
        with Program("-c", MODERATOR, str(port), PYTHONPATH=str(ROOT)) as moderator:
            assert moderator.line() == "online"
            for number in range(4):
                sent.append(f"spam {kill} {number}")
                result(alice.send_group_message("team", sent[-1]))
            warned = len(sent) if kill == KILLS else max(warned, len(sent) - 4 + chance.randrange(4))
            warnings(warned)
            moderator.process.kill()  # in the midst of the next one
    assert warnings(len(sent)) == [f"alice, no spam here: {content}" for content in sent]
    result(alice.send_group_message("team", "end"))
    assert len([event for event in recorder.events if isinstance(event, GroupMessageEvent)]) == len(sent)
