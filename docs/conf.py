"""How Sphinx makes the site of all pages: `make docs`.

Its sources are the whole checkout, so that links between the pages are the same here and on GitHub.
"""

from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from jelly.version import __version__

project = "Jelly"
author = "The Jelly authors"
copyright = "2026, The Jelly authors"
release = version = __version__

extensions = ["sphinx.ext.autodoc", "myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "tests/README.md", "tests/golden/README.md"]
exclude_patterns = [".*", "build", "dist"]
html_theme = "furo"
html_title = f"Jelly {release}"
myst_heading_anchors = 4

default_role = "code"  # docstrings have one backquote, as Markdown has
autodoc_default_options = {"members": True, "undoc-members": True, "inherited-members": "BaseException, str"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"

OWN_LANGUAGES = ("frame", "broken", "stream", "screen")
"""What blocks of code on the pages are in, beside languages that Pygments knows."""
FRONT = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">\n'


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    for language in OWN_LANGUAGES:
        app.add_lexer(language, TextLexer)
    app.connect("autodoc-process-docstring", show_tables)
    app.connect("build-finished", write_front)


def write_front(app: Sphinx, error: Exception | None) -> None:
    """Lead whoever opens the site itself to its first page."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(FRONT, encoding="utf-8")


def show_tables(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Turn the tables of docstrings, which are as in Markdown, into tables of Sphinx."""
    shown: list[str] = []
    rows: list[list[str]] = []
    for line in [*lines, ""]:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not line.startswith("|"):
            shown += [*list_table(rows), line]
            rows = []
        elif not any(cells[:-1]):  # the rest of the row above
            rows[-1][-1] += f" {cells[-1]}"
        elif not set(line) <= set("|- "):
            rows.append(cells)
    lines[:] = shown


def list_table(rows: list[list[str]]) -> list[str]:
    """Rows of cells as a table of Sphinx, with the first one for its head; nothing without rows."""
    if not rows:
        return []
    cells = [f"   {'  ' if place else '* '}- {cell}" for row in rows for place, cell in enumerate(row)]
    return [".. list-table::", "   :header-rows: 1", "", *cells, ""]
