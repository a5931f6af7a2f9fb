"""Step 0 of docs/architecture.md, a server on one page: python examples/minimal_server.py [PORT]

    client -> ThreadingTCPServer -> frames (struct) -> queue.Queue -> ThreadPoolExecutor -> serve
    client <- response to the sender, notices to the receivers <- serve
    threading.Timer -> takes idle groups out of the cache

It serves raw_client.py and the client library. BREAKS marks what fails, and the cure in jelly/.
"""

import json, queue, secrets, signal, socket, socketserver, struct, sys, threading, time, typing  # noqa: E401, I001
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

HEADER = struct.Struct(">HBBBi")  # magic, sign, type, status, length of the body
RESPONSE, NOTICE, SUCCESS, REQUEST_ERROR, HEARTBEAT = 2, 3, 0x31, 0x32, 0x23
WORKERS, QUEUE_SIZE, IDLE_SECONDS = 4, 64, 300.0
requests = queue.Queue[tuple["Client", int, bytes]](QUEUE_SIZE)
lock = threading.RLock()  # guards the dictionaries. BREAKS: a crash loses them all. store.py: Store
users, tokens, groups, online = dict[str, str](), dict[int, str](), dict[str, list[str]](), dict[str, "Client"]()
waiting, cache = dict[str, list[tuple[int, int, typing.Any]]](), dict[str, tuple[float, list[str]]]()


class Client(socketserver.StreamRequestHandler):  # one for each connection
    user, timeout = "", 30  # seconds of silence. BREAKS: a byte every 29 keeps the thread. watchdog.py: Watchdog

    def handle(self) -> None:  # runs in a thread of its own
        self.sending = threading.Lock()  # without it, two workers would mix their frames
        with suppress(OSError, struct.error):  # the connection broke, or was silent for too long
            while True:
                _, _, type, _, length = HEADER.unpack(self.rfile.read(HEADER.size))
                body = self.rfile.read(length)  # BREAKS: two gigabytes fill the memory. codec.py: Decoder
                if type != HEARTBEAT:
                    requests.put((self, type, body))  # BREAKS: one user can fill it. queue_dispatch.py: RequestQueue
        with lock:
            if online.get(self.user) is self:  # else another connection has taken over
                del online[self.user]

    def send(self, sign: int, type: int, status: int, values: dict[str, typing.Any]) -> None:
        body = json.dumps(values).encode() if values else b""
        frame = HEADER.pack(0xABCD, sign, type, status, len(body)) + body
        with self.sending, suppress(OSError):  # BREAKS: a deaf client stops the worker. send_queue.py: SendQueue
            self.request.sendall(frame)  # BREAKS: two in one read stall the original client. pacing.py: ClassicPacing

    def serve(self, type: int, body: dict[str, typing.Any]) -> tuple[dict[str, typing.Any], list[str]]:
        user, to, group = body.get("sender") or body["username"], body.get("receiver", ""), body.get("groupName", "")
        check(self.user == ("" if type in (0x11, 0x12, 0x14) else user), "not_yourself")
        check(type in (0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x19), "unknown_type")
        receivers = [to] if type == 0x15 else []  # PERSON_MESSAGE
        match type:
            case 0x12:  # REGISTER
                check(user not in users, "username_taken")
                users[user] = body["password"]  # BREAKS: in clear, to be guessed. login_guard.py: LoginGuard
                return {"username": user}, []
            case 0x11 | 0x14:  # LOGIN has a password, RECONNECT a token
                token = body.get("token") or secrets.randbits(63)
                check(users.get(user, ...) == body.get("password") or tokens.get(token) == user, "wrong_credentials")
                self.user, online[user], tokens[token] = user, self, user
                return {"username": user, "token": token}, [user]  # to whom its messages go, as below
            case 0x13:  # LOGOUT
                check(tokens.pop(body["token"], "") == user, "invalid_token")
                self.request.shutdown(socket.SHUT_RDWR)
            case 0x15:  # PERSON_MESSAGE
                check(to in users, "no_such_user")
            case 0x16:  # GROUP_MESSAGE
                check(user in self.members(to), "not_a_member")
                receivers = [name for name in self.members(to) if name != user]
            case 0x17:  # CREATE_GROUP
                check(group not in groups, "group_exists")
                groups[group] = [user]
            case 0x19:  # ADD_MEMBER
                check(self.members(group)[0] == user, "not_group_creator")
                check(body["member"] in users, "no_such_user")
                groups[group].append(body["member"])
        for name in receivers:
            waiting.setdefault(name, []).append((type, 0, body))
        return {}, receivers

    def members(self, group: str) -> list[str]:  # cached, with the time when they were used last
        check(group in groups, "no_such_group")
        cache[group] = time.monotonic(), cache[group][1] if group in cache else groups[group]
        return cache[group][1]


def check(condition: bool, code: str) -> None:
    if not condition:
        raise PermissionError(code)


def sweep() -> None:
    with lock:
        for group in [name for name, (used, _) in cache.items() if used < time.monotonic() - IDLE_SECONDS]:
            del cache[group]
    threading.Timer(IDLE_SECONDS, sweep).start()  # BREAKS: after an error, never again. groups.py: GroupCache


def work(_: int) -> None:
    for client, type, data in iter(requests.get, None):  # BREAKS: answers overtake each other. queue_dispatch.py: Lane
        try:
            with lock:
                status, (answer, receivers) = SUCCESS, client.serve(type, json.loads(data))
        except Exception as error:  # noqa: BLE001 - refused, or it makes no sense
            status, answer, receivers = REQUEST_ERROR, {"error": str(error), "message": f"Refused: {error}."}, []
        client.send(RESPONSE, type, status, answer)
        for user in receivers:
            with suppress(KeyError, IndexError):  # the user is offline, or nothing is left
                while True:  # BREAKS: what dies on the way is gone. delivery.py: Delivery
                    online[user].send(NOTICE, *waiting[user].pop(0))


if __name__ == "__main__":
    socketserver.TCPServer.allow_reuse_address = True  # else no start for a minute after one that had clients
    try:
        with socketserver.ThreadingTCPServer(("127.0.0.1", int([*sys.argv, "20000"][1])), Client) as server:
            ThreadPoolExecutor(WORKERS).map(work, range(WORKERS))  # `submit` of each request would bound nothing
            sweep()
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # BREAKS: Ctrl-C drops requests. server.py: JellyServer
            print(f"listening on 127.0.0.1 port {server.server_address[1]}", flush=True)
            server.serve_forever()
    except (OSError, ValueError, OverflowError) as error:
        sys.exit(f"Cannot listen: {error}. Is another server running? Choose another port: minimal_server.py PORT")
