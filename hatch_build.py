"""What the package says of its home, which the build finds out by itself: `pip install` and
`python -m build` call this.

The checkout's remote `origin` is the home. There the pages are to which the README links: PyPI
shows the README alone. A checkout without a remote makes a package that names no addresses.
"""

import contextlib
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = {
    "Documentation": "blob/main/docs/client.md",
    "Changelog": "blob/main/CHANGELOG.md",
    "Source": "",
    "Issues": "issues",
    "Security": "security",
}
"""What PyPI shows beside the README, as GitHub names it."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)]+)\)")


class HomeHook(MetadataHookInterface):
    """Fills in what pyproject.toml calls dynamic, beside the version."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if home := find_home(self.root):
            metadata["urls"] = {name: f"{home}/{page}".rstrip("/") for name, page in PAGES.items()}
            readme = LINK.sub(rf"]({home}/blob/main/\1)", readme)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def find_home(root: str) -> str | None:
    """The page of the repository from which the checkout in `root` was cloned, if it has one."""
    with contextlib.suppress(OSError):  # no git here
        asked = ["git", "-C", root, "config", "--get", "remote.origin.url"]
        url = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if place := re.fullmatch(r"(?:https://|ssh://)?(?:[^/@]+@)?([\w.-]+\.\w+)[:/](.+?)(?:\.git)?/?", url):
            return f"https://{place[1]}/{place[2]}"
    return None
