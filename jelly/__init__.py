"""Jelly: an instant-messaging server in Python. Start reading at `server.py`, or at `docs/architecture.md`."""

__version__ = "0.2.0.dev0"
