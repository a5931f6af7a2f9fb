"""What the server tells the chat: friends and groups."""

from fake_client import Chat

from jelly.chat.model import Peer


def test_presence() -> None:
    """Presence is shown once, in the conversation with the friend only."""
    chat = Chat()
    chat.receive("bob", "hello")
    for online in (True, True):
        chat.system("presence", friend="bob", online=online)
    chat.receive("bob", "good night")
    chat.system("presence", friend="bob", online=False)
    chat.system("presence", friend="carol", online=True)
    assert chat.said(chat.model[Peer("bob")]) == ["hello", "bob is online", "good night", "bob is offline"]
    assert chat.model.friends == {"bob": False, "carol": True}
    assert Peer("carol") not in chat.model.conversations
    assert chat.model[Peer("bob")].unread == 2


def test_changes_of_a_group() -> None:
    """A new member gets a new conversation, which also shows joins and departures."""
    chat = Chat()
    team = Peer("team", True)
    for members in (("bob", "alice"), ("bob", "alice", "carol", "dave"), ("bob", "alice", "dave"), ("bob", "dave")):
        chat.system("group_changed", group="team", members=members)
    assert chat.said(chat.model[team]) == [
        "you are in #team with bob",
        "carol, dave joined",
        "carol left",
        "you are no longer in #team",
    ]
    assert chat.model.groups == {}
    assert chat.model[team].unread == 1


def test_the_other_end_hears_that_the_user_is_typing() -> None:
    """Of a text that would be sent, not of a command, and not on the first screen."""
    chat = Chat()
    chat.session.is_typing("hello")
    for peer in (Peer("bob"), Peer("team", True)):
        chat.session.open(peer)
        for text in ("", " ", "/", "/to carol", "h", "//x"):
            chat.session.is_typing(text)
    assert chat.client.calls == [("typing", "bob")] * 2 + [("group_typing", "team")] * 2


def test_roles_in_a_group() -> None:
    """Who gave whom which role is shown in the group's conversation, with the other changes."""
    chat = Chat()
    team = Peer("team", True)
    chat.system("group_changed", group="team", members=("bob", "alice"))
    changes = [
        {"user": "bob", "member": "alice", "role": "admin"},
        {"user": "alice", "added": "carol"},
        {"user": "bob", "member": "carol", "role": "owner"},
        {"user": "bob", "member": "bob", "role": "member"},
        {"user": "bob", "member": "bob", "role": "jester"},
    ]
    chat.system("group_changed", group="team", members=("carol", "alice", "bob"), values={"changes": changes})
    assert chat.said(chat.model[team])[1:] == [
        "carol joined",
        "bob made alice an admin",
        "bob passed the group on to carol",
        "bob made bob a plain member",
    ]
    assert chat.model.groups["team"][0] == "carol"


def test_who_added_and_removed_whom() -> None:
    """What others did says who; what the members did themselves, or this user, is as it was. Only
    what is left of several changes counts.
    """
    chat = Chat()
    team = Peer("team", True)
    chat.model.groups = {"team": ("bob", "alice", "carol", "dave", "erin")}
    chat.session.open(team)
    changes = [
        {"user": "bob", "removed": "carol"},
        {"user": "dave", "removed": "dave"},
        {"user": "alice", "removed": "erin"},
        {"user": "bob", "added": "frank"},
        {"user": "bob", "added": "grace"},
        {"user": "alice", "added": "heidi"},
        {"user": "bob", "added": "ivan"},
        {"user": "bob", "removed": "ivan"},
    ]
    members = ("bob", "alice", "frank", "grace", "heidi")
    chat.system("group_changed", group="team", members=members, values={"changes": changes})
    assert chat.said() == ["heidi joined", "bob added frank, grace", "dave, erin left", "bob removed carol"]
    changes = [{"user": "frank", "removed": "alice"}]
    chat.system("group_changed", group="team", members=("bob", "frank"), values={"changes": changes})
    assert chat.said()[-1] == "frank removed you from #team"


def test_the_end_of_a_group() -> None:
    """The end of a group is shown in its conversation, and the group is removed."""
    chat = Chat()
    chat.model.groups = {"team": ("bob", "alice")}
    chat.receive("bob", "bye", group="team")
    chat.system("group_disbanded", group="team")
    assert chat.said(chat.model[Peer("team", True)]) == ["bye", "#team was disbanded"]
    assert chat.model.groups == {}


def test_messages_that_were_left_out() -> None:
    """Where they belong stands how to read them."""
    chat = Chat()
    chat.system("inbox_full", groups={"team": 40})
    [line] = chat.said(chat.model[Peer("team", True)])
    assert line == "too much waited for you, so messages in #team were left out; /history shows them"


def test_events_of_a_later_server() -> None:
    """Unknown events are ignored."""
    chat = Chat()
    chat.system("typing", friend="bob")
    chat.system("shutdown")
    assert chat.said() == ["the server is shutting down"]
