"""Texts in all languages of the chat, and which language a user wants."""

from collections.abc import Mapping
from typing import NamedTuple

LANGUAGES = ("en", "zh")
YES = ("y", "yes", "是", "好")
"""The answers that mean yes, in every language."""


class TranslatedText(NamedTuple):
    """One sentence in all languages. The fields are in the order of LANGUAGES."""

    en: str
    zh: str


def is_yes(answer: str) -> bool:
    """Return whether the answer to a question is yes."""
    return answer.strip().lower() in YES


def language_of(environment: Mapping[str, str]) -> str:
    """Return the language that the environment variables ask for: zh for Chinese, else en."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(variable):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"
