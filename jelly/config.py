"""The settings: a flag, else an environment variable JELLY_*, else a TOML file, else the default.

The class `Settings` has for each setting its name, its default, a function that parses and checks a
value, and the text of `--help`. For a wrong value the operator gets one sentence: it names the
setting and the place where the value came from, and says which values are allowed.
"""

import argparse
import difflib
import itertools
import os
import re
import socket
import tomllib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from jelly import names
from jelly.engines import ESCAPES, check_url
from jelly.errors import ConfigError
from jelly.proxy_protocol import parse_networks
from jelly.scheduling import check_pin

FLAGS_WITHOUT_VALUE = {"-h", "--help", "--version", "--demo", "--plain", "--json"}
OTHER_VARIABLES = {"CONFIG", "SERVER", "PASSWORD"}
"""Environment variables, without their JELLY_, that are no settings of the server."""
CLOSE = 0.7
"""How much a variable is like a setting that is taken for a slip: 1 is equal."""


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    noun = "a whole number" if kind is int else "a number"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1) if low >= 0 else kind(low - 1)  # out of range: raises below
        if not low <= value <= high:
            raise ValueError(f"{noun} from {low:,} to {high:,}")
        return value

    return parse


def _choice(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return text

    return parse


def _text(text: str) -> str:
    return text


def _reserved(text: str) -> str:
    names.parse_reserved(text)
    return text


def _host(text: str) -> str:
    if not text:
        raise ValueError("an address such as 127.0.0.1, or 0.0.0.0 for the network")
    return text


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def _cluster(text: str) -> str:
    try:
        is_port_right = urllib.parse.urlsplit(text).port != 0
    except ValueError:
        is_port_right = False
    if text not in ("", "none") and not (
        is_port_right and re.fullmatch(r"(rediss?://[^/\s]+|unix://[^/\s]*/)\S*", text)
    ):
        raise ConfigError(  # does not show the value, which may have a password
            "A cluster is named by its Redis, as redis://host:port, rediss://user:password@host:port (with TLS) or "
            f"unix:///file, or as none. {ESCAPES}"
        )
    return text


def _node_address(text: str) -> str:
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", text)
    is_address = match is not None and 1 <= int(match[1]) <= 65535
    if text and (not is_address or len(text) > 255 or not text.isprintable()):
        raise ValueError("host:port with at most 255 letters, such as 192.0.2.10:20000 or [2001:db8::1]:20000")
    return text


def _setting(default: Any, parse: Callable[[str], Any], help: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help})


@dataclass(frozen=True)
class Settings:
    """Everything that an operator can set.

    Durations are in seconds, unless the name or the help text says another unit.
    """

    host: str = _setting("127.0.0.1", _host, "address to listen on; 0.0.0.0 or :: opens it to the network")
    port: int = _setting(20000, _number(int, 0, 65535), "port to listen on; 0 picks a free one")
    reuse_port: str = _setting(
        "no", _choice("no", "yes"), "yes: share the port with other nodes on this machine that you start yourself"
    )
    database: str = _setting(
        "sqlite:///jelly.db",
        check_url,
        "sqlite:///file, mysql://user:password@host:port/name, or memory: (which keeps nothing)",
    )
    cluster: str = _setting(
        "",
        _cluster,
        "make this server one of several nodes that share the database; redis://host:port: the nodes tell each other "
        "what is new; none: each looks into the database",
    )
    nodes: int = _setting(1, _number(int, 1, 64), "how many nodes to run on this machine, all on one port")
    node_address: str = _setting(
        "",
        _node_address,
        "where clients reach this node, for the table of nodes; if empty, --host (for 0.0.0.0 or :: the machine's "
        "name) and --port",
    )
    node_timeout: float = _setting(
        5.0, _number(float, 2, 60), "seconds of silence after which the other nodes take a node for dead"
    )
    workers: int = _setting(4, _number(int, 1, 64), "threads that serve requests")
    queue_size: int = _setting(1024, _number(int, 1, 1_000_000), "requests that can wait; more get SERVER_BUSY")
    max_connections: int = _setting(10_000, _number(int, 1, 1_000_000), "at most N connections at the same time")
    max_per_address: int = _setting(
        1000,
        _number(int, 1, 1_000_000),
        "at most N connections from one address; an IPv6 network of 64 bits counts as one",
    )
    proxy_protocol: str = _setting(
        "",
        _networks,
        "networks, separated by commas, of load balancers that say who the client is (PROXY protocol version 2)",
    )
    max_body: int = _setting(65536, _number(int, 1024, 16_777_216), "at most N bytes in the body of a request")
    answer_memory: int = _setting(
        24, _number(int, 4, 1_000_000), "at most N MiB of answers that wait until their clients take them"
    )
    message_rate: int = _setting(
        50, _number(int, 0, 1_000_000), "at most N messages a second from one user; 0: any number"
    )
    message_burst: int = _setting(
        1000, _number(int, 1, 1_000_000), "at most N messages at once from a user who was quiet before"
    )
    inbox_messages: int = _setting(
        200_000, _number(int, 0, 1_000_000_000), "at most N messages that wait for one user; 0: any number"
    )
    inbox_bytes: int = _setting(
        268_435_456, _number(int, 0, 1 << 50), "at most N bytes of messages that wait for one user; 0: any number"
    )
    outbox_messages: int = _setting(
        200_000, _number(int, 0, 1_000_000_000), "at most N messages of one user that wait for others; 0: any number"
    )
    change_rate: int = _setting(
        20,
        _number(int, 0, 1_000_000),
        "at most N changes of groups, friends and profiles a second from one user, after 1,000 at once; 0: any number",
    )
    heartbeat_interval: float = _setting(6.0, _number(float, 0.05, 3600), "seconds of silence that count as a miss")
    heartbeat_misses: int = _setting(5, _number(int, 1, 1000), "misses after which a connection is closed")
    group_check_interval: float = _setting(
        300.0, _number(float, 0.05, 86400), "seconds between sweeps of the group cache"
    )
    group_idle: float = _setting(600.0, _number(float, 0.05, 86400), "seconds until an unused group leaves the cache")
    classic_gap: int = _setting(
        100,
        _number(int, 0, 10_000),
        "milliseconds between two frames to a classic client; other waits for it scale with this",
    )
    token_days: float = _setting(7.0, _number(float, 0.001, 3650), "days for which a token is valid that is not used")
    token_max_days: float = _setting(
        90.0, _number(float, 0.001, 3650), "days after the password was given for which a token is renewed by its use"
    )
    history_days: float = _setting(30.0, _number(float, 0, 36500), "days for which messages can be read back; 0: none")
    contacts: str = _setting(
        "ask",
        _choice("ask", "open", "strict"),
        "whether users are asked before they are shown on a friend list: ask (those whose client can answer), "
        "open (nobody) or strict (everybody)",
    )
    group_invitations: str = _setting(
        "ask",
        _choice("ask", "open", "strict"),
        "whether users are asked before they become members of a group: ask (those whose client can answer), "
        "open (nobody) or strict (everybody)",
    )
    registration: str = _setting(
        "open",
        _choice("open", "invite", "closed"),
        "whether clients can make accounts: open, invite (with the code of a user who invites them), or closed",
    )
    registration_rate: int = _setting(
        300, _number(int, 0, 1_000_000), "at most N accounts an hour that one address makes; 0: any number"
    )
    directory: str = _setting("off", _choice("off", "on"), "on: users may find others by the beginnings of their names")
    reserved_names: str = _setting(names.RESERVED, _reserved, "user names that nobody can register, with commas")
    password_cost: int = _setting(
        14,
        _number(int, 1, 20),
        "how hard it is to guess passwords from a stolen database; each step doubles the time and memory of a login",
    )
    tls_cert: str = _setting("", _text, "file with the certificate (chain); turns TLS on")
    tls_key: str = _setting("", _text, "file with the private key, if it is not in the certificate's file")
    pin: str = _setting("auto", check_pin, "core to run on: auto, off (all of them) or its number; only on Linux")
    trust_clock: str = _setting(
        "no", _choice("no", "yes"), "yes: the clock is right, although it is far ahead of what the database knows"
    )
    log_level: str = _setting(
        "info",
        _choice("debug", "info", "warning", "error"),
        "least level of log lines: debug, info, warning or error",
    )
    log_format: str = _setting("text", _choice("text", "json"), "format of log lines: text or json")
    log_file: str = _setting("", _text, "file to which the log is appended, instead of standard error")


VALUES = {
    "host": "ADDRESS",
    "reuse_port": "no|yes",
    "database": "URL",
    "cluster": "URL|none",
    "node_address": "HOST:PORT",
    "proxy_protocol": "NETWORKS",
    "contacts": "ask|open|strict",
    "group_invitations": "ask|open|strict",
    "registration": "open|invite|closed",
    "directory": "off|on",
    "reserved_names": "NAMES",
    "tls_cert": "FILE",
    "tls_key": "FILE",
    "pin": "CORE",
    "trust_clock": "no|yes",
    "log_level": "LEVEL",
    "log_format": "text|json",
    "log_file": "FILE",
}
"""What `--help` shows for the value of each setting that is not a number."""

SENTENCES = (
    (r"the following arguments are required: (.+)", r"\1 is missing"),
    (r"unrecognized arguments: (.+)", r"There are too many arguments: \1"),
    (r"argument (\S+): expected one argument", r"\1 needs a value"),
    (r"argument (\S+): ignored explicit argument .+", r"\1 takes no value"),
)
"""What argparse says of wrong arguments, and the same in plain words."""


class Parser(argparse.ArgumentParser):
    """A parser that says in one sentence what is wrong: it raises ConfigError."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = self._option_string_actions
        if self._subparsers is None:  # else the parser of the action knows more flags
            for argument in itertools.takewhile(lambda each: each != "--", args or ()):
                name = argument.partition("=")[0]
                if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                    self.error(f"there is no flag {name}{_suggestion(name, list(known))}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{_plain(message)}. See {self.prog} --help.")


def _plain(message: str) -> str:
    """Say in plain words what argparse says of wrong arguments."""
    if match := re.fullmatch(r"argument [^:]+: invalid choice: '([^']*)'.* \(choose from (.+)\)", message):
        known = re.findall(r"\w+", match[2])
        return f"There is no command {match[1]}{_suggestion(match[1], known)}: choose from {', '.join(known)}"
    for said, plain in SENTENCES:
        if match := re.fullmatch(said, message):
            return match.expand(plain)
    return f"{message[:1].upper()}{message[1:]}"


def flags_last(arguments: Sequence[str]) -> list[str]:
    """Put the flags, with their values, behind the other arguments, which say what to do."""
    others, flags = list[str](), list[str]()
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            others.append(argument)
        elif argument == "--":
            return [*others, *flags, argument, *rest]
        else:
            flags.append(argument)
            if "=" not in argument and argument not in FLAGS_WITHOUT_VALUE:
                flags += itertools.islice(rest, 1)
    return others + flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting to a parser, and --config."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings, which have the names of the flags")
    for setting in fields(Settings):
        default = f" (default: {setting.default})" if setting.default != "" else ""
        parser.add_argument(
            _flag(setting.name),
            metavar="N" if isinstance(setting.default, int | float) else VALUES.get(setting.name, "VALUE"),
            help=setting.metadata["help"] + default,
        )


def load_settings(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings from all sources. Raises ConfigError."""
    _check_variables(environment)
    path = arguments.config or environment.get("JELLY_CONFIG", "")
    from_file = _read_file(path) if path else {}
    values = {}
    for setting in fields(Settings):
        variable = f"JELLY_{setting.name.upper()}"
        for source, text in (
            (_flag(setting.name), getattr(arguments, setting.name)),
            (variable, environment.get(variable)),
            (f"{setting.name} in {path}", from_file.get(setting.name)),
        ):
            if text is not None:
                values[setting.name] = _parse_value(setting.metadata["parse"], source, text)
                break
    settings = Settings(**values)
    if settings.tls_key and not settings.tls_cert:
        raise ConfigError("--tls-key alone does not turn TLS on: give --tls-cert, too.")
    return settings


def check_cluster(settings: Settings, *, demo: bool = False) -> None:
    """Raise ConfigError if settings of a cluster do not go with the others, or with --demo.

    Only a server asks: commands such as `jelly backup` may find such settings in the environment.
    """
    shares_port = settings.nodes > 1 or settings.reuse_port == "yes"
    if demo and (settings.cluster or shares_port):
        raise ConfigError("--demo is one server for itself: leave out --cluster, --nodes and --reuse-port.")
    if shares_port and not settings.cluster:
        flag = f"--nodes {settings.nodes}" if settings.nodes > 1 else "--reuse-port yes"
        raise ConfigError(f"{flag} is for a cluster: give --cluster redis://host:port or --cluster none, too.")
    if settings.cluster and not settings.database.startswith("mysql:"):
        raise ConfigError(
            "A cluster needs MySQL or MariaDB: name one with --database mysql://user:password@host:port/name, or in "
            "JELLY_DATABASE."
        )
    if shares_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("This system cannot share a port among nodes (SO_REUSEPORT): give each node its own --port.")


def _check_variables(environment: Mapping[str, str]) -> None:
    """Raise ConfigError if a variable looks like a setting with a slip. Others may be anything."""
    known = [setting.name.upper() for setting in fields(Settings)]
    for variable in environment:
        name = variable.removeprefix("JELLY_")
        if name == variable or name in known or name in OTHER_VARIABLES:
            continue
        if close := difflib.get_close_matches(name, known, n=1, cutoff=CLOSE):
            raise ConfigError(
                f"There is no setting {variable}, but it is in the environment (did you mean JELLY_{close[0]}?)."
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parse_value(parse: Callable[[str], Any], source: str, text: str) -> Any:
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{source} is {text!r}, but it must be {error}.") from error


def _read_file(path: str) -> dict[str, str]:
    """Return the settings of a TOML file: field names and values, as text."""
    try:
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the configuration {path}: {error.strerror}. Name another file with --config or JELLY_CONFIG."
        ) from error
    except (ValueError, RecursionError) as error:  # the parser raises more than TOMLDecodeError
        raise ConfigError(f"The configuration {path} is not valid TOML: {error}.") from error
    known = [setting.name for setting in fields(Settings)]
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if isinstance(value, dict) and name not in known:
            raise ConfigError(
                f"There is no setting {key!r}, but {path} has it: the file has no sections, so leave out [{key}]."
            )
        if name not in known:
            raise ConfigError(f"There is no setting {key!r}, but {path} has it{_suggestion(name, known)}.")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ConfigError(f"{key} in {path} must be a string or a number.")
        values[name] = str(value)
    return values


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
