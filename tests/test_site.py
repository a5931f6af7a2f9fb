"""The site that `make docs` makes, and the reference of the library on it."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import client_api
from faults.process import ROOT
from jelly.testing import local_server

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^\.\. auto(?:class|data|function):: jelly\.(\S+)$", REFERENCE, re.MULTILINE)


def test_every_name_is_shown_once() -> None:
    """The reference has each public name, and an example in which it is imported."""
    ours = [name for name in SHOWN if not name.startswith("testing.")]
    assert sorted(ours) == sorted([*client_api.__all__, "FEATURES"])
    imported = re.findall(r"^from jelly(?:\.testing)? import (.+)$", "\n".join(BLOCKS), re.MULTILINE)
    assert {name for names in imported for name in names.split(", ")} == {name.split(".")[-1] for name in SHOWN}


def test_the_examples() -> None:
    """They run from top to bottom, as the page says."""
    with local_server("alice", "bob") as url:
        names: dict[str, Any] = {"url": url}
        try:
            for block in BLOCKS:
                exec(compile(block, "docs/reference.md", "exec"), names)
        finally:
            for name in ("alice", "bob"):
                names[name].close()


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="Sphinx needs packages of other Pythons")
def test_the_site(tmp_path: Path) -> None:
    """It is made without a warning, and has each page, and each name once."""
    if not os.environ.get("CI"):
        pytest.importorskip("sphinx")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^\t\$\(VENV\)/bin/python -m (sphinx .*) build/docs$", makefile, re.MULTILINE)
    options = [*recipe.split(), "-d", str(tmp_path / "doctrees"), str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", *options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in (tmp_path / "site" / "docs").glob("*.html")} == pages
    html = (tmp_path / "site" / "docs" / "reference.html").read_text(encoding="utf-8")
    assert [name for name in SHOWN if html.count(f'id="jelly.{name}"') != 1] == []
    assert 'id="jelly.JellyClient.send_message"' in html
    assert "docs/index.html" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
