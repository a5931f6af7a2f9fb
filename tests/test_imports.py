"""The import graph of the package: one way, downwards, and nothing that is not in the standard library."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"cli"}, {"server"}, {"watch"}, {"connection"}, {"queue_dispatch"}, {"services"}, {"store"},
    {"delivery", "presence"}, {"demo"},
    {"dao", "config"},
    {"database", "sessions", "groups", "passwords", "outbox", "tls"},
    {"messages", "tcp"},
    {"errors"},
    {"codec", "__init__"},
]  # fmt: skip
"""From top to bottom: a module imports from the layers below its own only."""


def imported(module: str) -> set[str]:
    """What a module of the package imports, anywhere in it, but for what only the type checker sees."""
    tree = ast.parse((ROOT / "jelly" / f"{module}.py").read_text())
    names: set[str] = set()
    unseen = {node for branch in ast.walk(tree) if is_for_types_only(branch) for node in ast.walk(branch)}
    for node in set(ast.walk(tree)) - unseen:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            names.update(f"jelly.{a.name}" if node.module == "jelly" else node.module for a in node.names)
    return names


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


GRAPH = {
    path.stem: {f"{name}.__init__".split(".")[1] for name in imported(path.stem) if name.split(".")[0] == "jelly"}
    for path in (ROOT / "jelly").glob("*.py")
}


def test_there_is_no_cycle() -> None:
    """The modules can be put into an order in which each imports only those before it."""
    assert set(TopologicalSorter(GRAPH).static_order()) == set(GRAPH)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_run_downwards(module: str) -> None:
    """A module imports from the layers below its own, never from beside or above it."""
    (level,) = (level for level, layer in enumerate(LAYERS) if module in layer)
    below: set[str] = set().union(*LAYERS[level + 1 :])
    assert GRAPH[module] - below == set()


def test_the_codec_knows_bytes_only() -> None:
    """The codec imports no socket, no thread, no clock and no JSON."""
    assert imported("codec") == {"enum", "struct", "typing"}


def test_the_server_needs_the_standard_library_only() -> None:
    """Importing the command line loads nothing but Python's own modules, and no driver of a database server."""
    code = "import sys, jelly.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"__main__", "jelly"}
