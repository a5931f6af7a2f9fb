"""TLS as a filter: bytes in, bytes out. The reader and the send queue hardly notice it.

An ssl.SSLSocket would not do here. The reader blocks in it as long as its client is silent, other
threads must write meanwhile, and OpenSSL allows one thread at a time on a connection. So the socket
stays a plain one. An ssl.SSLObject between two memory buffers decrypts incoming bytes and encrypts
outgoing ones, each under a lock that no thread holds while it waits.
"""

import ssl
import threading
from collections.abc import Callable

from jelly.certificates import load_certificate


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """A context with the operator's certificate. Raises ConfigError if it cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, certificate, key)
    return context


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
