"""Which names are allowed."""

import json
import unicodedata

import pytest
from bodies import to_json
from hypothesis import given
from hypothesis import strategies as st

from jelly import requests
from jelly.codec import Type
from jelly.names import MAX_NAME, is_valid_name
from jelly.requests import parse_request

FULL_WIDTH_BOB = "\uff42\uff4f\uff42"
VALID_NAMES = {
    "bob": "bob",
    "capital": "Bob",
    "umlaut": "böb",
    "chinese": "中文",
    "full-width": FULL_WIDTH_BOB,
    "emoji": "😀",
    "one-character": "b",
    "32-characters": "b" * 32,
    "32-emoji": "😀" * 32,
    "digits": "42",
    "punctuation": "o'neil-\"%_;\\<&>",
    "arabic": "سلام",
    "mark-behind-its-letter": "कि",
}
INVALID_NAMES = {
    "empty": "",
    "33-characters": "b" * 33,
    "space-behind": "bob ",
    "space-in-front": " bob",
    "space-inside": "bo b",
    "only-a-space": " ",
    "no-break-space": "bob\u00a0",
    "ideographic-space": "bob\u3000",
    "line-separator": "bob\u2028",
    "zero-width-space": "bob\u200b",
    "zero-width-joiner": "bo\u200db",
    "byte-order-mark": "\ufeffbob",
    "soft-hyphen": "bo\u00adb",
    "right-to-left-override": "\u202ebob",
    "nul": "bob\0",
    "newline": "bob\n",
    "tab": "bob\t",
    "delete": "bob\x7f",
    "c1-control": "bob\x85",
    "decomposed": "bo\u0308b",
    "leading-combining-mark": "\u0308bob",
    "leading-mark-that-composes-with-nothing": "\u20ddbob",
    "only-combining-marks": "\u0336\u0336",
    "lone-surrogate": "bob\ud800",
}


@pytest.mark.parametrize("name", VALID_NAMES.values(), ids=VALID_NAMES)
def test_a_valid_name(name: str) -> None:
    """Names in any alphabet are valid, of up to 32 characters."""
    assert is_valid_name(name)


@pytest.mark.parametrize("name", INVALID_NAMES.values(), ids=INVALID_NAMES)
def test_an_invalid_name(name: str) -> None:
    """A name that could be taken for another one, or spoils what a client prints, is invalid."""
    assert not is_valid_name(name)


def test_names_that_differ_are_different_people() -> None:
    """A name is taken as it is: case, accents and width tell people apart."""
    names = ["bob", "Bob", "böb", FULL_WIDTH_BOB]
    parsed = {parse_request(Type.ALL_FRIENDS, to_json({"username": name})) for name in names}
    assert parsed == {requests.AllFriends(name) for name in names}


# --- any name -------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()))
likely_name = st.text(st.characters(categories=["L", "N", "M", "P", "S"]), max_size=MAX_NAME + 2)


@given(any_text | likely_name | likely_name.map(lambda text: unicodedata.normalize("NFC", text)))
def test_any_name(name: str) -> None:
    """A valid one survives what may happen to it on its way: UTF-8, JSON, normal form C, and a
    program that strips.
    """
    if is_valid_name(name):
        assert 1 <= len(name) <= MAX_NAME
        assert name.encode().decode() == json.loads(json.dumps(name)) == name
        assert unicodedata.normalize("NFC", name) == name.strip() == name
        assert name.split() == [name]
        assert not unicodedata.combining(name[0])


@given(
    likely_name, st.sampled_from(" \t\n\0\u200b\u202e\u2066\ufeff\u3164\u2028\ufe0f\ud800"), st.integers(0, MAX_NAME)
)
def test_nothing_invisible_in_any_name(name: str, invisible: str, place: int) -> None:
    """Wherever it stands: two names that look the same would be two users."""
    assert not is_valid_name(name[:place] + invisible + name[place:])
