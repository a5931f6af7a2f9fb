"""Whether a password is right, in a time that gives nothing away, and hashes of an older cost.

`passwords.py` computes the hashes, and `login_guard.py` decides when a guess may be tried. What
follows from a right password is the services' matter.
"""

from collections import OrderedDict

from jelly import passwords
from jelly.dao import Dao
from jelly.errors import ErrorCode, Refused
from jelly.login_guard import Attempt

COST_SAMPLE = 2000
"""At most this many accounts are looked at to see what most hashes cost."""
MAX_RENEWED = 1000
"""At most this many renewed hashes are remembered: logins may be under way that verified the old
one."""


class PasswordCheck:
    """Verifies passwords against stored hashes, and brings these to today's cost.

    `hash`, `verify` and `renewal` take long: call them on a hasher.
    """

    def __init__(self, cost: int) -> None:
        """`cost` is the binary logarithm of scrypt's n for new hashes."""
        self.cost = cost
        """What a new hash costs."""
        # An unknown user's password is checked against this, so that a wrong name takes as long
        # as a wrong password, and nobody can find out by the clock which names exist. While
        # accounts have hashes of another cost than the settings say, it costs what most of them do.
        self._dummy_hash = passwords.impossible_hash(cost)
        self._has_old_hashes = True
        self._knows_costs = False
        # Hashes that were replaced by ones of today's cost, and these. Only used in turns of the
        # store.
        self._renewed: OrderedDict[str, str] = OrderedDict()

    def hash(self, password: str) -> str:
        """Return a hash of today's cost to store."""
        return passwords.hash_password(password, self.cost)

    def verify(self, attempt: Attempt, password: str, stored: str | None, sentence: str = "") -> str:
        """Check a password against a stored hash (None: there is no such user); return the hash.

        Tells the guard how the attempt has ended. Raises Refused, with this sentence, if the
        password is wrong.
        """
        right = passwords.verify_password(password, stored or self._dummy_hash)
        if stored is not None and right:
            attempt.succeed()
            return stored
        attempt.fail()
        raise Refused(ErrorCode.WRONG_CREDENTIALS, sentence)

    def renewal(self, password: str, verified: str) -> str | None:
        """Return a hash of today's cost to replace a verified one; None if that has this cost."""
        return self.hash(password) if passwords.is_outdated(verified, self.cost) else None

    def learn_costs(self, dao: Dao) -> None:
        """See what most password hashes cost, unless that is known."""
        if self._knows_costs:
            return
        self._knows_costs = True  # first: what is stored meanwhile makes the next login look again
        costs = dao.hash_costs(COST_SAMPLE)
        if costs:
            self._dummy_hash = passwords.impossible_hash(max(costs, key=costs.__getitem__))
        self._has_old_hashes = bool(costs.keys() - {self.cost})

    def on_login(self) -> None:
        """Look at the costs again, as a login may have renewed a hash."""
        if self._has_old_hashes:
            self._knows_costs = False

    def is_current(self, dao: Dao, username: str, verified: str) -> bool:
        """Whether a user still has the password of a hash that was verified."""
        current = dao.password_hash(username)
        return current is not None and current in (verified, self._renewed.get(verified))

    def renew(self, dao: Dao, username: str, verified: str, renewed: str | None) -> None:
        """Replace a hash of an old cost, which was verified. Raises Refused if the password was
        changed since.
        """
        if dao.password_hash(username) != verified:
            if not self.is_current(dao, username, verified):
                raise Refused(ErrorCode.WRONG_CREDENTIALS)
        elif renewed is not None:
            dao.update_user(username, {"password": renewed})
            self._renewed[verified] = renewed
            if len(self._renewed) > MAX_RENEWED:
                self._renewed.popitem(last=False)
