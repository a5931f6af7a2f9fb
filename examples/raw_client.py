"""A chat client in nothing but sockets: python examples/raw_client.py ME PASSWORD FRIEND [PORT]

It registers ME, which the server refuses if there is such a user already. Then it logs in, prints
what arrives, and sends each line that you type to FRIEND. It shows the protocol and nothing else:
it knows no TLS, and it does not reconnect. The password is on the command line because this is for
trying out.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time

HEADER = struct.Struct(">HBBBi")
REQUEST, RESPONSE, NOTICE = 1, 2, 3
LOGIN, REGISTER, PERSON_MESSAGE, HEARTBEAT = 0x11, 0x12, 0x15, 0x23
SUCCESS = 0x31


def send(sock: socket.socket, type: int, **values: object) -> None:
    """Send one request: a header of nine bytes, then the body."""
    body = json.dumps(values).encode() if values else b""
    sock.sendall(HEADER.pack(0xABCD, REQUEST, type, 0, len(body)) + body)


def receive(sock: socket.socket) -> tuple[int, int, int, dict[str, object]]:
    """Receive one frame: sign, type, status and body.

    Raises EOFError when the server has closed the connection.
    """
    with sock.makefile("rb", buffering=0) as stream:

        def read(count: int) -> bytes:
            data = b""
            while len(data) < count:
                piece = stream.read(count - len(data))
                if not piece:
                    raise EOFError
                data += piece
            return data

        _, sign, type, status, length = HEADER.unpack(read(HEADER.size))
        return sign, type, status, json.loads(read(length) or b"{}")


def connect(port: int, type: int, me: str, password: str) -> tuple[socket.socket, int, dict[str, object]]:
    """Open a connection and register or log in on it."""
    try:
        sock = socket.create_connection(("127.0.0.1", port))
    except ConnectionRefusedError:
        sys.exit(f"! no server on port {port}: start one with python jelly.py")
    send(sock, type, username=me, password=password)
    try:
        _, _, status, values = receive(sock)
    except (EOFError, OSError):
        sys.exit("! the server has closed the connection before it answered: does it use TLS? This client does not")
    return sock, status, values


def print_what_arrives(sock: socket.socket) -> None:
    try:
        while True:
            sign, _, status, values = receive(sock)
            if sign == NOTICE:
                print(f"{values['sender']}: {values['content']}", flush=True)
            elif status != SUCCESS:
                print(f"! {values['message']}", flush=True)
    except (EOFError, OSError):
        print("! the server has closed the connection", flush=True)
        os._exit(1)  # ends the main thread, too, which waits for a line


def send_heartbeats(sock: socket.socket) -> None:
    try:
        while True:
            time.sleep(5)
            send(sock, HEARTBEAT)
    except OSError:
        pass  # closed: the other thread prints that


def main(me: str, password: str, friend: str, port: int) -> None:
    sock, registered, refusal = connect(port, REGISTER, me, password)
    sock.close()  # the server closes the connection after every response to REGISTER
    sock, status, values = connect(port, LOGIN, me, password)
    if status != SUCCESS:
        if registered != SUCCESS:  # the login cannot say why: perhaps there is no such user
            print(f"! {me} was not registered: {refusal['message']}", flush=True)
        sys.exit(f"! {me} is not logged in: {values['message']}")
    print(f"logged in as {me}; every line goes to {friend}", flush=True)
    for job in (print_what_arrives, send_heartbeats):
        threading.Thread(target=job, args=(sock,), daemon=True).start()
    with contextlib.suppress(OSError):  # closed: the other thread prints that, and ends the program
        for text in sys.stdin:
            content, now = text.rstrip("\n"), int(time.time() * 1000)
            send(sock, PERSON_MESSAGE, sender=me, receiver=friend, content=content, time=now)
    time.sleep(0.2)  # for the last responses


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or not (port := [*sys.argv, "20000"][4]).isdecimal() or int(port) > 65535:
        sys.exit(__doc__)
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], int(port))
    except (EOFError, OSError):
        sys.exit("! the server has closed the connection")
    except KeyboardInterrupt:
        pass
