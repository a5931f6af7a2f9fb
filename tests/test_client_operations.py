"""Every operation of the client library, on Jelly and on the stand-in for the original.

The original refuses with nothing but a status and an empty body, and some requests it never
answers. So the expectations for it stand beside those for Jelly.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from client_tools import Join, NewClient, Recorder, Service, error, result

from client_api import (
    Group,
    GroupMessageEvent,
    JellyClient,
    Login,
    MessageEvent,
    Profile,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerFailed,
    State,
)

Refusal = tuple[Callable[[JellyClient], Future[Any]], str, type[RequestError] | None]


def assert_refused(service: Service, future: Future[Any], code: str, at_original: type[RequestError] | None) -> None:
    """Assert that Jelly refuses with a code and a sentence, the original with a status or not at
    all (None)."""
    if not service.is_original:
        refused = error(future)
        assert (type(refused), refused.code) == (RequestRejected, code)
        assert str(refused).endswith(".")
    elif at_original is None:
        result(future)
    else:
        refused = error(future)
        assert (type(refused), refused.code) == (at_original, "")
        assert str(refused).startswith("The server gave no reason.")
        assert refused.likely_code in ("", code)


def found(creator: JellyClient, *members: str) -> None:
    """Let a client create the group `team` with some members."""
    result(creator.create_group("team"))
    for member in members:
        result(creator.add_member("team", member))


# --- coming and going -----------------------------------------------------------------------------


def test_register(service: Service, new_client: NewClient) -> None:
    """The result is the name; the client stays offline, and the account can log in."""
    client = new_client(service.port, features=service.features)
    assert result(client.register("dora", "pw")) == "dora"
    assert client.state is State.OFFLINE
    assert result(client.login("dora", "pw")).username == "dora"


def test_register_while_online(join: Join) -> None:
    """A client that is logged in may register others, on a connection of its own."""
    alice = join("alice")
    assert result(alice.register("dora", "pw")) == "dora"
    assert (alice.state, alice.username) == (State.ONLINE, "alice")


def test_register_refused(service: Service, new_client: NewClient) -> None:
    """A taken name, an invalid name and an invalid password are refused, each with its code."""
    client = new_client(service.port)
    for username, password, code, at_original in (
        ("alice", "pw", "username_taken", RequestRejected),
        ("two words", "pw", "invalid_username", None),
        ("x" * 65, "pw", "invalid_username", ServerFailed),
        ("dora", "p" * 129, "invalid_password", None),
    ):
        assert_refused(service, client.register(username, password), code, at_original)


def test_login(service: Service, new_client: NewClient) -> None:
    """The result has the name and a token of 64 bits, which `repr` hides; the client is online."""
    client = new_client(service.port, features=service.features)
    login = result(client.login("alice", "pw"))
    assert isinstance(login, Login)
    assert login.username == "alice"
    assert -(2**63) <= login.token < 2**63
    assert str(login.token) not in repr(login)
    assert (client.state, client.username) == (State.ONLINE, "alice")


def test_login_refused(service: Service, new_client: NewClient) -> None:
    """A wrong name, password or token is refused; the client is offline and may try again."""
    client = new_client(service.port, features=service.features)
    for username, password in (("alice", "wrong"), ("nobody", "pw")):
        assert_refused(service, client.login(username, password), "wrong_credentials", RequestRejected)
        assert (client.state, client.username) == (State.OFFLINE, None)
    assert_refused(service, client.resume("alice", 12345), "invalid_token", RequestRejected)
    assert result(client.login("alice", "pw")).username == "alice"


def test_resume(service: Service, new_client: NewClient) -> None:
    """The token of a closed client opens the account to another client; the result repeats it."""
    with new_client(service.port, features=service.features) as first:
        token = result(first.login("alice", "pw")).token
    client = new_client(service.port, features=service.features)
    login = result(client.resume("alice", token))
    assert (login.username, login.token) == ("alice", token)
    assert result(client.own_profile()).username == "alice"


def test_logout(service: Service, new_client: NewClient) -> None:
    """The result is None, the client is offline, and the token is not valid any more."""
    client = new_client(service.port, features=service.features)
    token = result(client.login("alice", "pw")).token
    assert result(client.logout()) is None
    assert (client.state, client.username) == (State.OFFLINE, None)
    assert_refused(service, client.resume("alice", token), "invalid_token", RequestRejected)


# --- messages -------------------------------------------------------------------------------------


def test_send_message(join: Join) -> None:
    """A message reaches a user who is online, as one event with all values; she can reply to it."""
    receiver, sender = Recorder(), Recorder()
    bob, alice = join("bob", receiver), join("alice", sender)
    sent = result(alice.send_message("bob", "hello, 世界 🌍 <&='\">\u2028"))
    assert sent.receiver == "bob"
    (event,) = receiver.wait_for(lambda e: isinstance(e, MessageEvent))
    assert (event.client, event.sender, event.content, event.time) == (
        bob, "alice", "hello, 世界 🌍 <&='\">\u2028", sent.time,
    )  # fmt: skip
    assert event.written_at.timestamp() * 1000 == pytest.approx(sent.time, abs=1)
    assert result(event.reply("and hello to you")).receiver == "alice"
    assert sender.contents(1) == ["and hello to you"]


def test_messages_that_waited(service: Service, join: Join) -> None:
    """Messages to a user who was offline arrive with her login, in order."""
    alice, receiver = join("alice"), Recorder()
    contents = [f"m{number}" for number in range(5)] if not service.is_original else ["m0"]
    for content in contents:
        result(alice.send_message("bob", content))
    join("bob", receiver)
    assert receiver.contents(len(contents)) == contents


def test_send_message_to_nobody(service: Service, join: Join) -> None:
    """The original takes an unknown receiver for its own failure; the client stays online."""
    alice = join("alice")
    assert_refused(service, alice.send_message("nobody", "hello"), "no_such_user", ServerFailed)
    assert result(alice.own_profile()).username == "alice"


def test_send_group_message(join: Join) -> None:
    """A message to a group reaches its other members, and a reply goes to the group."""
    of_alice, of_bob = Recorder(), Recorder()
    alice = join("alice", of_alice)
    join("bob", of_bob)
    found(alice, "bob")
    sent = result(alice.send_group_message("team", "hello everybody"))
    (event,) = of_bob.wait_for(lambda e: isinstance(e, GroupMessageEvent))
    assert (event.group, event.sender, event.content, event.time) == ("team", "alice", "hello everybody", sent.time)
    assert result(event.reply("hello alice")).receiver == "team"
    (event,) = of_alice.wait_for(lambda e: isinstance(e, GroupMessageEvent))
    assert (event.group, event.sender, event.content) == ("team", "bob", "hello alice")


# --- friends and profiles -------------------------------------------------------------------------


def test_friends(join: Join) -> None:
    """Friends are added to a list, listed with whether they are online, and removed."""
    alice = join("alice")
    assert result(alice.list_friends()) == {}
    for friend in ("bob", "carol"):
        assert result(alice.add_friend(friend)) is True
    join("bob")
    assert result(alice.list_friends()) == {"bob": True, "carol": False}
    assert result(alice.remove_friend("carol")) is None
    assert result(alice.list_friends()) == {"bob": True}


def test_profiles(join: Join) -> None:
    """Given values change, the others stay, values never set are None; friends may read them."""
    alice, bob = join("alice"), join("bob")
    assert result(alice.update_profile()) is None
    assert result(alice.own_profile()) == Profile("alice")
    assert result(alice.update_profile(name="Alice", sex="f", age="30", phone="1", address="Paris")) is None
    result(alice.update_profile(address="Rome", introduction="Hello"))
    expected = Profile("alice", "Alice", "f", "30", "1", "Rome", "Hello")
    assert result(alice.own_profile()) == expected
    result(bob.add_friend("alice"))
    assert result(bob.friend_profile("alice")) == expected


def test_new_password(service: Service, join: Join) -> None:
    """A new password is valid from the next login on; the old one is not."""
    alice = join("alice")
    result(alice.update_profile(password="new", old_password="pw"))
    result(alice.logout())
    assert_refused(service, alice.login("alice", "pw"), "wrong_credentials", RequestRejected)
    assert result(alice.login("alice", "new")).username == "alice"


# --- groups ---------------------------------------------------------------------------------------


def test_groups(join: Join) -> None:
    """A group has its creator first; members come and go; it is gone when it is disbanded."""
    alice, bob = join("alice"), join("bob")
    found(alice, "bob", "carol")
    team = result(bob.list_groups())["team"]
    assert team == Group("team", ("alice", "bob", "carol"))
    assert team.creator == "alice"
    assert result(alice.remove_member("team", "carol")) is None
    assert result(alice.list_groups()) == {"team": Group("team", ("alice", "bob"))}
    assert result(alice.disband_group("team")) is None
    assert result(alice.list_groups()) == result(bob.list_groups()) == {}


def test_roles(service: Service, join: Join) -> None:
    """A group gets an admin and another owner, so that its creator can leave. (Not on the original,
    and not without the feature.)
    """
    alice, bob = (join(name, features=("roles",) if service.features else ()) for name in ("alice", "bob"))
    found(alice, "bob", "carol")
    if not service.features:
        refused = error(alice.set_role("team", "bob", "admin"))
        assert (type(refused), refused.code) == (RequestRejected, "unknown_type")
        return
    assert result(alice.set_role("team", "carol", "admin")) is None
    assert result(bob.list_groups()) == {"team": Group("team", ("alice", "bob", "carol"), ("carol",))}
    result(alice.set_role("team", "bob", "owner"))
    team = result(alice.list_groups())["team"]
    assert (team.owner, team.creator, team.admins) == ("bob", "bob", ("alice", "carol"))
    result(alice.leave_group("team"))
    assert result(bob.list_groups())["team"].members == ("bob", "carol")
    assert error(bob.set_role("team", "carol", "jester")).code == "malformed_body"
    assert error(bob.leave_group("team")).code == "creator_cannot_leave"


def test_leave_group(service: Service, join: Join) -> None:
    """A member removes himself from a group. (The original lets only the creator do that.)"""
    alice, bob = join("alice"), join("bob")
    found(alice, "bob", "carol")
    if service.is_original:
        assert type(error(bob.leave_group("team"))) is RequestRejected
    else:
        assert result(bob.leave_group("team")) is None
        assert result(alice.list_groups())["team"].members == ("alice", "carol")


# --- what is refused ------------------------------------------------------------------------------


REFUSALS: dict[str, Refusal] = {
    "add friend twice": (lambda alice: alice.add_friend("bob"), "already_friends", None),
    "add nobody as a friend": (lambda alice: alice.add_friend("nobody"), "no_such_user", None),
    "remove no friend": (lambda alice: alice.remove_friend("carol"), "not_friends", RequestRejected),
    "profile of no friend": (lambda alice: alice.friend_profile("carol"), "not_friends", RequestRejected),
    "long value": (lambda alice: alice.update_profile(age="x" * 256), "too_long", ServerFailed),
    "no password": (lambda alice: alice.update_profile(password=""), "invalid_password", None),
    "create again": (lambda alice: alice.create_group("team"), "group_exists", RequestRejected),
    "impossible group": (lambda alice: alice.create_group("two words"), "invalid_group_name", None),
    "disband no group": (lambda alice: alice.disband_group("none"), "no_such_group", RequestRejected),
    "disband another's": (lambda alice: alice.disband_group("club"), "not_group_creator", RequestRejected),
    "add to no group": (lambda alice: alice.add_member("none", "bob"), "no_such_group", RequestRejected),
    "add to another's": (lambda alice: alice.add_member("club", "carol"), "not_group_creator", RequestRejected),
    "add nobody": (lambda alice: alice.add_member("team", "nobody"), "no_such_user", RequestRejected),
    "add a member": (lambda alice: alice.add_member("team", "bob"), "already_member", None),
    "remove no member": (lambda alice: alice.remove_member("team", "carol"), "not_a_member", RequestRejected),
    "remove from another's": (lambda alice: alice.remove_member("club", "bob"), "not_group_creator", RequestRejected),
    "remove from no group": (lambda alice: alice.remove_member("none", "bob"), "no_such_group", RequestRejected),
    "write to no group": (lambda alice: alice.send_group_message("none", "hi"), "no_such_group", RequestRejected),
    "write to another's": (lambda alice: alice.send_group_message("club", "hi"), "not_a_member", None),
}
"""What alice requests, how Jelly refuses it, and what the original does (None: it carries it
out)."""


def test_refusals(service: Service, join: Join) -> None:
    """Each is refused with its code, and the connection stays as it was."""
    alice, bob = join("alice"), join("bob")
    result(alice.add_friend("bob"))
    found(alice, "bob")
    result(bob.create_group("club"))
    for what, (operation, code, at_original) in REFUSALS.items():
        print(what)
        assert_refused(service, operation(alice), code, at_original)
    assert result(alice.own_profile()).username == "alice"


def test_what_cannot_be_sent(join: Join) -> None:
    """Text that is too large or cannot be encoded is refused before it is sent; the server would
    close the connection."""
    bob, alice = Recorder(), join("alice", max_body=1000)
    join("bob", bob)
    refused = error(alice.send_message("bob", "x" * 1000))
    assert (type(refused), refused.code) == (RequestRejected, "too_long")
    assert "at most 1,000" in str(refused)
    assert error(alice.send_message("bob", "\ud83d")).code == "malformed_body"
    assert error(alice.register("\ud83d", "pw")).code == "malformed_body"
    result(alice.send_message("bob", "x" * 900))
    assert bob.contents(1) == ["x" * 900]


# --- lost connections, silence --------------------------------------------------------------------


def test_reconnect(service: Service, join: Join) -> None:
    """After a lost connection the client reconnects with its token, and both directions work
    again."""
    of_alice, of_bob = Recorder(), Recorder()
    alice, bob = join("alice", of_alice), join("bob", of_bob)
    service.cut()
    for each in (of_alice, of_bob):
        each.wait_for_state(State.ONLINE, count=2)
    result(alice.send_message("bob", "back again"))
    result(bob.send_message("alice", "me too"))
    assert (of_bob.contents(1), of_alice.contents(1)) == (["back again"], ["me too"])


def test_what_was_written_without_a_connection(service: Service, join: Join, new_client: NewClient) -> None:
    """It is stored, and arrives when the client is online again, after any number of attempts."""
    of_bob = Recorder()
    result(join("bob", of_bob).own_profile())  # so the original has read the heartbeat that goes before it
    service.proxy.target = 1  # where nothing listens
    service.cut()
    of_bob.wait_for_state(State.RECONNECTING)
    alice = new_client(service.server_port, features=service.features)
    result(alice.login("alice", "pw"))
    result(alice.send_message("bob", "hello"))
    service.proxy.target = service.server_port
    assert of_bob.contents(1) == ["hello"]
    assert alice.state is State.ONLINE


@pytest.mark.parametrize("service", ["original"], indirect=True)
def test_silence_of_the_original(join: Join) -> None:
    """Where it never answers, the request times out, the client reconnects and can be used
    again."""
    names = [f"u{number}" for number in range(11)]
    bob = join("bob")
    for name in names:
        result(bob.register(name, "pw"))
    recorder = Recorder()
    alice = join("alice", recorder, request_timeout=0.4)
    found(alice, *names[:10])
    silent, behind = alice.add_member("team", "u10"), alice.own_profile()
    assert isinstance(error(silent), RequestTimeout)
    assert error(behind).sent is False
    recorder.wait_for_state(State.ONLINE, count=2)
    assert len(result(alice.list_groups())["team"].members) == 11


# --- history --------------------------------------------------------------------------------------


def test_history(service: Service, join: Join) -> None:
    """Pages of a conversation, the oldest message first; a server without a history is reported at
    once."""
    alice, recorder = join("alice"), Recorder()
    bob = join("bob", recorder)
    for number in range(5):
        result(alice.send_message("bob", str(number)))
    recorder.contents(5)
    if service.features != ("ack",):
        refused = error(bob.history("alice"))
        assert (type(refused), refused.code) == (RequestRejected, "unknown_type")
        assert error(bob.group_history("team")).code == "unknown_type"
        return
    newest = result(bob.history("alice", limit=3))
    assert newest.more
    assert [(message.sender, message.receiver, message.content) for message in newest.messages] == [
        ("alice", "bob", str(number)) for number in (2, 3, 4)
    ]
    oldest = result(bob.history("alice", before=newest.messages[0].id))
    assert [message.content for message in oldest.messages] == ["0", "1"]
    assert not oldest.more
    events = [event for event in recorder.events if isinstance(event, MessageEvent)]
    for event, message in zip(events, oldest.messages + newest.messages, strict=True):
        assert (message.id, message.time, message.written_at) == (event.id, event.time, event.written_at)


def test_group_history(service: Service, join: Join) -> None:
    """The same for a group."""
    if service.features != ("ack",):
        return
    alice, bob = join("alice"), join("bob")
    found(alice)
    result(alice.send_group_message("team", "before bob"))
    result(alice.add_member("team", "bob"))
    result(bob.send_group_message("team", "hello"))
    assert [m.content for m in result(alice.group_history("team")).messages] == ["before bob", "hello"]
    assert [(m.sender, m.receiver, m.content) for m in result(bob.group_history("team")).messages] == [
        ("bob", "team", "hello")
    ]
    assert error(bob.group_history("other")).code == "no_such_group"
    assert error(bob.history("nobody")).code == "no_such_user"
