"""The client library: editing and recalling messages, and hearing of it."""

import pytest
from client_tools import NewClient, Recorder, ScriptedServer, error, message, response, result
from harness import StartServer
from wire import EDIT, PERSON_MESSAGE, register

from client_api import Edited, EditEvent, JellyClient, MessageEvent

EDITS = ("ack", "ids", "edit")


@pytest.fixture
def script_client(script: ScriptedServer, new_client: NewClient, recorder: Recorder) -> JellyClient:
    return new_client(script.port, recorder)


@pytest.fixture
def alice_and_bob(
    start_server: StartServer, new_client: NewClient, recorder: Recorder
) -> tuple[JellyClient, JellyClient]:
    """Two clients on Jelly that ask for everything. Bob's events are recorded."""
    port = start_server().port
    register(port, "alice", "bob")
    clients = new_client(port), new_client(port, recorder)
    for client, name in zip(clients, ("alice", "bob"), strict=True):
        result(client.login(name, "pw"))
    return clients


def test_edit_and_recall(alice_and_bob: tuple[JellyClient, JellyClient], recorder: Recorder) -> None:
    """The receiver hears of both, each once, after the message; the history has the last text."""
    alice, bob = alice_and_bob
    sent = result(alice.send_message("bob", "helo"))
    assert sent.id is not None
    edited = result(alice.edit(sent.id, "hello"))
    assert isinstance(edited, Edited)
    assert edited.original == sent.id
    assert edited.id is not None
    recalled = result(alice.recall(edited.id))
    first, second, third = recorder.wait_for(lambda event: isinstance(event, MessageEvent | EditEvent), 3)
    assert (first.content, first.id) == ("helo", sent.id)
    assert second == EditEvent(bob, "alice", "hello", sent.id, None, first.time, edited.id, edited.stored)
    assert third == EditEvent(bob, "alice", "", sent.id, None, first.time, recalled.id, recalled.stored)
    assert (second.is_recalled, third.is_recalled) == (False, True)
    [past] = result(bob.history("alice")).messages
    assert (past.content, past.id, past.edited) == ("", sent.id, recalled.id)
    assert error(alice.edit(sent.id, "again")).code == "no_such_message"
    assert error(bob.recall(sent.id)).code == "no_such_message"


def test_in_a_group(alice_and_bob: tuple[JellyClient, JellyClient], recorder: Recorder) -> None:
    """The event says in which one."""
    alice, _ = alice_and_bob
    result(alice.create_group("team"))
    result(alice.add_member("team", "bob"))
    sent = result(alice.send_group_message("team", "helo"))
    assert sent.id is not None
    result(alice.edit(sent.id, "hello"))
    [event] = recorder.wait_for(lambda event: isinstance(event, EditEvent))
    assert (event.group, event.sender, event.content, event.replaces) == ("team", "alice", "hello", sent.id)


def test_a_server_without_edits(script: ScriptedServer, script_client: JellyClient) -> None:
    """Nothing is sent."""
    peer = script.log_in(script_client, features=("ack",))
    assert error(script_client.edit(5, "x")).code == "unknown_type"
    sent = script_client.send_message("bob", "next")
    assert peer.receive().type == PERSON_MESSAGE
    peer.answer(PERSON_MESSAGE)
    result(sent)


def test_an_edit_without_an_answer_is_sent_again(script: ScriptedServer, script_client: JellyClient) -> None:
    """With the same requestId, as a message, in its place among them."""
    peer = script.log_in(script_client, features=EDITS)
    edited = script_client.edit(5, "x")
    sent = script_client.send_message("bob", "y")
    first = peer.receive()
    assert first.type == EDIT
    assert first.values == {"username": "alice", "id": 5, "content": "x", "requestId": first.values["requestId"]}
    peer.close()
    peer = script.accept_login(features=EDITS)
    assert peer.receive() == first
    assert peer.receive().type == PERSON_MESSAGE
    peer.send(response(EDIT, id=9, stored=3) + response(PERSON_MESSAGE, id=10, stored=3))
    assert result(edited) == Edited(5, 9, 3)
    assert result(sent).id == 10


def test_an_edit_is_acknowledged(script: ScriptedServer, script_client: JellyClient, recorder: Recorder) -> None:
    """As any message, and one that comes again is dropped."""
    peer = script.log_in(script_client, features=EDITS)
    peer.send(message("a", id=5) + message("b", id=6, replaces=5) + message("b", id=6, replaces=5))
    peer.send(message("c", id=7))
    recorder.wait_for(lambda event: getattr(event, "content", "") == "c")
    edits = [event for event in recorder.events if isinstance(event, EditEvent)]
    assert [(event.content, event.replaces, event.id, event.stored) for event in edits] == [("b", 5, 6, None)]
    while peer.receive().values["id"] != 7:
        pass


@pytest.mark.parametrize("wrong", [{"replaces": "5"}, {"content": None, "replaces": 5}, {"time": "1", "replaces": 5}])
def test_a_notice_that_cannot_be_read(
    script: ScriptedServer, script_client: JellyClient, recorder: Recorder, wrong: dict[str, object]
) -> None:
    """It is passed over, as any other."""
    peer = script.log_in(script_client, features=EDITS)
    peer.send(message(**{"content": "a", "id": 5, **wrong}) + message("b", id=6))  # type: ignore[arg-type]
    assert recorder.contents(1) == ["b"]
