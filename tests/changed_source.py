"""Puts a bug into the real code: a method with something else in its source."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

SOURCES: dict[Callable[..., Any], str] = {}
"""The source of methods that were changed, for those that are changed twice."""


def changed(method: Callable[..., Any], there: str, instead: str) -> Callable[..., Any]:
    """A method with something else in its source."""
    source = SOURCES.get(method) or textwrap.dedent(inspect.getsource(method))
    assert there in source, f"{method.__qualname__} has changed: put the bug somewhere else"
    source = source.replace(there, instead)
    names: dict[str, Any] = {}
    exec(source, method.__globals__, names)
    new: Callable[..., Any] = names[method.__name__]
    SOURCES[new] = source
    return new
