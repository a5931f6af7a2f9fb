"""The import graph of the package: one way, downwards, and nothing that is not in the standard
library.
"""

import ast
import functools
import pydoc
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import client_api
import jelly

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"pytest_plugin"}, {"testing"}, {"cli"},
    {"chat.app"}, {"chat.arguments"}, {"chat.plain", "chat.screen"}, {"chat.settings"}, {"chat.login"},
    {"chat.commands", "chat.rows"},
    {"chat.conversation_commands", "chat.account_commands", "chat.group_commands"}, {"chat.people_commands"},
    {"chat.command"},
    {"chat.session"}, {"chat.outbox", "chat.history_loader", "chat.server_events"}, {"chat.controller"},
    {"chat.user_interface", "chat.log_file", "chat.notify_command"},
    {"chat.model", "chat.translator", "chat.job_queue", "chat.line_input", "chat.output", "chat.kept",
     "chat.normal_form"},
    {"chat.texts", "chat.error_texts", "chat.help_texts", "chat.start_texts"},
    {"chat.cells", "chat.language", "chat"},
    {"__init__"}, {"client_api"}, {"client.jelly_client"},
    {"client.messaging", "client.friends", "client.groups", "client.account"},
    {"client.connection_manager"}, {"client.network_thread"}, {"client.pipeline"},
    {"client.handshake", "client.acks", "client.pending", "client.lifecycle"},
    {"client.stream", "client.requests"},
    {"client.addresses", "client.poller", "client.callbacks", "client.pages", "client.values", "client.states",
     "client.contacts", "client.typing", "client.edits", "client.devices", "client.conversations",
     "client.certificates", "client"},
    {"client.forks", "client.locks", "client.options"},
    {"reports_command"}, {"server", "user_command"}, {"export"},
    {"cluster.wiring"}, {"cluster.node", "cluster.nodes_command"},
    {"cluster.hearing", "cluster.events", "cluster.lease"},
    {"cluster.bus", "cluster.node_dao", "cluster.registry"}, {"cluster.redis_connection"},
    {"operator_commands"}, {"watchdog"}, {"connection"}, {"queue_dispatch"},
    {"services"}, {"deletion", "invite_service"},
    {"login_service", "account_service", "friend_service", "group_service", "message_service", "finding_service",
     "block_service",
     "typing_service",
     "report_service", "conversation_service", "own_account_service"},
    {"store", "accounts", "hashing", "session_lifecycle"}, {"edits", "devices"}, {"quotas"}, {"doubt", "fair_queue"},
    {"contact_notices", "receipts"},
    {"outcomes", "delivery", "presence", "group_notices", "indexing", "retention", "send_queue", "admission", "lists",
     "read_pointers"},
    {"tokens"},
    {"memberships", "known_users", "password_check", "finding_dao", "report_dao", "edits_dao",
     "devices_dao", "conversations_dao",
     "account_dao", "invite_dao"},
    {"roles", "last_seen"},
    {"demo", "backup", "notifier", "contacts_dao", "blocks", "invitations"},
    {"dao", "config", "migrations", "pacing"}, {"migrations.to_2", "migrations.to_3"},
    {"migrations.step", "live_nodes"},
    {"cluster.supervisor", "database", "sessions", "groups", "login_guard", "passwords", "tcp_confirmation", "tls"},
    {"engines"},
    {"sqlite_engine", "mysql_engine", "messages", "requests", "proxy_protocol", "names", "tcp", "scheduling",
     "threads", "rate", "policy", "certificates", "ports", "cluster"},
    {"file_claim", "mysql_pipeline"},
    {"engine", "strict_json", "system"},
    {"errors"},
    {"addresses", "answer_memory", "codec", "outage", "minute_log", "trusted_clock", "timers", "wakeup", "version"},
]  # fmt: skip
"""From top to bottom: a module imports from the layers below its own only."""

FILES = {
    ".".join(path.relative_to(ROOT / "jelly").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "jelly").rglob("*.py")
} | {"client_api": ROOT / "client_api.py"}
"""The modules, by their names within the package."""


def imported(module: str) -> set[str]:
    """What a module imports, anywhere in it; also what only the type checker sees (under
    TYPE_CHECKING).
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            names.update(
                whole if within(whole := f"{node.module}.{a.name}") in FILES else node.module for a in node.names
            )
    return names


def within(name: str) -> str:
    """The name of one of our modules within the package; of another module something that none of
    ours has.
    """
    if name == "jelly":
        return "__init__"
    return name.removeprefix("jelly.") if name.startswith("jelly.") or name == "client_api" else f"not ours: {name}"


@functools.cache
def graph() -> dict[str, set[str]]:
    """What each module imports of the others. (Not read at the import of this file: each worker of
    the tests imports it.)
    """
    return {module: {within(name) for name in imported(module)} & set(FILES) for module in FILES}


def test_there_is_no_cycle() -> None:
    """The modules can be put into an order in which each imports only those before it."""
    assert set(TopologicalSorter(graph()).static_order()) == set(FILES)


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_run_downwards(module: str) -> None:
    """A module imports from the layers below its own, never from beside or above it."""
    (level,) = (level for level, layer in enumerate(LAYERS) if module in layer)
    below: set[str] = set().union(*LAYERS[level + 1 :])
    assert graph()[module] - below == set()


def reached(module: str) -> set[str]:
    """All modules that come with one."""
    found, new = set[str](), {module}
    while new:
        found |= new
        new = set[str]().union(*(graph()[each] for each in new)) - found
    return found


def test_the_chat_knows_nothing_of_the_server() -> None:
    """It and the client library share with the server only what is on the wire."""
    shared = {"errors", "requests", "names", "strict_json", "codec", "tcp", "wakeup", "version"}
    for module in ("client_api", "chat.app"):
        others = {name for name in reached(module) if not name.startswith(("chat", "client"))}
        assert others <= shared


def test_only_the_screen_needs_a_package() -> None:
    """The rest of the chat and the client library are content with Python."""
    foreign = {
        module: {name.partition(".")[0] for name in imported(module) if within(name) not in FILES}
        - sys.stdlib_module_names
        for module in FILES
        if module.startswith(("chat", "client"))
    }
    assert {module: names for module, names in foreign.items() if names} == {
        "chat.screen": {"prompt_toolkit"},
        "chat.cells": {"wcwidth"},  # only if it is there
    }


def test_the_codec_knows_bytes_only() -> None:
    """The codec imports no socket, no thread, no clock and no JSON."""
    assert imported("codec") == {"enum", "struct", "typing"}


def test_services_know_neither_the_store_nor_threads() -> None:
    """They return data, `outcomes.py` holds nothing else, and so neither needs what acts on it."""
    data = {
        "collections.abc",
        "dataclasses",
        "enum",
        "typing",
        "jelly.dao",
        "jelly.errors",
        "jelly.groups",
        "jelly.login_guard",
    }
    assert imported("outcomes") == data
    parts = {module for module in FILES if module.endswith("_service")}
    assert len(parts) == 12
    for module in ("services", *parts, "session_lifecycle", "password_check", "tokens", "known_users", "memberships"):
        assert not imported(module) & {"threading", "queue", "concurrent.futures", "socket", "jelly.store"}
        assert not reached(module) & {"queue_dispatch", "store"}


def test_the_server_needs_the_standard_library_only() -> None:
    """Importing the command line loads nothing but Python's own modules, no driver of a database
    server, no client.
    """
    code = "import sys, jelly.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {name for name in loaded if "." not in name} - sys.stdlib_module_names == {"__main__", "jelly"}
    others = ("jelly.chat", "jelly.client", "client_api", "jelly.cluster")
    assert not [name for name in loaded if name.startswith(others)]


def test_the_library_comes_from_jelly() -> None:
    """`import jelly` loads nothing; its names are those of `client_api`, and each loads them."""
    code = """
import sys, jelly
from jelly import ports
loaded = set(sys.modules)
import client_api
assert not {name for name in loaded if name.startswith(("client_api", "jelly.client"))}
assert all(getattr(jelly, name) is getattr(client_api, name) for name in client_api.__all__)
assert jelly.__all__ == client_api.__all__
assert jelly.__version__ == client_api.__version__
"""
    for lines in (code, "from jelly import *; JellyClient, State", "import jelly; assert 'JellyClient' in dir(jelly)"):
        done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr


def test_names_that_jelly_does_not_have() -> None:
    """They are missed as in any other module."""
    for name in ("Jelly", "no_such_module"):
        with pytest.raises(AttributeError, match=f"module 'jelly' has no attribute '{name}'"):
            getattr(jelly, name)


@pytest.mark.parametrize("module", [client_api, jelly], ids=["client_api", "jelly"])
def test_help_begins_with_the_client(module: ModuleType) -> None:
    """After what the module says of itself; and every name comes once."""
    lines = pydoc.plain(pydoc.render_doc(module)).splitlines()
    classes = [line.split()[1].partition("(")[0] for line in lines if line.startswith("    class ")]
    assert classes[:2] == ["JellyClient", "Receiver"]
    assert sorted(classes) == sorted(client_api.__all__)


@pytest.mark.parametrize("module", ["client_api", "chat.app", "cli"])
def test_nothing_of_posix_is_imported_at_the_top(module: str) -> None:
    """The library and the plain chat run on other systems, too, and `jelly` says what the server
    needs.
    """
    posix = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
    for name in reached(module):
        tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        assert not names & posix, name
