"""Copies of databases, for the tests of `jelly backup` and `jelly restore`."""

from pathlib import Path

from wire import logged_in

from faults.process import Server, no_limits
from jelly.backup import back_up


def made_and_copied(directory: Path) -> tuple[str, Path, Path]:
    """The URL and the file of an empty database that no server uses, and a copy of it."""
    path, copy = directory / "jelly.db", directory / "copy.db"
    url = f"sqlite:///{path}"
    with Server(url) as server:
        assert server.stop() == 0
    back_up(url, copy)
    return url, path, copy


def assert_is_restored(url: str, kept: list[str]) -> None:
    """A server on a copy hands over what is in it, and carries new messages after that."""
    with (
        Server(url, *no_limits()) as server,
        logged_in(server.port, "bob", features=["ack"]) as bob,
        logged_in(server.port, "alice") as alice,
    ):
        alice.message("bob", "new")
        notices = []
        for _ in range(len(kept) + 1):
            notices.append(bob.receive_notice().values)
            bob.ack(notices[-1]["id"])  # the server has only so many unacknowledged ones under way
        assert [notice["content"] for notice in notices] == [*kept, "new"]
        ids = [notice["id"] for notice in notices]
        assert ids == sorted(set(ids))
