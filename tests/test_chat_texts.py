"""The sentences: both languages have all of them, and say the same."""

import re
import string

import pytest

from faults.process import ROOT
from jelly.chat import texts
from jelly.chat.commands import COMMANDS
from jelly.chat.texts import Help, Text, Translator, language_of
from jelly.errors import ConnectionLost, ErrorCode, RequestRejected, RequestTimeout, ServerBusy, ServerFailed

TABLES: list[object] = [vars(texts), texts.ERRORS, texts.FIELDS]
SENTENCES = {
    f"{name}": value
    for table in TABLES
    if isinstance(table, dict)
    for name, value in table.items()
    if isinstance(value, Text)
}
SENTENCES |= {
    f"{name}-{part}": text for name, help in texts.HELP.items() for part, text in zip(Help._fields, help, strict=True)
}


def fields(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_both_languages(name: str) -> None:
    """A sentence is there in both or in none, with the same names and the same commands in it."""
    english, chinese = SENTENCES[name]
    assert bool(english) == bool(chinese)
    assert fields(english) == fields(chinese)
    assert set(re.findall(r"(?<!\w)/[a-z]+", english)) - {"/text"} == set(re.findall(r"(?<!\w)/[a-z]+", chinese))
    assert set(re.findall(r"Alt-\w+", english)) == set(re.findall(r"Alt-\w+", chinese))


def test_every_error_code_has_words() -> None:
    """Each of them, in both languages."""
    assert set(texts.ERRORS) == set(ErrorCode)


def test_every_command_has_help() -> None:
    """And there is no help for a command that is not there."""
    assert list(texts.HELP) == list(COMMANDS)


def test_every_sentence_is_said() -> None:
    """None is left over from earlier."""
    source = "".join(path.read_text() for path in (ROOT / "jelly" / "chat").glob("*.py"))
    unsaid = [name for name in vars(texts) if name.isupper() and len(re.findall(rf"\b{name}\b", source)) < 2]
    assert unsaid == []


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LC_ALL": "", "LANG": "zh_TW"}, "zh"),
    ],
)
def test_language_of_the_environment(environment: dict[str, str], language: str) -> None:
    """As every program: LC_ALL before LC_MESSAGES before LANG."""
    assert language_of(environment) == language


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RequestRejected("no_such_user"), "no such user"),
        (RequestRejected(), "the server refused this without a reason"),
        (RequestRejected("of_a_later_server", "Not on Sundays."), "Not on Sundays."),
        (ServerBusy(), "the server is busy and did nothing; try again in a moment"),
        (ServerFailed(), "the server had an internal error"),
        (RequestTimeout(), "the server did not answer in time"),
        (ConnectionLost("", sent=False), "not connected"),
        (ConnectionLost("", sent=True), "the connection was lost"),
    ],
)
def test_each_failure_in_words(error: Exception, said: str) -> None:
    """Also those of the original server, which gives no reasons, and of later ones."""
    assert Translator("en").describe_error(error) == said


def test_a_brace_in_a_name() -> None:
    """What strangers fill in is not taken for a place to fill."""
    assert Translator("en")(texts.CAME_ONLINE, name="{x}") == "{x} is online"
