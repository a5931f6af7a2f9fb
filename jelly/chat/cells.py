"""Sanitize text for the terminal, and measure how many cells it takes.

Names and messages come from strangers, so every text goes through `sanitize` or `sanitize_lines`
before it is shown. Control characters could move the cursor, colour the screen or make the terminal
answer. Bidirectional overrides could make one text look like another. Lone surrogates cannot be
encoded.
"""

import unicodedata

try:  # comes with prompt_toolkit: use the same widths as it does
    from wcwidth import wcwidth
except ImportError:
    wcwidth = None  # type: ignore[assignment]


MAX_COMBINING = 4
"""At most this many zero-width characters in a row are kept.

More of them would paint over the rows above, and slow the screen down.
"""

ELLIPSIS = "…"


class _SanitizeTable(dict[int, str]):
    """A table for `str.translate` that computes the visible form of each character when needed."""

    def __missing__(self, code: int) -> str:
        shown = _visible_form(chr(code))
        if code < 0x10000:  # do not let strangers fill the memory with rare characters
            self[code] = shown
        return shown


def _visible_form(char: str) -> str:
    code, category = ord(char), unicodedata.category(char)
    if char == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)  # ␀ ␁ … ␛: the control pictures
    if code == 0x7F:
        return "␡"
    if char in "\u200d\ufe0f" or 0x1F3FB <= code <= 0x1F3FF:
        # Terminals disagree about the width of emoji with joiners or skin tones: show the parts.
        return ""
    if 0x1F1E6 <= code <= 0x1F1FF:
        # Terminals disagree about flags, too. A flag is a pair of letters: show the letters.
        return chr(code - 0x1F1E6 + ord("A"))
    # Cc: C1 control characters. Cf: bidirectional and other invisible ones. Cs: lone surrogates.
    return "�" if category in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\u200c" else char


_SANITIZE_TABLE = _SanitizeTable()


def sanitize(text: str) -> str:
    """Return a text as one line without control characters.

    Each of them gets a visible substitute.
    """
    if text.isascii() and text.isprintable():
        return text
    kept, combining = [], 0
    for char in text.translate(_SANITIZE_TABLE):
        combining = combining + 1 if char_width(char) == 0 else 0
        if combining <= MAX_COMBINING:
            kept.append(char)
    return "".join(kept)


def sanitize_lines(text: str) -> list[str]:
    """Return the lines of a text, each of them sanitized."""
    return [sanitize(row) for row in text.replace("\r\n", "\n").split("\n")]


def char_width(char: str) -> int:
    """Return how many cells a character takes: 0, 1 or 2."""
    if " " <= char <= "~":
        return 1
    if wcwidth:
        return max(0, wcwidth(char))
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """Return how many cells a sanitized text takes."""
    return len(text) if text.isascii() else sum(map(char_width, text))


def truncate(text: str, cells: int) -> str:
    """Shorten a sanitized text to at most `cells` cells, with an ellipsis where text is missing."""
    if text_width(text) <= cells:
        return text
    kept, used = [], 0
    for char in text:
        used += char_width(char)
        if used > cells - 1:
            break
        kept.append(char)
    return ("".join(kept) + ELLIPSIS)[: max(0, cells)]


def align_right(text: str, cells: int) -> str:
    """Shorten or pad a sanitized text to exactly `cells` cells, aligned to the right."""
    shown = truncate(text, cells)
    return " " * (cells - text_width(shown)) + shown


NOT_FIRST = frozenset("，。、；：？！）」』】》〉〕｝”’…—～·％")
"""No row begins with one of these characters."""
NOT_LAST = frozenset("（「『【《〈〔｛“‘")
"""No row ends with one of these."""


def _may_break_at(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place]
    if after in NOT_FIRST or before in NOT_LAST:
        return False
    return before == " " or after == " " or 2 in (char_width(before), char_width(after))


def _better_end(text: str, start: int, end: int) -> int:
    """Return where a row from `start` ends that would end at `end`.

    That is earlier if it would end with what may not be last, or the next one would begin with what
    may not be first.
    """
    if text[end] not in NOT_FIRST and text[end - 1] not in NOT_LAST:
        return end
    return next((place for place in range(end - 1, start, -1) if _may_break_at(text, place)), end)


def wrap(text: str, cells: int) -> list[str]:
    """Split a sanitized text into rows of at most `cells` cells.

    Break at spaces and around wide characters; if there are none, break within a word. Chinese
    punctuation stays with what it belongs to.
    """
    cells = max(2, cells)  # a wide character needs two
    rows, start, used, may_break = [], 0, 0, 0
    for place, char in enumerate(text):
        wide = char_width(char)
        if used + wide > cells:
            end = place if wide == 2 or char == " " or may_break <= start else may_break
            end = _better_end(text, start, end)
            rows.append(text[start:end].rstrip(" "))
            start = end + (text[end] == " ")
            used = text_width(text[start:place]) if start <= place else -1  # a skipped space takes no cell
        used += wide
        if char == " " or wide == 2:
            may_break = place + 1
    rows.append(text[start:])
    return rows
