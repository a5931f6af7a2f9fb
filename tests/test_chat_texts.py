"""The sentences: each exists in both languages, with the same placeholders and commands."""

import re
import string

import pytest

from faults.process import ROOT
from jelly.chat import error_texts, help_texts, start_texts, texts
from jelly.chat.commands import COMMANDS
from jelly.chat.help_texts import Help
from jelly.chat.language import TranslatedText, language_of
from jelly.chat.translator import Translator
from jelly.client.certificates import CertificateProblem
from jelly.errors import ConnectionLost, ErrorCode, RequestRejected, RequestTimeout, ServerBusy, ServerFailed

MODULES = [texts, error_texts, help_texts, start_texts]
TABLES: list[object] = [*map(vars, MODULES), error_texts.ERRORS, texts.FIELDS, start_texts.CERTIFICATE_PROBLEMS]
SENTENCES = {
    f"{name}": value
    for table in TABLES
    if isinstance(table, dict)
    for name, value in table.items()
    if isinstance(value, TranslatedText)
}
SENTENCES |= {f"given-{role}": text for role, text in texts.ROLES_GIVEN.items()}
SENTENCES |= {f"changed-{role}": text for role, text in texts.ROLE_CHANGES.items()}
SENTENCES |= {
    f"{name}-{part}": text
    for name, help in help_texts.HELP.items()
    for part, text in zip(Help._fields, help, strict=True)
}


def fields(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_both_languages(name: str) -> None:
    """A sentence has the same placeholders, commands and keys in both languages."""
    english, chinese = SENTENCES[name]
    assert bool(english) == bool(chinese)
    assert fields(english) == fields(chinese)
    assert set(re.findall(r"(?<!\w)/[a-z]+", english)) - {"/text"} == set(re.findall(r"(?<!\w)/[a-z]+", chinese))
    assert set(re.findall(r"Alt-\w+", english)) == set(re.findall(r"Alt-\w+", chinese))


def test_every_error_code_has_a_text() -> None:
    """Each error code has a text."""
    assert set(error_texts.ERRORS) == set(ErrorCode)


def test_every_problem_of_a_certificate_has_a_text() -> None:
    """Each reason to refuse a certificate has a text."""
    assert set(start_texts.CERTIFICATE_PROBLEMS) == set(CertificateProblem)


def test_every_command_has_help() -> None:
    """Each command has a help text, and each help text a command."""
    assert list(help_texts.HELP) == list(COMMANDS)


def test_every_text_is_used() -> None:
    """No text is unused."""
    source = "".join(path.read_text() for path in (ROOT / "jelly" / "chat").glob("*.py"))
    names = [name for module in MODULES for name in vars(module)]
    unsaid = [name for name in names if name.isupper() and len(re.findall(rf"\b{name}\b", source)) < 2]
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
    """LC_ALL takes precedence over LC_MESSAGES, and that over LANG."""
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
def test_descriptions_of_errors(error: Exception, said: str) -> None:
    """Errors have texts, also those of the original server (without codes) and of later ones."""
    assert Translator("en").describe_error(error) == said


def test_a_brace_in_a_value() -> None:
    """Braces in a value are not treated as a placeholder."""
    assert Translator("en")(texts.CAME_ONLINE, name="{x}") == "{x} is online"


def test_one_word_for_each_outcome() -> None:
    """A message is "not delivered" or "perhaps delivered": below it, after a reconnect, at the end,
    for --send, and in the help. What may be done about it stands there, too.
    """
    said = {name: english for name, (english, _) in SENTENCES.items()}
    wrong = re.compile("not confirmed|not sent|may not have been sent|undelivered", re.IGNORECASE)
    assert [name for name, text in said.items() if wrong.search(text)] == []
    for words, more in (("not delivered", "REFUSED_MESSAGE"), ("perhaps delivered", "ABOUT_EXIT")):
        names = {name for name, text in said.items() if words in text.lower()}
        assert len(names - {more}) == 7, names
    advised = (
        "NOT_DELIVERED",
        "PERHAPS_DELIVERED",
        "SOME_NOT_DELIVERED",
        "SOME_PERHAPS_DELIVERED",
        "KEPT",
        "KEPT_PERHAPS",
    )
    assert [name for name in advised if "/resend" not in said[name]] == []
    assert "arrive twice" in said["PERHAPS_DELIVERED"]
