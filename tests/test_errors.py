"""What the log says of exceptions that nobody expected."""

import io
import logging

import pytest

from jelly.errors import log_failure


def logged(error: Exception, level: int) -> str:
    """What a logger of this level writes of it. It is not one of the server's, in whose log a bug
    fails a test.
    """
    written = io.StringIO()
    log = logging.Logger("of this test", level)  # noqa: LOG001 - pytest listens to all that getLogger gives
    log.addHandler(logging.StreamHandler(written))
    try:
        raise error
    except LookupError as raised:
        log_failure(log, raised)
    return written.getvalue()


def test_a_failure_is_one_line() -> None:
    """It says what happened, and in which line of which file."""
    [line] = logged(LookupError("no such thing"), logging.INFO).splitlines()
    assert line.startswith("LookupError: no such thing (test_errors.py:")


def test_a_failure_for_those_who_debug() -> None:
    """They get the traceback, too."""
    text = logged(LookupError("no such thing"), logging.DEBUG)
    assert text.startswith("LookupError: no such thing (test_errors.py:")
    assert "Traceback (most recent call last)" in text


def test_a_failure_that_was_never_raised(caplog: pytest.LogCaptureFixture) -> None:
    """There is no place to name."""
    log_failure(logging.getLogger("of this test"), LookupError("nowhere"))
    assert caplog.messages == ["LookupError: nowhere"]
