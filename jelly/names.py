"""Names of users and groups: which are possible, which may be new, and which are too much alike.

Names stay as they were typed, and two names are the same only if all their characters are. But a
*new* name must not pass for another one. So its NFKC form must not be that of an existing name, and
it must not mix scripts (the level "highly restrictive" of Unicode's UTS #39). Names that exist
already stay valid.
"""

import unicodedata
from functools import lru_cache

MAX_NAME = 32
"""At most this many characters are in the name of a user or of a group."""
RESERVED = "admin,administrator,operator,root,system,管理员,系统"
"""The default of `--reserved-names`: names that users would take for the operator's."""


def is_valid_name(name: str) -> bool:
    """Whether a user or a group may have this name.

    A name has 1 to 32 characters in normal form C (NFC), so that two names that are equal in
    Unicode are equal here. It has no spaces, and no control, format (zero-width, direction),
    surrogate or other invisible characters. It does not begin with a combining mark: that would
    combine with the character that a client prints before the name.
    """
    return (
        1 <= len(name) <= MAX_NAME
        and unicodedata.is_normalized("NFC", name)
        and unicodedata.category(name[0])[0] != "M"
        and not any(unicodedata.category(c) in _INVISIBLE or c in _BLANK for c in name)
    )


def problem_of_new_name(name: str) -> str:
    """Why a valid name cannot be given to a new user or group, for a person; empty if it can."""
    if name.isascii():
        return ""
    if any(unicodedata.category(c) in _UNKNOWN for c in name):
        return "it has a character that Unicode, or this server, does not know"
    plain = unicodedata.normalize("NFKC", name)
    if not is_valid_name(plain):
        return "it has characters that stand for several others, or for a space"
    return "it mixes scripts, for example Latin and Cyrillic letters" if _mixes_scripts(plain) else ""


def nfkc(name: str) -> str:
    """Return the form in which names are compared: full-width ｂｏｂ and bob have the same.

    It is cut at 32 characters, because a few characters become many. (New names are not cut.)
    """
    return name if name.isascii() else unicodedata.normalize("NFKC", name)[:MAX_NAME]


def fold(name: str) -> str:
    """Return the form in which a name is compared with reserved ones: case makes no difference."""
    return unicodedata.normalize("NFKC", name).casefold()


def parse_reserved(text: str) -> frozenset[str]:
    """Return the folded names of a list with commas. Raises ValueError for an impossible name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not is_valid_name(name):
            raise ValueError(f"a list of names with commas, such as admin,system; {name!r} cannot be a name")
    return frozenset(map(fold, names))


def _mixes_scripts(name: str) -> bool:
    scripts = {_script(c) for c in name} - {""}
    return len(scripts) > 1 and not any(scripts <= allowed for allowed in _TOGETHER)


@lru_cache(4096)
def _script(character: str) -> str:
    """The script of a character, from its Unicode name; empty if it goes with every script.

    Python does not know the property itself. But the name of a letter, mark or digit begins with
    its script, apart from the words in `_SCRIPTS`.
    """
    category = unicodedata.category(character)
    if character.isascii() and not character.isalpha():
        return ""
    if category[0] not in "LM" and category not in ("Nd", "Nl"):
        return ""  # punctuation and symbols, emoji for example
    first, _, rest = unicodedata.name(character, "TANGUT").partition(" ")  # only these ideographs have no name
    if first in ("OLD", "NEW", "TAI", "LINEAR"):  # half of the name of a script
        return f"{first} {rest.partition(' ')[0]}"
    return _SCRIPTS.get(first, first)


_SCRIPTS = {
    "CJK": "HAN", "IDEOGRAPHIC": "HAN", "VERTICAL": "HAN", "HANGZHOU": "HAN",
    "HIRAGANA": "KANA", "KATAKANA": "KANA", "KATAKANA-HIRAGANA": "KANA", "HENTAIGANA": "KANA",
    "ARABIC-INDIC": "ARABIC", "EXTENDED": "ARABIC", "ROMAN": "LATIN", "TURNED": "LATIN",
    "COMBINING": "", "MODIFIER": "",
}  # fmt: skip
"""The script for a first word that is not its name. (Marks belong to the letter before them.)"""
_TOGETHER = ({"LATIN", "HAN", "KANA"}, {"LATIN", "HAN", "BOPOMOFO"}, {"LATIN", "HAN", "HANGUL"})
"""The scripts that a name may mix: Chinese, Japanese and Korean names do."""

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}
_UNKNOWN = {"Cn", "Co"}  # unassigned, and for private use
# Letters and marks without a shape: fillers, the grapheme joiner, variation selectors, a blank
# Braille pattern.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
