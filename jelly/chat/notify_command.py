"""The command of --notify: it is run when a message calls the user."""

import os
import shlex
import subprocess

from jelly.chat.cells import sanitize
from jelly.chat.model import Line, Peer


class NotifyCommand:
    """Runs a command, without a shell, with what has come in environment variables.

    While it runs, further messages do not start it again.
    """

    def __init__(self, command: str, has_content: bool) -> None:
        """`has_content`: whether the command gets the text of the message. Raises ValueError."""
        self._words = shlex.split(command)
        if not self._words:
            raise ValueError("the command is empty")
        self._has_content = has_content
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, peer: Peer, line: Line, count: int) -> None:
        """Start the command, unless it runs. `count`: how many messages are unread.

        Raises OSError.
        """
        if self._process and self._process.poll() is None:
            return
        values = {
            "JELLY_FROM": sanitize(line.sender),
            "JELLY_CONVERSATION": sanitize(str(peer)),
            "JELLY_COUNT": str(count),
        }
        if self._has_content:
            values["JELLY_TEXT"] = sanitize(line.text)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JELLY_")}
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment, **values},
            start_new_session=True,
        )
