"""Programs from Debian's unstable, unpacked into a folder of their own: nothing is installed.

apt downloads the packages with everything that they need, down to the C library, and checks their
signatures. It does so with lists and a status of its own, so the system's stay as they are. The
programs run beside an older system because a script starts each with the unpacked loader.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SUITE = "unstable"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PATIENCE = 600.0
"""At most this many seconds for one command of apt."""


class CannotFetch(Exception):
    """A package cannot be fetched. The text is one sentence: why."""


def cache_folder() -> Path:
    """Return the folder for what was fetched or built, which all checkouts of a user share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jelly"


def fetch_programs(name: str, packages: Sequence[str], programs: Mapping[str, Sequence[str]]) -> Path:
    """Return the folder with a script for each program; fetch the packages unless that was done.

    `name`: the folder in the cache. `programs`: their paths inside the packages, each with the
    arguments to add; `{root}` in an argument stands for the folder with the unpacked files. To get
    newer packages, delete the folder. Raises CannotFetch.
    """
    folder = cache_folder() / name
    with only_one(folder):
        if not (folder / "bin").exists():
            with _new_folder(folder) as new:
                with tempfile.TemporaryDirectory(prefix="jelly-apt-") as directory:
                    _unpack(_PrivateApt(Path(directory)).download(packages), new)
                _write_scripts(new, folder, programs)
    return folder / "bin"


def fetch_source(package: str) -> Path:
    """Return the upstream archive of a source package; fetch it unless that was done.

    Raises CannotFetch.
    """
    folder = cache_folder() / f"{package}-source"
    with only_one(folder):
        if not folder.exists():
            with _new_folder(folder) as new, tempfile.TemporaryDirectory(prefix="jelly-apt-") as directory:
                shutil.move(_PrivateApt(Path(directory)).download_source(package), new)
    [archive] = folder.iterdir()
    return archive


class _PrivateApt:
    """apt with an empty status, so that it downloads what the system has, too."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise CannotFetch("apt is not installed: this needs Debian")
        self._directory = directory
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        lines = [f"{kind} {signed}{_mirror()} {SUITE} main\n" for kind in ("deb", "deb-src")]
        (directory / "sources.list").write_text("".join(lines))

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Download packages with all that they depend on."""
        self._run("apt-get", "update")
        self._run("apt-get", "install", "--yes", "--download-only", "--no-install-recommends", *packages)
        return sorted((self._directory / "archives").glob("*.deb"))

    def download_source(self, package: str) -> Path:
        """Download the upstream archive of the newest source that the mirror really has."""
        self._run("apt-get", "update")
        lines = self._run("apt-cache", "showsrc", "--only-source", package).splitlines()
        versions = [line.split()[1] for line in lines if line.startswith("Version:")]
        for version in versions[::-1]:
            with contextlib.suppress(CannotFetch):  # a mirror may list what it does not keep
                self._run("apt-get", "source", "--tar-only", "--download-only", f"{package}={version}")
                [archive] = self._directory.glob("*.orig.tar.*z*")
                return archive
        raise CannotFetch(f"the mirror of Debian has no source of {package}")

    def _run(self, program: str, *arguments: str) -> str:
        options = {
            "Dir::Etc::SourceList": self._directory / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": self._directory,
            "Dir::State::status": self._directory / "status",
            "Dir::Cache": self._directory,
            "APT::Update::Error-Mode": "any",  # otherwise it is content without a list
            "APT::Sandbox::User": "",  # another user may not write into this directory
        }
        settings = [f"--option={name}={value}" for name, value in options.items()]
        return _run([program, "--quiet", *settings, *arguments], self._directory)


def _mirror() -> str:
    """Return the address of Debian from which this system gets its packages."""
    form, wanted = "$(REPO_URI)", ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    for line in _run(["apt-get", "indextargets", f"--format={form}", *wanted], Path("/")).splitlines():
        return line
    raise CannotFetch("apt knows no mirror of Debian here (run apt-get update on a Debian system first)")


def _run(command: Sequence[str], directory: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise CannotFetch(f"{command[0]} did not end within {PATIENCE:g} seconds") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg"))] or [done.stderr.strip()]
        raise CannotFetch(f"{command[0]} says: {said[0].rstrip('.')}")
    return done.stdout


def _unpack(archives: Sequence[Path], root: Path) -> None:
    for archive in archives:
        _run(["dpkg-deb", "--extract", str(archive), str(root)], root)


def _write_scripts(new: Path, root: Path, programs: Mapping[str, Sequence[str]]) -> None:
    """Write a script for each program into `new`, which will be `root`."""
    [libc] = new.glob("usr/lib/*/libc.so.6")
    [loader, *_] = sorted(libc.parent.glob("ld-linux*"))
    libraries = root / libc.parent.relative_to(new)
    (new / "bin").mkdir()
    for program, more in programs.items():
        start = [str(libraries / loader.name), "--library-path", str(libraries), str(root / program)]
        added = [argument.format(root=root) for argument in more]
        script = new / "bin" / Path(program).name
        # The added arguments come last, because --no-defaults must be the first one.
        script.write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@" {shlex.join(added)}\n')
        script.chmod(0o755)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let other processes that want the same folder wait. Raises CannotFetch for an OSError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise CannotFetch(f"{error.filename or folder} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that gets this name at the end, so that a folder with the name is whole."""
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        yield new
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
