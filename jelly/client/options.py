"""What the options of a client may be. A wrong one is refused at once, with a sentence."""

import inspect
import math
from collections.abc import Iterable

MIN_SECONDS = 0.01
"""At least this many seconds between two heartbeats, or two rounds of attempts to reconnect."""
MAX_HEARTBEAT = 3600.0


def check_number(name: str, value: object, least: float, most: float = math.inf) -> None:
    """Raise TypeError if an option is no number, ValueError if it is below or above its limits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not least <= value <= most:  # nan is neither below nor above anything
        limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be {limits}, not {value!r}")


def check_count(name: str, value: object, least: int, most: float = math.inf) -> None:
    """As `check_number`, for a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    check_number(name, value, least, most)


def check_seconds(name: str, value: object) -> None:
    """As `check_number`, for a time to wait: more than 0, and perhaps without an end (`inf`)."""
    check_number(name, value, 0)
    if value == 0:
        raise ValueError(f"{name} must be more than 0 seconds")


def check_address(host: object, port: object) -> None:
    """Raise TypeError or ValueError if no server can have an address."""
    if not isinstance(host, str):
        raise TypeError(f"the host must be a text, not {host!r}")
    if not host:
        raise ValueError("the host must not be empty")
    check_count("the port", port, 1, 65535)


def check_switch(name: str, value: object, other: type | None = None) -> None:
    """Raise TypeError if an option is neither True nor False, nor of the `other` type."""
    if not isinstance(value, bool | (other or bool)):
        also = f", or a {other.__name__}" if other else ""
        raise TypeError(f"{name} must be True or False{also}, not {value!r}")


def check_features(features: object) -> None:
    """Raise TypeError if these are not names."""
    if isinstance(features, str) or not isinstance(features, Iterable):
        raise TypeError(f"features must be several names, such as ('ack', 'ids'), not {features!r}")
    for name in features:
        if not isinstance(name, str):
            raise TypeError(f"features must be names, and {name!r} is none")


def check_function(name: str, value: object) -> None:
    """Raise TypeError if an option is neither a function that returns its result, nor None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, not a {type(value).__name__}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} is 'async def', and the client would call it without awaiting it: make it a 'def'")


def check_receiver(receiver: object, base: type) -> None:
    """Raise TypeError if the client cannot call a receiver: `base` is the class of all of them."""
    if isinstance(receiver, type):
        raise TypeError(f"receiver is the class {receiver.__name__}: pass an object, {receiver.__name__}()")
    if not isinstance(receiver, base):
        raise TypeError(f"receiver must be a {base.__name__}, not {receiver!r}")
    for name in vars(base):
        method = getattr(receiver, name)
        if name.startswith("on_") and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)):
            raise TypeError(f"{name} is 'async def', and the client would call it without awaiting it: make it a 'def'")
