"""Which kind of database a URL names, and the engine for it."""

import re
import urllib.parse

from jelly.engine import Engine
from jelly.errors import ConfigError
from jelly.mysql_engine import MysqlEngine
from jelly.sqlite_engine import MemoryEngine, SqliteEngine

ESCAPES = "In a password, write @ / # : ? % as %40 %2F %23 %3A %3F %25."


def check_url(url: str) -> str:
    """The URL itself, if `open_engine` knows its kind.

    Raises ConfigError, which never shows a password.
    """
    if re.fullmatch(r"mysql://[^/?#]+/[^/]+", url):
        try:
            _ = urllib.parse.urlsplit(url).port
        except ValueError:
            raise ConfigError(
                f"The port in the database's URL is wrong: it must be a number from 0 to 65535. {ESCAPES}"
            ) from None
    elif not re.fullmatch(r"memory:|sqlite:///.+", url) or "\0" in urllib.parse.unquote(url):
        raise ConfigError(
            "A database is named as sqlite:///relative/file.db, sqlite:////absolute/file.db, "
            "mysql://user:password@host:3306/database, or memory: to keep nothing."
            f"{f' {ESCAPES}' if url.startswith('mysql:') else ''}"
        )
    return url


def open_engine(url: str) -> Engine:
    """The engine for the database that a URL names; it does not connect yet.

    Raises ConfigError or StartError.
    """
    check_url(url)
    if url == "memory:":
        return MemoryEngine()
    if url.startswith("mysql:"):
        return MysqlEngine(url)
    return SqliteEngine(urllib.parse.unquote(url.removeprefix("sqlite:///")))
