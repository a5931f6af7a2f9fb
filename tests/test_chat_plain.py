"""The plain mode and --send, as scripts use them: real processes with a real server."""

import io
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from client_tools import ScriptedServer
from fake_client import MS, NOW, Chat
from harness import run_here
from original import OriginalServer
from wire import LOGIN, PERSON_MESSAGE, SERVER_BUSY, SERVER_ERROR, logged_in, register

from client_api import History, PastMessage
from faults.process import PATIENCE, ROOT, Program, bare_python, clean_environment
from faults.proxy import Proxy
from jelly.chat import plain
from jelly.chat.job_queue import JobQueue
from jelly.chat.model import MAX_LINES, Line, LineKind, Peer

ENVIRONMENT = {"JELLY_PASSWORD": "pw", "LANG": "C.UTF-8", "LC_ALL": "", "TERM": "dumb"}


class PlainChat(Program):
    """`jelly chat --plain` with pipes.

    `is_alone`: only the greeting comes at the beginning, and it is read. `device`: what follows
    --device, if not None.
    """

    def __init__(
        self, name: str, port: int, *more_ports: int, is_alone: bool = True, device: str | None = None
    ) -> None:
        self._is_alone = is_alone
        addresses = ",".join(f"127.0.0.1:{each}" for each in (port, *more_ports))
        more = [] if device is None else [f"--device={device}"]
        super().__init__("jelly.py", "chat", name, "--plain", f"--server=jelly://{addresses}", *more, **ENVIRONMENT)

    def __enter__(self) -> Self:
        try:
            assert self.line().startswith("-- Welcome, ")
            if self._is_alone:
                assert self.line() == "-- your friend list is empty: /add NAME adds a friend"
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def line(self) -> str:
        """Return the next line of the output, without the time."""
        return re.sub(r"^\d\d:\d\d ", "", super().line())

    def end(self) -> tuple[int, str]:
        """Close the input; return the exit code and the rest of the output."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output.decode()


def send(*arguments: str, port: int, input: bytes = b"", password: str = "pw", more: str = "") -> tuple[int, str]:
    """Run `jelly chat` until it ends; return its exit code and output. `more`: what follows in the
    list of addresses.
    """
    url = f"--server=jelly://127.0.0.1:{port}{more}"
    command = [*bare_python(), str(ROOT / "jelly.py"), "chat", url, *arguments]
    done = subprocess.run(
        command, input=input, capture_output=True, timeout=PATIENCE, start_new_session=True,
        env={**clean_environment(), **ENVIRONMENT, "JELLY_PASSWORD": password},
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).decode()


# --- the plain mode -------------------------------------------------------------------------------


def test_history(port: int) -> None:
    """/history prints messages between two rules, oldest first, with dates; again, older ones."""
    register(port, "alice", "bob")
    with logged_in(port, "alice") as alice:
        for text in ("one", "two\nlines", "three"):
            alice.message("bob", text, time=1_000_000_000_000)
    with PlainChat("alice", port) as chat:
        chat.say("/to bob", "/history 2", "/history 2", "/history")
        assert chat.line() == "-- you are writing to bob"
        assert chat.line() == "── earlier messages with bob ──"
        lines = [re.sub(r"\d\d:\d\d", "12:00", chat.line()) for _ in range(8)]
        assert lines == [
            "2001-09-09 12:00 alice: two",
            "   lines",
            "2001-09-09 12:00 alice: three",
            "── end of earlier messages ──",
            "── earlier messages with bob ──",
            "2001-09-09 12:00 alice: one",
            "── end of earlier messages ──",
            "-- there are no earlier messages",
        ]
        chat.say("/quit")


def test_history_of_a_full_conversation() -> None:
    """Older lines are printed, however many have been printed before."""
    chat, target = Chat(), io.StringIO()
    plain.PlainInterface(chat.session, JobQueue(), io.StringIO(), target)
    chat.session.open(Peer("bob"))
    talk = chat.model.current
    for number in range(MAX_LINES):
        talk.add(Line(LineKind.INCOMING, NOW, "x", "bob", id=1000 + number))
    chat.session.load_history(talk, by_command=True)
    chat.client.answer(History((PastMessage("bob", "alice", "old", MS, 5),), more=False))
    assert "bob: old\n" in target.getvalue()


def test_two_chat(port: int) -> None:
    """Messages are printed as whole lines, and the commands are those of the full screen."""
    register(port, "alice", "bob")
    with PlainChat("alice", port) as alice, PlainChat("bob", port) as bob:
        alice.say("/to bob", "hello", "//slash")
        assert alice.line() == "-- you are writing to bob"
        assert [bob.line(), bob.line()] == ["alice: hello", "alice: /slash"]
        bob.say("/to alice 你好", "/whois alice", "/frends")
        assert alice.line() == "bob: 你好"
        assert bob.line() == "-- you are writing to alice"
        assert bob.line() == "!! /whois alice: not on your friend list: /add alice first"
        assert bob.line() == "!! there is no /frends: did you mean /friends?"
        bob.say("/quit")
        assert bob.process.wait(PATIENCE) == 0


def test_a_script(port: int) -> None:
    """The chat reads to the end of its input, prints all answers in order, and exits with 0."""
    register(port, "alice", "bob")
    with PlainChat("alice", port) as alice:
        alice.say(
            "/add bob", "/friends", "/group create team", "/group add team bob", "/to #team", "hello", "/group list"
        )
        alice.say("/set name Alice Smith", "/profile", "/to nobody", "hello?", "/passwd", "pw", "pw2", "pw2")
        code, output = alice.end()
    assert code == 0
    assert output.splitlines() == [
        "-- bob is on your friend list now",
        "-- offline: bob",
        "-- #team is created: /to #team opens it, /group add #team NAME adds members",
        "-- bob is in #team now",
        "-- you are writing to #team",
        "-- #team: alice (owner), bob",
        "-- name is now: Alice Smith",
        "-- the profile of alice",
        "   name: Alice Smith",
        "-- you are writing to nobody",
        "✗ nobody < hello?",
        "   not delivered: no such user",
        "-- your password was changed",
        "Messages not delivered: 1 to nobody.",
        "They are kept: the next chat shows them.",
    ]
    with logged_in(port, "bob") as bob:
        assert bob.contents(1) == ["hello"]
    logged_in(port, "alice", "pw2").close()


def test_emptying_a_field(port: int) -> None:
    """/set with nothing behind the field empties it, by its Chinese name, too."""
    register(port, "alice")
    with PlainChat("alice", port) as alice:
        alice.say("/set phone 123", "/set 姓名 王小明", "/set phone", "/profile", "/set 姓名", "/profile", "/q")
        assert alice.end() == (0, "\n".join([
            "-- phone is now: 123",
            "-- name is now: 王小明",
            "-- phone is empty now",
            "-- the profile of alice",
            "   name: 王小明",
            "-- name is empty now",
            "-- your profile is empty: begin with /set name YOUR NAME",
            "",
        ]))  # fmt: skip


def test_where_it_comes_from(port: int) -> None:
    """A group message has the group's name, further rows are indented, and texts are sanitized. The
    clock of a stranger draws no line of another day.
    """
    register(port, "alice", "bob")
    with PlainChat("alice", port) as alice, logged_in(port, "bob") as bob:
        alice.say("/group create team", "/group add team bob")
        assert [alice.line()[:8], alice.line()] == ["-- #team", "-- bob is in #team now"]
        bob.message("team", "one\n\x1b[2Jtwo", 0x16)
        assert [alice.line(), alice.line()] == ["#team bob: one", "   ␛[2Jtwo"]


def test_logout(port: int) -> None:
    """/logout ends the session and the chat."""
    register(port, "alice")
    with PlainChat("alice", port) as alice:
        alice.say("/logout")
        assert alice.process.wait(PATIENCE) == 0


def lose_connection(proxy: Proxy, chat: PlainChat) -> None:
    """Take the connection away, and wait until the chat has noticed it."""
    proxy.block()
    said = ""
    while said != "-- still trying to connect":
        chat.say("/connect")
        said = chat.line()


@pytest.mark.parametrize("ends", [False, True])
def test_a_lost_connection(port: int, ends: bool) -> None:
    """What is written meanwhile is sent when the connection is back, in its order, also if it was
    the end of the input.
    """
    register(port, "alice", "bob")
    with Proxy(port) as proxy, PlainChat("alice", proxy.port) as alice:
        alice.say("/to bob")
        assert alice.line() == "-- you are writing to bob"
        lose_connection(proxy, alice)
        alice.say("one", "two")
        assert alice.line() == "-- not connected: this is sent as soon as you are connected"
        if ends:
            alice.process.stdin.close()  # type: ignore[union-attr]
        proxy.mend()
        assert alice.line().startswith("-- connected again")
        if not ends:
            alice.say("three")
        with logged_in(port, "bob") as bob:
            assert bob.contents(3 - ends) == ["one", "two", "three"][: 3 - ends]
        if ends:
            assert alice.process.wait(PATIENCE) == 0


def test_leaving_without_a_connection(port: int) -> None:
    """/quit does not wait for it, and says what was not delivered."""
    register(port, "alice", "bob")
    with Proxy(port) as proxy, PlainChat("alice", proxy.port) as alice:
        alice.say("/to bob")
        assert alice.line() == "-- you are writing to bob"
        lose_connection(proxy, alice)
        alice.say("hello?")
        assert alice.line().startswith("-- not connected")
        alice.say("/quit")
        code, output = alice.end()
        assert code == 0
        assert output.splitlines()[-2:] == [
            "Messages not delivered: 1 to bob.",
            "They are kept: the next chat shows them.",
        ]


def test_several_addresses(port: int) -> None:
    """The chat goes to another address when the connection is lost, says so once, and goes on."""
    register(port, "alice", "bob")
    with Proxy(port) as one, Proxy(port) as other, PlainChat("alice", one.port, other.port) as alice:
        alice.say("/to bob")
        assert alice.line() == "-- you are writing to bob"
        both = {f"127.0.0.1:{proxy.port}": proxy for proxy in (one, other)}
        [used] = [address for address, proxy in both.items() if proxy._pairs]
        both[used].block()
        assert alice.line() == f"-- the connection to {used} was lost; going to another address"
        [rest] = both.keys() - {used}
        assert alice.line().startswith(f"-- connected again, to {rest} (not connected since ")
        alice.say("hello")
        with logged_in(port, "bob") as bob:
            assert bob.contents(1) == ["hello"]


def test_ctrl_c(port: int) -> None:
    """Ctrl-C exits with 0."""
    register(port, "alice")
    with PlainChat("alice", port) as alice:
        alice.process.send_signal(signal.SIGINT)
        assert alice.process.wait(PATIENCE) == 0


def test_the_original_server() -> None:
    """The chat works with the original server."""
    with OriginalServer() as server:
        register(server.port, "alice", "bob")
        with PlainChat("alice", server.port) as alice:
            alice.say("/to bob", "hello", "/add bob", "/friends", "/whois carol", "/add nobody")
            assert [alice.line() for _ in range(3)] == [
                "-- you are writing to bob",
                "-- bob is on your friend list now",
                "-- offline: bob",
            ]
            assert alice.end()[0] == 0


def test_what_the_original_server_cannot_do() -> None:
    """What it calls its own failure was not done, and to send the message again is no use."""
    with OriginalServer() as server:
        register(server.port, "alice")
        with PlainChat("alice", server.port) as alice:
            alice.say("/whois nobody", "/add nobody", "/whois nobody", "/to nobody", "hello?", f"/set name {'x' * 300}")
            assert [alice.line() for _ in range(7)] == [
                "!! /whois nobody: not on your friend list: /add nobody first",
                "-- nobody is on your friend list now",
                "!! /whois nobody: probably no such user",
                "-- you are writing to nobody",
                "✗ nobody < hello?",
                "   not delivered: probably no such user",
                "!! /set name: probably this is too long; shorten it",
            ]
            assert alice.end()[0] == 0
        assert send("alice", "--send", "nobody", "hello?", port=server.port) == (
            1, "jelly: Not delivered to nobody: probably no such user.\n"
        )  # fmt: skip


# --- one message ----------------------------------------------------------------------------------


def test_send(port: int) -> None:
    """--send stores a message from the command line or stdin, prints nothing, and exits with 0."""
    register(port, "alice", "bob")
    assert send("alice", "--send", "bob", "hello bob", port=port) == (0, "")
    assert send("alice", "--send", "bob", "-", port=port, input="多行\n文字\n".encode()) == (0, "")
    with logged_in(port, "bob") as bob:
        assert bob.contents(2) == ["hello bob", "多行\n文字"]


def test_send_takes_no_messages(port: int) -> None:
    """--send takes no waiting messages: a later chat still gets them."""
    register(port, "alice", "bob")
    with logged_in(port, "bob") as bob:
        bob.message("alice", "are you there?", time=int(time.time() * 1000))
        for _ in range(3):
            assert send("alice", "--send", "bob", "x", port=port) == (0, "")
    with PlainChat("alice", port, is_alone=False) as alice:
        assert "bob: are you there?" in (alice.line(), alice.line())


@pytest.mark.parametrize(
    ("arguments", "password", "code", "said"),
    [
        (["--send", "nobody", "x"], "pw", 1, "Not delivered to nobody: no such user."),
        (["--send", "#team", "x"], "pw", 1, "Not delivered to #team: no such group."),
        (["--send", "#", "x"], "pw", 2, "--send needs a receiver: bob or #team."),
        (["--send", "bob", " "], "pw", 2, "There is no text to send."),
        (["--send", "bob", "-"], "pw", 2, "There is no text to send."),
        (["--send", "bob"], "pw", 2, "--send is not complete: write --send TO TEXT."),
        (["--send", "bob", "x"], "wrong", 4, "Cannot log in as alice: the name or the password"),
        (["--send", "bob", "x"], "", 2, "set JELLY_PASSWORD"),
        (["--send", "bob", "x", "--tls-ca=x"], "pw", 2, "--tls-ca needs a server with TLS"),
        (["--plain"], "wrong", 4, "Cannot log in as alice"),
        (["--lang=zh", "--send", "nobody", "x"], "pw", 1, "未送达 nobody：没有这个用户。"),
    ],
)
def test_exit_codes(arguments: list[str], password: str, code: int, said: str, port: int) -> None:
    """Each failure has an exit code and one sentence."""
    register(port, "alice")
    ended, output = send("alice", *arguments, port=port, password=password)
    assert ended == code
    assert said in output
    assert "Traceback" not in output


def test_a_text_that_is_not_utf8(port: int) -> None:
    """A text that is not UTF-8 is refused before anything is sent."""
    register(port, "alice")
    code, output = send("alice", "--send", "alice", "-", port=port, input=b"\xff\xfe")
    assert (code, output) == (2, "jelly: The text is not valid UTF-8: convert it first.\n")
    assert send("alice", "--send", "alice", "\udcff", port=port)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bob", "Too many arguments: bob. There is one NAME, and a TEXT with spaces needs quotes."),
        (
            "--send bob hello world",
            "Too many arguments: world. There is one NAME, and a TEXT with spaces needs quotes.",
        ),
        ("--sevrer x", "There is no flag --sevrer (did you mean --server?)."),
        ("--frobnicate=1", "There is no flag --frobnicate."),
        ("-x", "There is no flag -x."),
        ("--tls-ca", "--tls-ca is not complete: write --tls-ca FILE."),
        ("--plain=yes", "--plain takes no value."),
        ("--lang=fr", "--lang must be one of en, zh."),
        ("--lang", "--lang must be one of en, zh."),
        ("--lang=zh --frobnicate", "没有 --frobnicate 这个选项。"),
        ("--lang=zh --send bob", "--send 不完整：应写成 --send TO TEXT。"),
    ],
)
def test_wrong_arguments(arguments: str, said: str) -> None:
    """One sentence says which argument is wrong, without the usage lines."""
    done = run_here("chat", "--server=jelly://127.0.0.1:1", "alice", *arguments.split(), **ENVIRONMENT)
    see = "参见 jelly chat --help。" if "--lang=zh" in arguments else " See jelly chat --help."
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"jelly: {said}{see}\n")


def test_a_flag_that_is_cut_too_short() -> None:
    """It may mean several flags: the sentence names them."""
    code, output = send("alice", "--s=x", port=1)
    assert (code, output.count("\n")) == (2, 1)
    assert output.startswith("jelly: --s=x may mean several flags: --send, --server.")
    assert send("alice", "--lang=zh", "--s=x", port=1)[1].startswith("jelly: --s=x 可能指多个选项：--send、--server。")


def test_wrong_server_or_certificate() -> None:
    """Wrong server addresses and certificates are refused with a sentence."""
    for arguments, said in (
        (["--server=http://x"], "http://x is not of the form jelly://host:port"),
        (["--server=jelly://a,,b"], "jelly://a,,b is not of the form jelly://host:port"),
        (["--server=jellys://x", "--tls-ca=/missing.pem"], "/missing.pem cannot be used: No such file"),
        (["--server=jellys://x", "--tls-ca=/etc/passwd"], "/etc/passwd cannot be used: it contains no certificate"),
    ):
        code, output = send("alice", *arguments, port=1)
        assert code == 2
        assert said in output


def test_a_server_without_tls(port: int) -> None:
    """The exit code is 3, and the sentence says what to change in the address."""
    code, output = send("alice", "--send", "bob", "x", f"--server=jellys://127.0.0.1:{port}", port=port)
    assert code == 3
    assert "write jelly:// in its address" in output


def test_no_server() -> None:
    """The exit code is 3, and the sentence says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, output = send("alice", "--send", "bob", "x", port=port)
    assert code == 3
    assert "Connection refused. Is the server running?" in output


@pytest.mark.parametrize("status", [0, SERVER_BUSY, SERVER_ERROR])
def test_the_first_login_goes_through_the_list(port: int, script: ScriptedServer, status: int) -> None:
    """If the first address closes the connection, is busy or fails, the next one is asked. (Each
    chat begins at one of them, by chance.)
    """
    register(port, "alice")
    script._listener.settimeout(60)
    asked = threading.Event()

    def refuse() -> None:
        with script.accept() as peer:
            peer.receive_request(LOGIN)
            if status:
                peer.answer(LOGIN, status)
        asked.set()

    thread = threading.Thread(target=refuse)
    thread.start()
    while thread.is_alive():
        code, output = send("alice", "--send", "alice", "x", port=port, more=f",127.0.0.1:{script.port}")
        assert (code, output) == (0, "")
    assert asked.is_set()


def answer_no_message(listener: socket.socket, port: int) -> threading.Thread:
    """Be a server for one client: close the connection instead of answering a message."""

    def serve() -> None:
        line, _ = listener.accept()
        listener.close()
        with line, socket.create_connection(("127.0.0.1", port)) as server:
            server.sendall(line.recv(65536))
            line.sendall(server.recv(65536))
            while line.recv(65536)[3:4] != bytes([PERSON_MESSAGE]):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.fixture
def port_without_answers(port: int) -> Iterator[int]:
    """A server that closes the connection instead of answering a message."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        thread = answer_no_message(listener, port)
        yield number
        thread.join()


def test_an_unknown_outcome(port: int, port_without_answers: int) -> None:
    """The exit code is 5."""
    register(port, "alice")
    code, output = send("alice", "--send", "alice", "x", port=port_without_answers)
    assert (code, output) == (
        5,
        "jelly: Perhaps delivered to alice: the connection was lost. If you send it again, it may arrive twice.\n",
    )


def test_a_message_goes_on_at_another_address(port: int) -> None:
    """With several addresses, --send goes to the next one if the connection is lost before there is
    an answer. The message arrives once. (Each chat begins at one of them, by chance.)
    """
    register(port, "alice")
    listener = socket.create_server(("127.0.0.1", 0))
    other, thread, runs = listener.getsockname()[1], answer_no_message(listener, port), 0
    while thread.is_alive():
        runs += 1
        code, output = send("alice", "--send", "alice", str(runs), port=port, more=f",127.0.0.1:{other}")
        assert (code, output) == (0, "")
    with logged_in(port, "alice") as alice:
        assert alice.contents(runs) == [str(number) for number in range(1, runs + 1)]


def test_help() -> None:
    """--help lists the exit codes in both languages."""
    for language, usage, words in (("en", "usage: ", "exit codes:"), ("zh", "用法：", "退出码")):
        code, output = send("--help", f"--lang={language}", port=1)
        assert code == 0
        assert output.startswith(usage)
        assert words in output
        assert re.findall(r"^  (\d)  ", output, re.MULTILINE) == list("0123456")
