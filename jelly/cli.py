"""The command line: `python jelly.py` in a checkout, `jelly` when installed."""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import jelly
from jelly.config import Settings, add_arguments, load_settings
from jelly.errors import ConfigError, StartError
from jelly.server import JellyServer

log = logging.getLogger("jelly")

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
    add_arguments(parser)
    try:
        settings = load_settings(parser.parse_args(arguments))
        set_up_logging(settings)
        return serve(settings)
    except StartError as error:
        print(f"jelly: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:  # while it starts; later the signal has its handler
        return 130


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once. Raises StartError."""
    _raise_descriptor_limit(settings)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    server = JellyServer(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server.start()
    log.info(
        "listening on %s port %d%s; database %s; at most %d connections, %d waiting requests, %d bytes a body; "
        "driver %s",
        settings.host,
        server.port,
        " with TLS" if settings.tls_cert else "",
        server.database.describe(),
        settings.max_connections,
        settings.queue_size,
        settings.max_body,
        server.database.driver,
    )
    if settings.host in ("127.0.0.1", "localhost", "::1"):
        log.info("only this machine can connect; to open it to the network: --host 0.0.0.0")
    stop.wait()
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

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
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
