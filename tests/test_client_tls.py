"""The client library with TLS: the same conversations, and clear errors if the two sides do not
match."""

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from client_tools import QUICK, Recorder, ScriptedServer, error, message, result
from harness import StartServer, dated_certificate
from wire import wait_until

from client_api import ConnectionLost, JellyClient, State
from faults.proxy import Proxy
from jelly.server import JellyServer

Dial = Callable[..., JellyClient]


@pytest.fixture
def trusting(request: pytest.FixtureRequest) -> ssl.SSLContext:
    """A context that trusts the test's certificate."""
    path: Path = request.getfixturevalue("certificate")[0]
    return ssl.create_default_context(cafile=str(path))


@pytest.fixture
def server(request: pytest.FixtureRequest, start_server: StartServer) -> JellyServer:
    """A server with TLS, and with alice and bob."""
    certificate, key = request.getfixturevalue("certificate")
    server = start_server(tls_cert=str(certificate), tls_key=str(key), classic_gap=0)
    context = ssl.create_default_context(cafile=str(certificate))
    with JellyClient("localhost", server.port, tls=context) as client:
        for name in ("alice", "bob"):
            result(client.register(name, "pw"))
    return server


def test_a_conversation(server: JellyServer, trusting: ssl.SSLContext) -> None:
    """jellys:// means TLS, with your own context if you pass one."""
    recorder, url = Recorder(), f"jellys://localhost:{server.port}"
    with (
        JellyClient.from_url(url, tls=trusting) as alice,
        JellyClient.from_url(url, tls=trusting, receiver=recorder) as bob,
    ):
        result(alice.login("alice", "pw"))
        result(bob.login("bob", "pw"))
        result(alice.send_message("bob", "hello"))
        assert recorder.contents(1) == ["hello"]
        assert result(bob.list_groups()) == {}
        assert result(bob.logout()) is None


def test_a_megabyte_in_both_directions(server: JellyServer, trusting: ssl.SSLContext) -> None:
    """Two hundred messages of five kilobytes each way, all at once, arrive whole and in order."""
    of_alice, of_bob = Recorder(), Recorder()
    with (
        JellyClient("localhost", server.port, tls=trusting, receiver=of_alice) as alice,
        JellyClient("localhost", server.port, tls=trusting, receiver=of_bob) as bob,
    ):
        result(alice.login("alice", "pw"))
        result(bob.login("bob", "pw"))
        contents = [f"{number} {'é' * 2600}" for number in range(200)]
        pairs = [(alice.send_message("bob", each), bob.send_message("alice", each)) for each in contents]
        for pair in pairs:
            assert [result(sent).receiver for sent in pair] == ["bob", "alice"]
        assert of_alice.contents(200) == of_bob.contents(200) == contents


def test_frames_of_the_largest_size(server: JellyServer, trusting: ssl.SSLContext) -> None:
    """A message takes several TLS records, in a single write."""
    recorder = Recorder()
    with JellyClient("localhost", server.port, tls=trusting, receiver=recorder) as alice:
        result(alice.login("alice", "pw"))
        futures = [alice.send_message("alice", str(number) * 65_000) for number in range(10)]
        for future in futures:
            result(future)
        assert [content[0] for content in recorder.contents(10)] == [str(number) for number in range(10)]


def test_reconnect(server: JellyServer, trusting: ssl.SSLContext) -> None:
    """After a lost connection there is a new TLS handshake."""
    recorder = Recorder()
    with (
        Proxy(server.port) as proxy,
        JellyClient("localhost", proxy.port, tls=trusting, receiver=recorder, reconnect=QUICK) as alice,
    ):
        result(alice.login("alice", "pw"))
        proxy.cut()
        recorder.wait_for_state(State.ONLINE, count=2)
        assert result(alice.own_profile()).username == "alice"


def test_a_server_that_takes_nothing_for_a_while(
    script: ScriptedServer, request: pytest.FixtureRequest, trusting: ssl.SSLContext
) -> None:
    """What the socket does not take at once is sent later, record by record."""
    certificate, key = request.getfixturevalue("certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with JellyClient("localhost", script.port, tls=trusting) as alice:
        login = alice.login("alice", "pw")
        peer = script.accept()
        peer.socket = context.wrap_socket(peer.socket, server_side=True)
        peer.receive()
        peer.answer(0x11, username="alice", token=7, features=["ack"])
        result(login)
        sent = [alice.send_message("bob", "x" * 60_000) for _ in range(100)]
        for number in range(100):
            assert len(peer.receive_request(0x15)["content"]) == 60_000
            peer.send(message(str(number)))
            peer.answer(0x15)
        assert {result(each).receiver for each in sent} == {"bob"}
        peer.close()


# --- where it does not fit ------------------------------------------------------------------------


def refused(client: JellyClient) -> ConnectionLost:
    """Return the error of a login that never reached the server."""
    with client:
        failure = error(client.login("alice", "pw"))
        assert type(failure) is ConnectionLost
        assert client.state is State.OFFLINE
        return failure


def test_an_untrusted_certificate(server: JellyServer) -> None:
    """The error says why, and what to do; the password was not sent."""
    failure = refused(JellyClient("localhost", server.port, tls=True))
    assert not failure.sent
    assert str(failure) == (
        f"Cannot connect to localhost port {server.port}: its certificate is self-signed, or from an authority that "
        "this machine does not know. If you trust the server, get its certificate from its operator: name the file in "
        "SSL_CERT_FILE, or pass tls=ssl.create_default_context(cafile=FILE)."
    )


@pytest.mark.parametrize(("which", "said"), [("expired", "has expired. The operator"), ("future", "is not valid yet.")])
def test_a_certificate_of_another_time(
    start_server: StartServer, certificate: tuple[Path, Path], tmp_path: Path, which: str, said: str
) -> None:
    """The error says that, and that the clock may be wrong."""
    path = dated_certificate(tmp_path, certificate[1], which)
    server = start_server(tls_cert=str(path), tls_key=str(certificate[1]))
    failure = refused(JellyClient("localhost", server.port, tls=ssl.create_default_context(cafile=str(path))))
    assert f"its certificate {said}" in str(failure)
    assert "heck the clock of this machine" in str(failure)


def test_a_certificate_for_another_name(server: JellyServer, trusting: ssl.SSLContext) -> None:
    """The name in the URL counts."""
    failure = refused(JellyClient("127.0.0.1", server.port, tls=trusting))
    assert not failure.sent
    assert "its certificate is for another name or address. Connect by a name or address in" in str(failure)


def test_tls_on_a_port_without(port: int, trusting: ssl.SSLContext) -> None:
    """The error names the other kind of URL; nothing was sent."""
    failure = refused(JellyClient("localhost", port, tls=trusting))
    assert not failure.sent
    assert str(failure).endswith(
        "TLS failed (wrong version number). If the server does not use TLS, use a URL that begins with jelly://."
    )


def test_no_tls_on_a_port_with_it(server: JellyServer) -> None:
    """OpenSSL takes a LOGIN for the beginning of a very old hello; the server closes when its time
    is up."""
    wait_until(lambda: not server.connections)  # those that registered have left
    with JellyClient("localhost", server.port) as client:
        login = client.login("alice", "pw")
        wait_until(lambda: any(connection.send_queue.read_bytes for connection in tuple(server.connections)))
        server.watchdog.check(time.monotonic() + 10.1)
        failure = error(login)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    assert str(failure).endswith("If the server uses TLS, use a URL that begins with jellys://.")


def test_a_server_that_leaves_in_the_handshake(script: ScriptedServer, trusting: ssl.SSLContext) -> None:
    """That is reported as a failure of TLS, too."""
    leaver = threading.Thread(target=lambda: script.accept().close())
    leaver.start()
    failure = refused(JellyClient("localhost", script.port, tls=trusting))
    leaver.join()
    assert not failure.sent


def test_a_server_that_says_nothing_in_the_handshake(script: ScriptedServer, trusting: ssl.SSLContext) -> None:
    """`connect_timeout` includes the TLS handshake, and close() interrupts it."""
    client = JellyClient("localhost", script.port, tls=trusting, connect_timeout=0.2)
    assert str(refused(client)).endswith("timed out.")
    with JellyClient("localhost", script.port, tls=trusting) as waiting:
        login = waiting.login("alice", "pw")
        waiting.close(timeout=0.1)
        assert (type(error(login)), error(login).sent) == (ConnectionLost, False)
