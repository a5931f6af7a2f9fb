"""What the README promises: its tables are the program's, its commands work, its links lead somewhere."""

import re
import struct
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from process import ROOT, Server

from jelly.codec import Type
from jelly.config import Settings

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
both = pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["en", "zh"])
PAGES = [ENGLISH, CHINESE, *sorted((ROOT / "docs").glob("*.md"))]


def commands(readme: Path) -> list[str]:
    """The lines that stand as code."""
    return [line for line in readme.read_text().splitlines() if line.startswith("    ")]


@both
def test_the_table_of_settings(readme: Path) -> None:
    """It has every setting with its default, and nothing else."""
    rows = re.findall(r"^\| (`--[^|]+) \| ([^|]*)\|", readme.read_text(), re.MULTILINE)
    shown = {flag: default.strip() for flags, default in rows for flag in re.findall(r"`--([a-z-]+)`", flags)}
    assert shown == {setting.name.replace("_", "-"): str(setting.default) for setting in fields(Settings)}


@both
def test_the_table_of_operations(readme: Path) -> None:
    """It has every type of the protocol with its number."""
    rows = re.findall(r"^\| (0x[0-9a-f]{2}) \| ([A-Z_]+) \|", readme.read_text(), re.MULTILINE)
    assert {name: int(number, 16) for number, name in rows} == {type.name: type.value for type in Type}


@both
def test_the_frames_of_the_first_conversation(readme: Path) -> None:
    """The hex is that of real frames, of the right length."""
    lines = [line for line in commands(readme) if "abcd" in line]
    assert len(lines) == 3
    for line in lines:
        header, body = line.split(" | ", 1) if "{" in line else (line.partition(" |")[0], "")
        *_, length = struct.unpack(">HBBBi", bytes.fromhex(header))
        assert length == len(re.sub(r"    .*", "", body))


def test_both_languages_say_the_same() -> None:
    """The same commands, the same headings, the same links."""
    english, chinese = ENGLISH.read_text(), CHINESE.read_text()
    assert commands(ENGLISH) == commands(CHINESE)
    assert len(re.findall(r"^##? ", english, re.MULTILINE)) == len(re.findall(r"^##? ", chinese, re.MULTILINE))
    links = [sorted(re.findall(r"\]\((?!README)([^)]+)\)", text)) for text in (english, chinese)]
    assert links[0] == links[1]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links(page: Path) -> None:
    """Each link to a file leads to one."""
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_two_set_up_commands() -> None:
    """One starts the server, one runs the tests, and there are no others."""
    start = ENGLISH.read_text().partition("## Start")[2].partition("## ")[0]
    assert re.findall(r"^    (.+?)  +#", start, re.MULTILINE) == ["python jelly.py", "make test"]
    assert re.search(r"^test:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_package_has_what_it_needs() -> None:
    """The schema goes into the wheel, the server needs no package, and MySQL is an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"schema.sql": "jelly/schema.sql"}
    assert project["project"]["dependencies"] == []
    assert set(project["project"]["optional-dependencies"]) == {"mysql", "test"}


def test_the_architecture_names_every_room() -> None:
    """Its table of files has each module of the package, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`jelly/(\w+\.py)`", page))
    assert named == {path.name for path in (ROOT / "jelly").glob("*.py")} - {"__init__.py"}


class Talker:
    """examples/raw_client.py on a bare Python, as the README starts it."""

    def __init__(self, port: int, me: str, friend: str) -> None:
        command = [
            sys.executable,
            "-S",
            str(ROOT / "examples" / "raw_client.py"),
            me,
            f"secret-{me}",
            friend,
            str(port),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self.line() == f"logged in as {me}; every line goes to {friend}"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")

    def leave(self) -> None:
        self.process.communicate(timeout=10)


def test_the_first_conversation(tmp_path: Path) -> None:
    """Two raw clients chat, online and offline, on a Python without any package."""
    with Server(f"sqlite:///{tmp_path}/jelly.db", bare=True, cwd=tmp_path) as server:
        alice = Talker(server.port, "alice", "bob")
        bob = Talker(server.port, "bob", "alice")
        alice.say("hello, bob")
        assert bob.line() == "alice: hello, bob"
        bob.say("你好 😀")
        assert alice.line() == "bob: 你好 😀"
        bob.leave()
        alice.say("are you there?")
        alice.say("well, later")
        alice.leave()
        bob = Talker(server.port, "bob", "alice")
        assert [bob.line(), bob.line()] == ["alice: are you there?", "alice: well, later"]
        bob.leave()
        assert server.stop() == 0
