"""The command line: `python jelly.py` in a checkout, `jelly` when installed."""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import queue
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from jelly import ports, scheduling
from jelly.backup import OtherProgram, back_up, restore
from jelly.config import FLAGS_WITHOUT_VALUE, Parser, Settings, add_arguments, check_cluster, flags_last, load_settings
from jelly.demo import demo_database
from jelly.errors import ConfigError, StartError, log_failure
from jelly.reports_command import add_reports_arguments, run_reports_command
from jelly.server import JellyServer, descriptors_needed
from jelly.system import check_system
from jelly.user_command import add_user_arguments, run_user_command
from jelly.version import __version__

if TYPE_CHECKING:
    from jelly.cluster.supervisor import Process

log = logging.getLogger("jelly")

DEFAULT_URL = "jelly://127.0.0.1:20000"
"""The server that the chat uses by default."""
HANGUP: int | None = getattr(signal, "SIGHUP", None)
RELOAD = "SIGHUP"
"""Stands among the reasons to stop: this one may only be one to reload."""
SHUTDOWN_TIMEOUT = 9.5
"""Seconds from the first signal until the process ends, even if something hangs."""

COMMANDS = ["serve", "chat", "backup", "restore", "user", "reports", "nodes"]
USAGE = """jelly [options]                          start a server
       jelly chat [NAME] [options]              chat in the terminal
       jelly backup FILE [options]              copy the database
       jelly restore FILE [options]             put a copy into its place
       jelly user add|passwd NAME [options]     make an account, set a password
       jelly user disable|enable NAME [options] let a user log in no more, or again
       jelly user delete|export NAME [options]  delete an account, or print what there is of it
       jelly user list [NAME] [options]         print the users' names
       jelly reports [close NUMBER] [options]   show what users have reported
       jelly nodes [options]                    show the nodes of a cluster"""
DESCRIPTION = """Jelly, an instant-messaging server. You can give each setting as a flag, as an
environment variable (JELLY_PORT for --port), or in a TOML file. The flags below are those of the
server; `jelly chat --help`, `jelly backup --help` and so on show those of the other commands. (In a
checkout, jelly is python jelly.py.)"""
BACKUP_DESCRIPTION = """Copy the database into a new file, also while a server uses it. The database comes
from --database, else from JELLY_DATABASE or the TOML file, as for the server."""
RESTORE_DESCRIPTION = """Put a copy of the database into its place, while the server is stopped. The file that
is replaced stays beside it, under another name. The database comes from --database, else from
JELLY_DATABASE or the TOML file, as for the server."""

USER_USAGE = """jelly user add NAME [--bot] [options]
       jelly user passwd NAME [--bot] [options]
       jelly user disable|enable|delete NAME [options]
       jelly user export NAME [options]
       jelly user list [NAME] [options]"""
USER_DESCRIPTION = """Add users, set their passwords, disable or delete their accounts, list them; also
while a server uses the database. A password is asked for, or read from standard input:
echo secret | jelly user add alice. With --bot it is a key that is made and printed: only the bot
knows it, and a new one (passwd --bot) ends it. The database comes from --database, else from
JELLY_DATABASE or the TOML file, as for the server."""

REPORTS_USAGE = """jelly reports [options]
       jelly reports close NUMBER [options]"""
REPORTS_DESCRIPTION = """Print what users have reported to you, the operator, about each other; or remove a
report that is dealt with. Also while a server uses the database, which comes from --database, else
from JELLY_DATABASE or the TOML file, as for the server."""

NODES_DESCRIPTION = """Print the nodes of a cluster that use the database, which comes from --database, else
from JELLY_DATABASE or the TOML file, as for the server."""
NODES_COLUMNS = {
    "process": "its number, and the name of its machine",
    "since": "when it became a node",
    "renewed": "when it has said for the last time that it lives, which it does each second",
    "connections": "of clients, whether they are logged in or not",
    "sessions": "users who are online there",
    "hints": "whether other nodes tell it through Redis when there is something for it, or it polls",
}
"""What `jelly nodes` shows, beside what needs no words."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit code: 0 done, 1 cannot start or go on, 2 a setting is
    wrong.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may have letters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = _split_command(arguments)
    if command == "chat":
        from jelly.chat.app import main as chat  # the server runs without what the chat imports

        return chat(rest)
    parser = Parser(prog="jelly", usage=USAGE, description=DESCRIPTION)
    parser.add_argument(
        "command",
        nargs="?",
        choices=COMMANDS,
        default="serve",
        metavar="COMMAND",
        help="serve (the default), chat, backup, restore, user, reports or nodes",
    )
    parser.add_argument("--version", action="version", version=f"jelly {__version__}")
    parser.add_argument("--demo", action="store_true", help="serve a temporary database with users alice and bob")
    add_arguments(parser)
    terminal = Terminal()
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
        signal.signal(HANGUP, terminal.interrupt_if_gone)
    try:
        _check_system(arguments)
        if run := DATABASE_COMMANDS.get(command):
            code = run(rest)
            sys.stdout.flush()
            return code
        parsed = parser.parse_args(arguments)
        settings = load_settings(parsed)
        if parsed.demo and parsed.database:
            raise ConfigError("--demo uses its own temporary database: leave out --database.")
        check_cluster(settings, demo=parsed.demo)
        log_output = set_up_logging(settings)
        start = serve_demo if parsed.demo else supervise if settings.nodes > 1 else serve
        return start(settings, terminal, log_output)
    except StartError as error:
        print(f"jelly: {error}", file=sys.stderr)
        if isinstance(error, OtherProgram):
            print(error.command)
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:  # nobody reads on, as in `jelly user list | head -1`
        discard_output()
        return 1
    except KeyboardInterrupt:  # during the start: `serve` has not installed its handler yet
        return 130


def _check_system(arguments: Sequence[str]) -> None:
    """Raise StartError where the server cannot run, unless somebody only wants to know about it."""
    if not {"-h", "--help", "--version"} & set(arguments):
        check_system()


def _split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the first argument that is no flag, which may come before it, and all the others."""
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        is_value = before.startswith("-") and "=" not in before and before not in FLAGS_WITHOUT_VALUE
        if not argument.startswith("-") and not is_value:
            return argument, [*arguments[:place], *arguments[place + 1 :]]
    return "", list(arguments)


class Terminal:
    """The terminal that the server was started from, if it was.

    When that terminal is closed, the system sends SIGHUP, which an operator also sends by hand.
    """

    def __init__(self) -> None:
        self._was_there = self._is_there()

    @property
    def is_gone(self) -> bool:
        """Whether there was a terminal at the start, and is none any more."""
        return self._was_there and not self._is_there()

    def interrupt_if_gone(self, *_: object) -> None:
        """Handle SIGHUP during the start, while there is nothing to reload yet."""
        if self.is_gone:
            raise KeyboardInterrupt

    def _is_there(self) -> bool:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
        except OSError:
            return False
        return True


class LogFile(logging.FileHandler):
    """Appends the log to a file that can be moved away and opened anew."""

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def reopen(self) -> None:
        """Write to the file that has the name now. Raises OSError; then the old one stays open."""
        new = self._open()
        old = self.setStream(new)
        if old is not None:
            old.close()


def back_up_database(arguments: Sequence[str]) -> int:
    """Run `jelly backup`. Raises StartError."""
    parser = Parser(prog="jelly backup", description=BACKUP_DESCRIPTION)
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to make; it must not exist")
    parsed = _parse_database(parser, arguments)
    size = back_up(load_settings(parsed).database, parsed.file)
    print(f"{parsed.file}: {size:,} bytes")
    return 0


def restore_database(arguments: Sequence[str]) -> int:
    """Run `jelly restore`. Raises StartError."""
    parser = Parser(prog="jelly restore", description=RESTORE_DESCRIPTION)
    parser.add_argument("file", metavar="FILE", type=Path, help="a copy that `jelly backup` has made")
    parsed = _parse_database(parser, arguments)
    url = load_settings(parsed).database
    kept = restore(url, parsed.file)
    print(f"{url}: restored from {parsed.file}")
    if kept is not None:
        print(f"The file that was replaced is {kept}.")
    return 0


def _parse_database(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command about the database, which may come from the settings."""
    parser.add_argument("--database", metavar="DATABASE", help="URL of the database, as for the server")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    parser.set_defaults(**{setting.name: None for setting in dataclasses.fields(Settings)})
    return parser.parse_args(flags_last(arguments))


def change_users(arguments: Sequence[str]) -> int:
    """Run `jelly user`. Raises StartError."""
    parser = Parser(prog="jelly user", usage=USER_USAGE, description=USER_DESCRIPTION)
    add_user_arguments(parser)
    parsed = parser.parse_args(flags_last(arguments))
    for setting in dataclasses.fields(Settings):
        if not hasattr(parsed, setting.name):
            setattr(parsed, setting.name, None)
    run_user_command(parsed.action, parsed.name, load_settings(parsed), is_bot=getattr(parsed, "bot", False))
    return 0


def show_reports(arguments: Sequence[str]) -> int:
    """Run `jelly reports`. Raises StartError."""
    parser = Parser(prog="jelly reports", usage=REPORTS_USAGE, description=REPORTS_DESCRIPTION)
    add_reports_arguments(parser)
    parsed = _parse_database(parser, arguments)
    run_reports_command(parsed.action, parsed.number, parsed.json, load_settings(parsed).database)
    return 0


def show_nodes(arguments: Sequence[str]) -> int:
    """Run `jelly nodes`. Raises StartError."""
    from jelly.cluster.nodes_command import STATES, print_nodes  # a single server does without

    parser = Parser(
        prog="jelly nodes",
        description=NODES_DESCRIPTION,
        epilog="\n".join(["columns:", *_two_columns(NODES_COLUMNS), "", "states:", *_two_columns(STATES)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    parsed = _parse_database(parser, arguments)
    print_nodes(load_settings(parsed).database, parsed.json)
    return 0


def _two_columns(words: Mapping[str, str]) -> Iterator[str]:
    """Lines of --help: a word, and what it means."""
    return (f"  {word:<12} {meaning}" for word, meaning in words.items())


DATABASE_COMMANDS = {
    "backup": back_up_database,
    "restore": restore_database,
    "user": change_users,
    "reports": show_reports,
    "nodes": show_nodes,
}


def serve_demo(settings: Settings, terminal: Terminal, log_output: logging.Handler) -> int:
    """Serve a temporary database, and print how to try it out. Raises StartError."""
    with demo_database(settings.password_cost) as demo:

        def print_instructions(port: int) -> None:
            lines = ["To try it out, run each command in a terminal of its own, and type its password:", ""]
            for name, password in demo.passwords.items():
                lines += [f"    {chat_command(settings, port, name)}", f"    password: {password}", ""]
            try:
                print(*lines, "All data is deleted when this server stops.\n", sep="\n", flush=True)
            except OSError as error:
                log.warning("cannot print the passwords of the demo: %s", error.strerror)
                discard_output()

        return serve(dataclasses.replace(settings, database=demo.url), terminal, log_output, print_instructions)


def discard_output() -> None:
    """Let go of a standard output that nobody reads any more.

    Else the interpreter tries at its end to write what is left, and fails.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def chat_command(settings: Settings, port: int, name: str) -> str:
    """Return what to type on this machine for a chat with the server."""
    url = _url(settings, port)
    server = "" if url == DEFAULT_URL else f" --server {url}"
    if settings.tls_cert:
        server += f" --tls-ca {shlex.quote(settings.tls_cert)}"
    return f"{typed_command()} chat {name}{server}"


def log_next_step(settings: Settings, port: int) -> None:
    """Tell a person who has started the server in a terminal what to do next."""
    if sys.stderr.isatty() and not settings.log_file:
        log.info("to chat, type in another terminal: %s; Ctrl-C stops the server", chat_command(settings, port, "NAME"))


def typed_command() -> str:
    """Return how this program was started, without its arguments: `python3 jelly.py`, or
    `jelly`.
    """
    script = sys.argv[0]
    if Path(script).name == "jelly.py":
        return shlex.join([sys.orig_argv[0], script])
    return Path(script).name if shutil.which(Path(script).name) == script else shlex.quote(script)


def _url(settings: Settings, port: int) -> str:
    """Return the URL of the server for a client on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"{'jellys' if settings.tls_cert else 'jelly'}://{f'[{host}]' if ':' in host else host}:{port}"


def supervise(settings: Settings, terminal: Terminal, log_output: logging.Handler) -> int:
    """Serve with several processes that share the port, until SIGTERM or SIGINT.

    Return the exit code. Raises StartError.
    """
    from jelly.cluster.supervisor import Process, Supervisor  # a single server does without
    from jelly.cluster.wiring import load_packages

    load_packages(settings)
    reserved = ports.reserve(settings.host, settings.port)
    _raise_descriptor_limit(settings)
    own = dataclasses.replace(settings, port=reserved.getsockname()[1], nodes=1, reuse_port="yes")

    def run(process: Process) -> int:
        reserved.close()
        return serve(own, Terminal(), log_output, process=process)

    def on_hangup() -> bool:
        if not terminal.is_gone:
            reopen_log(log_output)
        return not terminal.is_gone

    what_runs = f"{settings.nodes} processes with these limits each"
    with reserved:
        return Supervisor(settings.nodes, run, lambda line: log_start(settings, line, what_runs), on_hangup).run()


def serve(
    settings: Settings,
    terminal: Terminal,
    log_output: logging.Handler,
    on_listening: Callable[[int], None] | None = None,
    process: "Process | None" = None,
) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once. Raises StartError.

    SIGHUP reloads the certificate and opens the log file anew. If it says that the terminal is gone
    from which the server was started, the server stops. If it is ignored at the start, it stays
    ignored.

    Return the exit code: 1 if the server could not go on. `on_listening` is called with the port as
    soon as clients can connect. `process` is given where a supervisor runs this: it is told the
    line about the start, and a second signal changes nothing.
    """
    if process is None:
        _raise_descriptor_limit(settings)
    placement = scheduling.pin_process(settings.pin)
    # Why to stop: empty after a signal. Not an Event: the handler runs on the main thread, which
    # may hold the Event's lock in `wait`.
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # The supervisor passes a signal on which may have come from elsewhere, too: systemd sends
        # its own to each process of a service.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL if process is None else signal.SIG_IGN)
        reasons.put("")

    server = JellyServer(settings, on_fatal=reasons.put)
    threading.excepthook = _log_thread_end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
        signal.signal(HANGUP, lambda *_: reasons.put(RELOAD))
    with _signals_for_this_thread():
        server.start()
    reason = ""
    try:
        line = (
            f"listening on {settings.host} port {server.port}{' with TLS' if settings.tls_cert else ''}; "
            f"database {server.engine.describe()}; at most {settings.max_connections} connections, "
            f"{settings.queue_size} waiting requests, {settings.max_body} bytes a body; driver {server.engine.driver}"
        )
        if process is None:
            log_start(settings, line, placement)
        else:
            log.info("serving %s", placement)
            process.serves(line)
        if on_listening is not None:
            on_listening(server.port)
        elif process is None:
            log_next_step(settings, server.port)
        while (reason := next_reason(reasons)) == RELOAD and not terminal.is_gone:
            reload(server, log_output)
    finally:  # else the server's threads would keep a process alive whose main thread has failed
        _stop(server, "" if reason == RELOAD else reason)
    return 1 if reason and reason != RELOAD else 0


def _stop(server: JellyServer, reason: str) -> None:
    """Stop a server in order, and say why: `reason` is empty where somebody wanted it."""
    if reason:
        log.error("stopping: %s", reason)
    else:
        log.info("stopping: finishing the requests that were accepted")
    force_exit = threading.Timer(SHUTDOWN_TIMEOUT, _force_exit)
    force_exit.daemon = True
    try:
        force_exit.start()
    except RuntimeError as error:  # no more threads: a stop in order is still the best that can be done
        log.warning("cannot watch over the stop: %s", error)
    server.stop()
    force_exit.cancel()
    log.info("stopped")


def log_start(settings: Settings, line: str, what_runs: str) -> None:
    """Log that clients can connect, and what the operator may want to change."""
    log.info("%s; %s", line, what_runs)
    if settings.proxy_protocol:
        log.info("connections from %s must begin with a PROXY protocol header", settings.proxy_protocol)
    if settings.host in ("127.0.0.1", "localhost", "::1"):
        log.info("only this machine can connect; to open the server to the network: --host 0.0.0.0, and --tls-cert")
    elif not settings.tls_cert and not settings.proxy_protocol:
        log.warning("without TLS, passwords and messages cross the network in clear: --tls-cert FILE encrypts them")


def next_reason(reasons: "queue.SimpleQueue[str]") -> str:
    """Wait until a signal handler, or another thread, has put something into a queue; return it.

    A signal that comes just before this thread sleeps does not wake it, and its handler waits for
    this thread. So it wakes up once a second.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            return reasons.get(timeout=1.0)


@contextlib.contextmanager
def _signals_for_this_thread() -> Iterator[None]:
    """Have threads that start within it, and those that they start, leave signals to this one.

    Python runs handlers on the main thread only, and a signal that the system gives to another
    thread does not wake it: under thousands of new connections, 3 of 14 SIGTERMs were lost.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    handled = {signal.SIGTERM, signal.SIGINT} | ({HANGUP} if HANGUP is not None else set())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reload(server: JellyServer, log_output: logging.Handler) -> None:
    """Open the log file anew, then read the certificate anew.

    If one of them cannot be used, the log says why, and the old one stays in use.
    """
    if not isinstance(log_output, LogFile) and not server.settings.tls_cert:
        log.info("SIGHUP: there is nothing to load anew, neither a certificate (--tls-cert) nor a --log-file")
    reopen_log(log_output)
    try:
        server.reload_certificate()
    except ConfigError as error:
        log.error("%s The old certificate stays in use.", error)
    else:
        if server.settings.tls_cert:
            log.info("read the certificate anew: new connections get it")


def reopen_log(log_output: logging.Handler) -> None:
    """Open the log file anew, if the log goes to a file."""
    if isinstance(log_output, LogFile):
        try:
            log_output.reopen()
        except OSError as error:
            log.error("cannot open %s: %s; the log goes on in the old file", log_output.baseFilename, error.strerror)
        else:
            log.info("opened the log file anew")


def _log_thread_end(end: threading.ExceptHookArgs) -> None:
    """Log in one line that a thread ended by an exception."""
    name = end.thread.name if end.thread else "a thread"
    log_failure(logging.getLogger(f"jelly.{name}"), end.exc_value or end.exc_type())


def _force_exit() -> None:
    """End the process although something hangs, for example the database.

    No promise is broken: a request whose commit hangs has not been answered.
    """
    log.error("something hangs: ending the process without waiting for it")
    logging.shutdown()
    os._exit(1)


class JsonFormatter(logging.Formatter):
    """Writes each log line as one JSON object."""

    def __init__(self, names_process: bool = False) -> None:
        super().__init__()
        self._names_process = names_process

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({"process": record.process} if self._names_process else {}),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002 - logging's
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


def set_up_logging(settings: Settings) -> logging.Handler:
    """Write the log to its file, or to standard error; with the number of the process if several
    write it.

    Raises ConfigError if the file cannot be opened.
    """
    handler: logging.Handler
    try:
        handler = LogFile(settings.log_file) if settings.log_file else logging.StreamHandler()
    except OSError as error:
        raise ConfigError(f"Cannot write the log to {settings.log_file}: {error.strerror}.") from error
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter(settings.nodes > 1))
    else:
        name = "%(name)s[%(process)d]" if settings.nodes > 1 else "%(name)s"
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {name}: %(message)s"))
    root = logging.getLogger("jelly")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(settings.log_level.upper())
    return handler


def _raise_descriptor_limit(settings: Settings) -> None:
    """Raise the soft limit of file descriptors, usually 1024: each connection needs one."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = descriptors_needed(settings)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            if limit < wanted:
                log.warning(
                    "the system allows %d open files, too few for --max-connections %d: raise the hard limit of "
                    "open files (ulimit -Hn), or lower --max-connections",
                    limit,
                    settings.max_connections,
                )
