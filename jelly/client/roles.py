"""Roles in groups: what a list of groups says of them."""

from collections.abc import Iterable, Mapping

ADMIN = "admin"


def admins_among(members: Iterable[str], roles: Mapping[str, object]) -> tuple[str, ...]:
    """Return those of the members who are admins, in their order.

    `roles`: what the server says of this group. Raises AttributeError if that is no object.
    """
    return tuple(member for member in members if roles.get(member) == ADMIN)
