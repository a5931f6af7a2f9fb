"""`jelly.testing`, for the tests of others: a server that is real, private and gone afterwards; and
the fixture of pytest.
"""

import doctest
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from client_tools import Recorder, error, result
from wire import wait_until

from faults.process import ROOT
from jelly import JellyClient, RequestRejected, State, testing
from jelly.testing import PASSWORD, LocalServer, local_server

PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.partition("## How do I test my bot?")[2].partition("```python\n")[2].partition("```")[0]


def run_pytest(tmp_path: Path, test: str) -> str:
    """Run pytest on a file of somebody else, with the plugin as if Jelly was installed; return what
    it prints.
    """
    (tmp_path / "test_of_others.py").write_text(test, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "jelly.pytest_plugin", "-p", "no:cacheprovider", "-s", "-q", tmp_path],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_users_talk() -> None:
    """The users are there, and a message reaches a receiver."""
    recorder = Recorder()
    with local_server("alice", "bob") as url:
        url.client("bob", receiver=recorder)
        result(url.client("alice").send_message("bob", "hello"))
        assert recorder.contents(1) == ["hello"]


def test_it_is_a_url() -> None:
    """Any client takes it."""
    with local_server("alice") as url:
        assert re.fullmatch(r"jelly://127\.0\.0\.1:[0-9]+", url)
        assert url == f"jelly://127.0.0.1:{url.port}"
        with JellyClient.from_url(url) as client:
            assert result(client.login("alice", PASSWORD)).username == "alice"


def test_two_servers_know_nothing_of_each_other() -> None:
    """Each has its own users."""
    with local_server("alice") as one, local_server() as other:
        assert one.port != other.port
        with JellyClient.from_url(other) as client:
            assert error(client.login("alice", PASSWORD)).code == "wrong_credentials"


def test_users_are_added_later() -> None:
    """With a password, if one is wanted; a name that is taken is refused."""
    with local_server() as url:
        url.add_user("alice", "another one")
        assert url.client("alice", "another one").username == "alice"
        with pytest.raises(RequestRejected) as refused:
            url.add_user("alice")
        assert refused.value.code == "username_taken"


def test_settings() -> None:
    """They are those of the server; one that it has not is a mistake."""
    with local_server(registration="closed") as url, pytest.raises(RequestRejected) as refused:
        url.add_user("alice")
    assert refused.value.code == "registration_closed"
    with pytest.raises(TypeError, match="no_setting"), local_server(no_setting=1):
        pass


def test_tls(certificate: tuple[Path, Path]) -> None:
    """The URL says it, and the clients that the server makes trust its certificate."""
    with local_server("alice", tls_cert=str(certificate[0]), tls_key=str(certificate[1])) as url:
        assert url.startswith("jellys://")
        assert url.client("alice").username == "alice"
        with JellyClient.from_url(url) as stranger:
            assert "certificate" in str(error(stranger.login("alice", PASSWORD)))


def test_nothing_is_left(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """No thread, no port, no client, also after a test that failed; and nothing was printed, not
    even that the database keeps nothing.
    """
    before = set(threading.enumerate())

    def fail() -> None:
        with local_server("alice") as url:
            clients.append(url.client("alice"))
            servers.append(url)
            raise ZeroDivisionError

    clients: list[JellyClient] = []
    servers: list[LocalServer] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert clients[0].state is State.CLOSED
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", servers[0].port), 10):
        pass
    assert capfd.readouterr() == ("", "")
    assert "keeps nothing" not in caplog.text


def test_the_examples_of_the_module() -> None:
    """They print what they say."""
    assert doctest.testmod(testing).failed == 0
    assert testing.__doc__
    exec(testing.__doc__.split("\n\n")[1].replace("    from", "from").replace("\n    ", "\n"), {})


def test_the_example_for_pytest(tmp_path: Path) -> None:
    """That of docs/client.md passes, with the bot at the beginning of the page."""
    (bot,) = re.findall(r"^class Echo.*?(?=\n\n\n)", PAGE.partition("## How")[0], re.MULTILINE | re.DOTALL)
    assert "1 passed" in run_pytest(tmp_path, EXAMPLE.replace("\n\n\n", f"\n\n\n{bot}\n\n\n", 1))


def test_the_plugin_imports_nothing_before_it_is_used(tmp_path: Path) -> None:
    """The runs of others become no slower."""
    test = """
import sys

def test_nothing():
    print("loaded:", *sorted(name for name in sys.modules if name.startswith(("jelly", "client_api"))))
"""
    said = run_pytest(tmp_path, test)
    assert re.findall("^loaded: (.*)", said, re.MULTILINE) == ["jelly jelly.pytest_plugin jelly.version"]
