"""New names: none may pass for another one, and names that exist stay as they are."""

import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from harness import StartServer
from wire import CREATE_GROUP, REGISTER, Wire, logged_in, register

from jelly import names, passwords
from jelly.config import Settings
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.migrations import migrate, to_3
from jelly.names import nfkc, parse_reserved, problem_of_new_name

GOOD = [
    "alice", "Bob-2_x.y", "böb", "naïve", "Đặng", "小王Tom", "山田さん", "カーター", "ABCテレビ", "々木", "ㄅㄆ王a",
    "김철수A", "Νίκος", "Иван", "سارة", "שרה", "สมชาย", "१२राम",
    "😀bob", "王〇", "ｂｏｂ", "Ⅳ", "a1.b-c_d", "Иван-1", "𗀀",
    "\U00010300\U00010301", "\U0001b002か",
    "Łukasz", "Nguyễn", "José", "ひろし", "김철수", "محمد", "مُحَمَّد", "עדי", "שָּׁלוֹם", "नमिता", "ธนา", "น้ำ", "မြို့", "Ẹ̀kọ́",
    "Ива\u0301н", "o\u0358", "Pe\u030dh", "か\u309a", "٢٢", "محمد2",
]  # fmt: skip
"""One script, or those that Chinese, Japanese and Korean names mix; digits and signs with any."""
MIXED = [
    "victiм",
    "аlice",
    "воb",
    "Νίκoς",
    "김さん",
    "ㄅさ",
    "Иван王",
    "bobש",
    "٣bob",
    "bob१",
    "\U00010300a",
    "bob\u1cd3",
]
"""Most of them look like names in one script."""


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_a_new_name_in_one_script(name: str) -> None:
    """It is possible."""
    assert problem_of_new_name(name) == ""


@pytest.mark.parametrize("name", MIXED, ids=ascii)
def test_a_new_name_that_mixes_scripts(name: str) -> None:
    """It is refused with its reason."""
    assert "mixes scripts" in problem_of_new_name(name)


@pytest.mark.parametrize(
    "name", [f"bob{c}" for c in "\U0001d159\ufffc\ufffd"] + ["か\U0001d159", "\u2d30\u2d7f"], ids=ascii
)
def test_a_new_name_with_a_character_without_a_shape(name: str) -> None:
    """It is refused: it would look like the name without that character. An old one is valid."""
    assert names.is_valid_name(name)
    assert "nobody can see" in problem_of_new_name(name)


ODD_MARKS = [
    "bob\u0336", "bob" + 29 * "\u0336", "bob" + 14 * "\u0316\u0301", "bob\u20dd", "bob\u3099", "bob\u064e", "bob\u1cd0",
    "bob\U0001d165", "1\u0301", "😀\u0301", "1\u064e", "b\u0301\u0301", "b\u0302\u0303\u0304", "王\u0301", "王\u3099",
    "김\u302a", "b\u0363", "नमि\u0301", "ш\u0488", "ب\u064b\u064c\u064d\u064e\u064f", "ъ\u1dc4", "ʼ\u0301",
]  # fmt: skip
"""Names with marks of another script, through or around a letter, on no letter, or too many."""


@pytest.mark.parametrize("name", ODD_MARKS, ids=ascii)
def test_a_new_name_with_odd_marks(name: str) -> None:
    """It is refused: it hides other text, or looks like the name without them."""
    name = unicodedata.normalize("NFC", name)
    assert names.is_valid_name(name)
    assert "does not belong" in problem_of_new_name(name)


@pytest.mark.parametrize("name", ["1٢", "٢۲", "محمد1٢", "१2", "१२राम3"], ids=ascii)
def test_a_new_name_that_mixes_digits(name: str) -> None:
    """Digits are of one kind, because different ones look alike; 0 to 9 go with every script."""
    assert "mixes digits" in problem_of_new_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a\ue000", "does not know"), ("a\U000e0fff", "does not know"), ("\ufdfa", "stand for"), ("\xa8a", "stand for")],
    ids=ascii,
)
def test_a_new_name_with_strange_characters(name: str, reason: str) -> None:
    """Private and unassigned characters have no shape; others stand for a space or for many."""
    assert names.is_valid_name(name)
    assert reason in problem_of_new_name(name)


@pytest.fixture
def port(start_server: StartServer, database_url: str) -> int:
    """The port of a server with the user and the group bob and one in full width, on each
    database.
    """
    port = start_server(database=database_url).port
    register(port, "bob", "ｃａｒｏｌ")
    with logged_in(port, "bob") as bob:
        for group in ("bob", "ｃａｒｏｌ"):
            bob.ok(CREATE_GROUP, groupName=group)
    return port


def refusal(port: int, name: str) -> str:
    """The code with which a registration is refused."""
    with Wire(port) as wire:
        return wire.refused(REGISTER, username=name, password="pw")


def test_a_name_that_looks_like_another(port: int) -> None:
    """It is taken, whichever of the two is in full width; also a group's."""
    with logged_in(port, "bob") as bob:
        for name in ("ｂｏｂ", "𝐛𝐨𝐛", "carol", "ⓒarol"):
            assert refusal(port, name) == "username_taken"
            assert bob.refused(CREATE_GROUP, groupName=name) == "group_exists"
        for name in MIXED:
            assert refusal(port, name) == "invalid_username"
            assert bob.refused(CREATE_GROUP, groupName=name) == "invalid_group_name"
        bob.ok(CREATE_GROUP, groupName="Bob")
    register(port, "Bob", "böb", "小王Tom")


LIKE_RESERVED = ["sys\u0331tem", "adm\u0131n", "ADM\u0130N", "systém", "ađmin", "rõøt", "ɑdmin", "ʀᴏᴏᴛ"]
"""Names that pass for reserved ones: with accents, strokes, without the dot of the i."""


def test_reserved_names(start_server: StartServer) -> None:
    """Nobody registers as the operator, in whatever case or width, or with accents; the operator
    can choose.
    """
    port = start_server().port
    for name in ("admin", "Admin", "ＡＤＭＩＮ", "system", "管理员", *LIKE_RESERVED):
        assert refusal(port, name) == "name_reserved"
    register(port, "admin2")
    with logged_in(port, "admin2") as wire:
        wire.ok(CREATE_GROUP, groupName="admin")
    other = start_server(reserved_names="Chef,boss", database="memory:").port
    register(other, "admin")
    assert [refusal(other, name) for name in ("chef", "BOSS")] == ["name_reserved"] * 2
    assert parse_reserved("") == parse_reserved(" , ") == frozenset()
    assert parse_reserved(Settings().reserved_names) >= {"admin", "system", "root"}


# --- names from before there was such a rule ------------------------------------------------------

OLD_USERS = ["bob", "ｂｏｂ", "victiм", "admin", "ALICE", "𝐯ictim", "\ufdfa"]


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """A database of version 2 with users and groups that could not be made any more."""
    path = tmp_path / "old.db"
    password = passwords.hash_password("pw", 1)
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript((Path(__file__).parent / "schema_2.sql").read_text())
        raw.executemany("INSERT INTO users (username, password) VALUES (?, ?)", [(n, password) for n in OLD_USERS])
        raw.executemany("INSERT INTO chat_groups (name, creator) VALUES (?, 'bob')", [(n,) for n in OLD_USERS])
        raw.executescript("INSERT INTO meta VALUES ('next_id', 1), ('filed', 0), ('schema_version', 2)")
        raw.commit()
    return path


def test_old_names_stay_as_they_are(old_database: Path, start_server: StartServer) -> None:
    """All of them log in, those that look alike too; no new one looks like one of them."""
    port = start_server(database=f"sqlite:///{old_database}").port
    for name in OLD_USERS:
        logged_in(port, name).close()
    for name in ("𝐛𝐨𝐛", "ａｌｉｃｅ".upper(), "victim"):
        assert refusal(port, name) == "username_taken"
    with logged_in(port, "bob") as bob:
        assert bob.refused(CREATE_GROUP, groupName="victim") == "group_exists"


def test_the_forms_of_many_names(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration computes them page by page, and again where it was cut off."""
    engine = open_engine(database_url)
    connection = DatabaseConnection(engine, writes=True)
    migrate(connection)
    all_names = [f"{kind}{number}" for number in range(20) for kind in ("a", "Ａ", "王", "😀", "ﬁ", "\ufdfa\ufdfa")]
    for name in all_names:
        Dao(connection).add_user(name, "hash")
        Dao(connection).add_group(name, "a1")
    monkeypatch.setattr(to_3, "NAMES_AT_ONCE", 7)
    for damage in ("NULL", "'wrong'"):
        for table in ("users", "chat_groups"):
            connection.execute(f"UPDATE {table} SET nfkc = {damage}")
        with connection.transaction():
            to_3.fill_nfkc(connection)
        for column, table in (("username", "users"), ("name", "chat_groups")):
            assert dict(connection.query(f"SELECT {column}, nfkc FROM {table}")) == {n: nfkc(n) for n in all_names}
    connection.close()
    engine.release()
