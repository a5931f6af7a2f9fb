"""The settings: where each may come from, which place wins, and what a wrong value is answered
with.
"""

import argparse
import re
import socket
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jelly.config import Settings, add_arguments, check_cluster, load_settings
from jelly.engines import open_engine
from jelly.errors import ConfigError
from jelly.sqlite_engine import SqliteEngine
from jelly.tls import server_context

# A value for each setting that is not its default: as text, and as the program gets it.
VALUES: dict[str, tuple[str, Any]] = {
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("0", 0),
    "reuse_port": ("yes", "yes"),
    "database": ("sqlite:////var/lib/other.db", "sqlite:////var/lib/other.db"),
    "cluster": ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
    "nodes": ("3", 3),
    "node_address": ("192.0.2.10:20000", "192.0.2.10:20000"),
    "node_timeout": ("2.5", 2.5),
    "workers": ("8", 8),
    "queue_size": ("1", 1),
    "max_connections": ("1000000", 1_000_000),
    "max_per_address": ("20", 20),
    "proxy_protocol": ("10.0.0.0/8, ::1", "10.0.0.0/8, ::1"),
    "max_body": ("1024", 1024),
    "answer_memory": ("64", 64),
    "message_rate": ("100", 100),
    "message_burst": ("1", 1),
    "inbox_messages": ("0", 0),
    "inbox_bytes": ("1000000", 1_000_000),
    "outbox_messages": ("5", 5),
    "change_rate": ("0", 0),
    "heartbeat_interval": ("0.5", 0.5),
    "heartbeat_misses": ("3", 3),
    "group_check_interval": ("86400", 86400.0),
    "group_idle": ("1.5", 1.5),
    "classic_gap": ("0", 0),
    "token_days": ("0.25", 0.25),
    "token_max_days": ("30", 30.0),
    "history_days": ("0.5", 0.5),
    "contacts": ("strict", "strict"),
    "group_invitations": ("open", "open"),
    "registration": ("closed", "closed"),
    "registration_rate": ("77", 77),
    "directory": ("on", "on"),
    "reserved_names": ("boss,chef", "boss,chef"),
    "password_cost": ("1", 1),
    "tls_cert": ("/etc/ssl/jelly.pem", "/etc/ssl/jelly.pem"),
    "tls_key": ("/etc/ssl/jelly.key", "/etc/ssl/jelly.key"),
    "pin": ("off", "off"),
    "trust_clock": ("yes", "yes"),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "log_file": ("/var/log/jelly.log", "/var/log/jelly.log"),
}
NEEDED = {"tls_key": "tls_cert"}
"""What a setting needs beside it."""

every_setting = pytest.mark.parametrize("name", [setting.name for setting in fields(Settings)])


def load(*arguments: str, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of a command line in an environment that has nothing else."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return load_settings(parser.parse_args(arguments), environment or {})


def sentence(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What an operator is told about settings that are wrong: always one sentence on one line."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments, environment=environment)
    text = str(caught.value)
    assert re.fullmatch(r"\S.+\.", text)
    return text


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def texts_for(name: str) -> dict[str, str]:
    """A setting's text from the table, and that of what it needs."""
    return {each: VALUES[each][0] for each in (name, NEEDED.get(name)) if each}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """Where a configuration file may be written."""
    return tmp_path / "jelly.toml"


# --- where a value comes from ---------------------------------------------------------------------


def test_the_defaults_are_the_documented_ones() -> None:
    """Without any setting the server listens on this machine only, on an SQLite file, as the design
    says.
    """
    settings = load()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.database) == ("127.0.0.1", 20000, "sqlite:///jelly.db")
    assert (settings.queue_size, settings.max_body, settings.classic_gap) == (1024, 65536, 100)
    assert (settings.heartbeat_interval, settings.heartbeat_misses) == (6, 5)
    assert (settings.group_check_interval, settings.group_idle, settings.token_days) == (300, 600, 7)
    assert (settings.tls_cert, settings.tls_key, settings.log_format) == ("", "", "text")


def test_the_table_has_every_setting() -> None:
    """Each setting has a value here, and it is not the default: else the tests below would prove
    nothing.
    """
    assert list(VALUES) == [setting.name for setting in fields(Settings)]
    assert all(VALUES[setting.name][1] != setting.default for setting in fields(Settings))


@every_setting
def test_by_flag(name: str) -> None:
    """Every setting can be given as a flag, and has its type then."""
    settings = load(*(f"{flag(each)}={text}" for each, text in texts_for(name).items()))
    value = getattr(settings, name)
    assert value == VALUES[name][1]
    assert type(value) is type(VALUES[name][1])


@every_setting
def test_by_environment(name: str) -> None:
    """Every setting can be given as an environment variable JELLY_*."""
    environment = {f"JELLY_{each.upper()}": text for each, text in texts_for(name).items()}
    assert getattr(load(environment=environment), name) == VALUES[name][1]


@every_setting
@pytest.mark.parametrize("spell", [flag, str], ids=["as-the-flag", "as-the-variable"])
@pytest.mark.parametrize("form", ["{}", "'{}'"], ids=["bare", "quoted"])
def test_by_file(name: str, spell: Any, form: str, toml: Path) -> None:
    """Every setting can stand in a TOML file, spelt as the flag or with underscores, numbers bare
    or quoted.
    """
    lines = []
    for each, text in texts_for(name).items():
        is_text = isinstance(VALUES[each][1], str)
        lines.append(f"{spell(each).lstrip('-')} = {(chr(39) + text + chr(39)) if is_text else form.format(text)}")
    toml.write_text("\n".join(lines))
    assert getattr(load(f"--config={toml}"), name) == VALUES[name][1]


def test_the_environment_may_name_the_file(toml: Path) -> None:
    """JELLY_CONFIG does what --config does."""
    toml.write_text("port = 1")
    assert load(environment={"JELLY_CONFIG": str(toml)}).port == 1


def test_the_flag_names_another_file_than_the_environment(toml: Path) -> None:
    """--config wins over JELLY_CONFIG, whose file is not even opened then."""
    toml.write_text("port = 1")
    assert load(f"--config={toml}", environment={"JELLY_CONFIG": "/no/such/file"}).port == 1


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(toml: Path) -> None:
    """Each place is asked only when those before it say nothing, for each setting by itself."""
    toml.write_text("port = 3\nworkers = 3\nqueue-size = 3")
    settings = load(
        f"--config={toml}", "--port=1", environment={"JELLY_PORT": "2", "JELLY_WORKERS": "2", "JELLY_CONFIG": ""}
    )
    assert (settings.port, settings.workers, settings.queue_size, settings.max_body) == (1, 2, 3, 65536)


def test_a_value_that_is_overruled_is_not_looked_at() -> None:
    """A wrong value in a place that does not count does not keep the server from starting."""
    assert load("--port=1", environment={"JELLY_PORT": "one"}).port == 1


# --- wrong values ---------------------------------------------------------------------------------

PORTS = "a whole number from 0 to 65,535"
INTERVALS = "a number from 0.05 to 3,600"


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        pytest.param("port", "http", PORTS, id="no-number"),
        pytest.param("port", "", PORTS, id="nothing"),
        pytest.param("port", "80.5", PORTS, id="no-whole-number"),
        pytest.param("port", "-1", PORTS, id="below"),
        pytest.param("port", "65536", PORTS, id="above"),
        pytest.param("port", "9" * 5000, PORTS, id="more-digits-than-python-reads"),
        pytest.param("workers", "0", "a whole number from 1 to 64", id="no-workers"),
        pytest.param("max_body", "1023", "a whole number from 1,024 to 16,777,216", id="small-body"),
        pytest.param("heartbeat_interval", "soon", INTERVALS, id="float-no-number"),
        pytest.param("heartbeat_interval", "0", INTERVALS, id="float-below"),
        pytest.param("heartbeat_interval", "1e9", INTERVALS, id="float-above"),
        pytest.param("heartbeat_interval", "nan", INTERVALS, id="nan"),
        pytest.param("heartbeat_interval", "-nan", INTERVALS, id="negative-nan"),
        pytest.param("heartbeat_interval", "inf", INTERVALS, id="infinite"),
        pytest.param("token_days", "nan", "a number from 0.001 to 3,650", id="another-nan"),
        pytest.param("log_level", "INFO", "one of debug, info, warning, error", id="level"),
        pytest.param("log_format", "xml", "one of text, json", id="format"),
    ],
)
def test_a_wrong_value_is_one_sentence(name: str, text: str, right: str, toml: Path) -> None:
    """The sentence names the setting, the place it came from, the value, and what would be
    right.
    """
    variable = f"JELLY_{name.upper()}"
    toml.write_text(f"{name} = '{text}'")
    assert sentence(f"{flag(name)}={text}") == f"{flag(name)} is {text!r}, but it must be {right}."
    assert sentence(environment={variable: text}) == f"{variable} is {text!r}, but it must be {right}."
    assert sentence(f"--config={toml}") == f"{name} in {toml} is {text!r}, but it must be {right}."


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400", "65536", "2.0"])
def test_a_bare_number_in_the_file_is_checked_too(number: str, toml: Path) -> None:
    """What TOML itself takes for a number must still be one that the setting allows."""
    toml.write_text(f"port = {number}")
    assert sentence(f"--config={toml}").endswith(f"but it must be {PORTS}.")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("prot", " (did you mean port?)"),
        ("queue-sise", " (did you mean queue_size?)"),
        ("zzz", ""),
    ],
)
def test_an_unknown_key_in_the_file_is_no_setting(key: str, hint: str, toml: Path) -> None:
    """A key that is misspelt is not silently ignored, and the sentence says which one was probably
    meant.
    """
    toml.write_text(f"{key} = 1")
    assert sentence(f"--config={toml}") == f"There is no setting {key!r}, but {toml} has it{hint}."


@pytest.mark.parametrize("value", ["true", "[1]", "{a = 1}", "1979-05-27"])
def test_a_setting_is_a_text_or_a_number(value: str, toml: Path) -> None:
    """Other kinds of TOML values are refused by the name of their key."""
    toml.write_text(f"port = {value}")
    assert sentence(f"--config={toml}") == f"port in {toml} must be a string or a number."


def test_a_section_in_the_file_is_no_setting(toml: Path) -> None:
    """The settings stand at the top of the file: a section around them is refused, not skipped."""
    toml.write_text("[server]\nport = 1")
    assert sentence(f"--config={toml}") == (
        f"There is no setting 'server', but {toml} has it: the file has no sections, so leave out [server]."
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"port: 20000", id="yaml"),
        pytest.param(b'{"port": 20000}', id="json"),
        pytest.param(b"port = 1\nport = 2", id="a-key-twice"),
        pytest.param(b"host = '\xff'", id="no-utf8"),
        pytest.param(b"\x00", id="nul"),
        pytest.param(
            b"port = " + b"1" * 5000,
            id="huge-number",
        ),
        pytest.param(
            b"port = " + b"[" * 5000,
            id="deeply-nested",
        ),
    ],
)
def test_a_file_that_is_no_toml(data: bytes, toml: Path) -> None:
    """The sentence names the file and what the parser stumbled over."""
    toml.write_bytes(data)
    assert sentence(f"--config={toml}").startswith(f"The configuration {toml} is not valid TOML: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, or a directory in its place, is named with the reason, whichever way it was
    given.
    """
    advice = "Name another file with --config or JELLY_CONFIG."
    missing = f"Cannot read the configuration /no/such.toml: No such file or directory. {advice}"
    assert sentence("--config=/no/such.toml") == missing
    assert sentence(environment={"JELLY_CONFIG": "/no/such.toml"}) == missing
    assert sentence(f"--config={tmp_path}") == f"Cannot read the configuration {tmp_path}: Is a directory. {advice}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PROT", "PORT"), ("DATABSE", "DATABASE"), ("MAXBODY", "MAX_BODY"), ("QUEUE-SIZE", "QUEUE_SIZE")],
)
def test_a_mistyped_variable(name: str, meant: str) -> None:
    """It is refused like a mistyped flag or key of the file."""
    expected = f"There is no setting JELLY_{name}, but it is in the environment (did you mean JELLY_{meant}?)."
    assert sentence(environment={f"JELLY_{name}": "1"}) == expected


def test_variables_of_others() -> None:
    """Those of the chat program, of tests and of systems that start the server do no harm."""
    names = ("SERVER", "PASSWORD", "MYSQLD", "SERVICE_HOST", "SERVICE_PORT", "PORT_20000_TCP", "PORT_20000_TCP_ADDR")
    assert load(environment={f"JELLY_{name}": "x" for name in names} | {"MY_PROT": "1"}) == Settings()


def test_a_name_that_cannot_be_reserved() -> None:
    """The sentence says which one."""
    assert "such as admin,system; 'a b' cannot be a name." in sentence("--reserved-names=boss,a b,,c")


def test_a_key_without_a_certificate() -> None:
    """A TLS key alone would leave the port unencrypted behind the operator's back, so it is
    refused.
    """
    expected = "--tls-key alone does not turn TLS on: give --tls-cert, too."
    assert sentence("--tls-key=key.pem") == expected
    assert sentence(environment={"JELLY_TLS_KEY": "key.pem"}) == expected


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    """A certificate that is missing, or that is none, is named with the reason."""
    path = tmp_path / "cert.pem"
    with pytest.raises(ConfigError, match=r"cert.pem cannot be read: No such file or directory\. Check --tls-cert\.$"):
        server_context(str(path), "")
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"cert.pem has no certificate in PEM .+\. Check --tls-cert\.$"):
        server_context(str(path), "")


def test_an_empty_host_does_not_open_the_server_to_the_network() -> None:
    """A variable that is set to nothing, as in a template that was not filled in, is no address to
    listen on.
    """
    assert "JELLY_HOST" in sentence(environment={"JELLY_HOST": ""})


# --- the database's URL ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///jelly.db", "jelly.db"), ("sqlite:////var/a.db", "/var/a.db"), ("sqlite:///a%20b.db", "a b.db")],
)
def test_the_url_of_an_sqlite_file(url: str, path: str) -> None:
    """Three slashes lead to a relative path, four to an absolute one, and escapes are what they
    stand for.
    """
    engine = open_engine(url)
    assert isinstance(engine, SqliteEngine)
    assert engine.path == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "", "jelly.db", "sqlite:", "sqlite://jelly.db", "sqlite:///", "mysql://host", "mysql://host/", "mysql:///jelly",
        "mysql://user:secret@host/a/b", "mariadb://user:secret@host/jelly", "MYSQL://host/jelly",
        "sqlite:///a%00b", "memory", "memory:x", "memory:///",
    ],
)  # fmt: skip
def test_a_database_url_of_no_known_form(url: str) -> None:
    """The sentence shows the forms that there are, and no password."""
    with pytest.raises(ConfigError) as caught:
        open_engine(url)
    assert "sqlite:///relative/file.db" in str(caught.value)
    assert "mysql://user:password@host:3306/database" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "environment", "place"),
    [(["--database=jelly.db"], {}, "--database"), ([], {"JELLY_DATABASE": "jelly.db"}, "JELLY_DATABASE")],
)
def test_a_wrong_database_url_names_its_place(arguments: list[str], environment: dict[str, str], place: str) -> None:
    """As with any other setting, the sentence says where the wrong URL came from."""
    with pytest.raises(ConfigError, match=place):
        open_engine(load(*arguments, environment=environment).database)


@pytest.mark.parametrize("port", ["99999", "-1", "abc"])
def test_a_database_url_with_a_wrong_port(port: str) -> None:
    """A port that is none is named as what is wrong with the URL."""
    pytest.importorskip("mysql.connector")
    with pytest.raises(ConfigError, match=r"^The port in the database's URL is wrong: it must be a number"):
        open_engine(f"mysql://user:secret@host:{port}/jelly")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret/jelly", "mysql://user:secret#1@host/jelly", "mysql://user:1#secret@host/jelly",
        "mysql://user:secret/1@host/jelly",
    ],
)  # fmt: skip
def test_a_half_written_database_url_does_not_show_its_password(url: str) -> None:
    """When the host is forgotten, or a password has a character that must be escaped, the sentence
    says how to write it, and the password is not shown.
    """
    pytest.importorskip("mysql.connector")
    with pytest.raises(ConfigError, match=r"In a password, write @ / # : \? % as %40 %2F %23 %3A %3F %25\.") as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


# --- a cluster ------------------------------------------------------------------------------------

MYSQL = "--database=mysql://user:secret@host/jelly"


@pytest.mark.parametrize(
    "url",
    [
        "", "none", "redis://127.0.0.1", "redis://:secret@host:6379/1", "redis://[::1]:6379",
        "rediss://user:secret@host:6380", "unix:///run/redis.sock", "unix://user@/run/redis.sock?db=1",
    ],
)  # fmt: skip
def test_a_cluster(url: str) -> None:
    """Its Redis is named by a URL of any form that redis-py knows; it may also have none."""
    settings = load(f"--cluster={url}", MYSQL)
    assert settings.cluster == url
    check_cluster(settings)


@pytest.mark.parametrize(
    "url",
    [
        "yes", "None", "redis", "redis:", "redis://", "redis:///0", "REDIS://host", "http://user:secret@host",
        "redis://:secret@host:0", "redis://:secret@host:x", "redis://:secret@host:99999", "unix://secret",
        "redis://a b",
    ],
)  # fmt: skip
def test_a_cluster_of_no_known_form(url: str) -> None:
    """The sentence says where it came from and shows the forms that there are, and no password."""
    said = sentence(f"--cluster={url}")
    assert said.startswith("--cluster: ")
    assert "redis://host:port" in said
    assert "none" in said
    assert "secret" not in said


def test_an_address_of_a_node_that_the_table_cannot_hold() -> None:
    """The column has 255 letters, and `jelly nodes` prints a node on one line."""
    for text in ("", f"{'ä' * 250}:2000", "[2001:db8::1]:20000"):
        assert load(f"--node-address={text}").node_address == text
    for text in (f"{'a' * 251}:2000", "a\nb:1", "chat.example.org", "a:", ":1", "a:0", "a:65536", "a:b", "a:²",
                 "2001:db8::1", "2001:db8::1:20000", "jelly://a:1", "a b:1"):  # fmt: skip
        assert "must be host:port with at most 255 letters" in sentence(f"--node-address={text}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cluster=none"], "A cluster needs MySQL or MariaDB: name one with --database mysql://"),
        (["--cluster=none", "--database=memory:"], "A cluster needs MySQL or MariaDB: name one with --database"),
        (["--nodes=2", MYSQL], "--nodes 2 is for a cluster: give --cluster redis://host:port or --cluster none, too."),
        (["--reuse-port=yes", MYSQL], "--reuse-port yes is for a cluster: give --cluster"),
    ],
)
def test_settings_of_a_cluster_that_do_not_go_with_the_others(arguments: list[str], said: str) -> None:
    """Each gets a sentence that says what to give, too."""
    with pytest.raises(ConfigError) as caught:
        check_cluster(load(*arguments))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("flag", ["--cluster=none", "--nodes=2", "--reuse-port=yes"])
def test_a_demo_is_no_cluster(flag: str) -> None:
    """It has a temporary database of its own."""
    with pytest.raises(ConfigError, match="--demo is one server for itself"):
        check_cluster(load(flag, MYSQL), demo=True)


@pytest.mark.parametrize("flag", ["--nodes=2", "--reuse-port=yes"])
def test_a_system_on_which_processes_cannot_share_a_port(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to do instead. A node alone on its port needs nothing from it."""
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(ConfigError, match="give each node its own --port"):
        check_cluster(load("--cluster=none", flag, MYSQL))
    check_cluster(load("--cluster=none", MYSQL))


# --- any text -------------------------------------------------------------------------------------

NO_ARGUMENTS = argparse.Namespace(config=None, **dict.fromkeys(VALUES))
numbers = st.integers().map(str) | st.floats().map(str)


@given(st.sampled_from([setting.name for setting in fields(Settings)]), st.text() | numbers)
def test_any_text_for_any_setting(name: str, text: str) -> None:
    """It is a value of the setting's type, or one sentence on one line that names the setting."""
    try:
        settings = load_settings(NO_ARGUMENTS, {f"JELLY_{name.upper()}": text})
    except ConfigError as error:
        said = str(error)
        assert said.startswith((f"JELLY_{name.upper()} is ", f"JELLY_{name.upper()}: ", f"--{name.replace('_', '-')} "))
        assert len(said.splitlines()) == 1
    else:
        default = Settings.__dataclass_fields__[name].default
        assert type(getattr(settings, name)) is type(default)
