"""What is published: the sdist and the wheel, installed into an empty virtual environment of each
Python that the machine has.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from faults.process import ROOT
from jelly import __version__

OLDEST, NEWEST = 11, 14
"""The Pythons of the classifiers, without the 3 in front."""

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="the tools of a release are for Pythons with the lock"
)

PROGRAM = """
import importlib.metadata, sys
import client_api, jelly
from jelly import JellyClient, Receiver
from jelly.testing import local_server

assert jelly.__version__ == client_api.__version__ == importlib.metadata.version("jelly-im")
assert jelly.__file__.startswith(sys.prefix), jelly.__file__
assert jelly.JellyClient is client_api.JellyClient

class Echo(Receiver):
    def on_message(self, event):
        event.reply(event.content)

class Printer(Receiver):
    def on_message(self, event):
        print(event.content)

with local_server("alice", "bob") as url:
    url.client("bob", receiver=Echo())
    url.client("alice", receiver=Printer()).send_message("bob", "hello").result(timeout=30)
    url.client("bob").wait_until_online()
"""

TYPED = """
from jelly import JellyClient, MessageEvent, Receiver, Sent
from jelly.testing import LocalServer, local_server


class Echo(Receiver):
    def on_message(self, event: MessageEvent) -> None:
        event.reply(event.content)


def ask(client: JellyClient) -> Sent:
    reveal_type(client.send_message("bob", "hello").result())
    return client.send_message("bob", "hello").result(timeout=10)


def test(jelly_server: LocalServer) -> None:
    ask(jelly_server.client("alice", receiver=Echo()))
    JellyClient().send_message("bob")
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a command as somebody does who has no checkout; return what it prints."""
    hidden = ("PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "FORCE_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def need(module: str) -> None:
    """Skip a test where a tool of a release is missing; where CI is set, fail."""
    if not os.environ.get("CI"):
        pytest.importorskip(module)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, the wheel that was made from it, and, in `direct`, the wheel that
    was made from the checkout, as `pip install .` does it.
    """
    need("build")
    need("hatchling")
    made = tmp_path_factory.mktemp("packages")
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", made, ROOT, cwd=made)
    run(*build, "--wheel", "--outdir", made / "direct", ROOT, cwd=made)
    return made


def wheel_in(directory: Path) -> Path:
    (wheel,) = directory.glob("*.whl")
    return wheel


def pythons() -> dict[tuple[int, int], str]:
    """The Pythons of this machine on which Jelly runs, by their versions."""
    names = [f"python3.{minor}" for minor in range(OLDEST, NEWEST + 1)]
    found = [path for path in map(shutil.which, names) if path]
    found += map(str, (Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"))
    by_version = {}
    for path in [*found, sys.executable]:
        asked = "import sys, venv; print(sys.version_info[0], sys.version_info[1])"
        done = subprocess.run([path, "-c", asked], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:  # else it is one of pyenv's names for a version that is not chosen
            major, minor = map(int, done.stdout.split())
            by_version[major, minor] = path
    return {version: path for version, path in by_version.items() if version >= (3, OLDEST)}


def install(python: str, wheel: Path, target: Path) -> Path:
    """Install a wheel alone into a new virtual environment; return that one's Python."""
    run(python, "-m", "venv", "--without-pip", target, cwd=target.parent)
    installed = target / "bin" / "python"
    run(sys.executable, "-m", "pip", "-q", "--python", installed, "install", "--no-index", wheel, cwd=target.parent)
    return installed


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_each_python(packages: Path, tmp_path: Path) -> None:
    """The wheel is all that a bot, a server and the command need; MySQL says what it needs."""
    found = pythons()
    assert sys.version_info[:2] in found
    for (major, minor), path in found.items():
        python = install(path, wheel_in(packages), tmp_path / f"{major}.{minor}")
        assert run(python, "-c", PROGRAM, cwd=tmp_path) == "hello\n"
        jelly = python.with_name("jelly")
        assert run(jelly, "--version", cwd=tmp_path) == f"jelly {__version__}\n"
        said = run(jelly, "--database=mysql://u:p@127.0.0.1/jelly", cwd=tmp_path, code=2)
        assert re.fullmatch(r"jelly: A mysql:// database needs the package [\w-]+: pip install '[^']+'\.\n", said)


def test_both_ways_make_the_same_wheel(packages: Path) -> None:
    """So the sdist has everything; and the wheel nothing else than library and server."""
    contents = []
    for wheel in (wheel_in(packages), wheel_in(packages / "direct")):
        with zipfile.ZipFile(wheel) as archive:
            contents.append({entry.filename: entry.CRC for entry in archive.infolist()})
    assert contents[0] == contents[1]
    tops = {name.partition("/")[0] for name in contents[0]}
    assert tops == {"jelly", "client_api", f"jelly_im-{__version__}.dist-info"}
    assert {"jelly/py.typed", "client_api/py.typed", "jelly/schema.sql"} <= contents[0].keys()
    with tarfile.open(next(packages.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "Makefile", "tests/conftest.py", "docs/client.md", "examples/echo_bot.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/"))]


def test_what_the_index_is_told(packages: Path) -> None:
    """It accepts the packages, and shows the licence and the README."""
    need("twine")
    published = [wheel_in(packages), *packages.glob("*.tar.gz")]
    run(sys.executable, "-m", "twine", "check", "--strict", *published, cwd=packages)
    told = metadata(wheel_in(packages))
    assert (told["Name"], told["Version"], told["License-Expression"]) == ("jelly-im", __version__, "MIT")
    assert (told["Description-Content-Type"], told["License-File"]) == ("text/markdown", "LICENSE")
    assert str(told.get_payload()).startswith("# Jelly\n")
    pythons = re.findall(r":: 3\.(\d+)$", "\n".join(told.get_all("Classifier", [])), re.MULTILINE)
    assert pythons == [str(minor) for minor in range(OLDEST, NEWEST + 1)]
    assert told["Requires-Python"] == f">=3.{OLDEST}"
    bare = [line for line in told.get_all("Requires-Dist", []) if not re.search(r"(>=|==)[\d.]+; extra", line)]
    assert bare == [], "each has a lower bound, and belongs to an extra"


@pytest.mark.parametrize("remote", ["git@example.org:chat/jelly.git", "https://example.org/chat/jelly"])
def test_a_checkout_with_a_home(tmp_path: Path, remote: str) -> None:
    """The package names it, and the README's links lead there, as PyPI shows nothing else."""
    need("hatchling")
    for path in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "jelly/version.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "remote", "add", "origin", remote, cwd=tmp_path)
    told = json.loads(run(sys.executable, "-m", "hatchling", "metadata", cwd=tmp_path))
    home = "https://example.org/chat/jelly"
    assert told["urls"]["Source"] == home
    assert told["urls"]["Changelog"] == f"{home}/blob/main/CHANGELOG.md"
    text = told["readme"]["text"]
    assert f"]({home}/blob/main/docs/guarantees.md)" in text
    assert not re.search(r"\]\((?!https?://|#)", text)


def test_types(packages: Path, tmp_path: Path) -> None:
    """mypy sees those of the installed library, also through `jelly`."""
    need("mypy")
    python = install(sys.executable, wheel_in(packages), tmp_path / "env")
    (tmp_path / "program.py").write_text(TYPED, encoding="utf-8")
    said = run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "program.py", cwd=tmp_path, code=1
    )
    assert re.findall(r"(?:note|error): (.*?)(?:  \[|$)", said, re.MULTILINE) == [
        'Revealed type is "jelly.client.messaging.Sent"',
        'Missing positional argument "content" in call to "send_message" of "MessageOperations"',
    ]


def test_pytest_finds_the_fixture(packages: Path, tmp_path: Path) -> None:
    """Installed is enough: nobody names the plugin."""
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "-q", "install", "--no-index", "--no-deps", "--target", target)
    run(*pip, wheel_in(packages), cwd=tmp_path)
    (tmp_path / "test_others.py").write_text(
        f"import jelly\n\ndef test(jelly_server):\n    assert jelly.__file__.startswith({str(target)!r})\n"
        "    jelly_server.add_user('alice')\n    assert jelly_server.client('alice').username == 'alice'\n"
    )
    code = f"import sys; sys.path.insert(0, {str(target)!r}); import pytest; sys.exit(pytest.main(['-q', '.']))"
    assert "1 passed" in run(sys.executable, "-c", code, cwd=tmp_path)
