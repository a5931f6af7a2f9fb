"""Characters as a terminal shows them: how wide they are, and which ones must never reach it.

Names and messages come from strangers. Whatever is shown goes through `clean` or `clean_rows` first: control
characters could move the cursor, colour the screen or make the terminal answer; bidirectional overrides could make
a text read as another; lone surrogates cannot be encoded at all.
"""

import unicodedata

try:  # it comes with prompt_toolkit, which must agree with us about widths
    from wcwidth import wcwidth
except ImportError:
    wcwidth = None  # type: ignore[assignment]


MAX_COMBINING = 4
"""Zero-width characters in a row that are kept: more of them pile up over the rows above, and cost time."""

ELLIPSIS = "…"


class _SanitizeTable(dict[int, str]):
    """A table for `str.translate`: what each character is shown as."""

    def __missing__(self, code: int) -> str:
        shown = _visible_form(chr(code))
        if code < 0x10000:  # a stranger must not fill the memory by using each character once
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
        return ""  # terminals disagree about how wide the emoji are that joiners and skin tones make: show their parts
    if 0x1F1E6 <= code <= 0x1F1FF:
        return chr(code - 0x1F1E6 + ord("A"))  # nor do they agree about flags, which are two letters
    # Cc: C1 control characters. Cf: bidirectional ones and other invisible ones. Cs: lone surrogates.
    return "�" if category in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\u200c" else char


_SANITIZE_TABLE = _SanitizeTable()


def sanitize(text: str) -> str:
    """A text on one line, with nothing in it that a terminal would obey; what is replaced is seen to be."""
    if text.isascii() and text.isprintable():
        return text
    kept, combining = [], 0
    for char in text.translate(_SANITIZE_TABLE):
        combining = combining + 1 if char_width(char) == 0 else 0
        if combining <= MAX_COMBINING:
            kept.append(char)
    return "".join(kept)


def sanitize_lines(text: str) -> list[str]:
    """A text of several lines, each one clean."""
    return [sanitize(row) for row in text.replace("\r\n", "\n").split("\n")]


def char_width(char: str) -> int:
    """The cells that a character takes: 0, 1 or 2."""
    if " " <= char <= "~":
        return 1
    if wcwidth:
        return max(0, wcwidth(char))
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """The cells that a clean text takes."""
    return len(text) if text.isascii() else sum(map(char_width, text))


def truncate(text: str, cells: int) -> str:
    """A clean text in at most so many cells, with an ellipsis where something is missing."""
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
    """A clean text in exactly so many cells, at their right end."""
    shown = truncate(text, cells)
    return " " * (cells - text_width(shown)) + shown


def wrap(text: str, cells: int) -> list[str]:
    """A clean text as rows of at most so many cells: broken at spaces, around wide ones, or where it must."""
    cells = max(2, cells)  # less would not hold a wide character
    rows, start, used, may_break = [], 0, 0, 0
    for place, char in enumerate(text):
        wide = char_width(char)
        if used + wide > cells:
            end = place if wide == 2 or char == " " or may_break <= start else may_break
            rows.append(text[start:end].rstrip(" "))
            start = end + (text[end] == " ")
            used = text_width(text[start:place]) if start <= place else -1  # the space that is skipped takes no cell
        used += wide
        if char == " " or wide == 2:
            may_break = place + 1
    rows.append(text[start:])
    return rows
