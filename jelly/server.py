"""The server: it builds the parts, accepts connections, and stops everything in order.

                   a thread each                                   a pool of threads
    client --TCP-> ThreadingTCPServer -> struct -> queue.Queue -> ThreadPoolExecutor
       ^           server.py             codec.py  queue_dispatch.py     |  services.py
       |           connection.py                                         v
       |                                                          + store thread  store.py
       +-- response, notice <-- send queue, + flusher <---------- one transaction, then the answers
                                send_queue.py                     delivery.py
    threading.Timer -> sweeps the group cache  groups.py

The threads of the pool take from the queue.Queue themselves. (`submit` of each request would move
it into the pool's own queue, which has no limit.)

The two parts marked + are what the plain design (examples/minimal_server.py) lacks. Why it fails:

- without the store thread each message costs a sync of its own, and SUCCESS comes before it is
  safe;
- without the flusher a worker waits in `sendall` for a receiver that does not read, and all others
  wait.

`docs/architecture.md` is the tour: the same with the threads, the locks and the limits.
"""

import contextlib
import errno
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jelly import ports
from jelly.addresses import canonical, network_of
from jelly.admission import Connections, Limits, RefusalLog
from jelly.answer_memory import AnswerMemory
from jelly.config import Settings
from jelly.connection import Connection, ServerContext
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.delivery import Delivery
from jelly.devices import Devices
from jelly.engine import Engine
from jelly.engines import open_engine
from jelly.errors import JellyError, StartError, StoreError, log_failure
from jelly.group_notices import GroupNotices
from jelly.groups import GroupCache
from jelly.indexing import DeferredIndexing
from jelly.last_seen import LastSeen
from jelly.live_nodes import describe_all, forget_nodes, live_nodes, longest_lease
from jelly.login_guard import LoginGuard
from jelly.messages import Event, system
from jelly.migrations import migrate
from jelly.names import parse_reserved
from jelly.notifier import Notifier
from jelly.operator_commands import OperatorCommands
from jelly.policy import Policy
from jelly.presence import Presence
from jelly.proxy_protocol import is_in, parse_networks
from jelly.queue_dispatch import Dispatcher
from jelly.quotas import QuotaLimits, Quotas
from jelly.receipts import Receipts
from jelly.retention import Retention
from jelly.send_queue import Flusher
from jelly.services import Services
from jelly.sessions import Sessions
from jelly.store import Store
from jelly.threads import VitalThread
from jelly.tls import server_context
from jelly.trusted_clock import TrustedClock
from jelly.watchdog import Watchdog

if TYPE_CHECKING:  # a single server imports nothing of it
    from jelly.cluster.node import Node

log = logging.getLogger("jelly.server")

READER_STACK = 256 * 1024
"""Bytes of address space for the stack of a reader: with the usual 8 MiB, 5,000 readers reserve 40
GiB.
"""
ACCEPT_PAUSE = 0.2
"""Seconds until the server tries to accept again after the system has run out of descriptors or
memory.
"""
OWN_DESCRIPTORS = 24
"""Descriptors that are kept back from connections, besides three for each worker's database
connection.
"""
SPARE_DESCRIPTORS = 64
"""Descriptors for connections that were closed to make room and have still to end."""
STOP_SECONDS = 8.0
"""Seconds for which a stop finishes what was accepted before it; closing takes a little longer."""
LONGEST_HOLD = 24.0
"""At most this many seconds are logins held back that the guard makes wait; then they are refused.
"""
HOLD_SHARE = 0.8
"""The same as a part of the silence after which a connection is closed: a client that waits for its
answer need not send anything."""
CLAIM_SECONDS = 20.0
"""Seconds to wait for the claim of the database while other nodes begin."""
FILE_CHECK_INTERVAL = 1.0
"""Seconds until the server looks again whether the database's file is in its place."""
FILE_LOST_TIMEOUT = 5.0
"""Seconds until the server gives up, because the file has not come back."""
SHUTDOWN = system(Event.SHUTDOWN)
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class JellyServer(socketserver.ThreadingTCPServer):
    """A Jelly server. The constructor opens the database and the port (raises StartError); `start`
    serves.

    `stop` may be called from any thread, and more than once.
    """

    allow_reuse_address = True
    daemon_threads = True  # `stop` joins the readers itself, after it has closed their sockets
    request_queue_size = 1024

    def __init__(self, settings: Settings, on_fatal: Callable[[str], None] = lambda _: None) -> None:
        """`on_fatal` is called with a reason when the server cannot go on, and should be stopped.

        Any thread may call it, and more than once.
        """
        self.settings = settings
        self._on_fatal = on_fatal
        self._file_lost_at: float | None = None
        self._stop_lock = threading.Lock()
        self._out_of_resources = False
        self._descriptors_for_connections = _descriptor_limit() - OWN_DESCRIPTORS - 3 * settings.workers
        self.sessions = Sessions()
        self.connections: Connections[Connection] = Connections(
            self.sessions,
            _limits(settings, self._descriptors_for_connections),
            RefusalLog(lambda seconds, function: self.watchdog.call_later(seconds, function)),
        )
        self._acceptor = VitalThread(self._accept, "jelly-acceptor")
        tls_context = server_context(settings.tls_cert, settings.tls_key) if settings.tls_cert else None

        self.engine = open_engine(settings.database)
        self.engine.is_shared = bool(settings.cluster)
        store_connection = DatabaseConnection(self.engine, writes=True)
        dao: Dao
        if settings.cluster:
            from jelly.cluster import wiring

            dao, clock = wiring.open_dao(store_connection, settings.trust_clock == "yes")
        else:
            clock = TrustedClock(settings.trust_clock == "yes")
            dao = Dao(store_connection, clock)
        _prepare_database(self.engine, dao, clock, settings.max_body)
        self._thread_local = threading.local()
        self._database_connections = [store_connection]

        self.groups = GroupCache(settings.group_check_interval, settings.group_idle)
        self.flusher = Flusher()
        self.notifier = Notifier(self.sessions, self.flusher.call_at)
        self.presence = Presence(self.sessions, self.notifier, self._call_in_turn)
        self.group_notices = GroupNotices(self.notifier, self._call_in_turn)
        delivery = Delivery(self.sessions, (self.presence, self.group_notices), settings.max_body)
        delivery.may_have_sent(dao.read_mark() - 1)
        retention = Retention(settings.history_days, wall=clock.now)
        indexing = DeferredIndexing(retention.keeps_history)
        quotas = Quotas(QuotaLimits(settings.inbox_messages, settings.inbox_bytes, settings.outbox_messages))
        guard = LoginGuard()
        silence = settings.heartbeat_interval * settings.heartbeat_misses
        receipts = Receipts(self.presence, self.sessions)
        last_seen = LastSeen(clock.latest)
        devices = Devices(self.sessions, quotas.limits)
        retention.devices = devices
        self.sessions.on_offline = last_seen.session_ended
        self.watchdog = Watchdog(self.connections, silence, self.connections.beyond_half)
        self.store = Store(
            dao,
            delivery,
            indexing,
            retention,
            quotas,
            on_commit_in_doubt=self.groups.forget_all,
            call_later=self.watchdog.call_later,
            on_database_went_back=self._begin_anew,
            last_seen=last_seen,
            receipts=receipts,
            devices=devices,
        )
        receipts.attach(delivery, self.store.read_pointers)
        policy = Policy(
            password_cost=settings.password_cost,
            token_seconds=settings.token_days * 86400,
            token_most_seconds=settings.token_max_days * 86400,
            message_rate=settings.message_rate,
            message_burst=settings.message_burst,
            change_rate=settings.change_rate,
            keeps_history=retention.keeps_history,
            max_body=settings.max_body,
            has_directory=settings.directory == "on",
            is_registration_open=settings.registration != "closed",
            needs_invite=settings.registration == "invite",
            registration_rate=settings.registration_rate,
            reserved_names=parse_reserved(settings.reserved_names),
            contacts=settings.contacts,
            group_invitations=settings.group_invitations,
            is_node=bool(settings.cluster),
        )
        self.services = Services(
            policy,
            self.sessions,
            self.presence,
            self.group_notices,
            self.groups,
            delivery,
            self._reading,
            guard,
            clock,
            last_seen,
            self.store.read_pointers,
            receipts,
            devices,
        )
        answer_memory = AnswerMemory(settings.answer_memory * 1024 * 1024)
        self.store.blocks = self.services.blocks
        retention.renewals = self.services.renewals
        self.services.blocks.is_stale = True  # the first transaction loads them
        self.dispatcher = Dispatcher(
            self.services,
            self.store,
            settings.workers,
            settings.queue_size,
            min(LONGEST_HOLD, HOLD_SHARE * silence),
            answer_memory,
        )
        self._operator_commands = OperatorCommands(DatabaseConnection(self.engine), self.store, self.services)
        self._context = ServerContext(
            settings,
            tls_context,
            self.flusher,
            self.dispatcher,
            self.store,
            self.sessions,
            self.presence,
            self.connections,
            answer_memory,
            parse_networks(settings.proxy_protocol),
        )
        self.node: Node | None = None
        try:
            self._bind()
            if settings.cluster:
                self.node = self._join(dao, delivery, indexing, retention, quotas, guard)
        except BaseException:
            self.flusher.stop()
            store_connection.close()
            self.engine.release()
            raise

    def _join(
        self,
        dao: Dao,
        delivery: Delivery,
        indexing: DeferredIndexing,
        retention: Retention,
        quotas: Quotas,
        guard: LoginGuard,
    ) -> "Node":
        """Become a node of those that share the database. Raises StartError."""
        from jelly.cluster import wiring
        from jelly.cluster.node import Parts
        from jelly.cluster.node_dao import NodeDao

        assert isinstance(dao, NodeDao)
        parts = Parts(self.sessions, delivery, self.presence, indexing, retention, quotas, guard)
        settings = self.settings
        if not settings.node_address:
            host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
            host = f"[{host}]" if ":" in host else host
            settings = replace(settings, node_address=f"{host}:{self.port}")
        try:
            node = wiring.make_node(settings, dao, parts, self)
            node.register(CLAIM_SECONDS)
        except StoreError as error:
            raise StartError(f"This server cannot join the cluster: {error}") from error
        return node

    def _call_in_turn(self, due: float, function: Callable[[], None]) -> None:
        """Call a function at a monotonic time, in a turn of the store."""
        self.flusher.call_at(due, partial(self.store.call_soon, function))

    def _bind(self) -> None:
        host, port = self.settings.host, self.settings.port
        self.address_family = ports.family(host)
        self.allow_reuse_port = self.settings.reuse_port == "yes"
        try:
            super().__init__((host, port), partial(Connection, self._context))
        except OSError as error:
            raise ports.cannot_listen(host, port, error) from error

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self.server_address[1])

    # --- accepting --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads and serve."""
        single = (self.store.thread, self.flusher.thread, self.watchdog.thread, self._acceptor)
        for thread in (*single, *self.dispatcher.hashers):
            thread.on_end = self._on_thread_end
        for part in (self.store, self.flusher, self.watchdog, self.groups, self.dispatcher, self._acceptor):
            part.start()
        self._operator_commands.start()
        self._check_file()

    def _on_thread_end(self, thread: threading.Thread) -> None:
        if not self._context.is_stopping:
            self._on_fatal(f"the thread {thread.name} has ended, without which nobody can be served")

    def _accept(self) -> None:
        # The look is for a loop that begins again after a failure: the failure ended the loop that
        # `shutdown` has told to stop, and the next one would not know of it.
        if not self._context.is_stopping:
            self.serve_forever(0.1)

    # socketserver calls the next five. An exception in one of them costs one connection: it must
    # not end the loop that accepts all others.

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            if self.connections.places_taken >= self._descriptors_for_connections:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            request = super().get_request()
        except OSError as error:  # with which socketserver goes on
            if error.errno in OUT_OF_RESOURCES:
                # The connection still waits to be accepted, so trying again at once would only burn
                # a core.
                if not self._out_of_resources:
                    log.warning("cannot accept connections: %s", error.strerror)
                self._out_of_resources = True
                time.sleep(ACCEPT_PAUSE)
            raise
        self._out_of_resources = False
        return request

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection: see admission.py."""
        try:
            if self.node is not None and not self.node.admits_clients:
                return False  # the other nodes can serve the client
            address = canonical(str(client_address[0]))
            is_proxy = is_in(address, self._context.proxies)  # it says later who its client is
            return self.connections.admit(request, None if is_proxy else network_of(address), address)
        except Exception as error:  # noqa: BLE001 - a bug: this client is turned away, the acceptor lives
            log_failure(log, error)
            return False

    def process_request(self, request: Any, client_address: Any) -> None:
        # For the whole process: a hasher or a sweeper that starts just now gets the same, and that
        # is enough.
        usual = threading.stack_size(READER_STACK)
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:  # no more threads: this client is turned away, the others live
            log.warning("cannot serve %s: %s", client_address[0], error)
            self.shutdown_request(request)
        finally:
            threading.stack_size(usual)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's
        error = sys.exception()
        if isinstance(error, Exception):
            log_failure(log, error)

    def close_request(self, request: Any) -> None:
        self.connections.release(request)  # in case its reader has not begun
        with contextlib.suppress(OSError):  # some systems report here that the client has reset the connection
            super().close_request(request)

    def reload_certificate(self) -> None:
        """Read the certificate anew, for connections that come from now on.

        Raises ConfigError if it cannot be used; then the old one stays. Without TLS it does
        nothing.
        """
        if self.settings.tls_cert:
            self._context.tls_context = server_context(self.settings.tls_cert, self.settings.tls_key)

    # --- stopping ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop accepting, finish what was accepted, commit, close. Takes less than ten seconds."""
        with self._stop_lock:
            if self._context.is_stopping:
                return
            self._context.is_stopping = True
        if self.node is not None:
            self.node.drain()
        deadline = time.monotonic() + STOP_SECONDS
        if self._acceptor.is_alive():
            with contextlib.suppress(OSError):  # wakes the acceptor at once, where the system can do that
                self.socket.shutdown(socket.SHUT_RDWR)
            self.shutdown()
            self._acceptor.join()
        self.server_close()
        connections = tuple(self.connections)  # no thread accepts any more
        self.watchdog.run_calls_now()
        self.dispatcher.refuse_logins()
        self.store.hurry()
        is_late = not self.dispatcher.wait_until_idle([c.lane for c in connections], deadline)
        if is_late:
            log.warning("stopped with requests that were not answered")
            for connection in connections:  # else what waits in their lanes would still be served
                connection.session.closing = True
        self._wait_for_send_queues(connections, min(deadline, time.monotonic() + 2.0))
        for connection in connections:
            connection.send_queue.close()
        for connection in connections:
            connection.thread.join(max(0.0, deadline + 1 - time.monotonic()))
        self.dispatcher.stop()
        self._operator_commands.stop()
        if is_late:
            self.store.drop_waiting()
        self.store.stop()
        if self.node is not None:
            self.node.stop()
        for part in (self.watchdog, self.flusher, self.groups):
            part.stop()
        for database_connection in self._database_connections:
            database_connection.close()
        self.engine.release()

    def _wait_for_send_queues(self, connections: tuple[Connection, ...], deadline: float) -> None:
        for connection in connections:
            connection.send_queue.finish(SHUTDOWN if connection.session.is_modern else b"")
        while time.monotonic() < deadline and not all(c.send_queue.is_empty for c in connections):
            time.sleep(0.01)

    # --- the file of the database -----------------------------------------------------------------

    def _check_file(self) -> None:
        """See once a second whether the file is in its place; if it stays away, give up."""
        # First, so that a look that fails is not the last one.
        self.watchdog.call_later(FILE_CHECK_INTERVAL, self._check_file)
        reason = self.engine.check_file()
        if not reason:
            self._file_lost_at = None
        else:
            now = time.monotonic()
            self._file_lost_at = self._file_lost_at or now
            self.store.on_file_lost(reason)
            if now >= self._file_lost_at + FILE_LOST_TIMEOUT:
                self._on_fatal(f"the database {self.engine.describe()} is lost: {reason}")

    # --- a database that has gone back ------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Forget what is known of the database, and close all connections.

        Their clients come back, if the database still knows them, and get what it holds for them.
        """
        self.groups.forget_all()
        self.services.known_users.forget_all()
        if self.node is not None:
            self.node.start_over()
        self.close_connections()

    def give_up(self, reason: str) -> None:
        """Have this server stopped: it cannot go on."""
        self._on_fatal(reason)

    def close_connections(self) -> None:
        """Close all connections, and serve nothing more on them."""
        for connection in self.connections:
            connection.session.closing = True
            connection.send_queue.close()

    # --- reading from the database ----------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Dao]:
        """The calling thread's own Dao to read with.

        A query may wait for the disk or the network. So a worker tells the dispatcher, which lets
        another worker run meanwhile.
        """
        dao = getattr(self._thread_local, "dao", None)
        if dao is None:
            connection = DatabaseConnection(self.engine)
            dao = self._thread_local.dao = Dao(connection)
            # Appending is one step, and `stop` walks the list when no worker is left.
            self._database_connections.append(connection)
        with self.dispatcher.blocking:
            yield dao


def _descriptor_limit() -> float:
    try:
        import resource
    except ImportError:
        return float("inf")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def descriptors_needed(settings: Settings) -> int:
    """How many descriptors the server needs for all its connections and for itself."""
    return settings.max_connections + SPARE_DESCRIPTORS + OWN_DESCRIPTORS + 3 * settings.workers


def _limits(settings: Settings, descriptors: float) -> Limits:
    """The limits of connections, of which each takes a descriptor."""
    usable = descriptors - min(SPARE_DESCRIPTORS, descriptors // 4)
    if usable < settings.max_connections:
        return Limits(max(1, int(usable)), settings.max_per_address, "the limit of open files, ulimit -n")
    return Limits(settings.max_connections, settings.max_per_address)


def _prepare_database(engine: Engine, dao: Dao, clock: TrustedClock, max_body: int) -> None:
    connection = dao.connection
    try:
        if engine.is_shared:
            with connection.claimed(CLAIM_SECONDS):
                migrate(connection)
        else:
            migrate(connection)
            _refuse_beside_nodes(connection)
        engine.check_max_body(max_body)
        clock.start(dao.read_mark(), dao.read_times())
    except JellyError as error:
        connection.close()
        engine.release()
        if isinstance(error, StoreError):
            is_open_error = isinstance(error.__cause__, (OSError, *engine.errors))
            advice = f" {engine.advice}" if is_open_error else ""
            raise StartError(f"The database {engine.describe()} cannot be used: {error}.{advice}") from error
        raise


def _refuse_beside_nodes(connection: DatabaseConnection) -> None:
    """Raise StartError if nodes of a cluster are using the database. Those that are dead cannot
    write to it from now on.
    """
    if nodes := live_nodes(connection):
        raise StartError(
            f"Nodes of a cluster use this database ({describe_all(nodes)}): stop all of them first, wait for "
            f"{longest_lease(nodes)} s if they were killed, or start with --cluster."
        )
    forget_nodes(connection)
