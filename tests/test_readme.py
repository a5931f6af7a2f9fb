"""What the README promises, and other pages of the project: tables, commands and links are true."""

import contextlib
import re
import signal
import sqlite3
import struct
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from harness import kept_for
from wire import HEADER, Wire, logged_in, register, wait_until

from faults.process import ROOT, Program, Server
from jelly.codec import Type
from jelly.config import Settings
from jelly.requests import REQUESTS

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
both = pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["en", "zh"])
HOSTING = ROOT / "docs" / "hosting.md"
PAIRS = [(ENGLISH, CHINESE), (HOSTING, ROOT / "docs" / "hosting.zh-CN.md")]
TESTS = ROOT / "tests"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), TESTS / "README.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def find(pattern: str, page: Path) -> list[tuple[str, ...]]:
    """The groups of each match of a pattern, line by line."""
    return [match.groups() for match in re.finditer(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)]


def commands(readme: Path) -> list[str]:
    """The lines that stand as code, without comments, which are in the language of the page."""
    return [re.sub(r" +# .*", "", line) for (line,) in find(r"^    (.+)$", readme)]


def links(page: Path) -> list[str]:
    """The files that a page links to, without the places in them."""
    return [link for (link,) in find(r"\]\((?!\w+:)([^)#]+)(?:#[^)]*)?\)", page)]


def places(page: Path) -> set[str]:
    """The headings of a page, as GitHub writes them in a link."""
    headings = [heading for (heading,) in find(r"^#+ (.+)$", page)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- what it says ---------------------------------------------------------------------------------


@both
def test_the_table_of_settings(readme: Path) -> None:
    """It has every setting with its default, in the order of the code, and nothing else."""
    rows = find(r"^\| (`--[^|]+) \| ([^|]*)\|", readme)
    shown = [(flag, default.strip()) for flags, default in rows for flag in re.findall(r"`--([a-z-]+)`", flags)]
    assert shown == [(setting.name.replace("_", "-"), str(setting.default)) for setting in fields(Settings)]


@both
def test_the_table_of_operations(readme: Path) -> None:
    """It has every type of the protocol with its number, and the keys that its request takes."""
    rows = find(r"^\| (0x[0-9a-f]{2}) \| ([A-Z_]+) \| (.*) \|$", readme)
    assert {name: int(number, 16) for number, name, _ in rows} == {type.name: type.value for type in Type}
    keys = {int(number, 16): tuple(re.findall(r"`(\w+)`", body.partition("→")[0])) for number, _, body in rows}
    assert keys.pop(Type.HEARTBEAT) == keys.pop(Type.SYSTEM) == ()
    assert keys == {type: cls._fields for type, cls in REQUESTS.items()}


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=["README", "hosting"])
def test_both_languages_say_the_same(english: Path, chinese: Path) -> None:
    """They have the same headings, commands, links and names in code, and each links to the other
    at the same place.
    """
    assert find(r"^(#+) ", english) == find(r"^(#+) ", chinese)
    assert commands(english) == commands(chinese)
    assert sorted(find(r"`([^`]+)`", english)) == sorted(find(r"`([^`]+)`", chinese))
    other = {chinese.name: english.name, "hosting.zh-CN.md": "hosting.md", "README.zh-CN.md": "README.md"}
    first, *rest = links(english)
    assert first == chinese.name
    assert links(chinese)[0] == english.name
    assert rest == [
        str(Path(link).with_name(other.get(Path(link).name, Path(link).name))) for link in links(chinese)[1:]
    ]


@pytest.mark.parametrize("page", [chinese for _, chinese in PAIRS], ids=["README", "hosting"])
def test_comments_are_in_the_language_of_the_page(page: Path) -> None:
    """Who reads the Chinese page need not read English in its code."""
    comments = [comment for (comment,) in find(r"^    .* # (.*)$", page)]
    assert [comment for comment in comments if not re.search("[\u4e00-\u9fff]", comment)] == []


@pytest.mark.parametrize("page", [chinese for _, chinese in PAIRS], ids=["README", "hosting"])
def test_pages_without_chinese_are_marked(page: Path) -> None:
    """Behind each link to a page that is in English only stands 英文."""
    rows = find(r"\[([^]]+)\]\((?!\w+:)([^)#]+\.md)(?:#[^)]*)?\)(.?.?.?)", page)
    unmarked = [link for _, link, behind in rows if not behind.startswith(("（英文", "，英文"))]
    bilingual = {english.name for english, _ in PAIRS} | {chinese.name for _, chinese in PAIRS}
    assert {Path(link).name for link in unmarked} <= bilingual
    marked = {Path(link).name for _, link, behind in rows if "英文" in behind}
    assert marked
    assert not marked & bilingual


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links(page: Path) -> None:
    """Each link to a file leads to one."""
    assert [link for link in links(page) if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_places_in_pages(page: Path) -> None:
    """Each link to a place in a page leads to a heading of that page."""
    for link, place in find(r"\]\((?!\w+:)([^)#]*\.md|)#([^)]+)\)", page):
        assert place in places(page.parent / link if link else page), f"{link}#{place}"


def test_two_set_up_commands() -> None:
    """One starts the server, one runs the tests, and there are no others."""
    start = ENGLISH.read_text(encoding="utf-8").partition("## Start\n")[2].partition("\n## ")[0]
    assert re.findall(r"^    (.+?)  +#", start, re.MULTILINE) == ["python jelly.py", "make test"]
    targets = {target for (target,) in find(r"^(\w+):", ROOT / "Makefile")}
    assert {"test", "check"} <= targets


def test_the_package_has_what_it_needs() -> None:
    """The wheel has all, `jelly` is a command, the server needs no package; MySQL, clusters and the
    chat are extras.
    """
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    moved = wheel["force-include"]
    assert (moved.pop("schema.sql"), moved.pop("client_api.py")) == ("jelly/schema.sql", "client_api/__init__.py")
    assert set(moved.values()) == {"client_api/py.typed"}
    assert all((ROOT / path).is_file() for path in (*moved, "jelly/py.typed"))
    assert PROJECT["project"]["scripts"] == {"jelly": "jelly.cli:main"}
    assert PROJECT["project"]["dependencies"] == []
    assert set(PROJECT["project"]["optional-dependencies"]) == {
        "mysql", "cluster", "chat", "docs", "release", "test", "lint",
    }  # fmt: skip
    assert wheel["only-include"] == ["jelly"]
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_the_architecture_names_every_room() -> None:
    """Its table of files has each module of the package, once, and no other."""
    rows = find(r"^\| (`[^|]*\.py`[^|]*) \|", ROOT / "docs" / "architecture.md")
    named = [name for (row,) in rows for name in re.findall(r"`(jelly/[\w/]+\.py)`", row)]
    modules = [path for path in (ROOT / "jelly").rglob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in modules)


def test_the_page_of_the_tests_names_every_file() -> None:
    """Each test and each tool has its place in one table, and nothing else has."""
    rows = find(r"^\| (`.*\.py`) \|", TESTS / "README.md")
    named = [name for (row,) in rows for name in re.findall(r"`(\w+\.py)`", row)]
    assert sorted(named) == sorted(path.name for path in TESTS.glob("*.py"))


# --- what it does ---------------------------------------------------------------------------------


@both
def test_the_frames_of_the_first_conversation(readme: Path, port: int) -> None:
    """Alice sends the first of the three lines, byte for byte, and the server sends the other
    two.
    """
    lines = find(r"^    (abcd(?: \w\w){3} \w{8}) \|(?: ({.*}))? ", readme)
    request, notice, response = (bytes.fromhex(header) + (body or "").encode() for header, body in lines)
    for frame in (request, notice, response):
        *_, length = struct.unpack_from(">HBBBi", frame)
        assert length == len(frame) - 9
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
        alice.send(request)
        for wire, expected in ((bob, notice), (alice, response)):
            reply = wire.receive()
            assert HEADER.pack(0xABCD, *reply[:3], len(reply.body)) + reply.body == expected


class Talker(Program):
    """examples/raw_client.py, as the README starts it."""

    def __init__(self, port: int, me: str, password: str, friend: str) -> None:
        super().__init__("examples/raw_client.py", me, password, friend, str(port))


def test_the_first_conversation(tmp_path: Path) -> None:
    """Both chat; bob goes and comes back, and gets what he missed, once and in order, on a Python
    without packages.
    """
    with (
        Server(f"sqlite:///{tmp_path}/jelly.db", bare=True, cwd=tmp_path) as server,
        Talker(server.port, "alice", "secret1", "bob") as alice,
    ):
        assert alice.line() == "logged in as alice; every line goes to bob"
        with Talker(server.port, "bob", "secret2", "alice") as bob:
            assert bob.line() == "logged in as bob; every line goes to alice"
            bob.say("你好 😀")
            assert alice.line() == "bob: 你好 😀"
            alice.say("hello, bob")
            assert bob.line() == "alice: hello, bob"
            wait_until(lambda: kept_for("bob", tmp_path / "jelly.db") == [])  # it is acknowledged a moment later
            bob.press_ctrl_c()
        missed = ["are you there?", "well, later"]
        for text in missed:
            alice.say(text)
        wait_until(lambda: kept_for("bob", tmp_path / "jelly.db") == missed)
        with Talker(server.port, "bob", "secret2", "alice") as bob:
            assert bob.line() == "logged in as bob; every line goes to alice"
            assert [bob.line(), bob.line()] == [f"alice: {text}" for text in missed]
            alice.say("there you are")
            assert bob.line() == "alice: there you are"


def test_ctrl_c_stops_the_server(tmp_path: Path) -> None:
    """It finishes what it has accepted, and exits: the request that came before has its answer and
    its effect.
    """
    url = f"sqlite:///{tmp_path}/jelly.db"
    with Server(url) as server:
        register(server.port, "alice")
        assert server.stop(signal.SIGINT) == 0
    with Server(url) as server:
        logged_in(server.port, "alice").close()


def test_a_backup_while_the_server_runs(tmp_path: Path) -> None:
    """A copy that SQLite makes of the file in use, as the page says, is one that another server
    starts from.
    """
    source, copy = tmp_path / "jelly.db", tmp_path / "copy.db"
    with Server(f"sqlite:///{source}") as server:
        register(server.port, "alice")
        with contextlib.closing(sqlite3.connect(source)) as old:
            old.execute("VACUUM INTO ?", (str(copy),))
        with Server(f"sqlite:///{copy}") as other, Wire(other.port) as wire:
            wire.login("alice")
            assert wire.user == "alice"
