"""Jelly: an instant-messaging server in Python. Start reading at `server.py`, or at `docs/architecture.md`."""

__version__ = "0.1.0"
