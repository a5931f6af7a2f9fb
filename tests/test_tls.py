"""TLS: the same protocol through a filter; no client can hold up the others."""

import socket
import ssl
import subprocess
import time
import warnings
from pathlib import Path

import pytest
from harness import StartServer, dated_certificate
from wire import LOGIN, OWN_PROFILE, REGISTER, RESPONSE, SUCCESS, Wire, pack, wait_until

from jelly.config import Settings
from jelly.errors import ConfigError
from jelly.server import JellyServer
from jelly.tls import server_context


@pytest.fixture
def server(start_server: StartServer, certificate: tuple[Path, Path]) -> JellyServer:
    return start_server(tls_cert=str(certificate[0]), tls_key=str(certificate[1]), classic_gap=1)


class TlsWire(Wire):
    """A connection through TLS that checks the server's certificate."""

    def __init__(self, server: JellyServer, certificate: Path) -> None:
        super().__init__(server.port)
        context = ssl.create_default_context(cafile=str(certificate))
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


def test_a_conversation(server: JellyServer, certificate: tuple[Path, Path]) -> None:
    """Two people register, log in and write to each other, live and stored, long and short."""
    for name in ("alice", "bob"):
        with TlsWire(server, certificate[0]) as wire:
            assert wire.call(REGISTER, username=name, password="pw").status == SUCCESS
    with TlsWire(server, certificate[0]) as alice, TlsWire(server, certificate[0]) as bob:
        assert alice.login("alice").status == SUCCESS
        alice.message("bob", "x" * 60_000)
        assert bob.login("bob").status == SUCCESS
        assert bob.contents(1) == ["x" * 60_000]
        for number in range(50):
            alice.message("bob", f"m{number}")
            bob.message("alice", f"r{number}")
        assert bob.contents(50) == [f"m{number}" for number in range(50)]
        assert alice.contents(50) == [f"r{number}" for number in range(50)]


def test_a_message_that_the_socket_does_not_take_at_once(
    start_server: StartServer, certificate: tuple[Path, Path]
) -> None:
    """What a slow receiver leaves waiting comes in order, record by record."""
    server = start_server(tls_cert=str(certificate[0]), tls_key=str(certificate[1]), classic_gap=0)
    for name in ("alice", "bob"):
        with TlsWire(server, certificate[0]) as wire:
            wire.call(REGISTER, username=name, password="pw")
    with TlsWire(server, certificate[0]) as alice, TlsWire(server, certificate[0]) as bob:
        alice.login("alice")
        bob.login("bob")
        for number in range(200):
            alice.message("bob", f"{number} {'x' * 50_000}")
        assert [int(content.split()[0]) for content in bob.contents(200)] == list(range(200))


def test_silent_connections_do_not_hold_up_others(server: JellyServer, certificate: tuple[Path, Path]) -> None:
    """Clients that never begin their handshake are closed after ten seconds."""
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    with TlsWire(server, certificate[0]) as alice:
        assert alice.call(LOGIN, username="nobody", password="pw").error == "wrong_credentials"
    wait_until(lambda: len(server.connections) == 50)
    server.watchdog.check(time.monotonic() + 10.1)
    wait_until(lambda: not server.connections)
    for each in silent:
        assert each.recv(1) == b""
        each.close()


def test_clear_text_on_the_tls_port(server: JellyServer) -> None:
    """A client that speaks no TLS is not served, and the server lives."""
    with Wire(server.port) as wire:
        wire.send(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.is_closed_by_server()
    wait_until(lambda: not server.connections)


def test_a_heartbeat_and_half_a_record(server: JellyServer, certificate: tuple[Path, Path]) -> None:
    """Bytes that complete no record are kept until they do."""
    with TlsWire(server, certificate[0]) as alice:
        assert alice.call(REGISTER, username="alice", password="pw").status == SUCCESS
    with TlsWire(server, certificate[0]) as alice:
        alice.login("alice")
        alice.heartbeat()
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}


def test_a_request_that_comes_with_the_end_of_the_handshake(
    server: JellyServer, certificate: tuple[Path, Path]
) -> None:
    """The first request may come in the same segment as the end of the handshake."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with Wire(server.port) as wire:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.send(outgoing.read())
                incoming.write(wire.socket.recv(65536))
        tls.write(pack(REGISTER, b'{"username":"alice","password":"pw"}'))
        wire.send(outgoing.read())
        while data := wire.socket.recv(65536):
            incoming.write(data)
        assert tls.read(65536) == pack(REGISTER, b'{"username":"alice"}', RESPONSE, SUCCESS)


def test_byte_by_byte(server: JellyServer, certificate: tuple[Path, Path]) -> None:
    """Handshake and requests may come in pieces of one byte."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with Wire(server.port) as wire:
        for step in (tls.do_handshake, lambda: tls.write(pack(0x20) + pack(0x21)), lambda: tls.read(4)):
            while True:
                try:
                    step()
                    break
                except ssl.SSLWantReadError:
                    send_slowly(wire, outgoing.read())
                    incoming.write(wire.socket.recv(65536))


def send_slowly(wire: Wire, data: bytes) -> None:
    for byte in data:
        wire.send(bytes([byte]))


@pytest.mark.parametrize("size", [0, 1, 100], ids=["nothing", "one byte", "100 bytes"])
def test_a_handshake_that_does_not_end(server: JellyServer, size: int) -> None:
    """Ten seconds after connecting the handshake must be over, however much of it has come."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x").do_handshake()
    with Wire(server.port) as wire:
        wire.send(outgoing.read()[:size])
        wait_until(lambda: server.connections)
        server.watchdog.check(time.monotonic() + 9)
        assert not any(connection.send_queue.is_closed for connection in tuple(server.connections))
        server.watchdog.check(time.monotonic() + 10.1)
        assert wire.is_closed_by_server()


def test_old_versions_are_refused(server: JellyServer, certificate: tuple[Path, Path]) -> None:
    """TLS 1.2 is the oldest that is spoken, and TLS 1.2 is spoken."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Wire(server.port) as wire:
        wire.socket = tls = context.wrap_socket(wire.socket, server_hostname="localhost")
        assert tls.version() == "TLSv1.2"
        assert wire.call(LOGIN, username="nobody", password="pw").error == "wrong_credentials"
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Wire(server.port) as wire:
        wire.socket = tls = context.wrap_socket(wire.socket, server_hostname="localhost", do_handshake_on_connect=False)
        with pytest.raises(ssl.SSLError):
            tls.do_handshake()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Path:
    """A directory with a certificate and its key, and with files that are something else."""
    directory = tmp_path_factory.mktemp("files")
    cert, key = certificate[0].read_bytes(), certificate[1].read_bytes()
    lines = key.splitlines(keepends=True)
    for name, data in {
        "cert.pem": cert,
        "key.pem": key,
        "both.pem": cert + key,
        "cut.pem": cert[:600],
        "chain.pem": cert + cert[:600],
        "cut-key.pem": key[:800],
        "damaged-key.pem": b"".join(lines[:3] + lines[6:]),
        "text.pem": b"hello",
        "empty.pem": b"",
        "cert.der": ssl.PEM_cert_to_DER_cert(cert.decode()),
    }.items():
        (directory / name).write_bytes(data)
    (directory / "directory.pem").mkdir()
    for command in (
        "genrsa -out other-key.pem 2048",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec-key.pem",
        "req -new -key key.pem -subj /CN=jelly -out request.pem",
        "pkey -in key.pem -outform DER -out key.der",
        "req -x509 -newkey rsa:512 -nodes -subj /CN=jelly -keyout weak-key.pem -out weak.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.mark.parametrize(
    ("cert", "key", "sentence"),
    [
        ("none.pem", "key.pem", "The certificate none.pem cannot be read: No such file or directory. Check --tls-cert"),
        ("directory.pem", "", "The certificate directory.pem cannot be read: Is a directory. Check --tls-cert"),
        ("text.pem", "key.pem", "The file text.pem has no certificate in PEM"),
        ("empty.pem", "key.pem", "The file empty.pem has no certificate in PEM"),
        ("cert.der", "key.pem", "The file cert.der is binary, and not a certificate in PEM: convert it"),
        ("request.pem", "key.pem", "The file request.pem has only the request for a certificate"),
        ("key.pem", "cert.pem", "The file key.pem has a private key, and no certificate"),
        ("cut.pem", "key.pem", "The certificate cut.pem is damaged or not complete: copy it anew"),
        ("chain.pem", "key.pem", "The certificate chain.pem is damaged or not complete: copy it anew"),
        ("cert.pem", "none.pem", "The private key none.pem cannot be read: No such file or directory. Check --tls-key"),
        ("cert.pem", "directory.pem", "The private key directory.pem cannot be read: Is a directory. Check --tls-key"),
        ("cert.pem", "cert.pem", "The file cert.pem has no private key. Check --tls-key"),
        ("cert.pem", "", "The file cert.pem has no private key. Give --tls-key, too"),
        ("cert.pem", "key.der", "The private key key.der is binary: convert it to PEM"),
        ("cert.pem", "cut-key.pem", "The private key in cut-key.pem is damaged or not complete: copy it anew"),
        ("cert.pem", "damaged-key.pem", "The private key in damaged-key.pem is damaged or not complete: copy it anew"),
        ("cert.pem", "other-key.pem", "The private key in other-key.pem does not belong to the certificate cert.pem"),
        ("cert.pem", "ec-key.pem", "The private key in ec-key.pem does not belong to the certificate cert.pem"),
        ("weak.pem", "weak-key.pem", "The certificate weak.pem is too weak for this system (ee key too small): make"),
        ("a\0b", "", "The certificate 'a\\x00b' is not the name of a file"),
    ],
)
def test_files_that_cannot_be_used(
    files: Path, monkeypatch: pytest.MonkeyPatch, cert: str, key: str, sentence: str
) -> None:
    """The sentence says which file is wrong and why, without the words of OpenSSL."""
    monkeypatch.chdir(files)
    with pytest.raises(ConfigError) as caught:
        server_context(cert, key)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith((".", ")."))
    assert "_ssl.c" not in str(caught.value)


def test_files_that_this_user_may_not_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says so. (Root may read every file, so the system's answer is replaced.)"""

    read = Path.read_bytes

    def read_some(path: Path) -> bytes:
        if path.name == "closed.pem":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.chdir(files)
    monkeypatch.setattr(Path, "read_bytes", read_some)
    for cert, key, sentence in (
        ("closed.pem", "", "This user may not read the certificate closed.pem: change its permissions"),
        ("cert.pem", "closed.pem", "This user may not read the private key closed.pem: change its permissions"),
    ):
        with pytest.raises(ConfigError) as caught:
            server_context(cert, key)
        assert str(caught.value).startswith(sentence)


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    """The server says so before anything is opened."""
    with pytest.raises(ConfigError, match=r"The certificate /none.pem cannot be read"):
        JellyServer(Settings(tls_cert="/none.pem", database=f"sqlite:///{tmp_path}/jelly.db"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("expired", "has expired, so clients refuse it: renew it, and send SIGHUP"),
        ("future", "is not valid yet, so clients refuse it: check the clock of this machine"),
    ],
)
def test_a_certificate_of_another_time(
    tmp_path: Path, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture, which: str, words: str
) -> None:
    """The server uses it, and warns that clients refuse it. Of a good one it says nothing."""
    server_context(str(certificate[0]), str(certificate[1]))
    assert caplog.messages == []
    path = dated_certificate(tmp_path, certificate[1], which)
    server_context(str(path), str(certificate[1]))
    assert caplog.messages == [f"the certificate {path} {words}"]


def test_a_key_with_a_password(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """Nobody is asked for it: the server says that the key cannot be used."""
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", str(certificate[1]), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    sentence = r"^The private key in .*locked.pem cannot be used: it has a password\. Store it without one"
    with pytest.raises(ConfigError, match=sentence):
        server_context(str(certificate[0]), str(locked))
    both = tmp_path / "both.pem"
    both.write_bytes(certificate[0].read_bytes() + locked.read_bytes())
    with pytest.raises(ConfigError, match=r"both\.pem cannot be used: it has a password"):
        server_context(str(both), "")


def test_a_client_that_says_goodbye(server: JellyServer, certificate: tuple[Path, Path]) -> None:
    """After TLS's own end of the conversation, close_notify, the user is offline at once."""
    with TlsWire(server, certificate[0]) as wire:
        wire.call(REGISTER, username="alice", password="pw")
    with TlsWire(server, certificate[0]) as alice:
        alice.login("alice")
        assert isinstance(alice.socket, ssl.SSLSocket)
        with pytest.raises((ssl.SSLError, OSError)):  # the server says no goodbye of its own
            alice.socket.unwrap()
        wait_until(lambda: server.sessions.get("alice") is None)
