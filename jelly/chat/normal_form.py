"""Names and passwords in one form (NFC), whichever way a keyboard writes them.

An é may be one character, or an e with an accent behind it; the same holds for the syllables of
Korean. Both look the same, and the server compares bytes.
"""

import unicodedata


def nfc(text: str) -> str:
    """Return a text in the form that most keyboards write."""
    return unicodedata.normalize("NFC", text)


def forms_of(password: str) -> list[str]:
    """Return how a password may have been set: in the normal form, or else as it was typed."""
    return list(dict.fromkeys([nfc(password), password]))
