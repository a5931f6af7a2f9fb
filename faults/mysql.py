"""A private MySQL server, in the place of MariaDB.

`python -m faults.mysql` fetches one from Debian's unstable, and prints the path of its program.
"""

import os
import shutil
import sys
from pathlib import Path

from faults.debian import CannotFetch, cache_folder, fetch_programs
from faults.mariadb import PASSWORD, USER, MariaDBMissing, PrivateMariaDB

PROGRAM = "JELLY_MYSQLD"
"""The environment variable with the path of `mysqld`: then tests run on it instead of MariaDB."""
PACKAGES = ("mysql-server-core", "mysql-client-core")
FILES = "{root}/usr/share/mysql"
CHARACTERS = f"--character-sets-dir={FILES}/charsets"
PROGRAMS = {
    "usr/sbin/mysqld": (f"--lc-messages-dir={FILES}", CHARACTERS, "--plugin-dir={root}/usr/lib/mysql/plugin"),
    "usr/bin/mysql": (CHARACTERS,),
    "usr/bin/mysqldump": (CHARACTERS,),
}


class PrivateMySQL(PrivateMariaDB):
    """A MySQL server with what a `PrivateMariaDB` has.

    The `mysql` in the folder of the server is used, if there is one.
    """

    NAME = "MySQL"
    SMALL_LOG = "--innodb-redo-log-capacity=16M"
    MAKE_USER = (
        f"CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION"
    )

    def __init__(self, program: str, has_binary_log: bool = True) -> None:
        """`program`: the path of `mysqld`. `has_binary_log`: as by default."""
        if shutil.which(program) is None:
            raise MariaDBMissing(f"{program} is not the program of a MySQL server")
        self._program = program
        self._has_binary_log = has_binary_log
        super().__init__()

    def start(self) -> None:
        super().start()
        # From now on the server knows the password's hash, and takes it without TLS, too. (A
        # proxy that reads along needs that.)
        login = [f"--user={USER}", f"--password={PASSWORD}", "--protocol=TCP", f"--port={self.port}"]
        self._run([self._client, "--no-defaults", *login, "--execute=SELECT 1"])

    def _find_programs(self) -> tuple[str, str, str]:
        client = Path(self._program).with_name("mysql")
        return self._program, self._program, str(client) if client.exists() else "mysql"

    def _installer_options(self) -> list[str]:
        return ["--initialize-insecure"]

    def _server_options(self) -> list[str]:
        more = ["--mysqlx=OFF", "--secure-file-priv=NULL"]
        return [*self._common_options(), *more, *([] if self._has_binary_log else ["--skip-log-bin"])]


def private_server() -> PrivateMariaDB:
    """Return a new private server: MySQL if JELLY_MYSQLD names one, else MariaDB.

    Raises MariaDBMissing.
    """
    program = os.environ.get(PROGRAM)
    return PrivateMySQL(program) if program else PrivateMariaDB()


def find_mysql() -> str:
    """Return the path of the `mysqld` that JELLY_MYSQLD names or that was fetched before.

    Raises MariaDBMissing.
    """
    fetched = cache_folder() / "mysql" / "bin" / "mysqld"
    if program := os.environ.get(PROGRAM) or (str(fetched) if fetched.exists() else ""):
        return program
    raise MariaDBMissing(f"fetch it with python -m faults.mysql, or name its mysqld in {PROGRAM}")


def main() -> int:
    """Fetch MySQL unless that was done, and print the path of `mysqld`."""
    try:
        print(fetch_programs("mysql", PACKAGES, PROGRAMS) / "mysqld")
    except CannotFetch as error:
        print(f"MySQL cannot be fetched from Debian's unstable: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
