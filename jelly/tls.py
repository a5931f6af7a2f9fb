"""TLS as a filter: bytes in, bytes out. The reader and the send queue hardly notice it.

An ssl.SSLSocket would not do here. The reader blocks in it as long as its client is silent, other
threads must write meanwhile, and OpenSSL allows one thread at a time on a connection. So the socket
stays a plain one. An ssl.SSLObject between two memory buffers decrypts incoming bytes and encrypts
outgoing ones, each under a lock that no thread holds while it waits.
"""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from jelly.errors import ConfigError


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """A context with the operator's certificate. Raises ConfigError if it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With a password that is wrong, a key with a password fails. Without one, Python would ask.
        context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        if problem := _key_problem(certificate, key):
            raise ConfigError(problem) from error
        raise ConfigError(
            f"The certificate {certificate} or its key cannot be used: {error}. Check --tls-cert and --tls-key."
        ) from error
    return context


def _key_problem(certificate: str, key: str) -> str:
    """What is wrong with the private key, if one can see it; empty if not. (The sentence of OpenSSL
    does not say it.)
    """
    try:
        Path(certificate).read_bytes()
    except OSError:
        return ""  # the certificate itself cannot be read, which OpenSSL says
    file = key or certificate
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        return f"The private key {file} cannot be used: {error.strerror}. Check --tls-key."
    if b"PRIVATE KEY-----" not in text:
        advice = "Check --tls-key" if key else "Give --tls-key, too"
        is_certificate = b"BEGIN CERTIFICATE-----" in text
        return f"The file {file} has no private key. {advice}." if key or is_certificate else ""
    if b"ENCRYPTED" in text:
        return (
            f"The private key in {file} cannot be used: it has a password. Store it without one "
            "(openssl pkey -in KEY -out NEW_KEY), and give it with --tls-key."
        )
    return ""


class TlsFilter:
    """The TLS state of one connection, on the server's side."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()  # guards the three above
        self.has_ended = False
        """Whether the client has ended its half of the connection (close_notify)."""

    def handshake(self, receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
        """Do the handshake. Raises OSError (ssl.SSLError is one) if it fails or the client
        leaves.
        """
        while True:
            try:
                with self._lock:
                    self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._send_outgoing(send)
                data = receive()
                if not data:
                    raise ConnectionError("the client left during the handshake") from None
                with self._lock:
                    self._incoming.write(data)
            finally:
                self._send_outgoing(send)

    def decrypt(self, data: bytes) -> bytes:
        """Decrypt what was read; empty if no record is complete yet. Raises OSError if that fails.

        If TLS itself has to answer, its answer leaves with the next `encrypt`, so that records stay
        in order.
        """
        plaintext = []
        with self._lock:
            self._incoming.write(data)
            try:
                while piece := self._object.read(65536):
                    plaintext.append(piece)
                self.has_ended = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.has_ended = True
        return b"".join(plaintext)

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt bytes to write. Raises OSError if TLS has failed."""
        with self._lock:
            self._object.write(data)
            return self._outgoing.read()

    def _send_outgoing(self, send: Callable[[bytes], None]) -> None:
        with self._lock:
            data = self._outgoing.read()
        if data:
            send(data)
