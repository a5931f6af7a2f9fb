"""The version of all of Jelly. It stands alone, so that nobody imports more to know it."""

__version__ = "0.2.0"
