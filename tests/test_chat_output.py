"""What the plain chat cannot show, it does not acknowledge: a closed pipe, a full disk."""

import os
import re
import subprocess
from pathlib import Path
from typing import IO

import pytest
from wire import logged_in, register

from faults.process import PATIENCE, ROOT, bare_python, clean_environment

CANNOT_WRITE = "jelly: Cannot write the output: {}. Messages that were not written wait for the next chat.\n"
BROKEN, FULL = CANNOT_WRITE.format("Broken pipe"), CANNOT_WRITE.format("No space left on device")
Chat = subprocess.Popen[str]


def start(port: int, output: int | IO[str], *arguments: str) -> Chat:
    """Start `jelly chat alice`, with pipes as input and as errors."""
    command = [*bare_python(), str(ROOT / "jelly.py"), "chat", "alice", f"--server=jelly://127.0.0.1:{port}"]
    return subprocess.Popen(
        [*command, *(arguments or ["--plain"])], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE,
        env={**clean_environment(), "JELLY_PASSWORD": "pw", "LANG": "C.UTF-8", "LC_ALL": "", "TERM": "dumb"},
        text=True, start_new_session=True,
    )  # fmt: skip


def end_of(chat: Chat) -> tuple[int, str]:
    """Wait for the end, with the input still open; return the exit code and what was said."""
    try:
        code = chat.wait(PATIENCE)
        assert chat.stderr
        return code, chat.stderr.read()
    finally:
        chat.kill()
        for stream in (chat.stdin, chat.stdout, chat.stderr):
            if stream:
                stream.close()


def contents_seen(port: int, count: int) -> list[str]:
    """Run the chat again until it has shown some messages; return their texts."""
    chat, found = start(port, subprocess.PIPE), list[str]()
    assert chat.stdout
    assert chat.stdin
    while len(found) < count:
        line = chat.stdout.readline()
        if " bob: " in line:
            found.append(line.rpartition(": ")[2].strip())
    chat.stdin.write("/quit\n")
    chat.stdin.flush()
    rest = chat.stdout.read()
    assert " bob: " not in rest
    assert end_of(chat)[0] == 0
    return found


@pytest.fixture
def waiting(port: int) -> list[str]:
    """What waits for alice."""
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        for number in range(40):
            bob.message("alice", f"no. {number}")
    return [f"no. {number}" for number in range(40)]


def test_a_full_disk(port: int, waiting: list[str]) -> None:
    """The chat ends, and everything comes the next time."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        assert end_of(start(port, full)) == (6, FULL)
    assert contents_seen(port, 40) == waiting


def test_a_pipe_that_nobody_reads(port: int, waiting: list[str]) -> None:
    """The same."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        assert end_of(start(port, output)) == (6, BROKEN)
    assert contents_seen(port, 40) == waiting


def test_the_reader_leaves(port: int) -> None:
    """What comes when the reader has left is not lost, and the wait for input ends."""
    register(port, "alice", "bob")
    chat = start(port, subprocess.PIPE)
    assert chat.stdout
    while "friend list is empty" not in chat.stdout.readline():
        pass
    with logged_in(port, "bob") as bob:
        bob.message("alice", "seen")
        while "bob: seen" not in chat.stdout.readline():
            pass
        chat.stdout.close()
        bob.message("alice", "not seen")
    chat.stdout = None
    assert end_of(chat) == (6, BROKEN)
    assert contents_seen(port, 1) == ["not seen"]


@pytest.mark.usefixtures("waiting")
def test_head(port: int) -> None:
    """A chat that waits for an answer to show ends, too."""
    command = [*bare_python(), str(ROOT / "jelly.py"), "chat", "alice", "--plain", f"--server=jelly://127.0.0.1:{port}"]
    done = subprocess.run(
        ["bash", "-c", 'echo /friends | "$0" "$@" | head -1; echo ${PIPESTATUS[1]}', *command],
        capture_output=True, text=True, timeout=PATIENCE, start_new_session=True,
        env={**clean_environment(), "JELLY_PASSWORD": "pw", "LANG": "C.UTF-8", "LC_ALL": "", "TERM": "dumb"},
    )  # fmt: skip
    assert re.fullmatch(r"-- Welcome, alice\..*\n6\n", done.stdout)
    assert done.stderr == BROKEN


@pytest.mark.parametrize("arguments", [["--help"], ["--lang=zh", "--help"]])
def test_help_on_a_full_disk(arguments: list[str]) -> None:
    """There is a sentence for it, too."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        code, said = end_of(start(1, full, *arguments))
    assert code == 6
    assert said.count("\n") == 1
    assert "No space left on device" in said
