"""Lets a program that is started with `--without-posix` run as on a system that is no POSIX system.

Import it before Jelly. Then none of the modules of POSIX can be imported, and what only such
systems have is gone from others.
"""

import os
import select
import signal
import socket
import sys

PRETEND = "--without-posix"
MODULES = ("curses", "fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
NAMES = {
    os: ("O_NOCTTY", "fork", "geteuid", "getuid", "kill", "sched_getaffinity", "set_blocking"),
    select: ("POLLRDHUP", "epoll", "poll"),
    signal: ("SIGALRM", "SIGHUP", "SIGTSTP", "SIGWINCH", "pthread_kill", "pthread_sigmask"),
    socket: ("MSG_DONTWAIT", "MSG_NOSIGNAL", "SO_REUSEPORT", "TCP_INFO", "TCP_USER_TIMEOUT"),
}

if PRETEND in sys.argv:
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in NAMES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
