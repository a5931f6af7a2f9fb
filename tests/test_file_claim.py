"""The claim on a SQLite file, and a file that is moved, replaced or deleted under a running
server.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import StartServer, kept_for
from wire import PERSON_MESSAGE, SERVER_ERROR, SUCCESS, Wire, logged_in, register, wait_until

from faults.process import Server
from jelly import file_claim, server
from jelly.errors import StoreError
from jelly.file_claim import FileClaim


def move(path: Path) -> None:
    """With the log beside it, as somebody does who tidies up."""
    (path.parent / "moved").mkdir()
    for file in path.parent.glob("j.db*"):
        file.rename(path.parent / "moved" / file.name)


def move_alone(path: Path) -> None:
    """Without the log beside it."""
    (path.parent / "moved").mkdir()
    path.rename(path.parent / "moved" / path.name)


def replace(path: Path) -> None:
    """By another database, as somebody does who restores a backup."""
    backup = path.parent / "backup.db"
    with Server(f"sqlite:///{backup}") as other:
        register(other.port, "carol")
        assert other.stop() == 0
    move_alone(path)
    backup.rename(path)


def delete(path: Path) -> None:
    path.unlink()


def is_accepted(alice: Wire, contents: list[str]) -> bool:
    """Have alice send one more message to bob, and note what it says if it was answered with
    SUCCESS.
    """
    content = str(len(contents))
    reply = alice.call(PERSON_MESSAGE, receiver="bob", content=content, time=1)
    assert reply.status in (SUCCESS, SERVER_ERROR)
    if reply.status == SUCCESS:
        contents.append(content)
    return reply.status == SUCCESS


@pytest.mark.parametrize("fault", [move, move_alone, replace, delete])
def test_a_file_that_goes_under_the_running_server(fault: Callable[[Path], None], tmp_path: Path) -> None:
    """Soon nothing is promised any more, and the server says why and ends with 1. What it had
    promised is in the file, wherever that is now, and a file in the old place is not touched.
    """
    path, moved = tmp_path / "j.db", tmp_path / "moved" / "j.db"
    with Server(f"sqlite:///{path}") as running:
        register(running.port, "alice", "bob")
        with logged_in(running.port, "alice") as alice:
            contents = [str(number) for number in range(50)]
            for content in contents:
                alice.message("bob", content)
            fault(path)
            wait_until(lambda: not is_accepted(alice, contents))
            assert not is_accepted(alice, contents)
        assert running.process.wait(15) == 1
        lines = running.log.decode().splitlines()
    said = next(line for line in lines if "the database failed: " in line)
    assert said.endswith(("its file was moved or deleted", "another file is in the place of its file"))
    assert [line for line in lines if "stopping: " in line and f"sqlite:///{path} is lost: " in line]
    if moved.exists():
        with Server(f"sqlite:///{moved}", "--classic-gap=0") as found, logged_in(found.port, "bob") as bob:
            assert bob.contents(len(contents)) == contents
    if fault is replace:
        with Server(f"sqlite:///{path}") as other:
            logged_in(other.port, "carol").close()
    else:
        assert not path.exists()


def test_a_file_that_comes_back(start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then requests fail, also those on new connections to the database; then all is well,
    and nothing is missing.
    """
    monkeypatch.setattr(server, "FILE_LOST_TIMEOUT", 60.0)
    monkeypatch.setattr(server, "FILE_CHECK_INTERVAL", 0.01)
    path, moved = tmp_path / "jelly.db", tmp_path / "moved.db"
    port = start_server(workers=1).port
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice:
        for round in range(2):
            alice.message("bob", f"before {round}")
            path.rename(moved)
            wait_until(lambda: alice.call(PERSON_MESSAGE, receiver="bob", content="x", time=1).status == SERVER_ERROR)
            assert not path.exists()
            moved.rename(path)
            wait_until(lambda: alice.call(PERSON_MESSAGE, receiver="bob", content="after", time=1).status == SUCCESS)
    kept = [content for content in kept_for("bob", path) if content != "x"]
    assert kept == ["before 0", "after", "before 1", "after"]


def test_a_new_connection_does_not_make_the_file_anew(start_server: StartServer, tmp_path: Path) -> None:
    """Not even in the second before the server notices that the file has gone."""
    started = start_server()
    port = started.port
    register(port, "alice")
    with logged_in(port, "alice") as alice:
        (tmp_path / "jelly.db").rename(tmp_path / "moved.db")
        with started.store._turn:  # no connection may be closed while a thread uses it
            for connection in started._database_connections:
                connection.close()
        assert alice.call(PERSON_MESSAGE, receiver="alice", content="x", time=1).status == SERVER_ERROR
        assert not (tmp_path / "jelly.db").exists()
        (tmp_path / "moved.db").rename(tmp_path / "jelly.db")


def test_what_is_wrong_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said while the file is claimed. An error that does not say that it is gone says
    nothing.
    """
    path = tmp_path / "j.db"
    claim = FileClaim(path)
    assert claim.problem() == ""
    claim.take()
    claim.take()
    assert claim.problem() == ""
    path.rename(tmp_path / "moved.db")
    assert claim.problem() == "its file was moved or deleted"
    path.touch()
    assert claim.problem() == "another file is in the place of its file"
    with monkeypatch.context() as patch:

        def fail(_: object) -> None:
            raise PermissionError(13, "no")

        patch.setattr(os, "stat", fail)
        assert claim.problem() == ""
    claim.release()
    assert claim.problem() == ""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_mount_that_still_leads_to_a_deleted_file(tmp_path: Path) -> None:
    """The path exists and is the claimed file, but no directory has it any more. (A link into /proc
    leads to the file as a bind mount does.)
    """
    path, mount = tmp_path / "j.db", tmp_path / "mount.db"
    with path.open("wb") as file:
        mount.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        claim = FileClaim(mount)
        claim.take()
        assert claim.problem() == ""
        path.unlink()
        assert claim.problem() == "its file was deleted"
        claim.release()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """The reason is said, nothing stays locked, and it may be tried again."""
    path = tmp_path / "missing" / "j.db"
    claim = FileClaim(path)
    for _ in range(2):
        with pytest.raises(StoreError, match="the file cannot be opened: No such file or directory"):
            claim.take()
    path.parent.mkdir()
    claim.take()
    assert file_claim._claimed
    claim.release()
    assert not file_claim._claimed
