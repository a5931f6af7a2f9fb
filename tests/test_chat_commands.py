"""Slash commands: parsing, requests to the client, answers to the user, completion."""

import re
import stat
from datetime import datetime
from pathlib import Path

import pytest
from fake_client import MS, Chat

from client_api import (
    ConnectionLost,
    FriendRequests,
    Group,
    History,
    Invite,
    OwnLogin,
    PastMessage,
    Profile,
    Reason,
    RequestRejected,
    RequestTimeout,
    ServerFailed,
    State,
)
from jelly.chat.commands import COMMANDS, complete, submit
from jelly.chat.help_texts import RARE
from jelly.chat.model import Peer

SHOWN = datetime.fromtimestamp(0).strftime("%Y-%m-%d %H:%M")
"""The beginning of 1970, as the chat shows it."""


def run(typed: str, *answers: object, where: str = "") -> Chat:
    """Submit a line as alice, in a conversation or on the first screen, and answer its requests."""
    chat = Chat()
    chat.model.groups = {"team": ("alice", "bob"), "my team": ("alice",)}
    if where:
        chat.session.open(Peer.parse(where))
    submit(chat.session, typed)
    for answer in answers:
        if isinstance(answer, Exception):
            chat.client.refuse(answer)
        else:
            chat.client.answer(answer)
    return chat


@pytest.mark.parametrize(
    ("typed", "call"),
    [
        ("/add bob", ("add_friend", "bob")),
        ("/add bob smith ", ("add_friend", "bob smith")),
        ("/ADD @#bob", ("add_friend", "#bob")),
        ("/remove bob", ("remove_friend", "bob")),
        ("/accept bob", ("answer_friend", "bob", {"accept": True})),
        ("/decline @bob", ("answer_friend", "bob", {"accept": False})),
        ("/accept #team", ("answer_group", "team", {"accept": True})),
        ("/decline #team", ("answer_group", "team", {"accept": False})),
        ("/block bob", ("block", "bob")),
        ("/unblock bob", ("unblock", "bob")),
        ("/friends", ("list_friends",)),
        ("/profile", ("own_profile",)),
        ("/whois bob", ("friend_profile", "bob")),
        ("/find bo", ("find_users", "bo")),
        ("/invite", ("invite", None, {"uses": 1, "hours": 24})),
        ("/invite 5", ("invite", None, {"uses": 5, "hours": 24})),
        ("/join abcd-efgh", ("join", "abcd-efgh")),
        ("/account", ("logins",)),
        ("/account logins", ("logins",)),
        ("/account end 1a2b", ("end_login", "1a2b")),
        ("/report bob is rude", ("report", "bob", "is rude", {"message_id": None})),
        ("/set name Alice  Smith", ("update_profile", {"name": "Alice  Smith"})),
        ("/set 姓名 王小明", ("update_profile", {"name": "王小明"})),
        ("/set phone", ("update_profile", {"phone": ""})),
        ("/msg bob hello", ("send_message", "bob", "hello")),
        ("/part #team", ("leave_group", "team")),
        ("/leave team", ("leave_group", "team")),
        ("/names", ("list_friends",)),
        ("/add Jose\u0301", ("add_friend", "José")),
        ("/group create caf\u00e9", ("create_group", "café")),
        ("/set introduction 我 喜欢 茶", ("update_profile", {"introduction": "我 喜欢 茶"})),
        ("/group create team", ("create_group", "team")),
        ("/group create #team", ("create_group", "team")),
        ("/group disband #team", ("disband_group", "team")),
        ("/group leave team", ("leave_group", "team")),
        ("/group add team carol", ("add_member", "team", "carol")),
        ("/group add #my team carol", ("add_member", "my team", "carol")),
        ("/group add unknown carol", ("add_member", "unknown", "carol")),
        ("/group remove #team bob", ("remove_member", "team", "bob")),
        ("/group admin #team bob", ("set_role", "team", "bob", "admin")),
        ("/group owner my team bob", ("set_role", "my team", "bob", "owner")),
        ("/group list", ("list_groups",)),
        ("/seen off", ("update_profile", {"show_seen": False})),
        ("/receipts off", ("update_profile", {"show_read": False})),
        ("/logout", ("logout",)),
    ],
)
def test_requests(typed: str, call: tuple[object, ...]) -> None:
    """Names with spaces need no quotes."""
    assert run(typed).client.calls == [call]


@pytest.mark.parametrize(
    ("typed", "call"),
    [
        ("/group add carol", ("add_member", "team", "carol")),
        ("/group remove bob", ("remove_member", "team", "bob")),
        ("/group member bob", ("set_role", "team", "bob", "member")),
        ("/group leave", ("leave_group", "team")),
        ("/part", ("leave_group", "team")),
        ("/who", ("list_groups",)),
        ("/invite 5 48", ("invite", "team", {"uses": 5, "hours": 48})),
        ("/group disband", ("disband_group", "team")),
        ("hello", ("send_group_message", "team", "hello")),
        ("//help", ("send_group_message", "team", "/help")),
        ("two\nlines", ("send_group_message", "team", "two\nlines")),
        ("\udce4 half", ("send_group_message", "team", "? half")),
    ],
)
def test_in_the_conversation_of_a_group(typed: str, call: tuple[object, ...]) -> None:
    """The name of the group may be left out, and texts go to the group."""
    assert run(typed, where="#team").client.calls == [call]


@pytest.mark.parametrize(
    "typed",
    [
        "/add", "/add #team", "/accept", "/decline #",
        "/remove", "/whois", "/set", "/group", "/group fly", "/group add",
        "/group add carol", "/group create", "/group leave", "/to #",
    ],
)  # fmt: skip
def test_wrong_arguments(typed: str) -> None:
    """Wrong arguments show the usage, and send no request."""
    chat = run(typed)
    assert chat.client.calls == []
    assert chat.said()[-1].startswith(f"usage: {typed.split()[0]} ")


@pytest.mark.parametrize(
    ("typed", "event", "members", "here", "elsewhere"),
    [
        ("/group add #team carol", "group_changed", ("alice", "bob", "carol"), "carol joined", "carol is in #team now"),
        ("/group remove #team bob", "group_changed", ("alice",), "bob left", "bob is no longer in #team"),
        ("/group leave #team", "group_changed", ("bob",), "you are no longer in #team", "you have left #team"),
        ("/group disband #team", "group_disbanded", (), "#team was disbanded", "#team is disbanded"),
    ],
)
def test_a_change_of_a_group_is_shown_once(
    typed: str, event: str, members: tuple[str, ...], here: str, elsewhere: str
) -> None:
    """If the notice came before the answer, the answer is not shown in the group's conversation."""
    for where, said in (("#team", [here]), ("", [elsewhere])):
        chat = run(typed, where=where)
        chat.system(event, group="team", members=members)
        chat.client.answer()
        assert chat.said() == said
        assert chat.model.groups.get("team", ()) == (members if "alice" in members else ())


def test_a_new_role_is_shown_once() -> None:
    """As above; and if the server tells nothing, because the member has the role already."""
    changes = [{"user": "alice", "member": "bob", "role": "admin"}]
    for where, told, said in (
        ("#team", changes, ["alice made bob an admin"]),
        ("#team", [], ["bob is an admin of #team now"]),
        ("", changes, ["bob is an admin of #team now"]),
    ):
        chat = run("/group admin #team bob", where=where)
        chat.system("group_changed", group="team", members=("alice", "bob"), values={"changes": told})
        chat.client.answer()
        assert chat.said() == said


def test_wrong_arguments_of_a_subcommand() -> None:
    """A wrong /group add shows the usage of /group add; /group alone shows all subcommands."""
    assert run("/group add").said() == ["usage: /group add [#team] bob      add a member"]
    assert run("/group fly").said() == ["usage: /group create|disband|add|remove|admin|member|owner|leave|list"]


@pytest.mark.parametrize("name", ["friends", "profile", "passwd", "resend", "connect", "logout", "quit"])
def test_too_many_words(name: str) -> None:
    """A command without arguments does nothing if it gets one."""
    chat = run(f"/{name} bob")
    assert (chat.client.calls, chat.ui.has_exited) == ([], False)
    assert chat.said() == [f"usage: /{name}"]


@pytest.mark.parametrize(
    ("typed", "answer", "said"),
    [
        ("/add bob", True, "bob is on your friend list now"),
        ("/add bob", False, "bob is asked, and is shown as offline until then"),
        ("/accept bob", None, "bob has you as a friend now. /add bob adds bob to your own list"),
        ("/decline bob", None, "declined: bob does not see when you are online"),
        ("/block bob", None, "bob is blocked: no messages, requests or groups from bob. /unblock bob ends it"),
        ("/unblock bob", None, "bob is no longer blocked"),
        ("/accept bob", RequestRejected("not_asked"), "/accept bob: there is no such question to answer"),
        ("/add bob", RequestRejected("no_such_user"), "/add bob: no such user"),
        ("/add bob", RequestTimeout(), "/add bob: the server did not answer in time; it may or may not have been done"),
        ("/whois bob", RequestTimeout(), "/whois bob: the server did not answer in time"),
        ("/friends", ServerFailed("internal"), "/friends: the server had an internal error"),
        ("/profile", ConnectionLost("", sent=True), "/profile: the connection was lost"),
        ("/group list", RequestTimeout(), "/group list: the server did not answer in time"),
        ("/remove bob", None, "bob is no longer on your friend list"),
        ("/profile", Profile("alice"), "your profile is empty: begin with /set name YOUR NAME"),
        ("/profile", Profile("alice", name="A", age="7"), "the profile of alice\nname: A\nage: 7"),
        ("/whois bob", Profile("bob"), "the profile of bob\nthe profile is empty"),
        ("/whois bob", RequestRejected("not_friends"), "/whois bob: not on your friend list: /add bob first"),
        ("/find bo", ("bob", "#boris"), "found: bob, @#boris"),
        ("/join abcd", "team", "you are in #team now"),
        ("/join abcd", RequestRejected("invalid_invite"),
         "/join: this invitation is not valid, or no longer; ask for another one"),
        ("/account end 1a2b", None, "the login 1a2b is ended"),
        ("/account end 1a", RequestRejected("invalid_token"),
         "/account end 1a: you have no such login: /account lists them"),
        ("/account end 1a", RequestRejected("not_logged_in"), "/account end 1a: you are not logged in; log in again"),
        ("/account", (OwnLogin("1a2b", None, None, 9, True), OwnLogin("3c4d", None, "192.0.2.7", 9, False, "phone")),
         "1a2b: since ?, from ? (this one)\n3c4d: since ?, from 192.0.2.7 on phone"),
        ("/report bob x", None, "the operator of the server can read your report about bob"),
        ("/find bo", (), "no name begins like this"),
        ("/find bo", RequestRejected("unknown_type"), "/find bo: this server does not support that"),
        ("/set age 30", None, "age is now: 30"),
        ("/set age", None, "age is empty now"),
        ("/set age 30", RequestRejected("too_long"), "/set age: this is too long; shorten it"),
        ("/group create x", None, "#x is created: /to #x opens it, /group add #x NAME adds members"),
        ("/group create x", RequestRejected("group_exists"),
         "/group create x: a group of this name exists already; choose another name"),
        ("/group disband team", None, "#team is disbanded"),
        ("/group leave team", RequestRejected("creator_cannot_leave"),
         "/group leave #team: the owner cannot leave the group: pass it on first (/group owner), or disband it"),
        ("/group leave team", None, "you have left #team"),
        ("/group add team carol", True, "carol is in #team now"),
        ("/group add team carol", False, "carol is invited to #team"),
        ("/decline #team", None, "declined: you are not in #team"),
        ("/group remove team bob", None, "bob is no longer in #team"),
        ("/receipts on", None, "others are told what you have received and read"),
        ("/receipts off", None, "nobody is told what you have received and read"),
        ("/seen on", None, "friends can see when you were online last"),
        ("/seen off", None, "nobody can see when you were online last"),
        ("/whois bob", Profile("bob", seen=0), "the profile of bob\nlast seen: " + SHOWN),
        ("/whois bob", Profile("bob", name="Bob", seen=0), "the profile of bob\nname: Bob\nlast seen: " + SHOWN),
        ("/group list", {}, "you are in no group: /group create NAME creates one"),
        ("/group admin #team bob", None, "bob is an admin of #team now"),
        ("/group member #team bob", None, "bob is a plain member of #team now"),
        ("/group owner #team bob", None, "#team belongs to bob now"),
        ("/group owner #team bob", RequestRejected("not_group_creator"),
         "/group owner #team bob: only the owner of the group can do this; "
         "its admins can add and remove plain members"),
        ("/group admin #team bob", RequestRejected("unknown_type"),
         "/group admin #team bob: this server does not support that"),
        ("/group list", {"b": Group("b", ("x", "y", "w"), ("w",)), "a": Group("a", ("z",))},
         "#a: z (owner)\n#b: x (owner), y, w (admin)"),
    ],
)  # fmt: skip
def test_answers(typed: str, answer: object, said: str) -> None:
    """The answer says what was done, or why not."""
    assert run(typed, answer).said()[-1] == said


def past(sender: str, receiver: str, content: str, id: int, group: str | None = None) -> PastMessage:
    return PastMessage(sender, receiver, content, MS, id, group=group)


def test_who() -> None:
    """It shows the members of a group, and the friends among them who are online."""
    chat = run("/who", where="#team")
    chat.model.friends.update(bob=True, carol=False, dan=True)
    chat.client.answer({"team": Group("team", ("alice", "bob", "carol"))})
    assert chat.said()[-1] == "#team: alice (owner), bob, carol\nonline: bob"
    chat = run("/names", where="#team")
    chat.client.answer({})
    assert chat.said()[-1] == "you are no longer in #team"


def test_aliases() -> None:
    """They have the help and the completion of what they stand for."""
    chat = Chat()
    chat.model.friends["bob"] = True
    assert complete(chat.session, "/msg b") == (5, ["bob"])
    submit(chat.session, "/help w")
    assert chat.said()[-1].startswith("/to bob | #team")
    submit(chat.session, "/exit")
    assert chat.ui.has_exited


def test_a_log(tmp_path: Path) -> None:
    """It has what is shown, of all conversations, and only its owner can read it."""
    chat = Chat()
    file = tmp_path / "chat log"
    file.write_text("before\n")
    submit(chat.session, "/log")
    submit(chat.session, f"/log {tmp_path}")
    submit(chat.session, f"/log {file}")
    chat.receive("bob", "one\n\x1b[2Jtwo")
    submit(chat.session, "/to carol hello")
    submit(chat.session, "/log")
    chat.receive("bob", "not in the file")
    written = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "2025-11-24 14:03", file.read_text())
    assert written.splitlines() == [
        "before",
        "2025-11-24 14:03 bob bob: one",
        "   ␛[2Jtwo",
        "2025-11-24 14:03 * --: bob writes to you: Alt-1 goes there",
        "2025-11-24 14:03 carol alice: hello",
    ]
    said = [*chat.said(chat.model.home), *chat.said()]
    assert "nothing is written to a file: /log FILE begins" in said
    assert f"cannot write to {tmp_path}: Is a directory" in said
    assert f"nothing more is written to {file}" in said
    submit(chat.session, f"/log {tmp_path / 'new'}")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    submit(chat.session, "/log /dev/full")
    chat.receive("bob", "hello")
    assert "cannot write to /dev/full: No space left on device" in chat.said()
    submit(chat.session, "/log")


def test_old_names_in_another_form() -> None:
    """They can be written as they are."""
    chat = Chat()
    chat.model.friends["Jose\u0301"] = True
    submit(chat.session, "/whois Jose\u0301")
    submit(chat.session, "/to Jose\u0301 e\u0301")
    assert chat.client.calls == [("friend_profile", "Jose\u0301"), ("send_message", "Jose\u0301", "e\u0301")]


def test_search_in_pages() -> None:
    """Where the server cannot search, the chat reads page after page, and goes on if it comes
    again.
    """
    chat = run("/search Two", RequestRejected("unknown_type"), where="bob")
    assert chat.client.calls[1:] == [("history", "bob", {"before": None, "limit": 100})]
    chat.client.answer(History((past("bob", "alice", "one", 50), past("alice", "bob", "a two", 60)), True, 50))
    assert chat.client.calls[2:] == [("history", "bob", {"before": 50, "limit": 100})]
    chat.client.answer(History((past("bob", "alice", "TWO", 40),), False))
    when = past("", "", "", 1).written_at.strftime("%Y-%m-%d %H:%M")
    assert chat.said()[-1] == f"{when} bob: TWO\n{when} alice: a two"
    chat = run("/search x", RequestRejected("unknown_type"), where="#team")
    for number in range(21):
        chat.client.answer(History((past("bob", "team", "one", 100 - number),), True, 100 - number))
    assert chat.said()[-1] == "no message has this text: x\n/search x again shows older ones"
    submit(chat.session, "/search x")
    chat.client.refuse("unknown_type")
    assert chat.client.calls[-1] == ("group_history", "team", {"before": 80, "limit": 100})
    chat.receive("bob", "eXit", group="team")
    chat.client.refuse("unknown_type")
    assert chat.said()[-1] == f"{when} bob: eXit"
    assert run("/search x", RequestRejected("unknown_type")).said()[-1].endswith("does not support that")


def test_search() -> None:
    """It searches the current conversation, goes on by itself while nothing is found, and goes on
    with older messages if it comes again."""
    chat = run("/search two words", where="bob")
    assert chat.client.calls == [("search", "two words", {"person": "bob", "before": None, "limit": 20})]
    chat.client.answer(History((), True, 70))
    assert chat.client.calls[1:] == [("search", "two words", {"person": "bob", "before": 70, "limit": 20})]
    chat.client.answer(History((past("bob", "alice", "a", 50), past("alice", "bob", "b", 60)), True, 50))
    when = past("", "", "", 1).written_at.strftime("%Y-%m-%d %H:%M")
    assert chat.said()[-1] == f"{when} bob: a\n{when} alice: b\n/search two words again shows older ones"
    submit(chat.session, "/search two words")
    assert chat.client.calls[2:] == [("search", "two words", {"person": "bob", "before": 50, "limit": 20})]
    chat.client.answer(History((), False))
    assert chat.said()[-1] == "no message has this text: two words"
    submit(chat.session, "/search two words")
    assert chat.client.calls[3:] == [("search", "two words", {"person": "bob", "before": None, "limit": 20})]
    chat.client.refuse("unknown_type")
    chat.client.refuse("inbox_full")
    assert chat.said()[-1].startswith("/search two words: ")


def test_an_invitation() -> None:
    """It says the code, for how many, and until when; not in a conversation with a person."""
    until = datetime.fromtimestamp(MS / 1000).strftime("%Y-%m-%d %H:%M")
    assert run("/invite 2", Invite("ab-cd", MS), where="#team").said() == [
        f"ab-cd is good for 2 to join #team with /join ab-cd, until {until}"
    ]
    assert run("/invite", Invite("ab-cd", MS)).said() == [f"ab-cd is good for 1 to register here, until {until}"]
    for typed, where in (("/invite", "bob"), ("/invite x", ""), ("/invite 1 2 3", "")):
        assert run(typed, where=where).said() == ["usage: /invite [USES [HOURS]]"]
    for typed in ("/invite 0", "/invite 101", "/invite 1 0", "/invite 1 721"):
        chat = run(typed, where="#team")
        assert chat.said() == ["a code is for 1 to 100 people, and for 1 to 720 hours"]
        assert chat.client.calls == []


def test_deleting_the_account() -> None:
    """It asks for the password; without one nothing happens."""
    chat = Chat()
    chat.ui.secrets = ["secret", ""]
    submit(chat.session, "/account delete")
    assert chat.client.calls == [("delete_account", "secret")]
    chat.client.answer()
    chat.system("logged_out", values={"reason": "account_deleted"})
    chat.connection(State.OFFLINE, Reason.ENDED)
    assert chat.said() == ["the account alice is deleted"]  # nothing of /connect
    submit(chat.session, "/account delete")
    assert (len(chat.client.calls), chat.said()[-1]) == (1, "nothing was changed")
    assert run("/account fly").said()[-1].startswith("usage: /account")


def test_a_report_has_the_last_message() -> None:
    """Of that person, in the conversation in which it is typed."""
    chat = Chat()
    for number, sender in enumerate(("bob", "bob", "carol", "alice"), 1):
        chat.receive(sender, "hello", group="team", id=number)
    chat.session.open(Peer("team", True))
    submit(chat.session, "/report bob is rude")
    assert chat.client.calls == [("report", "bob", "is rude", {"message_id": 2})]
    chat.client.answer()
    assert chat.said()[-1].endswith("about bob, and the last message of bob in this conversation")
    assert run("/report bob").said() == ["usage: /report bob TEXT"]


def test_search_in_a_group_and_everywhere() -> None:
    """On the first screen each message says to whom it went."""
    assert run("/search x", where="#team").client.calls == [
        ("search", "x", {"group": "team", "before": None, "limit": 20})
    ]
    page = History((past("bob", "team", "a", 5, "team"), past("alice", "team", "b", 6)), False)
    chat = run("/search x", page)
    assert chat.client.calls == [("search", "x", {"before": None, "limit": 20})]
    when = page.messages[0].written_at.strftime("%Y-%m-%d %H:%M")
    assert chat.said()[-1] == f"{when} bob to #team: a\n{when} alice to team: b"
    assert run("/search").said() == ["usage: /search TEXT"]


def test_the_answer_appears_in_the_conversation_of_the_command() -> None:
    """The answer appears in the conversation of the command, even if another one is open."""
    chat = run("/add bob", where="carol")
    chat.session.open(Peer("dave"))
    chat.client.answer(True)
    assert chat.said() == []
    assert chat.said(chat.model[Peer("carol")]) == ["bob is on your friend list now"]


@pytest.mark.parametrize(
    ("friends", "requests", "said"),
    [
        ({}, RequestRejected("unknown_type"), "your friend list is empty: /add NAME adds a friend"),
        ({}, FriendRequests((), ()), "your friend list is empty: /add NAME adds a friend"),
        ({"dave": False, "carol": True, "bob": True}, FriendRequests((), ()), "online: bob, carol\noffline: dave"),
        ({"dave": False, "carol": True}, RequestRejected("unknown_type"), "online: carol\noffline: dave"),
        (
            {"dave": False, "carol": False},
            FriendRequests(("carol",), ("fay", "eve")),
            "offline: dave\nnot accepted yet: carol\nthey ask you: eve, fay (/accept, /decline)",
        ),
    ],
)
def test_the_friends(friends: dict[str, bool], requests: object, said: str) -> None:
    """Those who have not accepted, and those who ask, have lines of their own."""
    assert run("/friends", friends, requests).said() == [said]


def test_invitations() -> None:
    """Tab offers the groups to which somebody invites, until there is an answer."""
    chat = Chat()
    chat.invitation("choir", "bob")
    assert chat.said() == ["bob invites you to #choir: /accept #choir or /decline #choir"]
    assert complete(chat.session, "/accept ") == (8, ["#choir"])
    submit(chat.session, "/accept #choir")
    chat.client.answer()
    assert complete(chat.session, "/accept ") == (8, [])


def test_who_is_blocked_is_not_shown() -> None:
    """What they write to groups comes all the same, and the chat hides it; also in the history."""
    chat = run("/block bob", None, where="#team")
    chat.receive("bob", "hidden", group="team")
    chat.receive("carol", "shown", group="team")
    assert complete(chat.session, "/unblock ") == (9, ["bob"])
    submit(chat.session, "/history")
    chat.client.answer(History((past("bob", "team", "old", 1), past("carol", "team", "older", 2)), more=False))
    assert [line.text for line in chat.model.current.lines if line.sender] == ["older", "shown"]
    submit(chat.session, "/unblock bob")
    chat.client.answer()
    submit(chat.session, "/block")
    chat.client.people_blocked = ("carol", "dave")
    submit(chat.session, "/block")
    assert chat.said()[-2:] == ["you have blocked nobody", "blocked: carol, dave"]
    chat.session.refresh()
    chat.receive("carol", "hidden", group="team")
    chat.receive("bob", "shown again", group="team")
    assert chat.said()[-1] == "shown again"


def test_friend_requests() -> None:
    """Whoever asks is offered by Tab, until there is an answer."""
    chat = Chat()
    chat.friend_request("bob")
    chat.friend_request("carol")
    assert chat.said()[-1].startswith("carol asks to have you as a friend: ")
    assert complete(chat.session, "/accept ") == (8, ["bob", "carol"])
    submit(chat.session, "/accept bob")
    chat.client.answer()
    submit(chat.session, "/add carol")
    chat.client.answer(True)
    assert complete(chat.session, "/decline ") == (9, [])
    for accepted, said in ((True, "dave has accepted"), (False, "dave has declined")):
        chat.system("friend_answer", friend="dave", accepted=accepted)
        assert chat.said()[-1] == f"{said} your friend request"


def test_to() -> None:
    """/to opens a conversation, and sends the text after the name."""
    chat = run("/to bob")
    assert chat.model.current is chat.model[Peer("bob")]
    assert chat.client.calls == []
    assert run("/to bob how are you?").client.calls == [("send_message", "bob", "how are you?")]
    assert run("/to #my team").model.current.peer == Peer("my team", True)


def test_to_alone() -> None:
    """/to without arguments lists the conversations."""
    chat = run("/to", where="bob")
    chat.receive("carol", "hello")
    submit(chat.session, "/to")
    assert chat.said() == ["1 bob", "1 bob\n2 carol (1)"]
    assert run("/to").said() == ["no conversations yet: /to NAME starts one"]


def test_a_text_without_a_receiver() -> None:
    """On the first screen a text has no receiver. An empty text is ignored."""
    assert run("hello").said() == ["no receiver yet: choose one with /to NAME"]
    assert run(" \n ").said() == []


def test_unknown_commands() -> None:
    """An unknown command gets a suggestion, or a hint how to send such a text."""
    assert run("/frends").said() == ["there is no /frends: did you mean /friends?"]
    assert run("/xyz").said()[0].startswith("there is no /xyz; /help lists all commands.")
    assert run("/ home").said()[0].startswith("there is no /;")


def test_resend() -> None:
    """/resend says when there is nothing to resend."""
    assert run("/resend", where="bob").said() == ["there is nothing to resend here"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help(language: str) -> None:
    """/help fits on a small screen; /help with a name shows the details."""
    chat = Chat(language)
    submit(chat.session, "/help")
    lines = chat.said()[0].split("\n")
    assert len(lines) <= 20
    for name in COMMANDS:
        assert any(line.startswith(f"/{name} ") for line in lines) != (name in RARE)
        assert name not in RARE or any(f"/{name}" in line for line in lines)
        submit(chat.session, f"/help {name}")
        assert chat.said()[-1].startswith(f"/{name}")
    submit(chat.session, "/help /nothing")
    assert "/nothing" in chat.said()[-1]


def test_passwd() -> None:
    """/passwd asks for the old password, for the new one twice, and then changes it."""
    chat = Chat()
    chat.ui.secrets = ["old", "new", "new"]
    submit(chat.session, "/passwd")
    assert chat.client.calls == [("update_profile", {"password": "new", "old_password": "old"})]
    chat.client.answer()
    assert chat.said() == ["your password was changed"]


def test_passwd_with_a_wrong_old_password() -> None:
    """The user is told which of the passwords was wrong."""
    chat = Chat()
    chat.ui.secrets = ["wrong", "new", "new"]
    submit(chat.session, "/passwd")
    chat.client.refuse("wrong_credentials")
    assert chat.said() == ["the present password was wrong: nothing was changed"]


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        (["old", "new", "nwe"], "the passwords differ: nothing was changed"),
        (["old", ""], "nothing was changed"),
        ([""], "nothing was changed"),
    ],
)
def test_passwd_with_different_passwords(secrets: list[str], said: str) -> None:
    """If the passwords differ or are empty, nothing is changed."""
    chat = Chat()
    chat.ui.secrets = secrets
    submit(chat.session, "/passwd")
    assert chat.client.calls == []
    assert chat.said() == [said]


def test_leaving() -> None:
    """/quit exits at once, /logout after the answer, even if that is an error."""
    assert run("/quit").ui.has_exited
    assert not run("/logout").ui.has_exited
    assert run("/logout", None).ui.has_exited
    assert run("/logout", RequestRejected("not_logged_in")).ui.has_exited


# --- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/fr", ["friends "]),
        ("/re", ["recall ", "receipts ", "remove ", "report ", "resend "]),
        ("/to b", ["bob"]),
        ("/to B", ["bob"]),
        ("/to ", ["#team", "bob", "carol", "dave", "erin"]),
        ("/to #", ["#team"]),
        ("/add ", ["carol", "dave", "erin"]),
        ("/remove ", ["bob"]),
        ("/whois b", ["bob"]),
        ("/set in", ["introduction "]),
        ("/help gr", ["group"]),
        ("/group d", ["disband "]),
        ("/group leave #", ["leave #team"]),
        ("/group add #", ["add #team "]),
        ("/group add #team c", []),
        ("/group add #team d", ["add #team dave"]),
        ("/group remove #team c", ["remove #team carol"]),
        ("/group admin #team ", ["admin #team carol"]),
        ("/group o", ["owner "]),
        ("/friends ", []),
        ("/nothing b", []),
        ("hello da", ["dave"]),
        ("hello ", []),
        ("", []),
        ("//da", []),
    ],
)
def test_completion(typed: str, offered: list[str]) -> None:
    """Commands, names and groups are completed, in any case."""
    chat = Chat()
    chat.model.friends, chat.model.groups = {"bob": True}, {"team": ("alice", "carol")}
    chat.receive("dave", "hello")
    chat.receive("erin", "hello")
    start, names = complete(chat.session, typed)
    assert [name for name in names if name != "alice"] == offered
    assert all(name.lower().startswith(typed[start:].lower()) for name in names)


def test_names_that_cannot_be_shown_are_not_offered() -> None:
    """Names that `sanitize` would change are not offered."""
    chat = Chat()
    chat.receive("d\x1b[2Jave", "hello")
    chat.receive("d\u202eora", "hello")
    assert complete(chat.session, "/to d")[1] == []


def test_names_in_a_group_come_first() -> None:
    """In a group its members are offered, even if they are not friends."""
    chat = Chat()
    chat.model.groups = {"team": ("alice", "carol")}
    chat.session.open(Peer("team", True))
    assert complete(chat.session, "what about ca") == (11, ["carol"])


def test_history() -> None:
    """/history takes a number from 1 to 100, and sends no request if the answer is known."""
    chat = Chat()
    submit(chat.session, "/history")
    assert chat.said()[-1] == "no receiver yet: choose one with /to NAME"
    submit(chat.session, "/to bob")
    for wrong in ("0", "101", "-1", "x", "5 5", "٣"):
        submit(chat.session, f"/history {wrong}")
        assert chat.said()[-1] == "usage: /history [20]"
    assert chat.client.calls == []
    submit(chat.session, "/history 7")
    assert chat.client.calls == [("history", "bob", {"before": None, "limit": 50})]
    submit(chat.session, "/history")
    assert chat.said()[-1] == "loading earlier messages"
    chat.client.answer(History((), False))
    submit(chat.session, "/history")
    assert chat.said()[-1] == "there are no earlier messages"
    assert len(chat.client.calls) == 1
