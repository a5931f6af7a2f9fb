"""The file with the user's settings: chat.toml."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from jelly.chat import start_texts
from jelly.chat.language import LANGUAGES
from jelly.chat.login import ExitCode, FatalError
from jelly.chat.translator import Translator


@dataclass(frozen=True)
class Settings:
    """What may be in the file, and what holds without it."""

    server: str = ""
    """As --server. Empty: the default."""
    name: str = ""
    """The user. Empty: the chat asks."""
    device: str = ""
    """As --device. Empty: the name of the machine."""
    language: str = ""
    """en or zh. Empty: that of LANG."""
    colours: bool = True
    sidebar: bool = True
    """Whether a wide window has the list of conversations and members."""
    mouse: bool = True
    """Whether the wheel scrolls. Otherwise the terminal has the mouse, for selecting."""
    bell: bool = True
    """Whether the terminal rings for a message to the user, or one with the user's name."""
    title: bool = True
    """Whether the title of the terminal has the number of unread messages."""
    highlight: bool = True
    """Whether messages to groups with the user's name stand out, and are counted apart."""
    notify: str = ""
    """As --notify."""
    notify_content: bool = False
    """As --notify-content."""
    keys: dict[str, str] = field(default_factory=dict)
    """More keys for what keys do: the name of an action, and a key."""


def path_of_settings(environment: Mapping[str, str]) -> Path:
    """Return where the file is, if there is one."""
    home = Path(environment.get("XDG_CONFIG_HOME", ""))
    if not home.is_absolute():  # the rule for it
        home = Path.home() / ".config"
    return home / "jelly" / "chat.toml"


def load_settings(environment: Mapping[str, str], translate: Translator) -> Settings:
    """Return what the file says. Raises FatalError, which says what is wrong in it."""
    path = path_of_settings(environment)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        return _settings_of(found, translate)
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FatalError(ExitCode.USAGE, translate(start_texts.BAD_SETTINGS, file=path, reason=reason)) from error


def _settings_of(found: Mapping[str, Any], translate: Translator) -> Settings:
    """Raises ValueError."""
    kinds = get_type_hints(Settings)
    names = [each.name for each in fields(Settings)]
    for name, value in found.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            text = start_texts.DID_YOU_MEAN_SETTING if close else start_texts.NO_SUCH_SETTING
            raise ValueError(translate(text, name=name, close="".join(close)))
        kind = dict if name == "keys" else kinds[name]
        if type(value) is not kind or (kind is dict and not all(isinstance(key, str) for key in value.values())):
            raise ValueError(translate(start_texts.KIND_OF_SETTING[kind], name=name))
    if found.get("language", "") not in ("", *LANGUAGES):
        raise ValueError(
            translate(start_texts.FLAG_CHOICES, flag="language", values=translate.join_names([*LANGUAGES]))
        )
    return Settings(**found)
