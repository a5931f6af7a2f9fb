"""The command line: `python jelly.py` in a checkout, `jelly` when installed."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import jelly
from jelly import scheduling
from jelly.config import Settings, add_arguments, load_settings
from jelly.demo import demo_database
from jelly.errors import ConfigError, StartError
from jelly.server import JellyServer

log = logging.getLogger("jelly")

DEFAULT_URL = "jelly://127.0.0.1:20000"
"""Where the chat looks for a server if it is not told another place."""
STOP_AT_LAST = 9.5
"""Seconds from the first signal until the process ends, whatever hangs."""

DESCRIPTION = """Jelly, an instant-messaging server. Every setting may also stand in the environment, as JELLY_PORT
and so on, or in a TOML file. `jelly chat` is the chat for a person: see `jelly chat --help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 cannot start, 2 a setting is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:1]) == ["chat"]:
        from jelly.chat.app import main as chat  # the server must not need what the chat needs

        return chat(arguments[1:])
    parser = argparse.ArgumentParser(prog="jelly", description=DESCRIPTION)
    parser.add_argument("command", nargs="?", choices=["serve"], default="serve", help="what to do (default: serve)")
    parser.add_argument("--version", action="version", version=f"jelly {jelly.__version__}")
    parser.add_argument("--demo", action="store_true", help="serve a temporary database with users alice and bob")
    add_arguments(parser)
    try:
        parsed = parser.parse_args(arguments)
        settings = load_settings(parsed)
        if parsed.demo and parsed.database:
            raise ConfigError("--demo has a database of its own: leave out --database.")
        set_up_logging(settings)
        return serve_demo(settings) if parsed.demo else serve(settings)
    except StartError as error:
        print(f"jelly: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:  # while it starts; later the signal has its handler
        return 130


def serve_demo(settings: Settings) -> int:
    """Serve a database that is thrown away afterwards, and say how to use it. Raises StartError."""
    with demo_database(settings.password_cost) as demo:

        def invite(port: int) -> None:
            program = "python jelly.py" if Path(sys.argv[0]).name == "jelly.py" else "jelly"
            url = _url(settings, port)
            server = "" if url == DEFAULT_URL else f" --server {url}"
            print("To try it out, in two more terminals (what is written here is gone when this server stops):\n")
            for name, password in demo.passwords.items():
                print(f"    {program} chat {name}{server}    # password: {password}")
            print(flush=True)

        return serve(dataclasses.replace(settings, database=demo.url), invite)


def _url(settings: Settings, port: int) -> str:
    """Where a client on this machine finds the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"{'jellys' if settings.tls_cert else 'jelly'}://{f'[{host}]' if ':' in host else host}:{port}"


def serve(settings: Settings, on_listening: Callable[[int], None] = lambda _: None) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once. Raises StartError.

    `on_listening` is called with the port when clients may come.
    """
    _raise_descriptor_limit(settings)
    place = scheduling.pin_process(settings.pin)
    # Not an Event: the handler runs on this very thread, perhaps while that holds the Event's lock to wait for it.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        signals.put(number)

    server = JellyServer(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server.start()
    log.info(
        "listening on %s port %d%s; database %s; at most %d connections, %d waiting requests, %d bytes a body; "
        "driver %s; %s",
        settings.host,
        server.port,
        " with TLS" if settings.tls_cert else "",
        server.engine.describe(),
        settings.max_connections,
        settings.queue_size,
        settings.max_body,
        server.engine.driver,
        place,
    )
    if settings.host in ("127.0.0.1", "localhost", "::1"):
        log.info("only this machine can connect; to open it to the network: --host 0.0.0.0")
    on_listening(server.port)
    signals.get()
    log.info("stopping: finishing what was accepted")
    giving_up = threading.Timer(STOP_AT_LAST, _give_up)
    giving_up.daemon = True
    giving_up.start()
    server.stop()
    giving_up.cancel()
    log.info("stopped")
    return 0


def _give_up() -> None:
    """A database that hangs must not keep the process: what it has not committed was not answered either."""
    log.error("something hangs; ending without waiting for it")
    logging.shutdown()
    os._exit(1)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002 - logging's
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


def set_up_logging(settings: Settings) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("jelly")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(settings.log_level.upper())


def _raise_descriptor_limit(settings: Settings) -> None:
    """Each connection needs a descriptor; the usual soft limit of 1024 is for programs that need few."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = settings.max_connections + 100
        if soft != resource.RLIM_INFINITY and soft < wanted:
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            if limit < wanted:
                log.warning("the system allows %d open files: fewer connections than max_connections", limit)
