"""Devices: what happens to one of a user while another one comes, writes or goes, all at once."""

from pathlib import Path

from harness import StartServer
from wire import (
    EDIT,
    GROUP_MESSAGE,
    LOGIN,
    OWN_PROFILE,
    PASSWORD,
    SUCCESS,
    Wire,
    found,
    logged_in,
    register,
    wait_until,
)

FEATURES = ["ack", "ids", "edit", "devices"]


def contents(wire: Wire) -> list[str]:
    """What the messages say that came before the answer to a request."""
    wire.ok(OWN_PROFILE)
    notices, wire.notices = wire.notices, []
    return [notice.values["content"] for notice in notices if "content" in notice.values]


def test_what_is_written_in_the_transaction_in_which_another_device_comes(
    start_server: StartServer, tmp_path: Path
) -> None:
    """It is stored behind the login, so the new device gets it."""
    server = start_server(database=f"sqlite:///{tmp_path}/jelly.db")
    register(server.port, "alice", "bob")
    with (
        logged_in(server.port, "bob", features=FEATURES, device="phone") as phone,
        logged_in(server.port, "bob", features=FEATURES) as unnamed,
        Wire(server.port) as desk,
    ):
        wait_until(lambda: not any(connection.lane.busy.locked() for connection in tuple(server.connections)))
        with server.store._turn:  # all of this is in the next one
            desk.send_request(LOGIN, username="bob", password=PASSWORD, features=FEATURES, device="desk")
            wait_until(lambda: len(server.store._jobs) == 1)
            unnamed.send_message("alice", "from nowhere")
            phone.send_message("alice", "after")
            wait_until(lambda: len(server.store._jobs) == 3)
        assert desk.receive_response().status == SUCCESS
        desk.user = "bob"
        for wire in (phone, unnamed):
            assert wire.receive_response().status == SUCCESS
        assert sorted(contents(desk)) == ["after", "from nowhere"]


def test_own_edits_that_wait_for_another_device_count_for_no_quota(start_server: StartServer) -> None:
    """Nobody's message is refused for what a user has edited in a group while a device is away."""
    server = start_server(inbox_messages=30)
    register(server.port, "alice", "bob", "carol")
    logged_in(server.port, "bob", features=FEATURES, device="desk").close()
    with (
        logged_in(server.port, "bob", features=FEATURES, device="phone") as phone,
        logged_in(server.port, "alice", features=FEATURES, device="only") as alice,
        logged_in(server.port, "carol") as carol,
    ):
        found(phone, "alice")
        for number in range(3):
            alice.message("bob", f"m{number}")
        carol.message("bob", "one")  # alice's share is full: from now on it is counted what waits for bob
        for _ in range(30):
            id = phone.ok(GROUP_MESSAGE, receiver="team", content="helo", time=1)["id"]
            phone.ok(EDIT, id=id, content="hello")
        carol.message("bob", "two")
