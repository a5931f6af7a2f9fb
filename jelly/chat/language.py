"""Texts in all languages of the chat, and which language a user wants."""

from collections.abc import Mapping
from typing import NamedTuple

LANGUAGES = ("en", "zh")


class TranslatedText(NamedTuple):
    """One sentence in all languages. The fields are in the order of LANGUAGES."""

    en: str
    zh: str


def language_of(environment: Mapping[str, str]) -> str:
    """Return the language that the environment variables ask for: zh for Chinese, else en."""
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(variable):
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"
