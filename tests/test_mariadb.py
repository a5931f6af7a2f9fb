"""The private MariaDB server itself: the other tests rely on it when they kill and pause it."""

import shutil
import socket
from collections.abc import Callable

import pytest

from faults.mariadb import MariaDBMissing, PrivateMariaDB


def test_it_listens_for_the_user_with_the_password(mariadb: PrivateMariaDB) -> None:
    """The URL of a fresh database needs its password, and commits are synced to the disk."""
    connector = pytest.importorskip("mysql.connector")
    assert mariadb.fresh_database("first") == f"mysql://jelly:password@127.0.0.1:{mariadb.port}/first"
    address = {"host": "127.0.0.1", "port": mariadb.port, "database": "first", "user": "jelly", "use_pure": True}
    with connector.connect(password="password", **address) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DATABASE(), @@innodb_flush_log_at_trx_commit")
        assert cursor.fetchall() == [("first", 1)]
    with pytest.raises(connector.Error, match="Access denied"):
        connector.connect(password="", **address)


def test_committed_data_survives_kill_stop_and_restart(mariadb: PrivateMariaDB) -> None:
    """However the server ends, it comes back on the same port with what was committed."""
    mariadb.fresh_database("kept")
    mariadb.sql("CREATE TABLE kept.t (n INT) ENGINE=InnoDB; INSERT INTO kept.t VALUES (42)")
    pid, port = mariadb.pid, mariadb.port
    mariadb.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    mariadb.start()
    assert mariadb.sql("SELECT n FROM kept.t") == [["42"]]
    mariadb.restart()
    assert mariadb.sql("SELECT n FROM kept.t") == [["42"]]
    assert mariadb.pid != pid
    assert mariadb.port == port


def test_a_paused_server_hangs_until_it_is_resumed(mariadb: PrivateMariaDB) -> None:
    """A paused server takes connections but says nothing; resumed, it greets those that waited."""
    mariadb.fresh_database("paused")
    mariadb.pause()
    with socket.create_connection(("127.0.0.1", mariadb.port), timeout=0.2) as client:
        with pytest.raises(TimeoutError):
            client.recv(1)
        mariadb.resume()
        client.settimeout(10)
        assert client.recv(1)


def test_a_fresh_database_is_empty_and_has_the_collation_asked_for(mariadb: PrivateMariaDB) -> None:
    """A database of the same name is created anew, with the collation that the test chooses."""
    mariadb.fresh_database("anew", collation="latin1_swedish_ci")
    mariadb.sql("CREATE TABLE anew.t (n INT)")
    find = "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'anew'"
    assert mariadb.sql(find) == [["latin1_swedish_ci"]]
    mariadb.fresh_database("anew", collation="utf8mb4_general_ci")
    assert mariadb.sql(find) == [["utf8mb4_general_ci"]]
    assert mariadb.sql("SHOW TABLES FROM anew") == []


@pytest.mark.parametrize("fault", [PrivateMariaDB.kill, PrivateMariaDB.stop, PrivateMariaDB.pause])
def test_a_fresh_database_heals_the_server(mariadb: PrivateMariaDB, fault: Callable[[PrivateMariaDB], None]) -> None:
    """A test that leaves the server dead or paused does not spoil the next one."""
    mariadb.start()
    fault(mariadb)
    mariadb.fresh_database("healed")
    assert mariadb.sql("SELECT 1") == [["1"]]


def test_a_machine_without_mariadb_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the programs the error says which package brings them."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MariaDBMissing, match="apt-get install mariadb-server"):
        PrivateMariaDB()
