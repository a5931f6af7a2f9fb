"""A free-threaded CPython (without the interpreter's lock), built from Debian's source package.

`python -m faults.freethreaded` builds it once, which takes some minutes, and prints its path.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from faults.debian import CannotFetch, cache_folder, fetch_source, only_one

SOURCE = "python3.13"
NEEDED = ("cc", "make")
MODULES = ("ctypes", "lzma", "sqlite3", "ssl", "zlib")
"""What Python builds without if a library's headers are missing, and the tests need."""
HINT = "apt-get install build-essential libffi-dev liblzma-dev libsqlite3-dev libssl-dev zlib1g-dev"


def build() -> Path:
    """Return the path of the interpreter; build it unless that was done.

    To build it again, delete its folder. Raises CannotFetch.
    """
    folder = cache_folder() / f"{SOURCE}-freethreaded"
    python, is_whole = folder / "bin" / "python3", folder / "is-whole"
    with only_one(folder):
        if not is_whole.exists():
            if missing := [program for program in NEEDED if shutil.which(program) is None]:
                raise CannotFetch(f"{missing[0]} is not installed ({HINT})")
            archive = fetch_source(SOURCE)
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="jelly-build-") as directory:
                _build(archive, folder, Path(directory))
            if subprocess.run([python, "-c", f"import {','.join(MODULES)}"], capture_output=True).returncode:
                raise CannotFetch(f"the new Python lacks one of the modules {', '.join(MODULES)} ({HINT})")
            is_whole.touch()
    return python


def _build(archive: Path, folder: Path, directory: Path) -> None:
    with tarfile.open(archive) as tar, contextlib.suppress(AttributeError):
        tar.extraction_filter = tarfile.tar_filter  # the archive is signed by Debian
        tar.extractall(directory)
    [source] = directory.iterdir()
    log = folder.with_name(f"{folder.name}.log")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    with log.open("wb") as output:
        for command in (
            ["./configure", "--quiet", "--disable-gil", f"--prefix={folder}"],
            ["make", f"--jobs={os.cpu_count()}"],
            ["make", "install"],
        ):
            if subprocess.run(command, cwd=source, env=environment, stdout=output, stderr=output).returncode:
                raise CannotFetch(f"`{' '.join(command)}` failed (see {log})")


def main() -> int:
    """Build the interpreter unless that was done, and print its path."""
    try:
        print(build())
    except CannotFetch as error:
        print(f"A free-threaded Python cannot be built from Debian's source: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
