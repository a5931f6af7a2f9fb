"""The policy: what the operator sets for accounts and messages, as the services see it.

The server makes it of the settings (`config.py`). Limits that nobody can set are constants of the
modules that enforce them.
"""

from dataclasses import dataclass

from jelly.codec import DEFAULT_MAX_BODY


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator sets for accounts and messages."""

    password_cost: int = 14
    """The binary logarithm of scrypt's n."""
    token_seconds: float = 7 * 86400.0
    """Seconds until a token expires that is not renewed."""
    token_most_seconds: float = 90 * 86400.0
    """Seconds after the password was given until which it may be renewed."""
    message_rate: int = 0
    """At most this many messages a second from one user; 0: any number."""
    message_burst: int = 1
    """At most this many messages at once from one user who was quiet before."""
    change_rate: int = 0
    """At most this many changes of groups, friends and the profile a second from one user; 0: any
    number."""
    keeps_history: bool = True
    """Whether delivered messages stay readable."""
    max_body: int = DEFAULT_MAX_BODY
    """Bytes that a message may have."""
    is_registration_open: bool = True
    """Whether clients can make accounts."""
    needs_invite: bool = False
    """Whether one needs an invitation for that."""
    registration_rate: int = 0
    """At most this many accounts an hour are made from one address; 0: any number."""
    contacts: str = "ask"
    """Who is asked before being shown on a friend list: `ask`: who can be asked; `open`: nobody;
    `strict`: everybody."""
    group_invitations: str = "ask"
    """The same before becoming a member of a group."""
    has_directory: bool = False
    """Whether users may find others by the beginnings of their names."""
    is_node: bool = False
    """Whether other servers use the database, too."""
    reserved_names: frozenset[str] = frozenset()
    """Names that nobody can register, folded."""
