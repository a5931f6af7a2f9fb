"""The path of one message through the code, as `python -m bench.path` prints it."""

import subprocess
import sys

from bench.path import file_changes, message_path
from faults.process import ROOT

MAX_CALLS = 72
MAX_FILE_CHANGES = 42


def test_the_path_is_short() -> None:
    """Between warm modern clients a reader has to follow few calls, and to open few files."""
    calls = message_path()
    assert calls[0].function == "Connection._read"
    assert calls[-1].function == "SendQueue.send"
    assert [call.note for call in calls if call.note] == ["notice to Bob", "response to Alice"]
    assert len(calls) <= MAX_CALLS
    assert file_changes(calls) <= MAX_FILE_CHANGES


def test_the_command() -> None:
    """It prints the path by thread and file, whose frame is sent, and both counts. It says first
    what they are for.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.path"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "codec.py             Decoder.feed" in done.stdout
    assert "a reader who follows it" in " ".join(done.stdout.partition("\n\n")[0].split())
    assert "SendQueue.send (notice to Bob)" in done.stdout
    assert "SendQueue.send (response to Alice)" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("changes of file")
