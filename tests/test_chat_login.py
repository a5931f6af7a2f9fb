"""The login dialog: its questions and its exit codes."""

import ssl
from typing import Any

import pytest
from fake_client import Chat, FakeClient
from wire import register

from client_api import ConnectionLost, JellyClient, RequestRejected, RequestTimeout, State
from jelly.chat.login import Console, ExitCode, FatalError, LoginDialog
from jelly.chat.translator import Translator


class Answers(Console):
    """A console that answers from a list, or has no user."""

    def __init__(self, *answers: str, is_interactive: bool = True) -> None:
        self.is_interactive = is_interactive
        self.answers = list(answers)
        self.seen: list[str] = []
        self.hidden: list[str] = []

    def can_ask_password(self) -> bool:
        return self.is_interactive

    def ask(self, prompt: str) -> str:
        self.seen.append(prompt.strip())
        return self.answers.pop(0)

    def ask_password(self, prompt: str) -> str:
        self.hidden.append(prompt.strip())
        return self.ask(prompt)

    def show(self, text: str) -> None:
        self.seen.append(text)


class Replies(FakeClient):
    """A client whose requests end with the replies in a list: None or an error."""

    def __init__(self, *replies: Exception | None) -> None:
        super().__init__()
        self._replies = list(replies)

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)

        def call_and_end(*arguments: Any, **named: Any) -> Any:
            future = call(*arguments, **{key: value for key, value in named.items() if value is not None})
            reply = self._replies.pop(0)
            if reply:
                self.refuse(reply)
            else:
                self.answer()
            return future

        return call_and_end


WRONG, TAKEN = RequestRejected("wrong_credentials"), RequestRejected("username_taken")


def log_in(client: Any, console: Console, name: str = "alice", password: str = "", may_register: bool = True) -> Any:
    return LoginDialog(client, "jelly://example.org", Translator("en"), console).run(name, password, may_register)


def test_registering_with_an_invitation() -> None:
    """Where the server wants a code, the dialog asks for it, once."""
    needed = RequestRejected("invite_needed")
    console = Answers("pw", "y", "pw", " ab-cd ")
    client = Replies(WRONG, needed, None, None)
    assert log_in(client, console) == ("alice", "pw")
    assert client.calls[1:3] == [("register", "alice", "pw"), ("register", "alice", "pw", {"invite": "ab-cd"})]
    assert "Code of an invitation:" in console.seen
    client = Replies(WRONG, needed, RequestRejected("invalid_invite"))
    with pytest.raises(FatalError, match="this invitation is not valid"):
        log_in(client, Answers("pw", "y", "pw", ""))


def test_a_code_that_is_mistyped() -> None:
    """The dialog asks for it again, and for nothing else. Without a code it gives up."""
    wrong_code = RequestRejected("invalid_invite")
    console = Answers("pw", "y", "pw", "x", "ab-cd")
    client = Replies(WRONG, RequestRejected("invite_needed"), wrong_code, None, None)
    assert log_in(client, console) == ("alice", "pw")
    assert [call[-1] for call in client.calls[2:4]] == [{"invite": "x"}, {"invite": "ab-cd"}]
    said = "Cannot register alice: this invitation is not valid, or no longer; ask for another one."
    assert console.seen[-4:-1] == ["Code of an invitation:", said, "Code of an invitation:"]
    client = Replies(WRONG, RequestRejected("invite_needed"), wrong_code, wrong_code)
    with pytest.raises(FatalError, match="this invitation is not valid"):
        log_in(client, Answers("pw", "y", "pw", "x", ""))


def test_a_right_password() -> None:
    """The dialog only asks for the password."""
    console = Answers("pw")
    client = Replies(None)
    assert log_in(client, console) == ("alice", "pw")
    assert client.calls == [("login", "alice", "pw")]
    assert console.seen == ["Password for alice:"]


def test_no_password() -> None:
    """An empty password is asked for again, without a request."""
    console = Answers("", "", "pw")
    client = Replies(None)
    assert log_in(client, console) == ("alice", "pw")
    assert client.calls == [("login", "alice", "pw")]
    assert console.seen == ["Password for alice:"] * 3


def test_a_password_instead_of_yes_or_no() -> None:
    """The answer to the offer to register is hidden, in case the user types the password."""
    console = Answers("wrong", "pw", "pw")
    assert log_in(Replies(WRONG, None), console) == ("alice", "pw")
    assert console.hidden == console.seen


def test_a_new_name() -> None:
    """A name is registered once the password is typed twice."""
    console = Answers("alice", "pw", "y", "pwd", "pw", "y", "pw")
    client = Replies(WRONG, WRONG, None, None)
    assert log_in(client, console, name="") == ("alice", "pw")
    assert [name for name, *_ in client.calls] == ["login", "login", "register", "login"]
    assert "The passwords differ. Try again." in console.seen
    assert console.seen[-1] == "Welcome: alice is registered."


def test_a_new_name_with_the_password_from_the_environment() -> None:
    """A password from the environment need not be typed twice."""
    client = Replies(WRONG, None, None)
    assert log_in(client, Answers("y"), password="pw") == ("alice", "pw")


@pytest.mark.parametrize("refusal", [TAKEN, RequestRejected()])
def test_a_name_that_exists(refusal: RequestRejected) -> None:
    """If the name is taken, the password is asked for again, also with the original server."""
    client = Replies(WRONG if refusal.code else RequestRejected(), refusal, None)
    assert log_in(client, Answers("wrong", "y", "wrong", "pw")) == ("alice", "pw")


def test_three_wrong_passwords() -> None:
    """After three wrong passwords the dialog ends. It registers nothing without a yes."""
    client = Replies(WRONG, WRONG, WRONG)
    with pytest.raises(FatalError, match="Cannot log in as alice: the name or the password is wrong") as caught:
        log_in(client, Answers("a", "n", "b", "", "c", "no"))
    assert caught.value.exit_code == ExitCode.LOGIN_REFUSED
    assert [name for name, *_ in client.calls] == ["login"] * 3


def caused_by(error: Exception) -> ConnectionLost:
    lost = ConnectionLost("", sent=False)
    lost.__cause__ = error
    return lost


def test_another_address() -> None:
    """If the first address does not work, the dialog says which one is used."""
    client, console = Replies(None), Answers("pw")
    client.addresses, client.address = ("a:20000", "b:20000"), "b:20000"
    log_in(client, console)
    assert console.seen[1:] == ["Cannot use a:20000: connected to b:20000."]


def refused_certificate(number: int, words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = number, words
    return error


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        (
            RequestRejected("too_many_attempts"),
            ExitCode.LOGIN_REFUSED,
            "Cannot log in as alice: too many failed logins",
        ),
        (
            ConnectionLost("", sent=False),
            ExitCode.NO_CONNECTION,
            "Cannot connect to jelly://example.org: no server answers there",
        ),
        (ConnectionLost("", sent=True), ExitCode.NO_CONNECTION, "the server closed the connection"),
        (caused_by(ssl.SSLError()), ExitCode.NO_CONNECTION, "write jelly:// in its address"),
        (RequestTimeout(), ExitCode.NO_CONNECTION, "the server did not answer in time"),
    ],
)
def test_other_failures(reply: Exception, code: ExitCode, said: str) -> None:
    """Each failure has an exit code and one sentence."""
    with pytest.raises(FatalError, match=said) as caught:
        log_in(Replies(reply), Answers("pw"))
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("number", "words", "said", "helps"),
    [
        (18, "self-signed certificate", "is self-signed, or from an authority", "--tls-ca"),
        (20, "unable to get local issuer certificate", "is self-signed, or from an authority", "--tls-ca"),
        (62, "Hostname mismatch, certificate is not valid for 'localhost'.", "is for another name", "name the server"),
        (64, "IP address mismatch, certificate is not valid for '::1'.", "is for another name", "name the server"),
        (10, "certificate has expired", "has expired", "has to renew it"),
        (9, "certificate is not yet valid", "is not valid yet", "check the clock"),
        (23, "certificate revoked", "is refused: certificate revoked", "another one"),
    ],
)
def test_a_certificate_that_is_refused(number: int, words: str, said: str, helps: str) -> None:
    """The sentence says why, and what helps: --tls-ca only where the authority is unknown."""
    with pytest.raises(FatalError, match=f"Cannot connect to jelly://example.org: its certificate {said}") as caught:
        log_in(Replies(caused_by(refused_certificate(number, words))), Answers("pw"))
    assert caught.value.exit_code == ExitCode.NO_CONNECTION
    assert helps in str(caught.value)
    assert ("--tls-ca" in str(caught.value)) == (helps == "--tls-ca")


def test_a_certificate_that_is_not_in_the_file() -> None:
    """Where --tls-ca was given, it is not advised once more."""
    client = Replies(caused_by(refused_certificate(18, "self-signed certificate")))
    dialog = LoginDialog(client, "jellys://example.org", Translator("en"), Answers("pw"), "cert.pem")  # type: ignore[arg-type]
    with pytest.raises(FatalError, match=r"its certificate is not the one in cert\.pem, .*ask its operator"):
        dialog.run("alice", "", may_register=True)


def test_a_name_that_may_not_be() -> None:
    """If the server refuses a new name, the sentence says why."""
    client = Replies(WRONG, RequestRejected("invalid_username"))
    with pytest.raises(FatalError, match="Cannot register a b: a name must have 1 to 32 characters"):
        log_in(client, Answers("pw", "y", "pw"), name="a b")


def test_nobody_there() -> None:
    """Without a terminal, the sentence says what to set, and nothing is registered."""
    for name, password, said in (("", "pw", "No name is given"), ("alice", "", "set JELLY_PASSWORD")):
        with pytest.raises(FatalError, match=said) as caught:
            log_in(Replies(), Answers(is_interactive=False), name, password)
        assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(FatalError, match="Cannot log in as alice"):
        log_in(Replies(WRONG), Answers(is_interactive=False), password="pw")


def test_the_form_of_names_and_passwords(port: int) -> None:
    """An é is one character or two, as the keyboard has it: the same person, and the same password.
    New ones are set in one form; an old one may be in the other.
    """
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    register(port, "old", password=decomposed)

    def enter(name: str, *answers: str) -> tuple[str, str]:
        with JellyClient("127.0.0.1", port, reconnect=False) as client:
            return log_in(client, Answers(*answers), name)  # type: ignore[no-any-return]

    assert enter(decomposed, decomposed, "y", decomposed) == (composed, composed)
    for name in (composed, decomposed):
        assert enter(name, decomposed) == (composed, composed)
        assert enter(name, composed) == (composed, composed)
    assert enter("old", decomposed) == ("old", decomposed)


def test_passwords_in_the_chat() -> None:
    """/connect and /passwd try the normal form first, and set it."""
    chat = Chat()
    decomposed, wrong = "e\u0301", RequestRejected("wrong_credentials")
    chat.session.change_password(decomposed, "n\u0303", chat.model.home)
    chat.client.refuse(wrong)
    chat.client.answer()
    assert chat.client.calls == [
        ("update_profile", {"password": "ñ", "old_password": "é"}),
        ("update_profile", {"password": "ñ", "old_password": decomposed}),
    ]
    chat.client.calls.clear()
    chat.session.change_password("e", "x", chat.model.home)
    chat.client.refuse(wrong)
    assert len(chat.client.calls) == 1
    assert chat.said()[-1] == "the present password was wrong: nothing was changed"
    chat.session._password, chat.client.state = decomposed, State.OFFLINE
    chat.session.connect()
    chat.client.refuse(wrong)
    assert chat.client.calls[1:] == [("login", "alice", "é"), ("login", "alice", decomposed)]
