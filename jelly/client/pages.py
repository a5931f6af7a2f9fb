"""A list that comes in several pages, put together.

No socket, no thread, no clock. With the feature `pages`, a server answers a long list with its
first page and a place, and gives the next page to a client that sends the place back.
"""

from typing import Any

from jelly.strict_json import parse_object


class Pages:
    """The pages of one list so far.

    The caller holds the lock of the `Lifecycle`.
    """

    def __init__(self, key: str) -> None:
        """`key`: the key of the list in the response: `friends`, `groups` or `conversations`."""
        self._key = key
        self._entries: dict[str, Any] = {}
        self._items: list[Any] = []  # of a list that is an array, not an object
        self._roles: dict[str, Any] | None = None  # of the members of groups, if the server tells them
        self._beside: dict[str, Any] = {}  # what stands beside the list, such as `requests`
        self._after = ""

    def add(self, body: bytes) -> str | None:
        """Take the page in a response. Returns the place of the next one; None if it is the last.

        Raises Refused, TypeError or AttributeError if the page cannot be read.
        """
        values = parse_object(body, max_parts=None)
        listed = values.get(self._key, {})
        if isinstance(listed, list):
            self._items += listed
            listed = {}
        for name, value in listed.items():
            if isinstance(value, list) and name in self._entries:
                self._entries[name] += value  # the rest of a group
            else:
                self._entries[name] = value
        if "roles" in values:
            self._roles = self._roles or {}
            for name, roles in values["roles"].items():
                self._roles.setdefault(name, {}).update(roles)
        for name, value in values.items():
            if isinstance(value, list):
                self._beside.setdefault(name, []).extend(value)
        if isinstance(values.get("invited"), dict):  # only in the first page
            self._beside["invited"] = values["invited"]
        before, after = self._after, values.get("after")
        if values.get("more") is not True or not isinstance(after, str) or after == before:
            return None
        self._after = after
        return after

    def note_presence(self, friend: object, is_online: object) -> None:
        """A friend came or went while pages are still to come."""
        if self._key == "friends" and friend in self._entries and isinstance(is_online, bool):
            self._entries[str(friend)] = is_online

    def complete(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of the last response, with the whole list if they can be read."""
        if isinstance(values.get(self._key), list):
            return {**values, self._key: self._items}
        is_readable = isinstance(values.get(self._key, {}), dict)
        if not is_readable:
            return values
        roles = {} if self._roles is None else {"roles": self._roles}
        return {**values, **self._beside, self._key: self._entries, **roles}
