"""Names of users and groups: which are possible, which may be new, and which are too much alike.

Names stay as they were typed, and two names are the same only if all their characters are. But a
*new* name must not pass for another one. So its NFKC form must not be that of an existing name, it
must not mix scripts (the level "highly restrictive" of Unicode's UTS #39), and marks and digits
must belong to its script. Names that exist already stay valid.
"""

import re
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
    if not _SHAPELESS.isdisjoint(plain):
        return "it has a character that nobody can see"
    if _mixes_scripts(plain):
        return "it mixes scripts, for example Latin and Cyrillic letters"
    if _mixes_digits(plain):
        return "it mixes digits of two kinds, for example Arabic ones and 0 to 9"
    return "it has an accent or another mark that does not belong to its letter" if _has_odd_marks(plain) else ""


def nfkc(name: str) -> str:
    """Return the form in which names are compared: full-width ｂｏｂ and bob have the same.

    It is cut at 32 characters, because a few characters become many. (New names are not cut.)
    """
    return name if name.isascii() else unicodedata.normalize("NFKC", name)[:MAX_NAME]


def fold(name: str) -> str:
    """Return the form in which a name is compared with reserved ones: in lower case, no accents.

    `SYSTÉM`, `ađmin` and `admın` (without the dot) have the forms of `system` and `admin`.
    """
    # Only the accents of U+0300 to U+036F: vowel signs of Indian scripts make different names.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    return "".join(_base_letter(c) for c in plain if not "\u0300" <= c <= "\u036f")


def parse_reserved(text: str) -> frozenset[str]:
    """Return the folded names of a list with commas. Raises ValueError for an impossible name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not is_valid_name(name):
            raise ValueError(f"a list of names with commas, such as admin,system; {name!r} cannot be a name")
    return frozenset(map(fold, names))


def _base_letter(character: str) -> str:
    """The letter a to z that a Latin letter is a variant of, or else the character itself.

    For letters that have no decomposition, such as those with a stroke: their names tell.
    """
    if character.isascii():
        return character
    found = _VARIANT.fullmatch(unicodedata.name(character, ""))
    return found[1].lower() if found else _LOOKS_LIKE.get(character, character)


def _mixes_scripts(name: str) -> bool:
    scripts = {_script(c) for c in name if not _is_mark(c)} - {""}
    return len(scripts) > 1 and not any(scripts <= allowed for allowed in _TOGETHER)


def _mixes_digits(name: str) -> bool:
    """Whether decimal digits of two kinds are in a name: `1٢`."""
    return len({ord(c) - unicodedata.decimal(c) for c in name if unicodedata.category(c) == "Nd"}) > 1


def _has_odd_marks(name: str) -> bool:
    """Whether a mark is not of the script of its letter, or too many are above each other."""
    base, above = "", ""  # a letter, and the nonspacing marks on it so far
    for character in name:
        if not _is_mark(character):
            base, above = character, ""
            continue
        script = _script(base)
        category = unicodedata.category(character)
        is_its_own = script in _WITH_ACCENTS if character in _ACCENTS else script == _script(character) != "LATIN"
        if not script or not is_its_own or category == "Me":  # Me are around their letter
            return True
        if category == "Mn":  # Mc stand beside their letter
            most = MAX_ACCENTS if script in _WITH_ACCENTS else MAX_MARKS
            if character in above or len(above) == most:
                return True
            above += character
    return False


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


@lru_cache(4096)
def _script(character: str) -> str:
    """The script of a character, from its Unicode name; empty if it goes with every script.

    Python does not know the property itself. But the name of a letter, mark or digit begins with
    its script, apart from the words in `_SCRIPTS`.
    """
    category = unicodedata.category(character)
    if character.isascii() and not character.isalpha():
        return ""
    first, _, rest = unicodedata.name(character, "TANGUT").partition(" ")  # only these ideographs have no name
    if category[0] not in "LM" and category not in ("Nd", "Nl") and first != "VEDIC":
        return ""  # punctuation and symbols, emoji for example
    if first == "COMBINING":  # COMBINING CYRILLIC TITLO; the others have no script that a letter has
        first, _, rest = rest.partition(" ")
    if first in ("OLD", "NEW", "TAI", "LINEAR"):  # half of the name of a script
        return f"{first} {rest.partition(' ')[0]}"
    return _SCRIPTS.get(first, first)


_SCRIPTS = {
    "CJK": "HAN", "IDEOGRAPHIC": "HAN", "VERTICAL": "HAN", "HANGZHOU": "HAN",
    "HIRAGANA": "KANA", "KATAKANA": "KANA", "KATAKANA-HIRAGANA": "KANA", "HENTAIGANA": "KANA",
    "ARABIC-INDIC": "ARABIC", "EXTENDED": "ARABIC", "ROMAN": "LATIN", "TURNED": "LATIN",
    "MODIFIER": "",
}  # fmt: skip
"""The script for a first word that is not its name."""
_TOGETHER = ({"LATIN", "HAN", "KANA"}, {"LATIN", "HAN", "BOPOMOFO"}, {"LATIN", "HAN", "HANGUL"})
"""The scripts that a name may mix: Chinese, Japanese and Korean names do."""

MAX_MARKS = 4
"""At most this many nonspacing marks are on one letter of a new name (UTS #39)."""
MAX_ACCENTS = 2
"""At most this many are on a Latin, Greek or Cyrillic letter. (`é` is a letter without marks.)"""
_WITH_ACCENTS = {"LATIN", "GREEK", "CYRILLIC"}
"""The scripts whose letters have the accents in `_ACCENTS`."""
_ACCENTS = frozenset(
    "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u0309\u030a\u030b\u030c\u030d\u030f\u0310\u0311\u0313\u0314"
    "\u031b\u0323\u0324\u0325\u0326\u0327\u0328\u0329\u032d\u032e\u0330\u0331\u0358"
)
"""The accents of today's spellings: UTS #39 recommends these, apart from lines through a letter."""

_VARIANT = re.compile(
    "LATIN (?:(?:SMALL|CAPITAL) LETTER (?:DOTLESS |SCRIPT |INSULAR )?|LETTER SMALL CAPITAL )([A-Z])(?: WITH .*)?"
)
_LOOKS_LIKE = {"ɑ": "a", "ɩ": "i"}
"""Latin letters that look like another one, and whose names do not say so."""

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}
_UNKNOWN = {"Cn", "Co"}  # unassigned, and for private use
# Letters and marks without a shape: fillers, the grapheme joiner, variation selectors, a blank
# Braille pattern.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
# In new names only, because there may be users with them. An empty note, the characters in place of
# an object and of an unknown one, joiners, selectors and blanks of rare scripts.
_SHAPELESS = frozenset("\ufffc\ufffd\u2d7f\U0001107f\U00013440\U00013441\U00013442\U00016fe4\U0001bc9d\U0001d159")
